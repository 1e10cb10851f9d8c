"""Text for masked-language modelling as features: BERT's masking, drawn from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from peft_stilts.data.encode import Features
from peft_stilts.digest import derived_seed
from peft_stilts.miniature.pretraining import mask_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASKED = 0.15
"""Share of the tokens that is predicted (Devlin et al. 2019; jiant's mlm_simple)."""


BATCH = 2000
"""Texts tokenised at once."""


def encode_masked(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, seed: int) -> Features:
    """One feature `<s> text </s>` a text with MASKED of its words hidden, drawn anew for each place in `texts`.

    `labels`: `words`, N arrays (L_n,) int64, the word at each predicted place and -100 elsewhere. A text without
    tokens predicts nothing and is left out: `example` tells which text a feature is of.
    """
    plain = _tokens(texts, tokenizer, max_length)
    generator = np.random.Generator(np.random.PCG64(derived_seed("masking", seed)))
    ids, labels, example = [], [], []
    for text, line in enumerate(texts):
        tokens = plain[line]
        if len(tokens) > 2:
            rates = np.full(len(tokens), MASKED)
            rates[[0, -1]] = 0.0
            shown, label = mask_tokens(tokens, rates, generator, tokenizer.mask_token_id)
            ids.append(shown)
            labels.append(label)
            example.append(text)
    return Features(ids, {"words": labels}, np.array(example, dtype=np.int64))


def _tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, np.ndarray]:
    """`<s> text </s>` of each different text, (L,) int32, cut to `max_length` by the tokenizer itself and in batches:
    long articles, drawn many times, need the memory of their beginnings only."""
    found: dict[str, np.ndarray] = {}
    different = list(dict.fromkeys(texts))
    for start in range(0, len(different), BATCH):
        batch = different[start : start + BATCH]
        ids = tokenizer(batch, truncation=True, max_length=max_length, return_attention_mask=False)["input_ids"]
        found |= {text: np.array(one, dtype=np.int32) for text, one in zip(batch, ids)}
    return found
