"""The forest plot: every rank correlation with its interval, grouped by measure of similarity."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from peft_stilts.analysis import drawing, words
from peft_stilts.analysis.figure import GREY
from peft_stilts.analysis.responses import CELL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from peft_stilts.analysis.study import Study

ONE_PANEL = 45
"""More rows than this, and every measure gets a panel."""
NAMED = 45
"""More cells than this are not named one by one, but by their target tasks."""
ACROSS = 5
TITLE = "Rank correlations of {} with similarity to {}, with 95 % intervals"
LEGEND = ("full mark: passes at a false discovery rate of 5 %; open: does not; grey and dotted: too few families, "
          "no verdict")


@drawing.plain
def draw(study: Study) -> Figure | None:
    """Spearman's coefficients; None without any. Colours are methods.

    Few are rows under the name of their measure in one panel; many have a panel a measure, in which the same cell is
    at the same height, and are named by target task only where there are more than NAMED cells.
    """
    tests = study.correlations
    tests = tests[(tests["coefficient"] == words.RANKS) & tests["estimate"].notna()]
    if not len(tests):
        return None
    tests = words.named(study, tests)
    tests = tests.assign(passes=words.passes(tests))
    cells = tests[[*CELL, "label", "task"]].drop_duplicates().sort_values(
        ["task", "intermediate", "label"], key=lambda column: column.map(
            {name: place for place, name in enumerate(column.unique())}), kind="stable").reset_index(drop=True)
    tests = tests.merge(cells.assign(cell=cells.index, name=_names(cells)), on=[*CELL, "label", "task"])
    methods = list(cells["label"].unique())
    return (_single if len(tests) <= ONE_PANEL else _several)(study, tests, methods)


def _names(cells: pd.DataFrame) -> list[str]:
    """What tells cells apart: target, intermediate setting, method; '' where there is one cell."""
    parts = {"task": list(cells["task"]), "intermediate": [words.setting(name) for name in cells["intermediate"]],
             "label": list(cells["label"])}
    kept = [column for column in parts.values() if len(set(column)) > 1]
    return [drawing.cut(", ".join(filter(None, some)), 44) for some in zip(*kept)] if kept else [""] * len(cells)


def _single(study: Study, tests: pd.DataFrame, methods: list[str]) -> Figure:
    """All in one panel, each measure's rows under its name."""
    from matplotlib.figure import Figure

    one = tests["cell"].nunique() == 1
    heights, ticks, heads, place = [], [], [], 0
    order = []
    for measure, some in tests.groupby("measure", sort=False):
        if not one:
            heads.append((place, measure))
            place += 1
        for row in some.sort_values("cell").itertuples():
            order.append(row.Index)
            heights.append(place)
            ticks.append(measure if one else row.name)
            place += 1
        place += 0.4 * (not one)
    characters = max(map(len, [*ticks, *(name for _, name in heads)]))
    left = min(3.4, 0.35 + 0.075 * characters)
    size = (4.4, 0.19 * place + 0.25)
    width = left + size[0] + 0.2
    figure = Figure(figsize=(width, size[1] + 1.75))
    top = _title(figure, study)
    height = figure.get_size_inches()[1]
    panel = figure.add_axes((left / width, (height - top - 0.1 - size[1]) / height, size[0] / width, size[1] / height))
    _rows(panel, tests.loc[order], np.array(heights), methods)
    panel.set_ylim(place - 0.2, -0.8)
    panel.set_yticks(heights, ticks, fontsize=8)
    for at, measure in heads:
        panel.annotate(measure, (0, at), xycoords=("axes fraction", "data"), xytext=(-left * 72 + 8, 0),
                       textcoords="offset points", fontsize=8.5, fontweight="bold", va="center", annotation_clip=False)
    _legend(figure, methods)
    return figure


