"""Pairs of texts in no language yet: inference (MNLI, SNLI, ANLI, XNLI) and paraphrase (PAWS-X, QQP).

No label can be told from the words, nor from one of the texts: in every kind of inference each label shares equally
many words of each sort between its texts, and a pair that is no paraphrase has two slots of one kind exchanged between
two sentences, so it has the very words of one that is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from peft_stilts.miniature import lexicon as lx
from peft_stilts.miniature.dice import Dice
from peft_stilts.miniature.grammar import Clause, clause_of, draw, event, free_value, speaker
from peft_stilts.miniature.texts import DEV, TEST, TRAIN, Rows
from peft_stilts.miniature.world import TONGUES
from peft_stilts.tasks.intermediate import NLI

PAWSX_LANGUAGES = ("en", "qa", "qc", "qd", "qe", "qg", "qh")
_CIRCUMSTANCES = ("number", "adjective", "where", "when")


@dataclass(frozen=True)
class Asked:
    """The question for the circumstance `role` of an event, mentioning all that `clause` has."""

    clause: Clause
    role: str


@dataclass(frozen=True)
class Pair:
    """Two texts and a label, in no language yet: inference 0 to 2 as in NLI; paraphrase 1, none 0."""

    first: tuple[Clause | Asked, ...]
    second: tuple[Clause | Asked, ...]
    label: int

    def texts(self, code: str) -> tuple[str, str]:
        """Both texts in the language `code`."""
        return _text(self.first, code), _text(self.second, code)


def _text(parts: tuple[Clause | Asked, ...], code: str) -> str:
    voice = speaker(code)
    said = [
        voice.say(part) if isinstance(part, Clause) else voice.ask(part.clause, part.role, frozenset(part.clause.roles))
        for part in parts
    ]
    return " ".join(sentence.text for sentence in said)


Draft = tuple[dict[str, str], str | None]
"""Slots of a clause, 'who' still being the number of a person, and the role that is asked for, None in a statement."""

Drafts = tuple[list[Draft], list[Draft]]
"""Both texts of a pair before its persons have names."""


def _event(dice: Dice, person: str, unlike: dict[str, str] | None = None, **more: str) -> dict[str, str]:
    """Who, verb and object of an event, verb and object others than in `unlike`, and `more`."""
    while True:
        verb = draw("verb", "", dice)
        what = draw("what", verb, dice)
        if not unlike or (verb != unlike["verb"] and what != unlike["what"]):
            return {"who": person, "verb": verb, "what": what} | more


def _cast(dice: Dice, drafts: Drafts, folds: frozenset[int]) -> list[tuple[Clause | Asked, ...]] | None:
    """Both texts with names for the persons that bring every clause into `folds`; None where there are none.

    (All names are tried: of events drawn whole, one in ten thousand would do where `folds` is a single one.)
    """
    names: dict[str, str] = {}
    slots = [slots for text in drafts for slots, _ in text]
    for person in dict.fromkeys(one["who"] for one in slots):
        mine = [one for one in slots if one["who"] == person]
        fits = [name for name in lx.NAMES if name not in names.values()
                and all(clause_of(one | {"who": name}).fold in folds for one in mine)]
        if not fits:
            return None
        while names.get(person) not in fits:
            names[person] = draw("who", "", dice)
    return [tuple(_part(one | {"who": names[one["who"]]}, asked) for one, asked in text) for text in drafts]


def _part(slots: dict[str, str], asked: str | None) -> Clause | Asked:
    return Asked(clause_of(slots), asked) if asked else clause_of(slots)


@dataclass(frozen=True)
class Inferences:
    """What inferences a data set has: the shares of three kinds, which add up to one, and `others`, the sentences of
    the premise that have nothing to do with the hypothesis.

    `classes`: does the sentence hold of its object's class and in such a place or time? `moved`: are two sentences
    restated in reverse order the same? `bound`: do all circumstances belong to one of two sentences?
    """

    classes: float
    moved: float
    bound: float
    others: int = 0


SNLI = Inferences(1.0, 0.0, 0.0)
MNLI = Inferences(0.5, 0.5, 0.0)
MISMATCHED = Inferences(0.5, 0.5, 0.0, others=1)
ANLI = {
    "r1": Inferences(0.5, 0.3, 0.2),
    "r2": Inferences(0.3, 0.3, 0.4, others=1),
    "r3": Inferences(0.2, 0.2, 0.6, others=2),
}


def _free(dice: Dice, *roles: str) -> dict[str, str]:
    return {role: free_value(role, dice) for role in roles}


_YEARS = tuple(map(str, range(1900, 2000)))
_KINDS = {"city": ("city", lx.CITIES), "when": ("month", lx.MONTHS), "year": ("year", _YEARS)}
"""Role -> the class of its values, and those values; all three are said with 'in' and no article."""


def _classes(dice: Dice, label: str) -> Drafts:
    """One sentence; its restatement names a class of objects and one of place or time.

    Contradiction: another class of objects, which the verb takes as well; neutral: a city for a year, and so on. The
    classes of both texts are drawn alike, so that neither text alone tells the label.
    """
    told, other = dice.shuffled(tuple(_KINDS))[:2]
    while True:
        verb = draw("verb", "", dice)
        kinds = dice.shuffled(lx.VERBS[verb][1])
        if len(kinds) > 1:
            break
    said = {"who": "0", "verb": verb, "what": dice.choice(lx.OBJECTS[kinds[0]]), told: dice.choice(_KINDS[told][1])}
    named = other if label == "neutral" else told
    restated = {"who": "0", "verb": verb, "what": kinds[label == "contradiction"], named: _KINDS[named][0]}
    return [(said, None)], [(restated, None)]


def _moved(dice: Dice, label: str) -> Drafts:
    """Two sentences, and the same in reverse order and in the very same words.

    Contradiction: the persons are exchanged; neutral: the circumstance stands in the other sentence.
    """
    circumstance = _free(dice, dice.choice(("where", "when")))
    one = _event(dice, "0")
    other = _event(dice, "1", unlike=one)
    told = dice.shuffled([one | circumstance, other])
    restated = [slots for slots in told]
    if label == "contradiction":
        restated = _exchanged(*told, "who")
    elif label == "neutral":
        restated = [one if slots is not other else other | circumstance for slots in told]
    return [(slots, None) for slots in told], [(slots, None) for slots in restated[::-1]]


def _bound(dice: Dice, label: str) -> Drafts:
    """Two sentences and one of them restated, with two circumstances.

    The full sentence has the roles `once` and `twice`, the other one only `twice`, with another value. Restated are
    who, verb and object of one of them, the value of `once`, and one of the two of `twice`. Entailment: all of the
    full one; contradiction: the full one with `twice` of the other; neutral: the other one with `once` of the full one.
    """
    once = dice.choice(("adjective", "where", "when"))
    twice = dice.choice([role for role in _CIRCUMSTANCES if role != once])
    one = _event(dice, "0")
    other = _event(dice, "1", unlike=one) | _free(dice, twice)
    full = one | _free(dice, once, twice)
    while full[twice] == other[twice]:
        full |= _free(dice, twice)
    restated = (other if label == "neutral" else full) | {once: full[once]}
    restated[twice] = (full if label == "entailment" else other)[twice]
    return [(slots, None) for slots in dice.shuffled([full, other])], [(restated, None)]


def _inference(dice: Dice, label: int, folds: frozenset[int], style: Inferences) -> Pair:
    """Draws one inference, every clause of it in `folds`."""
    point = dice.uniform()
    kind = _classes if point < style.classes else _moved if point < style.classes + style.moved else _bound
    while True:
        texts = _cast(dice, kind(dice, NLI[label]), folds)
        if texts:
            break
    premise = list(texts[0])
    while len(premise) < len(texts[0]) + style.others:
        clause = event(dice, folds)
        if all(clause.roles[role] != other.roles[role] for other in premise for role in ("who", "verb", "what")):
            premise.insert(dice.between(0, len(premise)), clause)
    return Pair(tuple(premise), texts[1], label)


@cache
def inferences(name: str, folds: frozenset[int], number: int, style: Inferences) -> tuple[Pair, ...]:
    """`number` different inferences of the split `name`, the labels equally often and in random order."""
    dice = Dice("inferences", name)
    return _different(dice, number, 3, lambda label: _inference(dice, label, folds, style))


def _different(dice: Dice, number: int, labels: int, draw_one: Callable[[int], Pair]) -> tuple[Pair, ...]:
    """`number` different pairs with equally many of each label, in random order."""
    found: dict[Pair, None] = {}
    for label in dice.shuffled([i % labels for i in range(number)]):
        size = len(found)
        while len(found) == size:
            found.setdefault(draw_one(label))
    return tuple(found)


def _exchanged(one: dict[str, str], other: dict[str, str], role: str) -> list[dict[str, str]]:
    return [one | {role: other[role]}, other | {role: one[role]}]


def _statements(dice: Dice) -> list[list[Draft]]:
    """Two statements, and the two with a value exchanged: more often than not the persons, else a circumstance."""
    role = "who" if dice.chance(0.7) else dice.choice(_CIRCUMSTANCES)
    one = _event(dice, "0")
    other = _event(dice, "1", unlike=one)
    while one.get(role) == other.get(role):
        one, other = (slots | _free(dice, role) for slots in (one, other))
    return [[(slots, None) for slots in version] for version in ([one, other], _exchanged(one, other, role))]


def _questions(dice: Dice) -> list[list[Draft]]:
    """Two questions, and the two with the persons, or what is asked for, exchanged."""
    one = _event(dice, "0")
    other = _event(dice, "1", unlike=one)
    for slots in (one, other):
        slots |= _free(dice, "adjective") if dice.chance(0.5) else {}
    if dice.chance(0.5):
        asked = dice.shuffled(("where", "when"))
        return [[(one, asked[0]), (other, asked[1])], [(one, asked[1]), (other, asked[0])]]
    asked = [dice.choice(("where", "when")) for _ in range(2)]
    return [list(zip(version, asked, strict=True)) for version in ([one, other], _exchanged(one, other, "who"))]


def _paraphrase(dice: Dice, label: int, folds: frozenset[int], questions: bool) -> Pair:
    """Two texts of which the second, in reverse order, says the same as the first, or has something exchanged."""
    while True:
        one, other = dice.shuffled(_questions(dice) if questions else _statements(dice))
        texts = _cast(dice, (one, (one if label else other)[::-1]), folds)
        if texts:
            return Pair(texts[0], texts[1], label)


@cache
def paraphrases(name: str, folds: frozenset[int], number: int, questions: bool) -> tuple[Pair, ...]:
    """`number` different pairs of the split `name`, half of them paraphrases, in random order."""
    dice = Dice("paraphrases", name)
    return _different(dice, number, 2, lambda label: _paraphrase(dice, label, folds, questions))


def training_pairs(task: str) -> tuple[Pair, ...]:
    """The training pairs of 'mnli' (1,800), 'qqp' (1,800) or 'pawsx' (1,500)."""
    if task == "mnli":
        return inferences("mnli-train", TRAIN, 1800, MNLI)
    return paraphrases(f"{task}-train", TRAIN, {"qqp": 1800, "pawsx": 1500}[task], questions=task == "qqp")


def mnli(config: str, split: str | None) -> Rows | None:
    """GLUE's MNLI: 1,800 pairs to train on, 300 matched and 300 mismatched (longer premises) for development."""
    if split == "train":
        found = training_pairs("mnli")
    elif split in ("validation_matched", "validation_mismatched"):
        found = inferences(f"mnli-{split}", DEV, 300, MNLI if split == "validation_matched" else MISMATCHED)
    else:
        return None
    return [_labelled(pair, "premise", "hypothesis") | {"idx": number} for number, pair in enumerate(found)]


