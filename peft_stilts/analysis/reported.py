"""Published numbers that stand beside ours at scale `large`: the paper's headline gains and X-STILTs' averages."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from peft_stilts.analysis.overview import over_targets
from peft_stilts.tasks import TASKS

SCALE = "large"
"""The one scale at which they are shown: XLM-R Large is what they were measured with."""
BEST = "best per target"
"""The headline of the best intermediate task for each target, which is no recipe."""
_FOLDER = Path(__file__).with_name("reported")


@dataclass(frozen=True)
class Headline:
    """A mean gain as the paper's opening states it: `gain` in points, `over` which scores, on which `split`."""

    gain: float
    over: str
    split: str
    source: str


@cache
def headlines() -> dict[str, Headline]:
    """{intermediate setting: what is reported} of reported/headlines.csv, BEST among them."""
    return {row["intermediate"]: Headline(float(row["gain"]), row["over"], row["split"], row["source"])
            for row in _rows("headlines")}


@cache
def averages() -> dict[tuple[str, str], dict[str, float]]:
    """{(target, metric): {'XLM-R': score, 'X-STILTs': score}} of reported/averages.csv: test, mean over languages."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in _rows("averages"):
        found.setdefault((row["target"], row["metric"]), {})[row["system"]] = float(row["score"])
    return found


def shown(rows: pd.DataFrame) -> bool:
    """Whether rows of one context may stand beside what is reported: XLM-R Large on the real data."""
    return bool(rows["scale"].eq(SCALE).all() and rows["data_source"].ne("miniature").all())


def target_line(target: str, metric: str, languages: Collection[str], limited: bool = False) -> str:
    """What is reported of a target, beside our average over `languages`; '' where nothing is. `limited`: ours is of a
    run that was given fewer rows."""
    known = averages().get((target, metric))
    if known is None:
        return ""
    base, best = known["XLM-R"], known["X-STILTs"]
    missing = len(set(TASKS[target].languages) - set(languages))
    subset = f"; over {len(TASKS[target].languages)} languages, ours lacks {missing}" if missing else ""
    subset += "; ours is of a run with limited rows" if limited else ""
    return (f"reported avg: XLM-R {base:.1f}, X-STILTs {best:.1f}, {best - base:+.1f} (best intermediate task per "
            f"target, test; mt5 README{subset})")


def headline_lines(cells: pd.DataFrame) -> list[str]:
    """One line a setting that the paper's opening states a gain of: our mean gain beside it, and why they differ.

    `cells`: `overview.averages` of one context at SCALE. With several intermediate settings also the best for each
    target; ours is chosen on the very scores that are shown.
    """
    lines = []
    means = over_targets(cells)
    for name, known in headlines().items():
        rows = means[means["intermediate"] == name] if name != BEST else _best(cells)
        ours = [f"{method} {_told(some)}" for method, some in rows.groupby("method", sort=False)]
        if ours:
            targets = sorted(set(rows["targets"]))
            count = f"{targets[0]}" if len(targets) == 1 else f"{targets[0]} to {targets[-1]}"
            count = "one target" if targets == [1] else f"the {count} targets"
            chosen = ", chosen on these very scores" if name == BEST else ""
            lines.append(f"{name}: our mean gain over {count} scored here (test sets{chosen}) is "
                         f"{', '.join(ours)}; reported {known.gain:+.1f} (full fine-tuning, {known.over}, "
                         f"{known.split} sets; arXiv 2005.13013 v2). The sets differ.")
    return lines


def _best(cells: pd.DataFrame) -> pd.DataFrame:
    """The mean over targets of each target's best setting, by its mean over seeds; no rows for a single setting."""
    cells = cells[cells["comparable"]]
    if cells["intermediate"].nunique() < 2:
        return over_targets(cells).iloc[:0]
    means = cells.groupby(["method", "target", "intermediate"], sort=False)["gain"].mean()
    best = means.groupby(["method", "target"], sort=False).idxmax()
    kept = pd.MultiIndex.from_frame(cells[["method", "target", "intermediate"]]).isin(list(best))
    return over_targets(cells[kept].assign(intermediate=BEST))


def _told(rows: pd.DataFrame) -> str:
    spread = f"±{rows['gain'].std(ddof=1):.1f}" if len(rows) > 1 else ""
    return f"{rows['gain'].mean():+.1f}{spread}"


def _rows(name: str) -> list[dict[str, str]]:
    with open(_FOLDER / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
