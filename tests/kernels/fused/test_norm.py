"""The fused residual, dropout and layer norm equals its specification: values and every gradient."""

import pytest
import torch
from torch.nn import functional

from peft_stilts.kernels import reference
from peft_stilts.kernels.dropout import keep_mask
from peft_stilts.kernels.fused import norm
from peft_stilts.kernels.fused.norm import residual_norm

MULTIPLE = 4      # of torch's own error in the same dtype
EPS, SEED = 1e-5, 2**40 + 12345
FLOAT, HALF = torch.float32, torch.bfloat16


def inputs(rows, width, x_type=FLOAT, residual_type=FLOAT):
    """x, residual, weight, bias and the gradient of the result; nothing is zero, nothing is one."""
    torch.manual_seed(rows * 1000 + width)
    weight, bias = torch.randn(width) * 0.3 + 1.2, torch.randn(width) * 0.5 + 0.3
    x, residual = torch.randn(rows, width).to(x_type), (torch.randn(rows, width) * 2 + 0.5).to(residual_type)
    grad = torch.randn(rows, width).to(torch.promote_types(x_type, residual_type))
    return [tensor.requires_grad_() for tensor in (x, residual, weight, bias)], grad


def own(x, residual, weight, bias, keep, p):
    """torch's own, with the mask given: what eager training runs."""
    total = reference.dropped(x, keep, p) + residual
    return functional.layer_norm(total.to(torch.promote_types(total.dtype, weight.dtype)), weight.shape, weight, bias,
                                 EPS).to(total.dtype)


def with_gradients(function, tensors, grad, *arguments):
    result = function(*tensors, *arguments)
    return [result, *torch.autograd.grad(result, tensors, grad)]


def agree(as_exact, tensors, grad, p):
    """The fused result and gradients are as exact as torch's own."""
    keep = keep_mask(tensors[0].shape, p, SEED) if p else None
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    exact = with_gradients(reference.residual_norm, wide, grad.double(), EPS, keep, p)
    mine = with_gradients(residual_norm, tensors, grad, EPS, p, SEED)
    for found, right, theirs in zip(mine, exact, with_gradients(own, tensors, grad, keep, p), strict=True):
        as_exact(found, right, theirs, MULTIPLE)


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize(("rows", "width"), [(5, 1), (0, 7), (1, 3), (64, 31), (3, 65), (7, 257)])
def test_equals_the_reference(as_exact, rows, width, p):
    agree(as_exact, *inputs(rows, width), p)


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize(("x_type", "residual_type"), [(HALF, HALF), (HALF, FLOAT), (FLOAT, HALF)])
def test_equals_the_reference_in_half_precision(as_exact, x_type, residual_type, p):
    agree(as_exact, *inputs(5, 65, x_type, residual_type), p)


def test_sums_of_more_rows_than_programs(as_exact, monkeypatch):
    monkeypatch.setattr(norm, "PROGRAMS", 3)
    agree(as_exact, *inputs(11, 31), 0.3)


def test_constant_and_large_rows(as_exact):
    """A row without variance, and one whose mean is large beside its deviation."""
    tensors, grad = inputs(3, 31)
    with torch.no_grad():
        tensors[0][0], tensors[1][0] = 1.0, 2.0
        tensors[1][1] += 100.0
    agree(as_exact, tensors, grad, 0.0)


def test_inputs_need_not_be_contiguous():
    tensors, grad = inputs(6, 31)
    usual = with_gradients(residual_norm, tensors, grad, EPS, 0.3, SEED)
    spread = [torch.stack([t.detach(), t.detach()], -1)[..., 0].requires_grad_() for t in tensors[2:]]
    turned = [t.detach().T.contiguous().T.requires_grad_() for t in tensors[:2]]
    for found, expected in zip(with_gradients(residual_norm, turned + spread, grad.T.contiguous().T, EPS, 0.3, SEED),
                               usual, strict=True):
        assert torch.equal(found, expected)


def test_a_batch_is_its_rows():
    (x, residual, weight, bias), grad = inputs(6, 31)
    usual = residual_norm(x, residual, weight, bias, EPS, 0.3, SEED)
    batch = residual_norm(x.view(2, 3, 31), residual.view(2, 3, 31), weight, bias, EPS, 0.3, SEED)
    assert torch.equal(batch, usual.view(2, 3, 31))


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (3,), (0, 1)])
def test_only_the_gradients_that_are_needed(needed):
    """As with adapters, where weight and bias stay as they are."""
    tensors, grad = inputs(4, 31)
    usual = with_gradients(residual_norm, tensors, grad, EPS, 0.3, SEED)
    some = [tensor.detach().requires_grad_(place in needed) for place, tensor in enumerate(tensors)]
    residual_norm(*some, EPS, 0.3, SEED).backward(grad)
    for place, tensor in enumerate(some):
        assert torch.equal(tensor.grad, usual[place + 1]) if place in needed else tensor.grad is None


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_keeps_one_tensor_and_no_mask(p):
    (x, residual, weight, bias), _ = inputs(8, 31)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape), lambda tensor: tensor):
        residual_norm(x, residual, weight, bias, EPS, p, SEED)
    assert sorted(map(tuple, kept)) == [(8,), (8,), (8, 31), (31,)]
    with torch.no_grad():
        assert residual_norm(x, residual, weight, bias, EPS, p, SEED).grad_fn is None


def test_what_it_refuses():
    (x, residual, weight, bias), _ = inputs(2, 5)
    with pytest.raises(ValueError, match="shapes do not match: x \\(2, 5\\), residual \\(1, 5\\)"):
        residual_norm(x, residual[:1], weight, bias, EPS, 0.0, SEED)
    wide = torch.zeros(1, 8193)
    with pytest.raises(ValueError, match="rows of 8193; they must be of 1 to 8192"):
        residual_norm(wide, wide, wide[0], wide[0], EPS, 0.0, SEED)
