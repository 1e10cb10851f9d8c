"""Encoders load strictly: right architecture, every tensor, safetensors only."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from peft_stilts.digest import sha256_file
from peft_stilts.errors import CheckpointError
from peft_stilts.model.adapter_io import save_encoder
from peft_stilts.model.encoder import load_encoder, random_encoder


@pytest.fixture
def folder(tmp_path, config, tokenizer):
    encoder = random_encoder(config, 3)
    identity = save_encoder(encoder.model, tokenizer, tmp_path / "one")
    assert identity["sha256"] == sha256_file(tmp_path / "one/model.safetensors")
    return tmp_path / "one"


def change(folder, how):
    tensors = load_file(folder / "model.safetensors")
    how(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_saved_and_loaded_are_equal(folder, config, tokenizer):
    loaded = load_encoder(folder)
    expected = random_encoder(config, 3).model.state_dict()
    assert loaded.model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.model.state_dict().items())
    assert loaded.identity == {
        "id": str(folder), "revision": "local", "sha256": sha256_file(folder / "model.safetensors"),
    }  # fmt: skip
    assert loaded.tokenizer("w1 w2").input_ids == tokenizer("w1 w2").input_ids
    assert not loaded.model.training


@pytest.mark.parametrize(
    "kind", ["MaskedLM", "QuestionAnswering", "SequenceClassification", "TokenClassification", "MultipleChoice"]
)
@pytest.mark.parametrize("half", [False, True])
def test_models_with_heads_give_their_encoder(tmp_path, config, tokenizer, kind, half):
    model = getattr(transformers, f"XLMRobertaFor{kind}")._from_config(config)
    (model.half() if half else model).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_encoder(str(tmp_path)).model
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, model.roberta.state_dict()[name].float()), name


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (lambda t: t.pop("encoder.layer.1.output.dense.weight"), "missing: encoder.layer.1.output.dense.weight"),
        (lambda t: t.update({"encoder.layer.2.x": torch.zeros(2)}), "unexpected: encoder.layer.2.x"),
        (lambda t: t.update({"embeddings.LayerNorm.bias": torch.zeros(7)}), "of another shape: embeddings.LayerNorm"),
        (lambda t: t["embeddings.LayerNorm.bias"].fill_(float("nan")), "not finite: embeddings.LayerNorm.bias"),
    ],
)
def test_wrong_tensors_are_named(folder, how, told):
    change(folder, how)
    with pytest.raises(CheckpointError, match=told):
        load_encoder(folder)


def test_other_models_are_refused(folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="type 'bert'; only 'xlm-roberta' is accepted"):
        load_encoder(folder)


def test_truncated_weights(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_encoder(folder)


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pytorch_model.bin is not read: pickled files can run code"):
        load_encoder(folder)


def test_no_tokenizer_and_a_foreign_tokenizer(folder, tokenizer):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"pad_token_id": 0}))
    with pytest.raises(CheckpointError, match="do not belong together"):
        load_encoder(folder)
    (folder / "config.json").write_text(json.dumps(values))
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="tokenizer"):
        load_encoder(folder)


def test_neither_folder_nor_reachable():
    with pytest.raises(CheckpointError, match="is not a folder here"):
        load_encoder("nobody/no-such-model-here")


def test_random_encoders(config):
    before, state = config.to_dict(), torch.get_rng_state()
    one, same, other = (random_encoder(config, seed) for seed in (1, 1, 2))
    assert torch.equal(one.model.embeddings.word_embeddings.weight, same.model.embeddings.word_embeddings.weight)
    assert not torch.equal(one.model.embeddings.word_embeddings.weight, other.model.embeddings.word_embeddings.weight)
    assert one.identity == same.identity != other.identity
    assert config.to_dict() == before and one.model.config is not config
    assert torch.equal(torch.get_rng_state(), state)
