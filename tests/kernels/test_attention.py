"""Packed attention equals its specification, values and gradients, in each implementation."""

import pytest
import torch

from peft_stilts.kernels import reference
from peft_stilts.kernels.attention import padded_batch, sequence_loop
from peft_stilts.kernels.padding import pad, places, unpad


def inputs(lengths, dtype, heads=2, width=4):
    torch.manual_seed(0)
    tensors = [torch.randn(1, heads, sum(lengths), width, dtype=dtype, requires_grad=True) for _ in range(3)]
    return tensors, torch.tensor([0, *lengths]).cumsum(0).int()


def run(name, tensors, cu_seqlens, dropout=0.0):
    if name == "loop":
        return sequence_loop(*tensors, cu_seqlens, dropout, 0.5)
    return padded_batch(*tensors, cu_seqlens, int(cu_seqlens.diff().max()), dropout, 0.5)


@pytest.mark.parametrize("name", ["loop", "padded"])
@pytest.mark.parametrize("lengths", [[1], [7], [5, 1, 9], [1, 1, 1], [4, 4, 3, 12]])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_equals_the_reference(name, lengths, dtype, close):
    tensors, cu_seqlens = inputs(lengths, dtype)
    expected = reference.packed_attention(*tensors, cu_seqlens, 0.5)
    weights = torch.randn_like(expected)
    grads = torch.autograd.grad((expected * weights).sum(), tensors)
    found = run(name, tensors, cu_seqlens)
    torch.testing.assert_close(found, expected, atol=close, rtol=close)
    for ours, theirs in zip(torch.autograd.grad((found * weights).sum(), tensors), grads, strict=True):
        torch.testing.assert_close(ours, theirs, atol=close, rtol=close)


@pytest.mark.parametrize("name", ["loop", "padded"])
def test_dropout_keeps_the_mean(name):
    tensors, cu_seqlens = inputs([5, 30], torch.float64)
    torch.manual_seed(1)
    mean = sum(run(name, tensors, cu_seqlens, dropout=0.2) for _ in range(800)) / 800
    assert (mean - run(name, tensors, cu_seqlens)).abs().max() < 0.1


def test_pad_and_unpad_are_inverse():
    values, cu_seqlens = torch.randn(9, 3), torch.tensor([0, 2, 3, 9], dtype=torch.int32)
    padded = pad(values, cu_seqlens, 6, -1.0)
    assert padded.shape == (3, 6, 3) and (padded[0, 2:] == -1).all() and (padded[1, 1:] == -1).all()
    assert torch.equal(unpad(padded, cu_seqlens, 9), values)
    assert places(cu_seqlens, 9)[1].tolist() == [0, 1, 0, 0, 1, 2, 3, 4, 5]
