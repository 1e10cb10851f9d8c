"""What a stack of low-rank adapters adds to a linear map, in place, with dropout's mask made inside the products."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from peft_stilts.kernels.dropout import halves, threshold
from peft_stilts.kernels.fused.ahead import Variant
from peft_stilts.kernels.fused.dropout import keep
from peft_stilts.kernels.fused.sizes import parts, power_of_2

BLOCKS = {torch.float32: (32, 64, 16), torch.bfloat16: (32, 64, 64), torch.float16: (32, 64, 64)}
"""Rows and columns of a program's block, and how many places it sums at a time: fewer in float32, whose products are
made without tensor cores, from registers."""
WIDEST = 64
"""Most ranks of a program; more are given to others."""
SPLIT = 256
"""At least so many rows are summed by one program for the gradient of A, and 16 for each rank: partial sums are at most
a sixteenth as many as the elements of x, beside those of one A, and do not depend on the GPU."""


@triton.jit(do_not_specialize=["rows", "seed0", "seed1", "threshold"])
def down_kernel(x, a, u, rows, width, rank, scale, seed0, seed1, threshold, ROWS: tl.constexpr, DEPTH: tl.constexpr,
                RANKS: tl.constexpr):
    """u (rows, rank) = dropout(x) a^T for a block of rows and ranks; x (rows, width), a (rank, width)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    place = tl.program_id(1) * RANKS + tl.arange(0, RANKS)
    total = tl.zeros((ROWS, RANKS), tl.float32)
    for first in range(0, width, DEPTH):
        column = first + tl.arange(0, DEPTH)
        offsets = row[:, None].to(tl.int64) * width + column[None, :]
        kept = tl.load(x + offsets, mask=(row < rows)[:, None] & (column < width)[None, :], other=0.0)
        kept = tl.where(keep(offsets, seed0, seed1, threshold), kept, 0.0)
        turned = tl.load(a + place[None, :] * width + column[:, None],
                         mask=(place < rank)[None, :] & (column < width)[:, None], other=0.0)
        total = tl.dot(kept, turned, total, input_precision="ieee")
    tl.store(u + row[:, None].to(tl.int64) * rank + place[None, :], total * scale,
             mask=(row < rows)[:, None] & (place < rank)[None, :])


@triton.jit(do_not_specialize=["rows", "split", "seed0", "seed1", "threshold"])
def down_grad_kernel(du, x, da, rows, split, width, rank, scale, seed0, seed1, threshold, DEPTH: tl.constexpr,
                     COLUMNS: tl.constexpr, RANKS: tl.constexpr):
    """da (splits, rank, width): du^T dropout(x) over each `split` rows, for a block of ranks and columns."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    place = tl.program_id(1) * RANKS + tl.arange(0, RANKS)
    start = tl.program_id(2) * split
    end = tl.minimum(start + split, rows)
    total = tl.zeros((RANKS, COLUMNS), tl.float32)
    for first in range(start, end, DEPTH):
        row = first + tl.arange(0, DEPTH)
        offsets = row[:, None].to(tl.int64) * width + column[None, :]
        kept = tl.load(x + offsets, mask=(row < end)[:, None] & (column < width)[None, :], other=0.0)
        kept = tl.where(keep(offsets, seed0, seed1, threshold), kept, 0.0)
        turned = tl.load(du + row[None, :].to(tl.int64) * rank + place[:, None],
                         mask=(row < end)[None, :] & (place < rank)[:, None], other=0.0)
        total = tl.dot(turned, kept, total, input_precision="ieee")
    mine = tl.program_id(2).to(tl.int64) * rank * width
    tl.store(da + mine + place[:, None] * width + column[None, :], total * scale,
             mask=(place < rank)[:, None] & (column < width)[None, :])


@triton.jit(do_not_specialize=["rows", "seed0", "seed1", "threshold"])
def up_grad_kernel(du, a, dx, rows, width, rank, scale, seed0, seed1, threshold, ADD: tl.constexpr,
                   ROWS: tl.constexpr, COLUMNS: tl.constexpr, RANKS: tl.constexpr):
    """dropout(du a) for a block of rows and columns, written to dx (rows, width) or added to it (ADD)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, rank, RANKS):
        place = first + tl.arange(0, RANKS)
        inner = tl.load(du + row[:, None].to(tl.int64) * rank + place[None, :],
                        mask=(row < rows)[:, None] & (place < rank)[None, :], other=0.0)
        down = tl.load(a + place[:, None] * width + column[None, :],
                       mask=(place < rank)[:, None] & (column < width)[None, :], other=0.0)
        total = tl.dot(inner, down, total, input_precision="ieee")
    offsets = row[:, None].to(tl.int64) * width + column[None, :]
    inside = (row < rows)[:, None] & (column < width)[None, :]
    total = tl.where(keep(offsets, seed0, seed1, threshold), total * scale, 0.0)
    if ADD:
        total += tl.load(dx + offsets, mask=inside, other=0.0).to(tl.float32)
    tl.store(dx + offsets, total, mask=inside)


