"""The fused attention over packs equals its specification: values and every gradient."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from peft_stilts.kernels import dropout, reference
from peft_stilts.kernels.dropout import keep_mask
from peft_stilts.kernels.fused import attention
from peft_stilts.kernels.fused.attention import packed_attention

MULTIPLE = 4      # of torch's own error in the same dtype
SCALING, SEED = 0.4, 2**40 + 12345
FLOAT, HALF = torch.float32, torch.bfloat16


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 16, so that short sequences have several, the last ones partly empty."""
    sizes = {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 4, "num_stages": 2}
    for table in (attention.FULL, attention.HALF):
        for kind in table:
            monkeypatch.setitem(table, kind, sizes)


def inputs(lengths, heads=1, width=16, dtype=FLOAT):
    """query, key, value, the gradient of the result, cu_seqlens; nothing is zero."""
    torch.manual_seed(sum(lengths) * 1000 + width)
    tensors = [(torch.randn(sum(lengths), heads, width) * 1.5 + 0.2).to(dtype) for _ in range(4)]
    return [x.requires_grad_() for x in tensors[:3]], tensors[3], torch.tensor([0, *lengths]).cumsum(0).int()


def fused(query, key, value, cu_seqlens, p, scaling=SCALING):
    return packed_attention(query, key, value, cu_seqlens, int(cu_seqlens.diff().max()), scaling, p, SEED)


def own(query, key, value, cu_seqlens, p, scaling=SCALING):
    """torch's own, sequence by sequence; with dropout, what it does without a fused kernel, with the mask given."""
    if p:
        return specified(query, key, value, cu_seqlens, p, scaling)
    lengths = cu_seqlens.diff().tolist()
    parts = zip(*(x.transpose(0, 1)[None].split(lengths, dim=2) for x in (query, key, value)), strict=True)
    return torch.cat([scaled_dot_product_attention(*qkv, scale=scaling)[0] for qkv in parts], 1).transpose(0, 1)


def specified(query, key, value, cu_seqlens, p, scaling=SCALING):
    layout = (x.transpose(0, 1)[None] for x in (query, key, value))
    return reference.packed_attention(*layout, cu_seqlens, scaling, mask(query, cu_seqlens, p), p)[0]


def mask(query, cu_seqlens, p):
    tokens, heads, _ = query.shape
    return keep_mask((heads, tokens, int(cu_seqlens.diff().max())), p, SEED) if p else None


def with_gradients(function, tensors, grad, *arguments):
    result = function(*tensors, *arguments)
    return [result, *torch.autograd.grad(result, tensors, grad)]


def agree(as_exact, tensors, grad, *arguments):
    """The fused result and gradients are as exact as torch's own."""
    wide = [x.detach().double().requires_grad_() for x in tensors]
    exact = with_gradients(specified, wide, grad.double(), *arguments)
    mine = with_gradients(fused, tensors, grad, *arguments)
    for found, right, theirs in zip(mine, exact, with_gradients(own, tensors, grad, *arguments), strict=True):
        as_exact(found, right, theirs, MULTIPLE)


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("width", [1, 3, 16, 20])
def test_equals_the_reference(as_exact, width, p):
    tensors, grad, cu_seqlens = inputs([5, 0, 17, 1], 3, width)
    agree(as_exact, tensors, grad, cu_seqlens, p)


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("lengths", [[1], [1, 1, 1]])
def test_sequences_of_one_token(as_exact, lengths, p):
    """A token sees itself alone. Its query and key do not matter: theirs is the difference of two equal sums."""
    tensors, grad, cu_seqlens = inputs(lengths, 3, 20)
    scale = (mask(tensors[0], cu_seqlens, p)[..., 0].T[..., None] / (1 - p)) if p else torch.ones(())
    out, dquery, dkey, dvalue = with_gradients(fused, tensors, grad, cu_seqlens, p)
    query, key, value = (x.detach() for x in tensors)
    # torch's softmax of one score is 1; here it is 2^(score - log2 of the sum), whose exp2 a GPU has to two places.
    places = 4 if out.is_cuda else 1
    as_exact(out, value.double() * scale, value * scale, MULTIPLE, places)
    as_exact(dvalue, grad.double() * scale, grad * scale, MULTIPLE, places)
    sums = torch.finfo(FLOAT).eps * (grad * value).abs().sum(-1, keepdim=True) * scale
    assert (dquery.abs() <= MULTIPLE * sums * SCALING * key.abs()).all()
    assert (dkey.abs() <= MULTIPLE * sums * SCALING * query.abs()).all()


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [FLOAT, HALF])
@pytest.mark.parametrize("lengths", [[33, 16, 2], [0, 15, 17, 0]])
def test_several_blocks(small_blocks, as_exact, lengths, dtype, p):
    tensors, grad, cu_seqlens = inputs(lengths, 2, 20, dtype)
    agree(as_exact, tensors, grad, cu_seqlens, p)


@pytest.mark.parametrize("dtype", [FLOAT, HALF, torch.float16])
def test_the_table_of_blocks(as_exact, dtype):
    tensors, grad, cu_seqlens = inputs([65, 31], 1, 64, dtype)
    agree(as_exact, tensors, grad, cu_seqlens, 0.1)


@pytest.mark.parametrize("width", [100, 256])
def test_wide_heads(as_exact, width):
    tensors, grad, cu_seqlens = inputs([19, 3], 1, width)
    agree(as_exact, tensors, grad, cu_seqlens, 0.3, 0.05)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")     # of places beyond the end, which are not stored
