"""One prediction for every scored item, whatever its length, and the scores of a target in each language."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from peft_stilts.data.encode import Features, decode_spans, encode_sentences, encode_span, null_scores
from peft_stilts.data.pack import Pack, make_pack, plan_packs
from peft_stilts.data.pairs import encode_choices, encode_pairs
from peft_stilts.data.words import encode_words
from peft_stilts.errors import TrainingError
from peft_stilts.evaluate.retrieval import POOLINGS, best_threshold, centre, mine_sentences
from peft_stilts.evaluate.search import nearest
from peft_stilts.evaluate.submission import render_pairs, render_tags
from peft_stilts.machine import KeptMemory
from peft_stilts.registry import Registry
from peft_stilts.spec import TrainingSettings
from peft_stilts.train.optim import is_out_of_memory

if TYPE_CHECKING:
    from datasets import Dataset

    from peft_stilts.model.heads import Head
    from peft_stilts.model.stack import Stack

Count = Callable[[int], None]
"""Hears how many tokens have just gone through the encoder."""

STREAM = 1 << 20
"""tokens whose features and outputs are held at once, but for a single language with more"""

LEAST = 32
"""tokens that a feature counts as at least in STREAM: a sentence's vector is held whatever its length"""


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
        padding, kept_memory = self.tokenizer.pad_token_id, KeptMemory()
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
            del pack, states
            kept_memory.stepped()

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


def sentences(rows: Dataset, tokenizer: Any, settings: TrainingSettings, labels: Sequence[str] = (),
              labelled: bool = False) -> Features:
    """The sentences of retrieval rows, the foreign ones first, then the English ones."""
    texts = [*rows["source_sentence"], *rows["target_sentence"]]
    return encode_sentences(texts, tokenizer, settings.max_length)


def pool(rows: Dataset, tokenizer: Any, settings: TrainingSettings, labels: Sequence[str] = (),
         labelled: bool = False) -> Features:
    """The sentences of a mining pool, in its order."""
    return encode_sentences(list(rows["sentence"]), tokenizer, settings.max_length)


def by_length(encode: Callable[..., Features]) -> Callable[..., Features]:
    """An encoder that takes a limit and labels, in the shape that Form asks for; rows that have labels are labelled."""
    return lambda rows, tokenizer, settings, labels, labelled=True: encode(rows, tokenizer, settings.max_length, labels)


def read_tokens(scorer: Scorer, features: Features, count: Count) -> list[np.ndarray]:
    """The head's logits of every feature: N arrays (L_n, labels)."""
    return scorer.logits(features, count)


def read_items(scorer: Scorer, features: Features, count: Count) -> list[np.ndarray]:
    """The head's logits of every item: arrays (labels,)."""
    return scorer.logits(features, count, per_item=True)


def embed(scorer: Scorer, features: Features, count: Count) -> torch.Tensor:
    """Vectors (N, H) float32 on the CPU of features that are sentences: the states of `scorer.layer`, pooled as the
    settings say."""
    vectors = torch.empty(len(features), scorer.stack.encoder.config.hidden_size)
    for pack, states in scorer.packs(features, count):
        vectors[pack.features] = POOLINGS[scorer.settings.pooling](states, pack.cu_seqlens).cpu()
    return vectors


def decode_answers(scorer: Scorer, rows: Dataset, features: Features, logits: Sequence[np.ndarray]) -> dict[str, str]:
    """Answer text of every question, by id. `rows` as in XQuAD."""
    return {key: text for key, (text, _) in _best_spans(scorer, rows, features, logits).items()}


def decode_nullable_answers(scorer: Scorer, rows: Dataset, features: Features,
                            logits: Sequence[np.ndarray]) -> dict[str, tuple[str, float]]:
    """(answer text, how far the score of 'no answer' is above its score) of every question, by id."""
    none = null_scores(features, *_sides(logits), rows)
    return {key: (text, none[key] - score if math.isfinite(score) else math.inf)
            for key, (text, score) in _best_spans(scorer, rows, features, logits).items()}


