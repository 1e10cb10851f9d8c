"""Attention over packs, each sequence to itself, by blocks: neither scores nor dropout masks reach memory.

Forward as in Dao et al. 2022 (FlashAttention, algorithm 1) with the statistics of Dao 2023 (FlashAttention-2, section
3.1); backward as in the former's appendix B.2, with one kernel for the queries and one for keys and values, so that
no two programs add to one place and the same input gives the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from peft_stilts.kernels.dropout import halves, threshold
from peft_stilts.kernels.fused.ahead import Variant
from peft_stilts.kernels.fused.dropout import keep
from peft_stilts.kernels.fused.sizes import power_of_2

WIDEST = 256
"""A head's width is in registers and shared memory as a whole."""
LOG2E = tl.constexpr(1.4426950408889634)
HALF = {
    "forward": {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 2},
    "query": {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2},
    "key": {"BLOCK_M": 32, "BLOCK_N": 64, "num_warps": 4, "num_stages": 2},
}
FULL = {
    "forward": {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2},
    "query": {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2},
    "key": {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 8, "num_stages": 2},
}
BLOCKS = {torch.float32: FULL, torch.bfloat16: HALF, torch.float16: HALF}
"""Queries (M) and keys (N) of a block, for heads of up to 64; float32 has no tensor cores."""
CHANGING = ["tokens", "longest", "seed0", "seed1", "threshold"]
"""Arguments that differ from pack to pack: no kernel is compiled for a value of theirs."""


