"""Merging: the same answers from a plain checkpoint, in the order of the stack, and the sources left as they were."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from peft_stilts.digest import sha256_file
from peft_stilts.errors import CheckpointError, UsageError
from peft_stilts.grid.base import find_base
from peft_stilts.model.encoder import load_encoder
from peft_stilts.share import merge as module
from peft_stilts.share.load import load
from peft_stilts.share.merge import merge

STOCK = {"squad": AutoModelForQuestionAnswering, "mnli": AutoModelForSequenceClassification,
         "hellaswag": AutoModelForSequenceClassification, "udpos": AutoModelForTokenClassification}
TEXTS = ["who was it", "a", "the tall child sees the old dog and the river near the house"]


def answers(model, tokenizer):
    words = tokenizer(TEXTS, padding=True, return_tensors="pt")
    real = words["attention_mask"].bool()
    with torch.no_grad():
        output = model(**words)
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)[real]
    return output.logits[real] if output.logits.ndim == 3 else output.logits


def digests(*folders):
    return {path: sha256_file(path) for folder in folders for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "qlora"])
@pytest.mark.parametrize("tasks", [("squad",), ("mnli", "udpos"), ("udpos", "squad", "hellaswag")])
def test_a_merged_stack_answers_the_same_as_a_plain_checkpoint(makers, encoder, tmp_path, method, tasks):
    bundle, out, said = tmp_path / "bundle", tmp_path / "merged", []
    makers.make_bundle(encoder, bundle, tasks, method)
    before = digests(bundle, encoder)
    change = merge(bundle, out, say=said.append)
    assert 0 < change <= 1e-5 and f"{change:.2g}" in said[0] and "11 batches" in said[0]
    assert ("4-bit" in " ".join(said)) == (method == "qlora")
    assert digests(bundle, encoder) == before and sorted(tmp_path.iterdir()) == sorted(
        [bundle, tmp_path / "bundle parts", out]), "nothing else changed or stayed"
    assert {path.suffix for path in out.rglob("*")} == {".json", ".safetensors"}, "no code, nothing pickled"
    assert not any("lora" in name for name in load_file(out / "model.safetensors"))

    stack, tokenizer = load(bundle)
    stock = STOCK[tasks[-1]].from_pretrained(out).eval()
    assert type(stock) is type(stack) and stock.config.id2label == stack.config.id2label
    found, expected = answers(stock, AutoTokenizer.from_pretrained(out)), answers(stack, tokenizer)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        stack.roberta.base_model.disable_adapter_layers()
        assert (answers(stack, tokenizer) - expected).abs().max() > 1e-2, "the adapters do something"


def test_a_merged_stack_is_a_base_to_start_from(makers, encoder, tmp_path):
    makers.make_bundle(encoder, tmp_path / "bundle", ("squad", "mnli"), "dora")
    merge(tmp_path / "bundle", tmp_path / "merged", say=lambda line: None)
    base = find_base(str(tmp_path / "merged"))
    assert base.config.num_hidden_layers == 2 and len(load_encoder(base.folder).tokenizer) == 3000


def test_the_head_below_is_merged_with_the_adapters_below(makers, encoder, tmp_path):
    makers.make_bundle(encoder, tmp_path / "bundle", ("squad", "mnli"))
    assert merge(tmp_path / "bundle", tmp_path / "merged", task="squad", say=lambda line: None) <= 1e-5
    stack, tokenizer = load(tmp_path / "bundle", "squad")
    stock = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(answers(stock, tokenizer), answers(stack, tokenizer), atol=1e-5, rtol=0)


def test_a_stack_with_merged_parents_and_one_without_heads(makers, encoder, tmp_path):
    makers.make_bundle(encoder, tmp_path / "bundle", ("squad", "mnli", "udpos"), "dora", policy="merge")
    assert 0 < merge(tmp_path / "bundle", tmp_path / "merged", say=lambda line: None) <= 1e-5
    adapters, _ = makers.make_stack(encoder, tmp_path / "stack", ("squad",))
    said = []
    assert 0 < merge(adapters[0], tmp_path / "bare", say=said.append) <= 1e-5
    assert "a state" in said[0] and "no head" in said[0]
    model, tokenizer = load(adapters[0])
    words = tokenizer(TEXTS[2:], return_tensors="pt")
    with torch.no_grad():
        found = AutoModel.from_pretrained(tmp_path / "bare", add_pooling_layer=False).eval()(**words)
        torch.testing.assert_close(found.last_hidden_state, model(**words).last_hidden_state, atol=1e-5, rtol=0)


def test_the_order_of_dora_adapters_matters_and_is_kept(makers, encoder, tmp_path):
    """DoRA scales what is below it, so two of them folded the other way round are another model; LoRA only adds."""
    moved = {}
    for method in ("dora", "lora"):
        bundle = tmp_path / method
        makers.make_bundle(encoder, bundle, ("udpos", "mnli"), method)
        stack, tokenizer = load(bundle)
        expected = answers(stack, tokenizer)
        names = stack.roberta.base_model.active_adapters
        stack.roberta.base_model.set_adapter(names[::-1], inference_mode=True)
        moved[method] = float((answers(stack, tokenizer) - expected).abs().max())
        assert merge(bundle, tmp_path / f"{method} merged", say=lambda line: None) <= 1e-5
        stack.roberta.base_model.set_adapter(names, inference_mode=True)
        wrong = stack.roberta.merge_and_unload(safe_merge=True, adapter_names=names[::-1])
        stack.roberta = wrong
        moved[f"{method} folded"] = float((answers(stack, tokenizer) - expected).abs().max())
    assert moved["dora"] > 1e-3 and moved["dora folded"] > 1e-3
    assert moved["lora"] < 1e-5 and moved["lora folded"] < 1e-5


def test_another_model_is_not_written(makers, encoder, tmp_path, monkeypatch):
    makers.make_bundle(encoder, tmp_path / "bundle", ("squad", "mnli"))
    whole = module.fold

    def forgetful(model):
        model.roberta.base_model.set_adapter(["1-squad"], inference_mode=True)
        return whole(model)

    monkeypatch.setattr(module, "fold", forgetful)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match="was not merged: its largest change is"):
        merge(tmp_path / "bundle", tmp_path / "merged", say=lambda line: None)
    assert sorted(tmp_path.iterdir()) == before

    def broken(model):
        whole(model).roberta.encoder.layer[0].output.dense.weight[0, 0] = float("nan")
        return model

    monkeypatch.setattr(module, "fold", broken)
    with pytest.raises(CheckpointError, match="largest change is nan"):
        merge(tmp_path / "bundle", tmp_path / "merged", say=lambda line: None)
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_there_is_not_written_over(makers, encoder, tmp_path):
    makers.make_bundle(encoder, tmp_path / "bundle", ("squad",))
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="merged is there already"):
        merge(tmp_path / "bundle", tmp_path / "merged")
    with pytest.raises(UsageError, match="no head for 'mnli'; it has squad"):
        merge(tmp_path / "bundle", tmp_path / "new", task="mnli")
    assert not (tmp_path / "new").exists()
