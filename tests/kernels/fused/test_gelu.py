"""The fused bias and GELU equals its specification: values and every gradient."""

import pytest
import torch
from torch.nn import functional

from peft_stilts.kernels import reference
from peft_stilts.kernels.fused import gelu
from peft_stilts.kernels.fused.gelu import bias_gelu

MULTIPLE = 4      # of torch's own error in the same dtype


def inputs(rows, width, x_type=torch.float32, bias_type=torch.float32):
    """x, bias and the gradient of the result; a sum of the first two goes from about -8 to 8."""
    torch.manual_seed(rows * 1000 + width)
    x, bias = torch.randn(rows, width) * 2, torch.randn(width) + 0.3
    return [x.to(x_type).requires_grad_(), bias.to(bias_type).requires_grad_()], torch.randn(rows, width).to(x_type)


def own(x, bias):
    return functional.gelu(x + bias.to(x.dtype))


def with_gradients(function, tensors, grad):
    result = function(*tensors)
    return [result, *torch.autograd.grad(result, tensors, grad)]


def agree(as_exact, tensors, grad):
    """The fused result and gradients are as exact as torch's own."""
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    exact = with_gradients(reference.bias_gelu, wide, grad.double())
    mine = with_gradients(bias_gelu, tensors, grad)
    for found, right, theirs in zip(mine, exact, with_gradients(own, tensors, grad), strict=True):
        as_exact(found, right, theirs, MULTIPLE)


@pytest.mark.parametrize(("rows", "width"), [(5, 1), (0, 7), (1, 3), (64, 31), (3, 65), (7, 257), (2, 1030)])
def test_equals_the_reference(as_exact, rows, width):
    agree(as_exact, *inputs(rows, width))


@pytest.mark.parametrize("bias_type", [torch.bfloat16, torch.float32])
def test_equals_the_reference_in_half_precision(as_exact, bias_type):
    agree(as_exact, *inputs(5, 65, torch.bfloat16, bias_type))


def test_sums_of_more_rows_than_programs(as_exact, monkeypatch):
    monkeypatch.setattr(gelu, "PROGRAMS", 3)
    agree(as_exact, *inputs(11, 31))


def test_several_blocks_of_columns(as_exact, monkeypatch):
    monkeypatch.setattr(gelu, "BLOCK", 16)
    agree(as_exact, *inputs(5, 65))


def test_far_from_zero_it_is_the_identity_or_nothing():
    x = torch.tensor([[-1e4, -30.0, 30.0, 1e4]], requires_grad=True)
    result, grad, _ = with_gradients(bias_gelu, [x, torch.zeros(4, requires_grad=True)], torch.ones(1, 4))
    assert result.tolist() == [[0, 0, 30, 1e4]] and grad.tolist() == [[0, 0, 1, 1]]


def test_inputs_need_not_be_contiguous():
    (x, bias), grad = inputs(6, 31)
    usual = with_gradients(bias_gelu, [x, bias], grad)
    turned = [x.detach().T.contiguous().T.requires_grad_(),
              torch.stack([bias.detach(), bias.detach()], -1)[:, 0].requires_grad_()]
    for found, expected in zip(with_gradients(bias_gelu, turned, grad.T.contiguous().T), usual, strict=True):
        assert torch.equal(found, expected)


def test_a_batch_is_its_rows():
    (x, bias), _ = inputs(6, 31)
    assert torch.equal(bias_gelu(x.view(2, 3, 31), bias), bias_gelu(x, bias).view(2, 3, 31))


@pytest.mark.parametrize("needed", [0, 1])
def test_only_the_gradient_that_is_needed(needed):
    tensors, grad = inputs(4, 31)
    usual = with_gradients(bias_gelu, tensors, grad)
    some = [tensor.detach().requires_grad_(place == needed) for place, tensor in enumerate(tensors)]
    bias_gelu(*some).backward(grad)
    assert torch.equal(some[needed].grad, usual[needed + 1]) and some[1 - needed].grad is None


def test_keeps_x_alone():
    (x, bias), _ = inputs(8, 31)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.data_ptr()), lambda tensor: tensor):
        bias_gelu(x, bias)
    assert sorted(kept) == sorted([x.data_ptr(), bias.data_ptr()])


def test_what_it_refuses():
    with pytest.raises(ValueError, match="shapes do not match: x \\(2, 5\\), bias \\(4,\\)"):
        bias_gelu(torch.zeros(2, 5), torch.zeros(4))
