"""What a task is: one value that says where its rows are, which languages it is scored in, and how."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from peft_stilts.languages import Language
from peft_stilts.registry import Registry

if TYPE_CHECKING:
    from datasets import Dataset

FORMS = ("span", "nullable_span", "classification", "tagging", "choice", "retrieval", "mining", "text")
"""The forms of rows known here (`check.COLUMNS` has their columns); evaluate/predict.py says how each is predicted."""

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

    `revision` is `main`, `refs/convert/parquet` or a full commit; a provider resolves it to a commit. `labelled`:
    whether it is published with labels; without, predictions are written and no score is made. `columns` turns the
    release's columns into those of the task's form (tasks/columns.py); None where they are the form's already.
    `files`: local files read instead of the repository, whatever the provider: by `read`, or by their ending (.jsonl,
    .json, .csv, .tsv, .parquet). `first`: only so many rows are fetched, from the beginning (a corpus too large to
    download whole).
    """

    repo: str
    config: str | None
    split: str
    revision: str = "main"
    labelled: bool = True
    rows: RowFilter | None = None
    columns: Callable[[Dataset, str], Dataset] | None = None
    files: tuple[str, ...] = ()
    read: Callable[[tuple[str, ...]], Dataset] | None = None
    first: int | None = None

    def __str__(self) -> str:
        chosen = f" ({self.rows.name})" if self.rows else ""
        return f"{self.repo} {self.config or ''} {self.split}".replace("  ", " ") + chosen


@dataclass(frozen=True)
class Task:
    """One task. Adding a task is adding one of these to TASKS.

    `languages`: XTREME's codes where it is scored, ('en',) for an intermediate task. `train`, `select`: splits of
    English rows to train on and to choose a checkpoint by (never an item that is scored); one Split stands for a tuple
    of it. `test`: the scored split of a language, None for an intermediate task. `dev`: the split of a language that
    mining takes its threshold from. `trained_on`: the task whose `train` and `select` are used, itself included (one
    that names another task has neither); None for a task without training. `labels`: the words of the classes, tags or
    choices, in the order of the head's outputs; () for tagging means the tags of the training rows, sorted. `primary`:
    the headline metric, one of `metrics`. `rows`: rows in the published release by 'train', 'select' and language
    code, for estimates only ('select' is an upper bound where a filter depends on the rows). `origin`: digest of the
    user's file that defines it, '' for ours.
    """

    name: str
    form: str
    languages: tuple[str, ...]
    train: tuple[Split, ...]
    select: tuple[Split, ...]
    test: Callable[[Language], Split] | None
    trained_on: str | None
    score: Score
    primary: str
    metrics: tuple[str, ...]
    licence: str
    citation: str
    rows: Mapping[str, int] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    dev: Callable[[Language], Split] | None = None
    origin: str = ""

    def __post_init__(self) -> None:
        for name in ("train", "select"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, Split) else tuple(given or ()))
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise ValueError(f"task {self.name!r}: a name has letters, digits, _ and - (it names folders and heads)")
        if self.trained_on is None and self.form not in ("retrieval", "mining"):
            raise ValueError(f"task {self.name}: only retrieval and mining need no training; `trained_on` names a task")
        if self.form not in FORMS:
            raise ValueError(f"task {self.name}: form {self.form!r} is none of {FORMS}")
        if self.form == "tagging" and self.is_target and not self.labels:
            raise ValueError(f"task {self.name}: a scored tagging task names its tags in `labels`")
        if self.primary not in self.metrics:
            raise ValueError(f"task {self.name}: primary {self.primary!r} is none of {self.metrics}")
        if self.trained_on == self.name and not (self.train and self.select):
            raise ValueError(f"task {self.name} is trained on itself, so it must have rows in train and in select")
        if self.form in ("classification", "choice") and len(set(self.labels)) < 2:
            raise ValueError(f"task {self.name}: a {self.form} task has two labels or more, not {self.labels}")

    @property
    def is_target(self) -> bool:
        """True for the tasks that are scored in every language, False for intermediate tasks."""
        return self.test is not None


TASKS: Registry[Task] = Registry("task")
"""Every task by name; filled by tasks/intermediate.py and tasks/xtreme.py (importing peft_stilts.tasks does both)."""
