"""Residual, dropout and layer normalisation in one pass over memory each way."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from peft_stilts.kernels.dropout import halves, threshold
from peft_stilts.kernels.fused.ahead import Variant
from peft_stilts.kernels.fused.dropout import keep
from peft_stilts.kernels.fused.sizes import power_of_2

WIDEST = 8192
"""A row is held in registers as a whole."""
PROGRAMS = 256
"""Each sums the gradients of weight and bias over its rows; a fixed number, so that sums do not depend on the GPU."""


@triton.jit(do_not_specialize=["seed0", "seed1", "threshold"])
def forward_kernel(x, residual, weight, bias, out, total, mean, rstd, width, eps, scale, seed0, seed1, threshold,
                   DROPOUT: tl.constexpr, SAVE: tl.constexpr, BLOCK: tl.constexpr):
    """One row a program; `total`, `mean`, `rstd` are written for the backward pass (SAVE)."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    places = row * width + columns
    z = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    if DROPOUT:
        z = tl.where(keep(places, seed0, seed1, threshold), z * scale, 0.0)
    z += tl.load(residual + places, mask=inside, other=0.0).to(tl.float32)
    count = width * 1.0         # div_rn and sqrt_rn: on a GPU `/` and sqrt are some last places off
    average = tl.div_rn(tl.sum(z, axis=0), count)
    centred = tl.where(inside, z - average, 0.0)
    inverse = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(centred * centred, axis=0) / count + eps))
    w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + places, centred * inverse * w + b, mask=inside)
    if SAVE:
        tl.store(total + places, z, mask=inside)
        tl.store(mean + row, average)
        tl.store(rstd + row, inverse)


@triton.jit(do_not_specialize=["rows", "seed0", "seed1", "threshold"])
def backward_kernel(grad, total, mean, rstd, weight, dx, dresidual, dweight, dbias, rows, width, scale, seed0, seed1,
                    threshold, DROPOUT: tl.constexpr, APART: tl.constexpr, PARAMETERS: tl.constexpr,
                    BLOCK: tl.constexpr):
    """Each program walks rows; it writes `dresidual`, `dx` where that is another (APART) and, in its row of `dweight`
    and `dbias` (programs, width), its sums (PARAMETERS). Ba et al. 2016, layer normalisation, supplement."""
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    weight_sum = tl.zeros((BLOCK,), tl.float32)
    bias_sum = tl.zeros((BLOCK,), tl.float32)
    for row in range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0)):
        places = row * width + columns
        g = tl.load(grad + places, mask=inside, other=0.0).to(tl.float32)
        z = tl.load(total + places, mask=inside, other=0.0).to(tl.float32)
        inverse = tl.load(rstd + row)
        normal = (z - tl.load(mean + row)) * inverse        # beyond the width anything: g is 0 there
        if PARAMETERS:
            weight_sum += g * normal
            bias_sum += g
        g *= w
        average = tl.div_rn(tl.sum(g, axis=0), width * 1.0)
        dz = (g - average - normal * (tl.sum(g * normal, axis=0) / width)) * inverse
        tl.store(dresidual + places, dz, mask=inside)
        if DROPOUT:
            dz = tl.where(keep(places, seed0, seed1, threshold), dz * scale, 0.0)
        if APART:
            tl.store(dx + places, dz, mask=inside)
    if PARAMETERS:
        mine = tl.program_id(0) * width + columns
        tl.store(dweight + mine, weight_sum, mask=inside)
        tl.store(dbias + mine, bias_sum, mask=inside)


