"""Lines, tables and JSON of release files, read strictly: every mistake names its file and line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from peft_stilts.errors import DataError
from peft_stilts.registry import unknown

Row = dict[str, Any]


def place(path: Path, line: int) -> str:
    """How messages name a line, counted from 1."""
    return f"{path}, line {line}"


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, split at newlines only (a sentence may hold U+2028 or U+0085).

    A byte-order mark and carriage returns before a newline are no part of a line. Raises DataError when the file
    cannot be read, is not UTF-8 or holds nothing but white space.
    """
    empty = True
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            for line in file:
                empty = empty and not line.strip()
                yield line.removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}.") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}.") from error
    if empty:
        raise DataError(f"{path} is empty.")


def tsv_rows(path: Path, needed: Sequence[str], malformed: list[int] | None = None) -> Iterator[tuple[int, Row]]:
    """(line, {column: field}) of a tab-separated file whose first line names its columns; quotes are characters.

    Every row must have a field for every column; only columns label1, label2, ... at the end may be missing, as in
    MultiNLI. The numbers of other lines go to `malformed` where it is given. Raises DataError.
    """
    lines = lines_of(path)
    names = next(lines, "").split("\t")
    _need(needed, names, f"{path}: its first line")
    least = len(names) - len(re.search(r"( label\d+)*$", " ".join(["", *names]))[0].split())
    for line, text in enumerate(lines, 2):
        fields = text.split("\t")
        if least <= len(fields) <= len(names):
            yield line, dict(zip(names, fields))
        elif malformed is None:
            raise DataError(f"{place(path, line)} has {len(fields)} tab-separated fields, not {len(names)} "
                            f"({', '.join(names)}).")
        else:
            malformed.append(line)


def csv_rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """(last line, {column: field}) of a comma-separated file with quotes and named columns; raises DataError."""
    reader = csv.reader((f"{line}\n" for line in lines_of(path)), strict=True)
    try:
        names = next(reader, [])
        _need(needed, names, f"{path}: its first line")
        for fields in reader:
            if len(fields) != len(names):
                raise DataError(f"{place(path, reader.line_num)} ends a row of {len(fields)} fields, not {len(names)} "
                                f"({', '.join(names)}).")
            yield reader.line_num, dict(zip(names, fields))
    except csv.Error as error:
        raise DataError(f"{place(path, reader.line_num)}: {error}.") from error


def jsonl_rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """(line, object) of a file with one JSON object a line that has the keys `needed`; raises DataError."""
    for line, text in enumerate(lines_of(path), 1):
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place(path, line)} is no complete JSON: {error}.") from error
        if not isinstance(row, dict):
            raise DataError(f"{place(path, line)} is no JSON object but {type(row).__name__}.")
        _need(needed, row, place(path, line))
        yield line, row


def _need(needed: Iterable[str], names: Collection[str], where: str) -> None:
    missing = [name for name in needed if name not in names]
    if missing:
        raise DataError(f"{where} lacks {', '.join(missing)}; it has {', '.join(map(str, names))[:200]}.")


def text(row: Row, key: str, where: str) -> str:
    """The text under `key`; DataError for a value of another kind."""
    if not isinstance(row.get(key), str):
        raise DataError(f"{where}: {key} must be text, not {row.get(key)!r}.")
    return row[key]


def filled(row: Row, key: str, where: str) -> str:
    """The text under `key`, which must not be blank; raises DataError."""
    if not text(row, key, where).strip():
        raise DataError(f"{where}: {key} is blank.")
    return row[key]


def label(value: Any, words: Sequence[Any], where: str) -> int:
    """The place of `value` among `words`; DataError naming the value and the choices for any other, whatever its
    case."""
    if value not in words:
        raise DataError(f"{where}: {unknown('label', value, map(str, words))}")
    return words.index(value)


class Unique:
    """Refuses an id that occurs a second time: `seen.add(key, where)` raises DataError."""

    def __init__(self) -> None:
        self._first: dict[Any, str] = {}

    def add(self, key: Any, where: str) -> None:
        if key in self._first:
            raise DataError(f"{where}: id {key!r} is already that of {self._first[key]}.")
        self._first[key] = where
