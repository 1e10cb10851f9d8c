"""The ops of an encoder layer for CPUs: elementwise work compiled by torch.compile, dropout masks hashed, never stored.

Forward and backward are compiled apart and recompute the masks: stored as bools they cost more than all the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from peft_stilts.kernels.dropout import halves, hashed, threshold


def compiled(function: Callable) -> Callable:
    """`function` of tensors compiled once for every number of tokens; torch keeps what it compiled on disk, for later
    processes as well. It is always called alike, without gradients and autocast, for torch compiles anew for each."""
    run = torch.compile(function, dynamic=True)

    @functools.wraps(function)
    def call(*arguments):
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return run(*(x.detach() if isinstance(x, torch.Tensor) else x for x in arguments))

    return call


def packed_seed(seed: int, p: float, device: torch.device) -> torch.Tensor:
    """A seed's halves and the threshold of `p` as int32 (3,): a tensor, so that a new seed compiles nothing anew."""
    return torch.tensor([*halves(seed), threshold(p)], dtype=torch.int32, device=device)


def kept(offsets: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
    """Which of the elements numbered `offsets` (int32) are kept, under a `packed_seed`."""
    return hashed(offsets, seed[0], seed[1]) >= seed[2]


def dropped(x: torch.Tensor, p: float, seed: torch.Tensor | None) -> torch.Tensor:
    """x (T, H) after dropout; unchanged with `seed` None."""
    if seed is None:
        return x
    rows = torch.arange(x.shape[0], dtype=torch.int32, device=x.device)[:, None] * x.shape[1]
    columns = torch.arange(x.shape[1], dtype=torch.int32, device=x.device)
    return torch.where(kept(rows + columns, seed), x * (1 / (1 - p)), 0.0)


compiled_dropout = compiled(dropped)


@compiled
def norm_forward(x, residual, weight, bias, eps: float, p: float, seed):
    z = dropped(x.float(), p, seed) + residual
    mean = z.float().mean(dim=1, keepdim=True)
    centred = z - mean
    rstd = torch.rsqrt((centred * centred).mean(dim=1, keepdim=True) + eps)
    return centred * rstd * weight + bias, z, mean, rstd


@compiled
def norm_backward(gradient, z, mean, rstd, weight, p: float, seed):
    normed = (z - mean) * rstd
    scaled = gradient * weight
    along = (scaled * normed).mean(dim=1, keepdim=True)
    through = (scaled - scaled.mean(dim=1, keepdim=True) - normed * along) * rstd
    return dropped(through, p, seed), through, (gradient * normed).sum(dim=0), gradient.sum(dim=0)


class _ResidualNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, residual, weight, bias, eps, p, seed):
        y, z, mean, rstd = norm_forward(x, residual, weight, bias, eps, p, seed)
        ctx.save_for_backward(z, mean, rstd, weight, seed)
        ctx.p, ctx.dtypes = p, (x.dtype, residual.dtype)
        return y

    @staticmethod
    def backward(ctx, gradient):
        *saved, seed = ctx.saved_tensors
        dx, dz, dweight, dbias = norm_backward(gradient.contiguous(), *saved, ctx.p, seed)
        needed = ctx.needs_input_grad
        return (dx.to(ctx.dtypes[0]) if needed[0] else None, dz.to(ctx.dtypes[1]) if needed[1] else None,
                dweight if needed[2] else None, dbias if needed[3] else None, None, None, None)


def residual_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float,
                  p: float, seed: int) -> torch.Tensor:
    """LayerNorm(dropout(x) + residual) of (T, H) rows, as reference.residual_norm; statistics and result float32."""
    return _ResidualNorm.apply(x, residual, weight, bias, eps, p, packed_seed(seed, p, x.device) if p else None)


@compiled
def attention_forward(scores, first: int, tokens: int, longest: int, p: float, seed):
    probabilities = torch.softmax(scores, dim=-1)
    return probabilities, _drop_probabilities(probabilities, first, tokens, longest, p, seed)


@compiled
def attention_backward(probabilities, gradient, first: int, tokens: int, longest: int, p: float, seed):
    gradient = _drop_probabilities(gradient, first, tokens, longest, p, seed)
    weighted = gradient * probabilities
    return (weighted - probabilities * weighted.sum(dim=-1, keepdim=True),
            _drop_probabilities(probabilities, first, tokens, longest, p, seed))


