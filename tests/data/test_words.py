"""Every word of every sentence has one place and one tag, at any limit; and the labels stand on first tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_stilts.data.words import cut, encode_words
from peft_stilts.errors import UsageError

TAGS = ("A", "B", "C")
words = st.sampled_from(["the", "quick", "Paris", "лиса", "狐狸", "\u00ad", "", "x" * 60, "1931", "a b"])
sentences = st.lists(st.lists(st.tuples(words, st.sampled_from(TAGS)), min_size=1, max_size=25), min_size=1, max_size=4)


@settings(max_examples=80, deadline=None)
@given(sentences, st.integers(3, 30))
def test_each_word_once_at_any_limit(tokenizer, tagged, limit):
    rows = {"tokens": [[word for word, _ in row] for row in tagged],
            "tags": [[tag for _, tag in row] for row in tagged]}
    features = encode_words(rows, tokenizer, limit, TAGS)
    assert features.lengths.max() <= limit
    found = [[] for _ in tagged]
    for n, row in enumerate(features.example):
        ids, places, labels = features.input_ids[n], features.words[n], features.labels["tags"][n]
        assert ids[0] == 0 and ids[-1] == 2 and len(labels) == len(ids)
        assert sorted(np.flatnonzero(labels != -100)) == sorted(places)
        ends = [*places[1:], len(ids) - 1]
        for first, last in zip(places, ends):
            found[row].append((tuple(ids[first:last]), TAGS[labels[first]]))
    for row, got in zip(tagged, found):
        assert len(got) == len(row)
        for (word, tag), (ids, label) in zip(row, got):
            own = tuple(tokenizer(word, add_special_tokens=False)["input_ids"])
            assert label == tag and ids == (own if 0 < len(own) <= limit - 2 else (tokenizer.unk_token_id,))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(9, 20))
def test_windows_are_as_full_as_can_be(sizes, room):
    windows = cut(sizes, room)
    assert [word for first, last in windows for word in range(first, last)] == list(range(len(sizes)))
    assert all(sum(sizes[first:last]) <= room for first, last in windows)
    assert all(sum(sizes[first:last]) + sizes[last] > room for first, last in windows[:-1])


def test_a_sentence_of_5000_words_and_one_of_one(tokenizer):
    rows = {"tokens": [["fox"] * 5000, ["dog"]], "tags": [["A"] * 5000, ["B"]]}
    features = encode_words(rows, tokenizer, 128, TAGS)
    counts = np.bincount(features.example, weights=[len(places) for places in features.words])
    assert counts.tolist() == [5000, 1] and features.lengths.max() <= 128


def test_tags_that_the_head_does_not_know_do_not_count_and_rows_without_tags_have_none(tokenizer):
    known = encode_words({"tokens": [["the", "fox"]], "tags": [["A", "new"]]}, tokenizer, 20, TAGS)
    assert [label for label in known.labels["tags"][0] if label != -100] == [0]
    assert encode_words({"tokens": [["the", "fox"]], "tags": [[]]}, tokenizer, 20, TAGS).labels == {}
    with pytest.raises(UsageError, match="max_length 2 leaves no room for a word; give at least 3"):
        encode_words({"tokens": [["the"]], "tags": [["A"]]}, tokenizer, 2, TAGS)
