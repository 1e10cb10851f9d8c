"""Accuracy, tag scores and mined pairs: cases computed by hand, and properties."""

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_stilts.errors import DataError
from peft_stilts.tasks.metrics import classification, mining, tagging

TYPES = "ADJ ADP ADV AUX DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB".split()
"""The UPOS tags that seqeval takes for tags of different types: without CCONJ (SCONJ's) and X (O's)."""


def tags(*sentences):
    return {str(number): tuple(sentence.split()) for number, sentence in enumerate(sentences)}


def test_accuracy_by_hand():
    golds = {"a": 2, "b": 0, "c": 1, "d": 1}
    assert classification.accuracy({"a": 2, "b": 1, "c": 1, "other": 1}, golds) == {"accuracy": 50.0}
    assert classification.accuracy({"a": "neutral"}, {"a": "neutral"}, "de") == {"accuracy": 100.0}


@pytest.mark.parametrize("label", [-1, "-1", "", None])
def test_an_item_without_a_gold_label_is_refused(label):
    with pytest.raises(DataError, match=r"item 'b' has no gold label"):
        classification.accuracy({"a": 1, "b": 1}, {"a": 1, "b": label})


def test_neighbouring_equal_tags_are_one_span():
    gold, guess = tags("NOUN NOUN VERB DET"), tags("NOUN VERB VERB DET")
    # gold spans 0-1 NOUN, 2 VERB, 3 DET; predicted 0 NOUN, 1-2 VERB, 3 DET: one of three is right
    assert tagging.pos(guess, gold) == {"f1": pytest.approx(100 / 3), "accuracy": 75.0}
    # one of two gold spans (0-1 NOUN, 2 VERB), one of three predicted (0 NOUN, 1 DET, 2 VERB)
    found = tagging.spans(tags("NOUN DET VERB"), tags("NOUN NOUN VERB"))
    assert found == {"f1": pytest.approx(40.0), "precision": pytest.approx(100 / 3), "recall": 50.0}
    # S begins a span by itself: SYM SYM is two spans, of which one is right; NOUN NOUN is one, which is wrong
    assert tagging.pos(tags("SYM NOUN"), tags("SYM SYM")) == {"f1": 50.0, "accuracy": 50.0}
    assert tagging.pos(tags("NOUN VERB"), tags("NOUN NOUN")) == {"f1": 0.0, "accuracy": 50.0}
    # a tag's first letter is taken for its prefix: CCONJ and SCONJ are both of the type CONJ
    assert tagging.pos(tags("NOUN SCONJ"), tags("NOUN CCONJ")) == {"f1": 100.0, "accuracy": 50.0}
    # X has no rest, as O, and so no span at a sentence's end
    assert tagging.pos(tags("NOUN X"), tags("NOUN X")) == {"f1": 100.0, "accuracy": 100.0}
    assert tagging.pos(tags("NOUN X"), tags("NOUN DET")) == {"f1": pytest.approx(200 / 3), "accuracy": 50.0}
    assert tagging.pos(tags("X"), tags("X")) == {"f1": 0.0, "accuracy": 100.0}
    # a span ends with its sentence: gold 0; 0-1, predicted 0; 0, 1: one of two gold ones, one of three predicted
    assert tagging.pos(tags("NOUN", "NOUN VERB"), tags("NOUN", "NOUN NOUN"))["f1"] == pytest.approx(40.0)


def test_names_by_hand():
    gold = tags("B-PER I-PER O B-LOC", "O I-ORG I-ORG")
    assert tagging.ner(gold, gold) == {"f1": 100.0}
    # predicted PER 0 (too short), LOC 3 (right); ORG 1-2 (right: I- may begin a span): 2 of 3 on both sides
    assert tagging.ner(tags("B-PER O O B-LOC", "O B-ORG I-ORG"), gold) == {"f1": pytest.approx(200 / 3)}
    assert tagging.ner(tags("B-LOC I-LOC O O", "O O O"), gold) == {"f1": 0.0}
    assert tagging.spans(tags("O O O O", "O O O"), gold) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}


