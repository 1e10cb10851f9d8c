"""What is explained: the gain, or the score, of every language in every cell of a results table, ours or others'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from peft_stilts import results
from peft_stilts.analysis import labels
from peft_stilts.errors import DataError, UsageError
from peft_stilts.miniature.world import ENGLISH, TONGUES
from peft_stilts.registry import nearest
from peft_stilts.results import CONTEXT, RESULTS

CELL = ["method", "method_config", "policy", "intermediate", "target", "metric"]
"""One correlation is over the languages of one cell; `intermediate` and `target` are labels with their variants."""
NEEDED = ("target", "language", "score")
RESPONSES = ("gain", "score")
ABSENT = {"seed": 0, "examples": 0, "primary": False}
"""What stands in the columns that others' tables lack; '' in the rest."""
VALUES = ["baseline", "score", "gain", "headroom"]


@dataclass(frozen=True)
class Responses:
    """`seeds`: CELL, `language`, `seed`, `baseline`, `score`, `gain`, `headroom` (100 - baseline), `value` (the
    response), one row each; points, NaN where there is no baseline. `means`: CELL, `language`, over seeds the mean
    `value`, its `median` and `sd` (n - 1; NaN for one seed), `seeds` (how many), mean `baseline` and `headroom`.
    `pairs`: gains.csv. `keys`: CELL, `language`, `seed`, `stage_key` of the score. `heading`: scale and model.
    `notes`: what to know.
    """

    response: str
    seeds: pd.DataFrame
    means: pd.DataFrame
    pairs: pd.DataFrame
    keys: pd.DataFrame
    heading: str
    miniature: bool
    notes: list[str] = field(default_factory=list)


def read(paths: Iterable[str | Path], only: Mapping[str, str] | None = None) -> tuple[pd.DataFrame, list[str]]:
    """(rows, notes) of files or folders: results tables, and any CSV with the columns of NEEDED; identical rows once.

    `only`: column -> the value to keep. The rows have the columns of the results table. Raises DataError for files that
    cannot be read, and for missing or odd values; UsageError for a column or value in `only` that is not there.
    """
    frames, notes = [], []
    for path in paths:
        frame, told = _load(Path(path))
        frames.append(frame)
        notes += told
    return tidy(pd.concat(frames, ignore_index=True), only), notes


def tidy(frame: pd.DataFrame, only: Mapping[str, str] | None = None, where: str = "table") -> pd.DataFrame:
    """Rows with the columns and types of the results table, checked, `only` the wanted ones, identical ones once."""
    if not len(frame):
        raise DataError(f"{where} has no rows. A table of {', '.join(NEEDED)} is wanted.")
    frame = frame.assign(**{column: ABSENT.get(column, "") for column in RESULTS.columns if column not in frame})
    frame = frame[RESULTS.columns]
    for column, value in (only or {}).items():
        if column not in frame:
            raise UsageError(f"--only {column}={value}: no column {column!r}.{nearest(column, frame.columns)} "
                             f"Columns: {', '.join(frame.columns)}.")
        there = frame[column].astype(str)
        if value not in set(there):
            raise UsageError(f"--only {column}={value}: that value is not there; there are "
                             f"{', '.join(map(repr, sorted(set(there))[:12]))}.")
        frame = frame[there == value]
    frame = RESULTS.validate(_numbers(frame, where), where)
    odd = sorted(set(frame["intermediate"][(frame["intermediate"] != "none")
                                           & (frame["intermediate"].str.strip().str.lower() == "none")]))
    if odd:
        raise DataError(f"{where}: intermediate is {odd[0]!r}; a baseline, without intermediate task, is written none.")
    outside = frame[~frame["score"].between(0, 100)]
    if len(outside):
        raise DataError(f"{where}: {len(outside)} scores outside 0 to 100, the first of {_told(outside.iloc[0])}: "
                        f"{outside['score'].iloc[0]:g}. Scores are percentages.")
    for (target, metric), rows in frame.groupby(["target", "metric"]):
        few = rows.groupby("method")["score"].agg(["max", "mean"])
        shares = few[(few["max"] > 0) & (few["max"] <= 1)]
        others = few["mean"].drop(shares.index).mean()
        # A method may fail, and score 0.7 of 100; as a share it would be near what the others score.
        if len(shares) and (len(shares) == len(few) or (100 * shares["mean"]).between(others / 2, others * 2).any()):
            what = " ".join(filter(None, (target, metric, *(shares.index if len(shares) < len(few) else ()))))
            raise DataError(f"{where}: all scores of {what} are at most 1. If they are shares, multiply them by 100: "
                            "scales are never mixed.")
    return frame.drop_duplicates(ignore_index=True)


