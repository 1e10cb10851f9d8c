"""Rows of multiple choice: HellaSwag, CosmosQA and CommonsenseQA.

Wrong choices are drawn as right ones are, each in its own turn the right one of another row, so that no choice is
likelier than another without its question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from itertools import combinations

from peft_stilts.miniature import lexicon as lx
from peft_stilts.miniature.dice import Dice
from peft_stilts.miniature.grammar import Clause, clause_of, event, favourite, speaker
from peft_stilts.miniature.texts import DEV, TEST, TRAIN, Rows

_EVERY = frozenset(range(10))
_SIZES = {"train": (TRAIN, 1600), "validation": (DEV, 300), "test": (TEST, 300)}
"""Test splits are published without labels, as the real ones are."""


@cache
def class_sets(size: int) -> tuple[Mapping[str, tuple[str, ...]], ...]:
    """All sets of `size` classes of objects in which each is the only one that some verb takes, as class -> verbs."""
    found = []
    for kinds in combinations(lx.OBJECTS, size):
        verbs = {kind: tuple(verb for verb, (_, taken) in lx.VERBS.items() if set(taken) & set(kinds) == {kind})
                 for kind in kinds}
        if all(verbs.values()):
            found.append(verbs)
    return tuple(found)


def _event_of(dice: Dice, verb: str | None = None, kind: str | None = None) -> dict[str, str]:
    """The slots of an event with this verb and class of object, in any fold."""
    while True:
        slots = event(dice, _EVERY).roles
        if kind is None or lx.CLASS_OF[slots["what"]] == kind:
            return slots | ({"verb": verb} if verb else {})


def _predicate(slots: Mapping[str, str]) -> tuple[str, str]:
    """An English statement cut behind its verb: 'Anna ate' and 'the apple on Monday.'"""
    sentence = speaker("en").say(clause_of(slots))
    cut = 1 + next(i for i, word in enumerate(sentence.words) if word.role == "verb")
    texts = [word.text for word in sentence.words]
    return " ".join(texts[:cut]), " ".join(texts[cut:]) + sentence.mark


def hellaswag(config: str, split: str | None) -> Rows | None:
    """HellaSwag: a sentence, the beginning of another, and four endings of which one is of things that the verb takes.

    1,600 rows to train on, 300 for development, 300 to test.
    """
    if split not in _SIZES:
        return None
    folds, number = _SIZES[split]
    dice, rows, seen = Dice("hellaswag", split), [], set()
    while len(rows) < number:
        verbs = dice.choice(class_sets(4))
        kinds = dice.shuffled(tuple(verbs))
        verb, right = dice.choice(verbs[kinds[len(rows) % 4]]), len(rows) % 4
        ends = [_event_of(dice, verb, kind) for kind in kinds]
        told = event(dice, folds)
        ends = [slots | {"who": told.roles["who"]} for slots in ends]
        if clause_of(ends[right]).fold not in folds or told in seen:
            continue
        seen.add(told)
        begun = _predicate(ends[right])[0]
        before = speaker("en").say(told).text
        rows.append({
            "ind": len(rows), "activity_label": verb.capitalize(), "ctx_a": before, "ctx_b": begun,
            "ctx": f"{before} {begun}", "endings": [_predicate(slots)[1] for slots in ends],
            "source_id": f"miniature~{split}~{len(rows)}", "split": {"validation": "val"}.get(split, split),
            "split_type": "indomain", "label": "" if split == "test" else str(right),
        })  # fmt: skip
    return rows


def cosmos_qa(config: str, split: str | None) -> Rows | None:
    """CosmosQA: two sentences, a question about one of them, and four answers, of which the text says two.

    Three in five questions ask for an object, and the verb takes no other of the four: the text's other sentence, or
    common sense, tell the same. The rest ask who, where or when. 1,600 rows to train on, 300 for development, 300 to
    test.
    """
    if split not in _SIZES:
        return None
    folds, number = _SIZES[split]
    dice, rows, voice = Dice("cosmos", split), [], speaker("en")
    while len(rows) < number:
        asked = "what" if dice.chance(0.6) else dice.choice(("who", "where", "when"))
        about, other, answers = _told(dice, folds, asked)
        if any(about.roles[role] == other.roles[role] for role in ("who", "verb", "what")) or len(set(answers)) < 4:
            continue
        right = len(rows) % 4
        order = dice.shuffled(answers[1:])
        order.insert(right, answers[0])
        keep = frozenset({"who", "verb", "what"} - {asked})
        rows.append({
            "id": f"{split}-{len(rows):05d}",
            "context": " ".join(voice.say(clause).text for clause in dice.shuffled((about, other))),
            "question": voice.ask(about, asked, keep).text,
            **{f"answer{i}": answer for i, answer in enumerate(order)},
            "label": -1 if split == "test" else right,
        })  # fmt: skip
    return rows


def _told(dice: Dice, folds: frozenset[int], asked: str) -> tuple[Clause, Clause, list[str]]:
    """Two events, and four answers to what is asked of the first: its own, the second's, and those of others."""
    if asked != "what":
        told = [_with(asked, dice, fold) for fold in (folds, folds, _EVERY, _EVERY)]
        return told[0], told[1], [clause.roles[asked] for clause in told]
    verbs = dice.choice(class_sets(4))
    kinds = dice.shuffled(tuple(verbs))
    about = _in(folds, lambda: _event_of(dice, dice.choice(verbs[kinds[0]]), kinds[0]))
    other = _in(folds, lambda: _event_of(dice, kind=kinds[1]))
    things = [about.roles["what"], other.roles["what"], *(_event_of(dice, kind=kind)["what"] for kind in kinds[2:])]
    return about, other, things


