"""Loading a stack as a transformers model: the very logits of the packed path, and everything else refused."""

import shutil
import zipfile

import numpy as np
import pytest
import torch
from transformers import (
    XLMRobertaForQuestionAnswering,
    XLMRobertaForSequenceClassification,
    XLMRobertaForTokenClassification,
    XLMRobertaModel,
)

from peft_stilts.data.encode import Features
from peft_stilts.data.pack import make_pack
from peft_stilts.errors import CheckpointError, UsageError
from peft_stilts.model import stack as stacks
from peft_stilts.model.adapter_io import load_head
from peft_stilts.share.load import load

TEXTS = ["who was it", "a", "the tall child sees the old dog and the river near the house", "we say it"]
KINDS = {"squad": XLMRobertaForQuestionAnswering, "mnli": XLMRobertaForSequenceClassification,
         "hellaswag": XLMRobertaForSequenceClassification, "udpos": XLMRobertaForTokenClassification}


@pytest.fixture
def packed(makers, encoder):
    """The logits of our own path for the same texts, one after the other without padding."""

    def answer(adapters, heads, task, tokenizer, method):
        folder, depth = heads[task]
        stack = stacks.lora(makers.encoder_of(encoder, method), adapters[:depth], None).eval()
        head = load_head(folder, stack.encoder.config, task, makers.HEADS[task][0]).eval()
        ids = [np.array(tokenizer(text)["input_ids"], dtype=np.int32) for text in TEXTS]
        pack = make_pack(Features(ids, {}, np.arange(len(ids))), range(len(ids)), tokenizer.pad_token_id)
        with torch.no_grad():
            return head.logits(stack(pack), pack)

    return answer