def qqp(config: str, split: str | None) -> Rows | None:
    """GLUE's QQP: two questions a text; 1,800 pairs to train on and 300 for development."""
    if split not in ("train", "validation"):
        return None
    found = training_pairs("qqp") if split == "train" else paraphrases("qqp-dev", DEV, 300, questions=True)
    return [_labelled(pair, "question1", "question2") | {"idx": number} for number, pair in enumerate(found)]


def snli(config: str, split: str | None) -> Rows | None:
    """SNLI: short premises; 999 pairs to train on, 300 for development, 300 to test; one in a hundred has no label."""
    sizes = {"train": (TRAIN, 1009), "validation": (DEV, 303), "test": (TEST, 303)}
    if split not in sizes:
        return None
    rows = [_labelled(pair, "premise", "hypothesis") for pair in inferences(f"snli-{split}", *sizes[split], SNLI)]
    for row in rows[50::100]:
        row["label"] = -1
    return rows


def anli(config: str, split: str | None) -> Rows | None:
    """ANLI: rounds of 300, 402 and 501 pairs to train on, harder from round to round; 150 for development and test."""
    part, _, turn = (split or "").partition("_")
    folds, sizes = {"train": (TRAIN, (300, 402, 501)), "dev": (DEV, (150,) * 3), "test": (TEST, (150,) * 3)}.get(
        part, (TEST, ()))
    if not sizes or turn not in ANLI:
        return None
    found = inferences(f"anli-{split}", folds, sizes[int(turn[1]) - 1], ANLI[turn])
    return [
        {"uid": f"{split}-{number:04d}"} | _labelled(pair, "premise", "hypothesis") | {"reason": ""}
        for number, pair in enumerate(found)
    ]


