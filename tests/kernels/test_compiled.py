"""The compiled ops equal their specifications in float64, values and every gradient, with the same dropout masks."""

import pytest
import torch

from peft_stilts.kernels import reference
from peft_stilts.kernels.choose import lacking
from peft_stilts.kernels.dropout import keep_mask

if lacking("compile", "cpu"):
    pytest.skip("torch cannot compile here", allow_module_level=True)

from peft_stilts.kernels import compiled

SEED = 2**45 + 12345
MULTIPLE = 8
"""The error against float64 may be this many times float32's precision times the largest value: both sides round in
float32, ours in another order."""


def close(found, expected):
    bound = MULTIPLE * torch.finfo(torch.float32).eps * max(1.0, expected.abs().max().item())
    torch.testing.assert_close(found.double(), expected, atol=bound, rtol=0)


def compare(ours, specification, inputs):
    """Values and the gradients of all `inputs` of both, for one random gradient of the result."""
    doubles = [x.detach().double().requires_grad_(x.requires_grad) for x in inputs]
    found, expected = ours(*inputs), specification(*doubles)
    close(found, expected)
    weights = torch.randn_like(expected)
    wanted = [(x, y) for x, y in zip(inputs, doubles) if x.requires_grad]
    got = torch.autograd.grad((found * weights.float()).sum(), [x for x, _ in wanted])
    for one, other in zip(got, torch.autograd.grad((expected * weights).sum(), [y for _, y in wanted])):
        close(one, other)


def leaf(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(5, 31), (64, 48)])
def test_residual_norm(p, shape):
    keep = keep_mask(shape, p, SEED) if p else None
    inputs = [leaf(*shape), leaf(*shape, seed=1), leaf(shape[1], seed=2), leaf(shape[1], seed=3)]
    compare(lambda *x: compiled.residual_norm(*x, 1e-5, p, SEED),
            lambda *x: reference.residual_norm(*x, 1e-5, keep, p), inputs)


def test_residual_norm_of_bf16_on_a_float32_stream():
    """As under autocast: the map's result is bf16, the residual float32; gradients have their inputs' types."""
    x, residual = leaf(6, 33).detach().bfloat16().requires_grad_(), leaf(6, 33, seed=1)
    weight, bias = leaf(33, seed=2), leaf(33, seed=3)
    found = compiled.residual_norm(x, residual, weight, bias, 1e-5, 0.0, 0)
    close(found, reference.residual_norm(x.double(), residual.double(), weight.double(), bias.double(), 1e-5))
    found.sum().backward()
    assert found.dtype == residual.grad.dtype == torch.float32 and x.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_packed_attention(p):
    lengths, heads, width = [17, 9, 9, 1], 3, 8
    tokens, longest = sum(lengths), max(lengths)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    keep = keep_mask((heads, tokens, longest), p, SEED) if p else None

    def specification(*parts):
        turned = [x.transpose(0, 1)[None] for x in parts]
        return reference.packed_attention(*turned, cu_seqlens, 0.4, keep, p)[0]

    compare(lambda *x: compiled.packed_attention(*x, cu_seqlens, longest, 0.4, p, SEED), specification,
            [leaf(tokens, heads, width, seed=i) for i in range(3)])


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("frozen", [0, 2])
@pytest.mark.parametrize("trained", [True, False])
def test_add_lora(p, frozen, trained):
    x, result = leaf(11, 24), leaf(11, 20, seed=1)
    below = [(leaf(3, 24, seed=i).detach(), leaf(20, 3, seed=i + 5).detach(), 0.5 + i) for i in range(frozen)]
    wide = (None, None)
    if below:
        wide = torch.cat([a for a, _, _ in below]), torch.cat([b * s for _, b, s in below], dim=1)
    own = [leaf(4, 24, seed=20), leaf(20, 4, seed=21)] if trained else []
    keep = keep_mask((11, 24), p, SEED) if p else None

    def ours(result, x, a=None, b=None):
        return compiled.add_lora_(result.clone(), x, *wide, a, b, 2.0, p, SEED)

    def specification(result, x, a=None, b=None):
        doubles = [(a_.double(), b_.double(), s) for a_, b_, s in below]
        return reference.lora_stack(result, x, doubles, a, b, 2.0, keep, p)

    if below or own:
        compare(ours, specification, [result, x, *own])


def test_lora_keeps_nothing_large_but_its_input():
    x, a, b = leaf(50, 24), leaf(4, 24, seed=1), leaf(20, 4, seed=2)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        compiled.add_lora_(torch.zeros(50, 20), x, None, None, a, b, 1.0, 0.3, SEED)
    assert [t.data_ptr() for t in kept if t.numel() >= 50 * 20] == [x.data_ptr()]


def test_dropout():
    x = leaf(7, 21)
    keep = keep_mask((7, 21), 0.3, SEED)
    compare(lambda x: compiled.dropout(x, 0.3, SEED), lambda x: reference.dropped(x, keep, 0.3), [x])
