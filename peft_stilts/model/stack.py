"""The stack: ordered adapters over one encoder, the earlier ones frozen, the last one trained."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from torch import nn

from peft_stilts.data.pack import Pack
from peft_stilts.digest import derived_seed
from peft_stilts.errors import CheckpointError
from peft_stilts.model.adapter_io import adapter_parameters, fill_adapter, lora_config, read_adapter, save_adapter
from peft_stilts.model.encoder import Encoder, encode_pack
from peft_stilts.spec import LoraSettings


class Stack(nn.Module):
    """An encoder with adapters named `{depth}-{task}` (depth from 1). Make one by `full` or `lora`.

    `model`: the XLMRobertaModel itself, or its PeftModel; `identity`: the base encoder's; `frozen`: names of the
    frozen adapters, lowest first; `trained`: name of the trained one, None when nothing or the whole encoder trains;
    `parents`: what is known of the frozen adapters (`name`, `task`, `sha256`), lowest first.
    """

    def __init__(
        self, model: nn.Module, identity: dict[str, str], names: Sequence[str], parents: list[dict], full: bool
    ):
        super().__init__()
        self.model = model
        self.identity = identity
        self.parents = parents
        self.frozen = tuple(names[: len(parents)])
        self.trained = names[-1] if len(names) > len(parents) else None
        self.full = full
        self.switch()

    def forward(self, pack: Pack, layer: int | None = None) -> torch.Tensor:
        """States (T, H) of the last layer, or of `hidden_states[layer]`."""
        return encode_pack(self.model, pack, layer)

    @property
    def encoder(self) -> nn.Module:
        """The XLMRobertaModel inside."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def padding_idx(self) -> int:
        """The padding word's number; positions are counted from the one after it."""
        return self.encoder.config.pad_token_id

    def switch(self) -> None:
        """Make every adapter act, and exactly the intended parameters trainable; raises AssertionError otherwise.

        A frozen adapter is a fixed part of the base: its own dropout is off.
        """
        names = [*self.frozen, *([self.trained] if self.trained else [])]
        if names:
            self.model.base_model.set_adapter(names, inference_mode=True)
            for module in self.model.modules():
                for name in set(self.frozen) & set(getattr(module, "lora_dropout", {})):
                    module.lora_dropout[name] = nn.Identity()
        intended = set(adapter_parameters(self.model, self.trained).values()) if self.trained else set()
        for parameter in self.model.parameters():
            parameter.requires_grad_(self.full or parameter in intended)
        self.check()

    def check(self) -> None:
        """Raises AssertionError unless exactly the trained adapter (or, in full, everything) is trainable."""
        for name, parameter in self.model.named_parameters():
            wanted = self.full or (self.trained is not None and f".{self.trained}." in name)
            if parameter.requires_grad != wanted:
                raise AssertionError(f"{name} is {'frozen' if wanted else 'trainable'}, against {self.describe()}")

    def save_adapter(self, folder: Path) -> str:
        """Write the trained adapter (adapter_io.save_adapter); returns its sha256. ValueError when there is none."""
        if self.trained is None:
            raise ValueError(f"there is no trained adapter to save in {self.describe()}")
        parameters = adapter_parameters(self.model, self.trained)
        config, task = self.model.peft_config[self.trained], self.trained.partition("-")[2]
        return save_adapter(folder, config, parameters, task, self.identity, self.parents)

    def describe(self) -> str:
        """Such as 'stack: [1-squad (frozen), 2-tydiqa (train)]'."""
        parts = [f"{name} (frozen)" for name in self.frozen]
        parts += [f"{self.trained} (train)"] if self.trained else []
        return "the whole encoder (train)" if self.full else f"stack: [{', '.join(parts)}]"


def full(encoder: Encoder) -> Stack:
    """No adapters: every parameter of the encoder trains (in place: the stack takes the encoder's model over)."""
    return Stack(encoder.model, encoder.identity, [], [], full=True)


def lora(encoder: Encoder, frozen: Sequence[Path], new: LoraSettings | None, task: str = "", seed: int = 0) -> Stack:
    """Frozen adapters from the folders `frozen`, lowest first, and on top a new one to train, if `new` is given.

    The encoder's model is wrapped in place. `task` names the new adapter; its A is drawn from `seed` and its depth, so
    that it does not begin in the rows of the A below it; its B is 0, so that at first the stack computes what it would
    without it. Raises CheckpointError when a folder's adapter does not fit the encoder or the adapters below it.
    """
    model: nn.Module = encoder.model
    names: list[str] = []
    parents: list[dict] = []

    def put(config: LoraConfig, name: str) -> None:
        nonlocal model
        if isinstance(model, PeftModel):
            model.add_adapter(name, config)
        else:
            with warnings.catch_warnings():  # PEFT asks transformers a question that is deprecated there
                warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
                model = PeftModel(model, config, adapter_name=name)
        names.append(name)

    for depth, folder in enumerate(frozen, start=1):
        adapter = read_adapter(Path(folder), encoder.identity)
        below = [parent["sha256"] for parent in parents]
        if [parent["sha256"] for parent in adapter.parents] != below:
            raise CheckpointError(
                f"{folder} was trained on top of {_listed(adapter.parents)}, not of {_listed(parents)}: "
                "an adapter works only on the stack it was trained on."
            )
        put(adapter.config, f"{depth}-{adapter.task}")
        fill_adapter(model, names[-1], adapter)
        parents.append({"name": names[-1], "task": adapter.task, "sha256": adapter.sha256})
    if new is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("adapter", seed, len(names) + 1))
            put(lora_config(new, encoder.identity), f"{len(names) + 1}-{task}")
    return Stack(model, encoder.identity, names, parents, full=False)


def _listed(parents: Sequence[dict]) -> str:
    return ", ".join(f"{p['name']} (sha256 {p['sha256'][:12]}…)" for p in parents) or "the bare encoder"
