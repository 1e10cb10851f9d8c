"""Windows, answer alignment and decoding, against independent naive versions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_stilts.data import encode
from peft_stilts.data.encode import encode_sentences, encode_span, null_scores, plan_windows
from peft_stilts.errors import UsageError

CONTEXT = (
    "the quick brown fox jumps over the lazy dog near a river bank in the old town where Paris and Berlin met in 1931"
)
WORDS = ["the", "quick", "fox", "river", "Paris", "Über", "狐狸", "лиса", "½", "x", "1931", "الثعلب", "é", "\u00ad"]


def rows_of(*triples):
    """(context, question, answer) triples as columns; the answer is at its first occurrence."""
    return {
        "id": [f"q{n}" for n in range(len(triples))],
        "context": [context for context, _, _ in triples],
        "question": [question for _, question, _ in triples],
        "answers": [{"text": [text], "answer_start": [context.index(text)]} for context, _, text in triples],
    }


def decode_spans(*arguments):
    """The answers without their scores."""
    return {key: text for key, (text, _) in encode.decode_spans(*arguments).items()}


def one_hot(features, name):
    """Logits of 1 at the labelled positions and 0 elsewhere; flat where the answer is not in the window."""
    logits = [np.zeros(length, dtype=np.float32) for length in features.lengths]
    for n, position in enumerate(features.labels[name]):
        if position:
            logits[n][position] = 1.0
    return logits


def naive_windows(length, room, step):
    """SQuAD's own loop, with the step cut to the room."""
    spans, start, step = [], 0, min(step, room)
    while True:
        size = min(length - start, room)
        spans.append((start, start + size))
        if start + size >= length:
            return spans
        start += step


def naive_is_max_context(spans, which, position):
    """The rule as in SQuAD's reference preprocessing, one token at a time."""
    best, owner = None, None
    for n, (first, last) in enumerate(spans):
        if not first <= position < last:
            continue
        score = min(position - first, last - 1 - position) + 0.01 * (last - first)
        if best is None or score > best:
            best, owner = score, n
    return owner == which


@given(st.integers(0, 120), st.integers(1, 40), st.integers(1, 60))
def test_windows_are_squads(length, room, step):
    windows = plan_windows(length, room, step)
    assert windows == naive_windows(length, room, step)
    assert sorted({p for first, last in windows for p in range(first, last)}) == list(range(length))


@pytest.mark.parametrize(
    ("max_length", "stride", "query"), [(16, 4, 6), (16, 100, 6), (20, 1, 3), (384, 128, 64), (6, 2, 64)]
)
def test_features_match_a_naive_construction(tokenizer, max_length, stride, query):
    rows = rows_of(
        (CONTEXT, "who met whom in 1931", "Paris"), ("a river", "what is it", "river"), (CONTEXT, "x", "the")
    )
    features = encode_span(rows, tokenizer, max_length, stride, query, labelled=True)
    expected = []
    for n in range(3):
        question = tokenizer(rows["question"][n], add_special_tokens=False)["input_ids"]
        question = question[: min(query, max_length - 5)]
        context = tokenizer(rows["context"][n], add_special_tokens=False)["input_ids"]
        spans = naive_windows(len(context), max_length - len(question) - 4, stride)
        for which, (first, last) in enumerate(spans):
            ids = [0, *question, 2, 2, *context[first:last], 2]
            most = [naive_is_max_context(spans, which, position) for position in range(first, last)]
            expected.append((n, ids, [False] * (len(question) + 3) + most + [False]))
    assert [(n, list(ids)) for n, ids in zip(features.example, features.input_ids, strict=True)] == [
        e[:2] for e in expected
    ]
    for n, (_, ids, most) in enumerate(expected):
        own = features.offsets[n][:, 0] >= 0
        assert list(features.max_context[n]) == [m and o for m, o in zip(most, own, strict=True)]
        assert len(ids) <= max_length and features.input_ids[n].dtype == np.int32
    assert list(features.lengths) == [len(ids) for _, ids, _ in expected]


def test_a_pair_is_laid_out_as_the_tokenizer_would(tokenizer):
    features = encode_span(rows_of((CONTEXT, "who met", "Paris")), tokenizer, 384, 128, 64, labelled=False)
    assert list(features.input_ids[0]) == tokenizer("who met", CONTEXT)["input_ids"]
    assert features.labels == {}


