"""The pretraining corpus: shapes, masking, mixture, and the same from the same seed."""

import io
from dataclasses import replace

import numpy as np
import pytest

from peft_stilts.digest import key_of
from peft_stilts.miniature.dice import Dice
from peft_stilts.miniature.generators import rows_of
from peft_stilts.miniature.pretraining import IGNORED, MAX_LENGTH, SETTINGS, pretraining_examples, sequence
from peft_stilts.miniature.tokenizer import build_tokenizer

TOKENS = 60_000


@pytest.fixture(scope="module")
def corpus():
    return pretraining_examples(build_tokenizer(), tokens=TOKENS)


def test_shapes_and_types(corpus):
    inputs, labels = corpus
    assert TOKENS <= sum(map(len, inputs)) < TOKENS + MAX_LENGTH
    for shown, label in zip(inputs, labels, strict=True):
        assert shown.dtype == np.int32 and label.dtype == np.int64 and shown.shape == label.shape
        assert shown[0] == 0 and shown[-1] == 2 and len(shown) <= MAX_LENGTH
        assert (label != IGNORED).any() and not (label[(shown == 0) | (shown == 2)] != IGNORED).any()
        assert ((label == IGNORED) | ((label > 3) & (label < 2999))).all()


def test_the_same_seed_gives_the_same_corpus_and_a_longer_one_begins_alike(corpus):
    again = pretraining_examples(build_tokenizer(), tokens=2 * TOKENS)
    digest = [key_of([part.tolist() for part in parts[: len(corpus[0])]]) for parts in (*corpus, *again)]
    assert digest[:2] == digest[2:]
    other = pretraining_examples(build_tokenizer(), replace(SETTINGS, seed=2), tokens=5_000)
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(other[0], corpus[0], strict=False))


def test_masking_rates(corpus):
    shown, labels = (np.concatenate(part) for part in corpus)
    predicted = labels != IGNORED
    assert 0.08 < predicted.mean() < 0.3
    assert (shown[predicted] == 2999).mean() == pytest.approx(0.8, abs=0.02)
    assert (shown[predicted] == labels[predicted]).mean() == pytest.approx(0.1, abs=0.02)
    assert not (shown[~predicted] == 2999).any()


def test_the_mixture():
    dice = Dice("test")
    parts = [sequence(dice, SETTINGS) for _ in range(4000)]
    documents = sum(len(part) == 2 and len(part[0]) == 2 for part in parts) / len(parts)
    pairs = sum(len(part) == 2 and len(part[0]) == 1 for part in parts) / len(parts)
    assert documents == pytest.approx(SETTINGS.documents, abs=0.03)
    assert pairs == pytest.approx(SETTINGS.pairs, abs=0.03)


def test_no_scored_text_is_pretrained_on():
    dice = Dice("test")
    texts = [text for _ in range(4000) for part in sequence(dice, SETTINGS) for text, _ in part]
    drawn = {sentence.strip() for text in texts for sentence in text.split(".")}
    scored = [row["target_sentence"].rstrip(".") for row in rows_of("google/xtreme", "tatoeba.qaa", "validation")]
    assert not drawn & set(scored)


def test_show_names_every_language_and_glosses_words():
    from rich.console import Console

    from peft_stilts.miniature.show import show
    from peft_stilts.miniature.world import TONGUES

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(show())
    text = console.export_text()
    assert all(tongue.name in text for tongue in TONGUES.values())
    assert "question" in text and "answer" in text and "distance" in text
