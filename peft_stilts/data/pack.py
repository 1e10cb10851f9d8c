"""Features are joined end to end into packs: no padding token is ever computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch


class Packable(Protocol):
    """What `make_pack` needs of the features (data/encode.py's `Features` has it).

    `input_ids`: N integer arrays, one a feature, special tokens included.
    `labels`: name -> (N,) array (one label a feature: class ids, or positions counted inside the feature), or
    name -> list of N arrays as long as the features (one label a token, -100 where it does not count).
    """

    input_ids: list[np.ndarray]
    labels: dict[str, np.ndarray | list[np.ndarray]]


@dataclass(frozen=True)
class Pack:
    """B features with T tokens in all, laid end to end.

    `input_ids` (T,) int64; `position_ids` (T,) int64, beginning at padding_idx + 1 again in every feature (XLM-R's
    numbering); `cu_seqlens` (B+1,) int32, where each feature starts, and T; `max_seqlen`, tokens of the longest one;
    `labels`, name -> (B,) or (T,) int64; `features`, the features' indices, in order.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    cu_seqlens: torch.Tensor
    max_seqlen: int
    labels: dict[str, torch.Tensor]
    features: list[int]

    def to(self, device: torch.device | str) -> Pack:
        """The same pack with its tensors on `device`."""
        if self.input_ids.device == torch.device(device):
            return self
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            cu_seqlens=self.cu_seqlens.to(device),
            labels={name: value.to(device) for name, value in self.labels.items()},
        )


def plan_packs(lengths: Sequence[int], indices: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Divide `indices` into packs of at most `max_tokens` tokens, every index exactly once.

    `lengths[i]` is the number of tokens of feature i. Longest first, so that features of like length share a pack;
    a feature longer than `max_tokens` gets a pack of its own. The plan depends on nothing but the arguments.
    """
    packs: list[list[int]] = []
    room = 0
    for index in sorted(indices, key=lambda i: -lengths[i]):
        length = int(lengths[index])
        if not packs or length > room:
            packs.append([])
            room = max_tokens
        packs[-1].append(int(index))
        room -= length
    return packs


def make_pack(features: Packable, indices: Sequence[int], padding_idx: int) -> Pack:
    """Join the features `indices`, in this order, to one pack on the CPU; `padding_idx` is the model's (1 in XLM-R)."""
    chosen = [features.input_ids[i] for i in indices]
    lengths = np.array([len(ids) for ids in chosen], dtype=np.int64)
    ends = lengths.cumsum()
    positions = np.arange(int(ends[-1]), dtype=np.int64) - np.repeat(ends - lengths, lengths) + padding_idx + 1
    labels = {
        name: np.concatenate([values[i] for i in indices]) if isinstance(values, list) else values[list(indices)]
        for name, values in features.labels.items()
    }
    return Pack(
        input_ids=torch.from_numpy(np.concatenate(chosen).astype(np.int64)),
        position_ids=torch.from_numpy(positions),
        cu_seqlens=torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
        max_seqlen=int(lengths.max()),
        labels={name: torch.from_numpy(value.astype(np.int64)) for name, value in labels.items()},
        features=[int(i) for i in indices],
    )
