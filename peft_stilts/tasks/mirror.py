"""Builds a data folder laid out like the hub's repositories from original release files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from peft_stilts.errors import DataError
from peft_stilts.store import replace_file
from peft_stilts.tasks.releases import READERS
from peft_stilts.tasks.releases.base import Piece, Say
from peft_stilts.tasks.releases.spans import SPAN_SCHEMA, read_squad_json
from peft_stilts.tasks.sources import read_configs, read_front


def mirror(task: str, source: Path | str, data_root: Path | str, say: Say = print) -> list[Path]:
    """Converts the release files of `task` in `source` into `data_root`; the parquet files written.

    Everything is read and checked first, then written by `write_pieces`. Archives are not read: unpack them. Raises
    UsageError for a task without a reader and DataError naming the file at fault; then nothing was written.
    """
    reader, source = READERS[task], Path(source)
    if not source.is_dir():
        raise DataError(f"the source folder {source} does not exist.")
    pieces = list(reader.read(source, say))
    if not pieces:
        raise DataError(f"{source} holds no release file of {task}: {reader.expected}. Archives must be unpacked.")
    return write_pieces(pieces, data_root, say)


def write_pieces(pieces: Sequence[Piece], data_root: Path | str, say: Say = print) -> list[Path]:
    """Writes (repository, configuration, split, rows) into `data_root` as the hub lays them out; the parquet files.

    Each file is written under another name and moved into place, README.md last; its splits are added to those already
    there. Raises DataError for a README.md that cannot be read, before anything is written, and for a full disk.
    """
    root = Path(data_root)
    headers = {repo: _merged_header(root / repo, [piece for piece in pieces if piece[0] == repo])
               for repo in dict.fromkeys(piece[0] for piece in pieces)}
    written = []
    for repo, config, split, table in pieces:
        path = root / repo / _file_name(config, split)
        _write(path, lambda draft, table=table: pq.write_table(table, draft))
        say(f"{path}: {table.num_rows} rows")
        written.append(path)
    for repo, text in headers.items():
        _write(root / repo / "README.md", lambda draft, text=text: draft.write_bytes(text.encode()))
    return written


def known_configs(folder: Path) -> dict[str, dict[str, list[str]]]:
    """{configuration: {split: files}} that the README.md of a repository's folder names, {} without one; raises
    DataError."""
    readme = folder / "README.md"
    return read_configs(folder) if readme.is_file() and read_front(readme)[0].get("configs") else {}


def write_question_ids(xquad_english: Path | str, out: Path | str) -> None:
    """Writes the sorted question ids of xquad.en.json: how tasks/xquad_question_ids.txt was made."""
    ids = sorted(read_squad_json(Path(xquad_english), SPAN_SCHEMA)["id"].to_pylist())
    head = "# Question ids of XQuAD (deepmind/xquad, xquad.en.json; CC BY-SA 4.0); made by tasks/mirror.py."
    text = "\n".join([head, *ids, ""])
    _write(Path(out), lambda draft: draft.write_bytes(text.encode()))


def _file_name(config: str, split: str) -> str:
    return f"{config}/{split}-00000-of-00001.parquet"


def _merged_header(folder: Path, pieces: Sequence[Piece]) -> str:
    """README.md of `folder` with the splits of `pieces` added or replaced; everything else in it stays."""
    readme = folder / "README.md"
    front, body = read_front(readme) if readme.is_file() else ({}, _BODY)
    known = known_configs(folder)
    configs: dict[str, dict[str, Any]] = {entry["config_name"]: entry for entry in front.get("configs") or []}
    for config in dict.fromkeys(piece[1] for piece in pieces):
        files = known.get(config, {}) | {
            split: [_file_name(config, split)] for _, name, split, _ in pieces if name == config}
        data_files = [{"split": split, "path": paths[0] if len(paths) == 1 else paths}
                      for split, paths in files.items()]
        configs[config] = configs.get(config, {}) | {"config_name": config, "data_files": data_files}
    front["configs"] = [configs[name] for name in sorted(configs)]
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n{body}"


_BODY = "\nLaid out like the hub's repository: downloaded, or built by tools/mirror.py from original release files.\n"


def _write(path: Path, fill: Callable[[Path], Any]) -> None:
    """Let `fill` write the file `path`, whole or not at all; raises DataError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, fill)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}.") from error
