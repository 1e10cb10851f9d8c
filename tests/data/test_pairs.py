"""Pairs and choices are laid out and cut as the tokenizer itself does it, or as the stated rule says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_stilts.data.pairs import encode_choices, encode_pairs, pair
from peft_stilts.errors import UsageError

words = st.sampled_from("the quick fox river Paris лиса 狐狸 1931 dog".split())
texts = st.lists(words, min_size=1, max_size=30).map(" ".join)


@settings(max_examples=80, deadline=None)
@given(texts, texts, st.integers(6, 40))
def test_pairs_are_the_tokenizer_s_longest_first(tokenizer, a, b, limit):
    features = encode_pairs({"text_a": [a], "text_b": [b], "label": ["yes"]}, tokenizer, limit, ("no", "yes"))
    expected = tokenizer(a, b, truncation="longest_first", max_length=limit)["input_ids"]
    assert list(features.input_ids[0]) == expected
    assert features.labels["class"].tolist() == [1] and features.labels["class"].dtype == np.int64


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(6, 60))
def test_choices_lose_their_beginning_one_token_at_a_time(tokenizer, first, second, limit):
    a, b = np.arange(100, 100 + first), np.arange(200, 200 + second)
    kept_a, kept_b = list(a), list(b)
    while len(kept_a) + len(kept_b) > limit - 4:
        (kept_a if len(kept_a) >= len(kept_b) else kept_b).pop(0)
    found = pair(a, b, tokenizer, limit, from_start=True)
    assert found.tolist() == [0, *kept_a, 2, 2, *kept_b, 2]
    assert len(found) == min(first + second, limit - 4) + 4


def test_choices_stand_together_and_share_their_label(tokenizer):
    rows = {"prompt": ["who", "the fox"], "choices": [["Paris", "dog", "river"], ["old", "brown", "quick fox"]],
            "label": ["c", "a"]}
    features = encode_choices(rows, tokenizer, 30, ("a", "b", "c"))
    assert features.example.tolist() == [0, 0, 0, 1, 1, 1]
    assert features.labels["choice"].tolist() == [2, 2, 2, 0, 0, 0]
    pairs = [(prompt, choice) for prompt, choices in zip(rows["prompt"], rows["choices"]) for choice in choices]
    assert [list(ids) for ids in features.input_ids] == [tokenizer(*both)["input_ids"] for both in pairs]


def test_rows_without_labels_have_none(tokenizer):
    rows = {"text_a": ["a", "b"], "text_b": ["c", "d"], "label": ["", ""]}
    assert encode_pairs(rows, tokenizer, 20, ("no", "yes")).labels == {}


def test_no_room(tokenizer):
    with pytest.raises(UsageError, match="max_length 5 leaves no room for a pair; give at least 6"):
        encode_pairs({"text_a": ["a"], "text_b": ["b"], "label": ["no"]}, tokenizer, 5, ("no", "yes"))
