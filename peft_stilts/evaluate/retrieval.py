"""Sentence retrieval: pooled states of one layer, and the nearest neighbour by cosine in bounded memory."""

from __future__ import annotations

import torch

BLOCK = 2048
"""queries whose similarities to every candidate are held at once"""


def mean_pool(states: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
    """States (T, H) of a pack -> (B, H) float32 means over each sentence's tokens, <s> and </s> included
    (XTREME third_party/evaluate_retrieval.py: pool_type mean over the attention mask)."""
    lengths = cu_seqlens.diff().long()
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=states.device), lengths)
    sums = torch.zeros(len(lengths), states.shape[1], device=states.device).index_add_(0, rows, states.float())
    return sums / lengths[:, None]


def nearest(queries: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """For each query (Q, H) the index (Q,) int64 of the candidate (N, H) with the highest cosine; the first of equals.

    Exact, as XTREME's L2 search over L2-normalised vectors; BLOCK x N similarities are held at once.
    """
    candidates = torch.nn.functional.normalize(candidates, dim=1)
    queries = torch.nn.functional.normalize(queries, dim=1)
    return torch.cat([(block @ candidates.T).argmax(dim=1) for block in queries.split(BLOCK)])
