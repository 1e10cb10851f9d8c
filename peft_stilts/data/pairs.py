"""Pairs of texts and choices as features: `<s> a </s></s> b </s>`, shortened to a limit by a stated rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from peft_stilts.data.encode import Features, join, require, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from peft_stilts.data.encode import Rows

SPECIALS = 4
"""Special tokens of an XLM-R pair."""


def encode_pairs(rows: Rows, tokenizer: PreTrainedTokenizerBase, max_length: int, labels: Sequence[str]) -> Features:
    """One feature `<s> text_a </s></s> text_b </s>` a row; a pair too long loses tokens at the end of its longer half
    (transformers' `longest_first`). `labels` gives `class` (N,) int64, the label's place; rows without one give {}."""
    first, second = (tokenize(list(rows[name]), tokenizer)[0] for name in ("text_a", "text_b"))
    ids = [pair(a, b, tokenizer, max_length) for a, b in zip(first, second, strict=True)]
    places = label_places(rows["label"], labels)
    return Features(ids, {"class": places} if places is not None else {}, np.arange(len(ids), dtype=np.int64))


def encode_choices(rows: Rows, tokenizer: PreTrainedTokenizerBase, max_length: int, labels: Sequence[str]) -> Features:
    """As many consecutive features as there are choices a row, `<s> prompt </s></s> choice </s>`; a pair too long loses
    tokens at the *start* of its longer half (jiant's `truncate_end=False`). `labels` gives `choice`, on each feature
    the place of its row's right choice; rows without one give {}."""
    prompts = tokenize(list(rows["prompt"]), tokenizer)[0]
    choices = tokenize([text for row in rows["choices"] for text in row], tokenizer)[0]
    count = len(labels)
    ids = [pair(prompts[n // count], choice, tokenizer, max_length, from_start=True)
           for n, choice in enumerate(choices)]
    places = label_places(rows["label"], labels)
    named = {"choice": np.repeat(places, count)} if places is not None else {}
    return Features(ids, named, np.repeat(np.arange(len(prompts), dtype=np.int64), count))


def pair(a: np.ndarray, b: np.ndarray, tokenizer: PreTrainedTokenizerBase, max_length: int,
         from_start: bool = False) -> np.ndarray:
    """Token ids (L,) int32 of a pair, at most `max_length` of them; each half keeps a token at least if it had one.

    Tokens go one by one from the longer half: so the odd one is left to the longer half (tokenizers' LongestFirst), or,
    `from_start`, to `b` (jiant's truncate_sequences takes from the first of equals).
    """
    room = max_length - SPECIALS
    require(room >= 2, f"max_length {max_length} leaves no room for a pair; give at least {SPECIALS + 2}.")
    if len(a) + len(b) > room:
        short = min(len(a), len(b), room // 2)
        first = len(a) <= len(b) or (from_start and len(b) > short == room // 2)
        keep = (short, room - short) if first else (room - short, short)
        a, b = ((half[max(0, len(half) - size):] if from_start else half[:size]) for half, size in zip((a, b), keep))
    begin, end = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
    return join(begin, a, end, end, b, end)


def label_places(column: Sequence[str], labels: Sequence[str]) -> np.ndarray | None:
    """(N,) int64: the place of each row's label among `labels`; None when the rows have none."""
    place = {label: number for number, label in enumerate(labels)}
    column = list(column)
    if not any(column):
        return None
    return np.fromiter((place[label] for label in column), dtype=np.int64, count=len(column))
