"""Bundles: a stack of adapters, the heads trained with it and what is known of them, as a folder that people keep."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from peft_stilts.digest import canonical_json, sha256_file
from peft_stilts.errors import CheckpointError, Problems, StiltsError, StoreError, UsageError
from peft_stilts.model.adapter_io import ADAPTER, ADAPTER_CONFIG, HEAD, IDENTITY, read_adapter
from peft_stilts.model.bundle_check import (
    MANIFEST,
    NAME,
    PARTS,
    allowed_file,
    brief,
    check_adapters,
    check_head,
    encoder_config,
    listing,
    refuse_twins,
    shown,
    size_limit,
    strict_json,
)
from peft_stilts.model.quantize import NF4
from peft_stilts.store import sync

__all__ = ["FORMAT_VERSION", "MANIFEST", "Bundle", "BundleAdapter", "BundleHead", "Manifest", "allowed_file",
           "base_identity", "check_base", "new_folder", "read_bundle", "read_manifest", "size_limit",
           "write_bundle"]  # fmt: skip

FORMAT_VERSION = 1
SHAPE = {"vocab_size": 2**24, "hidden_size": 2**20, "num_hidden_layers": 256, "num_attention_heads": 2**12,
         "intermediate_size": 2**22, "max_position_embeddings": 2**24, "type_vocab_size": 2**10,
         "pad_token_id": 2**24}  # fmt: skip
"""Fields of a base's shape, and the largest value of each that is believed."""
FIELDS = {"format_version": (int,), "base": (dict,), "adapters": (list,), "heads": (dict,), "recipe": (list,),
          "data": (list,), "versions": (dict,), "licence": (str,), "scores": (list,), "files": (dict,),
          "sha256": (str,)}  # fmt: skip
DIGEST, COMMIT = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
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
    """The head of `task`: `path` its folder in the bundle, `sha256` of its weights, `adapter` the name of the one it was
    trained with: it is used over the stack up to that."""

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


@dataclass(frozen=True, kw_only=True)
class Bundle(Manifest):
    """A bundle in `folder`, checked by `read_bundle`."""

    folder: Path

    @property
    def adapter_folders(self) -> list[Path]:
        """The folders of the adapters, lowest first."""
        return [self.folder / adapter.path for adapter in self.adapters]

    def head_folder(self, task: str) -> Path:
        """The folder of the head of `task`; KeyError when the bundle has none."""
        return self.folder / self.heads[task].path

    def depth_of(self, task: str) -> int:
        """How many adapters, from the lowest, the head of `task` stands on; KeyError when the bundle has none."""
        return [adapter.name for adapter in self.adapters].index(self.heads[task].adapter) + 1


def base_identity(base: Mapping[str, Any]) -> dict[str, str]:
    """The base as identity.json has it: `id`, `revision`, `sha256`, and `quantization` where it is quantised."""
    told = {name: base[name] for name in ("id", "revision", "sha256")}
    return told | ({"quantization": base["quantization"]} if base.get("quantization") else {})


def read_manifest(text: bytes, where: str) -> Manifest:
    """The content of a stack.json, every field checked; nothing else is read. `where` names it in the CheckpointError
    raised for one that is too large, was changed, is of another version, or says what cannot be."""
    values = strict_json(Path(where), text)
    version = values.get("format_version") if isinstance(values, dict) else None
    if type(version) is int and version != FORMAT_VERSION:
        raise CheckpointError(f"{where} has format_version {version}; {FORMAT_VERSION} is read here. "
                              "Install the newest peft_stilts.")
    _fields(values, FIELDS, where)
    found = _digest(values)
    if found != values["sha256"]:
        raise CheckpointError(f"{where} was changed: its sha256 is {found}, recorded was "
                              f"{brief.repr(values['sha256'])}.")
    _check_base_fields(values["base"], f"{where}: base")
    adapters = _adapters(values["adapters"], f"{where}: adapters")
    heads = _heads(values["heads"], [adapter.name for adapter in adapters], f"{where}: heads")
    _check_files(values["files"], [*adapters, *heads.values()], f"{where}: files")
    for name in ("recipe", "data", "scores"):
        for item in values[name]:
            _check(isinstance(item, dict), f"{where}: {name}", item, "each entry an object")
    for item in values["versions"].values():
        _check(isinstance(item, str), f"{where}: versions", item, "text")
    _check(0 < len(values["licence"]) <= LONGEST, f"{where}: licence", values["licence"], "the name of a licence")
    rest = {name: values[name] for name in ("base", "recipe", "data", "versions", "licence", "scores", "files")}
    return Manifest(adapters=adapters, heads=heads, **rest)


