"""Rows for retrieval and mining: Tatoeba's pairs; BUCC's pools of sentences, a third of which have a translation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from peft_stilts.miniature.dice import Dice
from peft_stilts.miniature.grammar import Clause, clause_of, event, speaker
from peft_stilts.miniature.texts import DEV, TEST, Rows, sentences
from peft_stilts.miniature.world import TONGUES

BUCC_LANGUAGES = ("qa", "qd", "qf", "qh")
RETRIEVAL_COLUMNS = ("source_sentence", "target_sentence", "source_lang", "target_lang")
_EVERY = frozenset(range(10))
_SIZES = {"dev": (DEV, 60, 120), "test": (TEST, 160, 320)}


def tatoeba(config: str, split: str | None) -> Rows | None:
    """tatoeba.xxx: 300 sentences of one event each, the same in all nine languages, with their English translations."""
    iso = config.removeprefix("tatoeba.")
    code = next(tongue.code for tongue in TONGUES.values() if tongue.iso639_3 == iso)
    return _aligned(sentences("tatoeba", TEST, 300), code, iso, "eng") if split == "validation" else None


@dataclass(frozen=True)
class Pools:
    """The two sides of a mining task, in no language yet: `pairs` is of both; `foreign` and `english` of one each."""

    pairs: tuple[Clause, ...]
    foreign: tuple[Clause, ...]
    english: tuple[Clause, ...]


@cache
def pools(name: str) -> Pools:
    """Pools of 'dev' (60 pairs, 120 sentences alone on each side) or 'test' (160 and 320); all clauses are different.

    Half of the sentences that are alone differ from one of the pairs in a single slot.
    """
    folds, paired, alone = _SIZES[name]
    dice, pairs = Dice("bucc", name), sentences(f"bucc-{name}", folds, paired)
    found = dict.fromkeys(pairs)
    while len(found) < paired + 2 * alone:
        found.setdefault(_near(dice.choice(pairs), dice, folds) if dice.chance(0.5) else event(dice, folds))
    rest = list(found)[paired:]
    return Pools(pairs, tuple(rest[::2]), tuple(rest[1::2]))


def _near(clause: Clause, dice: Dice, folds: frozenset[int]) -> Clause:
    """A clause of `folds` with one slot as in another event, the others as in `clause`, which is of `folds` too."""
    while True:
        other = event(dice, _EVERY).roles
        role = dice.choice([role for role in clause.roles if role != "verb" and role in other])
        near = clause_of(clause.roles | {role: other[role]})
        if near != clause and near.fold in folds:
            return near


def bucc2018(config: str, split: str | None) -> Rows | None:
    """bucc/bucc2018 LL: all sentences of both pools, each with the id of its translation; foreign rows first."""
    if split not in _SIZES:
        return None
    drawn, rows = pools(split), []
    names: dict[str, dict[Clause, str]] = {}
    for code, alone in ((config, drawn.foreign), ("en", drawn.english)):
        order = Dice("bucc order", split, "en" if code == "en" else "foreign").shuffled((*drawn.pairs, *alone))
        names[code] = {clause: f"{code}-{number:09d}" for number, clause in enumerate(order, 1)}
    for code, other in ((config, "en"), ("en", config)):
        voice = speaker(code)
        rows += [
            {"id": name, "language": code, "sentence": voice.say(clause).text, "match": names[other].get(clause, "")}
            for clause, name in names[code].items()
        ]
    return rows


def bucc18(config: str, split: str | None) -> Rows | None:
    """google/xtreme bucc18.LL: the pairs of `bucc2018` alone, as the hub has them."""
    code, name = config.removeprefix("bucc18."), {"validation": "dev", "test": "test"}.get(split or "")
    return _aligned(pools(name).pairs, code, code, "en") if name else None


def _aligned(clauses: tuple[Clause, ...], code: str, source: str, target: str) -> Rows:
    foreign, english = speaker(code), speaker("en")
    return [
        {
            "source_sentence": foreign.say(clause).text,
            "target_sentence": english.say(clause).text,
            "source_lang": source,
            "target_lang": target,
        }
        for clause in clauses
    ]
