"""Exact nearest neighbours against all cosines in float64: any tiles, equal vectors, near ties, hostile numbers."""

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from peft_stilts.evaluate import search
from peft_stilts.evaluate.search import error_bound, nearest, neighbours

usual = settings(deadline=None, max_examples=60)
blocks = st.sampled_from([1, 3, 7, 33, 4096])


def tiles(block=4096, spare=4):
    """Tiles of another size, and fewer candidates."""
    return mock.patch.multiple(search, BLOCK=block, SPARE=spare)


def brute(x, y, k):
    """Cosines and places of the k nearest of every x among all y: float64 throughout, rounded to float32 at the end."""
    x, y = (side.double().numpy() for side in (x, y))
    x, y = (side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12) for side in (x, y))
    cosines = np.array([(y * row).sum(axis=1) for row in x]).reshape(len(x), len(y)).astype(np.float32) + np.float32(0)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, order, axis=1), order


def check(x, y, k):
    """That `neighbours` and `nearest` find what `brute` finds."""
    to_y, in_y, to_x, in_x = neighbours(x, y, k)
    for cosines, places, (values, order) in ((to_y, in_y, brute(x, y, k)), (to_x, in_x, brute(y, x, k))):
        assert cosines.dtype == torch.float32 and places.dtype == torch.int64
        assert cosines.shape == places.shape == values.shape
        np.testing.assert_array_equal(places.numpy(), order)
        np.testing.assert_allclose(cosines.numpy(), values, rtol=0, atol=1e-7)
    if len(y):
        assert nearest(x, y).tolist() == brute(x, y, 1)[1][:, 0].tolist()


def naive(queries, candidates):
    """The first candidate of the highest cosine, by loops in float64."""
    found = []
    for query in np.asarray(queries, np.float64):
        cosines = [float(query @ other / (np.linalg.norm(query) * np.linalg.norm(other)))
                   for other in np.asarray(candidates, np.float64)]
        found.append(max(range(len(cosines)), key=lambda place: (cosines[place], -place)))
    return found


@pytest.mark.parametrize("count, size, block", [(1, 1, 2048), (7, 5, 2048), (50, 60, 7), (33, 3, 1), (64, 64, 64)])
def test_the_nearest_is_the_highest_cosine_in_any_blocks(monkeypatch, count, size, block):
    generator = torch.Generator().manual_seed(count)
    queries = torch.randn(count, 16, generator=generator) * 100
    candidates = torch.randn(size, 16, generator=generator) * torch.rand(size, 1, generator=generator)
    monkeypatch.setattr(search, "BLOCK", block)
    found = nearest(queries, candidates)
    assert found.dtype == torch.int64 and found.tolist() == naive(queries, candidates)


@settings(deadline=None, max_examples=50)
@given(queries=st.lists(st.tuples(*3 * [st.integers(-1, 1)]).filter(any), min_size=1, max_size=6),
       candidates=st.lists(st.sampled_from([(1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0)]), min_size=1, max_size=8))
def test_of_equal_candidates_the_first_is_taken(queries, candidates):
    # Cosines with axes are the query's own components: equal ones are equal to the last bit.
    expected = [max(range(len(candidates)), key=lambda place, query=query: (
        sum(a * b for a, b in zip(query, candidates[place])), -place)) for query in queries]
    found = nearest(torch.tensor(queries, dtype=torch.float32), torch.tensor(candidates, dtype=torch.float32))
    assert found.tolist() == expected


def test_length_does_not_count_but_direction():
    assert nearest(torch.tensor([[2.0, 0.1]]), torch.tensor([[100.0, 100.0], [0.001, 0.0]])).tolist() == [1]


def test_minus_zero_is_zero():
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1e-60, 1.0], [0.0, 1.0]], dtype=torch.float64)
    assert neighbours(x, y, 2)[1].tolist() == [[0, 1]]           # cosines -1e-60 and 0: both are 0 in float32


