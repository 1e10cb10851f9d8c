"""Masked words: BERT's shares, labels that restore the text, and another mask for each place."""

import numpy as np

from peft_stilts.data.mask import encode_masked
from peft_stilts.miniature.tokenizer import build_tokenizer

TEXT = "Anna bought the apple in the market on Friday and David found 12 red hats"


def test_masks_are_bert_s_and_labels_restore_the_text():
    tokenizer = build_tokenizer()
    texts = [TEXT, "", TEXT[:40]] * 400
    features = encode_masked(texts, tokenizer, 64, seed=1)
    assert features.example.tolist() == [n for n in range(1200) if n % 3 != 1]
    plain = {text: tokenizer(text)["input_ids"] for text in set(texts)}
    shown = masked = kept = changed = words = 0
    for n, text in enumerate(features.example):
        ids, labels = features.input_ids[n], features.labels["words"][n]
        assert np.where(labels == -100, ids, labels).tolist() == plain[texts[text]]
        assert (labels != -100).any() and labels[0] == labels[-1] == -100
        predicted = labels != -100
        words += len(ids) - 2
        shown += predicted.sum()
        masked += (ids[predicted] == tokenizer.mask_token_id).sum()
        kept += (ids[predicted] == labels[predicted]).sum()
        changed += ((ids != labels) & (ids != tokenizer.mask_token_id))[predicted].sum()
    assert abs(shown / words - 0.15) < 0.015
    assert abs(masked / shown - 0.8) < 0.03 and abs(kept / shown - 0.1) < 0.02 and abs(changed / shown - 0.1) < 0.02


def test_each_place_has_its_own_mask_and_the_seed_decides():
    tokenizer = build_tokenizer()
    one, same, other = (encode_masked([TEXT] * 20, tokenizer, 64, seed) for seed in (1, 1, 2))
    told = [tuple(labels) for labels in one.labels["words"]]
    assert len(set(told)) > 15
    assert told == [tuple(labels) for labels in same.labels["words"]]
    assert told != [tuple(labels) for labels in other.labels["words"]]
