"""Make a bundle of what a run trained: its adapters, their heads, how they were trained, and their scores."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from peft_stilts import results
from peft_stilts.errors import UsageError
from peft_stilts.grid.base import find_base
from peft_stilts.grid.given import base_of_adapter, lineage_told, open_adapters, read_stage
from peft_stilts.grid.stages import ADAPTER, HEADS, Given, Train, adapters
from peft_stilts.model.adapter_io import read_identity
from peft_stilts.model.bundle import Bundle, read_bundle, write_bundle
from peft_stilts.share.archive import pack
from peft_stilts.share.card import write_card
from peft_stilts.spec import typed_path
from peft_stilts.store import RECORD, Store

SHAPE = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
         "max_position_embeddings", "type_vocab_size", "pad_token_id")
"""Fields of a base's configuration that stand in a bundle."""


def export(source: str, out: Path, *, stage: str | None = None, licence: str = "unknown", base_id: str | None = None,
           say: Callable[[str], None] = print) -> Bundle:
    """Write the stack of a training stage as a bundle with its card: the new folder `out`, or a zip if it ends so.

    `source`: a runs folder (with the key of a `stage` where it has several), a stages/KEY folder, or an adapter folder.
    `base_id`: the hub id of the base, where the run had it from a folder (whose path is not told). Raises UsageError
    with the stages there are where it is not clear which is meant, and for a fully trained encoder.
    """
    found = _find(source, stage)
    if out.suffix == ".zip":
        if out.exists():
            raise UsageError(f"{out} is there already; name a new file, or remove it")
        with tempfile.TemporaryDirectory() as scratch:
            _write(found, Path(scratch) / out.stem, licence, base_id, say)
            pack(Path(scratch) / out.stem, out)
            bundle = read_bundle(Path(scratch) / out.stem)
        say(f"wrote {out}")
        return bundle
    return _write(found, out, licence, base_id, say)


def _find(source: str, key: str | None) -> tuple[Store | None, Train | Given]:
    """The stage that is meant, and the store it lies in (None: an adapter folder)."""
    path = typed_path(source, "SOURCE")
    if (path / "stages").is_dir():
        store = Store(path)
        there = {name: read_stage(store, name) for name in store.keys()
                 if store.record(name)["kind"] != "evaluate" and store.ready(name)}
        there = {name: stage for name, stage in there.items() if stage.method != "full"}
        if key is None and len(there) != 1 or key is not None and key not in there:
            told = "; ".join(f"{name}: {stage.model}" for name, stage in there.items()) or "none: --method lora makes some"
            raise UsageError(f"{source} has {len(there)} stacks of adapters; name one with --stage KEY ({told})")
        key = key or next(iter(there))
        return store, there[key]
    if (path / RECORD).is_file():
        folder = path.resolve()
        store = Store(folder.parent.parent)
        stage = read_stage(store, folder.name)
        if stage.method == "full":
            raise UsageError(f"{source} is a fully trained encoder, not a stack of adapters: transformers shares it as "
                             "it is, from its folder encoder/")
        return store, stage
    chain = open_adapters(source)
    if chain is None:
        raise UsageError(f"{source} holds no adapters: give a --runs folder, a stages/KEY folder or an adapter folder")
    return None, chain[-1]


def _write(found: tuple[Store | None, Train | Given], out: Path, licence: str, base_id: str | None,
           say: Callable[[str], None]) -> Bundle:
    store, stage = found
    line = adapters(stage)
    folders = [_folder(store, one, ADAPTER) for one in line]
    heads = {task.name: (_folder(store, one, f"{HEADS}/{task.name}"), depth)
             for depth, one in enumerate(line, start=1) for task in one.tasks}
    identity = read_identity(folders[0])["base"]
    base = find_base(store.record(stage.key)["base"]["scale"]) if store else base_of_adapter(folders[0], "auto")
    name = base_id or identity["id"]
    if Path(name).is_absolute() or Path(name).exists():
        name = Path(name).name
        say(f"note: the base is told as {name!r}; give --base ID where the hub has it")
    told = []
    for folder, parts, depth in zip(folders, lineage_told(stage), range(1, len(folders) + 1)):
        told += [part | {"adapter": f"{depth}-{read_identity(folder)['task']}"} for part in parts]
    shape = {field: getattr(base.config, field) for field in SHAPE}
    bundle = write_bundle(out, identity | {"shape": shape}, folders, heads, recipe=told, data=_data(stage),
                          versions=dict(stage.spec.get("versions", {})), licence=licence,
                          scores=_scores(store, stage, identity["id"], name), base_id=name)
    write_card(bundle)
    return bundle


def _folder(store: Store | None, stage: Train | Given, part: str) -> Path:
    if store is not None:
        return store.open(stage.key) / part
    return stage.folder if part == ADAPTER else stage.heads[part.partition("/")[2]]


def _data(stage: Train | Given | None) -> list[dict[str, Any]]:
    """The identities of every split that was trained on, each once, without paths of this machine."""
    found: list[dict[str, Any]] = []
    while stage is not None:
        for splits in stage.spec.get("data", {}).get("train", {}).values():
            for split in splits:
                clean = {name: _bare(value) for name, value in split.items()}
                if clean not in found:
                    found.append(clean)
        stage = stage.parent
    return found


def _bare(value: Any) -> Any:
    """The value with absolute paths cut to their last part."""
    if isinstance(value, str):
        return Path(value).name if value.startswith(("/", "~")) else value
    if isinstance(value, Mapping):
        return {name: _bare(part) for name, part in value.items()}
    return [_bare(part) for part in value] if isinstance(value, list | tuple) else value


def _scores(store: Store | None, stage: Train | Given, path: str, name: str) -> list[dict[str, Any]]:
    """The rows of the run's table that stand on this stage, and the baselines they pair with; [] where there are none.

    The base is called `name` in them, as everywhere in the bundle, in place of its `path`.
    """
    if store is None or not any((store.root / f"results.{kind}").is_file() for kind in ("csv", "parquet")):
        return []
    frame, parents = results.read(store.root), dict(_parents(store))
    own = frame[[_stands_on(key, stage.key, parents) for key in frame["stage_key"]]]
    pairs = frame[frame["intermediate"] == "none"].merge(own[results.PAIR].drop_duplicates(), on=results.PAIR)
    rows = pd.concat([own, pairs[frame.columns]]).drop_duplicates().replace({"base_model": {path: name},
                                                                             "scale": {path: name}})
    return [{column: value.item() if hasattr(value, "item") else value for column, value in row.items()}
            for row in rows.to_dict("records")]


def _parents(store: Store) -> Iterator[tuple[str, str]]:
    stages = results.STAGES.read(store.root)
    yield from zip(stages["stage_key"], stages["parent_key"])


def _stands_on(key: str, wanted: str, parents: Mapping[str, str]) -> bool:
    while key:
        if key == wanted:
            return True
        key = parents.get(key, "")
    return False
