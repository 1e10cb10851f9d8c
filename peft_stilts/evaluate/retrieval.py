"""Sentence retrieval: pooled states of one layer, and BUCC's mining by margins and a threshold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch

from peft_stilts.evaluate.search import neighbours
from peft_stilts.tasks.metrics import mining


def mean_pool(states: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
    """States (T, H) of a pack -> (B, H) float32 means over each sentence's tokens, <s> and </s> included
    (XTREME third_party/evaluate_retrieval.py: pool_type mean over the attention mask)."""
    lengths = cu_seqlens.diff().long()
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=states.device), lengths)
    sums = torch.zeros(len(lengths), states.shape[1], device=states.device).index_add_(0, rows, states.float())
    return sums / lengths[:, None]


def cls_pool(states: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
    """States (T, H) of a pack -> (B, H) float32 states of each sentence's first token, <s>
    (XTREME third_party/evaluate_retrieval.py: pool_type cls)."""
    return states[cu_seqlens[:-1].long()].float()


POOLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"mean": mean_pool, "cls": cls_pool}
"""(states (T, H), cu_seqlens (B + 1,)) -> (B, H), by name."""


def centre(vectors: torch.Tensor) -> torch.Tensor:
    """Sentence vectors (N, H) of one language, less their mean: what is common to the language goes."""
    return vectors - vectors.mean(dim=0)


def mine(x: torch.Tensor, y: torch.Tensor, k: int = 4) -> list[tuple[int, int, float]]:
    """Pairs (index in x (Nx, H), index in y (Ny, H), margin score) that are likely translations, by falling score.

    One to one: an index stands in one pair at most. Rule (Artetxe and Schwenk 2019, margin-based mining; XTREME
    third_party/utils_retrieve.py, mode mine, retrieval max, margin ratio): score(x, y) = cos(x, y) / mean(average
    cosine of x with its k neighbours, that of y with its k). The best neighbour of every x and of every y are
    candidates, taken greedily by falling score; scores <= 0 are dropped. Of equal scores the lower x, then the lower y,
    goes first.
    """
    if not len(x) or not len(y):
        return []
    return by_margin(*(part.cpu() for part in neighbours(x, y, k)))


def by_margin(
    to_y: torch.Tensor, in_y: torch.Tensor, to_x: torch.Tensor, in_x: torch.Tensor
) -> list[tuple[int, int, float]]:
    """The pairs of `mine` from what `neighbours` gives, on the CPU; neither side is empty."""
    mean_x, mean_y = to_y.double().mean(dim=1), to_x.double().mean(dim=1)
    forward, best_y = _ratio(to_y, mean_x[:, None] + mean_y[in_y]).max(dim=1)
    backward, best_x = _ratio(to_x, mean_y[:, None] + mean_x[in_x]).max(dim=1)
    left = torch.cat([torch.arange(len(to_y)), in_x.gather(1, best_x[:, None])[:, 0]]).numpy()
    right = torch.cat([in_y.gather(1, best_y[:, None])[:, 0], torch.arange(len(to_x))]).numpy()
    scores = torch.cat([forward, backward]).numpy()
    found, seen_left, seen_right = [], set(), set()
    for place in np.lexsort((right, left, -scores)):
        i, j, score = int(left[place]), int(right[place]), float(scores[place])
        if score > 0 and i not in seen_left and j not in seen_right:
            seen_left.add(i)
            seen_right.add(j)
            found.append((i, j, score))
    return found


def mine_sentences(
    x: torch.Tensor, y: torch.Tensor, texts_x: Sequence[str], texts_y: Sequence[str], k: int = 4
) -> list[tuple[int, int, float]]:
    """`mine` for sentences: vectors (Nx, H), (Ny, H) and their texts -> (row of x, row of y, score) by falling score.

    Equal sentences are one in mining, and as it is not known which of their ids is meant, they are in no pair (XTREME
    third_party/utils_retrieve.py: text_load_unify, read_sent2id).
    """
    (rows_x, alone_x), (rows_y, alone_y) = distinct(texts_x), distinct(texts_y)
    return [(rows_x[i], rows_y[j], score) for i, j, score in mine(x[rows_x], y[rows_y], k)
            if alone_x[i] and alone_y[j]]


def distinct(sentences: Sequence[str]) -> tuple[list[int], list[bool]]:
    """The row of each different sentence's first occurrence, and whether it is the only one (but for outer spaces)."""
    first: dict[str, int] = {}
    for row, sentence in enumerate(sentences):
        first.setdefault(sentence, row)
    times = Counter(sentence.strip() for sentence in sentences)
    return list(first.values()), [times[sentence.strip()] == 1 for sentence in first]


def best_threshold(candidates: Sequence[tuple[str, str, float]], golds: mining.Pairs) -> float:
    """The score from which on candidates (foreign id, English id, score) are kept: where their F1 is highest.

    The candidates are taken in by falling score, those of equal scores together; the threshold lies half-way between
    the last score that the highest F1 takes in and the next one, or at the last of all. Of equal F1 the highest
    threshold is chosen. 0 when no candidate is a gold pair. Rule: XTREME third_party/utils_retrieve.py, bucc_optimize,
    which fails where the best cut is the last.
    """
    ordered = sorted(candidates, key=lambda candidate: -candidate[2])
    gold = mining.pairs(golds)
    threshold = best = 0.0
    right = 0
    for taken, (foreign, english, score) in enumerate(ordered, start=1):
        right += (foreign, english) in gold
        following = ordered[taken][2] if taken < len(ordered) else score
        f1 = 2 * right / (taken + len(gold))
        if f1 > best and (following < score or taken == len(ordered)):
            best, threshold = f1, (score + following) / 2
    return threshold


def _ratio(cosines: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
    """Cosines over half the sums of two averages, float64; 0 where such a sum is 0."""
    return torch.where(sums == 0, 0.0, cosines.double() / (sums / 2))
