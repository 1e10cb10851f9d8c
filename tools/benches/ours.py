"""This program as a contestant: train/loop.py's training on packs, and evaluate/predict.py's predictions."""

from __future__ import annotations

import dataclasses
import gc
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch

from benches.contestant import Turns, tell
from benches.lengths import draw
from benches.workload import TASKS, Job, counts_of, features, passage, plan
from peft_stilts.data.encode import Features
from peft_stilts.data.sample import Schedule
from peft_stilts.evaluate.predict import Scorer
from peft_stilts.grid.memory import Load, training_memory
from peft_stilts.kernels.choose import fuse
from peft_stilts.machine import device, peak_memory, reset_peak_memory
from peft_stilts.model import stack as stacks
from peft_stilts.model.encoder import random_encoder
from peft_stilts.model.heads import new_head
from peft_stilts.model.learner import Learner
from peft_stilts.spec import LoraSettings
from peft_stilts.train import checkpoint
from peft_stilts.train.loop import TrainingRecord
from peft_stilts.train.loop import train as train_learner

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "_scaled_dot_product", "matmul", "mkl_linear")
"""Beginnings of the names of torch's matrix products in a profile."""


def lora_settings(job: Job) -> LoraSettings | None:
    """Rank 16 and alpha 32 (twice the rank) on all six maps; None in full fine-tuning."""
    return LoraSettings(rank=job.rank, alpha=2.0 * job.rank, dropout=job.lora_dropout) if job.method == "lora" else None


def new_learner(job: Job) -> Learner:
    """Encoder and head of the job with its random weights: the same for every contestant."""
    form, labels = TASKS[job.task]
    encoder, lora = random_encoder(job.config, job.seed), lora_settings(job)
    stack = stacks.lora(encoder, [], lora, job.task, job.seed) if lora else stacks.full(encoder)
    return Learner(stack, {job.task: new_head(form, job.config, labels, job.seed)})


def training_data(job: Job) -> Features:
    """Features such that the training's own order meets the job's steps one by one; those it does not reach make the
    data's vocabulary that of a whole training."""
    steps, (count, items) = plan(job), plan_items(job)
    extra = draw(counts_of(job), count - len(steps.lengths), np.random.default_rng([job.seed, 4]))
    if len(items) != job.total:
        raise AssertionError(f"the training would take {len(items)} steps instead of {job.total}")
    place = np.full(count, -1)
    for here, wanted in zip(items, steps.plain):
        place[here] = wanted
    place[place < 0] = np.arange(len(steps.lengths), count)
    made = features(job, np.concatenate([steps.lengths, extra]))
    labels = {name: values[place] for name, values in made.labels.items()}
    return Features([made.input_ids[i] for i in place], labels, np.arange(count, dtype=np.int64))


def load_of(job: Job, data: Features) -> Load:
    """What the fullest step of a training puts into memory."""
    sizes = [data.lengths[items] for items in plan_items(job)[1]]
    fullest = max(sizes, key=sum).astype(float)
    words = len(np.unique(np.concatenate(data.input_ids)))
    pack = min(int(fullest.sum()), job.size)
    return Load(pack, float((fullest**2).sum() / fullest.sum()), words)


def plan_items(job: Job) -> tuple[int, list[list[int]]]:
    """How many features the training data have, and those of each optimizer step, by their numbers in it."""
    count = max(job.pool, job.total * job.per_step)
    order = Schedule({job.task: count}, job.per_step, job.settings().epochs, job.seed)
    return count, [order.at(step)[1] for step in range(order.total)]


def train_unsaved(job: Job, learner: Learner, data: Features, progress: Callable, say: Callable = print) \
        -> TrainingRecord:
    """The program's training without checkpoints, which Trainer does not write here either. (They may take 5 % of a
    training's time, and would fall due while a contestant waits for its turn.)"""
    with mock.patch.object(checkpoint, "SHORTEST_SECONDS", math.inf), tempfile.TemporaryDirectory() as folder:
        return train_learner(learner, {job.task: data}, job.settings(), seed=job.seed, folder=Path(folder),
                             precision=job.precision, progress=progress, say=say)


def train(job: Job) -> dict:
    """The training of `job`, in turns; what it came to: peak memory beside the plan's estimate, losses, profile."""
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) if job.profile else None
    data = training_data(job)
    estimate = training_memory(job.config, job.settings(), lora_settings(job), kernels=job.kernels,
                               precision=job.precision, load=load_of(job, data))
    learner = new_learner(job)
    fuse(learner.stack.model, job.kernels)
    turns = Turns([job.warm, *[job.steps] * job.rounds, job.profile], profiler)
    losses: list[float] = []

    def progress(step: int, total: int, tokens: int, loss: float) -> None:
        losses.append(loss)
        turns.step(tokens)

    tell({"ready": True})
    turns.wait()
    said: list[str] = []
    record = train_unsaved(job, learner, data, progress, said.append)
    return {"peak_bytes": record.peak_memory_bytes, "estimate_bytes": estimate, "losses": losses, "said": said,
            "token_budget": record.token_budget, "profile": profiled(profiler) if profiler else None}


def profiled(profiler: torch.profiler.profile, most: int = 16) -> dict:
    """Of the profiled step: seconds in all, in matrix products, and of the operations that took longest by
    themselves."""
    found = {event.key.removeprefix("aten::"): event.self_cpu_time_total / 1e6 for event in profiler.key_averages()}
    total = sum(found.values())
    largest = sorted(found.items(), key=lambda item: -item[1])[:most]
    return {"seconds": total, "products": sum(seconds for name, seconds in found.items() if name.startswith(PRODUCTS)),
            "operations": dict(largest)}


def sweep(job: Job) -> dict:
    """A training of one step for each of `job.sizes` tokens a pack, one a turn; the first turn warms up."""
    learner = new_learner(job)
    fuse(learner.stack.model, job.kernels)
    tell({"ready": True})
    for size in (job.sizes[0], *job.sizes):       # the first one twice: it warms up
        one = dataclasses.replace(job, size=size)
        data, turns = training_data(one), Turns([1])
        turns.wait()
        train_unsaved(one, learner, data, lambda step, total, tokens, loss: turns.step(tokens))     # noqa: B023
    return {}


def predict(job: Job) -> dict:
    """A pass over the job's features a turn, without gradients, by evaluate/predict.py's Scorer; a sweep: a pass over
    them in packs of each of `job.sizes`, after one that warms up."""
    data = features(job, passage(job))
    learner = new_learner(job).eval().to(device())
    fuse(learner.stack.model, job.kernels)
    sizes = [job.sizes[0], *job.sizes] if job.sizes else [job.size] * (job.warm + job.rounds)
    turns = Turns([1] * len(sizes))
    tell({"ready": True})
    gc.collect()
    reset_peak_memory()
    turns.wait()
    for turn, size in enumerate(sizes):
        settings = dataclasses.replace(job, size=size).settings()
        scorer = Scorer(learner.stack, learner.heads[job.task], SimpleNamespace(pad_token_id=1), settings,
                        precision=job.precision, device=device())
        logits = scorer.logits(data, lambda tokens: None, per_item=job.task == "pairs")
        if job.out and turn == 0:
            np.savez(job.out, *logits)
        turns.step((turn + 1) * int(data.lengths.sum()))
    return {"peak_bytes": peak_memory()}
