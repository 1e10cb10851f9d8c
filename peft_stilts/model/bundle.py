"""Bundles: a stack of adapters, the heads trained with it and what is known of them, as a folder that people keep."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from peft_stilts.digest import COMMIT, canonical_json, sha256_file
from peft_stilts.errors import CheckpointError, Problems, UsageError
from peft_stilts.model.adapter_io import ADAPTER, ADAPTER_CONFIG, HEAD, IDENTITY, read_adapter
from peft_stilts.model.bundle_check import (
    MANIFEST,
    NAME,
    PARTS,
    allowed_file,
    check_adapters,
    check_head,
    encoder_config,
    listing,
    size_limit,
    strict_json,
)
from peft_stilts.model.bundle_manifest import (
    FORMAT_VERSION,
    SHAPE,
    BundleAdapter,
    BundleHead,
    Manifest,
    check,
    digest,
    read_manifest,
)
from peft_stilts.store import new_folder

__all__ = ["FORMAT_VERSION", "MANIFEST", "SHAPE", "Bundle", "BundleAdapter", "BundleHead", "Manifest", "allowed_file",
           "base_identity", "check_base", "listing", "read_bundle", "read_manifest", "write_bundle"]  # fmt: skip


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


def read_bundle(folder: Path) -> Bundle:
    """Read and check a bundle, all but that its base is the one at hand (`check_base`).

    Raises CheckpointError, naming the file and both sides, for a file that is missing, changed, too large or does not
    belong there (pickles, code, links), a stack.json that contradicts itself or an adapter's own identity.json, and
    tensors that are missing, unexpected, misshapen for the base's shape, not finite or not float32.
    """
    folder = Path(folder)
    try:
        return _checked(folder, listing(folder))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error}") from error


def _checked(folder: Path, files: Mapping[str, Path]) -> Bundle:
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
    base's id (a hub id where the base was a folder here). Raises UsageError for what cannot be asked for,
    CheckpointError for adapters and heads that do not belong together, StoreError when the disk does not take it.
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
        _write_json(draft / MANIFEST, values | {"sha256": digest(values)})
        made = read_bundle(draft)
    return replace(made, folder=Path(out))


def _copy_adapter(source: Path, draft: Path, below: list[BundleAdapter], base: dict[str, Any]) -> BundleAdapter:
    """Copy an adapter with its configuration and identity made to say `base`."""
    identity = base_identity(base)
    adapter = read_adapter(source, identity)
    name = f"{len(below) + 1}-{adapter.task}"
    check(NAME.fullmatch(name), f"{source / IDENTITY}: task", adapter.task, "a name of letters, digits, _, + and -")
    folder = draft / "adapters" / name
    folder.mkdir(parents=True)
    shutil.copyfile(source / ADAPTER, folder / ADAPTER)
    commit = base["revision"] if COMMIT.fullmatch(base["revision"]) else None    # stock PEFT asks the hub for it
    _write_json(folder / ADAPTER_CONFIG, strict_json(source / ADAPTER_CONFIG) | {
        "base_model_name_or_path": base["id"], "revision": commit, "auto_mapping": None})
    _write_json(folder / IDENTITY, strict_json(source / IDENTITY) | {"base": identity})
    return BundleAdapter(name, f"adapters/{name}", adapter.sha256, below[-1].name if below else None)


def _copy_head(source: Path, draft: Path, task: str, adapter: str) -> dict[str, str]:
    check(NAME.fullmatch(task), f"{source}: task", task, "a name of letters, digits, _, + and -")
    folder = draft / "heads" / task
    folder.mkdir(parents=True)
    for name in PARTS["heads"]:
        if not (source / name).is_file():
            raise CheckpointError(f"{source} has no {name}.")
        shutil.copyfile(source / name, folder / name)
    return {"path": f"heads/{task}", "sha256": sha256_file(folder / HEAD), "adapter": adapter}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def _named(identity: Mapping[str, str]) -> str:
    kind = f", quantised to {identity['quantization']}" if "quantization" in identity else ", not quantised"
    return f"{identity['id']} at {identity['revision']} (sha256 {identity['sha256'][:12]}…{kind})"
