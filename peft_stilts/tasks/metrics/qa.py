"""Exact match and F1 of extractive answers, by the two rules that XTREME uses: SQuAD v1.1's and MLQA's.

Written here because no maintained library gives these numbers: torchmetrics' SQuAD scores two empty texts 1 (v2's
rule; v1.1's F1 is 0), and none has MLQA's normalisation. Rules: XTREME's third_party/evaluate_squad.py and
evaluate_mlqa.py, whose published mock scores the tests reproduce.
"""

from __future__ import annotations

import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from peft_stilts.errors import DataError

METRICS = ("exact_match", "f1")

_ENGLISH_ARTICLES = r"\b(a|an|the)\b"

_MLQA_ARTICLES = {
    "en": _ENGLISH_ARTICLES,
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "ar": r"\sال^|ال",  # as published: its first half can never match, so every "ال" goes, inside words too
}

_MLQA_SEGMENTED = frozenset({"zh"})


def squad(predictions: Mapping[str, str], golds: Mapping[str, Sequence[str]], language: str = "en") -> dict[str, float]:
    """{'exact_match', 'f1'} in 0..100 by SQuAD v1.1's rule, the English one, whatever the `language`.

    `predictions`: {id: text}; `golds`: {id: texts, at least one}. An id without a prediction scores 0 and counts; a
    prediction without a gold is ignored. Raises DataError when there is no gold at all or one has no answer.
    """
    return _mean_scores(predictions, golds, _normalize_squad)


def mlqa(predictions: Mapping[str, str], golds: Mapping[str, Sequence[str]], language: str) -> dict[str, float]:
    """{'exact_match', 'f1'} in 0..100 by MLQA's rule: Unicode punctuation, own articles, Chinese by character.

    As `squad` otherwise. A language that MLQA does not have keeps its articles and is split at white space.
    """
    return _mean_scores(predictions, golds, lambda text: _normalize_mlqa(text, language))


def _mean_scores(
    predictions: Mapping[str, str], golds: Mapping[str, Sequence[str]], normalize: Callable[[str], str]
) -> dict[str, float]:
    if not golds:
        raise DataError("there is no gold answer to score against.")
    exact = f1 = 0.0
    for key, answers in golds.items():
        if not answers:
            raise DataError(f"question {key!r} has no gold answer, so it cannot be scored.")
        if key not in predictions:
            continue
        guess = normalize(predictions[key])
        truths = [normalize(answer) for answer in answers]
        exact += max(guess == truth for truth in truths)
        f1 += max(_f1(guess.split(), truth.split()) for truth in truths)
    return {"exact_match": 100.0 * exact / len(golds), "f1": 100.0 * f1 / len(golds)}


def _f1(guess: list[str], truth: list[str]) -> float:
    """F1 of two bags of tokens; 0 when they share none, so also when both are empty."""
    same = (Counter(guess) & Counter(truth)).total()
    if same == 0:
        return 0.0
    precision, recall = same / len(guess), same / len(truth)
    return 2 * precision * recall / (precision + recall)


def _normalize_squad(text: str) -> str:
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(_ENGLISH_ARTICLES, " ", bare).split())


def _normalize_mlqa(text: str, language: str) -> str:
    punctuation = _punctuation()
    bare = "".join(character for character in text.lower() if character not in punctuation)
    if language in _MLQA_ARTICLES:
        bare = re.sub(_MLQA_ARTICLES[language], " ", bare)
    if language in _MLQA_SEGMENTED:
        bare = re.sub("([\u4e00-\u9fa5])", r" \1 ", bare)
    return " ".join(bare.split())


@cache
def _punctuation() -> frozenset[str]:
    """Every character of a Unicode category P*, and ASCII's punctuation (which has $+<=>^`|~ besides)."""
    letters = map(chr, range(sys.maxunicode + 1))
    return frozenset(string.punctuation) | {char for char in letters if unicodedata.category(char)[0] == "P"}
