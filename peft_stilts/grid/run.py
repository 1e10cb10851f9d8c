"""Run a plan on this machine: each stage once, resumed after any interruption, the tables rewritten after each."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError

from peft_stilts import results
from peft_stilts.data.mask import encode_masked
from peft_stilts.data.sample import Mixing, Schedule, draw_texts
from peft_stilts.errors import DataError, StoreError, TrainingError
from peft_stilts.evaluate.items import PARALLEL, judge, write_items
from peft_stilts.evaluate.predict import FORMS, Scorer, predict
from peft_stilts.grid.base import encoder_folder, load_tokenizer
from peft_stilts.grid.loader import Loader
from peft_stilts.grid.stages import (
    ADAPTER,
    ENCODER,
    HEADS,
    ROWS,
    Cell,
    Evaluate,
    Given,
    Plan,
    Train,
    dev_rows,
    scored_rows,
    tag_set,
)
from peft_stilts.kernels.choose import fuse
from peft_stilts.machine import device, peak_memory, reset_peak_memory
from peft_stilts.model.adapter_io import load_masked_head, save_encoder, save_head
from peft_stilts.model.heads import Head, new_head
from peft_stilts.model.learner import Learner
from peft_stilts.model.stack import Stack
from peft_stilts.progress import of_training, progress
from peft_stilts.store import Store, write_atomic
from peft_stilts.tasks.check import unlabelled
from peft_stilts.tasks.controls import MLM
from peft_stilts.tasks.sources import scored_split
from peft_stilts.train.loop import train


def run(plan: Plan) -> None:
    """Make every cell of the plan, and keep the tables of its `--runs` folder up to date.

    A training that fails (collapsed, not finite, too large) ends the cells that need it, not the others; they are named
    in an Incomplete at the end. A full disk ends everything at once.
    """
    runner, failed, lost = Runner(plan), {}, []
    for number, cell in enumerate(plan.cells, start=1):
        place, keys = f"[{number}/{len(plan.cells)}]", chain_keys(cell.stage.parent)
        if not failed.keys() & keys:
            try:
                runner.cell(cell, place)
                continue
            except FailedStage as error:
                failed[error.key] = str(error)
                print(f"{place} {error}", flush=True)
        lost.append(cell.stage.label)
    if failed:
        raise Incomplete(f"{len(failed)} trainings failed, and {len(lost)} scores are missing for it (first: "
                         f"{lost[0]}); all others were made:\n" + "\n".join(failed.values()))


class Incomplete(TrainingError):
    """Some trainings of a run failed; everything that does not need them was made."""


class FailedStage(TrainingError):
    """A training stage that failed: its key and label beside the cause."""

    def __init__(self, stage: Train, error: TrainingError):
        self.key = stage.key
        super().__init__(f"`{stage.label}` ({stage.key}): {error}")


def device_name(device: str) -> str:
    """Which device did the work, for the stages table: the CUDA device's name, or the CPU with its threads."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu, {torch.get_num_threads()} threads"


