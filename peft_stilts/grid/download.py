"""Fetch the splits that a run needs from the hub into a --data_root folder, for machines without a network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from peft_stilts.errors import DataError, Problems
from peft_stilts.grid.builder import mixture
from peft_stilts.languages import LANGUAGES
from peft_stilts.recipe import read_recipe
from peft_stilts.spec import Request, choices
from peft_stilts.tasks import TASKS, Split
from peft_stilts.tasks.controls import text_split
from peft_stilts.tasks.mirror import known_configs, write_pieces
from peft_stilts.tasks.releases.base import Say
from peft_stilts.tasks.sources import OFF_HUB, Hub, LocalMirror, Provider, dev_split, scored_split


def download(
    splits: Iterable[Split], data_root: Path | str, say: Say = print, hub: Provider | None = None
) -> list[Path]:
    """Writes each of `splits` whole (without its row filter) below `data_root`, laid out as tools/mirror.py does.

    Splits that are there already are left alone, and so are those that are read from the user's own files. Each is
    written with its repository's README.md before the next one is fetched, so a download that was interrupted goes on
    where it stopped when it is asked for again. A split that cannot be had does not stop the others. `hub`: the
    provider to fetch from, the Hugging Face hub if None.

    Returns the parquet files written. Raises DataError in the end when splits are missing, with the reason and the next
    step of each; at once when `data_root` cannot be written or a README.md in it cannot be read.
    """
    root, hub = Path(data_root), hub or Hub()
    wanted = _distinct(splits)
    for repo in dict.fromkeys(split.repo for split in wanted):
        known_configs(root / repo)
    written: list[Path] = []
    missing: dict[str, list[str]] = {}      # why -> splits
    refused: dict[str, str] = {}            # repository and revision -> why: asked once, not for each of its splits
    for split in wanted:
        if split.files:
            say(f"{split}: read from {', '.join(split.files)}, nothing to fetch")
        elif _is_present(root, split):
            say(f"{split}: already in {root}")
        else:
            try:
                table = _fetch(split, say, hub, refused)
            except DataError as error:
                missing.setdefault(str(error), []).append(str(split))
            else:
                written += write_pieces([(split.repo, split.config or "default", split.split, table)], root, say)
    if missing:
        count = sum(map(len, missing.values()))
        lines = [f"  {', '.join(names)}: {reason}" for reason, names in missing.items()]
        raise DataError("\n".join([f"{len(written)} splits were fetched, {count} are still missing in {root} (the same "
                                   "command fetches those that the hub has):", *lines]))
    return written


def recipe_splits(request: Request, texts: tuple[str, ...] = ()) -> list[Split]:
    """Every split that the recipes of a request read: of their tasks, of the targets' training tasks, of the scored
    languages, and text for masked words in the languages `texts`. Raises UsageError with every mistake."""
    found: list[Split] = []
    with Problems() as problems:
        hub = Hub()
        for name in request.recipes:
            with problems.collect():
                recipe = read_recipe(name, request.protocol)
                targets = choices(request.targets or recipe.targets, [name for name, task in TASKS.items()
                                                                      if task.is_target], "target task", problems)
                for task in [TASKS[name] for name in (*mixture(recipe), *(TASKS[name].trained_on for name in targets))
                             if name]:
                    found += [*task.train, *task.select]
                for task in map(TASKS.get, targets):
                    codes = [code for code in task.languages if code in (request.languages or task.languages)]
                    for code in codes:
                        found += filter(None, (scored_split(hub, task, code), dev_split(hub, task, code)))
        choices(request.languages or (), LANGUAGES, "language", problems)
        found += [text_split(code, None) for code in choices(texts, LANGUAGES, "language", problems)]
    return found


def _distinct(splits: Iterable[Split]) -> list[Split]:
    """Each split once, without its filter; the longest beginning where only beginnings are asked for."""
    found: dict[tuple, Split] = {}
    for split in splits:
        key = (split.repo, split.config, split.split, split.files)
        before = found.get(key, split)
        first = None if None in (split.first, before.first) else max(split.first, before.first)
        found[key] = replace(split, rows=None, first=first)
    return list(found.values())


def _is_present(root: Path, split: Split) -> bool:
    try:
        return bool(LocalMirror(root).files(split))
    except DataError:
        return False


def _fetch(split: Split, say: Say, hub: Provider, refused: dict[str, str]) -> pa.Table:
    """All rows of a split in the columns of its release; raises DataError."""
    if split.repo in OFF_HUB:
        raise DataError(f"{OFF_HUB[split.repo]}.")
    asked = f"{split.repo}@{split.revision}"
    if asked in refused:
        raise DataError(refused[asked])
    try:
        revision = hub.identify(split)["revision"]
    except DataError as error:
        refused[asked] = str(error)
        raise
    say(f"{split}: fetching at {revision[:12]}")
    rows = hub.load(split)
    if split.columns is not None:
        split.columns(rows, str(split))     # refuses another order of labels while the hub's own names are still there
    return rows.with_format("arrow")[:].replace_schema_metadata(None)
