"""Pooling and mining against plain float64 arithmetic."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peft_stilts.evaluate import search
from peft_stilts.evaluate.retrieval import (
    best_threshold,
    centre,
    cls_pool,
    distinct,
    mean_pool,
    mine,
    mine_sentences,
)
from peft_stilts.evaluate.search import neighbours


@settings(deadline=None, max_examples=30)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8), seed=st.integers(0, 1000))
def test_pooling_is_the_mean_over_the_mask_of_a_padded_batch(lengths, seed):
    states = torch.randn(sum(lengths), 6, generator=torch.Generator().manual_seed(seed))
    cu_seqlens = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    padded, mask = torch.zeros(len(lengths), max(lengths), 6), torch.zeros(len(lengths), max(lengths), 1)
    for row, length in enumerate(lengths):
        start = int(cu_seqlens[row])
        padded[row, :length], mask[row, :length] = states[start:start + length], 1
    expected = (padded.double() * mask).sum(1) / mask.sum(1)
    assert torch.allclose(mean_pool(states, cu_seqlens).double(), expected, atol=1e-6)


def test_half_precision_states_are_added_up_in_float32():
    states = torch.full((4000, 1), 1.001, dtype=torch.bfloat16)
    pooled = mean_pool(states, torch.tensor([0, 4000], dtype=torch.int32))
    assert pooled.dtype == torch.float32 and pooled.item() == pytest.approx(states[0].item(), abs=1e-5)


def test_the_first_token_and_the_language_mean():
    states = torch.arange(12, dtype=torch.bfloat16).reshape(6, 2)
    pooled = cls_pool(states, torch.tensor([0, 1, 4, 6], dtype=torch.int32))
    assert pooled.dtype == torch.float32 and pooled.tolist() == [[0, 1], [2, 3], [8, 9]]
    assert centre(torch.tensor([[1.0, 5.0], [3.0, 6.0]])).tolist() == [[-1.0, -0.5], [1.0, 0.5]]


def dense(x, y):
    """All cosines at once, in float64 and rounded to float32 as the specification says."""
    x, y = (side.double().numpy() for side in (x, y))
    x, y = (side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12) for side in (x, y))
    return (x @ y.T).astype(np.float32).reshape(len(x), len(y))


def dense_neighbours(cosines, k):
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, order, axis=1), order


def dense_mine(x, y, k):
    """Margin mining by whole matrices and loops."""
    if not len(x) or not len(y):
        return []
    cosines = dense(x, y)
    (near_x, to_y), (near_y, to_x) = dense_neighbours(cosines, k), dense_neighbours(cosines.T, k)
    mean_x, mean_y = near_x.astype(np.float64).mean(1), near_y.astype(np.float64).mean(1)

    def score(i, j):
        half = (mean_x[i] + mean_y[j]) / 2
        return float(cosines[i, j]) / half if half else 0.0

    candidates = {(i, max(to_y[i], key=lambda j: score(i, j))) for i in range(len(x))}
    candidates |= {(max(to_x[j], key=lambda i: score(i, j)), j) for j in range(len(y))}
    found, left, right = [], set(), set()
    for i, j in sorted(candidates, key=lambda pair: (-score(*pair), pair)):
        if score(i, j) > 0 and i not in left and j not in right:
            left.add(i)
            right.add(j)
            found.append((int(i), int(j), score(i, j)))
    return found


def same(found, expected):
    assert [pair[:2] for pair in found] == [pair[:2] for pair in expected]
    assert [pair[2] for pair in found] == pytest.approx([pair[2] for pair in expected], abs=1e-12)


sizes = st.integers(0, 40)


@pytest.fixture
def block():
    """Sets search.BLOCK for the examples of a hypothesis test, and back."""
    usual = search.BLOCK
    yield lambda size: setattr(search, "BLOCK", size)
    search.BLOCK = usual


fixture_stays = settings(deadline=None, max_examples=60,
                         suppress_health_check=[HealthCheck.function_scoped_fixture])


@fixture_stays
@given(many=sizes, few=sizes, k=st.integers(1, 6), seed=st.integers(0, 10**6), size=st.sampled_from([1, 3, 7, 2048]),
       twice=st.booleans())
def test_mining_equals_whole_matrices_in_any_tiles(block, many, few, k, seed, size, twice):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(count, 5, generator=generator) for count in (many, few))
    if twice:                                  # each vector again, from another place and with another length
        x, y = torch.cat([x, 3 * x.flip(0)]), torch.cat([y, y[:7], 0.5 * y])
    block(size)
    cosines = dense(x, y)
    to_y, in_y, to_x, in_x = neighbours(x, y, k)
    for cosine, index, expected in ((to_y, in_y, cosines), (to_x, in_x, cosines.T)):
        values, order = dense_neighbours(expected, k)
        assert cosine.dtype == torch.float32 and index.dtype == torch.int64
        assert cosine.shape == values.shape == index.shape
        np.testing.assert_allclose(cosine.numpy(), values, atol=1e-7)
        np.testing.assert_array_equal(index.numpy(), order)
    same(mine(x, y, k), dense_mine(x, y, k))


@fixture_stays
@given(x=st.lists(st.tuples(*3 * [st.sampled_from([-1.0, -0.0, 0.0, 1.0])]), max_size=9),
       y=st.lists(st.sampled_from([(1.0, 0, 0), (0, 1.0, 0), (0, -1.0, 0), (0, 0, 0)]), max_size=9),
       k=st.integers(1, 4), size=st.sampled_from([1, 2, 5]))
def test_of_equals_the_lower_index_comes_first_in_any_tiles(block, x, y, k, size):
    x, y = (torch.tensor(side, dtype=torch.float32).reshape(-1, 3) for side in (x, y))
    block(size)
    in_tiles, mined = neighbours(x, y, k), mine(x, y, k)
    for found, expected in zip((in_tiles[1], in_tiles[3]), (dense(x, y), dense(x, y).T)):
        assert found.tolist() == dense_neighbours(expected + np.float32(0), k)[1].tolist()
    block(2048)
    assert mine(x, y, k) == mined
    for part, whole in zip(in_tiles, neighbours(x, y, k)):
        assert part.tolist() == whole.tolist()


def test_mining_by_hand():
    """Unit vectors in the plane; k = 1, so a score is cos(x, y) over the mean of both sides' best cosines."""
    def at(*degrees):
        angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
        return torch.stack([angle.cos(), angle.sin()], dim=1)

    # x0 0, x1 50, x2 200; y0 10, y1 40, y2 100. Best of x0 y0, of x1 y1, of x2 y2; of y0 x0, of y1 x1, of y2 x1.
    # (x2, y2) has cos 100 < 0, over a mean of (cos 100 + cos 50) / 2 > 0: dropped. (x1, y2) comes after (x1, y1).
    found = mine(at(0, 50, 200), at(10, 40, 100), k=1)
    assert [pair[:2] for pair in found] == [(0, 0), (1, 1)]
    assert [score for _, _, score in found] == pytest.approx([1.0, 1.0])
    # k = 2. cos 10 = .9848, 40 = .7660; 50 of x1-y0 is 40 degrees = .7660, y1 10 degrees = .9848: all averages equal.
    cos10, cos40 = np.cos(np.radians([10, 40]))
    assert mine(at(0, 50), at(10, 40), k=2) == [
        (0, 0, pytest.approx(cos10 / ((cos10 + cos40) / 2))), (1, 1, pytest.approx(cos10 / ((cos10 + cos40) / 2)))]
    # x0 0, x1 20; y0 9, y1 60; k = 2: both x are nearest to y0, x0 by more, so x1 is left to y1, whose best it is:
    # cos 9 = .9877, 60 = .5; 11 = .9816, 40 = .7660. Averages: x0 .7438, x1 .8738, y0 .9847, y1 .6330.
    # Margins: x0-y0 .9877 / .8643 = 1.143, x1-y0 .9816 / .9292 = 1.056, x1-y1 .7660 / .7534 = 1.017.
    found = mine(at(0, 20), at(9, 60), k=2)
    assert [(i, j, round(score, 3)) for i, j, score in found] == [(0, 0, 1.143), (1, 1, 1.017)]
    # y1 at 32: x1 is nearer to y0 (cos 11 = .9816 > cos 12 = .9781), but y0 is near to all: by margin x1 takes y1.
    # Averages: x0 .9179, x1 .9799, y0 .9847, y1 .9131. x1-y0 .9816 / .9823 = .999, x1-y1 .9781 / .9465 = 1.033.
    found = mine(at(0, 20), at(9, 32), k=2)
    assert [(i, j, round(score, 3)) for i, j, score in found] == [(0, 0, 1.038), (1, 1, 1.033)]
    assert mine(at(), at(1)) == mine(at(1), at()) == []