def stock(model, tokenizer):
    """The logits of the model for the texts in one padded batch, in the order and shape of the packed ones."""
    words = tokenizer(TEXTS, padding=True, return_tensors="pt")
    real = words["attention_mask"].bool()
    assert not real.all(), "there is padding to be ignored"
    with torch.no_grad():
        output = model(**words)
    if "start_logits" in output:
        return torch.stack([output.start_logits[real], output.end_logits[real]], dim=-1)
    return output.logits[real] if output.logits.ndim == 3 else output.logits


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "qlora"])
@pytest.mark.parametrize("tasks", [("squad",), ("mnli", "udpos"), ("udpos", "squad", "hellaswag")])
def test_the_logits_are_those_of_the_packed_path(makers, encoder, packed, tmp_path, method, tasks):
    bundle = makers.make_bundle(encoder, tmp_path / "bundle", tasks, method)
    heads = {task: (bundle.head_folder(task), bundle.depth_of(task)) for task in tasks}
    for task in tasks:      # each head over the stack as far as it was trained on it
        model, tokenizer = load(tmp_path / "bundle", task)
        assert type(model) is KINDS[task] and not model.training
        ours = packed(bundle.adapter_folders, heads, task, tokenizer, method)
        torch.testing.assert_close(stock(model, tokenizer).reshape(ours.shape), ours, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_parents_that_were_merged_are_merged(makers, encoder, packed, tmp_path, method):
    tasks = ("squad", "udpos", "mnli")
    bundle = makers.make_bundle(encoder, tmp_path / "bundle", tasks, method, policy="merge")
    heads = {task: (bundle.head_folder(task), bundle.depth_of(task)) for task in tasks}
    for task in tasks:
        model, tokenizer = load(str(tmp_path / "bundle"), task)
        ours = packed(bundle.adapter_folders, heads, task, tokenizer, method)
        torch.testing.assert_close(stock(model, tokenizer).reshape(ours.shape), ours, atol=1e-5, rtol=0)


def test_without_a_task_the_last_adapters_head_is_taken_and_labels_are_told(makers, encoder, tmp_path):
    makers.make_bundle(encoder, tmp_path / "bundle", ("squad", "mnli"))
    model, tokenizer = load(tmp_path / "bundle")
    assert type(model) is XLMRobertaForSequenceClassification and len(tokenizer) == 3000
    assert model.config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
    assert model.config.label2id["contradiction"] == 2 and model.config.num_labels == 3
    assert model.config._attn_implementation == "sdpa" and not any(p.requires_grad for p in model.parameters())


def test_an_adapters_folder_gives_the_bare_encoder(makers, encoder, tmp_path):
    adapters, _ = makers.make_stack(encoder, tmp_path, ("squad", "mnli"))
    model, tokenizer = load(adapters[0])
    assert isinstance(model.get_base_model(), XLMRobertaModel)
    words = tokenizer(TEXTS, padding=True, return_tensors="pt")
    real = words["attention_mask"].bool()
    ids = [np.array(tokenizer(text)["input_ids"], dtype=np.int32) for text in TEXTS]
    pack = make_pack(Features(ids, {}, np.arange(len(ids))), range(len(ids)), tokenizer.pad_token_id)
    with torch.no_grad():
        ours = stacks.lora(makers.encoder_of(encoder), adapters[:1], None).eval()(pack)
        torch.testing.assert_close(model(**words).last_hidden_state[real], ours, atol=1e-5, rtol=0)
    with pytest.raises(UsageError, match="no head for 'squad'; it has none"):
        load(adapters[0], "squad")
    with pytest.raises(UsageError, match="stands on 1 other adapters.*bundle"):
        load(adapters[1])


def test_a_head_of_a_task_unknown_here_is_loaded(makers, encoder, tmp_path, monkeypatch):
    """Another's own task: its file is not needed for a model that only answers."""
    monkeypatch.setitem(makers.HEADS, "my_task", ("classification", 2, ("no", "yes")))
    makers.make_bundle(encoder, tmp_path / "bundle", ("squad", "my_task"))
    model, _ = load(tmp_path / "bundle")
    assert model.config.id2label == {0: "no", 1: "yes"}


def test_several_heads_have_to_be_chosen_from(makers, encoder, tmp_path):
    from peft_stilts.model.bundle import read_bundle, write_bundle

    adapters, heads = makers.make_stack(encoder, tmp_path / "parts", ("squad", "mnli"))
    heads["squad"] = (heads["squad"][0], 2)
    shape = makers.make_bundle(encoder, tmp_path / "other", ("squad",)).base["shape"]
    identity = makers.encoder_of(encoder).identity
    write_bundle(tmp_path / "bundle", identity | {"shape": shape}, adapters, heads, recipe=[], data=[], versions={},
                 licence="mit", scores=[])
    assert read_bundle(tmp_path / "bundle").depth_of("squad") == 2
    with pytest.raises(UsageError, match="several heads on its last adapter; say which task: mnli, squad"):
        load(tmp_path / "bundle")
    with pytest.raises(UsageError, match="no head for 'xnli'; it has mnli, squad"):
        load(tmp_path / "bundle", "xnli")
    assert type(load(tmp_path / "bundle", "squad")[0]) is XLMRobertaForQuestionAnswering


def test_the_base_is_the_one_it_was_trained_on(workshop, makers, tmp_path):
    base = workshop.make_encoder(tmp_path / "a base")
    other = workshop.make_encoder(tmp_path / "another base", seed=1)
    makers.make_bundle(base, tmp_path / "bundle", ("squad",))
    with pytest.raises(UsageError) as caught:
        load(tmp_path / "bundle", base=other)
    assert "a base" in str(caught.value) and "another base" in str(caught.value)
    base.rename(tmp_path / "moved")
    with pytest.raises(UsageError, match="a base.*base="):
        load(tmp_path / "bundle")
    assert type(load(tmp_path / "bundle", base=tmp_path / "moved")[0]) is XLMRobertaForQuestionAnswering


def test_what_is_no_stack_is_refused(makers, encoder, tmp_path):
    makers.make_bundle(encoder, tmp_path / "bundle", ("squad",))
    with zipfile.ZipFile(tmp_path / "my.zip", "w") as archive:
        archive.write(tmp_path / "bundle" / "stack.json", "stack.json")
    for name in ("my.zip", "not there.zip"):
        with pytest.raises(UsageError, match="share pull"):
            load(tmp_path / name)
    shutil.copy(tmp_path / "my.zip", tmp_path / "in disguise")
    with pytest.raises(UsageError, match="share pull"):
        load(tmp_path / "in disguise")
    for source in (encoder, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="no adapters to load"):
            load(source)
    weights = tmp_path / "bundle" / "heads" / "squad" / "head.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="head.safetensors is damaged"):
        load(tmp_path / "bundle")