class Runner:
    """Makes stages on demand: an evaluation asks for its model, a model for the one below it.

    Locks are taken from an evaluation downwards, so two processes never wait for each other in a circle.
    """

    def __init__(self, plan: Plan):
        self.plan, self.store = plan, Store(plan.request.runs)
        self.device = device()
        self._tokenizer: Any = None
        self.loader = Loader(plan, self.store, self.device)

    def cell(self, cell: Cell, place: str = "") -> None:
        """Score a cell unless that was done, enter its rows in the results table, drop the model when it is spent."""
        stage = cell.stage
        with self.store.claim(stage.key, waiting(stage, place)):
            if not self.store.finished(stage.key):
                self.score(stage, cell.labels, place)
        rows = results.RESULTS.read(self.store.open(stage.key) / ROWS).assign(**cell.labels)
        with self.store.claim("results"):
            self.enter(results.RESULTS, rows)
        self.mend(stage)
        if not self.plan.request.keep:
            self.drop_spent(stage.parent)

    def mend(self, stage: Evaluate) -> None:
        """Make up for a kill between committing a stage of the chain below (or `stage` itself) and what follows it:
        enter its cost in the stages table where it is missing, and clear its checkpoints."""
        keys = [key for key in (*chain_keys(stage.parent), stage.key) if self.store.finished(key)]
        with self.store.claim("results"):
            known = set(self.table(results.STAGES)["stage_key"])
            if missing := [self.store.record(key)["cost"] for key in keys if key not in known]:
                self.enter(results.STAGES, missing)
        for key in keys:
            if (self.store.root / "work" / key).is_dir():
                with self.store.claim(key):
                    if not self.store.dropped(key):     # a dropped model may be in training again
                        self.store.clear_work(key)

    def score(self, stage: Evaluate, labels: Mapping[str, Any], place: str) -> None:
        """Make an evaluation and commit it."""
        self.model(stage, place)                # what is below may take long, and is no cost of this stage
        reset_peak_memory()
        draft, began = self.fresh_draft(stage.key), time.monotonic()
        tokens = self.write_scores(stage, labels, draft, place)
        self.commit(stage, draft, {"trainable_parameters": 0, "tokens": tokens,
                                   "seconds": time.monotonic() - began, "peak_memory_bytes": peak_memory()})

    def write_scores(self, stage: Evaluate, labels: Mapping[str, Any], folder: Path, place: str) -> int:
        """Predict and score every language of a target: `folder/predictions/TARGET/test-LL` and `folder/results.csv`;
        of targets that are parallel also `folder/items/TARGET.parquet`, which items are right (evaluate/items.py).

        A split whose labels are blank is predicted, not scored, and that is said. Returns how many tokens went through
        the encoder.
        """
        form, plan, task = FORMS[stage.task.form], self.plan, stage.task
        stack, heads = self.model(stage, place)
        scorer = Scorer(stack, heads[task.trained_on] if form.head else None, self.tokenizer, stage.settings,
                        task.labels, plan.precision, self.device, stage.layer, stage.centred)
        parts = {code: (scored_rows(plan, stage, code), dev_rows(plan, stage, code)) for code in stage.languages}
        total = sum(len(some) for part in parts.values() for some in part if some is not None)
        rows: list[dict[str, Any]] = []
        tokens: list[int] = []
        judged: list[pd.DataFrame] = []
        with progress(f"{place} {stage.label}", total, "items") as step:

            def count(passed: int, items: float) -> None:
                tokens.append(passed)
                step(items)

            for code, predictions in predict(form, scorer, ((code, *part) for code, part in parts.items()), count):
                step(0, code)
                write_atomic(folder / "predictions" / task.name / f"test-{code}.{form.suffix}", form.write(predictions))
                items, split = parts[code][0], scored_split(plan.provider, task, code)
                if why := unlabelled(task.form, items) if split.labelled else "it is published without labels":
                    print(f"{place} {task.name} {code} is predicted, not scored: {why}", flush=True)
                    continue
                golds = form.golds(items)
                rows += score_rows(stage, code, split.split, predictions, golds)
                if task.name in PARALLEL:
                    judged.append(judge(task, code, predictions, golds))
        if judged:
            write_items(judged, folder, task.name)
        write_rows(results.RESULTS.frame([{**labels, **row} for row in rows]), folder)
        return sum(tokens)

    def model(self, stage: Evaluate, place: str) -> tuple[Stack, dict[str, Head]]:
        """The model that an evaluation scores and its heads by task, trained first where it is not there yet."""
        parent = stage.parent
        if parent is None or self.loader.holds(parent):
            return self.loader.model(parent, stage.quantized)
        with self.store.claim(parent.key, waiting(parent, place)):
            self.make(parent, place)
            return self.loader.model(parent)

    @property
    def tokenizer(self) -> Any:
        """The base's tokenizer; no stage changes it."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.plan.base)
        return self._tokenizer

    def make(self, stage: Train | Given, place: str) -> None:
        """Make a stage, those below it first, unless its weights are there: train it, or take it into the store."""
        if self.store.ready(stage.key):
            return
        if stage.parent is not None:
            with self.store.claim(stage.parent.key, waiting(stage.parent, place)):
                self.make(stage.parent, place)
        self.train(stage, place) if stage.kind == "train" else self.take(stage)

    def take(self, stage: Given) -> None:
        """Copy a given adapter and its heads into the store, so that the run is whole without their source."""
        draft, began = self.fresh_draft(stage.key), time.monotonic()
        shutil.copytree(stage.folder, draft / ADAPTER)
        for task, folder in stage.heads.items():
            shutil.copytree(folder, draft / HEADS / task)
        self.commit(stage, draft, {"trainable_parameters": 0, "tokens": 0, "seconds": time.monotonic() - began,
                                   "peak_memory_bytes": peak_memory()})

    def train(self, stage: Train, place: str) -> None:
        """Train a stage on top of its parent, which is there, and commit its weights."""
        settings, stack = stage.settings, self.loader.new_stack(stage)
        labels, heads, features = {}, {}, {}
        for task in stage.tasks:
            form, rows = FORMS[task.form], self.plan.data.joined(task, stage.splits[task.name], stage.limit)
            labels[task.name] = tag_set(task, rows)
            heads[task.name] = new_head(form.head, stack.encoder.config, len(labels[task.name]) or 2, stage.seed)
            features[task.name] = form.encode(rows, self.tokenizer, settings, labels[task.name])
        select = self.selection(stage, stack, dict(heads), labels)
        mixing = Mixing(settings.examples_cap, settings.temperature)
        if stage.masked is not None:
            mixing = dataclasses.replace(mixing, extra=MLM, extra_ratio=stage.masked.ratio)
            features[MLM] = self.masked(stage, features, heads, mixing)
            heads[MLM] = load_masked_head(encoder_folder(self.plan.base), stack.encoder)
            fuse(heads[MLM], self.plan.kernels)
        say = functools.partial(print, f"{place} ", flush=True)
        say(f"{sum(map(len, features.values())):,} features, {stack.describe()}")
        total = round(settings.epochs * sum(part.lengths.sum() for name, part in features.items() if name != MLM))
        with progress(f"{place} {stage.label}", total, "tokens") as step:
            try:
                record = train(Learner(stack, heads), features, settings, seed=stage.seed, mixing=mixing,
                               precision=self.plan.precision, folder=self.store.work(stage.key) / "checkpoints",
                               say=say, progress=of_training(step), select=select)
            except TrainingError as error:
                if isinstance(error.__cause__, OSError):        # a full disk: no other stage would do better
                    raise
                raise FailedStage(stage, error) from error
        draft = self.fresh_draft(stage.key)
        try:
            if stage.method == "full":
                save_encoder(stack.encoder, self.tokenizer, draft / ENCODER)
            else:
                stack.save_adapter(draft / ADAPTER)
            for task in stage.tasks:
                save_head(heads[task.name], draft / HEADS / task.name, task.name, labels[task.name])
        except SafetensorError as error:        # its own kind for 'no space left' and the like
            raise StoreError(f"{draft} cannot be written: {error}. Mend this and give the same command") from error
        self.commit(stage, draft, dataclasses.asdict(record))
        self.loader.unload(stack)

    def masked(self, stage: Train, features: Mapping[str, Any], heads: Mapping[str, Head], mixing: Mixing) -> Any:
        """As many features of masked text as the steps of a training will see, languages drawn by temperature."""
        settings, masked = stage.settings, stage.masked
        counts = {name: len(part) // heads[name].group for name, part in features.items()}
        schedule = Schedule(counts | {MLM: 1}, settings.features_per_step, settings.epochs, stage.seed, mixing)
        wanted = max(1, schedule.steps_of(MLM) * settings.features_per_step)
        texts = {code: self.plan.data.rows("text", split, None)["text"] for code, split in masked.splits.items()}
        drawn = draw_texts({code: len(lines) for code, lines in texts.items()}, wanted, masked.temperature, stage.seed)
        lines = [texts[code][line] for code, line in drawn]
        return encode_masked(lines, self.tokenizer, settings.max_length, stage.seed)

    def selection(self, stage: Train, stack: Stack, heads: Mapping[str, Head], labels: Mapping[str, tuple[str, ...]]):
        """What scores the English development rows while training, the mean over a mixture's tasks; None where the last
        weights are kept."""
        if stage.settings.keep == "last":
            return None
        parts = []
        for task in stage.tasks:
            form, items = FORMS[task.form], self.plan.data.joined(task, task.select, stage.settings.select_examples)
            scorer = Scorer(stack, heads[task.name], self.tokenizer, stage.settings, labels[task.name],
                            self.plan.precision, self.device)
            features = form.encode(items, self.tokenizer, stage.settings, labels[task.name], labelled=False)
            parts.append((task, form, scorer, items, features, form.golds(items)))

        def score() -> float:
            found = []
            for task, form, scorer, items, features, golds in parts:
                outputs = form.read(scorer, features, lambda n: None)
                found.append(task.score(form.decode(scorer, items, features, outputs), golds, "en")[task.primary])
            return sum(found) / len(found)

        return score

    def fresh_draft(self, key: str) -> Path:
        """An empty folder in which the artefact of `key` is written before it is committed."""
        draft = self.store.work(key) / "artefact"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        return draft

    def commit(self, stage: Train | Given | Evaluate, draft: Path, record: dict[str, Any]) -> None:
        """Make the draft the stage's artefact and enter its cost in the stages table."""
        spec, base = dict(stage.spec), self.plan.base
        cost = {"stage_key": stage.key, "parent_key": stage.parent.key if stage.parent else "", "kind": stage.kind,
                "bytes": sum(path.stat().st_size for path in draft.rglob("*") if path.is_file()),
                "device": device_name(self.device)} | {name: record[name] for name in (
                    "trainable_parameters", "tokens", "seconds", "peak_memory_bytes")}
        role = "score" if stage.kind == "evaluate" else stage.role
        self.store.commit(stage.key, draft, {"kind": stage.kind, "spec": spec, "parent": cost["parent_key"] or None,
                                             "label": stage.label, "role": role, "record": record, "cost": cost,
                                             "base": {"id": base.id, "revision": base.revision, "scale": base.scale}})
        with self.store.claim("results"):
            self.enter(results.STAGES, [cost])

    def table(self, table: results.Table) -> pd.DataFrame:
        """The table as it is in the folder; empty where there is none."""
        there = any((self.store.root / f"{table.name}.{kind}").is_file() for kind in ("csv", "parquet"))
        return table.read(self.store.root) if there else table.frame()

    def enter(self, table: results.Table, rows: Any) -> None:
        """Add rows to a table of the folder; what was measured anew (after editing a recipe) replaces the old row."""
        frame = pd.concat([self.table(table), table.frame(rows) if isinstance(rows, list) else rows])
        table.write(frame.drop_duplicates(table.identity, keep="last"), self.store.root)

    def drop_spent(self, stage: Train | Given | None) -> None:
        """Drop the weights of a target model once nothing in the plan still needs them."""
        if stage is None or stage.role != "target":
            return
        children = [other for other in self.plan.stages.values() if other.parent and other.parent.key == stage.key]
        if all(self.store.finished(child.key) for child in children):
            with self.store.claim(stage.key):
                self.store.drop(stage.key)


def write_rows(frame: pd.DataFrame, folder: Path) -> None:
    """Write rows of the results table as `folder`/results.csv alone."""
    results.replace_file(folder / ROWS, lambda path: frame.to_csv(path, index=False, lineterminator="\n"))


def chain_keys(stage: Train | Given | None) -> list[str]:
    """Keys of `stage` and of all below it, the lowest first."""
    return [] if stage is None else [*chain_keys(stage.parent), stage.key]


def waiting(stage: Train | Given | Evaluate, place: str):
    """What is said while another process makes the stage."""
    return lambda: print(f"{place} waiting: another process is at `{stage.label}`", flush=True)


def score_rows(stage: Evaluate, code: str, split: str, predictions: dict, golds: dict) -> list[dict[str, Any]]:
    """The results columns that one language's scores decide; every scored item has exactly one prediction."""
    if FORMS[stage.task.form].complete and predictions.keys() != golds.keys():
        raise DataError(f"{stage.task.name} {code}: {len(predictions)} predictions for {len(golds)} items")
    scores = stage.task.score(predictions, golds, code)
    return [{"language": code, "split": split, "metric": metric, "primary": metric == stage.task.primary,
             "score": scores[metric], "examples": len(golds)} for metric in stage.task.metrics]
