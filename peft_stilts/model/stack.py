"""The stack: ordered adapters over one encoder, the earlier ones frozen, the last one trained."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from torch import nn

from peft_stilts.data.pack import Pack
from peft_stilts.digest import derived_seed
from peft_stilts.errors import CheckpointError
from peft_stilts.model.adapter_io import (
    Adapter,
    adapter_parameters,
    fill_adapter,
    lora_config,
    read_adapter,
    save_adapter,
)
from peft_stilts.model.encoder import Encoder, encode_pack
from peft_stilts.spec import LoraSettings


class Stack(nn.Module):
    """An encoder with adapters named `{depth}-{task}` (depth from 1). Make one by `full` or `lora`.

    `model`: the XLMRobertaModel itself, or its PeftModel; `identity`: the base encoder's; `merged`, `frozen`: names of
    the adapters that are folded into the base, and of the frozen ones above them, lowest first; `trained`: name of the
    trained one, None when nothing or the whole encoder trains; `parents`: what is known of the adapters below the
    trained one (`name`, `task`, `sha256`), lowest first; `policy`: what is done with them where it is loaded.
    """

    def __init__(self, model: nn.Module, identity: dict[str, str], *, merged: Sequence[str] = (),
                 frozen: Sequence[str] = (), trained: str | None = None, parents: Sequence[dict] = (),
                 policy: str = "stack", full: bool = False):
        super().__init__()
        self.model = model
        self.identity = identity
        self.merged, self.frozen, self.trained = tuple(merged), tuple(frozen), trained
        self.parents, self.policy = list(parents), policy
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
        return save_adapter(folder, config, parameters, task, self.identity, self.parents, self.policy)

    def release(self) -> nn.Module | None:
        """The bare base encoder with its weights as they were, for another stack; this one cannot be used any more.
        None where training or folding has changed them."""
        if self.full or self.merged:
            return None
        return (self.model.unload() if isinstance(self.model, PeftModel) else self.model).train(False)

    def describe(self) -> str:
        """Such as 'stack: [1-squad (frozen), 2-tydiqa (train)]'."""
        parts = [f"{name} (folded into the base)" for name in self.merged]
        parts += [f"{name} (frozen)" for name in self.frozen]
        parts += [f"{self.trained} (train)"] if self.trained else []
        return "the whole encoder (train)" if self.full else f"stack: [{', '.join(parts)}]"


def full(encoder: Encoder) -> Stack:
    """No adapters: every parameter of the encoder trains (in place: the stack takes the encoder's model over)."""
    return Stack(encoder.model, encoder.identity, full=True)


def lora(encoder: Encoder, below: Sequence[Path], new: LoraSettings | None, task: str = "", seed: int = 0,
         method: str = "lora", policy: str = "stack") -> Stack:
    """The adapters in the folders `below`, lowest first, and on top one to train, if `new` is given.

    The encoder's model is wrapped in place. `task` names the trained adapter. `policy`: `stack`, it is a new one of
    shape `new` and `method` over the frozen others; `merge`, the same after those were folded into the encoder's
    weights; `continue`, it is the last of `below`, whose training goes on. A new adapter's A is drawn from `seed` and
    its depth, so that it does not begin in the rows of the A below it; its B is 0, so that at first the stack computes
    what it would without it. Raises CheckpointError when a folder's adapter does not fit the encoder or the adapters
    below it, or its shape is not that which is to go on training.
    """
    pile = _Pile(encoder)
    adapters = [read_adapter(folder, encoder.identity) for folder in below]
    going_on = adapters.pop() if new is not None and policy == "continue" and adapters else None
    for adapter in adapters:
        pile.add(adapter)
    if new is None:
        return pile.stack(None, "stack")
    if going_on is not None:
        _refuse_other_shape(going_on, new, method)
        _refuse_dropout(new, method, [] if going_on.policy == "merge" else pile.frozen)
        config = lora_config(new, method, encoder.identity)      # with the dropout of this training
        return pile.stack(pile.add(dataclasses.replace(going_on, config=config, task=task), trained=True),
                          going_on.policy)
    if policy == "merge":
        pile.merge()
    _refuse_dropout(new, method, pile.frozen)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed("adapter", seed, len(pile.parents) + 1))
        name = pile.put(lora_config(new, method, encoder.identity), task)
    return pile.stack(name, "merge" if policy == "merge" and pile.parents else "stack")


