"""Tagged words as features: a label on each word's first token, long sentences in windows, no word ever lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from peft_stilts.data.encode import Features, join, require, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from peft_stilts.data.encode import Rows

IGNORED = -100
"""The label of a token that does not count (torch's cross_entropy)."""


def encode_words(rows: Rows, tokenizer: PreTrainedTokenizerBase, max_length: int, labels: Sequence[str]) -> Features:
    """Windows `<s> words </s>` of each sentence by XTREME's rule (utils_preprocess.py, third_party/utils_tag.py).

    Every word is tokenised alone; one without a token, or with more than a window holds, becomes `<unk>`. A sentence
    too long for `max_length` tokens goes on in a further window, cut between words. `labels` gives `tags`, N arrays
    (L_n,) int64: the place of each word's tag on its first token, -100 elsewhere, and for a tag that is not among
    `labels` (it can never be right); rows without tags give {}.
    """
    room = max_length - 2
    require(room >= 1, f"max_length {max_length} leaves no room for a word; give at least 3.")
    sentences = list(rows["tokens"])
    distinct = list(dict.fromkeys(word for words in sentences for word in words))
    unknown = np.array([tokenizer.unk_token_id], dtype=np.int32)
    pieces = {word: ids if 0 < len(ids) <= room else unknown
              for word, ids in zip(distinct, tokenize(distinct, tokenizer)[0], strict=True)}
    tags = list(rows["tags"])
    place = {label: number for number, label in enumerate(labels)} if any(map(len, tags)) else None

    begin, end = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
    ids, positions, example, targets = [], [], [], []
    for row, words in enumerate(sentences):
        for first, last in cut([len(pieces[word]) for word in words], room):
            parts = [pieces[word] for word in words[first:last]]
            starts = 1 + np.cumsum([0, *map(len, parts[:-1])])
            ids.append(join(begin, *parts, end))
            positions.append(starts.astype(np.int64))
            example.append(row)
            if place is not None:
                target = np.full(len(ids[-1]), IGNORED, dtype=np.int64)
                target[starts] = [place.get(tag, IGNORED) for tag in tags[row][first:last]]
                targets.append(target)
    return Features(ids, {"tags": targets} if place is not None else {}, np.array(example, dtype=np.int64),
                    words=positions)


def cut(sizes: Sequence[int], room: int) -> list[tuple[int, int]]:
    """(first, past-the-last) word of windows that hold at most `room` tokens, each word (of at most `room`) in one."""
    windows, first, held = [], 0, 0
    for word, size in enumerate(sizes):
        if held + size > room:
            windows.append((first, word))
            first, held = word, 0
        held += size
    return [*windows, (first, len(sizes))]
