"""The whole study of one results table: responses, similarities, correlations, and what is said of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from peft_stilts.analysis import alignment, calibration, contrasts, equivalence, pooled, weak_spots
from peft_stilts.analysis.correlation import COEFFICIENTS, DRAWS, FEWEST, correlate, strengths
from peft_stilts.analysis.families import Families, layout
from peft_stilts.analysis.responses import CELL, Responses
from peft_stilts.analysis.similarity import Similarities
from peft_stilts.errors import DataError, UsageError
from peft_stilts.registry import unknown
from peft_stilts.store import replace_file

CORRELATIONS = [*CELL, "measure", "coefficient", "estimate", "n", "families", "ci_low", "ci_high", "p_permutation",
                "q_bh", "excluded"]
LEFT_OUT = [*CELL, "measure", "coefficient", "family", "estimate", "n"]
MISSING = 0.1
"""share of a cell's languages that may lack a measure before its tests are judged by the families of the others"""
TOLD_EVERY = 250
"""cells after which a long study says how far it is"""
COVARIATES = ("baseline", "cc100")
"""What partial correlations are given: the score without intermediate task, and log CC-100 size, if any"""


@dataclass(frozen=True)
class Study:
    """Everything that a report says; the frames are those of the files (docs/correlate.md), `correlations` with a
    column `reliable` besides: whether inference keeps its promises with so few families. `detectable`: the smallest
    correlation found in four of five cases, in the widest layout; NaN: none. `margin`: points."""

    responses: Responses
    similarities: Similarities
    excluded: tuple[str, ...]
    covariates: tuple[str, ...]
    correlations: pd.DataFrame
    left_out: pd.DataFrame
    pooled: pd.DataFrame
    methods: pd.DataFrame
    contrasts: pd.DataFrame
    alignment: pd.DataFrame
    weak: weak_spots.WeakSpots | None
    calibration: pd.DataFrame
    detectable: float
    margin: float
    seed: int
    draws: int = DRAWS
    notes: list[str] = field(default_factory=list)


def study(
    responses: Responses, similarities: Similarities, excluded: Sequence[str] = ("en",),
    covariates: Sequence[str] | None = None, margin: float = 1.0, draws: int = DRAWS, seed: int = 1,
    stages: pd.DataFrame | None = None, runs: Path | None = None, say: Callable[[str], None] = lambda text: None,
) -> Study:
    """The study; nothing depends on the order of rows. `covariates`: of partial correlations, None for COVARIATES as
    far as they are there; others are columns of similarities. Raises UsageError for unknown ones, and DataError where
    no cell has FEWEST languages."""
    families = similarities.families
    means = responses.means
    sizes = means.groupby(CELL)["language"].nunique()
    if sizes.max() < FEWEST:
        raise DataError(f"no cell has {FEWEST} languages (the largest has {sizes.max()}), without "
                        f"{', '.join(excluded) or 'any left out'}: no correlation can be computed.")
    given = _covariates(responses, similarities, covariates)
    cells = list(means.groupby(CELL, sort=True))
    say(f"correlations ({len(cells)} x {similarities.values.shape[1]} measures x {len(COEFFICIENTS)} coefficients)")
    correlations, left_out = [], []
    for place, (cell, rows) in enumerate(cells):
        if place and place % TOLD_EVERY == 0:
            say(f"{place} of {len(cells)} cells")
        correlations += [(*cell, *line) for line in _of_cell(rows, similarities, given, draws, seed)]
        left_out += [(*cell, *line) for line in _without_a_family(rows, similarities)]
    told = pd.DataFrame(correlations, columns=[*CORRELATIONS[:-2], "layout"])
    layouts = [sizes for sizes in told["layout"].unique() if sizes]     # none: no language has the measure
    say("calibration of the families at hand")
    known = calibration.of_layouts(layouts, seed)
    sure = {key: calibration.reliable(known, *key) for key in set(zip(told["layout"], told["coefficient"]))}
    told["reliable"] = [sure[key] for key in zip(told.pop("layout"), told["coefficient"])]
    told.insert(len(CORRELATIONS) - 2, "q_bh", _q(told))
    told.insert(len(CORRELATIONS) - 1, "excluded", " ".join(excluded))
    say("mixed models")
    models = pooled.pooled(responses, similarities, list(similarities.values.columns), excluded)
    say("adapters against full fine-tuning")
    methods, notes = equivalence.methods(responses, stages, families, margin)
    contrasted = contrasts.contrasts(responses, similarities, families, draws=draws, seed=seed)
    aligned = alignment.alignment(responses, families, draws, seed)
    weak = None
    if runs is not None:
        say("weak spots")
        weak = weak_spots.weak_spots(Path(runs), similarities, excluded, draws=draws, seed=seed)
    widest = max(layouts, key=lambda sizes: sum(map(int, sizes.split("+"))))
    return Study(responses, similarities, tuple(excluded), given, told, pd.DataFrame(left_out, columns=LEFT_OUT),
                 models, methods, contrasted, aligned, weak, known,
                 calibration.detectable(known, widest, "spearman"), margin, seed, draws,
                 [*responses.notes, *notes, *(weak.notes if weak else ())])


def _covariates(responses: Responses, similarities: Similarities, wanted: Sequence[str] | None) -> tuple[str, ...]:
    there = {*similarities.values.columns, *(["baseline"] if responses.response == "gain" else [])}
    if wanted is None:
        return tuple(name for name in COVARIATES if name in there)
    for name in wanted:
        if name not in there:
            raise UsageError(unknown("covariate", name, there))
    return tuple(dict.fromkeys(wanted))


