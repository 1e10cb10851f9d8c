"""Stages and what they are made of: values with keys, the cells of the results table, and the rows they use."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_stilts.digest import key_of
from peft_stilts.errors import DataError
from peft_stilts.grid.base import Base
from peft_stilts.spec import LoraSettings, Request, TrainingSettings
from peft_stilts.tasks.base import Split, Task
from peft_stilts.tasks.check import unlabelled
from peft_stilts.tasks.sources import Provider, dev_split, load_checked, scored_split, split_identity

if TYPE_CHECKING:
    from datasets import Dataset


ENCODER, ADAPTER, HEADS, ROWS = "encoder", "adapter", "heads", "results.csv"
"""Names inside an artefact: a full stage's encoder, a LoRA stage's adapter, a head a task; an evaluation's rows."""


@dataclass(frozen=True)
class Masked:
    """Masked-language modelling beside the tasks of a training: `ratio` of its steps, text of the `languages`, drawn
    with probability proportional to lines^(1/temperature)."""

    ratio: float
    temperature: float
    languages: tuple[str, ...]
    splits: Mapping[str, Split] = field(compare=False)

    def __str__(self) -> str:
        usual = math.isclose(self.temperature, 1 / 0.3)
        return f"mlm {self.ratio:g} {','.join(self.languages)}" + ("" if usual else f" T {self.temperature:g}")


class Model:
    """What training stages and given adapters have in common: a key, a place on others, and words for it."""

    @cached_property
    def key(self) -> str:
        return key_of(self.spec)

    @property
    def path(self) -> tuple[str, ...]:
        """Names of what was trained so far, this one last."""
        return (*(self.parent.path if self.parent else ()), self.name)

    @property
    def variant(self) -> str:
        """How the trainings so far differ from the usual ones, and which adapters were given; '' where nothing does."""
        below = self.parent.variant if self.parent else ""
        return "; ".join(filter(None, (below, self.spec.get("variant", ""))))

    @property
    def model(self) -> str:
        """The model that comes out, in words: `squad > tydiqa (lora, seed 1)`, `none > tydiqa (...)` the baseline."""
        before = ("none",) if self.role == "target" and self.parent is None else ()
        policy = f", {self.policy}" if self.parent and self.policy != "stack" else ""
        return f"{' > '.join((*before, *self.path))} ({self.method}{policy}, seed {self.seed})"


@dataclass(frozen=True)
class Train(Model):
    """Train `tasks` (several: a mixture) on top of `parent` (None: the base encoder); `label` says it in words.

    `name`: the tasks' name in tables. `splits`: task name -> its training rows (translations among them). `policy`:
    what becomes of the adapters below (spec.POLICIES).
    """

    name: str
    tasks: tuple[Task, ...]
    method: str
    settings: TrainingSettings
    lora: LoraSettings | None
    seed: int
    limit: int | None
    parent: Train | Given | None
    role: str
    spec: Mapping[str, Any] = field(repr=False)
    splits: Mapping[str, tuple[Split, ...]] = field(repr=False)
    masked: Masked | None = None
    policy: str = "stack"
    kind = "train"

    @property
    def label(self) -> str:
        variant = f" with {self.spec['variant']}" if self.spec.get("variant") else ""
        return f"train {self.model}{variant}"


@dataclass(frozen=True)
class Given(Model):
    """An adapter that was trained elsewhere, on top of `parent`: its files in `folder`, the heads trained with it in
    the folders `heads`, by task. The rest is what is known of its training, as in Train."""

    name: str
    tasks: tuple[Task, ...]
    method: str
    settings: TrainingSettings
    lora: LoraSettings
    seed: int
    limit: int | None
    parent: Given | None
    role: str
    spec: Mapping[str, Any] = field(repr=False)
    folder: Path = field(compare=False)
    heads: Mapping[str, Path] = field(compare=False)
    policy: str = "stack"
    kind = "given"

    @property
    def label(self) -> str:
        return f"take {self.model} ({self.spec['variant']})"


def lineage(stage: Train | Given | None) -> list[list[Train | Given]]:
    """For each adapter of the stack of `stage`, the lowest first, the stages that trained it, one after the other where
    training was continued."""
    if stage is None:
        return []
    below = lineage(stage.parent)
    return [*below[:-1], [*below[-1], stage]] if stage.policy == "continue" else [*below, [stage]]


def adapters(stage: Train | Given | None) -> list[Train | Given]:
    """The stages whose adapters make the stack of `stage`, the lowest first: a stage that continues the adapter below
    stands in its place."""
    return [trained[-1] for trained in lineage(stage)]


