"""Bundles over a tiny random XLM-R for tests, and how to damage one so that its checksums still agree."""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig

from peft_stilts.digest import canonical_json, sha256_file
from peft_stilts.model.adapter_io import (
    ADAPTER,
    HEAD,
    HEAD_CONFIG,
    IDENTITY,
    load_head,
    read_adapter,
    read_head_config,
    save_encoder,
    save_head,
)
from peft_stilts.model.bundle import MANIFEST, base_identity, write_bundle
from peft_stilts.model.encoder import load_encoder, random_encoder
from peft_stilts.model.heads import new_head
from peft_stilts.model.quantize import quantize
from peft_stilts.model.stack import lora
from peft_stilts.spec import NF4, LoraSettings

SHAPE = dict(vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64,
             max_position_embeddings=40, type_vocab_size=1, pad_token_id=1)
CONFIG = XLMRobertaConfig(**SHAPE, initializer_range=0.3)
LORA = LoraSettings(rank=2, alpha=4.0, dropout=0.0)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TASKS = ("squad", "mnli", "udpos")
FORMS = {"squad": ("span", 2, ()), "mnli": ("classification", 3, ("yes", "perhaps", "no")),
         "udpos": ("tagging", 5, tuple("ABCDE"))}

FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow,
                                                                       HealthCheck.function_scoped_fixture])
METHODS = ("lora", "rslora", "dora")
WEIGHTS = "adapters/1-squad/adapter_model.safetensors"


def save_base(folder: Path) -> Path:
    """Write a random encoder, with a tokenizer, as a folder of the hub's layout."""
    words = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")),
                                        bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    save_encoder(random_encoder(CONFIG, 3).model, tokenizer, folder)
    return folder


def load_base(folder: Path, method: str = "lora"):
    """The encoder in `folder` under a hub's name, as a run loads it for `method`."""
    encoder = load_encoder(folder)
    identity = encoder.identity | {"id": "user/tiny", "revision": COMMIT}
    if method == "qlora":
        quantize(encoder.model, torch.float32)
        identity["quantization"] = NF4
    return dataclasses.replace(encoder, identity=identity)


def make_parts(base: Path, folder: Path, depth: int, method: str = "lora", policy: str = "stack"):
    """(adapter folders, heads for write_bundle, the stack as it was trained, the encoder's identity). Every adapter
    has random weights, as if it had been trained; policy: the topmost one's."""
    adapters, heads = [], {}
    for level, task in enumerate(TASKS[:depth], 1):
        stack = lora(load_base(base, method), adapters, LORA, task, level, method,
                     policy if level == depth else "stack")
        generator = torch.Generator().manual_seed(level)
        with torch.no_grad():
            for name, parameter in stack.named_parameters():
                if parameter.requires_grad and "lora_B" in name:
                    parameter.normal_(0, 0.1, generator=generator)
        adapters.append(folder / f"adapter-{level}")
        stack.save_adapter(adapters[-1])
        form, count, labels = FORMS[task]
        save_head(new_head(form, CONFIG, count, level), folder / f"head-{task}", task, labels)
        heads[task] = (folder / f"head-{task}", level)
    return adapters, heads, stack.eval(), stack.identity


def told() -> dict:
    """What a bundle says beside its weights."""
    return {"recipe": [{"name": "squad", "tasks": ["squad"], "seed": 1, "settings": {"lr": 0.001}}],
            "data": [{"repo": "rajpurkar/squad", "split": "train", "revision": COMMIT}],
            "versions": {"peft": "0"}, "licence": "mit", "scores": [{"task": "mlqa", "score": 1.5}]}


def make_bundle(base: Path, folder: Path, depth: int, method: str = "lora", policy: str = "stack"):
    """(the bundle in `folder`/bundle, the stack as it was trained)."""
    adapters, heads, stack, identity = make_parts(base, folder, depth, method, policy)
    return write_bundle(folder / "bundle", identity | {"shape": SHAPE}, adapters, heads, **told()), stack


def read_json(path: Path):
    return json.loads(path.read_text("utf-8"))


def write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value), "utf-8")


def seal(folder: Path, values: dict) -> None:
    """Write stack.json with the digest that its content asks for."""
    values = {name: value for name, value in values.items() if name != "sha256"}
    try:
        text = canonical_json(values).encode()
    except ValueError:                          # NaN has no canonical form, half a pair of surrogates no bytes
        text = b""
    write_json(folder / MANIFEST, values | {"sha256": hashlib.sha256(text).hexdigest()})


def reseal(folder: Path, parts: bool = True) -> None:
    """Make every checksum agree with the files as they are now, as one would who changes a bundle on purpose.
    `parts`: the ones inside identity.json and head.json, too."""
    values, parents = read_json(folder / MANIFEST), []
    for entry in values["adapters"]:
        place = folder / entry["path"]
        entry["sha256"] = sha256_file(place / ADAPTER)
        if parts:
            identity = read_json(place / IDENTITY)
            write_json(place / IDENTITY, identity | {"sha256": entry["sha256"], "parents": list(parents)})
            parents.append({"name": entry["name"], "task": identity["task"], "sha256": entry["sha256"]})
    for entry in values["heads"].values():
        place = folder / entry["path"]
        entry["sha256"] = sha256_file(place / HEAD)
        if parts:
            write_json(place / HEAD_CONFIG, read_json(place / HEAD_CONFIG) | {"sha256": entry["sha256"]})
    values["files"] = {name: sha256_file(folder / name) for name in values["files"]}
    seal(folder, values)


def change_tensors(folder: Path, name: str, change) -> None:
    """Replace the tensors of the safetensors file `name` by `change(tensors)`, all checksums to match."""
    tensors = {key: value.clone() for key, value in load_file(folder / name).items()}
    save_file(change(tensors), folder / name)
    reseal(folder)


@contextlib.contextmanager
def a_copy(bundle):
    """The folder of a copy of `bundle`, in a folder of its own."""
    with tempfile.TemporaryDirectory() as place:
        yield Path(shutil.copytree(bundle.folder, Path(place) / "bundle"))


def names_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def meaning(bundle):
    """All that the adapters and heads of a bundle do."""
    adapters = [read_adapter(folder, base_identity(bundle.base)) for folder in bundle.adapter_folders]
    told = [(a.config.to_dict(), {name: value.tolist() for name, value in a.tensors.items()}, a.task, a.base,
             a.parents) for a in adapters]
    forms = {task: read_head_config(bundle.head_folder(task))["form"] for task in bundle.heads}
    heads = {task: load_head(bundle.head_folder(task), CONFIG, task, form) for task, form in forms.items()}
    values = {task: {name: value.tolist() for name, value in head.named_parameters()} for task, head in heads.items()}
    return told, forms, values, bundle.heads