def _best_spans(scorer: Scorer, rows: Dataset, features: Features,
                logits: Sequence[np.ndarray]) -> dict[str, tuple[str, float]]:
    settings = scorer.settings
    return decode_spans(features, *_sides(logits), rows, settings.max_answer_length, settings.n_best)


def _sides(logits: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [piece[:, 0] for piece in logits], [piece[:, 1] for piece in logits]


def decode_highest(scorer: Scorer, rows: Dataset, features: Features, logits: Sequence[np.ndarray]) -> dict[str, str]:
    """The label with the highest logit of every pair or row of choices, by its row number (from 0, as text)."""
    return {str(row): scorer.labels[int(piece.argmax())] for row, piece in enumerate(logits)}


def decode_tags(scorer: Scorer, rows: Dataset, features: Features,
                logits: Sequence[np.ndarray]) -> dict[str, tuple[str, ...]]:
    """The tag of every word of every sentence, by row number (from 0, as text)."""
    tags: list[list[str]] = [[] for _ in range(len(rows))]
    for row, words, piece in zip(features.example, features.words, logits, strict=True):
        tags[row] += [scorer.labels[place] for place in piece[words].argmax(axis=1)]
    return {str(row): tuple(found) for row, found in enumerate(tags)}


def decode_retrieval(scorer: Scorer, rows: Dataset, features: Features, vectors: torch.Tensor) -> dict[str, int]:
    """For each pair, by its line number (from 0, as text), the line number of the foreign sentence that the English
    one finds: the index holds the foreign sentences, the queries are English (protocol: evaluate_retrieval.py)."""
    foreign, english = (centre(side) if scorer.centred else side for side in vectors.split(len(rows)))
    return {str(line): int(found) for line, found in enumerate(nearest(english, foreign))}


def decode_mining(scorer: Scorer, rows: Dataset, features: Features,
                  vectors: torch.Tensor) -> list[tuple[str, str, float]]:
    """(foreign id, English id, score) of the pairs mined from a pool (rule: `retrieval.mine_sentences`)."""
    ids, texts, languages = list(rows["id"]), list(rows["sentence"]), list(rows["language"])
    sides = [[row for row, code in enumerate(languages) if (code == "en") == english] for english in (False, True)]
    x, y = (centre(vectors[side]) if scorer.centred else vectors[side] for side in sides)
    found = mine_sentences(x, y, *([texts[row] for row in side] for side in sides))
    return [(ids[sides[0][i]], ids[sides[1][j]], score) for i, j, score in found]


def above_threshold(dev: Dataset, found_in_dev: Sequence[tuple[str, str, float]],
                    found: Sequence[tuple[str, str, float]]) -> dict[str, str]:
    """{foreign id: English id} of the pairs found that score at least the threshold which is best on the pool `dev`."""
    threshold = best_threshold(found_in_dev, mining_golds(dev))
    return {left: right for left, right, score in found if score >= threshold}


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
    """How rows of one form become features, outputs, predictions and files, and what counts as right.

    `head`: its name in model/heads.py, None where none is trained; `encode(rows, tokenizer, settings, labels,
    labelled)`: features, labelled where a head is trained, without answers where not `labelled`; `read(scorer,
    features, count)`: an output for each feature or, of heads that take several, for each item; `decode(scorer, rows,
    features, outputs)`: predictions, but for mining, whose `choose(dev, decoded dev, decoded)` makes them with the rows
    of a language's dev; `golds(rows)`: what `Task.score` compares with; `complete`: whether every gold has a prediction
    by the same key; `suffix`, `write`: XTREME's file of predictions.
    """

    head: str | None
    encode: Callable[..., Features]
    read: Callable[[Scorer, Features, Count], Sequence[Any]]
    decode: Callable[[Scorer, Dataset, Features, Sequence[Any]], Any]
    golds: Callable[[Dataset], dict[str, Any]]
    suffix: str
    write: Callable[[dict[str, Any]], str]
    complete: bool = True
    choose: Callable[[Dataset, Any, Any], dict[str, Any]] | None = None


def predict(form: Form, scorer: Scorer, parts: Iterable[tuple[str, Dataset, Dataset | None]],
            count: Callable[[int, float], None]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The predictions of each of `parts` (language, rows, rows of its dev or None), in their order, from one stream.

    Languages share packs as long as they have no more than STREAM tokens together, so that memory does not grow with
    their number; a larger one goes alone, as a mining pool does. `count` hears of each pack's tokens and of its share
    of the rows, those of dev included.
    """
    found_in_dev: Any = None
    for part, found in _decoded(form, scorer, parts, count):
        if part.of_dev:
            found_in_dev = found
        else:
            yield part.language, found if part.dev is None else form.choose(part.dev, found_in_dev, found)


@dataclass(frozen=True)
class _Part:
    """The rows of a language, or of its dev (`of_dev`), and their features."""

    language: str
    rows: Dataset
    dev: Dataset | None
    of_dev: bool
    features: Features


def _decoded(form: Form, scorer: Scorer, parts: Iterable[tuple[str, Dataset, Dataset | None]],
             count: Callable[[int, float], None]) -> Iterator[tuple[_Part, Any]]:
    """The rows of each language, those of its dev first, and what is decoded of them."""
    held: list[_Part] = []
    size = 0
    for language, test, dev in parts:
        for rows, of_dev in ((dev, True), (test, False)):
            if rows is None:
                continue
            features = form.encode(rows, scorer.tokenizer, scorer.settings, scorer.labels, labelled=False)
            more = max(int(features.lengths.sum()), LEAST * len(features))
            if held and size + more > STREAM:
                yield from _together(form, scorer, held, count)
                held, size = [], 0
            held.append(_Part(language, rows, dev, of_dev, features))
            size += more
    yield from _together(form, scorer, held, count)


def _together(form: Form, scorer: Scorer, held: Sequence[_Part],
              count: Callable[[int, float], None]) -> Iterator[tuple[_Part, Any]]:
    """What is decoded of each of `held`, whose features go through the encoder together."""
    ids = [piece for part in held for piece in part.features.input_ids]
    rows_a_token = sum(len(part.rows) for part in held) / max(1, sum(map(len, ids)))
    outputs = form.read(scorer, Features(ids, {}, np.arange(len(ids), dtype=np.int64)),
                        lambda tokens: count(tokens, tokens * rows_a_token))
    group = scorer.head.group if scorer.head else 1
    first = 0
    for part in held:
        last = first + len(part.features) // group
        yield part, form.decode(scorer, part.rows, part.features, outputs[first:last])
        first = last


FORMS: Registry[Form] = Registry("form of task")
FORMS.add("span", Form("span", windows, read_tokens, decode_answers, span_golds, "json", as_json))
FORMS.add("nullable_span", Form("span", windows, read_tokens, decode_nullable_answers, span_golds, "json",
                                as_nullable_json))
FORMS.add("classification", Form("classification", by_length(encode_pairs), read_items, decode_highest, label_golds,
                                 "tsv", as_lines))
FORMS.add("tagging", Form("tagging", by_length(encode_words), read_tokens, decode_tags, tag_golds, "tsv",
                          lambda predictions: render_tags(predictions.values())))
FORMS.add("choice", Form("choice", by_length(encode_choices), read_items, decode_highest, label_golds, "tsv", as_lines))
FORMS.add("retrieval", Form(None, sentences, embed, decode_retrieval, retrieval_golds, "tsv", as_lines))
FORMS.add("mining", Form(None, pool, embed, decode_mining, mining_golds, "tsv",
                         lambda predictions: render_pairs(predictions.items()), complete=False, choose=above_threshold))
