"""The masked words' cross-entropy over a whole vocabulary, whose logits exist for a few rows at a time only."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from peft_stilts.kernels.fused.ahead import Variant
from peft_stilts.kernels.fused.sizes import parts, power_of_2

BLOCK = 8192
"""Most words that a program reads at a time."""
BYTES = 2**30
"""Of the logits, and of a product on its way into the float32 gradient of the weight, that exist at a time: each part
reads the weight, and reads and writes its gradient, so that small parts move many more bytes than they save."""
ALIGNED = 16
"""A row of logits starts at a multiple of this many, which tensor cores and wide loads need; 250,002 is none."""


@triton.jit(do_not_specialize=["words"])
def cross_entropy_kernel(logits, labels, losses, words, stride, GRADIENT: tl.constexpr, BLOCK: tl.constexpr):
    """One row a program: its loss, and its logits turned in place into their gradient, softmax - onehot (GRADIENT).

    A row has `words` logits and `stride` places. Those past its logits hold anything; they are read, and written, only
    so that all of a row goes in the widest steps. The sum of exponentials is made online: Milakov and Gimelshein 2018,
    algorithm 3.
    """
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    label = tl.load(labels + row)
    at_label = tl.load(logits + label).to(tl.float32)
    most = float("-inf")
    total = 0.0
    for first in range(0, stride, BLOCK):
        word = first + tl.arange(0, BLOCK)
        z = tl.load(logits + word, mask=word < stride, other=0.0).to(tl.float32)
        z = tl.where(word < words, z, float("-inf"))
        higher = tl.maximum(most, tl.max(z, axis=0))
        total = total * tl.exp(most - higher) + tl.sum(tl.exp(z - higher), axis=0)
        most = higher
    tl.store(losses + row, tl.log(total) + (most - at_label))
    if GRADIENT:
        for first in range(0, stride, BLOCK):
            word = first + tl.arange(0, BLOCK)
            z = tl.load(logits + word, mask=word < stride, other=0.0).to(tl.float32)
            z = tl.where(word < words, z, float("-inf"))
            dz = tl.exp(z - most) / total - (word == label).to(tl.float32)
            tl.store(logits + word, dz, mask=word < stride)


def block(stride: int) -> dict[str, int]:
    """The launch's block of words and number of warps: at most 16 words a thread."""
    size = min(power_of_2(stride), BLOCK)
    return {"BLOCK": size, "num_warps": max(size // 512, 1)}


def to_gradient_(logits: torch.Tensor, labels: torch.Tensor, losses: torch.Tensor, gradient: bool) -> None:
    """Writes each row's loss to `losses` (n,) float32 and, if asked, turns `logits` (n, V) into their gradient.

    `logits` are the first columns of a matrix, whose others become 0.
    """
    rows, words = logits.shape
    stride = logits.stride(0)
    cross_entropy_kernel[(rows,)](logits, labels, losses, words, stride, GRADIENT=gradient, **block(stride))


def add_product_(total: torch.Tensor, gradient: torch.Tensor, states: torch.Tensor, first: bool) -> None:
    """total (V, H) float32 += gradient^T states, of gradient (n, V) and states (n, H); = where it is the first one."""
    if states.dtype == total.dtype:
        torch.addmm(total, gradient.T, states, beta=0 if first else 1, out=total)     # beta 0: total is not read
        return
    size = max(BYTES // (total.shape[1] * states.element_size()), 1)
    for part, columns in zip(total.split(size), gradient.split(size, 1)):
        product = columns.T @ states
        part.copy_(product) if first else part.add_(product)


class LinearCrossEntropy(torch.autograd.Function):
    """`linear_cross_entropy`; keeps the gradients themselves, which the forward pass makes."""

    @staticmethod
    def forward(ctx, states, weight, bias, labels, enabled):
        needed = [enabled and needs for needs in ctx.needs_input_grad[:3]]
        narrow, added = weight.to(states.dtype), bias.to(states.dtype)
        losses = states.new_empty(len(states), dtype=torch.float32)
        dstates = torch.empty_like(states) if needed[0] else None
        blank = torch.empty_like if len(states) else torch.zeros_like      # the first part writes it
        dweight = blank(weight, dtype=torch.float32) if needed[1] else None
        dbias = torch.zeros_like(bias, dtype=torch.float32) if needed[2] else None
        stride = parts(len(weight), ALIGNED) * ALIGNED
        size = max(BYTES // (stride * states.element_size()), 1)
        logits = states.new_empty(min(size, len(states)), stride)[:, :len(weight)]
        for first in range(0, len(states), size):
            rows = slice(first, first + size)
            some = states[rows]
            chunk = torch.addmm(added, some, narrow.T, out=logits[:len(some)])
            to_gradient_(chunk, labels[rows], losses[rows], any(needed))
            if dstates is not None:
                torch.mm(chunk, narrow, out=dstates[rows])
            if dweight is not None:
                add_product_(dweight, chunk, some, first == 0)
            if dbias is not None:
                dbias += chunk.sum(0, dtype=torch.float32)
        ctx.dtypes = states.dtype, weight.dtype, bias.dtype
        ctx.save_for_backward(dstates, dweight, dbias)
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        # In place: a gradient is as large as the embeddings. A second pass through the graph is refused by torch,
        # which sees that what was saved has changed.
        return *(None if tensor is None else tensor.mul_(grad).to(dtype)
                 for tensor, dtype in zip(ctx.saved_tensors, ctx.dtypes)), None, None


def linear_cross_entropy(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Sum over rows of -log softmax(states weight^T + bias)[label]: `reference.linear_cross_entropy`, differentiable.

    `states` (N, H), `weight` (V, H), `bias` (V,), of any of float32, bfloat16, float16; `labels` (N,) int64 in 0..V-1,
    not checked on a GPU. Returns a float32 scalar. Products are made in the dtype of `states`, under autocast in
    autocast's, and in float32 instead of float16, in which small probabilities vanish; sums and the loss in float32.
    Gradients have the dtypes of what they are for. They are made in the forward pass, chunk of rows by chunk, and
    multiplied by the incoming one in the backward pass, as Liger-Kernel's fused linear cross-entropy does (Hsu et al.
    2024). ValueError where shapes do not match.
    """
    if not (states.shape[1:] == weight.shape[1:] and weight.shape[:1] == bias.shape
            and states.shape[:1] == labels.shape):
        raise ValueError(f"shapes do not match: states {tuple(states.shape)}, weight {tuple(weight.shape)}, "
                         f"bias {tuple(bias.shape)}, labels {tuple(labels.shape)}")
    device = states.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
    states = states.to(torch.float32 if dtype == torch.float16 else dtype)
    with torch.autocast(device, enabled=False):
        return LinearCrossEntropy.apply(states, weight, bias, labels.contiguous(), torch.is_grad_enabled())


def _variants(kind: str) -> list[Variant]:
    size = block(250_002)
    warps = size.pop("num_warps")
    constants = {"GRADIENT": True, **size}
    return [Variant(f"cross-entropy {kind}", cross_entropy_kernel,
                    {"logits": f"*{kind}", "labels": "*i64", "losses": "*fp32", "words": "i32", "stride": "i32",
                     **dict.fromkeys(constants, "constexpr")}, constants, warps)]


VARIANTS = [*_variants("fp32"), *_variants("bf16")]