def _several(study: Study, tests: pd.DataFrame, methods: list[str]) -> Figure:
    """A panel a measure; the same cell is at the same height in all."""
    from matplotlib.figure import Figure

    measures = list(tests["measure"].unique())
    cells = tests[["cell", "name", "task"]].drop_duplicates().sort_values("cell")
    each = 0.17 if len(cells) <= NAMED else max(0.02, min(0.06, 8 / len(cells)))
    names = cells["name"] if len(cells) <= NAMED else cells["task"]
    left = min(3.4, 0.4 + 0.07 * max(map(len, names)))
    across = min(ACROSS, len(measures))
    down = math.ceil(len(measures) / across)
    size = (1.9, max(1.5, each * len(cells) + 0.1))
    width = left + across * (size[0] + 0.15) + 0.1
    figure = Figure(figsize=(width, down * (size[1] + 0.55) + 1.45))
    top = _title(figure, study)
    height = figure.get_size_inches()[1]
    for place, measure in enumerate(measures):
        x = left + (place % across) * (size[0] + 0.15)
        y = height - top - 0.25 - size[1] - (place // across) * (size[1] + 0.55)
        panel = figure.add_axes((x / width, y / height, size[0] / width, size[1] / height))
        some = tests[tests["measure"] == measure]
        _rows(panel, some, some["cell"].to_numpy(), methods)
        panel.set_ylim(len(cells) - 0.4, -0.6)
        panel.set_title(drawing.cut(measure, 24), fontsize=9, fontweight="bold", loc="left", pad=4)
        _sides(panel, cells, first=place % across == 0)
    _legend(figure, methods)
    return figure


def _sides(panel: Axes, cells: pd.DataFrame, first: bool) -> None:
    """Names at the left: of cells, or of target tasks between lines."""
    if len(cells) <= NAMED:
        panel.set_yticks(cells["cell"], cells["name"] if first else [""] * len(cells), fontsize=7.5)
        return
    spans = cells.groupby("task", sort=False)["cell"].agg(["min", "max"])
    for end in spans["max"].iloc[:-1]:
        panel.axhline(end + 0.5, color="#999999", linewidth=0.6)
    panel.set_yticks((spans["min"] + spans["max"]) / 2, spans.index if first else [""] * len(spans), fontsize=8)


def _rows(panel: Axes, tests: pd.DataFrame, heights: np.ndarray, methods: list[str]) -> None:
    """Estimates and intervals at their heights."""
    dense = len(tests) > NAMED
    drawing.bare(panel)
    panel.grid(visible=False, axis="y")
    panel.axvline(0, color="black", linewidth=0.8, zorder=1.5)
    sure = tests["reliable"].astype(bool).to_numpy()
    for place, method in enumerate(methods):
        for judged in (True, False):
            inside = (tests["label"] == method).to_numpy() & (sure == judged)
            some, at = tests[inside], heights[inside]
            colour, marker = drawing.look(place) if judged else (GREY, drawing.look(place)[1])
            ends = some[["ci_low", "ci_high"]].notna().all(axis=1).to_numpy()
            panel.hlines(at[ends], some["ci_low"][ends], some["ci_high"][ends], color=colour, zorder=2,
                         linewidth=0.5 if dense else 1.2, linestyle="-" if judged else ":", alpha=0.6 if dense else 0.9)
            for full in (True, False):
                shown = (some["passes"] == full).to_numpy()
                panel.plot(some["estimate"][shown], at[shown], linestyle="", marker=marker, color=colour, zorder=3,
                           markersize=1.8 if dense else 4.6, markerfacecolor=colour if full else "white",
                           markeredgewidth=0.4 if dense else 1.0)
    panel.set_xlim(-1.05, 1.05)
    panel.set_xticks([-1, -0.5, 0, 0.5, 1], ["-1", "", "0", "", "1"])


def _title(figure: Figure, study: Study) -> float:
    return drawing.titled(figure, TITLE.format(words.response(study), words.source(study)), drawing.heading(study),
                          LEGEND)


def _legend(figure: Figure, methods: list[str]) -> None:
    from matplotlib.lines import Line2D

    if len(methods) < 2:
        return
    marks = [Line2D([], [], linestyle="-", color=drawing.look(place)[0], marker=drawing.look(place)[1], markersize=5,
                    label=drawing.cut(method, 40)) for place, method in enumerate(methods)]
    figure.legend(handles=marks, loc="lower left", ncols=max(1, int(figure.get_size_inches()[0] / 2)), frameon=False,
                  fontsize=8, borderaxespad=0.3, columnspacing=1.2)
