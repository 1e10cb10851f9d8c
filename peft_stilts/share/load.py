"""A stack from anywhere as an ordinary transformers model: base, adapters and one head, ready for padded batches."""

from __future__ import annotations

import copy
import dataclasses
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    XLMRobertaForQuestionAnswering,
    XLMRobertaForSequenceClassification,
    XLMRobertaForTokenClassification,
)

from peft_stilts.errors import CheckpointError, UsageError
from peft_stilts.grid.base import Base
from peft_stilts.grid.given import base_of_adapter, base_of_stage, open_stack
from peft_stilts.grid.loader import load_base
from peft_stilts.model import stack as stacks
from peft_stilts.model.adapter_io import load_head, read_head_config
from peft_stilts.model.encoder import Encoder
from peft_stilts.model.quantize import dequantize
from peft_stilts.paths import typed_path
from peft_stilts.store import RECORD, Store

STOCK = {"span": (XLMRobertaForQuestionAnswering, "qa_outputs"),
         "classification": (XLMRobertaForSequenceClassification, "classifier"),
         "choice": (XLMRobertaForSequenceClassification, "classifier"),
         "tagging": (XLMRobertaForTokenClassification, "classifier")}
"""Form of a head -> transformers' model with the same function, and the name of its part that is the head."""
ATTENTION = "sdpa"


@dataclass(frozen=True)
class Place:
    """Where a stack lies: its `adapters` (folders, lowest first), `heads` by task (folder, number of adapters it stands
    on), and the encoder under it, in 4 bits if `quantized`."""

    source: str
    adapters: tuple[Path, ...]
    heads: dict[str, tuple[Path, int]]
    base: Base
    quantized: bool

    def choose(self, task: str | None) -> str | None:
        """`task`, or without one that of the only head of the last adapter; None where that has no head. UsageError
        naming those that there are where there is no such head, or several."""
        last = [name for name, (_, depth) in self.heads.items() if depth == len(self.adapters)]
        if task is None and len(last) < 2:
            return last[0] if last else None
        if task in self.heads:
            return task
        if task is None:
            raise UsageError(f"{self.source} has several heads on its last adapter; say which task: "
                             f"{', '.join(sorted(last))}")
        raise UsageError(f"{self.source} has no head for {task!r}; it has {', '.join(sorted(self.heads)) or 'none'}")


def load(source: str | Path, task: str | None = None, base: str | Path | None = None) \
        -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """A stack and the head of `task` as a stock transformers model in evaluation mode, and its tokenizer.

    `source`: a bundle's folder, its id on the hub (`user/name` or `user/name@revision`), a run's `stages/KEY` folder,
    or an adapter's folder. `task`: one of its heads, used over the stack as far as it was trained on it; without one
    the only head of the last adapter; where that has none the encoder under its adapters comes without a head.
    `base`: folder or hub id of the encoder, where the one that the adapters name is not found.

    The model is XLMRobertaForQuestionAnswering (logits (B, T) of start and end), ForSequenceClassification ((B,
    classes); of multiple choice (B, 1), a row a choice), or ForTokenClassification ((B, T, classes)), its `.roberta` a
    PeftModel. Everything computes in float32; the linear maps of a 4-bit base (qlora) are held in 4 bits.

    Raises UsageError for a source, task or base that is not there or not the right one, CheckpointError for files that
    are damaged or do not belong together.
    """
    place = find(source, base)
    return assemble(place, task, base_encoder(place))


def find(source: str | Path, base: str | Path | None = None) -> Place:
    """The stack at `source` and its base; see `load`. Checks the adapters' files, loads nothing."""
    source = str(source)
    path = typed_path(source, "SOURCE")
    if path.suffix == ".zip" or path.is_file() and zipfile.is_zipfile(path):
        raise UsageError(f"{source} is a zip; unpack it first: `python -m peft_stilts share pull {source} --out DIR`")
    chain = open_stack(source)
    if chain is None:
        raise UsageError(f"{source} holds no adapters to load: give the folder of a bundle (with stack.json), the id "
                         "of one on the hub (user/name), a run's stages/KEY folder or an adapter's folder")
    heads = {task: (folder, depth) for depth, given in enumerate(chain, 1) for task, folder in given.heads.items()}
    if base is None and (path / RECORD).is_file():
        found = base_of_stage(*Store.locate(path))
    else:
        found = base_of_adapter(chain[0].folder, "auto" if base is None else str(base))
    return Place(source, tuple(given.folder for given in chain), heads, found, chain[0].method == "qlora")


def base_encoder(place: Place, exact: bool = False) -> Encoder:
    """The base encoder in float32, quantised where it was in training; `exact`: then dequantised again, the same
    weights as plain ones."""
    encoder = load_base(place.base, torch.float32 if place.quantized else None)
    return dataclasses.replace(encoder, model=dequantize(encoder.model)) if place.quantized and exact else encoder


def assemble(place: Place, task: str | None, encoder: Encoder) \
        -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """What `load` returns, over a loaded `encoder`, which becomes part of it."""
    task = place.choose(task)
    folder, depth = place.heads[task] if task else (None, len(place.adapters))
    stack = stacks.lora(encoder, place.adapters[:depth], None)
    encoder.model.set_attn_implementation(ATTENTION)
    model = stack.model if task is None else _with_head(stack.model, folder, task, encoder)
    return model.requires_grad_(False).eval(), encoder.tokenizer


def _with_head(inner: nn.Module, folder: Path, task: str, encoder: Encoder) -> PreTrainedModel:
    """transformers' model of the head in `folder` over the encoder `inner`."""
    told = read_head_config(folder)
    if told["form"] not in STOCK:
        raise CheckpointError(f"{folder} holds a {told['form']} head; known here are {', '.join(STOCK)}.")
    head = load_head(folder, encoder.config, task, told["form"])
    kind, part = STOCK[told["form"]]
    config = copy.deepcopy(encoder.config)
    config.num_labels = head.config.num_labels      # of multiple choice one: a score a choice
    if len(told["labels"]) == config.num_labels:
        config.id2label = dict(enumerate(told["labels"]))
        config.label2id = {label: number for number, label in config.id2label.items()}
    with torch.device("meta"):                      # its own encoder is never made
        model = kind(config)
    model.roberta = inner
    setattr(model, part, getattr(head, part))
    return model
