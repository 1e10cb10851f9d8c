"""What the fused ops make of a stack of adapters equals its specification: values and every gradient."""

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from peft_stilts.kernels import reference
from peft_stilts.kernels.dropout import keep_mask
from peft_stilts.kernels.fused import lora
from peft_stilts.kernels.fused.lora import add_lora_

MULTIPLE = 4      # of torch's own error in the same dtype
SEED, SCALE = 2**40 + 12345, 1.7
FLOAT, HALF = torch.float32, torch.bfloat16


def inputs(rows, width, out, rank, x_type=FLOAT, map_type=FLOAT):
    """result, x, a, b and the gradient of the sum; nothing is zero."""
    torch.manual_seed(rows * 1000 + width)
    result, x, grad = (torch.randn(rows, size).to(x_type) for size in (out, width, out))
    a, b = torch.randn(rank, width).to(map_type), torch.randn(out, rank).to(map_type)
    return [tensor.requires_grad_() for tensor in (result, x, a, b)], grad


def adapters(*ranks, width, out, dtype=FLOAT):
    """Frozen ones: A, B and scale of each."""
    return [(torch.randn(rank, width).to(dtype), torch.randn(out, rank).to(dtype), 0.5 + rank / 8) for rank in ranks]


def together(frozen):
    """Frozen adapters as the op takes them."""
    if not frozen:
        return None, None
    return torch.cat([a for a, _, _ in frozen]), torch.cat([b * scale for _, b, scale in frozen], 1)


def mine(result, x, a, b, frozen, p):
    """The op, on a copy of `result`: what it is given is changed, and must not be a leaf."""
    return add_lora_(result.clone(), x, *together(frozen), a, b, SCALE, p, SEED)


def own(result, x, a, b, frozen, keep, p):
    """torch's own in the dtype of x, with the mask given: what eager training runs under autocast."""
    narrow = [(one.to(x.dtype), two.to(x.dtype), scale) for one, two, scale in frozen]
    return reference.lora_stack(result, x, narrow, a.to(x.dtype), b.to(x.dtype), SCALE, keep, p)


def with_gradients(function, tensors, grad, *arguments):
    total = function(*tensors, *arguments)
    return [total, *torch.autograd.grad(total, tensors, grad)]


def agree(as_exact, tensors, grad, frozen, p):
    """The fused sum and gradients are as exact as torch's own."""
    keep = keep_mask(tensors[1].shape, p, SEED) if p else None
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    wide_frozen = [(a.double(), b.double(), scale) for a, b, scale in frozen]
    exact = with_gradients(lambda result, x, a, b: reference.lora_stack(result, x, wide_frozen, a, b, SCALE, keep, p),
                           wide, grad.double())
    theirs = with_gradients(own, tensors, grad, frozen, keep, p)
    for found, right, their in zip(with_gradients(mine, tensors, grad, frozen, p), exact, theirs, strict=True):
        as_exact(found, right, their, MULTIPLE)


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("ranks", [(), (4,), (3, 16)])
@pytest.mark.parametrize(("rows", "width", "out", "rank"),
                         [(5, 1, 3, 4), (0, 7, 5, 4), (1, 3, 1, 1), (64, 31, 17, 16), (7, 257, 65, 4)])
def test_equals_the_reference(as_exact, rows, width, out, rank, ranks, p):
    tensors, grad = inputs(rows, width, out, rank)
    agree(as_exact, tensors, grad, adapters(*ranks, width=width, out=out), p)


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("map_type", [HALF, FLOAT])
def test_equals_the_reference_in_half_precision(as_exact, map_type, p):
    tensors, grad = inputs(12, 65, 31, 4, HALF, map_type)
    agree(as_exact, tensors, grad, adapters(3, width=65, out=31, dtype=map_type), p)


@pytest.mark.parametrize("dtype", [FLOAT, HALF])
def test_many_ranks_and_splits_of_rows(as_exact, monkeypatch, dtype):
    """More of each than one program takes, and the last less than full."""
    monkeypatch.setattr(lora, "SPLIT", 16)
    monkeypatch.setattr(lora, "WIDEST", 16)
    tensors, grad = inputs(37, 20, 9, 1, dtype)
    agree(as_exact, tensors, grad, [], 0.3)
    monkeypatch.setattr(lora, "BLOCKS", {dtype: (16, 16, 16)})
    tensors, grad = inputs(21, 20, 9, 70, dtype)
    agree(as_exact, tensors, grad, adapters(5, width=20, out=9, dtype=dtype), 0.3)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_the_result_is_changed_in_place(p):
    (result, x, a, b), _ = inputs(6, 31, 17, 4)
    base = result.detach().clone()
    total = add_lora_(base, x, *together([]), a, b, SCALE, p, SEED)
    assert total.data_ptr() == base.data_ptr() and base.requires_grad and not torch.equal(base, result)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_frozen_adapters_get_no_gradient(p):
    """Even where nothing else stops one."""
    (result, x, a, b), grad = inputs(6, 31, 17, 4)
    frozen_a, frozen_b = (tensor.requires_grad_() for tensor in together(adapters(4, 2, width=31, out=17)))
    add_lora_(result.clone(), x, frozen_a, frozen_b, a, b, SCALE, p, SEED).backward(grad)
    assert frozen_a.grad is None and frozen_b.grad is None and all(tensor.grad is not None for tensor in (x, a, b))


