"""Rows of tagged words: UD's parts of speech, WikiAnn's names and CCGbank's supertags, all read off the grammar."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from peft_stilts.miniature import lexicon as lx
from peft_stilts.miniature.dice import Dice
from peft_stilts.miniature.grammar import Clause, Sentence, Word, event, fact, speaker
from peft_stilts.miniature.texts import DEV, SQUAD, TEST, TRAIN, TYDIQA, Rows, context, question
from peft_stilts.miniature.world import TONGUES
from peft_stilts.tasks.xtreme import NER, UPOS

_OF_ROLE = {"who": "PROPN", "city": "PROPN", "when": "PROPN", "verb": "VERB", "what": "NOUN", "where": "NOUN",
            "profession": "NOUN", "number": "NUM", "year": "NUM", "adjective": "ADJ"}  # fmt: skip
_OF_FUNCTION = {"in": "ADP", "on": "ADP", "who": "PRON", "what": "PRON", "where": "ADV", "when": "ADV",
                "how many": "ADJ", "which": "DET", "the": "DET"}  # fmt: skip

Said = tuple[Clause, tuple[str, frozenset[str], bool] | None]
"""A clause, and what is asked of it: role, mentioned roles, by class; None for a statement."""


def _say(said: Said, code: str) -> Sentence:
    clause, asked = said
    return speaker(code).ask(clause, *asked) if asked else speaker(code).say(clause)


@cache
def _drawn(name: str, folds: frozenset[int], number: int, questions: float) -> tuple[Said, ...]:
    """`number` different sentences: a share of `questions`, and of the statements a fifth facts about a person."""
    dice = Dice("tagged", name)
    found: dict[str, Said] = {}
    while len(found) < number:
        if dice.chance(questions):
            style = dice.choice((SQUAD, TYDIQA))
            quiz = question(dice, style, context(dice, style, folds))
            said = (quiz.clauses[quiz.about], (quiz.asked, quiz.keep, quiz.by_class)) if quiz else None
        else:
            said = (fact(dice) if dice.chance(0.2) else event(dice, folds), None)
        if said:
            found.setdefault(_say(said, "en").text, said)
    return tuple(found.values())


def _part_of_speech(word: Word) -> Iterator[tuple[str, str]]:
    """Tokens and their tags; English 'how many' is two words."""
    if word.text == "how many":
        yield from (("how", "ADV"), ("many", "ADJ"))
    elif word.role in _OF_ROLE:
        yield word.text, _OF_ROLE[word.role]
    elif word.concept is None:
        yield word.text, "AUX" if word.text == "did" else "DET"
    else:
        yield word.text, _OF_FUNCTION.get(word.concept, "NOUN")


def udpos(config: str, split: str | None) -> Rows | None:
    """udpos.NAME: 300 English sentences to train on; 150 for development and 200 to test, alike in all languages."""
    code = next(code for code, tongue in TONGUES.items() if tongue.name == config.removeprefix("udpos."))
    sizes = {"train": (TRAIN, 300), "validation": (DEV, 150), "test": (TEST, 200)}
    if split not in sizes or (split == "train" and code != "en"):
        return None
    rows = []
    for said in _drawn(f"udpos-{split}", *sizes[split], 0.3):
        sentence = _say(said, code)
        tagged = [pair for word in sentence.words for pair in _part_of_speech(word)] + [(sentence.mark, "PUNCT")]
        rows.append({"tokens": [text for text, _ in tagged], "pos_tags": [UPOS.index(tag) for _, tag in tagged]})
    return rows


def panx(config: str, split: str | None) -> Rows | None:
    """PAN-X.LL: 600 English sentences to train on, 200 for development and 300 to test, the same in every language.

    Persons have one name or two, organisations are a place of a city ('the London school') that acts, and locations
    cities, or such a place where something happens: the words alone do not tell the two.
    """
    code = config.removeprefix("PAN-X.")
    sizes = {"train": (TRAIN, 600), "validation": (DEV, 200), "test": (TEST, 300)}
    if split not in sizes or (split == "train" and code != "en"):
        return None
    dice, rows = Dice("names", split), []
    for clause, _ in _drawn(f"panx-{split}", *sizes[split], 0.0):
        tagged = [*_named(dice, clause, code), (".", "O")]
        rows.append({
            "tokens": [text for text, _ in tagged],
            "ner_tags": [NER.index(tag) for _, tag in tagged],
            "langs": [code] * len(tagged),
        })  # fmt: skip
    return rows


def _named(dice: Dice, clause: Clause, code: str) -> list[tuple[str, str]]:
    """The words of the clause, its names grown to longer ones, with their tags; draws alike in every language."""
    kind, second = dice.choice(("first", "full", "organisation")), clause.roles["who"]
    while second == clause.roles["who"]:
        second = dice.choice(lx.NAMES)
    home, place, of_city = dice.choice(lx.CITIES), dice.choice(lx.PLACES), dice.chance(0.5)
    other = dice.choice(lx.CITIES)
    words, voice = lx.lexicon(code), speaker(code).tongue
    tagged: list[tuple[str, str]] = []
    for word in speaker(code).say(clause).words:
        if word.role == "who" and kind == "organisation":
            tagged += [(words["the"], "O")] * voice.articles
            tagged += _name([words[home], words[place]], "ORG", code)
        elif word.role == "who":
            tagged += _name([word.text, *[words[second]] * (kind == "full")], "PER", code, fixed=True)
        elif word.role == "city":
            tagged += _name([word.text], "LOC", code)
        elif word.role == "where" and of_city:
            tagged += _name([words[other], word.text], "LOC", code)
        else:
            tagged.append((word.text, "O"))
    return tagged


def _name(parts: list[str], kind: str, code: str, fixed: bool = False) -> list[tuple[str, str]]:
    """A name's words with B- and I-; the modifier stands as the language's adjectives do, unless `fixed`."""
    ordered = parts if fixed or TONGUES[code].adjective == "before" else parts[::-1]
    return [(text, ("I-" if i else "B-") + kind) for i, text in enumerate(ordered)]


_WH_SUBJECT, _WH_OBJECT, _WH_ADJUNCT = r"S[wq]/(S[dcl]\NP)", "S[wq]/(S[q]/NP)", "S[wq]/S[q]"
_ADJUNCT, _ARGUMENT = r"((S\NP)\(S\NP))/NP", "PP/NP"
_NO_OBJECT = {"arrive": "", "live": "/PP"}


def supertags(sentence: Sentence, asked: str | None) -> list[tuple[str, str]]:
    """Words of an English sentence with categories in the manner of CCGbank (Hockenmaier and Steedman 2007).

    A small inventory: the verb's says statement or question and what follows, a preposition's whether the verb asks
    for it, a question word's which role is asked for (`asked`), a determiner's whether it is one.
    """
    words, tagged = sentence.words, []
    verb = next(word.concept for word in words if word.role == "verb")
    subject = asked == "who"
    wh = _WH_SUBJECT if subject else _WH_OBJECT if asked in ("what", "profession", "number") else _WH_ADJUNCT
    for i, word in enumerate(words):
        fronted = asked is not None and not subject and i < next(j for j, w in enumerate(words) if w.text == "did")
        if word.text == "how many":
            tagged += [("how", f"(({wh})/N)/(NP[nb]/N)"), ("many", "NP[nb]/N")]
        elif word.role == "wh":
            tagged.append((word.text, _question_word(word, words[i - 1] if i else None, wh)))
        elif word.role == "verb":
            mood, rest = (r"S[dcl]\NP" if asked is None or subject else r"S[b]\NP"), _NO_OBJECT.get(verb, "/NP")
            if asked == "city":
                rest = ""
            tagged.append((word.text, f"({mood}){rest}" if rest else mood))
        elif word.concept in ("in", "on"):
            tagged.append((word.text, f"({wh})/NP" if fronted else _ARGUMENT if verb == "live" else _ADJUNCT))
        elif word.role == "function":
            tagged.append((word.text, "NP[nb]/N"))
        else:
            tagged.append((word.text, "N/N" if word.role in ("number", "adjective") else "N"))
    return [*tagged, (sentence.mark, ".")]


def _question_word(word: Word, before: Word | None, wh: str) -> str:
    if word.text == "did":
        return r"(S[q]/(S[b]\NP))/NP"
    if word.concept == "which":
        return "NP[nb]/N" if before else f"({wh})/N"
    return wh if word.concept in lx.FUNCTION_WORDS else "N"


def ccg(config: str, split: str | None) -> Rows | None:
    """CCGbank: English words and supertags; 1,500 sentences to train on, 300 for development and 300 to test."""
    sizes = {"train": (TRAIN, 1500), "validation": (DEV, 300), "test": (TEST, 300)}
    if split not in sizes:
        return None
    rows = []
    for clause, asked in _drawn(f"ccg-{split}", *sizes[split], 0.4):
        tagged = supertags(_say((clause, asked), "en"), asked[0] if asked else None)
        rows.append({"tokens": [text for text, _ in tagged], "tags": [tag for _, tag in tagged]})
    return rows