def _seed(seed: int, cell: Sequence[str]) -> list[int]:
    """Draws of a cell that depend on nothing but its name."""
    return [seed, zlib.crc32("\0".join(map(str, cell)).encode())]


def _of_cell(rows: pd.DataFrame, similarities: Similarities, covariates: tuple[str, ...], draws: int, seed: int
             ) -> list[tuple]:
    """(measure, coefficient, estimate, n, families, low, high, p, layout) of a cell, for all measures and coefficients.

    `layout`: by whose calibration the test is judged, that of the languages used; of the whole cell where no more than
    MISSING of them lack the measure, which changes little and spares a simulation."""
    rows = rows.sort_values("language")
    table = similarities.values.loc[rows["language"]]
    families = np.array([similarities.families[code] for code in rows["language"]], dtype=object)
    values = rows["value"].to_numpy()
    cell = _seed(seed, rows[CELL].iloc[0])
    found = []
    for coefficient in COEFFICIENTS:
        partial = coefficient.startswith("partial_")
        if partial and not covariates:
            continue
        for names, others in _together(list(table.columns), covariates if partial else ()):
            given = np.column_stack([rows[name] if name == "baseline" else table[name] for name in others]) \
                if others else np.empty((len(rows), 0))
            for some, kept in _patterns(table[names].to_numpy().T, given):
                which = [names[place] for place in some]
                told = correlate(table[which].to_numpy().T[:, kept], values[kept], families[kept], coefficient,
                                 given[kept] if partial else None, draws, cell)
                count = len(set(families[kept]))
                judged = layout(families if kept.mean() >= 1 - MISSING else families[kept])
                found += [(name, coefficient, *line[:1], int(kept.sum()), count, *line[1:], judged) for name, line in
                          zip(which, zip(told.estimate, told.low, told.high, told.p))]
    order = {name: place for place, name in enumerate(table.columns)}
    return sorted(found, key=lambda line: (order[line[0]], COEFFICIENTS.index(line[1])))


def _together(measures: list[str], covariates: tuple[str, ...]) -> list[tuple[list[str], tuple[str, ...]]]:
    """[(measures, covariates)]: a measure is not given itself, and given nothing there is no partial correlation."""
    own = [name for name in measures if name in covariates]
    groups = [([name for name in measures if name not in own], covariates)]
    groups += [([name], tuple(other for other in covariates if other != name)) for name in own]
    return [(names, others) for names, others in groups if names and (others or not covariates)]


def _patterns(measures: np.ndarray, given: np.ndarray) -> list[tuple[list[int], np.ndarray]]:
    """[(rows of `measures` (m, n) that have a value for the same languages, which languages (n,) bool)]."""
    there = ~np.isnan(measures) & ~np.isnan(given).any(axis=1)
    patterns: dict[bytes, list[int]] = {}
    for place, row in enumerate(there):
        patterns.setdefault(row.tobytes(), []).append(place)
    return [(places, there[places[0]]) for places in patterns.values()]


def _without_a_family(rows: pd.DataFrame, similarities: Similarities) -> list[tuple]:
    """(measure, coefficient, family, estimate, n): the correlation without each family in turn."""
    rows = rows.sort_values("language")
    table = similarities.values.loc[rows["language"]].to_numpy().T
    families = np.array([similarities.families[code] for code in rows["language"]], dtype=object)
    values, found = rows["value"].to_numpy(), []
    for some, kept in _patterns(table, np.empty((len(rows), 0))):
        for family in sorted(set(families[kept])):
            rest = kept & (families != family)
            if rest.sum() < FEWEST or rest.sum() == kept.sum():
                continue
            group = Families(families[rest])
            for coefficient in ("pearson", "spearman"):
                x, y = table[some][:, rest], values[rest]
                if coefficient == "spearman":
                    x, y = stats.rankdata(x, axis=1), stats.rankdata(y)
                told = strengths(group, x, y[None], coefficient)[:, 0]
                found += [(similarities.values.columns[place], coefficient, family, value, int(rest.sum()))
                          for place, value in zip(some, told)]
    return found


def _q(told: pd.DataFrame) -> np.ndarray:
    """Benjamini and Hochberg's q, over the tests of one coefficient that get a verdict; NaN for the others."""
    q = np.full(len(told), np.nan)
    for coefficient in told["coefficient"].unique():
        here = (told["coefficient"] == coefficient) & told["p_permutation"].notna() & told["reliable"].astype(bool)
        if here.any():
            q[here] = stats.false_discovery_control(told.loc[here, "p_permutation"], method="bh")
    return q


def write(study: Study, folder: Path) -> list[Path]:
    """The tables of a study as CSV files in `folder`, each replaced in one step; their paths."""
    frames = {"gains": study.responses.pairs, "correlations": study.correlations[CORRELATIONS],
              "leave_one_family_out": study.left_out, "pooled": study.pooled, "methods": study.methods,
              "contrasts": study.contrasts, "alignment": study.alignment, "calibration": study.calibration}
    if study.weak is not None:
        frames |= {"weak_spots": study.weak.flips, "weak_spots_shared": study.weak.shared,
                   "weak_spots_tests": study.weak.tests}
    return write_tables(frames, folder)


def write_tables(frames: Mapping[str, pd.DataFrame], folder: Path, digits: int | None = None) -> list[Path]:
    """Each frame as NAME.csv in `folder`, made when needed; `digits` after the point, None: all. Their paths."""
    shown = None if digits is None else f"%.{digits}f"
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        replace_file(folder / f"{name}.csv", lambda path, frame=frame: frame.to_csv(
            path, index=False, lineterminator="\n", float_format=shown))
    return [folder / f"{name}.csv" for name in frames]
