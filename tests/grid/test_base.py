"""The encoder a run starts from: found by name, known by its bytes, refused when it is no XLM-R."""

import json
import shutil

import pytest
import torch

from peft_stilts.digest import sha256_file
from peft_stilts.errors import UsageError
from peft_stilts.grid.base import find_base, load_tokenizer, miniature_folder, resolve_scale
from peft_stilts.spec import Request


def test_a_folder_is_known_by_its_weights_and_not_by_its_place(encoder, tmp_path):
    moved = shutil.copytree(encoder, tmp_path / "elsewhere")
    here, there = find_base(str(encoder)), find_base(str(moved))
    assert here.identity == there.identity and here.revision == sha256_file(encoder / "model.safetensors")
    (moved / "config.json").write_text((moved / "config.json").read_text().replace("\"hidden_dropout_prob\": 0.1",
                                                                                   "\"hidden_dropout_prob\": 0.2"))
    assert find_base(str(moved)).identity != here.identity      # other dropout, other numbers
    assert here.scale == here.id == str(encoder) and not here.miniature and not here.from_hub
    assert len(load_tokenizer(here)) == here.config.vocab_size == 3000


def test_auto_is_large_with_cuda_and_mini_without(monkeypatch):
    for there, scale in ((True, "large"), (False, "mini")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert resolve_scale("auto") == scale
    assert resolve_scale("base") == "base"


def broken(folder, change):
    change(folder)
    return str(folder)


def other_kind(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))


@pytest.mark.parametrize("change, told", [
    (other_kind, "is a 'bert' model; only XLM-R encoders"),
    (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
    (lambda folder: (folder / "config.json").write_text("[]"), "config.json cannot be read"),
    (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
     "has no model.safetensors .found: .*pytorch_model.bin.*; a model folder has config.json"),
    (shutil.rmtree, "is no folder; known: auto, mini, base, large"),
])
def test_a_folder_that_is_no_encoder_is_refused(encoder, tmp_path, change, told):
    folder = shutil.copytree(encoder, tmp_path / "model")
    with pytest.raises(UsageError, match=told):
        find_base(broken(folder, change))


def test_an_unknown_word_is_told_the_choices():
    with pytest.raises(UsageError, match="--scale 'huge' is no folder; known: auto, mini, base, large"):
        find_base("huge")


def test_a_hub_model_without_network_or_cache_is_told_at_once():
    with pytest.raises(UsageError, match="hub cannot be reached for 'someone/some-encoder'.*--scale mini"):
        find_base("someone/some-encoder")


@pytest.mark.parametrize("depth, asked, usual, layers", [
    (4, None, None, (3,)), (12, None, None, (8,)), (24, None, None, (14,)), (24, None, -5, (20,)), (12, None, -5, (8,)),
    (2, (0,), None, (0,)), (2, (2,), 1, (2,)), (24, (24, -1, 3), None, (24, 3)),
    (2, Request.ALL_LAYERS, 1, (0, 1, 2))])
def test_the_layer_for_retrieval_follows_the_flag_the_recipe_or_the_depth(encoder, depth, asked, usual, layers):
    base = find_base(str(encoder))
    base.config.num_hidden_layers = depth
    assert base.retrieval_layers(asked, usual) == layers


@pytest.mark.parametrize("layers, asked, told", [
    (2, None, "has 2 layers, .* say --layers 0 to 2, or all"), (1, None, "has 1 layers, .* say --layers 0 to 1"),
    (2, (1, 3), "the layer for retrieval is 3; .* has the layers 0 .embeddings. to 2"), (2, (-4,), "retrieval is -4")])
def test_an_unknown_depth_or_layer_is_refused(encoder, layers, asked, told):
    base = find_base(str(encoder))
    base.config.num_hidden_layers = layers
    with pytest.raises(UsageError, match=told):
        base.retrieval_layers(asked, None)


def test_the_miniature_encoder_has_its_own_name():
    if not (miniature_folder() / "model.safetensors").is_file():
        pytest.skip("the miniature encoder is not built yet")
    base = find_base("mini")
    assert base.miniature and base.id == "peft_stilts/miniature" and base.retrieval_layers(None, None) == (3,)
    assert find_base(base.id) == base


@pytest.mark.parametrize("field, value", [("hidden_size", 10**9), ("intermediate_size", 0), ("pad_token_id", None),
                                          ("num_attention_heads", 7), ("layer_norm_eps", "x"), ("dtype", "bogus")])
def test_a_configuration_of_no_model_is_refused(encoder, tmp_path, field, value):
    folder = shutil.copytree(encoder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(UsageError, match="config.json"):
        find_base(str(folder))


@pytest.mark.parametrize("name, text", [("tokenizer.json", "{}"), ("tokenizer_config.json", "[1]")])
def test_a_damaged_tokenizer_is_named(encoder, tmp_path, name, text):
    folder = shutil.copytree(encoder, tmp_path / "model")
    (folder / name).write_text(text)
    with pytest.raises(UsageError, match="the tokenizer cannot be read"):
        load_tokenizer(find_base(str(folder)))