def read_bundle(folder: Path) -> Bundle:
    """Read and check a bundle, all but that its base is the one at hand (`check_base`).

    Raises CheckpointError, naming the file and both sides, for a file that is missing, changed, too large or does not
    belong there (pickles, code, links), a stack.json that contradicts itself or an adapter's own identity.json, and
    tensors that are missing, unexpected, misshapen for the base's shape, not finite or not float32.
    """
    folder = Path(folder)
    files = listing(folder)
    if MANIFEST not in files:
        raise CheckpointError(f"{folder} has no {MANIFEST}: it is no bundle of peft_stilts.")
    with open(files[MANIFEST], "rb") as file:
        manifest = read_manifest(file.read(size_limit(MANIFEST) + 1), str(folder / MANIFEST))
    there = {name for name in files if name.partition("/")[0] in PARTS}
    for name in sorted(manifest.files.keys() ^ there):
        raise CheckpointError(f"{folder}: {name} is missing." if name in manifest.files else
                              f"{folder}: {name} is not listed in {MANIFEST}.")
    for name, recorded in manifest.files.items():
        found = sha256_file(files[name])
        if found != recorded:
            raise CheckpointError(f"{folder / name} is damaged: its sha256 is {found}, recorded in {MANIFEST} was "
                                  f"{recorded}.")
    bundle = Bundle(folder=folder, **{name: getattr(manifest, name) for name in Manifest.__dataclass_fields__})
    config = encoder_config(bundle.base["shape"])
    named = {adapter.name: folder / adapter.path for adapter in bundle.adapters}
    check_adapters(named, base_identity(bundle.base), config)
    for task in bundle.heads:
        check_head(bundle.head_folder(task), task, config)
    return bundle


def check_base(bundle: Manifest, base: Mapping[str, Any]) -> None:
    """CheckpointError naming both sides unless `base` (an encoder's identity) is the base of the bundle: the same
    weights, quantised alike, and, where both name commits of one repository, the same commit."""
    wanted, here = base_identity(bundle.base), base_identity(base)
    commits = wanted["id"] == here["id"] and all(COMMIT.fullmatch(side["revision"]) for side in (wanted, here))
    same = ["sha256", "quantization", *(["revision"] if commits else [])]
    if any(wanted.get(name) != here.get(name) for name in same):
        raise CheckpointError(f"this bundle is for {_named(wanted)}; the encoder here is {_named(here)}. "
                              "An adapter works only on the weights it was trained on.")