def test_supertags_by_hand():
    gold, guess = tags(r"NP (S\NP)/NP N", "N"), tags(r"NP (S\NP)/NP NP", "N")
    assert tagging.accuracy(guess, gold) == {"accuracy": 75.0}


def test_no_warning_reaches_the_user():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tagging.pos(tags("NOUN"), tags("VERB")) == {"f1": 0.0, "accuracy": 0.0}
        assert tagging.ner(tags("O"), tags("O")) == {"f1": 0.0}


@pytest.mark.parametrize("score", [tagging.pos, tagging.ner, tagging.spans, tagging.accuracy])
def test_every_word_needs_one_tag(score):
    gold = tags("NOUN NOUN", "VERB")
    with pytest.raises(DataError, match="'0' has 3 predicted tags for 2 words; sentence '1' has no prediction"):
        score({"0": ("NOUN",) * 3}, gold)
    with pytest.raises(DataError, match="sentence '0' has 1 predicted tags for 2 words"):
        score(tags("NOUN", "VERB"), gold)
    with pytest.raises(DataError, match="sentence '0' has a word without a gold tag"):
        score(tags("NOUN"), {"0": ("",)})
    with pytest.raises(DataError, match="sentence '0' has a word without a predicted tag"):
        score({"0": ("",)}, tags("NOUN"))
    with pytest.raises(DataError, match="2 more sentences"):
        score({}, tags("X", "X", "X", "X", "X"))


def test_nothing_to_score_is_refused():
    for score in (classification.accuracy, tagging.pos, tagging.ner, tagging.accuracy, mining.f1):
        with pytest.raises(DataError):
            score({}, {})
    with pytest.raises(DataError):
        tagging.accuracy({"0": ()}, {"0": ()})


def naive_spans(sentence):
    """(first, last, tag) of the spans of bare tags: a new one where the tag changes or begins with S."""
    spans = []
    for place, tag in enumerate(sentence):
        if place and sentence[place - 1] == tag and tag[0] != "S":
            spans[-1] = (spans[-1][0], place, tag)
        else:
            spans.append((place, place, tag))
    return spans


@given(st.lists(st.lists(st.tuples(st.sampled_from(TYPES), st.sampled_from(TYPES[5:7] + TYPES[12:])), min_size=1,
                         max_size=8), min_size=1, max_size=4))
def test_pos_scores_are_those_of_spans_and_words(sentences):
    guess, gold = ({str(n): [word[side] for word in sentence] for n, sentence in enumerate(sentences)}
                   for side in (0, 1))
    found = tagging.pos(guess, gold)
    spans = {name: {(n, *span) for n in side for span in naive_spans(side[n])} for name, side in
             (("guess", guess), ("gold", gold))}
    right = len(spans["guess"] & spans["gold"])
    assert found["f1"] == pytest.approx(200 * right / (len(spans["guess"]) + len(spans["gold"])))
    words = [word for sentence in sentences for word in sentence]
    assert found["accuracy"] == pytest.approx(100 * sum(a == b for a, b in words) / len(words))
    assert tagging.pos(gold, gold) == {"f1": pytest.approx(100.0), "accuracy": 100.0}


def test_mined_pairs_by_hand():
    golds = {"de-1": "en-1", "de-2": "en-2", "de-3": "en-3"}
    # one of two predicted is right, of three gold ones: precision 1/2, recall 1/3
    assert mining.f1({"de-1": "en-1", "de-2": "en-3"}, golds, "de") == {
        "f1": pytest.approx(40.0), "precision": 50.0, "recall": pytest.approx(100 / 3)}
    assert mining.f1([("de-1", "en-1"), ("de-1", "en-1"), ("de-1", "en-2")], golds.items()) == {
        "f1": pytest.approx(40.0), "precision": 50.0, "recall": pytest.approx(100 / 3)}     # pairs are a set
    assert mining.f1({}, golds) == mining.f1({"en-1": "de-1"}, golds) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}
    assert mining.f1(golds, golds) == {"f1": 100.0, "precision": 100.0, "recall": 100.0}
