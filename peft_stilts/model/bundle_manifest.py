"""stack.json, the manifest of a bundle: what each field may say, read without looking at anything else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from peft_stilts.digest import canonical_json
from peft_stilts.errors import CheckpointError, brief
from peft_stilts.model.adapter_io import ADAPTER, HEAD
from peft_stilts.model.bundle_check import NAME, PARTS, refuse_twins, shown, strict_json
from peft_stilts.model.quantize import NF4

FORMAT_VERSION = 1
SHAPE = {"vocab_size": 2**24, "hidden_size": 2**20, "num_hidden_layers": 256, "num_attention_heads": 2**12,
         "intermediate_size": 2**22, "max_position_embeddings": 2**24, "type_vocab_size": 2**10,
         "pad_token_id": 2**24}  # fmt: skip
"""Fields of a base's shape, and the largest value of each that is believed."""
FIELDS = {"format_version": (int,), "base": (dict,), "adapters": (list,), "heads": (dict,), "recipe": (list,),
          "data": (list,), "versions": (dict,), "licence": (str,), "scores": (list,), "files": (dict,),
          "sha256": (str,)}  # fmt: skip
KINDS = {NoneType: "null", dict: "an object", list: "a list", str: "text", int: "a whole number"}
DIGEST = re.compile(r"[0-9a-f]{64}")
MOST_ADAPTERS, LONGEST = 64, 300


@dataclass(frozen=True)
class BundleAdapter:
    """An adapter: `name` is `{depth}-{task}`, `path` its folder in the bundle, `sha256` of its weights, `parent` the
    name of the adapter below, None for the lowest."""

    name: str
    path: str
    sha256: str
    parent: str | None


@dataclass(frozen=True)
class BundleHead:
    """The head of `task`: `path` its folder in the bundle, `sha256` of its weights, `adapter` the name of the one it
    was trained with: it is used over the stack up to that."""

    task: str
    path: str
    sha256: str
    adapter: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """stack.json: `base` has `id`, `revision`, `sha256`, `quantization` and `shape`; `adapters` are lowest first;
    `heads` by task; `files` the SHA-256 of every file below adapters/ and heads/."""

    base: dict[str, Any]
    adapters: tuple[BundleAdapter, ...]
    heads: dict[str, BundleHead]
    recipe: list[dict]
    data: list[dict]
    versions: dict[str, str]
    licence: str
    scores: list[dict]
    files: dict[str, str]


def read_manifest(text: bytes, where: str) -> Manifest:
    """The content of a stack.json, every field checked; nothing else is read. `where` names it in the CheckpointError
    raised for one that is too large, was changed, is of another version, or says what cannot be."""
    values = strict_json(Path(where), text)
    version = values.get("format_version") if isinstance(values, dict) else None
    if type(version) is int and version != FORMAT_VERSION:
        raise CheckpointError(f"{where} has format_version {version}; {FORMAT_VERSION} is read here. "
                              "Install the newest peft_stilts.")
    _fields(values, FIELDS, where)
    found = digest(values)
    if found != values["sha256"]:
        raise CheckpointError(f"{where} was changed: its sha256 is {found}, recorded was "
                              f"{brief(values['sha256'])}.")
    _check_base_fields(values["base"], f"{where}: base")
    adapters = _adapters(values["adapters"], f"{where}: adapters")
    heads = _heads(values["heads"], [adapter.name for adapter in adapters], f"{where}: heads")
    _check_files(values["files"], [*adapters, *heads.values()], f"{where}: files")
    for name in ("recipe", "data", "scores"):
        for item in values[name]:
            check(isinstance(item, dict), f"{where}: {name}", item, "each entry an object")
    for item in values["versions"].values():
        check(isinstance(item, str), f"{where}: versions", item, "text")
    check(0 < len(values["licence"]) <= LONGEST, f"{where}: licence", values["licence"], "the name of a licence")
    rest = {name: values[name] for name in ("base", "recipe", "data", "versions", "licence", "scores", "files")}
    return Manifest(adapters=adapters, heads=heads, **rest)