def test_equal_sentences_are_one_and_in_no_pair():
    assert distinct(["a", "b", "a", "c ", "c"]) == ([0, 1, 3, 4], [False, True, False, False])
    axes = torch.eye(3)
    x, y = axes[[0, 1, 0, 2]], axes[[2, 1, 0]]
    found = mine_sentences(x, y, ["eins", "zwei", "eins", "drei"], ["three", "two", "one"], k=1)
    assert found == [(1, 1, 1.0), (3, 0, 1.0)]                          # "eins" is there twice, so "one" is left over
    assert mine(x, y, k=1) == [(0, 2, 1.0), (1, 1, 1.0), (3, 0, 1.0)]


def test_the_threshold_by_hand():
    candidates = [("a", "A", 1.5), ("b", "X", 1.3), ("c", "C", 1.2), ("d", "X", 1.0)]
    # F1 of the first 1, 2, 3, 4 against two golds: 2/3, 2/4, 4/5, 4/6
    assert best_threshold(candidates, {("a", "A"), ("c", "C")}) == pytest.approx(1.1)
    assert best_threshold(candidates[::-1], {"a": "A", "c": "C"}) == pytest.approx(1.1)
    assert best_threshold(candidates, {("a", "A")}) == pytest.approx(1.4)
    assert best_threshold(candidates, {("d", "X")}) == 1.0              # the last: there is no next one
    assert best_threshold(candidates, {("e", "E")}) == 0.0
    assert best_threshold([], {("e", "E")}) == 0.0
    # equal scores cannot be cut apart: F1 of the first three together is 4/5, of "a" alone it would be 2/3
    assert best_threshold([("a", "A", 1.5), ("b", "X", 1.5), ("c", "C", 1.5), ("d", "X", 1.0)],
                          {("a", "A"), ("c", "C")}) == 1.25


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from([0.5, 0.75, 1.0, 1.25, 1.5]), st.booleans()), max_size=9), st.integers(0, 3))
def test_no_other_threshold_has_a_higher_f1(items, unfound):
    candidates = [(str(n), str(n), score) for n, (score, _) in enumerate(items)]
    golds = {(str(n), str(n)) for n, (_, right) in enumerate(items) if right} | {("no", str(n)) for n in range(unfound)}

    def f1(threshold):
        kept = {candidate[:2] for candidate in candidates if candidate[2] >= threshold}
        return 2 * len(kept & golds) / max(1, len(kept) + len(golds))

    found = best_threshold(candidates, golds)
    assert f1(found) == max(map(f1, (0, 0.5, 0.75, 1.0, 1.25, 1.5, 2)))
