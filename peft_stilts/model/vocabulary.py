"""Exact vocabulary trimming: full fine-tuning that trains only the word embeddings which occur in its data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import embedding

from peft_stilts.model.learner import Learner

SAVED = 64 * 2**20
"""Bytes of weights, gradient and moments that trimming must save, or the words are trained whole."""
ROWS = 192
"""The trained rows are made a multiple of this by words that do not occur: see `_whole_vectors`."""
LANES = 16
"""Float32 numbers in the widest vector of a CPU (512 bits)."""


class TrimmedEmbedding(nn.Module):
    """Stands in place of word embeddings (V, H), of which it trains only some rows.

    `weight`: the trained rows (n, H), in order of word number; `whole`: the frozen matrix (V, H), whose trained rows
    and pending decay are put in when it is looked at (`up_to_date`). Training mode looks words up in `weight` (a word
    that is not trained raises IndexError, on CUDA a device-side assertion), evaluation mode in `whole`, which has them
    all. `decay(whole, rates)` does to the matrix, in place, what optimizer steps at these learning rates do to rows
    without gradient. As in nn.Embedding, the padding word has no gradient.
    """

    def __init__(self, plain: nn.Embedding, rows: torch.Tensor, decay: Callable[[torch.Tensor, Sequence[float]], None]):
        super().__init__()
        self.whole = plain.weight.requires_grad_(False)
        self.weight = nn.Parameter(plain.weight[rows])
        self.register_buffer("rows", rows, persistent=False)
        places = torch.full((len(plain.weight),), len(rows), device=rows.device)  # n: outside of `weight`
        places[rows] = torch.arange(len(rows), device=rows.device)
        self.register_buffer("places", places, persistent=False)
        self.padding_idx = plain.padding_idx
        self.padding_place = None if plain.padding_idx is None else int(places[plain.padding_idx])
        self._decay, self._rates, self._stale = decay, [], False
        self._plain = (plain,)  # in a tuple, so that it is no submodule

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if self.training:
            return embedding(self.places[ids], self.weight, self.padding_place)
        return embedding(ids, self.up_to_date(), self.padding_idx)

    def stepped(self, rate: float) -> None:
        """Note an optimizer step at this learning rate."""
        self._rates.append(rate)
        self._stale = True

    @torch.no_grad()
    def up_to_date(self) -> nn.Parameter:
        """`whole` as it would be had all of it been trained."""
        if self._stale:
            self._decay(self.whole, self._rates)
            self.whole[self.rows] = self.weight
            self._rates, self._stale = [], False
        return self.whole

    def plain(self) -> nn.Embedding:
        """The embeddings that this one stood for, up to date and trainable again."""
        (plain,) = self._plain
        plain.weight = self.up_to_date().requires_grad_(True)
        return plain


class Vocabulary:
    """The words of one training, trimmed to those that occur wherever that changes no bit and saves `SAVED` bytes.

    It changes no bit where each row's gradient comes from that word alone: in full fine-tuning whose heads do not share
    the word embeddings (as masked-language modelling does). `exact` False: neither trims nor looks at the words.
    `words`: arrays of word numbers, all that training will see. `decay`: see TrimmedEmbedding. `say` is told what was
    trimmed. Rows without gradient keep moments of zero, so an AdamW step only decays them; what remains to be shown is
    that torch does the same arithmetic on n rows as on V, which tests do on the CPU and no one has on a GPU yet.
    """

    def __init__(self, learner: Learner, words: Iterable[np.ndarray], decay: Callable, exact: bool,
                 say: Callable[[str], None] = lambda sentence: None):
        self._embeddings = learner.stack.encoder.embeddings
        plain = self._embeddings.word_embeddings
        count, width = plain.weight.shape
        self.apart = exact and 12 * count * width >= SAVED and _is_apart(plain.weight, learner)
        """Whether the matrix is large and every row's gradient comes from its word alone."""
        self.trimmed: TrimmedEmbedding | None = None
        if not self.apart:
            return
        rows = _rows(words, count, plain.padding_idx)
        if saved(len(rows), count, width) >= SAVED and _whole_vectors(plain.weight, len(rows)):
            self.trimmed = TrimmedEmbedding(plain, rows.to(plain.weight.device), decay)
            self._embeddings.word_embeddings = self.trimmed.train(plain.training)
            say(f"training {len(rows):,} of {count:,} word embeddings: the others do not occur, and weight decay alone "
                "changes them, as it would in training all")

    @property
    def weight(self) -> nn.Parameter:
        """What is trained of the word embeddings: (n, H) or (V, H)."""
        return self._embeddings.word_embeddings.weight

    def gradients(self, words: Iterable[np.ndarray]) -> torch.Tensor:
        """The gradient's rows for these words, each word once, in order: (words, H), the same bits trimmed or not. All
        other rows are zero, when the gradient is of these words."""
        found = torch.from_numpy(np.unique(np.concatenate(list(words))).astype(np.int64)).to(self.weight.device)
        return self.weight.grad[found if self.trimmed is None else self.trimmed.places[found]]

    def stepped(self, rate: float) -> None:
        """Note an optimizer step with this learning rate of the word embeddings."""
        if self.trimmed is not None:
            self.trimmed.stepped(rate)

    def restore(self) -> None:
        """Put the whole word embeddings back, as they would be had all been trained."""
        if self.trimmed is not None:
            self._embeddings.word_embeddings = self.trimmed.plain().train(self.trimmed.training)
            self.trimmed = None


def whole_weights(learner: Learner) -> dict[str, torch.Tensor]:
    """`learner.trainable()` with the whole word embeddings (V, H), up to date, also where they are trimmed."""
    weights: dict[str, torch.Tensor] = dict(learner.trainable())
    for name, module in learner.named_modules():
        if isinstance(module, TrimmedEmbedding):
            weights[f"{name}.weight"] = module.up_to_date()
    return weights


def saved(rows: int, count: int, width: int) -> int:
    """Bytes that training `rows` of `count` word embeddings saves: gradient and two moments of the others, less the
    copy of the trained ones. Negative where it costs more than it saves."""
    return 12 * (count - rows) * width - 4 * rows * width


def _is_apart(weight: nn.Parameter, learner: Learner) -> bool:
    """Whether `weight` is trained, in float32, and by one module only."""
    users = sum(own is weight for module in learner.modules() for own in module._parameters.values())
    return weight.requires_grad and weight.dtype == torch.float32 and users == 1


def _rows(words: Iterable[np.ndarray], count: int, padding_idx: int | None) -> torch.Tensor:
    """Numbers of the rows to train, in order: of the words and the padding, and of others up to a multiple of ROWS."""
    chosen = np.zeros(count, dtype=bool)
    for ids in words:
        chosen[ids] = True
    if padding_idx is not None:
        chosen[padding_idx] = True
    more = -int(chosen.sum()) % ROWS
    chosen[np.flatnonzero(~chosen)[:more]] = True
    return torch.from_numpy(np.flatnonzero(chosen))


def _whole_vectors(weight: torch.Tensor, rows: int) -> bool:
    """Whether each thread's share of the matrix, whole and trimmed, is whole vectors. True on other devices.

    torch's CPU kernels divide a tensor evenly among the threads and compute what is left of a share beyond its last
    vector in other arithmetic, so that otherwise some numbers would depend on where the shares end. With XLM-R's
    250,002 words all usual numbers of threads pass: 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96.
    """
    unit = LANES * torch.get_num_threads()
    return weight.device.type != "cpu" or not (weight.numel() % unit or rows * weight.shape[1] % unit)
