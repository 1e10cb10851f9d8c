"""Text for masked-language modelling as features: BERT's masking, drawn from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from peft_stilts.data.encode import Features, encode_sentences
from peft_stilts.digest import derived_seed
from peft_stilts.miniature.pretraining import mask_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASKED = 0.15
"""Share of the tokens that is predicted (Devlin et al. 2019; jiant's mlm_simple)."""


def encode_masked(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, seed: int) -> Features:
    """One feature `<s> text </s>` a text with MASKED of its words hidden, drawn anew for each place in `texts`.

    `labels`: `words`, N arrays (L_n,) int64, the word at each predicted place and -100 elsewhere. A text without tokens
    predicts nothing and is left out: `example` tells which text a feature is of.
    """
    plain = encode_sentences(texts, tokenizer, max_length)
    generator = np.random.Generator(np.random.PCG64(derived_seed("masking", seed)))
    ids, labels, example = [], [], []
    for text, tokens in zip(plain.example, plain.input_ids):
        if len(tokens) > 2:
            rates = np.full(len(tokens), MASKED)
            rates[[0, -1]] = 0.0
            shown, label = mask_tokens(tokens, rates, generator, tokenizer.mask_token_id)
            ids.append(shown)
            labels.append(label)
            example.append(text)
    return Features(ids, {"words": labels}, np.array(example, dtype=np.int64))
