"""The picture of one measure: every language's gain by its similarity, a panel a target task, families in colours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from peft_stilts.analysis import drawing, labels, words
from peft_stilts.analysis.correlation import FEWEST
from peft_stilts.analysis.families import GRID, Families
from peft_stilts.analysis.figure import GREY
from peft_stilts.analysis.responses import CELL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from peft_stilts.analysis.study import Study

MEAN = "mean over the intermediate tasks"
"""What stands for the setting where there are more than labels.MANY of them."""
ACROSS = 3
"""panels in a row"""
LETTER = (0.6, 1.15)
"""width and height of a letter as a share of the font size: for keeping labels apart"""


def figures(study: Study) -> Iterator[tuple[str, Figure]]:
    """(what it shows, figure) of every method and intermediate setting, on the headline measure.

    More than labels.MANY intermediate settings are one figure a method, of the means over them.
    """
    measure = words.headline(study)
    rows = words.named(study, study.responses.means)
    rows = rows[~rows["language"].isin(study.excluded)]
    if not measure or not len(rows):
        return
    for label, some in rows.groupby("label", sort=False):
        names = list(some["intermediate"].unique())
        for name in names if len(names) <= labels.MANY else [MEAN]:
            figure = draw(study, label, name, measure)
            if figure is not None:
                yield " ".join(filter(None, [label, name])), figure


@drawing.plain
def draw(study: Study, label: str, intermediate: str, measure: str) -> Figure | None:
    """One method (its label) after one intermediate setting, or MEAN; None where no language has both numbers.

    The line is the least-squares one, its band the 95 % interval of the line with languages of a family counted as
    dependent (`line`); dashed and without a band where there are too few families for a verdict, and for MEAN, which is
    not tested. Under a panel's title stand Spearman's rank correlation, its interval and the q of its test. For MEAN,
    languages that every setting has.
    """
    from matplotlib.figure import Figure

    rows = words.named(study, study.responses.means)
    rows = rows[(rows["label"] == label) & ~rows["language"].isin(study.excluded)]
    rows = _means(rows) if intermediate == MEAN else rows[rows["intermediate"] == intermediate]
    rows = rows.assign(similarity=rows["language"].map(study.similarities.values[measure])
                       ).dropna(subset=["similarity", "value"])
    tasks = list(rows["task"].unique())
    if not tasks:
        return None
    across = min(ACROSS, len(tasks))
    down = math.ceil(len(tasks) / across)
    size = (5.4, 3.9) if len(tasks) == 1 else (3.25, 2.75)
    coloured = drawing.groups([study.similarities.families.get(code, code) for code in rows["language"].unique()])
    width = max(across * (size[0] + 0.45) + 0.55, 6.2)
    legend = 0.3 + 0.2 * math.ceil((len(coloured) + 1) / max(1, int(width / 1.6))) * bool(coloured)
    figure = Figure(figsize=(width, down * (size[1] + 0.62) + 1.15 + legend))
    where = words.setting(intermediate) if intermediate != MEAN else f"the {MEAN}"
    top = drawing.titled(figure, " · ".join(filter(None, [
        f"{words.response(study).capitalize()} by {drawing.similarity_label(study, measure)}",
        ", ".join(filter(None, [label, where]))])), drawing.heading(study))
    height = figure.get_size_inches()[1]
    for place, task in enumerate(tasks):
        left = 0.65 + (place % across) * (size[0] + 0.45)
        bottom = height - top - 0.45 - size[1] - (place // across) * (size[1] + 0.62)
        panel = figure.add_axes((left / width, bottom / height, size[0] / width, size[1] / height))
        some = rows[rows["task"] == task]
        test = _test(study, some, measure) if intermediate != MEAN else None
        _panel(panel, study, some, coloured, size, test is not None and bool(test["reliable"]))
        _title(panel, task, test, len(some), size[0])
        if place % across == 0:
            panel.set_ylabel(drawing.axis_label(study), fontsize=8.5)
        if place + across >= len(tasks):
            panel.set_xlabel(drawing.similarity_label(study, measure), fontsize=8.5)
    _legend(figure, coloured, width)
    return figure


def line(x: np.ndarray, y: np.ndarray, families: Sequence[str], at: np.ndarray
         ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The least-squares line through (x, y), each (n,), at the places `at` (g,), and the ends of its 95 % interval.

    The variance of the line's height is a'Sa, with a the weights that least squares gives to every y and S the
    covariance of languages in families, averaged over its intra-family correlation as `families.mean_interval` does;
    degrees of freedom likewise. With a family for every language it is the textbook's interval.
    """
    design = np.column_stack([np.ones_like(x), x])
    weights_of_y = np.column_stack([np.ones_like(at), at]) @ np.linalg.pinv(design)
    group = Families(families, x[:, None])
    shares = group.weights(y)
    left = (group.residuals(y)**2).sum() / ((1 - GRID) * group.degrees + GRID * group.traces[0])
    own = (weights_of_y**2).sum(axis=1, keepdims=True)
    together = ((weights_of_y @ group.members)**2).sum(axis=1, keepdims=True)
    variance = (((1 - GRID) * own + GRID * together) * left * shares).sum(axis=1)
    away = stats.t.ppf(0.975, 1 / (shares * group.spread()).sum()) * np.sqrt(variance)
    middle = weights_of_y @ y
    return middle, middle - away, middle + away


