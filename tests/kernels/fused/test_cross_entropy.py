"""The cross-entropy over a vocabulary by chunks equals its specification: the loss and every gradient."""

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from peft_stilts.kernels import reference
from peft_stilts.kernels.fused import cross_entropy
from peft_stilts.kernels.fused.cross_entropy import linear_cross_entropy

MULTIPLE = 4      # of torch's own error in the same dtype
FLOAT, HALF = torch.float32, torch.bfloat16


def inputs(rows, width, words, states_type=FLOAT, weight_type=FLOAT):
    """states, weight, bias and labels; the first and the last word are among the labels."""
    torch.manual_seed(rows * 1000 + words)
    states, weight = torch.randn(rows, width).to(states_type), (torch.randn(words, width) * 0.3).to(weight_type)
    bias, labels = (torch.randn(words) + 0.3).to(weight_type), torch.randint(words, (rows,))
    labels[:1], labels[-1:] = 0, words - 1
    return [tensor.requires_grad_() for tensor in (states, weight, bias)], labels


def own(states, weight, bias, labels):
    """torch's own, as autocast runs it: the product in the dtype of the states, the loss in float32."""
    logits = functional.linear(states, weight.to(states.dtype), bias.to(states.dtype))
    return functional.cross_entropy(logits.float(), labels, reduction="sum")


def with_gradients(function, tensors, labels):
    """The loss and the gradients of 0.7 times it."""
    loss = function(*tensors, labels)
    return [loss, *torch.autograd.grad(loss, tensors, torch.tensor(0.7, dtype=loss.dtype))]


def agree(as_exact, tensors, labels):
    """Loss and gradients are as exact as torch's own."""
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    exact = with_gradients(reference.linear_cross_entropy, wide, labels)
    mine = with_gradients(linear_cross_entropy, tensors, labels)
    for found, right, theirs in zip(mine, exact, with_gradients(own, tensors, labels), strict=True):
        as_exact(found, right, theirs, MULTIPLE)


@pytest.mark.parametrize(("rows", "width", "words"), [(5, 31, 3), (0, 7, 20), (1, 3, 257), (33, 16, 64), (6, 65, 1000)])
def test_equals_the_reference(as_exact, rows, width, words):
    agree(as_exact, *inputs(rows, width, words))


@pytest.mark.parametrize(("states_type", "weight_type"), [(HALF, HALF), (HALF, FLOAT), (FLOAT, HALF)])
def test_equals_the_reference_in_half_precision(as_exact, states_type, weight_type):
    agree(as_exact, *inputs(12, 31, 257, states_type, weight_type))


@pytest.mark.parametrize("states_type", [FLOAT, HALF])
@pytest.mark.parametrize("size", [1, 9000])
def test_chunks_of_rows_and_blocks_of_words(as_exact, monkeypatch, size, states_type):
    """With the last of each smaller than the others, and with rows that are each larger than a chunk may be."""
    monkeypatch.setattr(cross_entropy, "BYTES", size)
    monkeypatch.setattr(cross_entropy, "BLOCK", 64)
    agree(as_exact, *inputs(23, 31, 257, states_type))