def _numbers(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    scores = pd.to_numeric(frame["score"], errors="coerce")
    odd = frame[~np.isfinite(scores.to_numpy(dtype=float))]
    if len(odd):
        raise DataError(f"{where}: {len(odd)} scores are missing or no finite numbers, the first of "
                        f"{_told(odd.iloc[0])}: {str(odd['score'].iloc[0])!r}. Write numbers as 71.2, and leave "
                        "out rows that were not scored.")
    empty = [column for column in NEEDED[:2] if (frame[column].astype(str).str.strip() == "").any()]
    if empty:
        raise DataError(f"{where}: a row has no {empty[0]}.")
    return frame


def _load(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The rows of one file or folder, in the results table's columns, and what was left out."""
    if path.is_dir():
        return results.read(path), []
    if not path.is_file():
        raise UsageError(f"{path} is not there: --results takes CSV or Parquet files, or folders with a results table.")
    try:
        frame = pd.read_parquet(path) if path.suffix.lower() == ".parquet" else pd.read_csv(
            path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path} is empty. A table of {', '.join(NEEDED)} is wanted.") from error
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{path} cannot be read as a table: {error}") from error
    missing = [column for column in NEEDED if column not in frame]
    if missing and len(frame.columns) == 1 and (";" in frame.columns[0] or "\t" in frame.columns[0]):
        raise DataError(f"{path} has its columns parted by semicolons or tabs; a CSV with commas is wanted.")
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}.{nearest(missing[0], frame.columns)} It has "
                        f"{', '.join(map(str, frame.columns))}; {', '.join(NEEDED)} are needed.")
    others = [str(column) for column in frame if column not in RESULTS.columns]
    for column in others:
        if close := nearest(column, [name for name in RESULTS.columns if name not in frame], 0.75):
            raise DataError(f"{path} has a column {column!r}.{close} Rename it, or leave it out.")
    if not len(frame):
        raise DataError(f"{path} has no rows.")
    if "seed" in frame:
        frame["seed"] = frame["seed"].astype(str).str.removesuffix(".0")    # as pandas writes them beside missing ones
        if (frame["seed"] == "").any():
            raise DataError(f"{path}: a row has no seed.")
    notes = [f"{path.name}: columns that are not used: {', '.join(others)}."] * bool(others)
    return tidy(frame, where=str(path)), notes