def places(x: np.ndarray, y: np.ndarray, texts: Sequence[str], size: tuple[float, float], font: float
           ) -> list[tuple[float, float]]:
    """Where to put a text beside every point so that texts lie on each other and on points as little as can be.

    `x`, `y`: (n,) inches from the corner of a panel of `size` inches; `font`: points. Returns the centres of the texts
    in inches from their points. One text after another takes the best of 16 places around its point.
    """
    halves = np.array([[len(text) * LETTER[0], LETTER[1]] for text in texts]).reshape(-1, 2) * font / 72 / 2
    points = np.column_stack([x, y])
    around = [(np.cos(angle), np.sin(angle)) for angle in np.pi / 4 * np.array([0, 4, 2, 6, 1, 3, 5, 7])]
    taken_at, taken_half, found = np.empty((0, 2)), np.empty((0, 2)), []
    for point, half in zip(points, halves):
        away = np.array([(across * (half[0] + gap), up * (half[1] + gap)) for gap in (0.045, 0.13)
                         for across, up in around])
        centres = point + away
        over = _overlap(centres, half, taken_at, taken_half).sum(axis=1) * 3
        over += _overlap(centres, half, points, np.full_like(points, 0.035)).sum(axis=1)
        outside = np.maximum(0, np.abs(centres - np.array(size) / 2) + half - np.array(size) / 2).sum(axis=1)
        best = int(np.argmin(over + outside + 1e-5 * np.arange(len(away))))
        found.append(tuple(away[best]))
        taken_at, taken_half = np.vstack([taken_at, centres[best]]), np.vstack([taken_half, half])
    return found