@pytest.mark.parametrize(("states_type", "weight_type"), [(FLOAT, FLOAT), (HALF, FLOAT)])
def test_never_makes_all_logits(monkeypatch, states_type, weight_type):
    """No tensor of a step is as large as a quarter of the logits, gradients of the parameters apart."""
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            out = function(*arguments, **(keywords or {}))
            if isinstance(out, torch.Tensor):
                self.numel = max(self.numel, out.untyped_storage().nbytes() // out.element_size())
            return out

    monkeypatch.setattr(cross_entropy, "BYTES", 4096)
    tensors, labels = inputs(64, 3, 257, states_type, weight_type)
    with Largest() as largest:
        linear_cross_entropy(*tensors, labels).backward()
    assert largest.numel <= 64 * 272 // 4


def test_large_logits_do_not_overflow(as_exact):
    tensors, labels = inputs(5, 31, 257)
    with torch.no_grad():
        tensors[0] *= 1000
    agree(as_exact, tensors, labels)
    assert linear_cross_entropy(*tensors, labels) > 1000


def test_inputs_need_not_be_contiguous():
    tensors, labels = inputs(6, 31, 65)
    usual = with_gradients(linear_cross_entropy, tensors, labels)
    turned = [tensor.detach().T.contiguous().T.requires_grad_() for tensor in tensors[:2]]
    spread = torch.stack([tensors[2].detach()] * 2, -1)[:, 0].requires_grad_()
    found = with_gradients(linear_cross_entropy, [*turned, spread], torch.stack([labels] * 2, -1)[:, 0])
    for one, expected in zip(found, usual, strict=True):
        torch.testing.assert_close(one, expected, rtol=2e-7, atol=1e-6)     # the products sum in another order


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2)])
def test_only_the_gradients_that_are_needed(needed):
    tensors, labels = inputs(4, 31, 65)
    usual = with_gradients(linear_cross_entropy, tensors, labels)
    some = [tensor.detach().requires_grad_(place in needed) for place, tensor in enumerate(tensors)]
    (linear_cross_entropy(*some, labels) * 0.7).backward()
    for place, tensor in enumerate(some):
        assert torch.equal(tensor.grad, usual[place + 1]) if place in needed else tensor.grad is None


def test_without_gradients_the_loss_alone(monkeypatch):
    tensors, labels = inputs(4, 31, 65)
    usual, told, kernel = linear_cross_entropy(*tensors, labels), [], cross_entropy.to_gradient_
    monkeypatch.setattr(cross_entropy, "to_gradient_", lambda *each: (told.append(each[-1]), kernel(*each)))
    with torch.no_grad():
        loss = linear_cross_entropy(*tensors, labels)
    assert loss.grad_fn is None and torch.equal(loss, usual) and told == [False]
    assert torch.equal(linear_cross_entropy(*(tensor.detach() for tensor in tensors), labels), usual)


@pytest.mark.parametrize("dtype", [HALF, torch.float16])
def test_under_autocast_products_are_in_its_dtype(dtype):
    """As those of a linear map; except in float16, which the least probabilities of a vocabulary leave."""
    (states, weight, bias), labels = inputs(4, 31, 65)
    with torch.autocast(states.device.type, dtype):
        found = with_gradients(linear_cross_entropy, [states, weight, bias], labels)
    narrow = states.detach().to(HALF if dtype == HALF else FLOAT).requires_grad_()
    for one, expected in zip(found, with_gradients(linear_cross_entropy, [narrow, weight, bias], labels), strict=True):
        assert one.dtype == FLOAT and torch.equal(one, expected.float())


def test_float16_keeps_small_gradients():
    """A probability of about e^-19 is less than any float16; what a gradient scaler makes of it is not."""
    tensors, labels = inputs(3, 5, 40)
    with torch.no_grad():
        tensors[2][7] = -16.0
    half = [tensor.detach().half().requires_grad_() for tensor in tensors]
    wide = [tensor.detach().double().requires_grad_() for tensor in half]
    scale = torch.tensor(2.0**16)
    found = torch.autograd.grad(linear_cross_entropy(*half, labels), half[2], scale)[0]
    exact = torch.autograd.grad(reference.linear_cross_entropy(*wide, labels), wide[2], scale.double())[0]
    assert found.dtype == torch.float16 and 0 < exact[7] / scale < 2e-8
    torch.testing.assert_close(found[7].double(), exact[7], rtol=0.02, atol=0)


def test_a_second_backward_pass_is_refused():
    """The gradients kept were changed by the first; torch says so rather than give wrong ones."""
    tensors, labels = inputs(4, 31, 65)
    loss = linear_cross_entropy(*tensors, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_it_refuses():
    with pytest.raises(ValueError, match="shapes do not match: states \\(2, 5\\), weight \\(7, 4\\), bias \\(7,\\)"):
        linear_cross_entropy(torch.zeros(2, 5), torch.zeros(7, 4), torch.zeros(7), torch.zeros(2).long())
