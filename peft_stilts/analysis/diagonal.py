"""The picture of adapters against full fine-tuning: the gain of one on the gain of the other, a mark a language."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from peft_stilts.analysis import drawing, labels, scatter, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from peft_stilts.analysis.study import Study

REFERENCE = "full"
KEY = ["intermediate", "target", "metric", "language"]
ALL = "every intermediate task"
INCHES = 3.3
NAMED = 6
"""languages named in a panel with many marks: those farthest from the diagonal"""


def pairs(study: Study) -> pd.DataFrame:
    """The means of full fine-tuning and of an adapter side by side: columns of KEY, `task`, `reference` and `label`
    (methods with what tells their configurations apart), `full` and `adapter` (points). Without excluded languages."""
    rows = words.named(study, study.responses.means).dropna(subset=["value"])
    rows = rows[~rows["language"].isin(study.excluded)]
    full, rest = rows[rows["method"] == REFERENCE], rows[rows["method"] != REFERENCE]
    left = full[[*KEY, "label", "value"]].rename(columns={"label": "reference", "value": "full"})
    right = rest[[*KEY, "task", "label", "value"]].rename(columns={"value": "adapter"})
    return right.merge(left, on=KEY)


@drawing.plain
def draw(study: Study) -> Figure | None:
    """A panel for every adapter, configuration of full and intermediate setting (more than labels.MANY settings share
    one), colours are target tasks; the band is ± `study.margin`. None where no cell has both."""
    from matplotlib.figure import Figure

    both = pairs(study)
    if not len(both):
        return None
    if both["intermediate"].nunique() > labels.MANY:
        both = both.assign(intermediate=ALL)
    panels = list(both.groupby(["reference", "label", "intermediate"], sort=False))
    tasks = list(both["task"].unique())
    across = min(3, len(panels))
    down = math.ceil(len(panels) / across)
    width = max(across * (INCHES + 0.55) + 0.3, 5.6)
    columns = max(1, int(width / 1.7))
    legend = 0.22 * math.ceil(len(tasks) / columns) + 0.12
    figure = Figure(figsize=(width, down * (INCHES + 0.8) + 0.95 + legend))
    what = words.response(study)
    top = drawing.titled(figure, f"Adapters against full fine-tuning: {what}", drawing.heading(study),
                         f"one mark a language and target task; band: ±{words.points(study.margin)}; above the line "
                         f"the adapter's {what[:-1]} is larger")
    height = figure.get_size_inches()[1]
    for place, ((reference, label, name), some) in enumerate(panels):
        left = 0.6 + (place % across) * (INCHES + 0.55)
        bottom = height - top - 0.3 - INCHES - (place // across) * (INCHES + 0.8)
        panel = figure.add_axes((left / width, bottom / height, INCHES / width, INCHES / height))
        _panel(panel, some, tasks, study.margin)
        where = name if name == ALL else words.setting(name)
        panel.set_title(drawing.cut(", ".join(filter(None, [label, where])), 42), fontsize=9, fontweight="bold",
                        loc="left")
        panel.set_xlabel(drawing.axis_label(study, drawing.cut(reference, 24)), fontsize=8.5)
        panel.set_ylabel(drawing.axis_label(study, drawing.cut(label, 24)), fontsize=8.5, labelpad=1)
    _legend(figure, tasks, columns)
    return figure


def _panel(panel: Axes, some: pd.DataFrame, tasks: list[str], margin: float) -> None:
    x, y = some["full"].to_numpy(float), some["adapter"].to_numpy(float)
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    room = max(0.06 * (high - low), margin)
    ends = np.array([low - room, high + room])
    drawing.bare(panel)
    panel.fill_between(ends, ends - margin, ends + margin, color="#0072B2", alpha=0.12, linewidth=0, zorder=1)
    panel.plot(ends, ends, color="#333333", linewidth=0.9, zorder=2)
    for axis in (panel.axhline, panel.axvline):
        if ends[0] < 0 < ends[1]:
            axis(0, color="#999999", linewidth=0.7, zorder=1.5)
    alpha = 0.9 if len(x) <= 60 else 0.55 if len(x) <= 400 else 0.35
    for place, task in enumerate(tasks):
        inside = (some["task"] == task).to_numpy()
        colour, marker = drawing.look(place)
        panel.plot(x[inside], y[inside], linestyle="", marker=marker, color=colour, alpha=alpha, zorder=3,
                   markersize=5 if len(x) <= 60 else 3.6, markeredgewidth=0)
    panel.set_xlim(ends)
    panel.set_ylim(ends)
    far = np.argsort(-np.abs(y - x), kind="stable")[:len(x) if len(x) <= 12 else NAMED]
    texts = [drawing.cut(code, 10) for code in some["language"].iloc[far]]
    inches = [(values[far] - ends[0]) / (ends[1] - ends[0]) * INCHES for values in (x, y)]
    for text, at, away in zip(texts, far, scatter.places(*inches, texts, (INCHES, INCHES), 7)):
        panel.annotate(text, (x[at], y[at]), xytext=(away[0] * 72, away[1] * 72), textcoords="offset points",
                       ha="center", va="center", fontsize=7, zorder=4)


def _legend(figure: Figure, tasks: list[str], columns: int) -> None:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], linestyle="", color=drawing.look(place)[0], marker=drawing.look(place)[1], markersize=5.5,
                    label=drawing.cut(task, 26)) for place, task in enumerate(tasks)]
    figure.legend(handles=marks, loc="lower left", ncols=columns, frameon=False, fontsize=8, borderaxespad=0.3,
                  handletextpad=0.1, columnspacing=1.2)
