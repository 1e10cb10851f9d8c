"""Encoders, adapters and heads on disk: safetensors and JSON only, read strictly."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerBase, XLMRobertaConfig

from peft_stilts.digest import sha256_file
from peft_stilts.errors import CheckpointError, StoreError, UsageError, brief
from peft_stilts.model.encoder import WEIGHTS, faults, pickles_refused
from peft_stilts.model.heads import Head, new_head
from peft_stilts.spec import MAPS, LoraSettings

ADAPTER, ADAPTER_CONFIG, IDENTITY = "adapter_model.safetensors", "adapter_config.json", "identity.json"
HEAD, HEAD_CONFIG = "head.safetensors", "head.json"


TARGETS = r".*encoder\.layer\.\d+\..*\.(query|key|value|dense)"
"""The six linear maps of every layer, and not the pooler's (docs/design: adapters sit on the encoder's layers only)."""
SOME_TARGETS = r".*encoder\.layer\.\d+\."
"""What a choice of them begins with; the maps follow as `(a|b)`."""
HARMLESS = {"peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision",
            "inference_mode", "r", "lora_alpha", "lora_dropout", "megatron_core", "qalora_group_size"}  # fmt: skip
"""Fields of adapter_config.json that are read by themselves, or change nothing where all others are as expected."""


@dataclass(frozen=True)
class Adapter:
    """An adapter as read from a folder: PEFT's configuration, tensors by PEFT's names, and where it belongs.

    `policy`: what is done with its parents when it is loaded: `stack`, they act frozen below; `merge`, they are folded
    into the base first.
    """

    folder: Path
    config: LoraConfig
    tensors: dict[str, torch.Tensor]
    task: str
    base: dict[str, str]
    parents: list[dict[str, str]]
    policy: str
    sha256: str

    @property
    def shape(self) -> LoraSettings:
        """Rank, alpha, dropout and target maps."""
        return _shape(self.config)[1]

    @property
    def method(self) -> str:
        """`lora`, `rslora`, `dora`, or `qlora` on a quantised base."""
        return "qlora" if "quantization" in self.base else _shape(self.config)[0]


def lora_config(settings: LoraSettings, method: str, base: dict[str, str]) -> LoraConfig:
    """PEFT's configuration of an adapter of this shape and `method` on the encoder with identity `base`."""
    maps = "|".join(MAPS[name] for name in settings.target_maps)
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=TARGETS if settings.target_maps == tuple(MAPS) else f"{SOME_TARGETS}({maps})",
        use_rslora=method == "rslora",
        use_dora=method == "dora",
        bias="none",
        base_model_name_or_path=base["id"],
        revision=base["revision"],
    )


def target_maps(pattern: Any) -> tuple[str, ...]:
    """The names of the maps that the target_modules of an adapter_config.json, as `lora_config` writes them, choose;
    () where it is none of those."""
    if pattern == TARGETS:
        return tuple(MAPS)
    parts = str(pattern).removeprefix(SOME_TARGETS).removeprefix("(").removesuffix(")").split("|")
    found = tuple(name for name, part in MAPS.items() if part in parts)
    return found if pattern == f"{SOME_TARGETS}({'|'.join(MAPS[name] for name in found)})" else ()


def _shape(config: LoraConfig) -> tuple[str, LoraSettings]:
    method = "dora" if config.use_dora else "rslora" if config.use_rslora else "lora"
    shape = LoraSettings(config.r, float(config.lora_alpha), float(config.lora_dropout),
                         target_maps(config.target_modules))
    return method, shape


def _told(config: LoraConfig) -> dict[str, Any]:
    """What identity.json repeats of adapter_config.json: a changed one would be another adapter."""
    method, shape = _shape(config)
    return shape.told() | {"method": method}


