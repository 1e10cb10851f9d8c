"""Rows of the miniature data sets: one generator per (repository, configuration), in the columns of the real ones.

Every split draws from its own seed, and every event belongs to one of ten folds by its content: training text (and
pretraining) uses folds 2 to 9, development splits fold 1, scored splits fold 0. Each context holds an event, so no
scored or development context, and no Tatoeba sentence, is ever trained on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from peft_stilts.errors import DataError
from peft_stilts.miniature.dice import Dice
from peft_stilts.miniature.grammar import ASKABLE, Clause, event, fact, speaker
from peft_stilts.miniature.world import TONGUES

TRAIN, DEV, TEST = frozenset(range(2, 10)), frozenset({1}), frozenset({0})

MLQA_LANGUAGES = ("en", "qa", "qc", "qe", "qh")
TYDIQA_LANGUAGES = ("en", "qb", "qd", "qf", "qg", "qi")
SPAN_COLUMNS = ("id", "title", "context", "question", "answers")
RETRIEVAL_COLUMNS = ("source_sentence", "target_sentence", "source_lang", "target_lang")

Rows = list[dict[str, Any]]
Generator = Callable[[str, str | None], Rows | None]


@dataclass(frozen=True)
class Quiz:
    """A context of clauses and one question about it, in no language yet.

    It asks for the role `asked` of the clause number `about` and mentions the roles `keep` of that clause.
    """

    clauses: tuple[Clause, ...]
    about: int
    asked: str
    keep: frozenset[str]
    by_class: bool

    def row(self, code: str, identity: str, title: str) -> dict[str, Any]:
        """The quiz as a SQuAD row in the language `code`; the answer is the one word that fills the asked role."""
        voice = speaker(code)
        sentences = [voice.say(clause) for clause in self.clauses]
        offset, answer = sentences[self.about].span(self.asked)
        start = sum(len(sentence.text) + 1 for sentence in sentences[: self.about]) + offset
        question = voice.ask(self.clauses[self.about], self.asked, self.keep, self.by_class)
        return {
            "id": identity,
            "title": title,
            "context": " ".join(sentence.text for sentence in sentences),
            "question": question.text,
            "answers": {"text": [answer], "answer_start": [start]},
        }


@dataclass(frozen=True)
class Style:
    """How a data set's contexts and questions look.

    `sentences`: fewest and most; `facts`: share of facts about persons; `echo`: share of sentences that share
    circumstances with an earlier one; `by_class`: share of 'which fruit' questions; `spare`: whether questions mention
    no more than needed (as questions written without seeing the text do).
    """

    sentences: tuple[int, int]
    facts: float
    echo: float
    by_class: float
    spare: bool


SQUAD = Style(sentences=(3, 5), facts=0.15, echo=0.5, by_class=0.0, spare=False)
MLQA = Style(sentences=(5, 7), facts=0.15, echo=0.7, by_class=0.0, spare=False)
TYDIQA = Style(sentences=(3, 5), facts=0.5, echo=0.4, by_class=0.6, spare=True)


def context(dice: Dice, style: Style, folds: frozenset[int]) -> tuple[Clause, ...]:
    """Draws the clauses of one context; the first draw is an event, all are different, and their order is random."""
    clauses = [event(dice, folds)]
    size = dice.between(*style.sentences)
    while len(clauses) < size:
        earlier = dice.choice(clauses) if dice.chance(style.echo) else None
        if dice.chance(style.facts):
            clause = fact(dice, earlier.roles["who"] if earlier else None)
        else:
            clause = event(dice, folds, earlier)
        if clause not in clauses:
            clauses.append(clause)
    return tuple(dice.shuffled(clauses))


def question(dice: Dice, style: Style, clauses: tuple[Clause, ...]) -> Quiz | None:
    """Draws a question with exactly one answer in the context; None when the draw has none."""
    about = dice.between(0, len(clauses) - 1)
    slots = clauses[about].roles
    asked = dice.choice([role for role in ASKABLE if role in slots])
    rivals = [other.roles for i, other in enumerate(clauses) if i != about and asked in other.roles]
    keep = {role for role in ("who", "verb", "what", "city", "profession", "year") if role in slots and role != asked}
    for role in dice.shuffled([role for role in ("where", "when", "adjective") if role in slots and role != asked]):
        ambiguous = _ambiguous(slots, keep, rivals)
        if (ambiguous or (not style.spare and dice.chance(0.4))) and not (role == "adjective" and "what" not in keep):
            keep.add(role)
    if _ambiguous(slots, keep, rivals):
        return None
    by_class = asked != "number" and dice.chance(style.by_class)
    return Quiz(clauses, about, asked, frozenset(keep), by_class)


def _ambiguous(slots: Mapping[str, str], keep: set[str], rivals: Sequence[Mapping[str, str]]) -> bool:
    return any(all(rival.get(role) == slots[role] for role in keep) for rival in rivals)


@cache
def quizzes(name: str, style: Style, folds: frozenset[int], contexts: int) -> tuple[tuple[Quiz, ...], ...]:
    """`contexts` contexts of the split `name`, each with two different questions; no context comes twice."""
    dice, found, seen = Dice("quizzes", name), [], set()
    while len(found) < contexts:
        clauses = context(dice, style, folds)
        if clauses in seen:
            continue
        pair: dict[tuple[int, str], Quiz] = {}
        for _ in range(20):
            quiz = question(dice, style, clauses)
            if quiz:
                pair.setdefault((quiz.about, quiz.asked), quiz)
            if len(pair) == 2:
                break
        else:
            continue
        seen.add(clauses)
        found.append(tuple(pair.values()))
    return tuple(found)


def _span_rows(name: str, style: Style, folds: frozenset[int], contexts: int, code: str, prefix: str = "") -> Rows:
    """Rows of all questions of a split in one language; ids and titles are the same in every language."""
    rows = []
    for number, pair in enumerate(quizzes(name, style, folds, contexts)):
        for part, quiz in enumerate(pair):
            rows.append(quiz.row(code, f"{prefix}{name}-{number:04d}-{part}", f"{name}_{number:04d}"))
    return rows


def squad(config: str, split: str | None) -> Rows | None:
    """SQuAD v1.1: English, 3,000 questions to train on and 400 for development."""
    if split == "train":
        return _span_rows("squad-train", SQUAD, TRAIN, 1500, "en")
    return _span_rows("squad-dev", SQUAD, DEV, 200, "en") if split == "validation" else None


def xquad(config: str, split: str | None) -> Rows | None:
    """XQuAD.xx: the same 300 questions in every language."""
    code = config.removeprefix("XQuAD.")
    return _span_rows("xquad", SQUAD, TEST, 150, code) if split == "validation" else None


def mlqa(config: str, split: str | None) -> Rows | None:
    """MLQA.cc.qq: longer contexts, in cc, and questions in qq; 300 parallel questions to score, 100 for development."""
    _, context_code, question_code = config.split(".")
    sizes = {"test": (TEST, 150), "validation": (DEV, 50)}
    if split not in sizes:
        return None
    rows = _span_rows(f"mlqa-{split}", MLQA, *sizes[split], context_code)
    if question_code != context_code:
        asked = _span_rows(f"mlqa-{split}", MLQA, *sizes[split], question_code)
        rows = [row | {"question": other["question"]} for row, other in zip(rows, asked, strict=True)]
    return rows


def tydiqa(config: str, split: str | None) -> Rows | None:
    """TyDiQA-GoldP: one configuration for all six languages, told apart by the prefix of the id; not parallel."""
    sizes = {"train": (TRAIN, {"en": 850}, 150), "validation": (TEST, {}, 150)}
    if split not in sizes:
        return None
    folds, special, usual = sizes[split]
    rows = []
    for code in TYDIQA_LANGUAGES:
        prefix = TONGUES[code].name.lower() + "-"
        rows += _span_rows(f"tydiqa-{split}-{code}", TYDIQA, folds, special.get(code, usual), code, prefix)
    return rows


def tatoeba(config: str, split: str | None) -> Rows | None:
    """tatoeba.xxx: 300 sentences of one event each, the same in all nine languages, with their English translations."""
    iso = config.removeprefix("tatoeba.")
    code = next(tongue.code for tongue in TONGUES.values() if tongue.iso639_3 == iso)
    if split != "validation":
        return None
    foreign, english = speaker(code), speaker("en")
    return [
        {
            "source_sentence": foreign.say(clause).text,
            "target_sentence": english.say(clause).text,
            "source_lang": iso,
            "target_lang": "eng",
        }
        for clause in sentences("tatoeba", TEST, 300)
    ]


@cache
def sentences(name: str, folds: frozenset[int], number: int) -> tuple[Clause, ...]:
    """`number` different events of the split `name`."""
    dice, found = Dice("sentences", name), {}
    while len(found) < number:
        found.setdefault(event(dice, folds))
    return tuple(found)


def _codes(codes: Sequence[str]) -> str:
    return "(" + "|".join(codes) + ")"


_FOREIGN = [tongue for tongue in TONGUES.values() if tongue.code != "en"]
GENERATORS: tuple[tuple[str, str, Generator], ...] = (
    ("google/xtreme", "SQuAD", squad),
    ("rajpurkar/squad", ".*", squad),
    ("google/xtreme", r"XQuAD\." + _codes(tuple(TONGUES)), xquad),
    ("google/xtreme", rf"MLQA\.{_codes(MLQA_LANGUAGES)}\.{_codes(MLQA_LANGUAGES)}", mlqa),
    ("google/xtreme", "tydiqa", tydiqa),
    ("google/xtreme", r"tatoeba\." + _codes([tongue.iso639_3 for tongue in _FOREIGN]), tatoeba),
)
"""(repository, pattern of the configuration, generator). A new miniature data set is one more line."""


@cache
def rows_of(repo: str, config: str | None, split: str) -> Rows:
    """All rows of one split, made once a process; raises DataError for what the world has not."""
    for name, pattern, generator in GENERATORS:
        if name == repo and re.fullmatch(pattern, config or ""):
            rows = generator(config or "", split)
            if rows is not None:
                return rows
            raise DataError(f"the miniature world's {repo} {config or ''} has no split {split!r}")
    known = "; ".join(f"{name} {pattern}" for name, pattern, _ in GENERATORS)
    raise DataError(f"the miniature world has no {repo} {config or ''}. It has (as patterns): {known}.")
