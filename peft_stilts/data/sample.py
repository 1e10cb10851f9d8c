"""Which task and which of its items each optimizer step sees: mixtures of tasks, drawn from the seed alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from peft_stilts.digest import derived_seed


class Order:
    """Which features each optimizer step sees: a permutation an epoch, drawn from (seed, epoch) alone.

    `count` features, `per_step` of them a step (an epoch's last step takes what is left), `epochs` may be a fraction.
    """

    def __init__(self, count: int, per_step: int, epochs: float, seed: int):
        self.count, self.per_step, self.seed = count, per_step, seed
        self.steps_per_epoch = math.ceil(count / per_step)
        self.total = max(1, round(epochs * self.steps_per_epoch))
        self._drawn: tuple[int, list[int]] = (-1, [])

    def indices(self, step: int) -> list[int]:
        """The features of step `step` (from 0)."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._drawn[0] != epoch:
            generator = torch.Generator().manual_seed(derived_seed("order", self.seed, epoch))
            self._drawn = (epoch, torch.randperm(self.count, generator=generator).tolist())
        return self._drawn[1][place * self.per_step : (place + 1) * self.per_step]


@dataclass(frozen=True)
class Mixing:
    """How tasks share the steps of one training.

    `cap`: items of a task count up to so many (jiant's train_examples_cap); None: all. `temperature`: a task is drawn
    with probability proportional to min(n, cap)^(1/temperature); 1 is proportional sampling. `extra`: name of a task
    that gets `extra_ratio` of all steps, on top of the others' (masked words of any language).
    """

    cap: int | None = None
    temperature: float = 1.0
    extra: str = ""
    extra_ratio: float = 0.0


PROPORTIONAL = Mixing()
"""All rows, in proportion; with one task, just its own order."""


class Schedule:
    """The task of every step, one a step, and its items (rule: jiant's ProportionalMultiTaskSampler; its steps in all
    are the sum over tasks of epochs x steps of min(n, cap) items).

    `counts`: items of each task; the extra task's are whatever there is, it takes no part in the sum. With one task
    this is its Order. Everything follows from the arguments: nothing is remembered from step to step.
    """

    def __init__(self, counts: Mapping[str, int], per_step: int, epochs: float, seed: int,
                 mixing: Mixing = PROPORTIONAL):
        weighed = {name: min(count, mixing.cap or count) for name, count in counts.items() if name != mixing.extra}
        self.names = [*weighed, *([mixing.extra] if mixing.extra else [])]
        own = sum(Order(count, per_step, epochs, seed).total for count in weighed.values())
        self.total = round(own / (1 - mixing.extra_ratio))
        self.steps_per_epoch = max(1, round(self.total / epochs))
        shares = np.array(list(weighed.values()), dtype=np.float64) ** (1 / mixing.temperature)
        shares = [*(shares / shares.sum() * (1 - mixing.extra_ratio)), *([mixing.extra_ratio] if mixing.extra else [])]
        draws = np.random.Generator(np.random.PCG64(derived_seed("mixture", seed))).random(self.total)
        self._task = np.minimum(np.searchsorted(np.cumsum(shares), draws, side="right"), len(shares) - 1)
        self._before = np.zeros(self.total, dtype=np.int64)
        for task in range(len(shares)):
            mine = self._task == task
            self._before[mine] = np.arange(mine.sum())
        self._orders = {name: Order(count, per_step, epochs, seed) for name, count in counts.items()}

    def steps_of(self, name: str) -> int:
        """How many of the steps are the task's."""
        return int((self._task == self.names.index(name)).sum())

    def task(self, step: int) -> str:
        """The task of step `step` (from 0)."""
        return self.names[self._task[step]]

    def at(self, step: int) -> tuple[str, list[int]]:
        """The task of step `step` (from 0), and the numbers of its items."""
        name = self.task(step)
        return name, self._orders[name].indices(int(self._before[step]))


def draw_texts(sizes: Mapping[str, int], count: int, temperature: float, seed: int) -> list[tuple[str, int]]:
    """`count` (language, line) draws: languages with probability proportional to size^(1/temperature) (Conneau et al.
    2020, XLM-R, section 3.1: exponent 0.3), lines of a language in a random order, each once before any comes again."""
    names = list(sizes)
    shares = np.array([sizes[name] for name in names], dtype=np.float64) ** (1 / temperature)
    generator = np.random.Generator(np.random.PCG64(derived_seed("texts", seed)))
    chosen = generator.choice(len(names), size=count, p=shares / shares.sum())
    lines = {}
    for place, name in enumerate(names):
        wanted = int((chosen == place).sum())
        rounds = -(-wanted // sizes[name])
        lines[place] = iter([line for _ in range(rounds) for line in generator.permutation(sizes[name]).tolist()])
    return [(names[place], next(lines[place])) for place in chosen.tolist()]
