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
from peft_stilts.errors import DataError, StoreError
from peft_stilts.evaluate.predict import FORMS, Scorer
from peft_stilts.grid.base import encoder_folder, load_tokenizer
from peft_stilts.grid.plan import Cell, Evaluate, Plan, Train
from peft_stilts.machine import peak_memory, reset_peak_memory
from peft_stilts.model import stack as stacks
from peft_stilts.model.adapter_io import load_head, save_encoder, save_head
from peft_stilts.model.encoder import Encoder, load_encoder
from peft_stilts.model.heads import Head, new_head
from peft_stilts.model.learner import Learner
from peft_stilts.model.stack import Stack
from peft_stilts.progress import of_training, progress
from peft_stilts.store import Store, write_atomic
from peft_stilts.train.loop import train
from peft_stilts.train.optim import free_memory

ENCODER, ADAPTER, HEAD, ROWS = "encoder", "adapter", "head", "results.csv"
"""Names inside an artefact: a full stage's encoder, a LoRA stage's adapter, the task's head; an evaluation's rows."""


def run(plan: Plan) -> None:
    """Make every cell of the plan, and keep the tables of its `--runs` folder up to date."""
    runner = Runner(plan)
    for number, cell in enumerate(plan.cells, start=1):
        runner.cell(cell, f"[{number}/{len(plan.cells)}]")


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
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer: Any = None
        self._loaded: tuple[str | None, Stack, Head | None] | None = None

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
        self.model(stage.parent, place)         # what is below may take long, and is no cost of this stage
        reset_peak_memory()
        draft, began = self.fresh_draft(stage.key), time.monotonic()
        tokens = self.write_scores(stage, labels, draft, place)
        self.commit(stage, draft, {"trainable_parameters": 0, "tokens": tokens,
                                   "seconds": time.monotonic() - began, "peak_memory_bytes": peak_memory()})

    def write_scores(self, stage: Evaluate, labels: Mapping[str, Any], folder: Path, place: str) -> int:
        """Predict and score every language of a target: `folder/predictions/TARGET/test-LL` and `folder/results.csv`.

        Returns how many tokens went through the encoder.
        """
        form, plan = FORMS[stage.task.form], self.plan
        stack, head = self.model(stage.parent, place)
        scorer = Scorer(stack, head if form.head else None, self.tokenizer, stage.settings, plan.precision,
                        self.device, stage.layer)
        rows: list[dict[str, Any]] = []
        tokens: list[int] = []
        total = sum(len(self.rows(stage, code)) for code in stage.languages)
        with progress(f"{place} {stage.label}", total, "items") as step:
            for code in stage.languages:
                items = self.rows(stage, code)
                predictions = form.predict(scorer, items, tokens.append)
                step(len(items), code)
                write_atomic(folder / "predictions" / stage.task.name / f"test-{code}.{form.suffix}",
                             form.write(predictions))
                rows += score_rows(stage, code, self.split(stage, code).split, predictions, form.golds(items))
        write_rows(results.RESULTS.frame([{**labels, **row} for row in rows]), folder)
        return sum(tokens)

    def rows(self, stage: Evaluate, code: str):
        return self.plan.data.rows(stage.task.form, self.split(stage, code), stage.limit)

    def split(self, stage: Evaluate, code: str):
        return stage.task.test(self.plan.provider.language(code))

    def model(self, stage: Train | None, place: str) -> tuple[Stack, Head | None]:
        """The model that `stage` trained (None: the base encoder), trained first where it is not there yet."""
        key = stage.key if stage else None
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None
            if stage is None:
                free_memory()
                self._loaded = (key, stacks.lora(self.base_encoder(), [], None).to(self.device), None)
            else:
                with self.store.claim(stage.key, waiting(stage, place)):
                    if not self.store.ready(stage.key):
                        self.train(stage, place)
                    self._loaded = (key, *self.load(stage))
        return self._loaded[1:]

    def load(self, stage: Train) -> tuple[Stack, Head]:
        """The finished model of a training stage, its files checked, nothing trainable."""
        folder = self.store.open(stage.key)
        free_memory()           # of the training's model
        if stage.method == "full":
            stack = stacks.lora(load_encoder(folder / ENCODER), [], None)
        else:
            below = [self.store.open(key) / ADAPTER for key in chain_keys(stage)]
            stack = stacks.lora(self.base_encoder(), below, None)
        head = load_head(folder / HEAD, stack.encoder.config, stage.task.name, FORMS[stage.task.form].head)
        return stack.to(self.device), head.to(self.device)

    def base_encoder(self) -> Encoder:
        """The encoder the run starts from, under the identity that tables and adapter files give it."""
        base = self.plan.base
        encoder = load_encoder(encoder_folder(base))
        return dataclasses.replace(encoder, identity=encoder.identity | {"id": base.id, "revision": base.revision})

    @property
    def tokenizer(self) -> Any:
        """The base's tokenizer; no stage changes it."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.plan.base)
        return self._tokenizer

    def train(self, stage: Train, place: str) -> None:
        """Train a stage on top of its parent (made first if need be) and commit its weights."""
        parent = stage.parent
        if parent is not None:
            with self.store.claim(parent.key, waiting(parent, place)):
                if not self.store.ready(parent.key):
                    self.train(parent, place)
        plan, settings = self.plan, stage.settings
        stack = self.new_stack(stage)
        form = FORMS[stage.task.form]
        head = new_head(form.head, stack.encoder.config, form.num_labels(stage.task), stage.seed)
        features = form.encode(plan.data.rows(stage.task.form, stage.task.train, stage.limit), self.tokenizer, settings)
        say = functools.partial(print, f"{place} ", flush=True)
        say(f"{len(features):,} features, {stack.describe()}")
        total = round(settings.epochs * features.lengths.sum())
        with progress(f"{place} {stage.label}", total, "tokens") as step:
            record = train(Learner(stack, head), features, settings, seed=stage.seed, precision=plan.precision,
                           folder=self.store.work(stage.key) / "checkpoints", say=say, progress=of_training(step),
                           select=self.selection(stage, stack, head))
        draft = self.fresh_draft(stage.key)
        try:
            if stage.method == "full":
                save_encoder(stack.encoder, self.tokenizer, draft / ENCODER)
            else:
                stack.save_adapter(draft / ADAPTER)
            save_head(head, draft / HEAD, stage.task.name)
        except SafetensorError as error:        # its own kind for 'no space left' and the like
            raise StoreError(f"{draft} cannot be written: {error}. Mend this and give the same command") from error
        self.commit(stage, draft, dataclasses.asdict(record))

    def new_stack(self, stage: Train) -> Stack:
        """What a training stage starts from: its parent's encoder, or the base under its parents' adapters."""
        free_memory()           # of the model before
        parent = stage.parent
        if stage.method == "full":
            return stacks.full(load_encoder(self.store.open(parent.key) / ENCODER) if parent else self.base_encoder())
        below = [self.store.open(key) / ADAPTER for key in chain_keys(parent)]
        return stacks.lora(self.base_encoder(), below, stage.lora, stage.task.name, stage.seed)

    def selection(self, stage: Train, stack: Stack, head: Head):
        """What scores the English development rows while training; None where the last weights are kept."""
        if stage.settings.keep == "last":
            return None
        items = self.plan.data.rows(stage.task.form, stage.task.select, stage.settings.select_examples)
        form = FORMS[stage.task.form]
        golds = form.golds(items)
        scorer = Scorer(stack, head, self.tokenizer, stage.settings, self.plan.precision, self.device)
        return lambda: stage.task.score(form.predict(scorer, items, lambda n: None), golds, "en")[stage.task.primary]

    def fresh_draft(self, key: str) -> Path:
        """An empty folder in which the artefact of `key` is written before it is committed."""
        draft = self.store.work(key) / "artefact"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        return draft

    def commit(self, stage: Train | Evaluate, draft: Path, record: dict[str, Any]) -> None:
        """Make the draft the stage's artefact and enter its cost in the stages table."""
        spec, base = dict(stage.spec), self.plan.base
        cost = {"stage_key": stage.key, "parent_key": stage.parent.key if stage.parent else "", "kind": stage.kind,
                "bytes": sum(path.stat().st_size for path in draft.rglob("*") if path.is_file()),
                "device": device_name(self.device)} | {name: record[name] for name in (
                    "trainable_parameters", "tokens", "seconds", "peak_memory_bytes")}
        role = stage.role if stage.kind == "train" else "score"
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

    def drop_spent(self, stage: Train | None) -> None:
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


def chain_keys(stage: Train | None) -> list[str]:
    """Keys of the stages whose adapters make the stack of `stage`, the lowest first."""
    return [] if stage is None else [*chain_keys(stage.parent), stage.key]


def waiting(stage: Train | Evaluate, place: str):
    """What is said while another process makes the stage."""
    return lambda: print(f"{place} waiting: another process is at `{stage.label}`", flush=True)


def score_rows(stage: Evaluate, code: str, split: str, predictions: dict, golds: dict) -> list[dict[str, Any]]:
    """The results columns that one language's scores decide; every scored item has exactly one prediction."""
    if predictions.keys() != golds.keys():
        raise DataError(f"{stage.task.name} {code}: {len(predictions)} predictions for {len(golds)} items")
    scores = stage.task.score(predictions, golds, code)
    return [{"language": code, "split": split, "metric": metric, "primary": metric == stage.task.primary,
             "score": scores[metric], "examples": len(golds)} for metric in stage.task.metrics]
