"""One prediction for every scored item, whatever its length, and the scores of a target in each language."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from peft_stilts.data.encode import Features, decode_spans, encode_sentences, encode_span, null_scores
from peft_stilts.data.pack import Pack, make_pack, plan_packs
from peft_stilts.data.pairs import encode_choices, encode_pairs
from peft_stilts.data.words import encode_words
from peft_stilts.errors import TrainingError
from peft_stilts.evaluate.retrieval import POOLINGS, best_threshold, centre, mine_sentences, nearest
from peft_stilts.evaluate.submission import render_pairs, render_tags
from peft_stilts.registry import Registry
from peft_stilts.spec import TrainingSettings
from peft_stilts.train.optim import is_out_of_memory

if TYPE_CHECKING:
    from datasets import Dataset

    from peft_stilts.model.heads import Head
    from peft_stilts.model.stack import Stack

Count = Callable[[int], None]
"""Hears how many tokens have just gone through the encoder."""


@dataclass(frozen=True)
class Scorer:
    """What predicting needs: the encoder with its adapters (`stack`) and a head (None for retrieval) on `device`, the
    tokenizer, and how to read a text.

    `labels`: the words of the head's outputs. `layer`: the index into hidden_states that retrieval pools; `centred`:
    whether it takes away each language's mean vector. `precision` is fp32, bf16 or fp16.
    """

    stack: Stack
    head: Head | None
    tokenizer: Any
    settings: TrainingSettings
    labels: tuple[str, ...] = ()
    precision: str = "fp32"
    device: str = "cpu"
    layer: int | None = None
    centred: bool = False

    def autocast(self) -> torch.autocast:
        """The context in which the model computes in `precision`."""
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        return torch.autocast(self.device, dtype, enabled=self.precision != "fp32")

    def packs(self, features: Features, count: Count) -> Iterator[tuple[Pack, torch.Tensor]]:
        """Every feature once, in packs: the pack and its states (T, H), without gradients.

        `count` hears of each pack's tokens. A pack that does not fit in memory is halved.
        """
        group = self.head.group if self.head else 1         # the features of an item stay together
        sizes = features.lengths.reshape(-1, group).sum(axis=1)
        plan = plan_packs(sizes, range(len(sizes)), self.settings.tokens_per_pack)
        todo = [[item * group + part for item in items for part in range(group)] for items in plan][::-1]
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
                if len(indices) == group:
                    raise TrainingError(f"a text of {len(pack.input_ids)} tokens does not fit in memory; "
                                        "a smaller max_length or a smaller --scale would") from error
                half = len(indices) // group // 2 * group
                todo += [indices[half:], indices[:half]]
                continue
            yield pack, states
            count(len(pack.input_ids))


    def logits(self, features: Features, count: Count, per_item: bool = False) -> list[np.ndarray]:
        """The head's logits of every feature: N arrays (L_n, labels), or with `per_item` (labels,) an item of the head.

        All float32 on the CPU; an item is as many features as the head's `group`, whose logits it shares.
        """
        self.head.eval()
        found: list[np.ndarray] = [np.empty(0)] * (len(features) // (self.head.group if per_item else 1))
        for pack, states in self.packs(features, count):
            with torch.no_grad(), self.autocast():
                logits = self.head.logits(states, pack).float().cpu().numpy()
            if per_item:
                for place, piece in zip(pack.features[:: self.head.group], logits, strict=True):
                    found[place // self.head.group] = piece
            else:
                for feature, piece in zip(pack.features, np.split(logits, pack.cu_seqlens[1:-1].cpu().numpy())):
                    found[feature] = piece
        return found


def windows(rows: Dataset, tokenizer: Any, settings: TrainingSettings, labels: Sequence[str] = (),
            labelled: bool = True) -> Features:
    """The windows of question-answering rows as `settings` cuts them."""
    return encode_span(rows, tokenizer, settings.max_length, settings.doc_stride, settings.max_query_length, labelled)


def sentences(rows: Dataset, tokenizer: Any, settings: TrainingSettings, labels: Sequence[str] = ()) -> Features:
    """The sentences of retrieval rows, the foreign ones first, then the English ones."""
    texts = [*rows["source_sentence"], *rows["target_sentence"]]
    return encode_sentences(texts, tokenizer, settings.max_length)


def pool(rows: Dataset, tokenizer: Any, settings: TrainingSettings, labels: Sequence[str] = ()) -> Features:
    """The sentences of a mining pool, in its order."""
    return encode_sentences(list(rows["sentence"]), tokenizer, settings.max_length)


def by_length(encode: Callable[..., Features]) -> Callable[..., Features]:
    """An encoder that takes a limit and labels, in the shape that Form asks for."""
    return lambda rows, tokenizer, settings, labels: encode(rows, tokenizer, settings.max_length, labels)


def _spans(scorer: Scorer, rows: Dataset, count: Count) -> tuple[Features, list[np.ndarray], list[np.ndarray]]:
    features = windows(rows, scorer.tokenizer, scorer.settings, labelled=False)
    logits = scorer.logits(features, count)
    return features, [piece[:, 0] for piece in logits], [piece[:, 1] for piece in logits]


def predict_spans(scorer: Scorer, rows: Dataset, count: Count) -> dict[str, str]:
    """Answer text of every question, by id. `rows` as in XQuAD."""
    settings = scorer.settings
    found = decode_spans(*_spans(scorer, rows, count), rows, settings.max_answer_length, settings.n_best)
    return {key: text for key, (text, _) in found.items()}


def predict_nullable_spans(scorer: Scorer, rows: Dataset, count: Count) -> dict[str, tuple[str, float]]:
    """(answer text, how far the score of 'no answer' is above its score) of every question, by id."""
    settings, logits = scorer.settings, _spans(scorer, rows, count)
    found = decode_spans(*logits, rows, settings.max_answer_length, settings.n_best)
    none = null_scores(*logits, rows)
    return {key: (text, none[key] - score if math.isfinite(score) else math.inf)
            for key, (text, score) in found.items()}


def predict_labels(scorer: Scorer, rows: Dataset, count: Count) -> dict[str, str]:
    """The class of every pair, by its row number (from 0, as text)."""
    features = encode_pairs(rows, scorer.tokenizer, scorer.settings.max_length, scorer.labels)
    return _highest(scorer, features, count)


def predict_choices(scorer: Scorer, rows: Dataset, count: Count) -> dict[str, str]:
    """The label of the choice with the highest logit, by row number (from 0, as text)."""
    features = encode_choices(rows, scorer.tokenizer, scorer.settings.max_length, scorer.labels)
    return _highest(scorer, features, count)


def _highest(scorer: Scorer, features: Features, count: Count) -> dict[str, str]:
    logits = scorer.logits(features, count, per_item=True)
    return {str(row): scorer.labels[int(piece.argmax())] for row, piece in enumerate(logits)}


def predict_tags(scorer: Scorer, rows: Dataset, count: Count) -> dict[str, tuple[str, ...]]:
    """The tag of every word of every sentence, by row number (from 0, as text)."""
    features = encode_words(rows, scorer.tokenizer, scorer.settings.max_length, scorer.labels)
    tags: list[list[str]] = [[] for _ in range(len(rows))]
    for row, words, piece in zip(features.example, features.words, scorer.logits(features, count), strict=True):
        tags[row] += [scorer.labels[place] for place in piece[words].argmax(axis=1)]
    return {str(row): tuple(found) for row, found in enumerate(tags)}


def embed(scorer: Scorer, features: Features, count: Count) -> torch.Tensor:
    """Sentence vectors (N, H) float32 on the CPU: the states of `scorer.layer`, pooled as the settings say."""
    vectors = torch.empty(len(features), scorer.stack.encoder.config.hidden_size)
    for pack, states in scorer.packs(features, count):
        vectors[features.example[pack.features]] = POOLINGS[scorer.settings.pooling](states, pack.cu_seqlens).cpu()
    return vectors


def predict_retrieval(scorer: Scorer, rows: Dataset, count: Count) -> dict[str, int]:
    """For each pair, by its line number (from 0, as text), the line number of the foreign sentence that the English
    one finds: the index holds the foreign sentences, the queries are English (protocol: evaluate_retrieval.py)."""
    vectors = embed(scorer, sentences(rows, scorer.tokenizer, scorer.settings), count)
    foreign, english = (centre(side) if scorer.centred else side for side in vectors.split(len(rows)))
    return {str(line): int(found) for line, found in enumerate(nearest(english, foreign))}


def predict_mining(scorer: Scorer, rows: Dataset, count: Count, dev: Dataset) -> dict[str, str]:
    """{foreign id: English id} of the pairs mined from `rows` that score at least the threshold found on `dev`
    (rule: `retrieval.mine_sentences`, `best_threshold`)."""
    pairs = {}
    for name, some in (("dev", dev), ("test", rows)):
        vectors = embed(scorer, pool(some, scorer.tokenizer, scorer.settings), count)
        ids, texts, languages = list(some["id"]), list(some["sentence"]), list(some["language"])
        sides = [[row for row, code in enumerate(languages) if (code == "en") == english] for english in (False, True)]
        x, y = (centre(vectors[side]) if scorer.centred else vectors[side] for side in sides)
        found = mine_sentences(x, y, *([texts[row] for row in side] for side in sides))
        pairs[name] = [(ids[sides[0][i]], ids[sides[1][j]], score) for i, j, score in found]
    threshold = best_threshold(pairs["dev"], mining_golds(dev))
    return {left: right for left, right, score in pairs["test"] if score >= threshold}


def span_golds(rows: Dataset) -> dict[str, list[str]]:
    """Accepted answer texts of every question, by id."""
    return {key: answers["text"] for key, answers in zip(rows["id"], rows["answers"])}


def label_golds(rows: Dataset) -> dict[str, str]:
    """The right label of every row, by its number."""
    return {str(row): label for row, label in enumerate(rows["label"])}


def tag_golds(rows: Dataset) -> dict[str, tuple[str, ...]]:
    """The right tags of every sentence, by its number."""
    return {str(row): tuple(tags) for row, tags in enumerate(rows["tags"])}


def retrieval_golds(rows: Dataset) -> dict[str, int]:
    """The right line number of every line: its own."""
    return {str(line): line for line in range(len(rows))}


def mining_golds(rows: Dataset) -> dict[str, str]:
    """{foreign id: English id} of the gold pairs."""
    found = zip(rows["id"], rows["language"], rows["match"])
    return {key: match for key, language, match in found if match and language != "en"}


def as_json(predictions: dict[str, str]) -> str:
    """XTREME's file of answers: one JSON object, id to text."""
    return json.dumps(predictions, ensure_ascii=False, indent=1) + "\n"


