"""The English intermediate tasks: one entry each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from peft_stilts.tasks.base import TASKS, RowFilter, Split, Task
from peft_stilts.tasks.metrics import qa

if TYPE_CHECKING:
    from datasets import Dataset

_XQUAD_IDS = Path(__file__).with_name("xquad_question_ids.txt")


@cache
def xquad_question_ids() -> frozenset[str]:
    """The 1,190 question ids of XQuAD, each also an id of SQuAD's development set (shipped; see tasks/mirror.py)."""
    lines = _XQUAD_IDS.read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def _outside_xquad(dataset: Dataset) -> Sequence[int]:
    """Rows whose paragraph is in no XQuAD question: XQuAD has paragraphs of all 48 articles of SQuAD's development set,
    so articles cannot be told apart, but paragraphs can."""
    ids, contexts = list(dataset["id"]), list(dataset["context"])
    scored = {context for key, context in zip(ids, contexts, strict=True) if key in xquad_question_ids()}
    return [row for row, context in enumerate(contexts) if context not in scored]


_SQUAD = "rajpurkar/squad"

TASKS.add(
    "squad",
    Task(
        name="squad",
        form="span",
        languages=("en",),
        train=Split(_SQUAD, "plain_text", "train"),
        select=Split(_SQUAD, "plain_text", "validation", rows=RowFilter("no-xquad-paragraph", _outside_xquad)),
        test=None,
        trained_on="squad",
        score=qa.squad,
        primary="f1",
        metrics=qa.METRICS,
        licence="CC BY-SA 4.0",
        citation="Rajpurkar et al. 2016, SQuAD: 100,000+ Questions for Machine Comprehension of Text (v1.1)",
        rows={"train": 87_599, "select": 10_570},
    ),
)

INTERMEDIATE: tuple[str, ...] = ("squad",)
"""Names of the intermediate tasks."""
