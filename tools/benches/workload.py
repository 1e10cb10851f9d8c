"""What the contestants of a benchmark are given: the model's shape, the same features, and each one's order of them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import XLMRobertaConfig
from transformers.trainer_pt_utils import get_length_grouped_indices

from benches import lengths
from peft_stilts.data.encode import Features

if TYPE_CHECKING:
    from peft_stilts.spec import TrainingSettings

TASKS = {"qa": ("span", 2), "pairs": ("classification", 3)}
"""Kind of features -> form of the head and its labels."""
FEATURES_PER_STEP = {"qa": 16, "pairs": 32}
MEGABATCHES = 200
"""Optimizer steps in the epoch that length grouping plans: enough for transformers' sampler to sort 50 at a time."""
SHIFT = 2.7
"""Of Zipf and Mandelbrot's law, p(rank) ~ 1 / (rank + shift), as usually fitted to English."""


@dataclass(frozen=True)
class Shape:
    """An XLM-R of `layers` layers; the usual one of the benchmarks is XLM-R Large with 4 layers instead of 24."""

    layers: int = 4
    width: int = 1024
    heads: int = 16
    inner: int = 4096
    words: int = 250002

    def config(self, dropout: float) -> XLMRobertaConfig:
        """The configuration, with `dropout` on states and attention."""
        return XLMRobertaConfig(
            vocab_size=self.words, hidden_size=self.width, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, intermediate_size=self.inner, max_position_embeddings=514,
            type_vocab_size=1, layer_norm_eps=1e-5, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)


SMALL = Shape(2, 256, 4, 1024, 2000)
"""For the parity pass, and for --quick."""


