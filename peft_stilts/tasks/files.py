"""Rows of a split that names its own files, and what every provider does with rows before it gives them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from peft_stilts.errors import DataError
from peft_stilts.tasks.base import Split

if TYPE_CHECKING:
    from datasets import Dataset


def read_files(split: Split, limit: int | None) -> Dataset:
    """The rows of a split's own `files`, all of one kind, in their order; raises DataError."""
    from datasets import Dataset

    where = ", ".join(split.files)
    missing = [name for name in split.files if not Path(name).is_file()]
    if missing:
        raise DataError(f"there is no file {', '.join(missing)}.")
    if split.read is not None:
        return narrow(split.read(split.files), split, limit, where)
    kind = {Path(name).suffix for name in split.files}
    readers = {".jsonl": Dataset.from_json, ".json": Dataset.from_json, ".csv": Dataset.from_csv,
               ".tsv": lambda files, **options: Dataset.from_csv(files, sep="\t", quoting=3, **options),
               ".parquet": Dataset.from_parquet}
    if len(kind) != 1 or not kind <= readers.keys():
        raise DataError(f"{where}: files must all end in one of {', '.join(readers)}.")
    with tempfile.TemporaryDirectory() as cache, _quiet():      # datasets would keep a copy of every file it reads
        try:
            rows = readers[kind.pop()](list(split.files), cache_dir=cache, keep_in_memory=True)
        except Exception as error:      # datasets' own, pandas', pyarrow's and builtin errors
            raise DataError(f"cannot read {where}: {first_line(error.__cause__ or error)}.") from error
        return narrow(rows, split, limit, where)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without datasets' progress bars, which small files flash on the screen."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def narrow(dataset: Dataset, split: Split, limit: int | None, where: str) -> Dataset:
    """The rows that `split.rows` keeps, then the first `limit`; every provider ends its `load` with this.

    Raises DataError when the filter's columns are missing or of another type, or when no row is left.
    """
    if split.rows is not None:
        try:
            dataset = split.rows.apply(dataset)
        except (KeyError, ValueError, AttributeError, TypeError) as error:
            names = ", ".join(dataset.column_names)
            raise DataError(
                f"{where}: cannot choose rows {split.rows.name!r} from columns {names}: {error}."
            ) from error
    if len(dataset) == 0:
        raise DataError(f"{where} has no rows{f' left by {split.rows.name!r}' if split.rows else ''}.")
    counts = [count for count in (split.first, limit) if count is not None]
    return dataset.select(range(min([*counts, len(dataset)])))


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
