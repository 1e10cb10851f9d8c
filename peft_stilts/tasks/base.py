"""What a task is: one value that says where its rows are, which languages it is scored in, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from peft_stilts.languages import Language
from peft_stilts.registry import Registry

if TYPE_CHECKING:
    from datasets import Dataset

FORMS = ("span", "retrieval")
"""The forms of rows known here; data/encode.py has one encoder and model/heads.py one head for each that is trained."""

Score = Callable[[Mapping[str, Any], Mapping[str, Any], str], dict[str, float]]
"""(predictions by id, golds by id, language code) -> {metric: 0..100}."""


@dataclass(frozen=True)
class RowFilter:
    """Which rows of a split are used. `name` stands for it in stage keys: another choice of rows needs another name.

    `choose(dataset)` gives the row numbers to keep; it sees the whole split, so a choice may depend on all rows.
    Filters of one name are equal.
    """

    name: str
    choose: Callable[[Dataset], Sequence[int]] = field(compare=False)

    def apply(self, dataset: Dataset) -> Dataset:
        """The chosen rows, in the order that `choose` gives."""
        return dataset.select(self.choose(dataset))


@dataclass(frozen=True)
class Split:
    """One split of one configuration of one hub repository, and the rows of it that are used.

    `revision` is `main`, `refs/convert/parquet` or a full commit; a provider resolves it to a commit.
    """

    repo: str
    config: str | None
    split: str
    revision: str = "main"
    labelled: bool = True
    rows: RowFilter | None = None

    def __str__(self) -> str:
        chosen = f" ({self.rows.name})" if self.rows else ""
        return f"{self.repo} {self.config or ''} {self.split}".replace("  ", " ") + chosen


@dataclass(frozen=True)
class Task:
    """One task. Adding a task is adding one of these to TASKS.

    `languages`: XTREME's codes where it is scored, ('en',) for an intermediate task. `train`, `select`: English rows to
    train on and to choose a checkpoint by (never an item that is scored). `test`: the scored split of a language, None
    for an intermediate task. `trained_on`: the task whose `train` and `select` are used, itself included (one that
    names another task has None in both); None for a task without training. `primary`: the headline metric, one of
    `metrics`. `rows`: rows in the published release by 'train', 'select' and language code, for estimates only
    ('select' is an upper bound where a filter depends on the rows).
    """

    name: str
    form: str
    languages: tuple[str, ...]
    train: Split | None
    select: Split | None
    test: Callable[[Language], Split] | None
    trained_on: str | None
    score: Score
    primary: str
    metrics: tuple[str, ...]
    licence: str
    citation: str
    rows: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"task {self.name}: form {self.form!r} is none of {FORMS}")
        if self.primary not in self.metrics:
            raise ValueError(f"task {self.name}: primary {self.primary!r} is none of {self.metrics}")

    @property
    def is_target(self) -> bool:
        """True for the tasks of XTREME, False for intermediate tasks."""
        return self.test is not None


TASKS: Registry[Task] = Registry("task")
"""Every task by name; filled by tasks/intermediate.py and tasks/xtreme.py (importing peft_stilts.tasks does both)."""
