"""The dropout mask of kernels/dropout.py inside Triton kernels."""

from __future__ import annotations

import triton
import triton.language as tl

from peft_stilts.kernels import dropout

FIRST, SECOND, THIRD = map(tl.constexpr, dropout.MULTIPLIERS)


@triton.jit
def keep(offsets, seed0, seed1, threshold):
    """Which of a block of elements, by their row-major numbers `offsets` (any integers, taken modulo 2^32), are kept:
    a block of bools. `seed0`, `seed1`: dropout.halves(seed); `threshold`: dropout.threshold(p)."""
    h = offsets.to(tl.uint32) ^ seed0.to(tl.uint32)
    h = (h ^ (h >> 17)) * FIRST
    h = ((h ^ (h >> 11)) + seed1.to(tl.uint32)) * SECOND
    h = (h ^ (h >> 15)) * THIRD
    h = h ^ (h >> 14)
    return h.to(tl.int32, bitcast=True) >= threshold