def write_bundle(
    out: Path, base: Mapping[str, Any], adapters: Sequence[Path], heads: Mapping[str, tuple[Path, int]], *,
    recipe: list, data: list, versions: dict, licence: str, scores: list, base_id: str | None = None,
) -> Bundle:
    """Write the folder `out`, new and at once, and check it as a reader would.

    `base`: `id`, `revision`, `sha256`, `shape`, perhaps `quantization`; `adapters`: adapter folders, lowest first;
    `heads`: task -> its folder, and how many adapters (from 1) it was trained with; `recipe` one entry a stage, `data`
    the splits that were trained on, `scores` rows of the results table. `base_id` stands in all files in place of the
    base's id (a hub id where the base was a folder here). Raises UsageError for what cannot be asked for, CheckpointError
    for adapters and heads that do not belong together, StoreError when the disk does not take it.
    """
    with Problems() as found:
        if not adapters:
            found.add("a bundle needs one adapter or more; a fully trained model is shared as it is (transformers)")
        for task, (_, depth) in heads.items():
            if not 1 <= depth <= len(adapters):
                found.add(f"the head of {task} stands on {depth} adapters; the bundle has {len(adapters)}")
    base = base_identity(base) | {"id": base_id or base["id"], "quantization": base.get("quantization"),
                                  "shape": dict(base["shape"])}
    with new_folder(out) as draft:
        line = []
        for folder in adapters:
            line.append(_copy_adapter(Path(folder), draft, line, base))
        told = {task: _copy_head(Path(folder), draft, task, line[depth - 1].name)
                for task, (folder, depth) in heads.items()}
        values = {
            "format_version": FORMAT_VERSION, "base": base, "adapters": [asdict(adapter) for adapter in line],
            "heads": told, "recipe": recipe, "data": data, "versions": versions, "licence": licence, "scores": scores,
            "files": {name: sha256_file(path) for name, path in listing(draft).items()},
        }  # fmt: skip
        try:
            values = json.loads(canonical_json(values))
        except ValueError as error:
            raise UsageError(f"the bundle's {MANIFEST} would hold a number that is not finite ({error})") from error
        _write_json(draft / MANIFEST, values | {"sha256": _digest(values)})
        read_bundle(draft)
    return read_bundle(out)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A draft beside `target` to be filled, which takes its place in one step when the block ends well; after an error
    nothing of it stays, nor of the folders made above it. Errors name `target`.

    Raises UsageError where something is there already, StoreError when the disk does not take it.
    """
    target = Path(os.path.abspath(target))
    if os.path.lexists(target) and (target.is_symlink() or not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is there already; name a folder that is new, or remove it")
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    above = [folder for folder in target.parents if not folder.exists()]
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        yield draft
        for path in [draft, *draft.rglob("*")]:
            sync(path)
        os.replace(draft, target)
        sync(target.parent)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        for folder in above:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise StoreError(f"{target} cannot be written: {error}") from error
        if isinstance(error, StiltsError):
            told = getattr(error, "problems", [str(error)])
            raise type(error)(*(message.replace(str(draft), str(target)) for message in told)) from error
        raise


def _copy_adapter(source: Path, draft: Path, below: list[BundleAdapter], base: dict[str, Any]) -> BundleAdapter:
    """Copy an adapter with its configuration and identity made to say `base`."""
    identity = base_identity(base)
    adapter = read_adapter(source, identity)
    name = f"{len(below) + 1}-{adapter.task}"
    _check(NAME.fullmatch(name), f"{source / IDENTITY}: task", adapter.task, "a name of letters, digits, _, + and -")
    folder = draft / "adapters" / name
    folder.mkdir(parents=True)
    shutil.copyfile(source / ADAPTER, folder / ADAPTER)
    commit = base["revision"] if COMMIT.fullmatch(base["revision"]) else None    # stock PEFT asks the hub for it
    _write_json(folder / ADAPTER_CONFIG, strict_json(source / ADAPTER_CONFIG) | {
        "base_model_name_or_path": base["id"], "revision": commit, "auto_mapping": None})
    _write_json(folder / IDENTITY, strict_json(source / IDENTITY) | {"base": identity})
    return BundleAdapter(name, f"adapters/{name}", adapter.sha256, below[-1].name if below else None)


def _copy_head(source: Path, draft: Path, task: str, adapter: str) -> dict[str, str]:
    _check(NAME.fullmatch(task), f"{source}: task", task, "a name of letters, digits, _, + and -")
    folder = draft / "heads" / task
    folder.mkdir(parents=True)
    for name in PARTS["heads"]:
        if not (source / name).is_file():
            raise CheckpointError(f"{source} has no {name}.")
        shutil.copyfile(source / name, folder / name)
    return {"path": f"heads/{task}", "sha256": sha256_file(folder / HEAD), "adapter": adapter}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def _digest(values: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of all fields but `sha256`."""
    told = {name: value for name, value in values.items() if name != "sha256"}
    return hashlib.sha256(canonical_json(told).encode()).hexdigest()


def _check(good: Any, where: str, value: Any, wanted: str) -> None:
    if not good:
        raise CheckpointError(f"{where}: found {brief.repr(value)}; it must be {wanted}.")


def _fields(value: Any, kinds: Mapping[str, tuple[type, ...]], where: str) -> None:
    """CheckpointError unless `value` is an object with exactly these fields, each of one of its types."""
    _check(isinstance(value, dict), where, value, f"an object with {', '.join(kinds)}")
    for name in sorted(kinds.keys() ^ value.keys()):
        raise CheckpointError(f"{where} lacks {name!r}." if name in kinds else
                              f"{where} has {brief.repr(name)}, which is not known here.")
    for name, wanted in kinds.items():
        _check(type(value[name]) in wanted, f"{where}: {name}", value[name],
               " or ".join({NoneType: "null", dict: "an object", list: "a list", str: "text", int: "a whole number"}[kind]
                           for kind in wanted))


