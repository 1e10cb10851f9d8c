"""Accuracy of labels: classification, and multiple choice, whose label is the number of the right choice."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from peft_stilts.errors import DataError

METRICS = ("accuracy",)

NO_LABEL = (-1, "-1", "", None)
"""What data sets write where an item has no gold label (SNLI, and every hidden test split)."""


def accuracy(predictions: Mapping[str, Any], golds: Mapping[str, Any], language: str = "") -> dict[str, float]:
    """{'accuracy'} in 0..100: items whose predicted label equals the gold one, over all golds.

    `predictions`, `golds`: {id: label}, labels being numbers or words, the same on both sides. An item without a
    prediction is wrong; a prediction without a gold is ignored. Rule: XTREME's evaluate.py, tasks xnli and pawsx.
    Raises DataError when there is no gold at all, or an item has none (NO_LABEL).
    """
    for key, gold in golds.items():
        if gold in NO_LABEL:
            raise DataError(f"item {key!r} has no gold label ({gold!r}), so it cannot be scored; leave such items out, "
                            "or write a submission file where a whole split has none.")
    return {"accuracy": share_right(predictions, golds)}


def share_right(predictions: Mapping[Hashable, Any], golds: Mapping[Hashable, Any]) -> float:
    """Golds that their own prediction equals, in per cent of all golds; raises DataError without any."""
    if not golds:
        raise DataError("there is no gold label to score against.")
    right = sum(1 for key, gold in golds.items() if key in predictions and predictions[key] == gold)
    return 100.0 * right / len(golds)
