"""What may lie in a bundle: names and sizes of files, bounded JSON, tensors of the shapes its base asks for."""

from __future__ import annotations

import json
import math
import os
import re
import stat
import unicodedata
import warnings
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from transformers import XLMRobertaConfig, XLMRobertaModel

from peft_stilts.errors import CheckpointError, brief
from peft_stilts.model.adapter_io import (
    ADAPTER,
    ADAPTER_CONFIG,
    HEAD,
    HEAD_CONFIG,
    IDENTITY,
    fill_adapter,
    load_head,
    read_adapter,
)
from peft_stilts.model.heads import HEADS

MANIFEST = "stack.json"
PARTS = {"adapters": (ADAPTER, ADAPTER_CONFIG, IDENTITY), "heads": (HEAD, HEAD_CONFIG)}
"""Folder of a bundle -> the files of each of its sub-folders."""
NAME = re.compile(r"[A-Za-z0-9_+-]{1,200}")
"""Names of adapters and tasks (a mixture has `+`)."""
EXTRA = re.compile(r"\.gitattributes|LICENSE[A-Za-z0-9_-]*|[A-Za-z0-9][A-Za-z0-9_. -]{0,200}\.(md|txt|png|svg|jpe?g)")
"""What may lie beside stack.json: the card, licences, pictures."""
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".hdf5", ".msgpack"}
CODE = {".py", ".pyc", ".pyd", ".pyx", ".ipynb", ".so", ".dylib", ".dll", ".exe", ".sh", ".bat", ".ps1", ".js",
        ".whl", ".jar"}  # fmt: skip
SHOWN = re.compile(r"[A-Za-z0-9_./+-]+")
MIB = 2**20
MANIFEST_LIMIT, JSON_LIMIT, WEIGHTS_LIMIT, EXTRA_LIMIT = 4 * MIB, MIB, 4096 * MIB, 16 * MIB
"""Bytes of stack.json, of another JSON file, of a file of weights, of a picture or text."""
MOST_FILES, DEEPEST, MOST_LABELS = 1000, 32, 100_000
"""Files of a bundle; levels of nesting in its JSON; classes of a head."""


def allowed_file(name: str) -> str:
    """'' where a file of this name (`/` between folders) may lie in a bundle, otherwise the reason why not."""
    parts = name.split("/")
    if name == MANIFEST or EXTRA.fullmatch(name):
        return ""
    if len(parts) == 3 and NAME.fullmatch(parts[1]) and parts[2] in PARTS.get(parts[0], ()):
        return ""
    suffix = PurePosixPath(name).suffix.lower()
    if not text_allowed(name):
        return "its name has control characters"
    if "\\" in name or ":" in name or any(part in ("", ".", "..") for part in parts):
        return "its path is absolute, has .. or is of another system; nothing is written outside the bundle"
    if suffix in PICKLES:
        return "pickled files can run code when they are read; only safetensors are"
    if suffix in CODE:
        return "it is code, and nothing of a bundle is run"
    return f"it is no part of a bundle ({MANIFEST}, adapters/, heads/, README.md, LICENSE, pictures, *.md and *.txt)"


def size_limit(name: str) -> int:
    """The most bytes that a file of this allowed name may have."""
    if name == MANIFEST:
        return MANIFEST_LIMIT
    return WEIGHTS_LIMIT if name.endswith(".safetensors") else JSON_LIMIT if name.endswith(".json") else EXTRA_LIMIT


def listing(folder: Path) -> dict[str, Path]:
    """Every file below `folder` by its name in the bundle, sorted. CheckpointError naming the first that may not lie
    there: a name that is not allowed, a link, a special file, too large, or two names that differ by case only.

    A link of the Hugging Face cache (snapshots/COMMIT/file -> blobs/) is read as the file it stands for.
    """
    folder, found = Path(folder), {}

    def refuse(error: OSError) -> None:
        raise CheckpointError(f"{folder} cannot be read as a bundle: {error}") from error

    for place, below, files in os.walk(folder, onerror=refuse):
        for name in [*below, *files]:
            path = Path(place) / name
            name = path.relative_to(folder).as_posix()
            try:
                kind, size = path.lstat().st_mode, path.stat().st_size
            except OSError as error:
                refuse(error)
            if stat.S_ISDIR(kind):
                reason = "" if allowed_folder(name) else allowed_file(f"{name}/x")
            elif stat.S_ISLNK(kind) and not _in_hub_cache(folder, path):
                reason = "it is a link"
            elif not path.is_file():
                reason = "it is no ordinary file"
            else:
                reason = allowed_file(name) or too_large(name, size)
                found[name] = path
            if reason:
                raise CheckpointError(f"{folder}: {shown(name)} is refused: {reason}.")
            if len(found) > MOST_FILES:
                raise CheckpointError(f"{folder} has more than {MOST_FILES} files: it is no bundle.")
    refuse_twins(found, str(folder))
    return dict(sorted(found.items()))


