"""Sentence retrieval: pooled states of one layer, nearest neighbours, and BUCC's mining, all in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch

from peft_stilts.tasks.metrics import mining

BLOCK = 2048
"""vectors on each side of the similarities that are held at once"""

LOWEST = torch.iinfo(torch.int64).min
"""a key below that of every similarity"""

INDEX_BITS = 32
"""low bits of a key, which hold the index"""


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


def nearest(queries: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """For each query (Q, H) the index (Q,) int64 of the candidate (N, H) with the highest cosine; the first of equals.

    Exact, as XTREME's L2 search over L2-normalised vectors; BLOCK x N similarities are held at once.
    """
    candidates = torch.nn.functional.normalize(candidates, dim=1)
    queries = torch.nn.functional.normalize(queries, dim=1)
    return torch.cat([(block @ candidates.T).argmax(dim=1) for block in queries.split(BLOCK)])


def neighbours(
    x: torch.Tensor, y: torch.Tensor, k: int = 4
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The nearest neighbours by cosine of every x (Nx, H) among y (Ny, H), and of every y among x.

    Returns cosines (Nx, min(k, Ny)) float32, falling, and indices int64 of the same shape, then both for y (Ny,
    min(k, Nx)); of equals the lower index comes first. Both come from one pass over tiles of BLOCK x BLOCK
    similarities. They are computed in float64 and rounded to float32, so that neither the tiles nor the device decide
    between vectors that are equally near.
    """
    down = torch.full((len(y), k), LOWEST, device=y.device)
    across = []
    for first in range(0, len(x), BLOCK):
        left = _unit(x[first:first + BLOCK])
        best = torch.full((len(left), k), LOWEST, device=x.device)
        for start in range(0, len(y), BLOCK):
            tile = (left @ _unit(y[start:start + BLOCK]).T).float()
            best = _keep(best, tile, start)
            down[start:start + BLOCK] = _keep(down[start:start + BLOCK], tile.T, first)
        across.append(best)
    rows = torch.cat(across) if across else torch.full((0, k), LOWEST, device=x.device)
    return *_read(rows[:, :len(y)]), *_read(down[:, :len(x)])


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
    to_y, in_y, to_x, in_x = (part.cpu() for part in neighbours(x, y, k))
    mean_x, mean_y = to_y.double().mean(dim=1), to_x.double().mean(dim=1)
    forward, best_y = _ratio(to_y, mean_x[:, None] + mean_y[in_y]).max(dim=1)
    backward, best_x = _ratio(to_x, mean_y[:, None] + mean_x[in_x]).max(dim=1)
    left = torch.cat([torch.arange(len(x)), in_x.gather(1, best_x[:, None])[:, 0]]).numpy()
    right = torch.cat([in_y.gather(1, best_y[:, None])[:, 0], torch.arange(len(y))]).numpy()
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


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors.double(), dim=1)


def _keep(best: torch.Tensor, tile: torch.Tensor, first: int) -> torch.Tensor:
    """The k highest keys of each row among those kept so far (R, k) and those of a tile (R, C) float32 of similarities,
    whose columns have the indices from `first` on.

    A key is one int64 that orders by similarity and, of equal ones, by lower index first, so that no two are equal.
    """
    bits = (tile + 0.0).contiguous().view(torch.int32)                 # + 0.0: -0.0 becomes 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()    # the bits of negative floats order backwards
    columns = torch.arange(first, first + tile.shape[1], device=tile.device)
    keys = (ordered << INDEX_BITS) | ((1 << INDEX_BITS) - 1 - columns)
    k = best.shape[1]
    return torch.cat([best, keys.topk(min(k, keys.shape[1]), dim=1).values], dim=1).topk(k, dim=1).values


def _read(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The similarities float32 and the indices int64 that keys stand for."""
    ordered = (keys >> INDEX_BITS).int()
    lowest = (1 << INDEX_BITS) - 1
    return torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).view(torch.float32), lowest - (keys & lowest)


def _ratio(cosines: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
    """Cosines over half the sums of two averages, float64; 0 where such a sum is 0."""
    return torch.where(sums == 0, 0.0, cosines.double() / (sums / 2))
