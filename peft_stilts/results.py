"""The results table: one row per score, the stages table beside it, and the gains that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from peft_stilts.errors import DataError
from peft_stilts.store import replace_file


@dataclass(frozen=True)
class Table:
    """A tidy table with fixed columns, kept as NAME.csv and NAME.parquet in a folder.

    `dtypes`: column -> 'str', 'int', 'float' or 'bool', in the order of the file.
    `newer`: column added after version 0.1 -> the value that older tables have in it; they stay readable so.
    `measured`: the columns that are measured; rows that agree in all others are the same thing.
    """

    name: str
    dtypes: Mapping[str, str]
    measured: tuple[str, ...]
    newer: Mapping[str, Any]

    @property
    def columns(self) -> list[str]:
        return list(self.dtypes)

    @property
    def identity(self) -> list[str]:
        """The columns in which rows of the same thing agree: all but the measured ones."""
        return [column for column in self.columns if column not in self.measured]

    def frame(self, rows: Iterable[Mapping[str, Any]] = ()) -> pd.DataFrame:
        """The rows as a validated frame; without rows an empty one with the right columns and dtypes."""
        rows = list(rows)
        return self.validate(pd.DataFrame(rows) if rows else pd.DataFrame(columns=self.columns))

    def validate(self, frame: pd.DataFrame, where: str = "table") -> pd.DataFrame:
        """A copy with exactly the columns and dtypes of this table, its index 0..N-1.

        Raises DataError for unknown or missing columns and for values that are missing or of another type.
        """
        frame = frame.reset_index(drop=True).assign(**{c: v for c, v in self.newer.items() if c not in frame})
        missing = [column for column in self.dtypes if column not in frame]
        unknown = [str(column) for column in frame if column not in self.dtypes]
        if missing or unknown:
            told = [f"lacks {', '.join(missing)}"] * bool(missing)
            told += [f"has unknown {', '.join(unknown)} (written by a newer version?)"] * bool(unknown)
            raise DataError(f"{where}: a {self.name} table has the columns {', '.join(self.columns)}; this one "
                            + " and ".join(told))
        typed = {}
        for column, dtype in self.dtypes.items():
            try:
                typed[column] = _CASTS[dtype](frame[column])
            except (ValueError, TypeError) as error:
                raise DataError(f"{where}: column {column!r} must be {dtype} everywhere: {error}") from error
        return pd.DataFrame(typed)

    def read(self, paths: Iterable[Path] | Path) -> pd.DataFrame:
        """The rows of one or several files (.csv, .parquet) or folders holding them, identical rows kept once.

        A folder's CSV is taken before its Parquet: it is written last. Raises DataError for a file that is absent or
        unreadable, and for rows that agree in everything but what was measured, naming both places.
        """
        parts = []
        for path in [paths] if isinstance(paths, (str, Path)) else list(paths):
            file = self._file(Path(path))
            parts.append(self.validate(_load(file), str(file)).assign(_place=str(file)))
        frame = pd.concat(parts, ignore_index=True) if parts else self.frame().assign(_place="")
        frame = frame.drop_duplicates(self.columns, ignore_index=True)
        if "score" in self.measured:
            refuse_unequal(frame, self.identity, self.name)
            frame = frame.drop_duplicates(self.identity, ignore_index=True)
        return frame[self.columns]

    def write(self, frame: pd.DataFrame, folder: Path) -> None:
        """Validate and write NAME.parquet, then NAME.csv, each replaced in one step: nobody reads half a file."""
        frame = self.validate(frame)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / f"{self.name}.parquet", lambda path: frame.to_parquet(path, index=False))
        replace_file(folder / f"{self.name}.csv", lambda path: frame.to_csv(path, index=False, lineterminator="\n"))

    def _file(self, path: Path) -> Path:
        candidates = [path / f"{self.name}.csv", path / f"{self.name}.parquet"] if path.is_dir() else [path]
        for file in candidates:
            if file.is_file():
                return file
        raise DataError(f"no {self.name} table at {path}: looked for {' and '.join(map(str, candidates))}")


RESULTS = Table(
    name="results",
    dtypes=dict(
        recipe="str", scale="str", base_model="str", base_revision="str", data_source="str", protocol="str",
        method="str", method_config="str", policy="str", intermediate="str", intermediate_variant="str",
        target="str", target_variant="str", language="str", split="str", metric="str", primary="bool", seed="int",
        score="float", examples="int", stage_key="str",
    ),
    measured=("score", "stage_key"),
    newer={},
)
STAGES = Table(
    name="stages",
    dtypes=dict(
        stage_key="str", parent_key="str", kind="str", trainable_parameters="int", bytes="int", tokens="int",
        seconds="float", peak_memory_bytes="int", device="str",
    ),
    measured=("trainable_parameters", "bytes", "tokens", "seconds", "peak_memory_bytes", "device"),
    newer={},
)

# What a score and its baseline may differ in; they pair when they agree in every other column.
NOT_PAIRED = ("recipe", "intermediate", "intermediate_variant", "score", "stage_key")
PAIR = [column for column in RESULTS.columns if column not in NOT_PAIRED]
CONTEXT = ["scale", "base_model", "base_revision", "data_source", "protocol"]
"""Columns whose values are never mixed in one table or picture."""


def validate(frame: pd.DataFrame) -> pd.DataFrame:
    """`Table.validate` of the results table; and scores must lie in 0..100."""
    frame = RESULTS.validate(frame)
    outside = frame[(frame["score"] < 0) | (frame["score"] > 100)]
    if len(outside):
        raise DataError(f"{len(outside)} scores outside 0..100; the first is\n{_told(outside.iloc[0])}")
    return frame


def read(paths: Iterable[Path] | Path) -> pd.DataFrame:
    """The joined results of files or folders; see `Table.read`."""
    return validate(RESULTS.read(paths))


def write(frame: pd.DataFrame, folder: Path) -> None:
    """Write results.parquet and results.csv into `folder`; see `Table.write`."""
    RESULTS.write(validate(frame), folder)


def gains(frame: pd.DataFrame) -> pd.DataFrame:
    """Every score with an intermediate task beside its baseline (intermediate 'none').

    A pair agrees in every column but those of NOT_PAIRED. Returns the results columns and `baseline` (float, 0..100),
    `gain` = score - baseline (points) and `baseline_key` (str); rows without a baseline are left out: see `unpaired`.
    Raises DataError for two unequal scores of the same thing.
    """
    scored, baselines = _sides(frame)
    right = baselines[PAIR + ["score", "stage_key"]].rename(columns={"score": "baseline", "stage_key": "baseline_key"})
    paired = scored.merge(right, on=PAIR, how="inner", validate="many_to_one")
    return paired.assign(gain=paired["score"] - paired["baseline"])


def unpaired(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with an intermediate task that have no baseline to pair with, in the results columns."""
    scored, baselines = _sides(frame)
    found = scored[PAIR].merge(baselines[PAIR], on=PAIR, how="left", indicator=True)["_merge"]
    return scored[(found == "left_only").to_numpy()].reset_index(drop=True)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means and spreads over seeds of the primary metrics, per language and averaged over languages.

    One row per combination of the columns of PAIR (less seed, primary and examples), the intermediate task and the
    language. Columns `baseline`, `score`, `gain` are means over seeds (points), `*_sd` their standard deviations
    (n - 1; NaN for one seed), `seeds` the number of seeds (int). The language 'avg' is the unweighted mean over the
    languages, English included, as in XTREME's evaluate.py; only seeds that have every language count in it.
    A baseline that pairs with nothing has intermediate 'none', and NaN in `score` and `gain`; a score without
    baseline has NaN in `baseline` and `gain`.
    """
    frame = validate(frame)
    frame = frame[frame["primary"]]
    pairs, alone = gains(frame), unpaired(frame)
    used = pairs[PAIR].drop_duplicates()
    rest = _sides(frame)[1].merge(used, on=PAIR, how="left", indicator=True).query("_merge == 'left_only'")
    rest = rest.rename(columns={"score": "baseline"})
    parts = [part for part in (pairs, alone, rest) if len(part)]
    group = [c for c in PAIR if c not in ("seed", "primary", "examples", "language")]
    group += ["recipe", "intermediate", "intermediate_variant"]
    values = ["baseline", "score", "gain"]
    columns = group + ["language"] + [name for value in values for name in (value, f"{value}_sd")] + ["seeds"]
    if not parts:
        return pd.DataFrame(columns=columns)
    rows = pd.concat(parts, ignore_index=True).reindex(columns=[*group, "language", "seed", *values])
    average = rows.groupby([*group, "seed"], sort=False).agg(
        {**dict.fromkeys(values, lambda column: column.mean(skipna=False)), "language": "count"}).reset_index()
    full = rows.groupby(group, sort=False)["language"].nunique().rename("languages").reset_index()
    average = average.merge(full, on=group).query("language == languages").assign(language="avg")
    rows = pd.concat([rows, average[rows.columns]], ignore_index=True)
    grouped = rows.groupby([*group, "language"], sort=False)
    told = grouped[values].mean().join(grouped[values].std(ddof=1).add_suffix("_sd")).join(
        grouped["seed"].nunique().rename("seeds"))
    return told.reset_index()[columns]


def _sides(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(rows with an intermediate task, baselines), each thing once, a stage that several recipes share among them;
    refuses one thing with two scores."""
    frame = validate(frame)
    same = [*PAIR, "recipe", "intermediate", "intermediate_variant"]
    refuse_unequal(frame, same, "results")
    frame = frame.drop_duplicates(same, ignore_index=True)
    frame = frame.drop_duplicates([*(name for name in same if name != "recipe"), "stage_key"], ignore_index=True)
    none = frame["intermediate"] == "none"
    baselines = frame[none].reset_index(drop=True)
    refuse_unequal(baselines, PAIR, "baseline")
    return frame[~none].reset_index(drop=True), baselines.drop_duplicates(PAIR, ignore_index=True)


