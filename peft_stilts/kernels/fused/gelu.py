"""Bias and GELU in one pass over memory each way."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from peft_stilts.kernels.fused.ahead import Variant
from peft_stilts.kernels.fused.sizes import parts, power_of_2

BLOCK = 1024
"""Most columns of a program."""
PROGRAMS = 128
"""Each sums the gradient of the bias over its rows; a fixed number, so that sums do not depend on the GPU."""


@triton.jit
def forward_kernel(x, bias, out, width, BLOCK: tl.constexpr):
    """One block of columns of one row a program."""
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    places = tl.program_id(0).to(tl.int64) * width + columns
    z = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    z += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + places, 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476)), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def backward_kernel(grad, x, bias, dx, dbias, rows, width, SUM: tl.constexpr, BLOCK: tl.constexpr):
    """Each program walks rows of a block of columns; it writes `dx` and, in its row of `dbias` (programs, width), its
    sum (SUM). The derivative is Phi(z) + z phi(z), of the normal distribution and its density."""
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    b = tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    bias_sum = tl.zeros((BLOCK,), tl.float32)
    for row in range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0)):
        places = row * width + columns
        z = tl.load(x + places, mask=inside, other=0.0).to(tl.float32) + b
        slope = 0.5 + 0.5 * tl.erf(z * 0.7071067811865476) + z * tl.exp(-0.5 * z * z) * 0.3989422804014327
        dz = tl.load(grad + places, mask=inside, other=0.0).to(tl.float32) * slope
        tl.store(dx + places, dz, mask=inside)
        bias_sum += dz
    if SUM:
        tl.store(dbias + tl.program_id(0) * width + columns, bias_sum, mask=inside)


def block(width: int) -> dict[str, int]:
    """The launch's block of columns and number of warps."""
    size = min(power_of_2(width), BLOCK)
    return {"BLOCK": size, "num_warps": max(size // 256, 1)}


class BiasGelu(torch.autograd.Function):
    """`bias_gelu` of (T, H); keeps x."""

    @staticmethod
    def forward(ctx, x, bias):
        x = x.contiguous()
        rows, width = x.shape
        out = torch.empty_like(x)
        size = block(width)
        if rows:
            forward_kernel[(rows, parts(width, size["BLOCK"]))](x, bias.contiguous(), out, width, **size)
        ctx.save_for_backward(x, bias)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, bias = ctx.saved_tensors
        rows, width = x.shape
        sums = ctx.needs_input_grad[1]
        programs = min(rows, PROGRAMS) if sums else rows
        dx = torch.empty_like(x)
        dbias = x.new_empty((programs if sums else 0, width), dtype=torch.float32)
        size = block(width)
        if rows:
            backward_kernel[(programs, parts(width, size["BLOCK"]))](
                grad.contiguous(), x, bias.contiguous(), dx, dbias, rows, width, SUM=sums, **size)
        return dx, dbias.sum(0).to(bias.dtype) if sums else None


def bias_gelu(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """GELU (by the error function) of x + bias: `reference.bias_gelu`, differentiable.

    `x` (..., H), `bias` (H,), each float32, bfloat16 or float16; returns (..., H) in the dtype of `x`; arithmetic in
    float32. ValueError where the shapes do not match.
    """
    if bias.shape != x.shape[-1:]:
        raise ValueError(f"shapes do not match: x {tuple(x.shape)}, bias {tuple(bias.shape)}")
    return BiasGelu.apply(x.reshape(-1, x.shape[-1]), bias).view(x.shape)


def _variants(kind: str, x: str) -> list[Variant]:
    size = block(4096)
    warps = size.pop("num_warps")
    arguments = {"x": x, "bias": "*fp32", "width": "i32", "BLOCK": "constexpr"}
    both = {**arguments, "grad": x, "dx": x, "dbias": "*fp32", "rows": "i32", "SUM": "constexpr"}
    return [Variant(f"gelu forward {kind}", forward_kernel, {**arguments, "out": x}, size, warps),
            Variant(f"gelu backward {kind}", backward_kernel, both, {**size, "SUM": True}, warps)]


VARIANTS = [*_variants("fp32", "*fp32"), *_variants("bf16", "*bf16")]