def mask_of(scale: float, p: float, seed: int) -> dict[str, float | int]:
    """The kernels' arguments for `scale` times dropout of probability `p` under `seed`."""
    low, high = halves(seed)
    return {"scale": scale / (1 - p), "seed0": low, "seed1": high, "threshold": threshold(p)}


def ranks_of(rank: int) -> int:
    """Ranks of a program's block."""
    return min(max(power_of_2(rank), 16), WIDEST)


def down(x: torch.Tensor, a: torch.Tensor, scale: float, p: float, seed: int) -> torch.Tensor:
    """scale dropout(x) a^T of x (T, in) and a (r, in), both of one dtype: (T, r)."""
    if not p:
        return (x @ a.T).mul_(scale)
    (rows, width), rank, ranks = x.shape, len(a), ranks_of(len(a))
    size, _, depth = BLOCKS[x.dtype]
    u = x.new_empty(rows, rank)
    if u.numel():
        down_kernel[(parts(rows, size), parts(rank, ranks))](
            x.contiguous(), a.contiguous(), u, rows, width, rank, **mask_of(scale, p, seed), ROWS=size, DEPTH=depth,
            RANKS=ranks)
    return u


def down_grad(du: torch.Tensor, x: torch.Tensor, scale: float, p: float, seed: int) -> torch.Tensor:
    """scale du^T dropout(x) of du (T, r) and x (T, in): (r, in), in float32 where there is dropout."""
    if not p:
        return (du.T @ x).mul_(scale)
    (rows, width), rank = x.shape, du.shape[1]
    _, columns, depth = BLOCKS[x.dtype]
    ranks = ranks_of(rank)
    split = max(SPLIT, 16 * rank)
    splits = parts(rows, split)
    da = x.new_empty(splits, rank, width, dtype=torch.float32)
    if da.numel():
        down_grad_kernel[(parts(width, columns), parts(rank, ranks), splits)](
            du.contiguous(), x.contiguous(), da, rows, split, width, rank, **mask_of(scale, p, seed), DEPTH=depth,
            COLUMNS=columns, RANKS=ranks)
    return da.sum(0)


def up_grad(dx: torch.Tensor | None, du: torch.Tensor, a: torch.Tensor, scale: float, p: float, seed: int
            ) -> torch.Tensor:
    """scale dropout(du a) of du (T, r) and a (r, in), added to dx (T, in) in place where there is one: (T, in)."""
    if not p:
        return (du * scale) @ a if dx is None else dx.addmm_(du, a, alpha=scale)
    (rank, width), rows = a.shape, len(du)
    size, columns, depth = BLOCKS[du.dtype]
    add = dx is not None
    dx = dx if add else du.new_empty(rows, width)
    if dx.numel():
        up_grad_kernel[(parts(rows, size), parts(width, columns))](
            du.contiguous(), a.contiguous(), dx, rows, width, rank, **mask_of(scale, p, seed), ADD=add, ROWS=size,
            COLUMNS=columns, RANKS=min(ranks_of(rank), depth))
    return dx


class AddLora(torch.autograd.Function):
    """`add_lora_` of (T, in) to (T, out); keeps x, the adapters in its dtype and, of its length, r numbers a row.

    On a GPU an op takes the processor as long to launch as a small pack takes to compute: so nothing is scaled, joined
    or converted that need not be."""

    @staticmethod
    def forward(ctx, result, x, frozen_a, frozen_b, a, b, scale, p, seed):
        below, upper, trained, own = (None if each is None else each.to(x.dtype)
                                      for each in (frozen_a, frozen_b, a, b))
        inner = u = None if a is None else down(x, trained, scale, p, seed)
        if below is None:
            upper = own
        elif a is None:
            inner = x @ below.T
        else:
            inner, upper = torch.cat([x @ below.T, u], 1), torch.cat([upper, own], 1)
        result.addmm_(inner, upper.T)       # result is read and written once
        ctx.mark_dirty(result)
        ctx.frozen, ctx.dropout = 0 if below is None else len(below), (scale, p, seed)
        ctx.dtypes = a is not None and (a.dtype, b.dtype)
        ctx.save_for_backward(x, below, upper, trained, u)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, below, upper, trained, u = ctx.saved_tensors
        for_result, for_x, _, _, for_a, for_b, *_ = ctx.needs_input_grad
        dx = da = db = du = None
        with narrow_products(grad):
            if for_x or for_a:
                inner = grad @ upper        # of all adapters, the frozen ones first
                du = inner[:, ctx.frozen:] if below is not None else inner
            if for_x and below is not None:
                dx = inner[:, :ctx.frozen] @ below
            if for_x and trained is not None:
                dx = up_grad(dx, du, trained, *ctx.dropout)
            if for_a:
                da = down_grad(du, x, *ctx.dropout).to(ctx.dtypes[0])
            if for_b:
                db = (grad.T @ u).to(ctx.dtypes[1])
        return grad if for_result else None, dx, None, None, da, db, None, None, None