@pytest.mark.parametrize("answer", ["the", "quick brown", "Paris", "town where Paris and Berlin", "1931", CONTEXT])
@pytest.mark.parametrize(("max_length", "stride"), [(384, 128), (200, 7)])
def test_english_words_come_back_exactly(tokenizer, answer, max_length, stride):
    rows = rows_of((CONTEXT, "who met whom", answer))
    features = encode_span(rows, tokenizer, max_length, stride, 64, labelled=True)
    found = decode_spans(features, one_hot(features, "start"), one_hot(features, "end"), rows, 400, 20)
    assert found == {"q0": answer}


def test_every_repeated_word_is_told_apart(tokenizer):
    words = CONTEXT.split()
    starts = [len(" ".join(words[:n])) + (n > 0) for n in range(len(words))]
    rows = {
        "id": [str(n) for n in range(len(words))],
        "context": [CONTEXT] * len(words),
        "question": ["what"] * len(words),
        "answers": [{"text": [word], "answer_start": [start]} for word, start in zip(words, starts, strict=True)],
    }
    features = encode_span(rows, tokenizer, 384, 128, 64, labelled=True)
    for n, (word, start) in enumerate(zip(words, starts, strict=True)):
        offsets, first, last = features.offsets[n], features.labels["start"][n], features.labels["end"][n]
        assert (offsets[first, 0], offsets[last, 1]) == (start, start + len(word))


def test_an_answer_outside_of_the_window_is_labelled_with_the_first_token(tokenizer):
    features = encode_span(rows_of((CONTEXT, "who", "Berlin")), tokenizer, 24, 8, 64, labelled=True)
    inside = features.labels["start"] > 0
    assert 0 < inside.sum() < len(features)
    assert not features.labels["end"][~inside].any()
    for n in np.flatnonzero(inside):
        span = features.offsets[n][[features.labels["start"][n], features.labels["end"][n]]]
        assert CONTEXT[span[0, 0] : span[1, 1]] == "Berlin"


text = st.lists(st.sampled_from(WORDS), min_size=1, max_size=25).map(" ".join)
spacing = st.sampled_from([" ", "  ", "\t", "\u00a0", "\u3000"])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_round_trip_covers_the_answer_with_whole_tokens(tokenizer, data):
    words = data.draw(st.lists(st.sampled_from(WORDS[:-1]), min_size=1, max_size=20))
    context = data.draw(spacing).join(words)
    first = data.draw(st.integers(0, len(context) - 1))
    last = data.draw(st.integers(first + 1, len(context)))
    answer = context[first:last]
    if not answer.strip():
        return
    rows = {
        "id": ["a"],
        "context": [context],
        "question": ["who"],
        "answers": [{"text": [answer], "answer_start": [first]}],
    }
    features = encode_span(rows, tokenizer, 384, 128, 64, labelled=True)
    found = decode_spans(features, one_hot(features, "start"), one_hot(features, "end"), rows, 400, 20)["a"]
    assert answer.strip() in found
    assert found == found.strip() and found in context


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(text, text), min_size=1, max_size=4), st.integers(6, 40), st.integers(1, 50), st.integers(1, 30)
)
def test_every_row_gets_one_prediction_at_any_length_limit(tokenizer, pairs, max_length, stride, longest):
    rows = {
        "id": [f"q{n}" for n in range(len(pairs))],
        "context": [context for context, _ in pairs],
        "question": [question for _, question in pairs],
    }
    features = encode_span(rows, tokenizer, max_length, stride, 8, labelled=False)
    assert features.lengths.max() <= max_length
    assert sorted(set(features.example)) == list(range(len(pairs)))
    random = np.random.default_rng(0)
    starts = [random.normal(size=length) for length in features.lengths]
    ends = [random.normal(size=length) for length in features.lengths]
    found = decode_spans(features, starts, ends, rows, longest, 20)
    assert list(found) == rows["id"]
    assert all(answer in context for answer, context in zip(found.values(), rows["context"], strict=True))
    slow = naive_decode(features, starts, ends, rows, longest)
    assert found == slow