def block(width: int) -> dict[str, int]:
    """The launch's block of columns and number of warps: 8 columns a thread, 16 in the widest rows."""
    size = power_of_2(width)
    return {"BLOCK": size, "num_warps": min(max(size // 256, 1), 16)}


class ResidualNorm(torch.autograd.Function):
    """`residual_norm` of (T, H); keeps dropout(x) + residual and two numbers a row."""

    @staticmethod
    def forward(ctx, x, residual, weight, bias, eps, p, seed, saves):
        x, residual = x.contiguous(), residual.contiguous()
        rows, width = x.shape
        out = torch.empty_like(x, dtype=torch.promote_types(x.dtype, residual.dtype))
        total = torch.empty_like(out) if saves else None
        mean, rstd = x.new_empty((2, rows), dtype=torch.float32) if saves else (None, None)
        ctx.dropout = {"scale": 1 / (1 - p), **dict(zip(("seed0", "seed1"), halves(seed))),
                       "threshold": threshold(p), "DROPOUT": p > 0}
        if rows:
            forward_kernel[(rows,)](x, residual, weight.contiguous(), bias.contiguous(), out, total, mean, rstd, width,
                                    eps, SAVE=saves, **ctx.dropout, **block(width))
        ctx.dtypes = x.dtype, residual.dtype, weight.dtype, bias.dtype
        ctx.save_for_backward(total, mean, rstd, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        total, mean, rstd, weight = ctx.saved_tensors
        rows, width = total.shape
        x_type, residual_type, weight_type, bias_type = ctx.dtypes
        parameters = any(ctx.needs_input_grad[2:4])
        apart = ctx.needs_input_grad[0] and (ctx.dropout["DROPOUT"] or x_type != residual_type)
        dresidual = torch.empty_like(total, dtype=residual_type)
        dx = torch.empty_like(total, dtype=x_type) if apart else dresidual
        programs = min(rows, PROGRAMS) if parameters else rows
        partial = total.new_empty((2, programs if parameters else 0, width), dtype=torch.float32)
        dweight, dbias = partial
        if rows:
            backward_kernel[(programs,)](grad.contiguous(), total, mean, rstd, weight.contiguous(), dx, dresidual,
                                         dweight, dbias, rows, width, APART=apart, PARAMETERS=parameters,
                                         **ctx.dropout, **block(width))
        sums = (None, None)
        if parameters:
            weight_sum, bias_sum = partial.sum(1)
            sums = weight_sum.to(weight_type), bias_sum.to(bias_type)
        return dx, dresidual, *sums, None, None, None, None


def residual_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float,
                  p: float, seed: int) -> torch.Tensor:
    """Layer normalisation of dropout(x) + residual, over rows of H: `reference.residual_norm`, differentiable.

    `x`, `residual` (..., H), `weight`, `bias` (H,), each float32, bfloat16 or float16; returns (..., H) in the wider
    dtype of `x` and `residual`. Statistics and sums in float32. The mask is `dropout.keep_mask(x.shape, p, seed)`.
    ValueError where H is above 8192 or the shapes do not match.
    """
    width = x.shape[-1]
    if not 0 < width <= WIDEST:
        raise ValueError(f"rows of {width}; they must be of 1 to {WIDEST}")
    if x.shape != residual.shape or weight.shape != (width,) or bias.shape != (width,):
        raise ValueError(f"shapes do not match: x {tuple(x.shape)}, residual {tuple(residual.shape)}, "
                         f"weight {tuple(weight.shape)}, bias {tuple(bias.shape)}")
    saves = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, residual, weight, bias))
    rows = (tensor.reshape(-1, width) for tensor in (x, residual))
    return ResidualNorm.apply(*rows, weight, bias, eps, p, seed, saves).view(x.shape)


def _variants(kind: str, x: str, stream: str) -> list[Variant]:
    """Both passes with dropout; `x` and `stream` (residual and result) are pointer types."""
    numbers = {"width": "i32", "scale": "fp32", "seed0": "i32", "seed1": "i32", "threshold": "i32"}
    saved = {"total": stream, "mean": "*fp32", "rstd": "*fp32", "weight": "*fp32"}
    size = block(1024)
    warps = size.pop("num_warps")
    first = {"DROPOUT": True, "SAVE": True, **size}
    second = {"DROPOUT": True, "APART": True, "PARAMETERS": True, **size}
    return [
        Variant(f"norm forward {kind}", forward_kernel,
                {"x": x, "residual": stream, "bias": "*fp32", "out": stream, "eps": "fp32", **saved, **numbers,
                 **dict.fromkeys(first, "constexpr")}, first, warps),
        Variant(f"norm backward {kind}", backward_kernel,
                {"grad": stream, "dx": x, "dresidual": stream, "dweight": "*fp32", "dbias": "*fp32", "rows": "i32",
                 **saved, **numbers, **dict.fromkeys(second, "constexpr")}, second, warps),
    ]


VARIANTS = [*_variants("fp32", "*fp32", "*fp32"), *_variants("bf16", "*bf16", "*fp32")]
