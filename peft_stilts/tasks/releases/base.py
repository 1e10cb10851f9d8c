"""What a reader of release files is, and what all of them share: finding files, and pieces of checked rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from peft_stilts.errors import DataError
from peft_stilts.registry import Registry

XTREME = "google/xtreme"

Piece = tuple[str, str, str, pa.Table]
"""Repository, configuration, split, rows."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Reader:
    """How the release of one task is read.

    `read(source, say)` yields checked pieces from a folder of release files, in the hub's columns, types and label
    order, and says what it leaves out; it raises DataError naming file and line. `expected`: the files, in words.
    """

    read: Callable[[Path, Say], Iterator[Piece]]
    expected: str


READERS: Registry[Reader] = Registry("task with a mirror")
"""Every reader by the name of its task (`text`: plain text for masked-language modelling)."""


def find(source: Path, *names: str) -> Path | None:
    """The first of `names` (paths below `source`) that is a file; None when there is none."""
    return next((source / name for name in names if (source / name).is_file()), None)


def present(splits: Mapping[str, Path | None], say: Say) -> Iterator[tuple[str, Path]]:
    """(split, file) of the splits that have a file; of the others it is said that they are missing, unless all are."""
    if any(splits.values()):
        for split, path in splits.items():
            if path is None:
                say(f"no file of split {split!r} is there, so it is not mirrored")
            else:
                yield split, path


def to_table(rows: Sequence[Sequence[Any]], schema: pa.Schema, path: Path) -> pa.Table:
    """Rows as a table of `schema`, one value a column; raises DataError naming `path` when there are no rows."""
    if not rows:
        raise DataError(f"{path} has no rows.")
    columns = [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), schema.types, strict=True)]
    return pa.table(columns, schema=schema)
