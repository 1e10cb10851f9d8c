"""What a `--runs` folder has seen: the commit behind each name on the hub and a digest of the rows, kept and reused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow

from peft_stilts.digest import canonical_json
from peft_stilts.errors import DataError, StoreError
from peft_stilts.store import Store, write_atomic

if TYPE_CHECKING:
    from datasets import Dataset

FILE = "sources.json"


def commits(runs: Path) -> dict[str, str]:
    """`repository@revision` -> full commit, as first resolved for this folder; empty before the first run.

    A folder's experiments go on with the data and models they began with, whatever happens to `main` on the hub.
    """
    return _read(runs)["commits"]


def record(runs: Path, found: Mapping[str, str], read: Iterable[tuple[dict[str, Any], Dataset]]) -> None:
    """Keep the commits `found`, and a digest of each (identity, rows) that was read.

    Raises DataError when rows that were seen before under the same identity have changed.
    """
    store = Store(runs)
    seen = {canonical_json(identity): rows_digest(rows) for identity, rows in read}
    with store.claim("sources"):
        told = _read(store.root)
        for name, digest in seen.items():
            if told["rows"].get(name, digest) != digest:
                raise DataError(f"rows seen before have changed: {name} had the digest {told['rows'][name]}, now "
                                f"{digest}. Give another --runs folder, or remove {store.root / FILE} to accept them")
        merged = {"commits": {**found, **told["commits"]}, "rows": told["rows"] | seen}
        if merged != told:
            write_atomic(store.root / FILE, json.dumps(merged, indent=1, sort_keys=True))


def rows_digest(rows: Dataset) -> str:
    """SHA-256 over the values of the rows, column by column in Arrow's stream format."""
    table = rows.with_format("arrow")[:].combine_chunks().replace_schema_metadata(None)
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return hashlib.sha256(sink.getvalue()).hexdigest()


def _read(runs: Path) -> dict[str, dict[str, str]]:
    path = Path(runs) / FILE
    if not path.is_file():
        return {"commits": {}, "rows": {}}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return {"commits": dict(told["commits"]), "rows": dict(told["rows"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read ({error!r}); remove it to have revisions resolved anew") from error
