"""Scores of tagged words: XTREME's span F1 (seqeval, also on bare POS tags) and the accuracy over words."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from peft_stilts.errors import DataError
from peft_stilts.tasks.metrics.classification import METRICS as ACCURACY_METRICS
from peft_stilts.tasks.metrics.classification import share_right

__all__ = ["ACCURACY_METRICS", "NER_METRICS", "POS_METRICS", "accuracy", "ner", "pos", "spans"]

POS_METRICS = ("f1", "accuracy")
NER_METRICS = ("f1",)

Tagged = Mapping[str, Sequence[str]]
"""{sentence id: tags, one a word}."""


def spans(predictions: Tagged, golds: Tagged, language: str = "") -> dict[str, float]:
    """{'f1', 'precision', 'recall'} in 0..100 of typed spans, micro-averaged: seqeval's default mode.

    The rule of XTREME's evaluate.py for panx and udpos. A span may begin with I-. A bare tag is read as its first
    letter (the prefix) and the rest (the type): NOUN is 'N' and 'OUN'. So neighbouring words of one tag are one span,
    unless the tag begins with S or B; CCONJ and SCONJ are of one type, and X, without a type, is no span at the end of
    a sentence. 0 where nothing is predicted or right. Raises DataError as `accuracy`.
    """
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support  # it brings scikit-learn: slow

    guesses, truths = _aligned(predictions, golds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                     # one a word for bare tags, and one for a score of 0 / 0
        precision, recall, f1, _ = precision_recall_fscore_support(truths, guesses, average="micro")
    return {"f1": 100.0 * float(f1), "precision": 100.0 * float(precision), "recall": 100.0 * float(recall)}


def ner(predictions: Tagged, golds: Tagged, language: str = "") -> dict[str, float]:
    """{'f1'} in 0..100 of named entities in BIO tags, as `spans`."""
    return {"f1": spans(predictions, golds)["f1"]}


def pos(predictions: Tagged, golds: Tagged, language: str = "") -> dict[str, float]:
    """{'f1', 'accuracy'} in 0..100 of part-of-speech tags: what XTREME calls POS F1 (`spans`), and word accuracy."""
    return {"f1": spans(predictions, golds)["f1"]} | accuracy(predictions, golds)


def accuracy(predictions: Tagged, golds: Tagged, language: str = "") -> dict[str, float]:
    """{'accuracy'} in 0..100: words with the right tag, over all words of all sentences.

    `predictions`, `golds`: {sentence id: tags, one a word}; a prediction without a gold is ignored. Raises DataError
    when there is no gold word, and, naming the sentences, when one has no prediction, another number of words than its
    gold, or a word without a tag.
    """
    guesses, truths = (
        {(place, word): tag for place, tags in enumerate(side) for word, tag in enumerate(tags)}
        for side in _aligned(predictions, golds)
    )
    return {"accuracy": share_right(guesses, truths)}


def _aligned(predictions: Tagged, golds: Tagged) -> tuple[list[list[str]], list[list[str]]]:
    """Both sides' tags in the order of the golds, sentence by sentence of equal length."""
    if not any(golds.values()):
        raise DataError("there is no gold tag to score against.")
    wrong = []
    for key, gold in golds.items():
        guess = predictions.get(key)
        if guess is None:
            wrong.append(f"sentence {key!r} has no prediction")
        elif len(guess) != len(gold):
            wrong.append(f"sentence {key!r} has {len(guess)} predicted tags for {len(gold)} words")
        elif not all(gold) or not all(guess):
            wrong.append(f"sentence {key!r} has a word without a {'predicted' if all(gold) else 'gold'} tag")
    if wrong:
        more = f"; {len(wrong) - 3} more sentences are so" if len(wrong) > 3 else ""
        raise DataError(f"{'; '.join(wrong[:3])}{more}. Every word needs exactly one tag, on both sides.")
    return [list(predictions[key]) for key in golds], [list(gold) for gold in golds.values()]