def xnli(config: str, split: str | None) -> Rows | None:
    """XNLI: the same 210 pairs for development and 300 to test in all ten languages, in one configuration."""
    sizes = {"validation": (DEV, 210), "test": (TEST, 300)}
    if split not in sizes:
        return None
    found = inferences(f"xnli-{split}", *sizes[split], MNLI)
    rows = []
    for code in TONGUES:
        for pair in found:
            first, second = pair.texts(code)
            rows.append({"language": code, "sentence1": first, "sentence2": second, "gold_label": NLI[pair.label]})
    return rows


def pawsx(config: str, split: str | None) -> Rows | None:
    """PAWS-X.LL: 1,500 English pairs to train on; 200 for development and 300 to test, the same in seven languages."""
    code = config.removeprefix("PAWS-X.")
    if split == "train" and code == "en":
        found = training_pairs("pawsx")
    elif split in ("validation", "test"):
        folds, number = (DEV, 200) if split == "validation" else (TEST, 300)
        found = paraphrases(f"pawsx-{split}", folds, number, questions=False)
    else:
        return None
    return [_labelled(pair, "sentence1", "sentence2", code) | {"label": str(pair.label)} for pair in found]


def _labelled(pair: Pair, first: str, second: str, code: str = "en") -> dict[str, Any]:
    texts = pair.texts(code)
    return {first: texts[0], second: texts[1], "label": pair.label}
