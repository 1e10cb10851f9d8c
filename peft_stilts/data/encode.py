"""From rows to features: tokenising, aligning answers, cutting windows, and back from logits to answer text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from peft_stilts.errors import UsageError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    Rows = Dataset | Mapping[str, Sequence[Any]]  # anything that gives a column by name

SPAN_SPECIALS = 4
"""Special tokens around an XLM-R pair: <s> question </s></s> context </s>."""


@dataclass(frozen=True)
class Features:
    """Model inputs of varying length; N features, feature n has L_n tokens.

    `input_ids`: N arrays (L_n,) int32, special tokens included. `labels`: name -> (N,) int64, or N arrays (L_n,) int64
    with -100 where a token does not count; for spans `start` and `end`, token positions inside the feature, 0 (<s>)
    when the answer is not in the window; {} when unlabelled.
    `example`: (N,) int64, the row that each feature is of; never falling, every row at least once.
    `offsets`: spans only, N arrays (L_n, 2) int32: first and past-the-last character in the context, white space
    trimmed; (-1, -1) for question, special tokens and tokens without a character of their own.
    `max_context`: spans only, N arrays (L_n,) bool: context tokens that have more context here than in any other
    window; an answer may start only there (it may end anywhere in the window's context).
    `words`: tagging only, N arrays int64: the position of each word's first token; a row's words in their order over
    its features, each word once.
    """

    input_ids: list[np.ndarray]
    labels: dict[str, np.ndarray | list[np.ndarray]]
    example: np.ndarray
    offsets: list[np.ndarray] | None = None
    max_context: list[np.ndarray] | None = None
    words: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64: tokens of each feature."""
        return np.fromiter(map(len, self.input_ids), dtype=np.int64, count=len(self.input_ids))


def encode_sentences(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Features:
    """One feature `<s> text </s>` a text, cut after `max_length` tokens, special tokens included."""
    require(max_length >= 3, f"max_length {max_length} leaves no room for a sentence; give at least 3.")
    ids, _ = tokenize(list(texts), tokenizer)
    features = [join([tokenizer.cls_token_id], text[: max_length - 2], [tokenizer.sep_token_id]) for text in ids]
    return Features(features, {}, np.arange(len(features), dtype=np.int64))


def encode_span(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    doc_stride: int,
    max_query_length: int,
    labelled: bool,
) -> Features:
    """Windows `<s> question </s></s> piece of the context </s>` by XTREME's rule (third_party/processors/squad.py).

    The question is cut after `max_query_length` tokens (and where max_length leaves the context less than one token).
    Windows begin every `doc_stride` context tokens and hold max_length - question - 4 of them, until one reaches the
    end; a stride beyond that room is cut to it, so that every token is in a window. Each distinct context is tokenised
    once. `labelled`: the first answer gives `start` and `end`. A context without tokens still gets one window.
    Raises UsageError when max_length < 6 or doc_stride < 1.
    """
    require(max_length > SPAN_SPECIALS + 1, f"max_length {max_length} leaves no room for a window; give at least 6.")
    require(doc_stride >= 1, f"doc_stride {doc_stride} must be at least 1: it is the step between two windows.")
    contexts = list(rows["context"])
    distinct = {context: place for place, context in enumerate(dict.fromkeys(contexts))}
    tokens, spans = tokenize(list(distinct), tokenizer)
    spans = [_trim(text, span) for text, span in zip(distinct, spans, strict=True)]
    limit = min(max_query_length, max_length - SPAN_SPECIALS - 1)
    questions = [question[:limit] for question in tokenize(list(rows["question"]), tokenizer)[0]]
    answers = _first_answers(rows["answers"]) if labelled else []

    start_token, end_token = tokenizer.cls_token_id, tokenizer.sep_token_id
    cuts: dict[tuple[int, int], tuple[list[tuple[int, int]], list[np.ndarray]]] = {}
    ids, offsets, max_context, example, labels = [], [], [], [], []
    for row, question in enumerate(questions):
        place = distinct[contexts[row]]
        context, span, room = tokens[place], spans[place], max_length - SPAN_SPECIALS - len(question)
        if (place, room) not in cuts:
            windows = plan_windows(len(context), room, doc_stride)
            cuts[place, room] = windows, _most_context(windows)
        answer = _answer_tokens(span, *answers[row]) if labelled else None
        head = join([start_token], question, [end_token, end_token])
        for (first, last), most in zip(*cuts[place, room], strict=True):
            ids.append(join(head, context[first:last], [end_token]))
            offsets.append(_framed(span[first:last], len(head), -1))
            max_context.append(_framed(most & (span[first:last, 0] >= 0), len(head), False))
            example.append(row)
            inside = answer is not None and first <= answer[0] and answer[1] < last
            labels.append([position - first + len(head) for position in answer] if inside else [0, 0])
    pairs = np.array(labels, dtype=np.int64).reshape(-1, 2)
    named = {"start": pairs[:, 0].copy(), "end": pairs[:, 1].copy()} if labelled else {}
    return Features(ids, named, np.array(example, dtype=np.int64), offsets, max_context)


def plan_windows(length: int, room: int, step: int) -> list[tuple[int, int]]:
    """(first, past-the-last) of windows of `room` tokens every `step` (at most `room`), until one reaches `length`."""
    windows = [(0, min(room, length))]
    while windows[-1][1] < length:
        first = windows[-1][0] + min(step, room)
        windows.append((first, min(first + room, length)))
    return windows


def decode_spans(
    features: Features,
    start_logits: Sequence[np.ndarray],
    end_logits: Sequence[np.ndarray],
    rows: Rows,
    max_answer_length: int,
    n_best: int,
) -> dict[str, tuple[str, float]]:
    """{id: (answer text, its score)}, exactly one for each row; ("", -inf) where no span is valid.

    `start_logits`, `end_logits`: N arrays (L_n,). Of each window's `n_best` starts of maximum context and `n_best`
    ends in its context, the pair with end >= start, at most `max_answer_length` tokens and the highest sum of logits is
    its candidate; the best candidate over the windows of a row wins, the earlier one among equals. Rule: XTREME's
    third_party/evaluate_squad.py predictions (there the n best are taken before invalid ones are dropped, so this
    looks at the same candidates or more). The text is context[start:end] without outer white space.
    """
    ids, contexts = list(rows["id"]), list(rows["context"])
    best: list[tuple[str, float]] = [("", -math.inf)] * len(ids)
    for n, row in enumerate(features.example):
        offsets = features.offsets[n]
        starts = _best_of(start_logits[n], features.max_context[n], n_best)
        ends = _best_of(end_logits[n], offsets[:, 0] >= 0, n_best)
        if not len(starts) or not len(ends):
            continue
        score = np.asarray(start_logits[n], np.float64)[starts, None] + np.asarray(end_logits[n], np.float64)[ends]
        size = ends - starts[:, None] + 1
        score = np.where((size >= 1) & (size <= max_answer_length), score, -np.inf)
        start, end = np.unravel_index(np.argmax(score), score.shape)
        if score[start, end] > best[row][1]:
            text = contexts[row][offsets[starts[start], 0] : offsets[ends[end], 1]].strip()
            best[row] = text, float(score[start, end])
    return dict(zip(ids, best, strict=True))


def null_scores(features: Features, start_logits: Sequence[np.ndarray], end_logits: Sequence[np.ndarray],
                rows: Rows) -> dict[str, float]:
    """{id: score of 'no answer'}: the sum of both logits at <s>, the lowest over the windows of a row (SQuAD v2.0's
    rule, transformers' squad_metrics.compute_predictions_logits)."""
    scores = np.full(len(rows["id"]), np.inf)
    for n, row in enumerate(features.example):
        scores[row] = min(scores[row], float(start_logits[n][0]) + float(end_logits[n][0]))
    return dict(zip(rows["id"], scores.tolist(), strict=True))


def _best_of(logits: np.ndarray, allowed: np.ndarray, count: int) -> np.ndarray:
    """Allowed positions of the `count` highest finite logits, highest first, the earlier one first among equals."""
    places = np.flatnonzero(allowed & np.isfinite(logits))
    return places[np.argsort(-np.asarray(logits, np.float64)[places], kind="stable")[:count]]


def tokenize(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Token ids (L,) int32 and character offsets (L, 2) int32 of each text, without special tokens, uncut."""
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(f"{type(tokenizer).__name__} gives no character offsets; a fast tokenizer is needed.")
    if not texts:
        return [], []
    found = tokenizer(
        texts,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        truncation=False,
        padding=False,
        verbose=False,
    )
    ids = [np.asarray(text, dtype=np.int32) for text in found["input_ids"]]
    return ids, [np.asarray(text, dtype=np.int32).reshape(-1, 2) for text in found["offset_mapping"]]


def _trim(text: str, spans: np.ndarray) -> np.ndarray:
    """Offsets with white space at both ends taken off (a Unigram piece '▁word' covers the space before it).

    (L, 2) int32 -> the same shape; a token with nothing left gets (-1, -1).
    """
    if not len(spans):
        return spans
    solid = np.array([not character.isspace() for character in text], dtype=bool)
    places = np.arange(len(text) + 1)
    following = np.minimum.accumulate(np.append(np.where(solid, places[:-1], len(text)), len(text))[::-1])[::-1]
    preceding = np.append(0, np.maximum.accumulate(np.where(solid, places[1:], 0)))
    trimmed = np.stack([following[spans[:, 0]], preceding[spans[:, 1]]], axis=1).astype(np.int32)
    trimmed[trimmed[:, 0] >= trimmed[:, 1]] = -1
    return trimmed


def _first_answers(column: Sequence[Mapping[str, Sequence]]) -> list[tuple[int, int]]:
    """(first, past-the-last character) of each row's first answer; (0, 0) when it has none."""
    return [
        (answer["answer_start"][0], answer["answer_start"][0] + len(answer["text"][0])) if answer["text"] else (0, 0)
        for answer in column
    ]


def _answer_tokens(span: np.ndarray, first: int, last: int) -> tuple[int, int] | None:
    """First and last token that share a character with [first, last); None when there is none."""
    touched = np.flatnonzero((span[:, 0] >= 0) & (span[:, 1] > first) & (span[:, 0] < last))
    return (int(touched[0]), int(touched[-1])) if len(touched) else None


def _most_context(windows: list[tuple[int, int]]) -> list[np.ndarray]:
    """For each window, (length,) bool: tokens for which no other window has more context, the first among equals.

    Context of a token in a window: the smaller number of tokens beside it, + 0.01 * the window's length (SQuAD).
    """
    best = np.full(windows[-1][1], -np.inf)
    owner = np.zeros(windows[-1][1], dtype=np.int64)
    for which, (first, last) in enumerate(windows):
        place = np.arange(last - first)
        score = np.minimum(place, place[::-1]) + 0.01 * len(place)
        better = score > best[first:last]
        best[first:last][better] = score[better]
        owner[first:last][better] = which
    return [owner[first:last] == which for which, (first, last) in enumerate(windows)]


def _framed(values: np.ndarray, before: int, fill: Any) -> np.ndarray:
    """`values` with `before` rows of `fill` ahead of it and one behind: the frame of special tokens and question."""
    framed = np.full((before + len(values) + 1, *values.shape[1:]), fill, dtype=values.dtype)
    framed[before:-1] = values
    return framed


def join(*parts: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(part, dtype=np.int32) for part in parts])


def require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)