class _Pile:
    """A stack in the making: adapters put on an encoder one by one, or folded into it."""

    def __init__(self, encoder: Encoder):
        self.model: nn.Module = encoder.model
        self.identity = encoder.identity
        self.merged: list[str] = []
        self.frozen: list[str] = []
        self.parents: list[dict] = []

    def put(self, config: LoraConfig, task: str) -> str:
        """Put an adapter with fresh weights on top; returns its name."""
        name = f"{len(self.parents) + 1}-{task}"
        if isinstance(self.model, PeftModel):
            self.model.add_adapter(name, config)
        else:
            with warnings.catch_warnings():  # PEFT asks transformers a question that is deprecated there
                warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
                self.model = PeftModel(self.model, config, adapter_name=name)
        return name

    def add(self, adapter: Adapter, trained: bool = False) -> str:
        """Put an adapter that was read on top, frozen unless it is the trained one; returns its name."""
        known = [parent["sha256"] for parent in self.parents]
        if [parent["sha256"] for parent in adapter.parents] != known:
            raise CheckpointError(
                f"{adapter.folder} was trained on top of {_listed(adapter.parents)}, not of {_listed(self.parents)}: "
                "an adapter works only on the stack it was trained on."
            )
        if adapter.policy == "merge":
            self.merge()
        name = self.put(adapter.config, adapter.task)
        fill_adapter(self.model, name, adapter)
        if not trained:
            self.frozen.append(name)
            self.parents.append({"name": name, "task": adapter.task, "sha256": adapter.sha256})
        return name

    def merge(self) -> None:
        """Fold every adapter into the encoder's float32 weights, in the order of the stack.

        Raises CheckpointError on a quantised base: the sum would have to be quantised again, which is another model.
        """
        if not self.frozen:
            return
        if "quantization" in self.identity:
            raise CheckpointError("adapters cannot be folded exactly into a base of 4 bits: the sum would have to be "
                                  "rounded to 4 bits again. Use the policy stack or continue with qlora.")
        self.model = self.model.merge_and_unload(safe_merge=True, adapter_names=self.frozen)
        self.merged += self.frozen
        self.frozen = []

    def stack(self, trained: str | None, policy: str) -> Stack:
        return Stack(self.model, self.identity, merged=self.merged, frozen=self.frozen, trained=trained,
                     parents=self.parents, policy=policy)


def _refuse_other_shape(adapter: Adapter, new: LoraSettings, method: str) -> None:
    """CheckpointError where training cannot go on with `adapter` as it is asked for: another shape, another method."""
    there, asked = {"method": adapter.method} | adapter.shape.fixed(), {"method": method} | new.fixed()
    if there != asked:
        raise CheckpointError(f"training cannot continue {adapter.folder}: it is {there}, asked for is {asked}. Give "
                              "both stages the same shape, or use the policy stack.")


def _refuse_dropout(new: LoraSettings, method: str, frozen: Sequence[str]) -> None:
    """CheckpointError for DoRA with dropout over frozen adapters: PEFT (variants.py, DoraLinearVariant.forward) then
    trains it over the bare base's output and applies it over that of the whole stack."""
    if method == "dora" and frozen and new.dropout > 0:
        raise CheckpointError(f"DoRA with dropout {new.dropout:g} over {', '.join(frozen)} would be trained as if "
                              "those were not there; set dropout: 0 in the recipe's block dora, or --policy merge.")


def _listed(parents: Sequence[dict]) -> str:
    return ", ".join(f"{p['name']} (sha256 {p['sha256'][:12]}…)" for p in parents) or "the bare encoder"