@triton.jit
def tile(pointer, rows, stride, length, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr):
    """The rows `rows` of a sequence's matrix at `pointer`; zero from `length` and from WIDTH on."""
    columns = tl.arange(0, BLOCK_D)
    inside = (rows < length)[:, None] & (columns < WIDTH)[None, :]
    return tl.load(pointer + rows[:, None] * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def put(pointer, rows, stride, length, block, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr):
    """Store what `tile` would load."""
    columns = tl.arange(0, BLOCK_D)
    inside = (rows < length)[:, None] & (columns < WIDTH)[None, :]
    tl.store(pointer + rows[:, None] * stride + columns[None, :], block, mask=inside)


@triton.jit
def numbers(rows, head, start, tokens, longest):
    """Of queries `rows` of a sequence: the number that key 0's probability has in (heads, tokens, longest), uint32."""
    return (head * tokens + start + rows).to(tl.uint32) * longest.to(tl.uint32)


@triton.jit(do_not_specialize=CHANGING)
def forward_kernel(query, key, value, out, lse, cu_seqlens, query_token, query_head, key_token, key_head, value_token,
                   value_head, tokens, longest, scaling, scale, seed0, seed1, threshold, DROPOUT: tl.constexpr,
                   WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """One block of queries of one head of one sequence a program; `lse` (heads, tokens) is the base-2 logarithm of the
    sum of the exponentials."""
    head = tl.program_id(1).to(tl.int64)
    start = tl.load(cu_seqlens + tl.program_id(2)).to(tl.int64)
    length = (tl.load(cu_seqlens + tl.program_id(2) + 1) - start).to(tl.int32)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    if tl.program_id(0) * BLOCK_M >= length:
        return
    key += start * key_token + head * key_head
    value += start * value_token + head * value_head
    q = tile(query + start * query_token + head * query_head, rows, query_token, length, WIDTH, BLOCK_D)
    highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    mixed = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for first in range(0, length, BLOCK_N):
        places = first + tl.arange(0, BLOCK_N)
        k = tile(key, places, key_token, length, WIDTH, BLOCK_D)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (scaling * LOG2E)
        scores = tl.where((places < length)[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))     # finite: each block holds a key of the sequence
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(highest - higher)
        total = total * shrink + tl.sum(weights, axis=1)
        highest = higher
        if DROPOUT:
            offsets = numbers(rows, head, start, tokens, longest)[:, None] + places[None, :].to(tl.uint32)
            weights = tl.where(keep(offsets, seed0, seed1, threshold), weights, 0.0)
        v = tile(value, places, value_token, length, WIDTH, BLOCK_D)
        mixed = tl.dot(weights.to(v.dtype), v, mixed * shrink[:, None], input_precision="ieee")
    heads = tl.num_programs(1)
    put(out + (start * heads + head) * WIDTH, rows, heads * WIDTH, length, mixed * tl.div_rn(scale, total)[:, None],
        WIDTH, BLOCK_D)
    tl.store(lse + head * tokens + start + rows, highest + tl.log2(total), mask=rows < length)


@triton.jit(do_not_specialize=CHANGING)
def query_kernel(query, key, value, out, lse, grad, delta, dquery, cu_seqlens, query_token, query_head, key_token,
                 key_head, value_token, value_head, tokens, longest, scaling, scale, seed0, seed1, threshold,
                 DROPOUT: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
                 BLOCK_N: tl.constexpr):
    """The queries' gradient, a block of them a program; writes `delta` (heads, tokens), the sum of grad * out over a
    head's width, for `key_kernel` too."""
    head = tl.program_id(1).to(tl.int64)
    start = tl.load(cu_seqlens + tl.program_id(2)).to(tl.int64)
    length = (tl.load(cu_seqlens + tl.program_id(2) + 1) - start).to(tl.int32)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    if tl.program_id(0) * BLOCK_M >= length:
        return
    heads = tl.num_programs(1)
    place = (start * heads + head) * WIDTH
    key += start * key_token + head * key_head
    value += start * value_token + head * value_head
    q = tile(query + start * query_token + head * query_head, rows, query_token, length, WIDTH, BLOCK_D)
    g = tile(grad + place, rows, heads * WIDTH, length, WIDTH, BLOCK_D)
    o = tile(out + place, rows, heads * WIDTH, length, WIDTH, BLOCK_D)
    sums = tl.sum(g.to(tl.float32) * o.to(tl.float32), axis=1)
    statistics = head * tokens + start + rows
    tl.store(delta + statistics, sums, mask=rows < length)
    level = tl.load(lse + statistics, mask=rows < length, other=0.0)
    dq = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for first in range(0, length, BLOCK_N):
        places = first + tl.arange(0, BLOCK_N)
        k = tile(key, places, key_token, length, WIDTH, BLOCK_D)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (scaling * LOG2E) - level[:, None]
        # Beyond the end a score is 0, which may be far above `level`: infinity times a key of 0 would be no number.
        weights = tl.exp2(tl.where((places < length)[None, :], scores, float("-inf")))
        v = tile(value, places, value_token, length, WIDTH, BLOCK_D)
        dweights = tl.dot(g, tl.trans(v), input_precision="ieee")
        if DROPOUT:
            offsets = numbers(rows, head, start, tokens, longest)[:, None] + places[None, :].to(tl.uint32)
            dweights = tl.where(keep(offsets, seed0, seed1, threshold), dweights * scale, 0.0)
        dscores = weights * (dweights - sums[:, None])
        dq = tl.dot(dscores.to(k.dtype), k, dq, input_precision="ieee")
    put(dquery + place, rows, heads * WIDTH, length, dq * scaling, WIDTH, BLOCK_D)


@triton.jit(do_not_specialize=CHANGING)
def key_kernel(query, key, value, lse, grad, delta, dkey, dvalue, cu_seqlens, query_token, query_head, key_token,
               key_head, value_token, value_head, tokens, longest, scaling, scale, seed0, seed1, threshold,
               DROPOUT: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
               BLOCK_N: tl.constexpr):
    """The keys' and values' gradients, a block of them a program. Scores are held transposed, (keys, queries); what
    lies beyond the end stays in rows that are not stored, or is multiplied by a query and a `grad` of 0."""
    head = tl.program_id(1).to(tl.int64)
    start = tl.load(cu_seqlens + tl.program_id(2)).to(tl.int64)
    length = (tl.load(cu_seqlens + tl.program_id(2) + 1) - start).to(tl.int32)
    places = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    if tl.program_id(0) * BLOCK_N >= length:
        return
    heads = tl.num_programs(1)
    place = (start * heads + head) * WIDTH
    query += start * query_token + head * query_head
    k = tile(key + start * key_token + head * key_head, places, key_token, length, WIDTH, BLOCK_D)
    v = tile(value + start * value_token + head * value_head, places, value_token, length, WIDTH, BLOCK_D)
    dk = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    dv = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for first in range(0, length, BLOCK_M):
        rows = first + tl.arange(0, BLOCK_M)
        statistics = head * tokens + start + rows
        level = tl.load(lse + statistics, mask=rows < length, other=0.0)
        q = tile(query, rows, query_token, length, WIDTH, BLOCK_D)
        weights = tl.exp2(tl.dot(k, tl.trans(q), input_precision="ieee") * (scaling * LOG2E) - level[None, :])
        g = tile(grad + place, rows, heads * WIDTH, length, WIDTH, BLOCK_D)
        dweights = tl.dot(v, tl.trans(g), input_precision="ieee")
        kept = weights
        if DROPOUT:
            offsets = numbers(rows, head, start, tokens, longest)[None, :] + places[:, None].to(tl.uint32)
            keeps = keep(offsets, seed0, seed1, threshold)
            kept = tl.where(keeps, weights, 0.0)
            dweights = tl.where(keeps, dweights * scale, 0.0)
        dv = tl.dot(kept.to(g.dtype), g, dv, input_precision="ieee")
        sums = tl.load(delta + statistics, mask=rows < length, other=0.0)
        dscores = weights * (dweights - sums[None, :])
        dk = tl.dot(dscores.to(q.dtype), q, dk, input_precision="ieee")
    put(dkey + place, places, heads * WIDTH, length, dk * scaling, WIDTH, BLOCK_D)
    put(dvalue + place, places, heads * WIDTH, length, dv * scale, WIDTH, BLOCK_D)


def blocks(kind: str, dtype: torch.dtype, width: int) -> dict[str, int]:
    """The launch's block sizes, warps and stages: the table's, with fewer queries and keys where heads are wide."""
    padded = max(power_of_2(width), 16)
    sizes = dict(BLOCKS[dtype][kind])
    for name in ("BLOCK_M", "BLOCK_N"):
        sizes[name] = max(sizes[name] * 64 // max(padded, 64), 16)
    return {"BLOCK_D": padded, **sizes}


class PackedAttention(torch.autograd.Function):
    """`packed_attention`; keeps its inputs, its result and one number a head and token."""

    @staticmethod
    def forward(ctx, query, key, value, cu_seqlens, longest, scaling, p, seed):
        query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
        tokens, heads, width = query.shape
        out = query.new_empty(query.shape)
        lse = query.new_empty((heads, tokens), dtype=torch.float32)
        strides = [stride for x in (query, key, value) for stride in x.stride()[:2]]
        ctx.numbers = (*strides, tokens, longest, scaling, 1 / (1 - p), *halves(seed), threshold(p))
        ctx.constants = {"DROPOUT": p > 0, "WIDTH": width}
        if tokens:
            sizes = blocks("forward", query.dtype, width)
            grid = triton.cdiv(longest, sizes["BLOCK_M"]), heads, len(cu_seqlens) - 1
            forward_kernel[grid](query, key, value, out, lse, cu_seqlens, *ctx.numbers, **ctx.constants, **sizes)
        ctx.longest = longest
        ctx.save_for_backward(query, key, value, out, lse, cu_seqlens)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        query, key, value, out, lse, cu_seqlens = ctx.saved_tensors
        tokens, heads, width = query.shape
        grad, delta = grad.contiguous(), torch.empty_like(lse)
        dquery, dkey, dvalue = (out.new_empty(out.shape) for _ in range(3))
        if tokens:
            sizes = blocks("query", query.dtype, width)
            grid = triton.cdiv(ctx.longest, sizes["BLOCK_M"]), heads, len(cu_seqlens) - 1
            query_kernel[grid](query, key, value, out, lse, grad, delta, dquery, cu_seqlens, *ctx.numbers,
                               **ctx.constants, **sizes)
            sizes = blocks("key", query.dtype, width)
            grid = triton.cdiv(ctx.longest, sizes["BLOCK_N"]), *grid[1:]
            key_kernel[grid](query, key, value, lse, grad, delta, dkey, dvalue, cu_seqlens, *ctx.numbers,
                             **ctx.constants, **sizes)
        return dquery, dkey, dvalue, None, None, None, None, None


def packed_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seqlens: torch.Tensor,
                     max_seqlen: int, scaling: float, p: float, seed: int) -> torch.Tensor:
    """Softmax attention in which a token sees its own sequence only: `reference.packed_attention`, differentiable.

    `query`, `key`, `value` (T, heads, d), all float32, bfloat16 or float16; `cu_seqlens` (B+1,) int32 on their device,
    from 0 to T; `max_seqlen` the longest sequence's length; `scaling` multiplies the scores. Returns (T, heads, d).
    Statistics and sums in float32. The mask of the probabilities, which are (heads, T, max_seqlen), is
    `dropout.keep_mask` of that shape. ValueError where d is above 256 or shapes or dtypes do not match.
    """
    if query.dtype not in BLOCKS or not 0 < query.shape[-1] <= WIDEST:
        raise ValueError(f"heads of {query.shape[-1]} {query.dtype}; they must be of 1 to {WIDEST} float32 or halves")
    for x in (key, value):
        if x.shape != query.shape or x.dtype != query.dtype:
            raise ValueError(f"do not match: query {tuple(query.shape)} {query.dtype}, {tuple(x.shape)} {x.dtype}")
    return PackedAttention.apply(query, key, value, cu_seqlens.contiguous(), max_seqlen, scaling, p, seed)


def _variants(kind: str, dtype: torch.dtype) -> list[Variant]:
    """All three kernels with dropout, heads of 64."""
    found = []
    for name, kernel in (("forward", forward_kernel), ("query", query_kernel), ("key", key_kernel)):
        constants = {"DROPOUT": True, "WIDTH": 64, **blocks(name, dtype, 64)}
        warps, stages = constants.pop("num_warps"), constants.pop("num_stages")
        types = {"lse": "*fp32", "delta": "*fp32", "cu_seqlens": "*i32", "scaling": "fp32", "scale": "fp32",
                 **dict.fromkeys(constants, "constexpr")}
        pointers = {"query", "key", "value", "out", "grad", "dquery", "dkey", "dvalue"}
        signature = {argument: types.get(argument, f"*{kind}" if argument in pointers else "i32")
                     for argument in kernel.arg_names}
        found.append(Variant(f"attention {name} {kind}", kernel, signature, constants, warps, stages))
    return found


VARIANTS = [*_variants("fp32", torch.float32), *_variants("bf16", torch.bfloat16)]
