"""Exact match and F1 of extractive answers: SQuAD v1.1's and MLQA's rules, which XTREME uses, and SQuAD v2.0's.

Written here because no maintained library gives these numbers: torchmetrics' SQuAD scores two empty texts 1 (v2's
rule; v1.1's F1 is 0), and none has MLQA's normalisation. Rules: XTREME's third_party/evaluate_squad.py and
evaluate_mlqa.py, whose published mock scores the tests reproduce; v2.0's is that of Rajpurkar et al. 2018 and of their
evaluation script (evaluate-v2.0.py).
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
V2_METRICS = ("exact_match", "f1", "best_exact", "best_f1", "best")

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


def squad_v2(
    predictions: Mapping[str, tuple[str, float]], golds: Mapping[str, Sequence[str]], language: str = "en"
) -> dict[str, float]:
    """V2_METRICS in 0..100 by SQuAD v2.0's rule, where a question may have no answer.

    `predictions`: {id: (text of the best span, null_odds)}; null_odds = score of "no answer" minus score of that span,
    the higher the likelier there is none. `golds`: {id: texts, none for a question without an answer}; texts that
    normalise to nothing are none. Without an answer only "no answer" is right.
    'exact_match', 'f1': "no answer" is said where null_odds > 0 (BERT's default threshold). 'best_exact', 'best_f1':
    the highest mean that some threshold on null_odds reaches, each with its own (as the script's, except that questions
    of equal odds are never told apart). 'best': the mean of these two, jiant's headline for SQuAD v2.0
    (jiant/tasks/evaluate/core.py). An id without a prediction scores 0 and counts. Raises DataError without golds.
    """
    if not golds:
        raise DataError("there is no gold answer to score against.")
    judged = [_judge_v2(*predictions[key], answers) for key, answers in golds.items() if key in predictions]
    scores = {name: 100.0 * sum(null if odds > 0 else text[place] for odds, null, *text in judged) / len(golds)
              for place, name in enumerate(METRICS)}
    scores["best_exact"], scores["best_f1"] = (
        100.0 * _best_sum([(odds, null, text[place]) for odds, null, *text in judged]) / len(golds) for place in (0, 1)
    )
    return scores | {"best": (scores["best_exact"] + scores["best_f1"]) / 2}


def _judge_v2(text: str, odds: float, answers: Sequence[str]) -> tuple[float, float, float, float]:
    """(null_odds, score of saying "no answer", exact match of `text`, its F1), scores in 0..1."""
    guess = _normalize_squad(text)
    truths = [truth for truth in map(_normalize_squad, answers) if truth]
    if not truths:
        return odds, 1.0, float(not guess), float(not guess)
    return odds, 0.0, float(guess in truths), max(_f1(guess.split(), truth.split()) for truth in truths)


def _best_sum(judged: Sequence[tuple[float, float, float]]) -> float:
    """The highest sum of scores over thresholds: "no answer" is said where odds exceed the threshold."""
    total = best = sum(null for _, null, _ in judged)
    ordered = sorted(judged, key=lambda item: item[0])
    for place, (odds, null, score) in enumerate(ordered):
        total += score - null
        if place + 1 == len(ordered) or ordered[place + 1][0] > odds:
            best = max(best, total)
    return best


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