def as_nullable_json(predictions: dict[str, tuple[str, float]]) -> str:
    """SQuAD v2.0's file of answers: "" where 'no answer' scores higher."""
    return as_json({key: "" if odds > 0 else text for key, (text, odds) in predictions.items()})


def as_lines(predictions: dict[str, Any]) -> str:
    """XTREME's file of one prediction a line, in the order of the items."""
    return "".join(f"{value}\n" for value in predictions.values())


@dataclass(frozen=True)
class Form:
    """How rows of one form become features, predictions and files, and what counts as right.

    `head`: its name in model/heads.py, None where none is trained; `encode(rows, tokenizer, settings, labels)`:
    features, labelled where a head is trained; `predict(scorer, rows, count)`, for mining with the rows of its `dev`
    besides; `golds(rows)`: what `Task.score` compares with; `complete`: whether every gold has a prediction by the same
    key; `suffix`, `write`: XTREME's file of predictions.
    """

    head: str | None
    encode: Callable[[Dataset, Any, TrainingSettings, Sequence[str]], Features]
    predict: Callable[..., dict[str, Any]]
    golds: Callable[[Dataset], dict[str, Any]]
    suffix: str
    write: Callable[[dict[str, Any]], str]
    complete: bool = True


FORMS: Registry[Form] = Registry("form of task")
FORMS.add("span", Form("span", windows, predict_spans, span_golds, "json", as_json))
FORMS.add("nullable_span", Form("span", windows, predict_nullable_spans, span_golds, "json", as_nullable_json))
FORMS.add("classification", Form("classification", by_length(encode_pairs), predict_labels, label_golds, "tsv",
                                 as_lines))
FORMS.add("tagging", Form("tagging", by_length(encode_words), predict_tags, tag_golds, "tsv",
                          lambda predictions: render_tags(predictions.values())))
FORMS.add("choice", Form("choice", by_length(encode_choices), predict_choices, label_golds, "tsv", as_lines))
FORMS.add("retrieval", Form(None, sentences, predict_retrieval, retrieval_golds, "tsv", as_lines))
FORMS.add("mining", Form(None, pool, predict_mining, mining_golds, "tsv",
                         lambda predictions: render_pairs(predictions.items()), complete=False))
