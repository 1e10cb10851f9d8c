"""What `--stack` and `evaluate` name: recipes to train, and adapters from a folder, a run or the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft_stilts.digest import COMMIT, key_of
from peft_stilts.errors import Problems, StoreError, UsageError
from peft_stilts.grid.base import Base, find_base, weights_sha256
from peft_stilts.grid.hub import fetch_bundle, is_hub_id, split_id
from peft_stilts.grid.stages import ADAPTER, HEADS, Given, Train, adapters, lineage
from peft_stilts.model.adapter_io import ADAPTER_CONFIG, read_adapter, read_head_config, read_identity
from peft_stilts.model.bundle import MANIFEST, Bundle, read_bundle
from peft_stilts.paths import typed_path
from peft_stilts.recipe import Recipe, read_recipe, recipe_names
from peft_stilts.spec import SETTINGS, LoraSettings, Request, TrainingSettings, build
from peft_stilts.store import RECORD, Store
from peft_stilts.tasks import TASKS

KEY = re.compile(r"[0-9a-f]{16}")
"""How the key of a stage looks."""


def resolve_stack(entries: Sequence[str], request: Request, base: Base) -> list[Recipe | Train | Given]:
    """What the entries of a stack name, lowest first: a recipe (to be trained), or the top of what is there.

    An entry is the name or file of a recipe, the key of a stage of this run, a stages/KEY folder, an adapter folder, a
    bundle folder, or `user/name` or `user/name@revision` of a bundle on the hub. Raises UsageError with every mistake:
    an unknown name, an adapter of another base, one that was trained on another stack than that which is below it.
    """
    stack: list[Recipe | Train | Given] = []
    with Problems() as found:
        for entry in entries:
            with found.collect():
                stack.append(_resolve(entry, request, base, stack))
    return stack


def _resolve(entry: str, request: Request, base: Base, below: Sequence[Recipe | Train | Given]) \
        -> Recipe | Train | Given:
    if entry in recipe_names() or entry.endswith((".yaml", ".yml")):
        recipe = read_recipe(entry, request.protocol)
        if recipe.intermediate == "none":
            raise UsageError(f"the stack's {entry!r} has no intermediate task to train; leave it out")
        return recipe
    if KEY.fullmatch(entry) and Store(request.runs).finished(entry):
        top: Train | Given = read_stage(Store(request.runs), entry)
        _refuse_below(entry, [], below)
        return top
    chain = open_adapters(entry, below[-1] if below and isinstance(below[-1], Given) else None)
    if chain is None:
        raise UsageError(f"the stack's {entry!r} is nothing to start from. It may be a recipe "
                         f"({', '.join(recipe_names())}, or a file ending in .yaml), the key of a stage in --runs, the "
                         "folder of a stage, an adapter or a bundle, or the id of a bundle on the hub (user/name); a "
                         "zip is unpacked first: `python -m peft_stilts share pull FILE.zip --out DIR`")
    _refuse_below(entry, [parent["sha256"] for parent in read_identity(chain[0].folder)["parents"]], below)
    check_base(chain[0].folder, base)
    return chain[-1]


def _refuse_below(entry: str, parents: Sequence[str], below: Sequence[Recipe | Train | Given]) -> None:
    """UsageError unless what is `below` an entry is what it was trained on: the adapters of SHA-256 `parents`."""
    names = [stage.name if not isinstance(stage, Recipe) else stage.intermediate for stage in below]
    there = [stage.spec.get("adapter") for stage in adapters(below[-1])] if below and not isinstance(
        below[-1], Recipe) else [None] * len(below)
    if there != list(parents):
        bare = "the bare encoder"
        on = ", ".join(f"sha256 {parent[:12]}…" for parent in parents) or bare
        raise UsageError(f"{entry} was trained on {on}; in this stack it would stand on {', '.join(names) or bare}. An "
                         "adapter works only on the stack it was trained on: put it where it belongs")


def open_adapters(source: str, below: Given | None = None) -> list[Given] | None:
    """The adapters at `source`, lowest first, over those that end with `below`; None where it is no place of adapters.

    Raises UsageError for a stage or a run that holds no adapters, and CheckpointError for damaged ones.
    """
    path = typed_path(source, "SOURCE")
    if (path / RECORD).is_file():
        return _from_stage(path)
    if (path / MANIFEST).is_file():
        return from_bundle(read_bundle(path))
    if (path / ADAPTER_CONFIG).is_file():
        return [_given(path, {}, below)]
    if not path.exists() and is_hub_id(source):
        return from_bundle(fetch_bundle(*split_id(source)))
    return None


def from_bundle(bundle: Bundle) -> list[Given]:
    """The adapters of a bundle, lowest first, each with its heads and what the bundle tells of its training."""
    chain: list[Given] = []
    for adapter, folder in zip(bundle.adapters, bundle.adapter_folders):
        heads = {task: bundle.head_folder(task) for task, head in bundle.heads.items() if head.adapter == adapter.name}
        told = [stage for stage in bundle.recipe if stage.get("adapter") == adapter.name]
        chain.append(_given(folder, heads, chain[-1] if chain else None, told))
    return chain


def open_stack(source: str) -> list[Given] | None:
    """`open_adapters` of a whole stack; UsageError for an adapter that stands on others, which are not there."""
    chain = open_adapters(source)
    if chain and (parents := read_identity(chain[0].folder)["parents"]):
        raise UsageError(f"{source} stands on {len(parents)} other adapters; give its stages/KEY folder, or a bundle, "
                         "which have them")
    return chain


def _from_stage(folder: Path) -> list[Given]:
    """The adapters of a finished stage of another run, lowest first."""
    store, key = Store.locate(folder)
    stage = read_stage(store, key)
    if stage.method == "full":
        raise UsageError(f"{folder} is a fully trained encoder, not an adapter; give its folder encoder/ as --scale to "
                         "start from it")
    chain: list[Given] = []
    for one, told in zip(adapters(stage), lineage_told(stage)):
        chain.append(_given(*stage_files(store, one), chain[-1] if chain else None, told))
    return chain


def stage_files(store: Store | None, stage: Train | Given) -> tuple[Path, dict[str, Path]]:
    """The folder of a stage's adapter and those of its heads by task, every file checked: in the store, or where a
    given one that is not in it came from."""
    if stage.kind == "given" and (store is None or not store.finished(stage.key)):
        return stage.folder, {task.name: stage.heads[task.name] for task in stage.tasks}
    place = store.open(stage.key)
    return place / ADAPTER, {task.name: place / HEADS / task.name for task in stage.tasks}


def told_of(stage: Train | Given) -> dict[str, Any]:
    """What a bundle tells of the training of a stage (stack.json, `recipe`)."""
    return {"name": stage.name, "tasks": list(stage.spec["tasks"]), "method": stage.method, "policy": stage.policy,
            "role": stage.role, "seed": stage.seed, "limit_train": stage.limit, "precision": stage.spec["precision"],
            "settings": stage.spec["settings"], "lora": stage.lora and stage.lora.told(),
            "variant": stage.spec.get("variant", "")}


def lineage_told(stage: Train | Given) -> list[list[dict[str, Any]]]:
    """`told_of` every stage of a stack, for each of its adapters."""
    return [[told_of(part) for part in trained] for trained in lineage(stage)]


def _given(folder: Path, heads: Mapping[str, Path], parent: Given | None,
           told: Sequence[Mapping[str, Any]] = ()) -> Given:
    """The adapter in `folder` on top of `parent`; `told`: of each of its trainings, as far as it is known."""
    adapter = read_adapter(folder, read_identity(folder)["base"])
    last = dict(told[-1]) if told else {}
    values = {name: value for name, value in (last.get("settings") or {}).items() if name in SETTINGS}
    settings = build(TrainingSettings, values, f"{folder}: settings")
    known = sorted(task for task in heads if task in TASKS)     # another's own tasks need their file (--tasks)
    name = ">".join(stage["name"] for stage in told) or adapter.task
    spec = {"kind": "given", "name": name, "tasks": known, "method": adapter.method, "settings": values,
            "lora": adapter.shape.told(), "seed": last.get("seed", 0), "limit_train": last.get("limit_train"),
            "parent": parent and parent.key, "role": last.get("role", "intermediate"), "policy": adapter.policy,
            "precision": last.get("precision") or "fp32", "adapter": adapter.sha256, "base": adapter.base["sha256"],
            "heads": {task: read_head_config(place)["sha256"] for task, place in heads.items()},
            "variant": "; ".join([*(filter(None, (stage.get("variant") for stage in told))),
                                  f"adapter {adapter.sha256[:12]}"])}
    return Given(name, tuple(TASKS[task] for task in known), adapter.method, settings, adapter.shape,
                 spec["seed"], spec["limit_train"], parent, spec["role"], spec, Path(folder), heads, adapter.policy)


def check_base(folder: Path, base: Base) -> None:
    """UsageError, both named, unless the adapter in `folder` was trained on the weights of `base`."""
    told = read_identity(folder)["base"]
    if base.from_hub and (told.get("id"), told.get("revision")) == (base.id, base.revision):
        return
    found = weights_sha256(base)
    if told.get("sha256") != found:
        raise UsageError(f"{folder} was trained on {told.get('id')} at {told.get('revision')} (sha256 "
                         f"{str(told.get('sha256'))[:12]}…); the encoder here is {base.id} at {base.revision[:12]} "
                         f"(sha256 {found[:12]}…). An adapter works only on the weights it was trained on; name its "
                         "base with --scale, in Python with base=")


def base_of_adapter(folder: Path, scale: str) -> Base:
    """The base encoder of the adapter in `folder`: the one it names, or that of `--scale` where that is not `auto`.

    Raises UsageError where it cannot be found, or has other weights.
    """
    told = read_identity(folder)["base"]
    try:
        # The revision of a base that was a folder is the SHA-256 of its weights.
        commit = told.get("revision") if COMMIT.fullmatch(str(told.get("revision"))) else None
        base = find_base(scale) if scale != "auto" else find_base(str(told.get("id")), revision=commit)
    except UsageError as error:
        raise UsageError(f"{folder} was trained on {told.get('id')} (sha256 {str(told.get('sha256'))[:12]}…): {error}. "
                         "Where you have it elsewhere, name its folder with --scale, in Python with base=") from error
    check_base(folder, base)
    return base


def base_of_stage(store: Store, key: str) -> Base:
    """The base encoder of a finished stage, where the run had it from; UsageError where that is another one now."""
    told = store.record(key)["base"]
    base = find_base(told["scale"], revision=told["revision"])     # a hub model's main may have moved on
    if base.revision != told["revision"]:
        raise UsageError(f"{store.folder(key)} was trained on {told['id']} at {told['revision']}; "
                         f"{base.id} is now at {base.revision}")
    return base


def read_stage(store: Store, key: str) -> Train | Given:
    """A finished training stage, or an adapter that was given to the run, and those below, as their records tell."""
    record = store.record(key)
    if record["kind"] not in ("train", "given"):
        raise UsageError(f"{store.folder(key)} is an evaluation; name a training stage or an encoder folder")
    spec = record["spec"]
    if key_of(spec) != key or "role" not in record or not isinstance(record.get("base"), dict):
        raise StoreError(f"{store.folder(key) / RECORD} was changed: it is not the record of stage {key}; remove "
                         f"{store.folder(key)} to have the stage made again")
    settings = build(TrainingSettings, spec["settings"], f"{store.folder(key)}: settings")
    lora = build(LoraSettings, spec["lora"], f"{store.folder(key)}: lora") if spec["lora"] else None
    parent = read_stage(store, spec["parent"]) if spec["parent"] else None
    tasks = tuple(TASKS[name] for name in spec["tasks"])
    for task in tasks:
        if task.origin != spec.get("origins", {}).get(task.name, ""):
            raise UsageError(f"{store.folder(key)} was trained on another {task.name}: the file of --tasks has changed "
                             "since, and its labels may mean something else; give the file as it was")
    policy = spec.get("policy", "stack")
    common = (spec["name"], tasks, spec["method"], settings, lora, spec["seed"], spec["limit_train"], parent,
              record["role"], spec)
    if record["kind"] == "train":
        return Train(*common, {}, policy=policy)
    place = store.folder(key)
    return Given(*common, place / ADAPTER, {task.name: place / HEADS / task.name for task in tasks}, policy)