def refuse_unequal(frame: pd.DataFrame, same: list[str], what: str) -> None:
    """Raise DataError when two rows agree in the columns `same` but not in `score`, naming both scores and places."""
    scores = frame.groupby(same, sort=False)["score"].transform("nunique")
    clash = frame[scores > 1]
    if not len(clash):
        return
    first = clash.iloc[0]
    second = clash[(clash[same] == first[same]).all(axis=1) & (clash["score"] != first["score"])].iloc[0]
    places = [f"{float(row['score'])!r} (stage {row['stage_key']}{_at(row)})" for row in (first, second)]
    raise DataError(f"{what}: the same score was measured twice, with different values: {places[0]} and {places[1]}, "
                    f"for\n{_told(first[same])}\nKeep one of them: they cannot both be right.")


def _at(row: pd.Series) -> str:
    return f", {row['_place']}" if "_place" in row else ""


def _told(row: pd.Series) -> str:
    return "  " + ", ".join(f"{column}={value}" for column, value in row.items() if column != "_place")


def _load(file: Path) -> pd.DataFrame:
    try:
        if file.suffix == ".parquet":
            return pd.read_parquet(file)
        return pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, ValueError, pd.errors.ParserError) as error:      # pyarrow's and Unicode errors are ValueErrors
        raise DataError(f"{file} cannot be read as a table: {error}") from error


def _strings(values: pd.Series) -> pd.Series:
    if values.isna().any():
        raise ValueError("a value is missing")
    return values.astype(str)


def _numbers(values: pd.Series) -> pd.Series:
    # Python's float() reads back the very bits that to_csv's repr wrote; pandas' own parser may not.
    numbers = values.map(float).astype("float64")
    if numbers.isna().any():
        raise ValueError("a value is missing")
    return numbers


def _integers(values: pd.Series) -> pd.Series:
    if not all(isinstance(value, str) or value == int(value) for value in values):
        raise ValueError("a value is not a whole number")
    return values.map(int).astype("int64")


def _booleans(values: pd.Series) -> pd.Series:
    known = {True: True, False: False, "True": True, "False": False}
    unknown = [value for value in values if value not in known]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is neither True nor False")
    return values.map(lambda value: known[value]).astype("bool")


_CASTS: dict[str, Callable[[pd.Series], pd.Series]] = {
    "str": _strings, "int": _integers, "float": _numbers, "bool": _booleans,
}
