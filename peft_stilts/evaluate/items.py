"""Which items a model has right, on the targets whose items are the same in every language: kept beside its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from peft_stilts.errors import DataError
from peft_stilts.store import replace_file
from peft_stilts.tasks.base import Task

PARALLEL: dict[str, str] = {"xquad": "exact_match", "mlqa": "exact_match", "xnli": "accuracy", "pawsx": "accuracy"}
"""Target -> the metric that is 0 or 100 for a single item. Questions are the same under one id, pairs in one row."""
COLUMNS = ("language", "id", "right", "gold")


def judge(task: Task, code: str, predictions: Mapping[str, Any], golds: Mapping[str, Any]) -> pd.DataFrame:
    """A row an item of one language: COLUMNS; `right` (bool) as the target's own metric says of that item alone.

    `gold` is the right label, '' where an answer is text: text differs between languages, a label must not.
    """
    metric = PARALLEL[task.name]
    right = [task.score({key: predictions[key]}, {key: gold}, code)[metric] == 100.0 for key, gold in golds.items()]
    labels = [gold if isinstance(gold, str) else "" for gold in golds.values()]
    return pd.DataFrame({"language": code, "id": list(golds), "right": right, "gold": labels}, columns=list(COLUMNS))


def items_file(folder: Path, target: str) -> Path:
    """Where the items of a target lie in the artefact of an evaluation."""
    return Path(folder) / "items" / f"{target}.parquet"


def write_items(parts: Sequence[pd.DataFrame], folder: Path, target: str) -> None:
    """Write what `judge` gives of each language as one table."""
    path = items_file(folder, target)
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.concat(parts, ignore_index=True)
    replace_file(path, lambda draft: frame.to_parquet(draft, index=False))


def read_items(folder: Path, target: str) -> pd.DataFrame:
    """The table that `write_items` wrote; DataError where it is missing, unreadable or has an item twice."""
    path = items_file(folder, target)
    try:
        frame = pd.read_parquet(path)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: this evaluation was made before items were kept. Remove {folder} and give "
                        "the command of the run again; target models that were not kept are trained again") from None
    except (OSError, ValueError) as error:      # pyarrow's errors are ValueErrors
        raise DataError(f"{path} cannot be read as a table: {error}. Remove {folder} to have it made again") from error
    if tuple(frame.columns) != COLUMNS or frame["right"].dtype != bool:
        raise DataError(f"{path} has the columns {', '.join(map(str, frame))}; expected are {', '.join(COLUMNS)}, "
                        f"right as bool. Remove {folder} to have it made again")
    twice = frame[frame.duplicated(["language", "id"])]
    if len(twice):
        code, key = twice.iloc[0][["language", "id"]]
        raise DataError(f"{path}: item {key!r} of {code} is there more than once ({len(twice)} such)")
    return frame
