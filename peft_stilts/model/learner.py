"""What is trained: an encoder with its stack of adapters, and a head for each task of the training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from peft_stilts.data.pack import Pack
from peft_stilts.model.heads import Head
from peft_stilts.model.stack import Stack


class Learner(nn.Module):
    """A stack and the heads of the tasks, by name. `forward` gives the loss for training, `logits` the scores."""

    def __init__(self, stack: Stack, heads: Mapping[str, Head]):
        super().__init__()
        self.stack = stack
        self.heads = nn.ModuleDict(heads)

    def forward(self, pack: Pack, task: str) -> torch.Tensor:
        """Sum of the losses of `task` over what its head counts in `pack` (see `Head.count`): a scalar."""
        return self.heads[task].loss(self.stack(pack), pack)

    def logits(self, pack: Pack, task: str) -> torch.Tensor:
        """The logits of the task's head for `pack`, shaped as the head says."""
        return self.heads[task].logits(self.stack(pack), pack)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of everything that training changes, shared parameters once."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}
