"""F1 of mined sentence pairs, as BUCC scores them: sets of pairs of ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from peft_stilts.errors import DataError

METRICS = ("f1", "precision", "recall")

Pairs = Mapping[str, str] | Iterable[tuple[str, str]]
"""{foreign id: English id}, or the pairs themselves where an id may stand in several."""


def f1(predictions: Pairs, golds: Pairs, language: str = "") -> dict[str, float]:
    """{'f1', 'precision', 'recall'} in 0..100 of the set of predicted pairs against the set of gold ones.

    All are 0 when no pair is right, also when none is predicted. Rule: XTREME's evaluate.py, task bucc2018. Raises
    DataError when there is no gold pair.
    """
    found, gold = pairs(predictions), pairs(golds)
    if not gold:
        raise DataError("there is no gold pair to score against.")
    right = len(found & gold)
    if not right:
        return dict.fromkeys(METRICS, 0.0)
    precision, recall = right / len(found), right / len(gold)
    return {"f1": 200.0 * precision * recall / (precision + recall),
            "precision": 100.0 * precision, "recall": 100.0 * recall}


def pairs(given: Pairs) -> set[tuple[str, str]]:
    """The set of pairs (foreign id, English id) that a mapping or an iterable of pairs stands for."""
    return {(foreign, english) for foreign, english in (given.items() if isinstance(given, Mapping) else given)}
