"""Models in memory: one at a time, many adapters in turn over one loaded base encoder."""

from __future__ import annotations

import dataclasses

import torch

from peft_stilts.evaluate.predict import FORMS
from peft_stilts.grid.base import Base, encoder_folder
from peft_stilts.grid.given import stage_files
from peft_stilts.grid.stages import ENCODER, Given, Plan, Train, adapters
from peft_stilts.kernels.choose import fuse
from peft_stilts.model import stack as stacks
from peft_stilts.model.adapter_io import load_head
from peft_stilts.model.encoder import Encoder, load_encoder
from peft_stilts.model.heads import Head
from peft_stilts.model.quantize import quantize
from peft_stilts.model.stack import Stack
from peft_stilts.spec import NF4
from peft_stilts.store import Store
from peft_stilts.train.optim import free_memory

COMPUTE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision of a run -> the type in which a 4-bit base computes, and its embeddings and LayerNorms are held."""


class Loader:
    """Loads the models of a plan from its store to `device`, one at a time."""

    def __init__(self, plan: Plan, store: Store, device: str):
        self.plan, self.store, self.device = plan, store, device
        self._loaded: tuple[str, Stack, dict[str, Head]] | None = None
        self._base: Encoder | None = None
        self._base_sha256 = ""

    def holds(self, stage: Train | Given) -> bool:
        """Whether the model of `stage` is the one in memory."""
        return self._loaded is not None and self._loaded[0] == stage.key

    def model(self, stage: Train | Given | None, quantized: bool = False) -> tuple[Stack, dict[str, Head]]:
        """The finished model of `stage` and its heads by task; the base encoder, in 4 bits if `quantized`, and no heads
        for None. Kept in memory until the next one."""
        key = stage.key if stage else f"base {quantized}"
        if self._loaded is None or self._loaded[0] != key:
            self.unload()
            stack, heads = self._load(stage) if stage else (stacks.lora(self.base_encoder(quantized), [], None), {})
            self._loaded = key, self._fused(stack), heads
        return self._loaded[1:]

    def unload(self, stack: Stack | None = None) -> None:
        """Forget the model in memory (or a trained one, `stack`). Its base encoder, where it is as it was, serves the
        next one: many adapters are scored on one loaded base."""
        stack = stack or (self._loaded and self._loaded[1])
        self._loaded = None
        if stack is not None and self._base is None and stack.identity["sha256"] == self._base_sha256:
            model = stack.release()
            self._base = model and Encoder(model, None, stack.identity)
        del stack
        free_memory()

    def new_stack(self, stage: Train) -> Stack:
        """What a training stage starts from: its parent's encoder, or the base under its parents' adapters."""
        self.unload()
        parent = stage.parent
        if stage.method == "full":
            encoder = load_encoder(self.store.open(parent.key) / ENCODER) if parent else self.base_encoder()
            return self._fused(stacks.full(encoder))
        below = [stage_files(self.store, one)[0] for one in adapters(parent)]
        return self._fused(stacks.lora(self.base_encoder(stage.method == "qlora"), below, stage.lora, stage.name,
                                       stage.seed, stage.method, stage.policy))

    def _fused(self, stack: Stack) -> Stack:
        """The stack, from now on computed by the kernels of the plan."""
        fuse(stack, self.plan.kernels)
        return stack

    def _load(self, stage: Train | Given) -> tuple[Stack, dict[str, Head]]:
        """The finished model of a training stage and its heads, files checked, nothing trainable."""
        if stage.method == "full":
            stack = stacks.lora(load_encoder(self.store.open(stage.key) / ENCODER), [], None).to(self.device)
            _, heads = stage_files(self.store, stage)
        else:
            files = [stage_files(self.store, one) for one in adapters(stage)]
            stack = stacks.lora(self.base_encoder(stage.method == "qlora"), [folder for folder, _ in files], None)
            stack, heads = stack.to(self.device), files[-1][1]
        return stack, {task.name: load_head(heads[task.name], stack.encoder.config, task.name,
                                            FORMS[task.form].head).to(self.device) for task in stage.tasks}

    def base_encoder(self, quantized: bool = False) -> Encoder:
        """The encoder the run starts from, on the device, under the identity that tables and adapter files give it; in
        4 bits if `quantized`. Taken over from the model before (`unload`) where that left it as it was."""
        free, self._base = self._base, None
        if free is not None and ("quantization" in free.identity) == quantized:
            return free
        encoder = load_base(self.plan.base, COMPUTE[self.plan.precision] if quantized else None, self.device)
        self._base_sha256 = encoder.identity["sha256"]
        return encoder


def load_base(base: Base, compute: torch.dtype | None = None, device: str = "cpu") -> Encoder:
    """A base encoder on `device`, under the identity that tables and adapter files give it; in 4 bits that compute in
    `compute` where that is given."""
    encoder = load_encoder(encoder_folder(base))
    encoder.model.to(device)
    identity = encoder.identity | {"id": base.id, "revision": base.revision}
    if compute is not None:
        quantize(encoder.model, compute)
        identity["quantization"] = NF4
    return dataclasses.replace(encoder, identity=identity)
