"""The bytes that `tools/bench.py kernels` counts are those that the kernels really read and write."""

import argparse
import sys
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from triton.runtime.interpreter import InterpreterBuilder

TOOLS = Path(__file__).resolve().parents[3] / "tools"
sys.path.insert(0, str(TOOLS))
from benches import kernels  # noqa: E402

OFTEN = {"weight", "bias"}
"""Vectors that each program of a norm or GELU reads, from the cache: counted once."""


@pytest.fixture
def small(monkeypatch):
    """Shapes that one block of each kernel covers, and dropout that keeps everything (what goes need not be read)."""
    shapes = {"LENGTHS": (5, 17, 3), "WIDTH": 48, "INNER": 65, "HEADS": 3, "WORDS": 97, "MASKED": 5, "RANK": 4}
    for name, value in {**shapes, "DROPOUT": 1e-9, "LORA_DROPOUT": 1e-9}.items():
        monkeypatch.setattr(kernels, name, value)


def accesses(case):
    """Every launch of an op's kernels forward and backward: (kernel, arguments, how often each address was used)."""
    found = []
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def note(pointers, mask):
        places = np.broadcast_to(pointers.data, np.broadcast_shapes(pointers.data.shape, mask.data.shape))
        found[-1][2].update(places[np.broadcast_to(mask.data, places.shape)].ravel().tolist())

    def noted_load(self, pointers, mask, *others):
        note(pointers, mask)
        return load(self, pointers, mask, *others)

    def noted_store(self, pointers, value, mask, *others):
        note(pointers, mask)
        return store(self, pointers, value, mask, *others)

    with (mock.patch.object(InterpreterBuilder, "create_masked_load", noted_load),
          mock.patch.object(InterpreterBuilder, "create_masked_store", noted_store),
          kernels.launches(lambda kernel, arguments: found.append((kernel, arguments, Counter())), execute=True)):
        given = case.make(torch.float32, "cpu")
        grad = torch.ones_like(case.fused(*given))
        found.clear()
        kernels.both_ways(case.fused, given, grad)
    return found


def addresses(tensor):
    """Of each element."""
    places = torch.zeros(tensor.shape, dtype=torch.int64)
    for dimension, stride in enumerate(tensor.stride()):
        steps = torch.arange(tensor.shape[dimension]) * stride * tensor.element_size()
        places += steps.view(-1, *[1] * (tensor.ndim - dimension - 1))
    return (places + tensor.data_ptr()).flatten().tolist()


@pytest.mark.parametrize("number", range(5))
def test_a_kernel_uses_each_element_as_often_as_is_counted(small, number):
    launched = accesses(kernels.cases()[number])
    assert launched
    for kernel, arguments, used in launched:
        left = set(used)
        for name, tensor in arguments.items():
            if not isinstance(tensor, torch.Tensor):
                continue
            flag, times = kernels.TIMES.get((kernel, name), (None, 1))
            expected = times if flag is None or arguments[flag] else 1
            counts = [used[place] for place in addresses(tensor)]
            left -= set(addresses(tensor))
            if name == "logits":        # and once more the label's, of each row; its unused last columns become 0
                left -= set(addresses(tensor.as_strided((len(tensor), tensor.stride(0)), (tensor.stride(0), 1))))
                assert sum(counts) == expected * tensor.numel() + len(tensor)
            elif name == "cu_seqlens":
                assert min(counts) > 0
            else:
                assert set(counts) == {expected} or name in OFTEN and min(counts) >= expected, (kernel, name, counts)
        assert not left, (kernel, "uses memory that it was not given")


def test_bytes_of_two_ops_by_hand(small):
    """The norm reads x, residual, grad, total and writes out, total, dx, dresidual; the GELU reads x, x, grad, and
    writes out, dx. To these come two numbers a row twice, vectors, and the sums of each of the 25 programs twice."""
    tokens, width, inner = 25, 48, 65
    norm, gelu = kernels.cases()[:2]
    expected = 8 * tokens * width + 4 * tokens + 3 * width + 2 * (2 * tokens + 1) * width
    assert kernels.count(norm.fused, norm, torch.float32) == 4 * expected
    expected = 5 * tokens * inner + 2 * inner + (2 * tokens + 1) * inner
    assert kernels.count(gelu.fused, gelu, torch.float32) == 4 * expected
    # torch's own: dropout (1 read, 1 written, a mask of bytes), sum, norm; their backward passes; two statistics a row.
    eager = 4 * (tokens * width * (2 + 3 + 2 + 3 + 2) + 4 * width + 4 * tokens) + 2 * tokens * width
    assert abs(kernels.count(norm.eager, norm, torch.float32) - eager) <= 4 * 2 * width


def test_traffic_of_torchs_operations():
    x = torch.ones(3, 4)
    with kernels.Traffic() as traffic:
        x.t().view(12 // 3, 3).expand(2, 4, 3)
        torch.empty(100)
        assert traffic.bytes == 0
        x + x
        assert traffic.bytes == 2 * 48
        x.add_(x[0].expand(3, 4))
        assert traffic.bytes == 2 * 48 + 2 * 48 + 16
        x.zero_()
        assert traffic.bytes == 5 * 48 + 16
        torch.mm(x, x.t(), out=torch.empty(3, 3))
        assert traffic.bytes == 5 * 48 + 16 + 2 * 48 + 36


def test_the_table(small, capsys):
    told = kernels.run(argparse.Namespace(quick=True, repeats=1))
    printed = capsys.readouterr().out
    assert len(told["ops"]) == 5 and {row["dtype"] for row in told["ops"]} == {"float32"}
    for row in told["ops"]:
        assert row["op"] in printed and f"{row['ratio']:.2f}" in printed
        assert row["ratio"] == row["eager_bytes"] / row["fused_bytes"] > 0
    assert "nothing is timed" in printed and told["device"] is None
