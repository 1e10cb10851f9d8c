"""Between packs and padded rectangles, without a device synchronisation."""

from __future__ import annotations

import torch


def places(cu_seqlens: torch.Tensor, total: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Row (which sequence) and column (place in it) of each of the `total` tokens: two (T,) int64 tensors.

    `cu_seqlens` (B+1,) int, last value `total`.
    """
    starts = cu_seqlens.long()
    sequences = torch.arange(len(starts) - 1, device=starts.device)
    row = torch.repeat_interleave(sequences, starts.diff(), output_size=total)
    return row, torch.arange(total, device=starts.device) - starts[row]


def pad(values: torch.Tensor, cu_seqlens: torch.Tensor, max_seqlen: int, fill: float) -> torch.Tensor:
    """(T, ...) -> (B, S, ...) with S = `max_seqlen`; `fill` where a sequence is shorter."""
    empty = values.new_full((len(cu_seqlens) - 1, max_seqlen, *values.shape[1:]), fill)
    return empty.index_put(places(cu_seqlens, len(values)), values)


def unpad(padded: torch.Tensor, cu_seqlens: torch.Tensor, total: int) -> torch.Tensor:
    """(B, S, ...) -> (T, ...), T = `total`: undoes `pad`."""
    return padded[places(cu_seqlens, total)]
