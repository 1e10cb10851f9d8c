"""Accuracy of retrieval: the share of queries whose own translation was found first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft_stilts.tasks.metrics.classification import share_right

METRICS = ("accuracy",)


def accuracy(predictions: Mapping[str, Any], golds: Mapping[str, Any], language: str = "") -> dict[str, float]:
    """{'accuracy'} in 0..100: queries whose predicted line number equals the gold one, over all golds.

    `predictions`, `golds`: {query id: line number}. A query without a prediction counts as wrong. Rule: XTREME's
    evaluate.py, task tatoeba. Raises DataError without golds.
    """
    return {"accuracy": share_right(predictions, golds)}
