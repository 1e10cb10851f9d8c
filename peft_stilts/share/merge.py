"""A stack folded into its base: one plain transformers checkpoint, and how far its answers moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from torch import nn

from peft_stilts.errors import CheckpointError, StoreError
from peft_stilts.model.encoder import WEIGHTS
from peft_stilts.share.load import ATTENTION, assemble, base_encoder, find
from peft_stilts.store import new_folder

LENGTHS = (1, 2, 5, 8, 16, 31, 64, 128, 256, 510)
"""Tokens of the probe sequences, as far as the encoder has positions for them."""
LIMIT = 1e-2
"""The largest change, relative to the largest output, of what still is the same model: rounding makes 1e-6 of it."""


def merge(source: str | Path, out: Path, task: str | None = None, base: str | Path | None = None,
          say: Callable[[str], None] = print) -> float:
    """Write `out`, a new folder with a plain transformers checkpoint of what `load` gives, adapters folded in.

    Adapters are folded in the order of the stack, in float32: W + (alpha / rank) B A for LoRA, m (W + (alpha / rank) B
    A) / ||W_0 + (alpha / rank) B A|| for DoRA (W_0: the base's weight, the norm by row), so the order matters there. A
    4-bit base (qlora) is dequantised first: the checkpoint holds those weights, not the ones before quantisation.

    Returns the largest absolute change of a logit (of a state, without a head) over probe sequences of random tokens,
    measured on the folder as written, and says it. Raises CheckpointError, with nothing written, where that is above
    LIMIT of the largest logit; errors of `load`, UsageError where `out` is there, StoreError for a disk that does not
    take it.
    """
    place = find(source, base)
    task = place.choose(task)
    with new_folder(out) as draft:      # refused before anything is loaded
        model, tokenizer = assemble(place, task, base_encoder(place))
        probes = list(_probes(model.config.vocab_size, tokenizer.pad_token_id, model.config.max_position_embeddings))
        before = _answers(model, probes)
        if place.quantized:
            model, tokenizer = assemble(place, task, base_encoder(place, exact=True))
        folded = fold(model)
        try:
            folded.save_pretrained(draft, max_shard_size="1000GB")      # one file, as --scale wants it
            tokenizer.save_pretrained(draft)
        except Exception as error:      # safetensors' own kind, OSError, and of tokenizers bare Exceptions
            raise StoreError(f"{draft} cannot be written: {error}") from error
        kind, options = type(folded), _plain(folded)
        del model, folded               # one of them in memory at a time
        written = kind.from_pretrained(draft, attn_implementation=ATTENTION, dtype=torch.float32, use_safetensors=True,
                                       **options).eval()
        change, largest = _difference(before, _answers(written, probes))
        _say(say, place.quantized, Path(out), task, change, largest, len(probes))
        if not change <= LIMIT * largest:       # nan as well
            raise CheckpointError(f"{source} was not merged: its largest change is {change:.2g}, of outputs up to "
                                  f"{largest:.2g}; at most {LIMIT:g} of that can be rounding. The adapters may hold "
                                  "very large weights; use them as a stack (peft_stilts.load)")
    return change


def fold(model: nn.Module) -> nn.Module:
    """The model with every adapter folded into its encoder's weights, in the order of the stack; changed in place."""
    inner = model if isinstance(model, PeftModel) else model.roberta
    plain = inner.merge_and_unload(safe_merge=True, adapter_names=list(inner.base_model.active_adapters))
    if inner is model:
        return plain
    model.roberta = plain
    return model


def _plain(model: nn.Module) -> dict[str, bool]:
    """What transformers must be told to read a bare encoder without a pooler."""
    return {} if hasattr(model, "roberta") else {"add_pooling_layer": False}


def _probes(vocabulary: int, padding: int, positions: int) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of fixed random tokens: one sequence of each of LENGTHS alone, and all of them padded together."""
    drawn = np.random.default_rng(0)
    most = positions - padding - 1
    rows = [torch.from_numpy(drawn.integers(0, vocabulary, length)) for length in LENGTHS if length <= most]
    for row in rows:
        row[row == padding] = (padding + 1) % vocabulary
        yield {"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]}
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)
    yield {"input_ids": ids, "attention_mask": (ids != padding).long()}


@torch.no_grad()
def _answers(model: nn.Module, probes: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
    """The outputs of a model on each probe, real tokens only: logits, or states where it has no head."""
    found = []
    for probe in probes:
        output = model(**probe)
        names = [name for name in ("start_logits", "end_logits", "logits") if name in output] or ["last_hidden_state"]
        real = probe["attention_mask"].bool()
        for value in (output[name] for name in names):      # (B, classes) has no padding, all others have (B, T, ...)
            whole = names == ["logits"] and value.ndim == 2
            found.append((value if whole else value[real]).flatten())
    return found


def _difference(before: list[torch.Tensor], after: list[torch.Tensor]) -> tuple[float, float]:
    """(largest absolute change, largest absolute value); nan where something is not finite."""
    first, second = torch.cat(before), torch.cat(after)
    return float((first - second).abs().max()), float(first.abs().max())


def _say(say: Callable[[str], None], quantized: bool, out: Path, task: str | None, change: float, largest: float,
         probes: int) -> None:
    what = "a logit" if task else "a state"
    say(f"merged: {out} ({WEIGHTS}, {task or 'no head'}); largest change of {what} over {probes} batches of random "
        f"tokens ({probes - 1} sequences, alone and padded together): {change:.2g}, of values up to {largest:.2g}")
    if quantized:
        say("The base was trained on in 4 bits (qlora): the checkpoint holds the dequantised 4-bit weights with the "
            "adapters, which is the model that was scored, and not the original float32 base with the adapters")
