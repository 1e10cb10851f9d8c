"""Make a bundle of what a run trained: its adapters, their heads, how they were trained, and their scores."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from peft_stilts import results
from peft_stilts.errors import Problems, StoreError, UsageError
from peft_stilts.grid.base import MINIATURE, Base
from peft_stilts.grid.given import (
    base_of_adapter,
    base_of_stage,
    lineage_told,
    open_stack,
    read_stage,
    stage_files,
)
from peft_stilts.grid.hub import is_hub_id
from peft_stilts.grid.stages import Given, Train, adapters
from peft_stilts.model.adapter_io import read_identity
from peft_stilts.model.bundle import MANIFEST, SHAPE, Bundle, write_bundle
from peft_stilts.paths import typed_path
from peft_stilts.share.archive import pack
from peft_stilts.share.card import check_licence, write_card
from peft_stilts.store import RECORD, Store


def export(source: str, out: Path, *, stage: str | None = None, licence: str = "unknown", base_id: str | None = None,
           scale: str = "auto", say: Callable[[str], None] = print) -> Bundle:
    """Write the stack of a training stage as a bundle with its card: the new folder `out`, or a zip if it ends so.

    `source`: a runs folder (with the key of a `stage` where it has several), a stages/KEY folder, or an adapter folder.
    `base_id`: the hub id of the base, where the run had it from a folder, whose name alone is told otherwise: no path
    of this machine stands in a bundle. `scale`: where the base is now, `auto` for where the adapters name it. The
    scores are the rows of the run's table that were made on this stage or on what stands on it, and the baselines that
    they pair with. Returns the bundle; its folder is the zip where that was asked for.

    Raises UsageError, before anything is written, with the stages there are where it is not clear which is meant, for a
    fully trained encoder, an unknown licence and an `out` that is there; StoreError and CheckpointError for what is
    damaged or was removed.
    """
    out = Path(out)
    with Problems() as found:
        with found.collect():
            check_licence(licence)
        if base_id is not None and not is_hub_id(base_id):
            found.add(f"the base's {base_id!r} is no hub id; it looks like FacebookAI/xlm-roberta-base")
        if os.path.lexists(out) and (out.suffix == ".zip" or not out.is_dir() or any(out.iterdir())):
            found.add(f"{out} is there already; name one that is new, or remove it")
    store, top = _find(source, stage)
    if out.suffix != ".zip":
        return _write(store, top, out, licence, base_id, scale, say)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.stem}.")
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error}") from error
    with scratch as folder:
        bundle = _write(store, top, Path(folder) / out.stem, licence, base_id, scale, say)
        pack(bundle.folder, out)
    return dataclasses.replace(bundle, folder=out)


def _find(source: str, key: str | None) -> tuple[Store | None, Train | Given]:
    """The stage that is meant, and the store it lies in (None: an adapter folder)."""
    path = typed_path(source, "SOURCE")
    if (path / "stages").is_dir():
        return _choose(Store(path), source, key)
    if key is not None:
        raise UsageError(f"a stage is chosen in a --runs folder; {source} is none (it has no folder stages/)")
    if (path / RECORD).is_file():
        store, name = Store.locate(path)
        stage = read_stage(store, name)
        if stage.method == "full":
            raise UsageError(f"{source} is a fully trained encoder, not a stack of adapters: transformers shares it as "
                             "it is, from its folder encoder/")
        return store, stage
    if (path / MANIFEST).is_file():
        raise UsageError(f"{source} is a bundle already; `share push` and `share card` take it as it is")
    chain = open_stack(source) if path.exists() else None
    if chain is None:
        raise UsageError(f"{source} holds no adapters: give a --runs folder, a stages/KEY folder or an adapter folder")
    return None, chain[-1]


def _choose(store: Store, source: str, key: str | None) -> tuple[Store, Train | Given]:
    """The stage `key` of a run, or the only one that has adapters with their weights still there."""
    there = {name: read_stage(store, name) for name in store.keys()
             if store.record(name)["kind"] != "evaluate" and store.ready(name)}
    there = {name: stage for name, stage in there.items() if stage.method != "full"}
    if key in there or key is None and len(there) == 1:
        key = key or next(iter(there))
        return store, there[key]
    told = "; ".join(f"{name} ({stage.label})" for name, stage in there.items()) or "none; --method lora makes some"
    if key is None:
        raise UsageError(f"{source} has {len(there)} stacks of adapters; choose one with --stage KEY: {told}")
    raise UsageError(f"{source} has no stage {key} with adapters in it (target models are removed after scoring, but "
                     f"for --keep); it has {told}")


def _write(store: Store | None, stage: Train | Given, out: Path, licence: str, base_id: str | None, scale: str,
           say: Callable[[str], None]) -> Bundle:
    """Write the bundle and its card into the folder `out`."""
    line = adapters(stage)
    files = [stage_files(store, one) for one in line]
    folders = [folder for folder, _ in files]
    heads = {task: (head, depth) for depth, (_, own) in enumerate(files, start=1) for task, head in own.items()}
    identity = read_identity(folders[0])["base"]
    base = base_of_stage(store, stage.key) if store and scale == "auto" else base_of_adapter(folders[0], scale)
    name = _name(base, identity["id"], base_id, say)
    if licence == "unknown":
        say("the licence is told as unknown, so nobody knows what they may do with it; say --licence, such as mit")
    told = [part | {"adapter": f"{depth}-{read_identity(folder)['task']}"}
            for depth, (folder, parts) in enumerate(zip(folders, lineage_told(stage)), start=1) for part in parts
            if part["settings"]]            # none: an adapter that was given, of whose training nothing is known
    shape = {field: getattr(base.config, field) for field in SHAPE}
    bundle = write_bundle(out, identity | {"shape": shape}, folders, heads, recipe=_bare(told), data=_data(stage),
                          versions=dict(stage.spec.get("versions", {})), licence=licence,
                          scores=_scores(store, stage, {identity["id"], base.id}, name), base_id=name)
    write_card(bundle)
    return bundle


def _name(base: Base, known: str, base_id: str | None, say: Callable[[str], None]) -> str:
    """How the bundle calls its base: `base_id`, or the id by which it is `known`, of a folder its last name."""
    if base_id is not None:
        return base_id
    if known == MINIATURE or base.from_hub and base.id == known:
        return known
    name = Path(known).resolve().name
    say(f"the base is told as {name!r}, the name of its folder here; where the hub has the very same weights, say "
        "--base USER/NAME, so that others find them by themselves")
    return name


def _data(stage: Train | Given | None) -> list[dict[str, Any]]:
    """The identities of every split that was trained on, lowest stage first, each once."""
    if stage is None:
        return []
    spec = stage.spec
    splits = [split for parts in spec.get("data", {}).get("train", {}).values() for split in parts]
    splits += spec.get("mlm", {}).get("data", {}).values()
    found = _data(stage.parent)
    for split in _bare(splits):
        if split not in found:
            found.append(split)
    return found


def _bare(value: Any) -> Any:
    """The value with absolute paths in it cut to their last part."""
    if isinstance(value, str):
        return Path(value).name if value.startswith(("/", "~")) else value
    if isinstance(value, Mapping):
        return {name: _bare(part) for name, part in value.items()}
    return [_bare(part) for part in value] if isinstance(value, list | tuple) else value


def _scores(store: Store | None, stage: Train | Given, known: set[str], name: str) -> list[dict[str, Any]]:
    """The rows of the run's table that stand on this stage, and the baselines they pair with; [] where there are none.

    The base is called `name` in them, as everywhere in the bundle, instead of by the names that it has here, `known`.
    """
    if store is None or not any((store.root / f"results.{kind}").is_file() for kind in ("csv", "parquet")):
        return []
    frame, stages = results.read(store.root), results.STAGES.read(store.root)
    parents = dict(zip(stages["stage_key"], stages["parent_key"]))
    own = frame[[_stands_on(key, stage.key, parents) for key in frame["stage_key"]]]
    baselines = frame[frame["intermediate"] == "none"].merge(own[results.PAIR].drop_duplicates(), on=results.PAIR)
    rows = pd.concat([own, baselines[frame.columns]]).drop_duplicates()
    rows = rows.replace({column: dict.fromkeys(known, name) for column in ("base_model", "scale")})
    return [{column: _bare(value.item() if hasattr(value, "item") else value) for column, value in row.items()}
            for row in rows.to_dict("records")]


def _stands_on(key: str, wanted: str, parents: Mapping[str, str]) -> bool:
    """Whether the stage `key` is, or has below it, the stage `wanted`."""
    while key and key != wanted:
        key = parents.get(key, "")
    return key == wanted