def adapter_parameters(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """PEFT's file name of each tensor of adapter `name` -> the parameter in the PeftModel `model`."""
    part = f".{name}."
    # A magnitude of DoRA is the weight of a module of its own in memory, and a bare tensor in files.
    return {key.replace(part, ".").replace("lora_magnitude_vector.weight", "lora_magnitude_vector"): value
            for key, value in model.named_parameters() if part in key}


def save_encoder(model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, str]:
    """Write encoder and tokenizer as a hub-like folder; returns the identity it will have when loaded from there.

    Raises StoreError naming the folder when it cannot be written.
    """
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except Exception as error:  # safetensors' own kind, OSError, and of tokenizers bare Exceptions, for a full disk
        raise StoreError(f"{folder} cannot be written: {error}. Mend this and give the same command") from error
    return {"id": str(folder), "revision": "local", "sha256": sha256_file(Path(folder) / WEIGHTS)}


def save_adapter(
    folder: Path, config: LoraConfig, parameters: dict[str, nn.Parameter], task: str, base: dict, parents: list[dict],
    policy: str = "stack",
) -> str:
    """Write an adapter in PEFT's format, with identity.json beside it; returns its sha256.

    `parameters` as `adapter_parameters` gives them. identity.json: `task`, `base` (the encoder's identity), `parents`
    (the adapters before it: `name`, `task`, `sha256`, lowest first), `policy` (see Adapter), `shape` (method, rank,
    alpha, dropout, as in the configuration) and `sha256` of adapter_model.safetensors.
    Stock PeftModel.from_pretrained reads the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_plain(parameters), folder / ADAPTER, metadata={"format": "pt"})
    copied = copy.deepcopy(config)
    copied.inference_mode = True  # as PEFT's own save_pretrained writes it
    copied.save_pretrained(folder)
    checksum = sha256_file(folder / ADAPTER)
    _write_json(folder / IDENTITY, {"task": task, "base": base, "parents": parents, "policy": policy,
                                     "shape": _told(config), "sha256": checksum})
    return checksum


def read_identity(folder: Path) -> dict[str, Any]:
    """identity.json of an adapter folder: `task`, `base`, `parents`, `policy`, `sha256`; CheckpointError when it is not
    there, or says something else."""
    path = Path(folder) / IDENTITY
    found = {"policy": "stack"} | _read_json(path, {"task": str, "base": dict, "parents": list, "sha256": str})
    if found["policy"] not in ("stack", "merge"):
        raise CheckpointError(f"{path}: policy is {brief(found['policy'])}; known: stack, merge.")
    for parent in found["parents"]:
        if not isinstance(parent, dict) or not all(isinstance(parent.get(key), str) for key in ("name", "sha256")):
            raise CheckpointError(f"{path}: a parent is {brief(parent)}; it must have a name and a sha256.")
    return found


def read_adapter(folder: Path, base: dict[str, str]) -> Adapter:
    """Read an adapter for the encoder with identity `base`.

    Raises CheckpointError when a file is missing or damaged, the checksum differs, the adapter was trained on other
    weights (or the same ones quantised), or its configuration asks for more than METHODS know.
    """
    folder = Path(folder)
    identity = read_identity(folder)
    if any(identity["base"].get(name) != base.get(name) for name in ("sha256", "quantization")):
        raise CheckpointError(
            f"{folder} was trained on {_named(identity['base'])}; the encoder here is {_named(base)}. "
            "An adapter works only on the weights it was trained on."
        )
    tensors = _read_tensors(folder / ADAPTER, identity["sha256"])
    config = _read_config(folder / ADAPTER_CONFIG, base)
    if identity.get("shape", _told(config)) != _told(config):
        raise CheckpointError(f"{folder / ADAPTER_CONFIG} was changed: it says {_told(config)}, {IDENTITY} says "
                              f"{brief(identity['shape'])}.")
    return Adapter(
        folder=folder,
        config=config,
        tensors=tensors,
        task=identity["task"],
        base=identity["base"],
        parents=identity["parents"],
        policy=identity["policy"],
        sha256=identity["sha256"],
    )


def fill_adapter(model: nn.Module, name: str, adapter: Adapter) -> None:
    """Copy `adapter`'s tensors into the adapter `name` of the PeftModel; CheckpointError unless all of them fit."""
    _fill(adapter_parameters(model, name), adapter.tensors, adapter.folder / ADAPTER)


def save_head(head: Head, folder: Path, task: str, labels: Sequence[str] = ()) -> str:
    """Write head.safetensors (a tied decoder is left to the encoder) and head.json; returns the file's sha256.

    `labels`: the words of the head's outputs, in their order.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_plain(_own(head)), folder / HEAD, metadata={"format": "pt"})
    checksum = sha256_file(folder / HEAD)
    told = {"task": task, "form": head.form, "num_labels": head.num_labels, "labels": list(labels), "sha256": checksum}
    _write_json(folder / HEAD_CONFIG, told)
    return checksum


def read_head_config(folder: Path) -> dict[str, Any]:
    """head.json: `task`, `form`, `num_labels`, `labels` (empty where none were told), `sha256` of head.safetensors."""
    fields = {"task": str, "form": str, "num_labels": int, "sha256": str}
    return {"labels": []} | _read_json(Path(folder) / HEAD_CONFIG, fields)


def load_head(folder: Path, config: XLMRobertaConfig, task: str, form: str) -> Head:
    """Read the head of `task` for an encoder of this `config`; CheckpointError when it is another one's.

    A masked-language head still has to be tied to its encoder (`tie`).
    """
    folder = Path(folder)
    told = read_head_config(folder)
    if (told["task"], told["form"]) != (task, form):
        raise CheckpointError(
            f"{folder} holds the {told['form']} head of {told['task']!r}; asked for was the {form} head of {task!r}."
        )
    tensors = _read_tensors(folder / HEAD, told["sha256"])
    head = new_head(form, config, told["num_labels"], seed=0)
    _fill(_own(head), tensors, folder / HEAD)
    return head


def load_masked_head(folder: Path, encoder: nn.Module) -> Head:
    """The pretrained head for masked words of the base in `folder`, its decoder tied to the word embeddings of
    `encoder`. Raises CheckpointError where model.safetensors has none, or one of another shape."""
    path, prefix = Path(folder) / "model.safetensors", "lm_head."
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]
            tensors = {name.removeprefix(prefix): file.get_tensor(name).float() for name in names}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not tensors:
        raise CheckpointError(f"{path} has no head for masked words (lm_head.*), which --mlm_ratio needs; the released "
                              "XLM-R models have one.")
    head = new_head("mlm", encoder.config, encoder.config.vocab_size, seed=0)
    head.tie(encoder.get_input_embeddings())
    own = {name.removeprefix(prefix): value for name, value in _own(head).items()}
    tied = ("decoder.weight", "decoder.bias")       # the embeddings, and the head's own bias under a second name
    _fill(own, {name: value for name, value in tensors.items() if name not in tied}, path)
    return head


def _read_config(path: Path, base: dict[str, str]) -> LoraConfig:
    """The configuration that an adapter_config.json of ours makes; CheckpointError naming every field whose value would
    change what the adapter computes and is none that our methods write."""
    values = _read_json(path, {"peft_type": str, "r": int, "lora_alpha": int | float, "lora_dropout": int | float})
    if values["peft_type"] != "LORA":
        raise CheckpointError(f"{path} is of PEFT type {brief(values['peft_type'])}; only 'LORA' is read.")
    if not values.get("target_modules"):        # PEFT would then adapt query and value only
        raise CheckpointError(f"{path} has no target_modules: it does not say which maps the adapter is on.")
    maps = target_maps(values.get("target_modules"))
    method = "dora" if values.get("use_dora") is True else "rslora" if values.get("use_rslora") is True else "lora"
    try:
        shape = LoraSettings(values["r"], values["lora_alpha"], values["lora_dropout"], maps or tuple(MAPS))
        config = lora_config(shape, method, base)
    except UsageError as error:
        raise CheckpointError(f"{path}: {error}") from error
    expected = config.to_dict()
    for name, value in values.items():
        empty = value is None or value is False or value in ({}, [])
        wanted = expected.get(name)
        if name in HARMLESS or value == wanted or (empty and not wanted):
            continue
        raise CheckpointError(f"{path}: {name} is {brief(value)}; only {wanted!r} is read (LoRA, rsLoRA or DoRA on the "
                              "six linear maps of every layer, or some of them by name).")  # fmt: skip
    if "quantization" in base and method != "lora":
        raise CheckpointError(f"{path} is {method} on a quantised base; only plain LoRA is read there (qlora).")
    return config


def _own(head: Head) -> dict[str, nn.Parameter]:
    return {name: value for name, value in head.named_parameters() if name != "lm_head.decoder.weight"}


def _plain(parameters: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in parameters.items()}


def _named(identity: dict[str, Any]) -> str:
    return f"{identity.get('id')} at {identity.get('revision')} (sha256 {str(identity.get('sha256'))[:12]}…" \
           + (f", quantised to {identity['quantization']})" if "quantization" in identity else ")")


@torch.no_grad()
def _fill(parameters: dict[str, nn.Parameter], tensors: dict[str, torch.Tensor], path: Path) -> None:
    wrong = {
        "missing": sorted(parameters.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - parameters.keys()),
        "misshapen": [
            f"{name} {tuple(tensors[name].shape)} for {tuple(value.shape)}"
            for name, value in parameters.items()
            if name in tensors and tensors[name].shape != value.shape
        ],
        "not finite": [name for name, value in tensors.items() if not torch.isfinite(value).all()],
    }
    if any(wrong.values()):
        raise CheckpointError(f"{path} does not fit the model here. {faults(wrong)}")
    for name, value in parameters.items():
        value.copy_(tensors[name])


def _read_tensors(path: Path, checksum: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file whose SHA-256 is `checksum`."""
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {path.name}{pickles_refused(path.parent)}.")
    found = sha256_file(path)
    if found != checksum:
        raise CheckpointError(f"{path} is damaged: its sha256 is {found}, recorded was {brief(checksum)[1:-1]}.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _read_json(path: Path, fields: dict[str, type]) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} has no {path.name}: it was not written by peft_stilts.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    for name, kind in fields.items():
        if not isinstance(values, dict) or not isinstance(values.get(name), kind):
            raise CheckpointError(f"{path} lacks {name!r} ({getattr(kind, '__name__', kind)}).")
    return values


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
