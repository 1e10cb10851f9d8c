"""What each kernel must compute, in plain dense torch that also runs in float64: the specification.

Dropout is told as a mask: `keep`, bool, where an element stays (None: everywhere); what stays is divided by 1 - `p`.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def dropped(x: torch.Tensor, keep: torch.Tensor | None, p: float) -> torch.Tensor:
    """`x` after the dropout of probability `p` that keeps the elements `keep`, a mask of its shape."""
    return x if keep is None else torch.where(keep, x / (1 - p), 0.0)


def residual_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    keep: torch.Tensor | None = None,
    p: float = 0.0,
) -> torch.Tensor:
    """The end of each half of a post-LayerNorm layer: layer normalisation of dropout(x) + residual.

    `x`, `residual`, `keep` (T, H); `weight`, `bias` (H,). Returns (T, H) in the wider dtype of `x` and `residual`.
    """
    total = dropped(x, keep, p) + residual
    centred = total - total.mean(-1, keepdim=True)
    variance = (centred * centred).mean(-1, keepdim=True)
    return centred * torch.rsqrt(variance + eps) * weight + bias


def bias_gelu(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """GELU of x + bias by the error function (Hendrycks and Gimpel 2016, section 2).

    `x` (T, H), `bias` (H,) -> (T, H).
    """
    total = x + bias
    return total * (1 + torch.erf(total * 0.5**0.5)) / 2


def lora_stack(
    result: torch.Tensor,
    x: torch.Tensor,
    frozen: list[tuple[torch.Tensor, torch.Tensor, float]],
    a: torch.Tensor | None,
    b: torch.Tensor | None,
    scale: float,
    keep: torch.Tensor | None = None,
    p: float = 0.0,
) -> torch.Tensor:
    """A linear map's `result` (T, out) plus what a stack of low-rank adapters makes of its input `x` (T, in).

    `frozen` holds the earlier adapters' (A (r, in), B (out, r), scale); `a`, `b`, `scale` are the trained one's, None
    where there is none; dropout, `keep` (T, in), acts on its input only. Hu et al. 2022, section 4.1. Returns (T, out).
    """
    for frozen_a, frozen_b, frozen_scale in frozen:
        result = result + frozen_scale * (x @ frozen_a.T) @ frozen_b.T
    return result if a is None else result + scale * (dropped(x, keep, p) @ a.T) @ b.T


def packed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens: torch.Tensor,
    scaling: float,
    keep: torch.Tensor | None = None,
    p: float = 0.0,
) -> torch.Tensor:
    """Softmax attention in which a token sees its own sequence only; dropout acts on the probabilities.

    `query`, `key`, `value` (1, heads, T, d), any floating dtype; `cu_seqlens` (B+1,) int; `scaling` multiplies the
    scores; `keep` (heads, T, S), S the longest sequence's length: keep[h, t, j] belongs to the j-th token of t's own
    sequence. Returns (1, T, heads, d), transformers' layout. Builds the whole (T, T) block-diagonal mask: small T only.
    """
    tokens = torch.arange(query.shape[2], device=query.device)
    sequence = torch.bucketize(tokens, cu_seqlens[1:].to(tokens), right=True)
    scores = query @ key.transpose(-1, -2) * scaling
    scores = scores.masked_fill(sequence[:, None] != sequence[None, :], float("-inf"))
    if keep is not None:
        keep = keep[:, :, tokens - cu_seqlens.to(tokens)[sequence]]
    return (dropped(torch.softmax(scores, dim=-1), keep, p) @ value).transpose(1, 2)


def linear_cross_entropy(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Sum over the rows of -log softmax(states weight^T + bias)[label], a scalar.

    `states` (N, H), `weight` (V, H), `bias` (V,), `labels` (N,) int64 in 0..V-1.
    """
    return functional.cross_entropy(states @ weight.T + bias, labels, reduction="sum")