def _drop_probabilities(x, first: int, tokens: int, longest: int, p: float, seed):
    """Dropout of (heads, S, S) whose rows are the pack's tokens from `first` on: see reference.packed_attention."""
    if seed is None:
        return x
    heads, size = x.shape[:2]
    rows = torch.arange(heads, dtype=torch.int32)[:, None] * tokens + torch.arange(size, dtype=torch.int32) + first
    offsets = (rows * longest)[:, :, None] + torch.arange(size, dtype=torch.int32)
    return torch.where(kept(offsets, seed), x * (1 / (1 - p)), 0.0)


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, lengths, scaling, p, seed):
        longest, tokens, first, saved = max(lengths, default=0), query.shape[0], 0, []
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        for size in lengths:
            q, k, v, to = (x[first:first + size].transpose(0, 1) for x in (query, key, value, out))
            scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=scaling)
            probabilities, weights = attention_forward(scores, first, tokens, longest, p, seed)
            to.copy_(torch.bmm(weights, v))
            saved.append(probabilities)
            first += size
        ctx.save_for_backward(query, key, value, seed, *saved)
        ctx.told = lengths, scaling, p
        return out

    @staticmethod
    def backward(ctx, gradient):
        query, key, value, seed, *saved = ctx.saved_tensors
        lengths, scaling, p = ctx.told
        longest, tokens, first = max(lengths, default=0), query.shape[0], 0
        found = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value)]
        for size, probabilities in zip(lengths, saved):
            q, k, v, g, dq, dk, dv = (x[first:first + size].transpose(0, 1)
                                      for x in (query, key, value, gradient, *found))
            scores, weights = attention_backward(probabilities, torch.bmm(g, v.transpose(1, 2)), first, tokens,
                                                 longest, p, seed)
            none = q.new_empty(())
            dq.copy_(torch.baddbmm(none, scores, k, beta=0, alpha=scaling))
            dk.copy_(torch.baddbmm(none, scores.transpose(1, 2), q, beta=0, alpha=scaling))
            dv.copy_(torch.bmm(weights.transpose(1, 2), g))
            first += size
        return *found, None, None, None, None


def packed_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seqlens: torch.Tensor,
                     max_seqlen: int, scaling: float, p: float, seed: int) -> torch.Tensor:
    """Attention of each sequence to itself, one after the other, as reference.packed_attention.

    `query`, `key`, `value` (T, heads, d) -> (T, heads, d). Kept for the backward pass: the (heads, S, S) probabilities
    of each sequence before dropout.
    """
    return _PackedAttention.apply(query, key, value, cu_seqlens.diff().tolist(), scaling, p,
                                  packed_seed(seed, p, query.device) if p else None)


class _AddLora(torch.autograd.Function):
    @staticmethod
    def forward(ctx, result, x, frozen_a, frozen_b, a, b, scale, p, seed):
        down = None
        if frozen_a is not None:
            result.addmm_(x @ frozen_a.to(x.dtype).T, frozen_b.to(x.dtype).T)
        if a is not None:
            down = _droppable(x, p, seed) @ a.to(x.dtype).T
            result.addmm_(down, b.to(x.dtype).T, alpha=scale)
        ctx.mark_dirty(result)
        ctx.save_for_backward(x, frozen_a, frozen_b, a, b, down, seed)
        ctx.scale, ctx.p = scale, p
        return result

    @staticmethod
    def backward(ctx, gradient):
        x, frozen_a, frozen_b, a, b, down, seed = ctx.saved_tensors
        dx = da = db = None
        if a is not None:
            inner = gradient @ b.to(gradient.dtype) * ctx.scale
            da = (inner.T @ _droppable(x, ctx.p, seed)).to(a.dtype)
            db = (gradient.T @ down).mul_(ctx.scale).to(b.dtype)
            if ctx.needs_input_grad[1]:
                dx = _droppable(inner @ a.to(inner.dtype), ctx.p, seed)
        if frozen_a is not None and ctx.needs_input_grad[1]:
            inner = gradient @ frozen_b.to(gradient.dtype)
            dx = inner @ frozen_a.to(inner.dtype) if dx is None else dx.addmm_(inner, frozen_a.to(inner.dtype))
        return gradient, dx, None, None, da, db, None, None, None


def _droppable(x: torch.Tensor, p: float, seed: torch.Tensor | None) -> torch.Tensor:
    return x if seed is None else compiled_dropout(x, p, seed)


def add_lora_(result: torch.Tensor, x: torch.Tensor, frozen_a: torch.Tensor | None, frozen_b: torch.Tensor | None,
              a: torch.Tensor | None, b: torch.Tensor | None, scale: float, p: float, seed: int) -> torch.Tensor:
    """Adds to `result` (T, out), in place, what a stack of adapters makes of x (T, in): as reference.lora_stack.

    `frozen_a` (R, in), `frozen_b` (out, R): the frozen adapters' A's one under the other, their B's times their scales
    side by side; None without any. `a` (r, in), `b` (out, r), `scale`: the trained adapter's, whose input alone is
    dropped out; None without one. Kept for the backward pass: x, which the base map keeps too, and (T, r).
    """
    drops = packed_seed(seed, p, x.device) if a is not None and p > 0 else None
    return _AddLora.apply(result, x, frozen_a, frozen_b, a, b, scale, p, drops)


def bias_gelu(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """gelu(x + bias), eager: on a CPU the error function takes the time, and compiling saves nothing of it."""
    return torch.nn.functional.gelu(x if bias is None else x + bias)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, p, seed):
        ctx.p = p
        ctx.save_for_backward(seed)
        return compiled_dropout(x, p, seed)

    @staticmethod
    def backward(ctx, gradient):
        return compiled_dropout(gradient.contiguous(), ctx.p, ctx.saved_tensors[0]), None, None


def dropout(x: torch.Tensor, p: float, seed: int) -> torch.Tensor:
    """Dropout of x (T, H) by keep_mask((T, H), p, seed); nothing of that size is kept for the backward pass."""
    return _Dropout.apply(x, p, packed_seed(seed, p, x.device))