def narrow_products(x: torch.Tensor) -> AbstractContextManager:
    """The context in which products of tensors in the dtype of `x` are made in it, autocast or not."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) != x.dtype:
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def add_lora_(result: torch.Tensor, x: torch.Tensor, frozen_a: torch.Tensor | None, frozen_b: torch.Tensor | None,
              a: torch.Tensor | None, b: torch.Tensor | None, scale: float, p: float, seed: int) -> torch.Tensor:
    """Adds to `result` (T, out), in place, what a stack of adapters makes of `x` (T, in): `reference.lora_stack`.

    `frozen_a` (R, in), `frozen_b` (out, R): the frozen adapters' A's one under the other, and their B's times their
    scales side by side; None without any. They get no gradient. `a` (r, in), `b` (out, r), `scale`: the trained
    adapter's, whose input alone is dropped out, by `dropout.keep_mask(x.shape, p, seed)`; None without one.
    `result` and `x` have one dtype, float32, bfloat16 or float16, and the products are made in it, with sums in
    float32; the adapters may have another, which their gradients have too. Kept for the backward pass: x, (T, r), and
    the adapters where they had to be converted or joined.
    ValueError where shapes or the first two dtypes do not match.
    """
    _check(result, x, frozen_a, frozen_b, a, b)
    if frozen_a is None and a is None:
        return result
    with narrow_products(x):
        return AddLora.apply(result, x, frozen_a, frozen_b, a, b, scale, p, seed)


def _check(result, x, *maps) -> None:
    (rows, out), width = result.shape, x.shape[1]
    fits = len(x) == rows and all(
        (first is None) == (second is None) and (first is None or (len(first), width) == first.shape
                                                 and (out, len(first)) == second.shape)
        for first, second in (maps[:2], maps[2:]))
    if not fits:
        told = ", ".join(f"{name} {None if tensor is None else tuple(tensor.shape)}" for name, tensor in zip(
            ("result", "x", "frozen_a", "frozen_b", "a", "b"), (result, x, *maps)))
        raise ValueError(f"shapes do not match: {told}")
    if x.dtype != result.dtype:
        raise ValueError(f"x is {x.dtype}, result {result.dtype}; they must be of one dtype")


def _variants(kind: str, dtype: torch.dtype) -> list[Variant]:
    """A map of 1024 columns under an adapter of rank 16, frozen ones below it."""
    x = f"*{kind}"
    rows, columns, depth = BLOCKS[dtype]
    numbers = {**dict.fromkeys(("rows", "width", "rank", "seed0", "seed1", "threshold"), "i32"), "scale": "fp32"}
    first = {"ROWS": rows, "DEPTH": depth, "RANKS": 16}
    second = {"DEPTH": depth, "COLUMNS": columns, "RANKS": 16}
    third = {"ADD": True, "ROWS": rows, "COLUMNS": columns, "RANKS": 16}
    return [
        Variant(f"lora down {kind}", down_kernel,
                {"x": x, "a": x, "u": x, **numbers, **dict.fromkeys(first, "constexpr")}, first),
        Variant(f"lora down gradient {kind}", down_grad_kernel,
                {"du": x, "x": x, "da": "*fp32", "split": "i32", **numbers, **dict.fromkeys(second, "constexpr")},
                second),
        Variant(f"lora up gradient {kind}", up_grad_kernel,
                {"du": x, "a": x, "dx": x, **numbers, **dict.fromkeys(third, "constexpr")}, third),
    ]


VARIANTS = [*_variants("fp32", torch.float32), *_variants("bf16", torch.bfloat16)]
