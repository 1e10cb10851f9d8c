"""Tiny random XLM-R models and bundles for the tests of model/."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig

from peft_stilts.data.pack import make_pack
from peft_stilts.model.adapter_io import save_encoder
from peft_stilts.model.encoder import random_encoder
from tests.model.bundles import METHODS, make_bundle, save_base


@pytest.fixture
def config():
    return XLMRobertaConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
        type_vocab_size=1,
        pad_token_id=1,
        initializer_range=0.3,
    )


@pytest.fixture
def features():
    """Twelve features of odd lengths, some of one token, with labels for every head."""
    rng = np.random.default_rng(5)
    lengths = [7, 1, 23, 5, 12, 1, 31, 9, 2, 14, 3, 8]
    ids = [rng.integers(5, 60, n).astype(np.int32) for n in lengths]
    return SimpleNamespace(
        input_ids=ids,
        labels={
            "start": np.array([rng.integers(0, n) for n in lengths]),
            "end": np.array([rng.integers(0, n) for n in lengths]),
            "class": rng.integers(0, 3, len(ids)),
            "choice": rng.integers(0, 3, len(ids) // 3).repeat(3),
            "tags": [np.where(rng.random(n) < 0.6, rng.integers(0, 5, n), -100) for n in lengths],
            "words": [np.where(rng.random(n) < 0.3, rng.integers(5, 60, n), -100) for n in lengths],
        },
    )


@pytest.fixture
def pack(features):
    return make_pack(features, range(12), 1)


@pytest.fixture
def base(tmp_path, config, tokenizer):
    """The folder of a random encoder."""
    save_encoder(random_encoder(config, 3).model, tokenizer, tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(f"w{i}" for i in range(50))]
    whole = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    whole.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=whole,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sound bundle of two adapters for each method."""
    folder = tmp_path_factory.mktemp("whole")
    base = save_base(folder / "base")
    return {method: make_bundle(base, folder / method, 2, method)[0] for method in METHODS}


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole["lora"].folder, tmp_path / "bundle"))
