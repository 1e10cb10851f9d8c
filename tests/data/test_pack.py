"""Packs: every feature exactly once, within the budget, positions as XLM-R counts them."""

from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_stilts.data.pack import make_pack, plan_packs

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 100), st.data())
def test_plan_holds_every_index_once_and_keeps_the_budget(lengths, budget, data):
    chosen = data.draw(st.lists(st.sampled_from(range(len(lengths))), unique=True))
    packs = plan_packs(lengths, chosen, budget)
    assert sorted(i for pack in packs for i in pack) == sorted(chosen)
    for pack in packs:
        assert sum(lengths[i] for i in pack) <= budget or len(pack) == 1


def test_plan_puts_like_lengths_together_and_is_stable():
    assert plan_packs([3, 9, 3, 9, 3], range(5), 18) == [[1, 3], [0, 2, 4]]
    assert plan_packs([50, 2], [0, 1], 10) == [[0], [1]]
    assert plan_packs([5], [], 10) == []


@settings(max_examples=40, deadline=None)
@given(LENGTHS)
def test_pack_lays_features_end_to_end(lengths):
    rng = np.random.default_rng(0)
    ids = [rng.integers(3, 99, n).astype(np.int32) for n in lengths]
    tags = [np.where(i % 2, i, -100) for i in ids]
    features = SimpleNamespace(input_ids=ids, labels={"start": np.arange(len(ids)), "tags": tags})
    order = list(reversed(range(len(ids))))
    pack = make_pack(features, order, padding_idx=1)
    assert pack.features == order and pack.max_seqlen == max(lengths)
    assert pack.cu_seqlens.dtype == torch.int32 and pack.input_ids.dtype == pack.labels["tags"].dtype == torch.int64
    for place, index in enumerate(order):
        part = slice(pack.cu_seqlens[place], pack.cu_seqlens[place + 1])
        assert pack.input_ids[part].tolist() == ids[index].tolist()
        assert pack.position_ids[part].tolist() == list(range(2, 2 + lengths[index]))
        assert pack.labels["tags"][part].tolist() == tags[index].tolist()
        assert pack.labels["start"][place] == index
    assert pack.to("cpu") is pack
