"""What is trained: an encoder with its stack of adapters, and a head."""

from __future__ import annotations

import torch
from torch import nn

from peft_stilts.data.pack import Pack
from peft_stilts.model.heads import Head
from peft_stilts.model.stack import Stack


class Learner(nn.Module):
    """A stack and a head. `forward` gives the loss for training, `logits` the scores for prediction."""

    def __init__(self, stack: Stack, head: Head):
        super().__init__()
        self.stack = stack
        self.head = head

    def forward(self, pack: Pack) -> torch.Tensor:
        """Sum of the losses over what the head counts in `pack` (see `Head.count`): a scalar."""
        return self.head.loss(self.stack(pack), pack)

    def logits(self, pack: Pack) -> torch.Tensor:
        """The head's logits for `pack`, shaped as the head says."""
        return self.head.logits(self.stack(pack), pack)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of everything that training changes, shared parameters once."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}
