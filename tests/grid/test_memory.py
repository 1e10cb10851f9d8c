"""The memory estimate: what a layer keeps is what autograd saves, and every setting counts in the right direction."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import XLMRobertaConfig

from peft_stilts.data.pack import make_pack
from peft_stilts.grid.memory import KEPT, STATE_BYTES, Load, activations, training_memory
from peft_stilts.kernels.choose import fuse, lacking
from peft_stilts.model import stack as stacks
from peft_stilts.model.encoder import random_encoder
from peft_stilts.model.heads import new_head
from peft_stilts.model.learner import Learner
from peft_stilts.spec import OPTIMIZERS, LoraSettings, TrainingSettings

HEADS, RANK = 4, 3
LARGE = XLMRobertaConfig(vocab_size=250002, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16,
                         intermediate_size=4096, max_position_embeddings=514, type_vocab_size=1)
SETTINGS = TrainingSettings(tokens_per_pack=2048)
LOAD = Load(2048, 180.0, 30000)


def config(layers):
    return XLMRobertaConfig(vocab_size=50, hidden_size=64, num_hidden_layers=layers, num_attention_heads=HEADS,
                            intermediate_size=256, max_position_embeddings=60, type_vocab_size=1)


def saved_bytes(kernels, method, precision, lengths, layers):
    """Bytes of the different tensors, parameters apart, that autograd saves in the forward pass of a pack."""
    encoder = random_encoder(config(layers), 1)
    stack = stacks.full(encoder)
    if method != "full":
        stack = stacks.lora(encoder, [], LoraSettings(rank=RANK), "toy", 1, method)
    learner = Learner(stack, {"toy": new_head("span", config(layers), 2, 1)}).train()
    fuse(learner, kernels)
    own = {parameter.untyped_storage().data_ptr() for parameter in learner.parameters()}
    ids = [np.full(size, 7, dtype=np.int32) for size in lengths]
    labels = {"start": np.zeros(len(ids), int), "end": np.zeros(len(ids), int)}
    pack = make_pack(SimpleNamespace(input_ids=ids, labels=labels), range(len(ids)), 1)
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage      # held, so that no other one gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), \
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = learner(pack, "toy")
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["full", "lora", "dora"])
@pytest.mark.parametrize("kernels", ["eager", pytest.param("compile", marks=pytest.mark.slow)])
def test_a_layer_keeps_what_the_table_says(kernels, method, precision):
    """Twice the tokens and one layer more: what is left is bytes per token and layer, at two lengths of sequences."""
    if kernels == "compile" and lacking("compile", "cpu"):
        pytest.skip("torch cannot compile here")
    width, context = KEPT[kernels, method][precision != "fp32"]
    for size in (8, 24):
        counts = [saved_bytes(kernels, method, precision, [size] * times, layers)
                  for times in (4, 2) for layers in (2, 1)]
        found = (counts[0] - counts[1] - counts[2] + counts[3]) / (2 * size)
        rank = 6 * RANK * (4 if precision == "fp32" else 2) if method != "full" else 0
        assert found == pytest.approx(width * 64 + context * HEADS * size + rank, rel=0.01)


def test_every_optimizer_has_its_bytes():
    assert set(STATE_BYTES) == set(OPTIMIZERS)


@pytest.mark.parametrize("lora", [None, LoraSettings()])
@pytest.mark.parametrize(("change", "load"), [
    ({"gradient_checkpointing": True}, LOAD), ({}, dataclasses.replace(LOAD, pack=1024)),
    ({}, dataclasses.replace(LOAD, context=90.0)), ({"optimizer": "adamw_8bit"}, LOAD)])
def test_what_takes_less(lora, change, load):
    usual = training_memory(LARGE, SETTINGS, lora, load=LOAD)
    assert training_memory(LARGE, dataclasses.replace(SETTINGS, **change), lora, load=load) < usual


def test_trimmed_words_and_kernels():
    whole, trimmed = (training_memory(LARGE, SETTINGS, None, load=dataclasses.replace(LOAD, words=words))
                      for words in (None, 30000))
    left_out = (250002 - 30000) * 1024
    assert whole - trimmed == pytest.approx(12 * left_out - 4 * 30000 * 1024, rel=1e-3)     # less the copy
    assert activations(LARGE, SETTINGS, None, "fp32", "full", "compile", LOAD, "cpu") < activations(
        LARGE, SETTINGS, None, "fp32", "full", "eager", LOAD, "cpu")


def test_another_machines_memory_has_no_runtime_of_this_one():
    here, there = (training_memory(LARGE, SETTINGS, None, load=LOAD, device=device) for device in (None, "cuda"))
    assert there < here
