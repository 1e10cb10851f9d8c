"""The tokenizer's layout, its coverage, and that training it gives the same pieces everywhere."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_stilts.digest import key_of
from peft_stilts.miniature.generators import rows_of
from peft_stilts.miniature.tokenizer import LONGEST, VOCABULARY, best_split, build_tokenizer, train_pieces, word_counts
from peft_stilts.miniature.world import TONGUES


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_xlm_r_layout(tokenizer):
    assert len(tokenizer) == tokenizer.vocab_size == VOCABULARY
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, VOCABULARY - 1]) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id) == (1, 3, VOCABULARY - 1)
    assert (tokenizer.cls_token_id, tokenizer.sep_token_id) == (0, 2)
    pair = tokenizer("who lost 23", "Anna lost <mask>.")["input_ids"]
    assert pair[0] == 0 and pair.count(2) == 3 and pair[-1] == 2
    first = pair.index(2)
    assert pair[first + 1] == 2 and VOCABULARY - 1 in pair[first:]


def test_saved_and_loaded_by_the_auto_class(tokenizer, tmp_path):
    from transformers import AutoTokenizer, XLMRobertaTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(again, XLMRobertaTokenizer)
    texts = [row["context"] for row in rows_of("google/xtreme", "XQuAD.qh", "validation")[:50]]
    assert again(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert again.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("code", tuple(TONGUES))
def test_every_language_is_covered_in_one_to_two_and_a_half_pieces_a_word(tokenizer, code):
    rows = rows_of("google/xtreme", f"XQuAD.{code}", "validation")
    texts = [row["question"] + " " + row["context"] for row in rows]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert not any(tokenizer.unk_token_id in one for one in ids)
    assert 1 < sum(map(len, ids)) / sum(len(text.split()) for text in texts) < 2.5


def test_pieces_never_cross_a_word_and_offsets_are_exact(tokenizer):
    text = "Anna lost 23 axes in 1999. ვოსოსუ?"
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    spoken = [text[a:b] for a, b in encoded["offset_mapping"]]
    assert [token.removeprefix("▁") for token in tokens] == spoken
    assert not any(" " in piece for piece in spoken)
    assert "".join(spoken) == text.replace(" ", "")


def test_the_same_in_another_process(tokenizer):
    code = "from peft_stilts.digest import key_of; from peft_stilts.miniature.tokenizer import build_tokenizer as b; "
    done = subprocess.run(
        [sys.executable, "-c", code + "print(key_of(b().backend_tokenizer.to_str()))"],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == key_of(tokenizer.backend_tokenizer.to_str())


def test_the_words_are_of_all_languages_and_hold_no_digits_or_marks():
    words = word_counts()
    assert all(word[0] == "▁" and word[1:].isalpha() for word in words)
    assert sum(words.values()) > 100_000


@given(st.dictionaries(st.text("abcde", min_size=1, max_size=9), st.integers(1, 50), min_size=3, max_size=30))
def test_training_keeps_every_letter_and_splits_every_word(drawn):
    words = Counter({"▁" + word: count for word, count in drawn.items()})
    scores = train_pieces(words, 12)
    assert set("".join(words)) - {"▁"} <= set(scores) and "▁" not in scores and len(scores) <= 12
    assert sum(2.718281828459045**score for score in scores.values()) == pytest.approx(1)
    for word in words:
        pieces = best_split(word, scores)
        assert "".join(pieces) == word
        assert all(piece in scores and len(piece.removeprefix("▁")) <= LONGEST for piece in pieces)
