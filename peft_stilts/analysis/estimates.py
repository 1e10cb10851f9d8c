"""The heat map of rank correlations: intermediate task by target task, a panel a method."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from peft_stilts.analysis import drawing, labels, words
from peft_stilts.analysis.heatmap import CELL, COLOUR_MAP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from peft_stilts.analysis.study import Study

UNSURE, NOTHING = "#e3e3e3", "white"
"""Too few families for a verdict; no such cell, or not defined there."""
LONGEST = 44
"""letters of a row's name"""


@drawing.plain
def draw(study: Study) -> Figure | None:
    """Spearman's coefficients of the headline measure; of every measure, a row each, where there are no more than
    labels.MANY intermediate settings. None without any.

    A star marks what passes at a false discovery rate of 5 %; grey is no verdict, for there are too few families.
    """
    from matplotlib.figure import Figure

    tests = study.correlations
    tests = tests[(tests["coefficient"] == words.RANKS) & tests["estimate"].notna()]
    if not len(tests):
        return None
    measure = words.headline(study)
    many = tests["intermediate"].nunique() > labels.MANY
    tests = words.named(study, tests[tests["measure"] == measure] if many else tests)
    tests = tests.assign(row=_rows(tests, many), passes=words.passes(tests))
    columns, methods = list(tests["task"].unique()), list(tests["label"].unique())
    if not columns:
        return None
    titles = _short(columns)
    shapes = {method: tests.loc[tests["label"] == method, "row"].nunique() for method in methods}
    left = 0.25 + 0.068 * min(LONGEST, max(map(len, tests["row"])))
    across = max(len(columns) * CELL[0], 2.6)
    width = max(left + across + 0.25, 6.4)
    figure = Figure(figsize=(width, sum(rows * CELL[1] * 0.8 + 0.8 for rows in shapes.values()) + 1.2))
    what = f"Rank correlation of {words.response(study)} with " + (
        drawing.similarity_label(study, measure) if many else f"similarity to {words.source(study)}")
    top = drawing.titled(figure, what, drawing.heading(study), "* passes at a false discovery rate of 5 %; grey: too "
                         "few families, no verdict; blue: more similar, more gain".replace(
                             "more gain", "more gain" if study.responses.response == "gain" else "higher score"))
    height = figure.get_size_inches()[1]
    for method in methods:
        tall = shapes[method] * CELL[1] * 0.8
        top += 0.62
        panel = figure.add_axes((left / width, (height - top - tall) / height, len(columns) * CELL[0] / width,
                                 tall / height))
        _panel(panel, tests[tests["label"] == method], columns, titles)
        panel.set_title(drawing.cut(method, 60), fontsize=9.5, fontweight="bold", loc="left")
        top += tall + 0.18
    return figure


def _rows(tests: pd.DataFrame, many: bool) -> list[str]:
    """The name of every test's row."""
    if many:
        return [words.setting(name) for name in tests["intermediate"]]
    one = tests["intermediate"].nunique() == 1
    return [measure if one else f"{words.setting(name)} · {measure}"
            for name, measure in zip(tests["intermediate"], tests["measure"])]


def _short(columns: list[str]) -> list[str]:
    """Column titles without metrics where names alone tell them apart, in lines that fit a cell."""
    short = [column.partition(" (")[0] for column in columns]
    short = short if len(set(short)) == len(short) else columns
    return ["\n".join(drawing.wrapped(drawing.cut(name, 30), 11)) for name in short]


def _panel(panel: Axes, tests: pd.DataFrame, columns: list[str], titles: list[str]) -> None:
    from matplotlib.patches import Rectangle

    rows = list(tests["row"].unique())
    values = np.full((len(rows), len(columns)), np.nan)
    for test in tests.itertuples():
        at = rows.index(test.row), columns.index(test.task)
        dark = test.reliable and abs(test.estimate) > 0.62
        if test.reliable:
            values[at] = test.estimate
        else:
            panel.add_patch(Rectangle((at[1] - 0.5, at[0] - 0.5), 1, 1, color=UNSURE, linewidth=0, zorder=0.5))
        panel.text(at[1], at[0], words.number(test.estimate, sign=True) + "*" * bool(test.passes), ha="center",
                   va="center", fontsize=8, color="white" if dark else "black" if test.reliable else "#555555")
    panel.set_facecolor(NOTHING)
    panel.imshow(np.ma.masked_invalid(values), cmap=COLOUR_MAP, vmin=-1, vmax=1, aspect="auto")
    panel.set_xticks(range(len(columns)), titles, fontsize=8)
    panel.set_yticks(range(len(rows)), [drawing.cut(row, LONGEST) for row in rows], fontsize=8)
    panel.set_xticks(np.arange(0.5, len(columns) - 1), minor=True)
    panel.set_yticks(np.arange(0.5, len(rows) - 1), minor=True)
    panel.grid(which="minor", color="white", linewidth=1.2)
    panel.tick_params(which="both", length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    for side in panel.spines.values():
        side.set_visible(False)
