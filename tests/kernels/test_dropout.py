"""Hashed dropout masks: the right share of elements, no pattern, another mask for another seed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peft_stilts.kernels.dropout import draw_seed, halves, hashed, keep_mask, signed, threshold

N = 2**20


def far(share: float, p: float, n: int = N) -> float:
    """How many standard deviations the share kept of n elements is from 1 - p."""
    return abs(share - (1 - p)) / (p * (1 - p) / n) ** 0.5


def hash_in_python(offset: int, keys: tuple[int, int]) -> int:
    """The hash as Triton computes it: unsigned 32-bit numbers."""
    limit = 0xFFFFFFFF
    first, second = (key & limit for key in keys)
    h = offset ^ first
    h = ((h ^ (h >> 17)) * 0xED5AD4BB) & limit
    h = (((h ^ (h >> 11)) + second) * 0xAC4C1B51) & limit
    h = ((h ^ (h >> 15)) * 0x31848BAB) & limit
    return h ^ (h >> 14)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1))
def test_the_hash_is_that_of_unsigned_arithmetic(offset, seed):
    low, high = (torch.tensor(half, dtype=torch.int32) for half in halves(seed))
    found = hashed(torch.tensor([signed(offset)], dtype=torch.int32), low, high)
    assert found.item() == signed(hash_in_python(offset, halves(seed)))


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63 - 1, 123456789012345678])
def test_the_share_kept_is_that_of_independent_draws(p, seed):
    assert far(keep_mask((N,), p, seed).double().mean().item(), p) < 5


@pytest.mark.parametrize("lag", [1, 2, 16, 64, 1024, 4096])
@pytest.mark.parametrize("seed", [3, 2**40 + 17, 987654321987654321])
def test_elements_are_not_correlated(lag, seed):
    kept = keep_mask((N,), 0.1, seed).double() - 0.9
    correlation = (kept[lag:] * kept[:-lag]).mean() / 0.09
    assert abs(correlation.item()) < 5 / N**0.5


def test_seeds_give_masks_that_are_not_correlated():
    masks = torch.stack([keep_mask((N,), 0.1, seed).double() for seed in (5, 6, 5 + 2**32, 2**62 + 5)]) - 0.9
    correlations = masks @ masks.T / N / 0.09 * (1 - torch.eye(4, dtype=torch.float64))
    assert correlations.abs().max().item() < 5 / N**0.5


def test_the_kept_elements_of_a_block_of_64_are_binomial():
    """Sums over blocks of 64 have the mean and the variance of independent draws (a lattice would narrow them)."""
    sums = keep_mask((N,), 0.1, 77).double().view(-1, 64).sum(dim=1)
    assert abs(sums.mean().item() - 57.6) < 5 * (5.76 / len(sums)) ** 0.5
    assert abs(sums.var().item() / 5.76 - 1) < 5 * (2 / len(sums)) ** 0.5


def test_shape_and_extremes():
    assert keep_mask((3, 5), 0.5, 9).flatten().tolist() == keep_mask((15,), 0.5, 9).tolist()
    assert keep_mask((1000,), 0.0, 9).all()
    assert keep_mask((0, 4), 0.5, 9).shape == (0, 4)
    assert threshold(0.5) == 0


def test_a_drawn_seed_follows_torchs_generator():
    torch.manual_seed(4)
    first, second = draw_seed(), draw_seed()
    torch.manual_seed(4)
    assert draw_seed() == first != second and 0 <= first < 2**63