@pytest.mark.parametrize("sign", [1, -1])
def test_large_scores_do_not_overflow(small_blocks, as_exact, sign):
    """Scores of about a thousand, of either sign, beside places beyond the end, whose scores are 0."""
    tensors, grad, cu_seqlens = inputs([20, 5])
    with torch.no_grad():
        tensors[0].add_(sign * 12.0)
        tensors[1].add_(12.0)
    agree(as_exact, tensors, grad, cu_seqlens, 0.0)


def test_no_tokens():
    tensors, grad, cu_seqlens = inputs([0, 0], 3)
    for found in with_gradients(fused, tensors, grad, cu_seqlens, 0.3):
        assert found.shape == (0, 3, 16)


def test_a_sequence_does_not_see_the_others():
    """What stands before, behind or in another place of the pack changes nothing, to the bit."""
    tensors, grad, cu_seqlens = inputs([7, 5, 3], 2)
    usual = with_gradients(fused, tensors, grad, cu_seqlens, 0.0)
    order = [*range(7, 12), *range(12, 15), *range(7)]
    moved = [x.detach()[order].requires_grad_() for x in tensors]
    for found, expected in zip(with_gradients(fused, moved, grad[order], torch.tensor([0, 5, 8, 15]).int(), 0.0), usual,
                               strict=True):
        assert torch.equal(found, expected[order])


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_inputs_need_not_be_contiguous(p):
    """Views of one projection, transposed views of (1, heads, T, d), and one whose last dimension is spread."""
    tensors, grad, cu_seqlens = inputs([6, 9], 3, 20)
    usual = with_gradients(fused, tensors, grad, cu_seqlens, p)
    views = {
        "joined": torch.stack([x.detach() for x in tensors], 1).unbind(1),
        "heads first": [x.detach().transpose(0, 1).contiguous()[None][0].transpose(0, 1) for x in tensors],
        "spread": [torch.stack([x.detach(), x.detach()], -1)[..., 0] for x in tensors],
    }
    assert not any(x.is_contiguous() for parts in views.values() for x in parts)
    turned = grad.transpose(0, 2).contiguous().transpose(0, 2)
    for parts in (*views.values(), [views[name][place] for place, name in enumerate(views)]):
        parts = [x.requires_grad_() for x in parts]
        for found, expected in zip(with_gradients(fused, parts, turned, cu_seqlens, p), usual, strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("needed", [0, 1, 2])
def test_only_the_gradient_that_is_needed(needed):
    tensors, grad, cu_seqlens = inputs([6, 3])
    usual = with_gradients(fused, tensors, grad, cu_seqlens, 0.3)
    some = [x.detach().requires_grad_(place == needed) for place, x in enumerate(tensors)]
    fused(*some, cu_seqlens, 0.3).backward(grad)
    for place, x in enumerate(some):
        assert torch.equal(x.grad, usual[place + 1]) if place == needed else x.grad is None


def test_mask_numbers_wrap(as_exact, monkeypatch):
    """Probabilities are numbered modulo 2^32; here in rows said to be of 2^30 + 1."""
    tensors, grad, cu_seqlens = inputs([3], 2)
    longest = 2**30 + 1
    numbers = torch.arange(6).view(2, 3, 1) * longest + torch.arange(3)
    keep = dropout.hashed(numbers.int(), *dropout.halves(SEED)) >= dropout.threshold(0.3)
    assert numbers.max() > 2**32 and 0 < keep.sum() < keep.numel()
    monkeypatch.setattr(attention.triton, "cdiv", lambda *sizes: 1)        # the one block that has tokens
    wide = [x.detach().double().requires_grad_() for x in tensors]
    monkeypatch.setitem(globals(), "mask", lambda *arguments: keep)
    mine = with_gradients(packed_attention, tensors, grad, cu_seqlens, longest, SCALING, 0.3, SEED)
    theirs = with_gradients(own, tensors, grad, cu_seqlens, 0.3)
    for found, right, torchs in zip(mine, with_gradients(specified, wide, grad.double(), cu_seqlens, 0.3), theirs,
                                    strict=True):
        as_exact(found, right, torchs, MULTIPLE)


def test_keeps_its_inputs_its_result_and_a_number_a_token():
    tensors, _, cu_seqlens = inputs([8, 12], 2)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(tuple(x.shape)), lambda x: x):
        fused(*tensors, cu_seqlens, 0.3)
    assert sorted(kept) == sorted([(20, 2, 16)] * 4 + [(2, 20), (3,)])


def test_what_it_refuses():
    (query, key, value), _, cu_seqlens = inputs([2, 3])
    with pytest.raises(ValueError, match="heads of 16 torch.float64; they must be of 1 to 256 float32 or halves"):
        fused(query.double(), key, value, cu_seqlens, 0.0)
    with pytest.raises(ValueError, match="heads of 257 torch.float32"):
        fused(*[torch.zeros(5, 1, 257)] * 3, cu_seqlens, 0.0)
    with pytest.raises(ValueError, match=r"do not match: query \(5, 1, 16\) torch.float32, \(4, 1, 16\) torch.float32"):
        fused(query, key[:4], value, cu_seqlens, 0.0)
    with pytest.raises(ValueError, match="do not match: .* torch.bfloat16"):
        fused(query, key, value.bfloat16(), cu_seqlens, 0.0)