def naive_decode(features, starts, ends, rows, longest, n_best=20):
    """Every pair of every window, as in SQuAD's reference code, the n best taken among the valid positions."""
    best = {key: (-np.inf, "") for key in rows["id"]}
    for n in range(len(features)):
        key, context = rows["id"][features.example[n]], rows["context"][features.example[n]]
        span = features.offsets[n]
        firsts = [p for p in range(len(span)) if features.max_context[n][p]]
        lasts = [p for p in range(len(span)) if span[p, 0] >= 0]
        for first in sorted(firsts, key=lambda p: -starts[n][p])[:n_best]:
            for last in sorted(lasts, key=lambda p: -ends[n][p])[:n_best]:
                score = starts[n][first] + ends[n][last]
                if first <= last < first + longest and score > best[key][0]:
                    best[key] = (score, context[span[first, 0] : span[last, 1]].strip())
    return {key: answer for key, (_, answer) in best.items()}


def test_scores_of_answers_and_of_none_are_over_all_windows(tokenizer):
    rows = rows_of((CONTEXT, "who met", "Paris"), (CONTEXT, "when", "1931"))
    features = encode_span(rows, tokenizer, 24, 8, 64, labelled=True)
    assert len(features) > 4
    random = np.random.default_rng(0)
    starts, ends = ([random.normal(size=length) for length in features.lengths] for _ in range(2))
    none = null_scores(features, starts, ends, rows)
    for row, key in enumerate(rows["id"]):
        windows = [n for n in range(len(features)) if features.example[n] == row]
        assert none[key] == min(starts[n][0] + ends[n][0] for n in windows)
    for key, (text, score) in encode.decode_spans(features, starts, ends, rows, 5, 20).items():
        assert text and np.isfinite(score) and score > 0, key


def test_every_context_token_starts_in_exactly_one_window(tokenizer):
    rows = rows_of((CONTEXT, "who", "Paris"))
    features = encode_span(rows, tokenizer, 20, 3, 64, labelled=False)
    begins = [tuple(o) for n in range(len(features)) for o in features.offsets[n][features.max_context[n]]]
    assert len(begins) == len(set(begins))
    assert "".join(CONTEXT[a:b] for a, b in sorted(begins)) == CONTEXT.replace(" ", "")


def test_nothing_valid_gives_the_empty_answer(tokenizer):
    rows = {"id": ["blank", "nan"], "context": ["\u00ad \u200b", CONTEXT], "question": ["", "who"]}
    features = encode_span(rows, tokenizer, 384, 128, 64, labelled=False)
    logits = [np.full(length, np.nan) for length in features.lengths]
    assert decode_spans(features, logits, logits, rows, 30, 20) == {"blank": "", "nan": ""}


def test_a_context_of_100000_words(tokenizer):
    context = " ".join(f"{CONTEXT} {n}" for n in range(100_000 // 24)) + " Zanzibar"
    rows = rows_of((context, "x", "Zanzibar"))
    features = encode_span(rows, tokenizer, 384, 128, 64, labelled=True)
    assert features.lengths.max() == 384
    found = decode_spans(features, one_hot(features, "start"), one_hot(features, "end"), rows, 30, 20)
    assert found == {"q0": "Zanzibar"}


def test_sentences_are_cut_and_framed(tokenizer):
    features = encode_sentences([CONTEXT, "the fox", ""], tokenizer, 8)
    assert list(features.lengths) == [8, len(tokenizer("the fox")["input_ids"]), 2]
    assert list(features.input_ids[1]) == tokenizer("the fox")["input_ids"]
    assert list(features.input_ids[0]) == [*tokenizer(CONTEXT)["input_ids"][:7], 2]
    assert list(features.example) == [0, 1, 2]


def test_datasets_and_plain_columns_give_the_same_features(tokenizer):
    from datasets import Dataset

    rows = rows_of((CONTEXT, "who", "Paris"), ("a river bank", "what", "river"))
    plain = encode_span(rows, tokenizer, 30, 8, 64, labelled=True)
    stored = encode_span(Dataset.from_dict(rows), tokenizer, 30, 8, 64, labelled=True)
    assert all((a == b).all() for a, b in zip(plain.input_ids, stored.input_ids, strict=True))
    assert (plain.labels["start"] == stored.labels["start"]).all()


def test_impossible_lengths_are_refused(tokenizer):
    rows = rows_of((CONTEXT, "who", "Paris"))
    with pytest.raises(UsageError, match="max_length 5"):
        encode_span(rows, tokenizer, 5, 128, 64, labelled=False)
    with pytest.raises(UsageError, match="doc_stride 0"):
        encode_span(rows, tokenizer, 384, 0, 64, labelled=False)
    with pytest.raises(UsageError, match="max_length 2"):
        encode_sentences(["a"], tokenizer, 2)