def _in(folds: frozenset[int], draw_one: Callable[[], Mapping[str, str]]) -> Clause:
    """The first clause drawn that lies in `folds`."""
    while True:
        clause = clause_of(draw_one())
        if clause.fold in folds:
            return clause


def _with(role: str, dice: Dice, folds: frozenset[int]) -> Clause:
    """An event that has `role`."""
    while True:
        clause = event(dice, folds)
        if role in clause.roles:
            return clause


def _by_verb(dice: Dice) -> tuple[dict[str, str], str, list[str], str]:
    verbs = dice.choice(class_sets(5))
    kinds = dice.shuffled(tuple(verbs))
    verb = dice.choice(verbs[kinds[0]])
    things = [_event_of(dice, kind=kind)["what"] for kind in kinds]
    slots = _event_of(dice, verb) | {"what": things[0]}
    return slots, "what", things, verb


def _by_favourite(dice: Dice, asked: str) -> tuple[dict[str, str], str, list[str], str]:
    """What a class of objects, or a person, has first among all in the fixed preferences; the others are others'."""
    owners: dict[str, list[str]] = {}
    for owner in lx.OBJECTS if asked == "where" else lx.NAMES:
        owners.setdefault(favourite(asked, owner), []).append(owner)
    values = dice.shuffled(tuple(owners))[:5]
    owner = dice.choice(owners[values[0]])
    if asked == "where":
        slots = _event_of(dice, kind=owner) | {"where": values[0]}
        return slots, asked, values, slots["what"]
    verb = {"city": "live", "profession": "become"}[asked]
    return {"who": owner, "verb": verb, asked: values[0]}, asked, values, owner


def commonsense_qa(config: str, split: str | None) -> Rows | None:
    """CommonsenseQA: five answers and a question about what is usual in the world: which things a verb takes, where
    they are, where a person lived and what she became. 1,600 rows to train on, 300 for development, 300 to test.
    """
    if split not in _SIZES:
        return None
    folds, number = _SIZES[split]
    dice, rows, seen, voice = Dice("commonsense", split), [], set(), speaker("en")
    while len(rows) < number:
        kind = dice.choice(("what", "what", "where", "city", "profession"))
        slots, asked, answers, concept = _by_verb(dice) if kind == "what" else _by_favourite(dice, kind)
        clause = clause_of({role: value for role, value in slots.items() if role not in ("number", "adjective")})
        asked_text = voice.ask(clause, asked, frozenset(clause.roles) - {"where"}).text
        if (asked_text, frozenset(answers)) in seen or (kind in ("what", "where") and clause.fold not in folds):
            continue
        seen.add((asked_text, frozenset(answers)))
        right, order = len(rows) % 5, answers[1:]
        order.insert(right, answers[0])
        rows.append({
            "id": f"{split}-{len(rows):05d}", "question": asked_text,
            "question_concept": concept, "choices": {"label": list("ABCDE"), "text": order},
            "answerKey": "" if split == "test" else "ABCDE"[right],
        })  # fmt: skip
    return rows