def too_large(name: str, size: int) -> str:
    """'' or that a file of this allowed name and size in bytes is too large."""
    return f"it has {size} bytes, at most {size_limit(name)} are read" if size > size_limit(name) else ""


def refuse_twins(names: Any, where: str) -> None:
    """CheckpointError where two names are one on a disk that does not tell upper from lower case."""
    seen: dict[str, str] = {}
    for name in names:
        twin = seen.setdefault(name.lower(), name)
        if twin != name:
            raise CheckpointError(f"{where}: {twin} and {name} differ only by case.")


def strict_json(path: Path, text: bytes | None = None) -> Any:
    """The value in a JSON file (or in `text`, what was read of it), which is bounded in size and depth, has each key
    once, whole numbers of 64 bits, finite ones otherwise, and no control characters. CheckpointError naming `path`."""
    limit = MANIFEST_LIMIT if path.name == MANIFEST else JSON_LIMIT
    try:
        if text is None:
            with open(path, "rb") as file:
                text = file.read(limit + 1)
        if len(text) > limit:
            raise ValueError(f"it has more than {limit} bytes")
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_once, parse_constant=_not_finite)
        _check_value(value)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    return value


def text_allowed(text: str) -> bool:
    """Whether `text` can be shown as it is: no control characters, nothing that turns its direction, no half pairs."""
    return text.isprintable() or not any(
        unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in "\u202a\u202b\u202c\u202d\u202e"
        "\u2066\u2067\u2068\u2069" for letter in text)


def shown(name: str) -> str:
    """A file's name for a message, control characters escaped."""
    return name if SHOWN.fullmatch(name) else brief(name)


def encoder_config(shape: Mapping[str, int]) -> XLMRobertaConfig:
    """The configuration of an encoder of the shape in stack.json."""
    return XLMRobertaConfig(**shape)


def check_adapters(folders: Mapping[str, Path], identity: dict[str, str], config: XLMRobertaConfig) -> None:
    """CheckpointError unless these adapters (name -> folder, lowest first) are a line on the base `identity`, each with
    the finite float32 tensors that PEFT would make of its configuration on an encoder of this `config`."""
    chain: list[dict[str, str]] = []
    for name, folder in folders.items():
        settings, told = (strict_json(folder / file) for file in (ADAPTER_CONFIG, IDENTITY))
        for field in ("policy", "shape"):           # what older runs have not, a bundle must say
            if not isinstance(told, dict) or field not in told:
                raise CheckpointError(f"{folder / IDENTITY} lacks {field!r}.")
        _check_numbers(folder / ADAPTER_CONFIG, settings)
        check_header(folder / ADAPTER)
        adapter = read_adapter(folder, identity)
        if adapter.base != identity:
            raise CheckpointError(f"{folder / IDENTITY}: the base is {brief(adapter.base)}; {MANIFEST} says "
                                  f"{identity}.")
        if name != f"{len(chain) + 1}-{adapter.task}":
            raise CheckpointError(f"{folder / IDENTITY}: the task is {brief(adapter.task)}; {MANIFEST} calls the "
                                  f"adapter {name}, number {len(chain) + 1} from below.")
        if adapter.parents != chain:
            raise CheckpointError(f"{folder / IDENTITY}: it was trained on top of {_line(adapter.parents)}; {MANIFEST} "
                                  f"puts it on {_line(chain)}.")
        if settings.get("base_model_name_or_path") != identity["id"]:
            raise CheckpointError(f"{folder / ADAPTER_CONFIG}: the base is "
                                  f"{brief(settings.get('base_model_name_or_path'))}; {MANIFEST} says "
                                  f"{identity['id']!r}.")
        if settings.get("revision") not in (None, identity["revision"]):
            raise CheckpointError(f"{folder / ADAPTER_CONFIG}: the base's revision is "
                                  f"{brief(settings['revision'])}; {MANIFEST} says {identity['revision']!r}.")
        if settings.get("auto_mapping"):        # stock PEFT imports the module that it names
            raise CheckpointError(f"{folder / ADAPTER_CONFIG}: auto_mapping names code to import; it must be null.")
        chain.append({"name": name, "task": adapter.task, "sha256": adapter.sha256})
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")     # PEFT's questions to transformers that are deprecated there
            model = PeftModel(XLMRobertaModel._from_config(config, add_pooling_layer=False), adapter.config,
                              adapter_name=name)
        fill_adapter(model, name, adapter)