def _check_base_fields(base: dict[str, Any], where: str) -> None:
    text = (str,)
    _fields(base, {"id": text, "revision": text, "sha256": text, "quantization": (str, NoneType), "shape": (dict,)},
            where)
    for name in ("id", "revision"):
        _check(0 < len(base[name]) <= LONGEST, f"{where}: {name}", base[name], f"text of 1 to {LONGEST} letters")
    _check(DIGEST.fullmatch(base["sha256"]), f"{where}: sha256", base["sha256"], "64 hexadecimal digits")
    _check(base["quantization"] in (None, NF4), f"{where}: quantization", base["quantization"], f"null or {NF4!r}")
    shape = base["shape"]
    _fields(shape, {name: (int,) for name in SHAPE}, f"{where}: shape")
    for name, largest in SHAPE.items():
        least = 0 if name == "pad_token_id" else 1
        _check(least <= shape[name] <= largest, f"{where}: shape: {name}", shape[name], f"from {least} to {largest}")
    _check(shape["hidden_size"] % shape["num_attention_heads"] == 0, f"{where}: shape: num_attention_heads",
           shape["num_attention_heads"], f"a divisor of hidden_size {shape['hidden_size']}")
    _check(shape["pad_token_id"] < min(shape["vocab_size"], shape["max_position_embeddings"]),
           f"{where}: shape: pad_token_id", shape["pad_token_id"], "below vocab_size and max_position_embeddings")


def _adapters(entries: list[Any], where: str) -> tuple[BundleAdapter, ...]:
    """The adapters, lowest first, as one line: each stands on the one before it."""
    _check(1 <= len(entries) <= MOST_ADAPTERS, where, len(entries), f"from 1 to {MOST_ADAPTERS} adapters")
    for entry in entries:
        _fields(entry, {"name": (str,), "path": (str,), "sha256": (str,), "parent": (str, NoneType)}, where)
        _check_place(entry, entry["name"], "adapters", where)
    names = [entry["name"] for entry in entries]
    _check(len(set(names)) == len(names), where, names, "names that stand once each")
    for depth, entry in enumerate(entries):
        name, parent, below = entry["name"], entry["parent"], names[depth - 1] if depth else None
        if parent == below:
            continue
        fault = "which is none of them" if parent is not None and parent not in names else \
            "which makes a circle" if parent in names[depth:] else "so the adapters are no single line, lowest first"
        raise CheckpointError(f"{where}: the parent of {name} is {brief.repr(parent)}, {fault}; it must be "
                              f"{below or 'null'}.")
    refuse_twins(names, where)
    return tuple(BundleAdapter(**entry) for entry in entries)


def _heads(entries: dict[str, Any], adapters: list[str], where: str) -> dict[str, BundleHead]:
    for task, entry in entries.items():
        _fields(entry, {"path": (str,), "sha256": (str,), "adapter": (str,)}, f"{where}: {shown(task)}")
        _check_place(entry, task, "heads", where)
        _check(entry["adapter"] in adapters, f"{where}: {task}: adapter", entry["adapter"],
               f"one of {', '.join(adapters)}")
    refuse_twins(entries, where)
    return {task: BundleHead(task, **entry) for task, entry in entries.items()}


def _check_place(entry: dict[str, Any], name: str, part: str, where: str) -> None:
    _check(NAME.fullmatch(name), where, name, "a name of letters, digits, _, + and -")
    _check(entry["path"] == f"{part}/{name}", f"{where}: {name}: path", entry["path"], f"{part}/{name}")
    _check(DIGEST.fullmatch(entry["sha256"]), f"{where}: {name}: sha256", entry["sha256"], "64 hexadecimal digits")


def _check_files(files: dict[str, Any], entries: Sequence[BundleAdapter | BundleHead], where: str) -> None:
    """CheckpointError unless `files` has a digest of exactly the files of these adapters and heads."""
    expected = {f"{entry.path}/{name}" for entry in entries for name in PARTS[entry.path.partition("/")[0]]}
    for name in sorted(expected ^ files.keys()):
        raise CheckpointError(f"{where} lacks {name}." if name in expected else
                              f"{where} has {shown(name)}, which is no file of an adapter or head named there.")
    for name, digest in files.items():
        _check(isinstance(digest, str) and DIGEST.fullmatch(digest), f"{where}: {name}", digest,
               "64 hexadecimal digits")
    for entry in entries:
        name = f"{entry.path}/{ADAPTER if isinstance(entry, BundleAdapter) else HEAD}"
        _check(files[name] == entry.sha256, f"{where}: {name}", files[name], f"the {entry.sha256} of its entry")


def _named(identity: Mapping[str, str]) -> str:
    kind = f", quantised to {identity['quantization']}" if "quantization" in identity else ", not quantised"
    return f"{identity['id']} at {identity['revision']} (sha256 {identity['sha256'][:12]}…{kind})"
