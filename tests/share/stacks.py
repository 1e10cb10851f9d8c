"""Stacks of adapters and heads with random weights over a tiny encoder, and bundles of them, without training."""

import dataclasses

import torch

from peft_stilts.grid.base import SHAPE, find_base
from peft_stilts.model import stack as stacks
from peft_stilts.model.adapter_io import save_head
from peft_stilts.model.bundle import write_bundle
from peft_stilts.model.encoder import load_encoder
from peft_stilts.model.heads import new_head
from peft_stilts.model.quantize import quantize
from peft_stilts.spec import NF4, LoraSettings

HEADS = {"squad": ("span", 2, ()), "mnli": ("classification", 3, ("entailment", "neutral", "contradiction")),
         "udpos": ("tagging", 4, ("ADJ", "NOUN", "PUNCT", "VERB")), "hellaswag": ("choice", 4, ())}
"""Task -> form of its head, number of classes, their words."""


def encoder_of(base, method="lora"):
    """The encoder in the folder `base` under the identity that files give it, in 4 bits for qlora."""
    encoder, found = load_encoder(base), find_base(str(base))
    identity = encoder.identity | {"id": found.id, "revision": found.revision}
    if method == "qlora":
        quantize(encoder.model, torch.float32)
        identity["quantization"] = NF4
    return dataclasses.replace(encoder, identity=identity)


def stir(stack, seed, size=0.1):
    """Stands for training: any values in the trained adapter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in stack.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=size)
    return stack.eval()


def make_stack(base, folder, tasks, method="lora", policy="stack", seed=0):
    """Write adapters and heads of `tasks`, lowest first, each on the one before. Returns the adapters' folders, and the
    heads' with their depths by task."""
    adapters, heads = [], {}
    settings = LoraSettings(rank=4, alpha=8.0, dropout=0.0)
    for depth, task in enumerate(tasks, 1):
        encoder = encoder_of(base, method)
        stack = stir(stacks.lora(encoder, adapters, settings, task, seed, method, policy), seed + depth)
        stack.save_adapter(folder / f"adapter-{depth}")
        adapters.append(folder / f"adapter-{depth}")
        form, count, labels = HEADS[task]
        save_head(new_head(form, encoder.config, count, seed + depth), folder / f"head-{task}", task, labels)
        heads[task] = (folder / f"head-{task}", depth)
    return adapters, heads


def make_bundle(base, folder, tasks, method="lora", policy="stack", seed=0):
    """Write such a stack as the bundle `folder`."""
    work = folder.with_name(f"{folder.name} parts")
    adapters, heads = make_stack(base, work, tasks, method, policy, seed)
    encoder = encoder_of(base, method)
    shape = {name: getattr(encoder.config, name) for name in (*SHAPE, "type_vocab_size")}
    return write_bundle(folder, encoder.identity | {"shape": shape}, adapters, heads, recipe=[], data=[], versions={},
                        licence="mit", scores=[])
