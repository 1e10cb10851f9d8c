"""Whole-number sizes of a launch, without the wrapping of triton's own functions, which each launch would pay for."""

from __future__ import annotations


def parts(size: int, block: int) -> int:
    """How many blocks cover `size`."""
    return -(-size // block)


def power_of_2(size: int) -> int:
    """The least power of 2 that is not below `size`, from 1."""
    return 1 << (size - 1).bit_length()