def responses(
    frame: pd.DataFrame, response: str = "gain", metric: str | None = None, exclude: Sequence[str] = ("en",),
    notes: Sequence[str] = (),
) -> Responses:
    """The responses in `frame` (of `read`), languages of `exclude` left out, codes as they are there.

    `metric`: for every target; else its rows marked primary, or its only metric. Raises UsageError where that leaves a
    choice, and for several scales or models (which are never mixed); DataError for unequal scores of one thing, and
    where no score has a baseline.
    """
    frame = _one_context(_one_metric(frame, metric))
    alone = 0
    if response == "gain":
        if (frame["intermediate"] == "").any():
            raise UsageError("gains need a column `intermediate`, with none for the baseline. For scores alone: "
                             "--response score.")
        pairs, alone = results.gains(frame), len(results.unpaired(frame))
        if not len(pairs):
            raise DataError("no score has a baseline: a row that agrees in all but recipe and score and whose "
                            "intermediate is the word none. For scores alone: --response score.")
    else:
        results.refuse_unequal(frame, RESULTS.identity, "results")
        pairs = frame.drop_duplicates(RESULTS.identity, ignore_index=True).assign(baseline=np.nan, gain=np.nan,
                                                                                  baseline_key="")
    pairs = pairs[~pairs["language"].isin(exclude)].reset_index(drop=True)
    if not len(pairs):
        raise UsageError(f"nothing is left without the languages {', '.join(exclude)}.")
    pairs["headroom"] = 100 - pairs["baseline"]
    named = pairs.assign(intermediate=labels.column(pairs, labels.intermediates(pairs)), target=_targets(pairs),
                         value=pairs[response])
    named = named.sort_values([*CELL, "language", "seed"], kind="stable", ignore_index=True)
    _refuse_two(named)
    told = [*notes]
    if alone:
        told.append(f"{alone} scores have no baseline of the same settings and seed, and are left out.")
    counts = named.groupby([*CELL, "language"])["seed"].nunique()
    if counts.nunique() > 1:
        told.append(f"Languages have {counts.min()} to {counts.max()} seeds: means are of what there is.")
    heading, _ = next(iter(labels.contexts(frame))) if frame["scale"].any() else ("", None)
    miniature = (frame["scale"] == "mini").all() or bool(set(frame["language"]) & (set(TONGUES) - {ENGLISH.code}))
    return Responses(response, named[[*CELL, "language", "seed", *VALUES, "value"]], _means(named),
                     pairs[[column for column in RESULTS.columns if column != "score"] + [*VALUES, "baseline_key"]],
                     named[[*CELL, "language", "seed", "stage_key"]], heading, miniature, told)


def _means(named: pd.DataFrame) -> pd.DataFrame:
    grouped = named.groupby([*CELL, "language"], sort=True)
    told = grouped["value"].agg(value="mean", median="median", sd="std", seeds="count")
    return told.join(grouped[["baseline", "headroom"]].mean()).reset_index()


def _targets(pairs: pd.DataFrame) -> pd.Series:
    varied = labels.varies(pairs, "target", "split")
    return pd.Series([" ".join(filter(None, (row.target, row.target_variant, row.split * varied)))
                      for row in pairs.itertuples()], pairs.index)


def _one_metric(frame: pd.DataFrame, metric: str | None) -> pd.DataFrame:
    """The rows of one metric a target."""
    if metric is not None and metric != "primary":
        if metric not in set(frame["metric"]):
            raise UsageError(f"no row has the metric {metric!r}; there are "
                             f"{', '.join(sorted(map(repr, set(frame['metric']))))}.")
        return frame[frame["metric"] == metric]
    marked = frame.groupby("target")["primary"].transform("any")
    if metric == "primary" and not marked.all():
        raise UsageError(f"no row of {frame.loc[~marked, 'target'].iloc[0]} is marked primary: name a --metric.")
    frame = frame[frame["primary"] | ~marked]
    for target, rows in frame.groupby("target"):
        if rows["metric"].nunique() > 1:
            raise UsageError(f"{target} has several metrics ({', '.join(sorted(rows['metric'].unique()))}) and "
                             f"{'more than one' if rows['primary'].any() else 'none'} is marked primary: name a "
                             "--metric.")
    return frame


def _one_context(frame: pd.DataFrame) -> pd.DataFrame:
    varied = [column for column in CONTEXT if frame[column].nunique() > 1]
    if varied:
        there = "; ".join(f"{column}: {', '.join(map(repr, sorted(frame[column].unique())))}" for column in varied)
        raise UsageError(f"results of several models are never mixed ({there}). Choose with "
                         f"--only {varied[0]}={sorted(frame[varied[0]].unique())[0]}.")
    return frame


def _refuse_two(named: pd.DataFrame) -> None:
    twice = named[named.duplicated([*CELL, "language", "seed"], keep=False)]
    if len(twice):
        first = twice.iloc[0]
        raise DataError(f"{len(twice)} rows are of the same cell, language and seed, such as {_told(first)}, seed "
                        f"{first['seed']}. Keep one of them: --only COLUMN=VALUE chooses.")


def _told(row: pd.Series) -> str:
    return ", ".join(f"{column} {row[column]}" for column in ("method", "intermediate", "target", "metric", "language")
                     if row.get(column))
