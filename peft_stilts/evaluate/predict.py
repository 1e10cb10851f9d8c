"""One prediction for every scored item, whatever its length, and the scores of a target in each language."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from peft_stilts.data.encode import Features, decode_spans, encode_sentences, encode_span
from peft_stilts.data.pack import Pack, make_pack, plan_packs
from peft_stilts.errors import TrainingError
from peft_stilts.evaluate.retrieval import mean_pool, nearest
from peft_stilts.registry import Registry
from peft_stilts.spec import TrainingSettings
from peft_stilts.train.optim import is_out_of_memory

if TYPE_CHECKING:
    from datasets import Dataset

    from peft_stilts.model.heads import Head
    from peft_stilts.model.stack import Stack
    from peft_stilts.tasks.base import Task

Count = Callable[[int], None]
"""Hears how many tokens have just gone through the encoder."""


@dataclass(frozen=True)
class Scorer:
    """What predicting needs: the encoder with its adapters (`stack`) and a head (None for retrieval) on `device`, the
    tokenizer, and how to read a text.

    `layer` is the index into hidden_states that retrieval pools. `precision` is fp32, bf16 or fp16.
    """

    stack: Stack
    head: Head | None
    tokenizer: Any
    settings: TrainingSettings
    precision: str = "fp32"
    device: str = "cpu"
    layer: int | None = None

    def autocast(self) -> torch.autocast:
        """The context in which the model computes in `precision`."""
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        return torch.autocast(self.device, dtype, enabled=self.precision != "fp32")

    def packs(self, features: Features, count: Count) -> Iterator[tuple[Pack, torch.Tensor]]:
        """Every feature once, in packs: the pack and its states (T, H), without gradients.

        `count` hears of each pack's tokens. A pack that does not fit in memory is halved.
        """
        budget = self.settings.tokens_per_pack
        todo = plan_packs(features.lengths, range(len(features)), budget)[::-1]
        self.stack.eval()
        padding = self.tokenizer.pad_token_id
        while todo:
            indices = todo.pop()
            pack = make_pack(features, indices, padding).to(self.device)
            try:
                with torch.no_grad(), self.autocast():
                    states = self.stack(pack, self.layer)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(indices) == 1:
                    raise TrainingError(f"a text of {len(pack.input_ids)} tokens does not fit in memory; "
                                        "a smaller max_length or a smaller --scale would") from error
                half = len(indices) // 2
                todo += [indices[half:], indices[:half]]
                continue
            yield pack, states
            count(len(pack.input_ids))


def windows(rows: Dataset, tokenizer: Any, settings: TrainingSettings, labelled: bool = True) -> Features:
    """The windows of question-answering rows as `settings` cuts them."""
    return encode_span(rows, tokenizer, settings.max_length, settings.doc_stride, settings.max_query_length, labelled)


def sentences(rows: Dataset, tokenizer: Any, settings: TrainingSettings) -> Features:
    """The sentences of retrieval rows, the foreign ones first, then the English ones."""
    texts = [*rows["source_sentence"], *rows["target_sentence"]]
    return encode_sentences(texts, tokenizer, settings.max_length)


def predict_spans(scorer: Scorer, rows: Dataset, count: Count) -> dict[str, str]:
    """Answer text of every question, by id. `rows` as in XQuAD."""
    settings = scorer.settings
    features = windows(rows, scorer.tokenizer, settings, labelled=False)
    scorer.head.eval()
    start: list[np.ndarray] = [np.empty(0)] * len(features)
    end: list[np.ndarray] = [np.empty(0)] * len(features)
    for pack, states in scorer.packs(features, count):
        with torch.no_grad(), scorer.autocast():
            logits = scorer.head.logits(states, pack).float().cpu().numpy()
        for feature, piece in zip(pack.features, np.split(logits, pack.cu_seqlens[1:-1].cpu().numpy())):
            start[feature], end[feature] = piece[:, 0], piece[:, 1]
    return decode_spans(features, start, end, rows, settings.max_answer_length, settings.n_best)


def embed(scorer: Scorer, features: Features, count: Count) -> torch.Tensor:
    """Sentence vectors (N, H) float32 on the CPU: the states of `scorer.layer`, averaged over tokens."""
    vectors = torch.empty(len(features), scorer.stack.encoder.config.hidden_size)
    for pack, states in scorer.packs(features, count):
        vectors[features.example[pack.features]] = mean_pool(states, pack.cu_seqlens).cpu()
    return vectors


def predict_retrieval(scorer: Scorer, rows: Dataset, count: Count) -> dict[str, int]:
    """For each pair, by its line number (from 0, as text), the line number of the foreign sentence that the English
    one finds: the index holds the foreign sentences, the queries are English (protocol: evaluate_retrieval.py)."""
    vectors = embed(scorer, sentences(rows, scorer.tokenizer, scorer.settings), count)
    foreign, english = vectors.split(len(rows))
    return {str(line): int(found) for line, found in enumerate(nearest(english, foreign))}


def span_golds(rows: Dataset) -> dict[str, list[str]]:
    """Accepted answer texts of every question, by id."""
    return {key: answers["text"] for key, answers in zip(rows["id"], rows["answers"])}


def retrieval_golds(rows: Dataset) -> dict[str, int]:
    """The right line number of every line: its own."""
    return {str(line): line for line in range(len(rows))}


def as_json(predictions: dict[str, str]) -> str:
    """XTREME's file of answers: one JSON object, id to text."""
    return json.dumps(predictions, ensure_ascii=False, indent=1) + "\n"


def as_lines(predictions: dict[str, int]) -> str:
    """XTREME's file of one prediction a line, in the order of the items."""
    out = io.StringIO()
    csv.writer(out, delimiter="\t", lineterminator="\n").writerows([value] for value in predictions.values())
    return out.getvalue()


@dataclass(frozen=True)
class Form:
    """How rows of one form become features, predictions and files, and what counts as right.

    `head`: its name in model/heads.py, None where none is trained; `num_labels(task)`: its width; `encode(rows,
    tokenizer, settings)`: features, labelled where a head is trained; `golds(rows)`: what `Task.score` compares with.
    """

    head: str | None
    num_labels: Callable[[Task], int]
    encode: Callable[[Dataset, Any, TrainingSettings], Features]
    predict: Callable[[Scorer, Dataset, Count], dict[str, Any]]
    golds: Callable[[Dataset], dict[str, Any]]
    suffix: str
    write: Callable[[dict[str, Any]], str]


FORMS: Registry[Form] = Registry("form of task")
FORMS.add("span", Form("span", lambda task: 2, windows, predict_spans, span_golds, "json", as_json))
FORMS.add("retrieval", Form(None, lambda task: 0, sentences, predict_retrieval, retrieval_golds, "tsv", as_lines))