def test_with_no_adapter_trained(as_exact):
    (result, x, _, _), grad = inputs(6, 31, 17, 4)
    frozen = adapters(4, 2, width=31, out=17)
    wide = [tensor.detach().double().requires_grad_() for tensor in (result, x)]
    wide_frozen = [(a.double(), b.double(), scale) for a, b, scale in frozen]
    total = add_lora_(result.clone(), x, *together(frozen), None, None, 0.0, 0.3, SEED)
    found = [total, *torch.autograd.grad(total, [result, x], grad)]
    exact = with_gradients(reference.lora_stack, wide, grad.double(), wide_frozen, None, None, 0.0)
    theirs = with_gradients(reference.lora_stack, [result, x], grad, frozen, None, None, 0.0)
    for one, right, their in zip(found, exact, theirs, strict=True):
        as_exact(one, right, their, MULTIPLE)
    assert add_lora_(result, x, None, None, None, None, 0.0, 0.3, SEED) is result


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("needed", [(1,), (2,), (3,), (2, 3), (0, 1)])
def test_only_the_gradients_that_are_needed(needed, p):
    """A first layer's x needs none, nor does the result of its base map."""
    tensors, grad = inputs(4, 31, 17, 4)
    frozen = adapters(2, width=31, out=17)
    usual = with_gradients(mine, tensors, grad, frozen, p)
    some = [tensor.detach().requires_grad_(place in needed) for place, tensor in enumerate(tensors)]
    mine(*some, frozen, p).backward(grad)
    for place, tensor in enumerate(some):
        assert torch.equal(tensor.grad, usual[place + 1]) if place in needed else tensor.grad is None


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_inputs_need_not_be_contiguous(p):
    tensors, grad = inputs(6, 31, 17, 4)
    frozen = adapters(3, width=31, out=17)
    usual = with_gradients(mine, tensors, grad, frozen, p)
    turned = [tensor.detach().T.contiguous().T.requires_grad_() for tensor in tensors]
    turned_frozen = [(a.T.contiguous().T, b.T.contiguous().T, scale) for a, b, scale in frozen]
    for found, expected in zip(with_gradients(mine, turned, grad.T.contiguous().T, turned_frozen, p), usual,
                               strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)     # the products sum in another order


class Made(TorchDispatchMode):
    """Collects the tensors that ops return."""

    def __init__(self):
        super().__init__()
        self.tensors = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        out = function(*arguments, **(keywords or {}))
        self.tensors.append(out)
        return out


def storages(tensors, size):
    """Of those among `tensors` that have `size` elements of float32 or more."""
    every = (tensor.untyped_storage() for tensor in tensors)
    return {storage.data_ptr() for storage in every if storage.nbytes() >= 4 * size}


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_keeps_x_and_makes_dx_and_nothing_else_of_their_size(p):
    rows, width, out = 64, 31, 17
    (result, x, a, b), grad = inputs(rows, width, out, 4)
    frozen, total, kept = together(adapters(4, 2, width=width, out=out)), result.clone(), []
    with (torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor),
          Made() as made):
        total = add_lora_(total, x, *frozen, a, b, SCALE, p, SEED)
        dx, *_ = torch.autograd.grad(total, [x, a, b], grad)
    assert storages(kept, rows * out) == storages([x], 0)
    assert storages(made.tensors, rows * out) - storages([total, x, grad], 0) == storages([dx], 0)


def test_under_autocast_products_are_in_the_dtype_of_x():
    tensors, grad = inputs(6, 31, 17, 4)
    usual = with_gradients(mine, tensors, grad, [], 0.0)
    with torch.autocast(grad.device.type, HALF):
        found = with_gradients(mine, tensors, grad, [], 0.0)
    assert all(map(torch.equal, found, usual))


def test_equals_peft(as_exact):
    """PEFT's own map under two adapters, of which the second is trained."""
    torch.manual_seed(5)
    base, x, grad = nn.Linear(31, 17), torch.randn(6, 31, requires_grad=True), torch.randn(6, 17)
    layer = Linear(base, "first", config=LoraConfig(r=4, lora_alpha=6), r=4, lora_alpha=6)
    layer.update_layer("second", 3, lora_alpha=5, config=LoraConfig(r=3, lora_alpha=5))
    layer.set_adapter(["first", "second"])
    for weights in layer.lora_B.values():
        nn.init.normal_(weights.weight)
    first, second = (([layer.lora_A[name].weight, layer.lora_B[name].weight], layer.scaling[name])
                     for name in ("first", "second"))
    trained = [x, *second[0]]
    theirs = with_gradients(lambda *_: layer(x), trained, grad)
    frozen = together([(*first[0], first[1])])
    found = with_gradients(lambda x, a, b: add_lora_(base(x), x, *frozen, a, b, second[1], 0.0, 0), trained, grad)
    for one, their in zip(found, theirs, strict=True):
        torch.testing.assert_close(one, their, rtol=1e-5, atol=1e-5)


def test_what_it_refuses():
    result, x, a, b = torch.zeros(2, 5), torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(5, 4)
    with pytest.raises(ValueError, match="shapes do not match: result \\(2, 5\\), x \\(2, 3\\), frozen_a None, "
                                         "frozen_b None, a \\(4, 3\\), b \\(5, 3\\)"):
        add_lora_(result, x, None, None, a, b[:, :3], 1.0, 0.0, SEED)
    with pytest.raises(ValueError, match="shapes do not match"):
        add_lora_(result, x, a, None, a, b, 1.0, 0.0, SEED)
    with pytest.raises(ValueError, match="x is torch.bfloat16, result torch.float32"):
        add_lora_(result, x.bfloat16(), None, None, a, b, 1.0, 0.0, SEED)