@dataclass(frozen=True)
class Job:
    """All that a contestant's process is told. `who`: ours or the name of a peer; `purpose`: train, sweep or predict;
    `size`: tokens a pack (ours) or features a micro-batch (peers), `sizes` those of a sweep; `warm` and `rounds` of
    `steps` optimizer steps (of passes, to predict); `pool`: features of ours' training data, of which the steps see a
    part; `in_use`: words that occur in it; `same_order`: every contestant sees the same features a step (parity);
    `profile`: one more step of ours under torch's profiler; `lengths_from`: folder of data, or stored histograms."""

    who: str
    purpose: str
    task: str
    method: str
    shape: Shape = Shape()
    size: int = 0
    sizes: tuple[int, ...] = ()
    per_step: int = 16
    warm: int = 1
    steps: int = 2
    rounds: int = 3
    dropout: float = 0.1
    lora_dropout: float = 0.05
    rank: int = 16
    lr: float = 1e-5
    seed: int = 1
    threads: int = 2
    precision: str = "fp32"
    kernels: str = "eager"
    pool: int = 20000
    in_use: int = 50000
    same_order: bool = False
    profile: bool = False
    lengths_from: str | None = None
    out: str | None = None

    @property
    def total(self) -> int:
        """Optimizer steps of the whole training."""
        return self.warm + self.rounds * self.steps + self.profile

    @property
    def config(self) -> XLMRobertaConfig:
        return self.shape.config(self.dropout)

    def settings(self) -> TrainingSettings:
        """Settings of ours: Trainer's linear schedule from the first step on, the last weights kept."""
        from peft_stilts.spec import TrainingSettings

        steps_per_epoch = -(-self.pool // self.per_step)
        return TrainingSettings(lr=self.lr, epochs=self.total / steps_per_epoch, features_per_step=self.per_step,
                                tokens_per_pack=self.size, warmup_ratio=0.0, weight_decay=0.01, keep="last")

    def text(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def read(cls, text: str) -> Job:
        values = json.loads(text)
        return cls(**values | {"shape": Shape(**values["shape"]), "sizes": tuple(values["sizes"])})


@dataclass(frozen=True)
class Plan:
    """Lengths of the features of a training, and the features of each optimizer step, in a random order (`plain`) and
    as transformers groups them by length (`grouped`)."""

    lengths: np.ndarray
    plain: list[list[int]]
    grouped: list[list[int]]


def counts_of(job: Job) -> dict[int, int]:
    """The histogram of the job's lengths."""
    return lengths.histogram(job.task, Path(job.lengths_from) if job.lengths_from else None)


def plan(job: Job) -> Plan:
    """The features and steps of a training, the same for every contestant of a job's seed and sizes.

    transformers' own sampler divides an epoch of MEGABATCHES steps by length; steps are taken from it evenly, from
    those of the longest features to those of the shortest, so that the few that are timed stand for the epoch, and
    dealt to the rounds so that each has long and short ones. The other contestants see the features of these very
    steps in a random order. Warming up (and profiling) repeats the middle step.
    """
    generator = np.random.default_rng([job.seed, 1])
    sizes = lengths.draw(counts_of(job), MEGABATCHES * job.per_step, generator)
    order = get_length_grouped_indices(sizes.tolist(), job.per_step,
                                       generator=torch.Generator().manual_seed(job.seed))
    groups = sizes[np.array(order).reshape(-1, job.per_step)]
    groups = groups[np.argsort(-groups.sum(axis=1), kind="stable")]
    timed = job.rounds * job.steps
    chosen = groups[((np.arange(timed) + 0.5) * len(groups) / timed).astype(int)]
    dealt: list[list[int]] = [[] for _ in range(job.rounds)]
    for place in range(timed):
        lap, turn = divmod(place, job.rounds)
        dealt[turn if lap % 2 == 0 else job.rounds - 1 - turn].append(place)
    found = [groups[len(groups) // 2]] * job.warm + [chosen[place] for turn in dealt for place in turn]
    found += [groups[len(groups) // 2]] * job.profile
    grouped = np.arange(len(found) * job.per_step).reshape(-1, job.per_step)
    plain = grouped.copy()
    plain[job.warm:job.warm + timed] = generator.permutation(plain[job.warm:job.warm + timed].ravel()).reshape(
        timed, job.per_step)
    return Plan(np.concatenate(found), plain.tolist(), (plain if job.same_order else grouped).tolist())


def passage(job: Job) -> np.ndarray:
    """(per_step,) lengths of the features of a pass that predicts: evenly from the shortest to the longest of the
    job's lengths, in a random order."""
    counts = counts_of(job)
    every = np.repeat(sorted(counts), [counts[size] for size in sorted(counts)])
    chosen = every[((np.arange(job.per_step) + 0.5) * len(every) / job.per_step).astype(int)]
    return np.random.default_rng([job.seed, 5]).permutation(chosen)


def features(job: Job, sizes: np.ndarray) -> Features:
    """Features of these lengths: word numbers by Zipf's law over `job.in_use` words spread over the vocabulary, labels
    at random. The first features are the same however many follow."""
    generator = np.random.default_rng([job.seed, 2])
    known = min(job.in_use, job.shape.words - 4)
    vocabulary = generator.permutation(np.arange(4, job.shape.words))[:known].astype(np.int32)
    ends = np.cumsum(1 / (np.arange(1, known + 1) + SHIFT))
    words = vocabulary[np.searchsorted(ends, generator.random(int(sizes.sum())) * ends[-1]).clip(max=known - 1)]
    ids = np.split(words, np.cumsum(sizes)[:-1])
    for one in ids:
        one[0], one[-1] = 0, 2
    places = np.random.default_rng([job.seed, 3]).random((len(sizes), 3))
    start = (1 + places[:, 0] * (sizes - 2)).astype(np.int64)
    end = (start + places[:, 1] * (sizes - 1 - start)).astype(np.int64)
    labels = {"start": start, "end": end} if job.task == "qa" else {"class": (places[:, 2] * 3).astype(np.int64)}
    return Features(ids, labels, np.arange(len(sizes), dtype=np.int64))


def matrix_operations(job: Job, sizes: np.ndarray, backward: bool = True) -> float:
    """Floating-point operations of the encoder's matrix products over features of these lengths, forward and, if asked,
    backward; padding, heads and everything that is no product left out.

    Linear maps: 2 a weight and token forward; backward 2 for the input's gradient and, in full, 2 for the weight's.
    Attention: 4 n^2 width a feature of n tokens forward, 8 backward. LoRA: A and B forward, the gradients of both and
    of their inputs. Nothing below the first layer's query, key and value needs a gradient with frozen embeddings.
    """
    shape, tokens = job.shape, float(sizes.sum())
    maps = [(shape.width, shape.width)] * 4 + [(shape.width, shape.inner), (shape.inner, shape.width)]
    weights = sum(into * out for into, out in maps)
    lora = job.rank * sum(into + out for into, out in maps) if job.method == "lora" else 0
    squares = float((sizes.astype(np.float64) ** 2).sum())
    per_layer = 2 * tokens * (weights + lora) + 4 * squares * shape.width
    if backward:
        per_layer += 2 * tokens * (weights * (1 if lora else 2) + 2 * lora) + 8 * squares * shape.width
    unneeded = 2 * tokens * 3 * (shape.width**2 + job.rank * shape.width) if backward and lora else 0
    return shape.layers * per_layer - unneeded
