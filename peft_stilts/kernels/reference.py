"""What each kernel must compute, in plain dense torch that also runs in float64: the specification."""

from __future__ import annotations

import torch


def packed_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seqlens: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Softmax attention in which a token sees its own sequence only; no dropout.

    `query`, `key`, `value` (1, heads, T, d), any floating dtype; `cu_seqlens` (B+1,) int; `scaling` multiplies the
    scores. Returns (1, T, heads, d), transformers' layout. Builds the whole (T, T) block-diagonal mask: small T only.
    """
    tokens = torch.arange(query.shape[2], device=query.device)
    sequence = torch.bucketize(tokens, cu_seqlens[1:].to(tokens), right=True)
    scores = query @ key.transpose(-1, -2) * scaling
    scores = scores.masked_fill(sequence[:, None] != sequence[None, :], float("-inf"))
    return (torch.softmax(scores, dim=-1) @ value).transpose(1, 2)
