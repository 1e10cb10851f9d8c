"""Fast random draws that depend on nothing but a seed's name."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

import numpy as np

from peft_stilts.miniature.world import WORLD_SEED

T = TypeVar("T")
_BLOCK = 4096


def seed_of(*names: object) -> int:
    """A 64-bit seed from the world's seed and any names: SHA-256, so the same in every process and on every machine."""
    text = "\x1f".join(map(str, (WORLD_SEED, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


class Dice:
    """Uniform draws from one numpy PCG64 stream, taken in blocks because single numpy draws are slow."""

    def __init__(self, *names: object):
        self._generator = np.random.Generator(np.random.PCG64(seed_of(*names)))
        self._block: list[float] = []

    def uniform(self) -> float:
        """The next number in [0, 1)."""
        if not self._block:
            self._block = self._generator.random(_BLOCK).tolist()
        return self._block.pop()

    def chance(self, probability: float) -> bool:
        """True with `probability`."""
        return self.uniform() < probability

    def between(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return low + int(self.uniform() * (high - low + 1))

    def choice(self, items: Sequence[T]) -> T:
        """One of `items`, all alike."""
        return items[int(self.uniform() * len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """`items` in random order."""
        keys = [self.uniform() for _ in items]
        return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]


class Weighted:
    """A fixed discrete distribution over `items`; `draw` takes one."""

    def __init__(self, items: Sequence[str], weights: Sequence[float]):
        self.items = tuple(items)
        self._cumulative = list(accumulate(weights))

    def draw(self, dice: Dice) -> str:
        """One item, with probability proportional to its weight."""
        point = dice.uniform() * self._cumulative[-1]
        return self.items[min(bisect_right(self._cumulative, point), len(self.items) - 1)]


def zipf(items: Sequence[str]) -> Weighted:
    """`items` with Zipf's frequencies 1, 1/2, 1/3, … in the given order."""
    return Weighted(items, [1 / rank for rank in range(1, len(items) + 1)])