def digest(values: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of all fields but `sha256`."""
    told = {name: value for name, value in values.items() if name != "sha256"}
    return hashlib.sha256(canonical_json(told).encode()).hexdigest()


def check(good: Any, where: str, value: Any, wanted: str) -> None:
    """CheckpointError unless `good`: at `where` stands `value`, and it must be what is `wanted`."""
    if not good:
        raise CheckpointError(f"{where}: found {brief(value)}; it must be {wanted}.")


def _fields(value: Any, kinds: Mapping[str, tuple[type, ...]], where: str) -> None:
    """CheckpointError unless `value` is an object with exactly these fields, each of one of its types."""
    check(isinstance(value, dict), where, value, f"an object with {', '.join(kinds)}")
    for name in sorted(kinds.keys() ^ value.keys()):
        raise CheckpointError(f"{where} lacks {name!r}." if name in kinds else
                              f"{where} has {brief(name)}, which is not known here.")
    for name, wanted in kinds.items():
        check(type(value[name]) in wanted, f"{where}: {name}", value[name],
              " or ".join(KINDS[kind] for kind in wanted))


def _check_base_fields(base: dict[str, Any], where: str) -> None:
    text = (str,)
    _fields(base, {"id": text, "revision": text, "sha256": text, "quantization": (str, NoneType), "shape": (dict,)},
            where)
    for name in ("id", "revision"):
        check(0 < len(base[name]) <= LONGEST, f"{where}: {name}", base[name], f"text of 1 to {LONGEST} letters")
    check(DIGEST.fullmatch(base["sha256"]), f"{where}: sha256", base["sha256"], "64 hexadecimal digits")
    check(base["quantization"] in (None, NF4), f"{where}: quantization", base["quantization"], f"null or {NF4!r}")
    shape = base["shape"]
    _fields(shape, {name: (int,) for name in SHAPE}, f"{where}: shape")
    for name, largest in SHAPE.items():
        least = 0 if name == "pad_token_id" else 1
        check(least <= shape[name] <= largest, f"{where}: shape: {name}", shape[name], f"from {least} to {largest}")
    check(shape["hidden_size"] % shape["num_attention_heads"] == 0, f"{where}: shape: num_attention_heads",
          shape["num_attention_heads"], f"a divisor of hidden_size {shape['hidden_size']}")
    check(shape["pad_token_id"] < min(shape["vocab_size"], shape["max_position_embeddings"]),
          f"{where}: shape: pad_token_id", shape["pad_token_id"], "below vocab_size and max_position_embeddings")


def _adapters(entries: list[Any], where: str) -> tuple[BundleAdapter, ...]:
    """The adapters, lowest first, as one line: each stands on the one before it."""
    check(1 <= len(entries) <= MOST_ADAPTERS, where, len(entries), f"from 1 to {MOST_ADAPTERS} adapters")
    for entry in entries:
        _fields(entry, {"name": (str,), "path": (str,), "sha256": (str,), "parent": (str, NoneType)}, where)
        _check_place(entry, entry["name"], "adapters", where)
    names = [entry["name"] for entry in entries]
    check(len(set(names)) == len(names), where, names, "names that stand once each")
    for depth, entry in enumerate(entries):
        name, parent, below = entry["name"], entry["parent"], names[depth - 1] if depth else None
        if parent == below:
            continue
        fault = "which is none of them" if parent is not None and parent not in names else \
            "which makes a circle" if parent in names[depth:] else "so the adapters are no single line, lowest first"
        raise CheckpointError(f"{where}: the parent of {name} is {brief(parent)}, {fault}; it must be "
                              f"{below or 'null'}.")
    refuse_twins(names, where)
    return tuple(BundleAdapter(**entry) for entry in entries)


def _heads(entries: dict[str, Any], adapters: list[str], where: str) -> dict[str, BundleHead]:
    for task, entry in entries.items():
        _fields(entry, {"path": (str,), "sha256": (str,), "adapter": (str,)}, f"{where}: {shown(task)}")
        _check_place(entry, task, "heads", where)
        check(entry["adapter"] in adapters, f"{where}: {task}: adapter", entry["adapter"],
              f"one of {', '.join(adapters)}")
    refuse_twins(entries, where)
    return {task: BundleHead(task, **entry) for task, entry in entries.items()}


def _check_place(entry: dict[str, Any], name: str, part: str, where: str) -> None:
    check(NAME.fullmatch(name), where, name, "a name of letters, digits, _, + and -")
    check(entry["path"] == f"{part}/{name}", f"{where}: {name}: path", entry["path"], f"{part}/{name}")
    check(DIGEST.fullmatch(entry["sha256"]), f"{where}: {name}: sha256", entry["sha256"], "64 hexadecimal digits")


def _check_files(files: dict[str, Any], entries: Sequence[BundleAdapter | BundleHead], where: str) -> None:
    """CheckpointError unless `files` has a digest of exactly the files of these adapters and heads."""
    expected = {f"{entry.path}/{name}" for entry in entries for name in PARTS[entry.path.partition("/")[0]]}
    for name in sorted(expected ^ files.keys()):
        raise CheckpointError(f"{where} lacks {name}." if name in expected else
                              f"{where} has {shown(name)}, which is no file of an adapter or head named there.")
    for name, sha256 in files.items():
        check(isinstance(sha256, str) and DIGEST.fullmatch(sha256), f"{where}: {name}", sha256,
              "64 hexadecimal digits")
    for entry in entries:
        name = f"{entry.path}/{ADAPTER if isinstance(entry, BundleAdapter) else HEAD}"
        check(files[name] == entry.sha256, f"{where}: {name}", files[name], f"the {entry.sha256} of its entry")
