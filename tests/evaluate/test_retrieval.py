"""Pooling and nearest neighbours against plain float64 arithmetic."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_stilts.evaluate import retrieval
from peft_stilts.evaluate.retrieval import mean_pool, nearest


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
    monkeypatch.setattr(retrieval, "BLOCK", block)
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