def _check_numbers(path: Path, settings: Any) -> None:
    """CheckpointError unless rank, alpha and dropout are numbers, which true and false are not."""
    settings = settings if isinstance(settings, dict) else {}
    for name, kinds in (("r", (int,)), ("lora_alpha", (int, float)), ("lora_dropout", (int, float))):
        if type(settings.get(name)) not in kinds:
            raise CheckpointError(f"{path}: {name} is {brief(settings.get(name))}; it must be a "
                                  f"{'whole ' if kinds == (int,) else ''}number.")


def check_head(folder: Path, task: str, config: XLMRobertaConfig) -> None:
    """CheckpointError unless the folder holds a head of `task` for an encoder of this `config`, finite and float32."""
    path = folder / HEAD_CONFIG
    told = strict_json(path)
    told = told if isinstance(told, dict) else {}
    form, count, labels = told.get("form"), told.get("num_labels"), told.get("labels", [])
    if not isinstance(form, str) or form not in HEADS:
        raise CheckpointError(f"{path}: form is {brief(form)}; known: {', '.join(HEADS)}.")
    if type(count) is not int or not 1 <= count <= MOST_LABELS:
        raise CheckpointError(f"{path}: num_labels is {brief(count)}; it must be from 1 to {MOST_LABELS}.")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels) \
            or len(labels) not in (0, count):
        raise CheckpointError(f"{path}: labels is {brief(labels)}; it must be a list of {count} words, or empty.")
    check_header(folder / HEAD)
    with torch.device("meta"):
        load_head(folder, config, task, form)


def check_header(path: Path) -> None:
    """CheckpointError unless this is a sound safetensors file of float32 tensors only."""
    try:
        with safe_open(path, framework="pt") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {brief(str(error))}.") from error
    for name, kind in kinds.items():
        if kind != "F32":
            raise CheckpointError(f"{path}: {shown(name)} is of type {kind}; weights are float32 (F32).")
        if not text_allowed(name):
            raise CheckpointError(f"{path}: the tensor {shown(name)} has control characters in its name.")


def allowed_folder(name: str) -> bool:
    """Whether a folder of this name may lie in a bundle."""
    top, *rest = name.split("/")
    return top in PARTS and len(rest) <= 1 and all(NAME.fullmatch(part) for part in rest)


def _in_hub_cache(folder: Path, path: Path) -> bool:
    """Whether a link of a snapshot leads to its repository's blobs, or to those that the repositories of a cache share
    (CACHE/blobs/xx/HASH: huggingface_hub's utils/_shared_blobs.py)."""
    snapshot, target = folder.resolve(), path.resolve().parent
    repository = snapshot.parent.parent
    return snapshot.parent.name == "snapshots" and (
        target == repository / "blobs" or target.parent == repository.parent / "blobs")


def _line(adapters: list[Any]) -> str:
    told = [f"{brief(a['name'])} (sha256 {brief(a['sha256'][:12])}…)" for a in adapters]
    return ", ".join(told) or "the bare encoder"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError(f"a key stands twice among {brief(sorted(key for key, _ in pairs))}")
    return value


def _not_finite(name: str) -> None:
    raise ValueError(f"it has the number {name}")


def _check_value(value: Any, depth: int = 0) -> None:
    if depth > DEEPEST:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels")
    if isinstance(value, str) and not text_allowed(value):
        raise ValueError(f"the text {brief(value)} has control characters")
    if isinstance(value, float) and not math.isfinite(value) or isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError("it has a number that is too large")
    if isinstance(value, dict | list):
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            _check_value(item, depth + 1)