@dataclass(frozen=True)
class Evaluate:
    """Score `task` in `languages` with the model of `parent` (None: the base encoder itself, or it `quantized`)."""

    task: Task
    languages: tuple[str, ...]
    settings: TrainingSettings
    layer: int | None
    limit: int | None
    parent: Train | Given | None
    spec: Mapping[str, Any] = field(repr=False)
    centred: bool = False
    quantized: bool = False
    kind = "evaluate"

    @cached_property
    def key(self) -> str:
        return key_of(self.spec)

    @property
    def label(self) -> str:
        base = "the base encoder" + (" in 4 bits" if self.quantized else "")
        on = self.parent.model if self.parent else base
        return f"score {self.task.name} in {len(self.languages)} languages with {on}"


@dataclass(frozen=True)
class Cell:
    """One evaluation under the labels of one recipe: the columns of its rows in the results table."""

    stage: Evaluate
    labels: Mapping[str, Any]


@dataclass
class Plan:
    """What a request comes to: its cells in the order they will be made, and all that their stages share.

    `notes`: what a person must know before and after the run (a target that was left out, and why). `kernels`: what
    computes the encoder (kernels/choose.py).
    """

    request: Request
    base: Base
    provider: Provider
    precision: str
    cells: list[Cell]
    data: DataCache
    notes: list[str] = field(default_factory=list)
    kernels: str = "eager"

    @cached_property
    def stages(self) -> dict[str, Train | Given | Evaluate]:
        """Every stage by key, parents before children, each once."""
        found: dict[str, Train | Given | Evaluate] = {}
        for cell in self.cells:
            chain: list[Train | Given | Evaluate] = [cell.stage]
            while chain[-1].parent is not None:
                chain.append(chain[-1].parent)
            for stage in reversed(chain):
                found.setdefault(stage.key, stage)
        return found


class DataCache:
    """Rows of each split, read and checked once a process, and what identifies them."""

    def __init__(self, provider: Provider):
        self.provider = provider
        self.read: dict[tuple[str, Split, int | None], Dataset] = {}
        self._joined: dict[tuple[str, tuple[Split, ...], int | None], Dataset] = {}
        self._identities: dict[Split, dict[str, Any]] = {}

    def rows(self, form: str, split: Split, limit: int | None, labels: tuple[str, ...] = ()) -> Dataset:
        """The rows of `split` in the columns of `form`, checked, the first `limit` of them; raises DataError."""
        key = form, split, limit
        if key not in self.read:
            self.read[key] = load_checked(self.provider, form, split, limit, labels)
        return self.read[key]

    def joined(self, task: Task, splits: tuple[Split, ...], limit: int | None) -> Dataset:
        """The rows of several splits of a task one after the other, with labels; `limit` is shared evenly among them.

        Raises DataError where a split has no labels.
        """
        from datasets import concatenate_datasets

        key = task.name, splits, limit
        if key in self._joined:
            return self._joined[key]
        share = None if limit is None else -(-limit // len(splits))
        parts = [self.rows(task.form, split, share, task.labels) for split in splits]
        for split, part in zip(splits, parts):
            if why := unlabelled(task.form, part):
                raise DataError(f"{split} cannot be trained or selected on: {why}.")
        self._joined[key] = parts[0] if len(parts) == 1 else concatenate_datasets(parts)
        return self._joined[key]

    def identified(self) -> Iterator[tuple[dict[str, Any], Dataset]]:
        """What was read: identity, the limit among it, and rows."""
        for (_, split, limit), rows in self.read.items():
            yield self.identity(split) | {"limit": limit}, rows

    def identity(self, split: Split) -> dict[str, Any]:
        """Repository, configuration, revision and, for local files, digest: the part of a key that is data."""
        if split not in self._identities:
            self._identities[split] = split_identity(self.provider, split)
        return self._identities[split]


def tag_set(task: Task, rows: Dataset) -> tuple[str, ...]:
    """The words of the head's outputs: the task's own labels, or where it names none the tags of its training rows."""
    if task.labels or task.form != "tagging":
        return task.labels
    return tuple(sorted({tag for tags in rows["tags"] for tag in tags}))


def scored_rows(plan: Plan, stage: Evaluate, code: str) -> Dataset:
    """The rows that an evaluation scores in a language."""
    split = scored_split(plan.provider, stage.task, code)
    return plan.data.rows(stage.task.form, split, pool_limit(stage), stage.task.labels)


def dev_rows(plan: Plan, stage: Evaluate, code: str) -> Dataset | None:
    """The rows that mining takes its threshold from; None for other tasks."""
    split = dev_split(plan.provider, stage.task, code)
    return None if split is None else plan.data.rows(stage.task.form, split, None, stage.task.labels)


def pool_limit(stage: Evaluate) -> int | None:
    """`--limit_eval`, but none for mining: half a pool is another task."""
    return None if stage.task.form == "mining" else stage.limit
