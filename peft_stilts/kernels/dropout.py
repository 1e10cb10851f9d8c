"""Dropout from a seed and an element's place: a mask is never stored, but made again where it is needed."""

from __future__ import annotations

import math

import torch

MULTIPLIERS = (0xED5AD4BB, 0xAC4C1B51, 0x31848BAB)
"""With the shifts 17, 11, 15 and 14 the hash `triple32` (Wellons, hash-prospector). Two rounds were tried first: their
masks under two seeds were correlated."""


def draw_seed() -> int:
    """A seed from torch's CPU generator, without waiting for a device; gradient checkpointing, which puts that
    generator back, draws the same one again."""
    return int(torch.randint(2**63 - 1, ()))


def signed(number: int) -> int:
    """The int32 with the lowest 32 bits of a whole number."""
    return (number & 0xFFFFFFFF) - ((number & 0x80000000) << 1)


def halves(seed: int) -> tuple[int, int]:
    """Two int32 keys of a seed (0 <= seed < 2^63), mixed so that near seeds have nothing in common (SplitMix64's
    finaliser: Steele, Lea and Flood 2014, section 5)."""
    mixed = (seed + 0x9E3779B97F4A7C15) % 2**64
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
    mixed ^= mixed >> 31
    return signed(mixed), signed(mixed >> 32)


def threshold(p: float) -> int:
    """An element is kept where its hash, read as int32, is at least this one: with probability 1 - p to 2^-32."""
    return signed(math.floor(p * 2**32) - 2**31)


def hashed(offsets: torch.Tensor, low: torch.Tensor | int, high: torch.Tensor | int) -> torch.Tensor:
    """int32 offsets -> int32 hashes under a seed's two keys; all arithmetic wraps.

    The second key comes in between the rounds: were both added at the start, two seeds would give the same mask in
    another order.
    """
    first, second, third = map(signed, MULTIPLIERS)
    h = offsets ^ low
    h = (h ^ ((h >> 17) & 0x7FFF)) * first          # a shift of int32 copies the sign, which the & takes away
    h = ((h ^ ((h >> 11) & 0x1FFFFF)) + high) * second
    h = (h ^ ((h >> 15) & 0x1FFFF)) * third
    return h ^ ((h >> 14) & 0x3FFFF)


def keep_mask(shape: tuple[int, ...], p: float, seed: int, device: torch.device | str | None = None) -> torch.Tensor:
    """Which elements of a tensor of `shape` dropout of probability `p` keeps under `seed`: bool of that shape, on
    `device` (None: torch's default).

    The element with the row-major number o (modulo 2^32) is kept where the hash of o under the seed reaches
    `threshold(p)`. Every implementation, compiled or fused, keeps the same elements.
    """
    low, high = (torch.tensor(half, dtype=torch.int32, device=device) for half in halves(seed))
    offsets = torch.arange(math.prod(shape), device=device).to(torch.int32)
    return (hashed(offsets, low, high) >= threshold(p)).view(shape)