@usual
@given(many=st.integers(0, 90), few=st.integers(0, 40), width=st.sampled_from([1, 5, 64]), k=st.integers(1, 6),
       spread=st.sampled_from([1.0, 1e-2, 1e-4, 1e-6, 1e-8]), seed=st.integers(0, 10**6), block=blocks,
       spare=st.sampled_from([0, 4]), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_near_ties_are_decided_by_float64(many, few, width, k, spread, seed, block, spare, dtype):
    """All vectors in one direction but for `spread`: from 1e-4 on float32 products are wrong about the order."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(width, generator=generator, dtype=torch.float64)
    x, y = ((centre + spread * torch.randn(count, width, generator=generator, dtype=torch.float64)).to(dtype)
            for count in (many, few))
    with tiles(block, spare):
        check(x, y, k)


@usual
@given(different=st.integers(1, 9), many=st.integers(0, 70), few=st.integers(0, 70), k=st.integers(1, 6),
       scaled=st.booleans(), seed=st.integers(0, 10**6), block=blocks)
def test_equal_vectors_come_by_their_index(different, many, few, k, scaled, seed, block):
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(different, 3, generator=generator)
    pool[0] = 0
    x, y = (pool[torch.randint(different, (count,), generator=generator)] for count in (many, few))
    if scaled:
        y = y * torch.tensor([0.25, 1, 8])[torch.randint(3, (few, 1), generator=generator)]
    with tiles(block):
        check(x, y, k)


@pytest.mark.parametrize("noise", [0, 1e-7])
def test_one_vector_for_all_costs_no_comparison_with_all(monkeypatch, noise):
    """A collapsed encoder: equal vectors are searched once; only unequal ones may need all products in float64."""
    x, y = torch.ones(300, 8), torch.ones(200, 8)
    x, y = (side * (1 + noise * torch.randn(side.shape, generator=torch.Generator().manual_seed(1))) for side in (x, y))
    calls = []
    exhaustive = search._exhaustive
    monkeypatch.setattr(search, "_exhaustive", lambda *given: calls.append(1) or exhaustive(*given))
    check(x, y, 4)
    assert bool(calls) == bool(noise)


def test_most_vectors_are_settled_by_their_candidates(monkeypatch):
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(400, 64, generator=generator), torch.randn(300, 64, generator=generator)
    monkeypatch.setattr(search, "_exhaustive", None)
    check(x, y, 4)


@pytest.mark.parametrize("many, few, k", [(0, 0, 4), (0, 3, 4), (3, 0, 4), (1, 1, 1), (2, 3, 4), (5, 40, 33)])
def test_fewer_vectors_than_neighbours_asked(many, few, k):
    generator = torch.Generator().manual_seed(3)
    check(torch.randn(many, 6, generator=generator), torch.randn(few, 6, generator=generator), k)


def test_vectors_of_any_length_and_layout():
    generator = torch.Generator().manual_seed(4)
    x, y = torch.randn(40, 9, generator=generator), torch.randn(50, 9, generator=generator)
    expected = neighbours(x, y, 3)[1].tolist()
    assert neighbours(x.T.contiguous().T, y[:, None].expand(-1, 2, -1)[:, 1], 3)[1].tolist() == expected
    lengths = 2.0 ** torch.randint(-35, 100, (90, 1), generator=generator)          # exact in float32
    assert neighbours(x * lengths[:40], y * lengths[40:], 3)[1].tolist() == expected
    x, y = x.double() * 1e150, y.double() * 1e150
    assert neighbours(x, y, 3)[1].tolist() == expected
    check(torch.full((3, 4), 1e-30), torch.full((5, 4), 1e-30), 2)                  # shorter than SHORTEST: cosines ~ 0
    x, y = (torch.randn(20, 8, generator=generator).bfloat16() for _ in range(2))
    check(x, y, 3)


def test_vectors_that_are_not_finite_count_as_zero():
    generator = torch.Generator().manual_seed(5)
    x, y = torch.randn(40, 6, generator=generator), torch.randn(50, 6, generator=generator)
    x[3, 1], x[4, 2], y[7, 0], y[8] = torch.nan, torch.inf, -torch.inf, torch.nan
    zeroed_x, zeroed_y = x.clone(), y.clone()
    zeroed_x[3:5], zeroed_y[7:9] = 0, 0
    for found, expected in zip(neighbours(x, y, 3), neighbours(zeroed_x, zeroed_y, 3)):
        assert found.tolist() == expected.tolist()
    check(zeroed_x, zeroed_y, 3)


def test_very_long_vectors_where_small_numbers_are_zero():
    generator = torch.Generator().manual_seed(8)
    x, y = torch.randn(30, 64, generator=generator), torch.randn(40, 64, generator=generator)
    expected = neighbours(x, y, 3)[1].tolist()
    try:
        torch.set_flush_denormal(True)          # one over their lengths would be 0 in float32
        assert neighbours(x * 2.0**125, y * 2.0**125, 3)[1].tolist() == expected
    finally:
        torch.set_flush_denormal(False)


def test_vectors_that_share_a_hash_are_not_taken_for_one():
    generator = torch.Generator().manual_seed(9)
    x, y = torch.randn(30, 6, generator=generator), torch.randn(40, 6, generator=generator).repeat(2, 1)
    with mock.patch.object(torch, "randint", lambda low, high, size, generator: torch.zeros(size, dtype=torch.int64)):
        check(x, y, 3)


@usual
@given(width=st.integers(1, 300), seed=st.integers(0, 10**6), positive=st.booleans())
def test_float32_products_are_within_their_bound(width, seed, positive):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(8, width, generator=generator) for _ in range(2))
    sides = [search._Side(side.abs() if positive else side) for side in (x, y)]
    rows = slice(0, 8)
    single, double = ([side.units(rows, work) for side in sides] for work in (torch.float32, torch.float64))
    error = (single[0] @ single[1].T).double() - double[0] @ double[1].T
    assert error.abs().max() <= error_bound(width)
    # One product after the other, which is the worst order: even so.
    total = torch.zeros(8)
    for column in range(width):
        total += single[0][:, column] * single[1][:, column]
    assert (total.double() - (double[0] * double[1]).sum(dim=1)).abs().max() <= error_bound(width)


class Watch(TorchDispatchMode):
    """Records the largest tensor that any operation makes, the similarities computed, and float32's precision then."""

    def __init__(self):
        super().__init__()
        self.largest, self.products, self.precisions = 0, 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.largest = max(self.largest, out.numel())
            if function in (torch.ops.aten.mm.default, torch.ops.aten.mm.out):
                self.products += out.numel()
                self.precisions.add(getattr(torch.backends.cuda.matmul, "fp32_precision",
                                            torch.get_float32_matmul_precision()))
        return out


def test_one_pass_over_tiles_and_never_more_than_a_tile_in_memory():
    generator = torch.Generator().manual_seed(6)
    x, y = torch.randn(600, 8, generator=generator), torch.randn(500, 8, generator=generator)
    with tiles(64, spare=1), Watch() as watch:
        neighbours(x, y, 1)
    assert watch.products == 600 * 500                   # each similarity once, for both directions
    assert watch.largest <= 2 * 64 * 64                  # row and column of a tile's places; all would be 300,000


def test_products_are_float32_whatever_is_allowed_outside():
    generator = torch.Generator().manual_seed(7)
    x, y = torch.randn(50, 64, generator=generator), torch.randn(60, 64, generator=generator)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16), Watch() as watch:
            check(x, y, 4)
        assert torch.get_float32_matmul_precision() == "medium"
        assert watch.precisions and watch.precisions <= {"ieee", "highest"}
    finally:
        torch.set_float32_matmul_precision(before)