def _overlap(centres: np.ndarray, half: np.ndarray, others: np.ndarray, other_halves: np.ndarray) -> np.ndarray:
    """(places, others): the area in square inches that boxes share."""
    both = half + other_halves - np.abs(centres[:, None] - others[None])
    return np.prod(np.clip(both, 0, None), axis=-1)


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over the intermediate settings of each target, of the languages that all of them have."""
    key = ["label", "task", "language"]
    every = rows.groupby(["label", "task"])["intermediate"].transform("nunique")
    own = rows.groupby(key)["intermediate"].transform("nunique")
    return rows[every == own].groupby(key, sort=False)["value"].mean().reset_index()


def _test(study: Study, some: pd.DataFrame, measure: str) -> pd.Series | None:
    """The row of the rank correlation of this cell."""
    tests = study.correlations
    tests = tests[(tests["coefficient"] == words.RANKS) & (tests["measure"] == measure)]
    tests = tests.merge(some[CELL].drop_duplicates(), on=CELL)
    return tests.iloc[0] if len(tests) == 1 else None


def _panel(panel: Axes, study: Study, some: pd.DataFrame, coloured: list[str], size: tuple[float, float], sure: bool
           ) -> None:
    """One target task: marks with their names, and the line, with its band where the test gets a verdict (`sure`)."""
    x, y = some["similarity"].to_numpy(float), some["value"].to_numpy(float)
    families = [study.similarities.families.get(code, code) for code in some["language"]]
    drawing.bare(panel)
    if study.responses.response == "gain":
        panel.axhline(0, color="black", linewidth=0.8, zorder=1.5)
    for family in [*coloured, None]:
        inside = np.array([name == family if family else name not in coloured for name in families])
        colour, marker = drawing.look(coloured.index(family)) if family else (GREY, ".")
        panel.plot(x[inside], y[inside], linestyle="", marker=marker, color=colour, zorder=3, markeredgewidth=0.5,
                   markersize=4.8 if family else 7, markeredgecolor="white")
    limits = [_padded(values) for values in (x, y)]
    panel.set_xlim(limits[0])
    panel.set_ylim(limits[1])
    if len(x) >= FEWEST and np.ptp(x) > 1e-9:
        _fit(panel, x, y, families, sure)
    texts = [drawing.cut(code, 10) for code in some["language"]]
    font = 7.5 if len(texts) <= 16 else 6.3
    inches = [(values - low) / (high - low) * extent for values, (low, high), extent in zip((x, y), limits, size)]
    for text, a, b, away, family in zip(texts, x, y, places(*inches, texts, size, font), families):
        colour = drawing.look(coloured.index(family))[0] if family in coloured else "#333333"
        panel.annotate(text, (a, b), xytext=(away[0] * 72, away[1] * 72), textcoords="offset points", ha="center",
                       va="center", fontsize=font, color=colour, zorder=4)


def _fit(panel: Axes, x: np.ndarray, y: np.ndarray, families: list[str], sure: bool) -> None:
    at = np.linspace(x.min(), x.max(), 40)
    middle, low, high = line(x, y, families, at)
    panel.plot(at, middle, color="#333333", linewidth=1.1, linestyle="-" if sure else (0, (4, 3)), zorder=2)
    if sure:
        panel.fill_between(at, low, high, color="#333333", alpha=0.1, linewidth=0, zorder=1)


def _padded(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = 0.09 * (high - low) or 0.5
    return low - room, high + room


def _title(panel: Axes, task: str, test: pd.Series | None, count: int, inches: float) -> None:
    told = f"{count} languages"
    if test is not None and not math.isnan(test["estimate"]):
        verdict = f"q {words.p_value(test['q_bh'])}" if test["reliable"] else "too few families"
        told = (f"rank correlation {words.number(test['estimate'], sign=True)} "
                f"{words.interval(test['ci_low'], test['ci_high'], sign=True)}, {verdict}, n {test['n']:.0f}")
    panel.set_title(drawing.cut(task, int(inches * 11)), fontsize=9.5, fontweight="bold", loc="left", pad=16)
    panel.text(0, 1.02, told, transform=panel.transAxes, fontsize=drawing.SMALL, color="#333333", va="bottom")


def _legend(figure: Figure, coloured: list[str], width: float) -> None:
    from matplotlib.lines import Line2D

    if not coloured:
        return
    looks = [*((name, *drawing.look(place)) for place, name in enumerate(coloured)), ("one language each", GREY, ".")]
    marks = [Line2D([], [], linestyle="", color=colour, marker=marker, markersize=7 if marker == "." else 5,
                    label=drawing.cut(name, 24)) for name, colour, marker in looks]
    figure.legend(handles=marks, loc="lower left", ncols=max(1, int(width / 1.6)), frameon=False, fontsize=8,
                  borderaxespad=0.3, handletextpad=0.1, columnspacing=1.2)
