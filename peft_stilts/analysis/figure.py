"""The picture of a run: the gain of every language, a panel a target task, a colour a method, a dot a seed."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from peft_stilts.analysis import heatmap, labels
from peft_stilts.results import gains, replace_file, summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by readers with any colour vision; each method also has its own marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
PANEL_INCHES = 2.1
GREY, ABSENT = "#6b6b6b", "#f6f6f6"
APART = 0.36
"""Methods of one language stand this far apart, in line heights: nearer to one another than to the next language."""


def write(frame: pd.DataFrame, path: Path, order: Sequence[str] | None = None) -> bool:
    """Draw the gains in `frame` (results columns) into the PNG `path`, replaced in one step; False: there are none."""
    return save(draw(frame, order), path)


def save(figure: Figure | None, path: Path) -> bool:
    """Write the figure as the PNG `path`, replaced in one step; False when there is none."""
    if figure is None:
        return False
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda draft: figure.savefig(draft, dpi=160, metadata={"Software": None}))
    return True


def draw(frame: pd.DataFrame, order: Sequence[str] | None = None) -> Figure | None:
    """The figure, or None when no score has a baseline.

    Columns of panels are target tasks; rows are intermediate tasks (and scales, which never share a panel). In a panel
    each language has a line, in `order` (such as by distance from English) or as it comes, and the average stands
    apart on top. A large mark is the mean over seeds, joined to zero; with several seeds, small dots are the seeds.
    More than MANY intermediate settings are a heat map of averages instead (`heatmap.draw`). Other layers than the
    usual are left out: they are a curve (`curve.draw`).
    """
    from matplotlib.figure import Figure

    frame = frame[frame["primary"]]
    usual = [labels.by_layer(some)[0] for _, some in labels.contexts(frame)]
    frame = pd.concat(usual) if usual else frame
    means = summary(frame).dropna(subset=["gain"])
    if not len(means):
        return None
    if len(list(labels.intermediates(means))) > labels.MANY:
        return heatmap.draw(frame)
    seeds = gains(frame)
    rows = [(heading, name, some) for heading, of_context in labels.contexts(means)
            for name, some in labels.intermediates(of_context)]
    targets = [label for label, _ in labels.targets(means)]
    methods = [label for label, _ in labels.methods(means)]
    heights = [_inches(len(labels.languages(some)), len(methods)) for _, _, some in rows]
    width = max(5.2, PANEL_INCHES * len(targets) + 0.7)
    figure = Figure(figsize=(width, sum(heights) + 1.3), layout="constrained")
    grid = figure.subplots(len(rows), len(targets), sharex="col", sharey="row", squeeze=False,
                           height_ratios=heights)
    for (heading, name, some), panels in zip(rows, grid):
        codes = labels.languages(some, order)
        parts = dict(labels.targets(some))
        for target, panel in zip(targets, panels):
            if target in parts:
                _panel(panel, parts[target], _same(seeds, parts[target]), codes, methods)
            else:
                panel.text(0.5, 0.5, "not scored", transform=panel.transAxes, ha="center", color=GREY, fontsize=8)
        told = textwrap.wrap(f"after {name}", 22) + heading.split(" · ") * (not _one(rows, 0))
        panels[0].set_ylabel("\n".join(told), fontsize=9.5)
    for target, panel in zip(targets, grid[0]):
        panel.set_title("\n".join(textwrap.wrap(target, 24)), fontsize=10, fontweight="bold")
    for panel in grid[-1]:
        panel.set_xlabel("gain (points)", fontsize=9)
    _head(figure, rows, methods, sorted(frame["seed"].unique()), width)
    return figure


def _inches(languages: int, methods: int) -> float:
    """Height of a panel: room for a line of 8-point text a language, more where several methods share a line."""
    line = 0.15 + (0.05 if languages <= 15 else 0.025) * (methods - 1)
    return max(1.6, (languages + 2.6) * line)


def _panel(panel: Axes, means: pd.DataFrame, seeds: pd.DataFrame, codes: list[str], methods: list[str]) -> None:
    """One target task after one intermediate task: a line a language, the average on top, methods side by side."""
    from matplotlib.ticker import MaxNLocator

    place = {code: index + 1.6 for index, code in enumerate(codes)} | {"avg": 0.0}
    many = seeds["seed"].nunique() > 1
    of_seeds = dict(labels.methods(seeds))
    for label, some in labels.methods(means):
        index = methods.index(label) if label in methods else 0
        shift = (index - (len(methods) - 1) / 2) * min(APART, 0.7 / len(methods))
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        height = [place[code] + shift for code in some["language"]]
        panel.hlines(height, 0, some["gain"], color=colour, linewidth=1.1, alpha=0.45 if many else 0.8, zorder=2)
        if many:
            dots = _with_average(of_seeds[label], set(some["language"]))
            panel.plot(dots["gain"], [place[code] + shift for code in dots["language"]], linestyle="", marker=".",
                       markersize=4.2, color=colour, alpha=0.6, markeredgewidth=0, zorder=3)
        panel.plot(some["gain"], height, linestyle="", marker=marker, markersize=4.6, color=colour,
                   markeredgecolor="white", markeredgewidth=0.6, zorder=4)
    panel.set_axisbelow(True)
    panel.axvline(0, color="black", linewidth=0.9, zorder=1.5)
    panel.axhline(0.8, color=GREY, linewidth=0.6)
    panel.set_yticks(list(place.values()), list(place))
    panel.set_ylim(max(place.values()) + 0.7, -0.7)
    panel.tick_params(axis="both", labelsize=8, length=0)
    panel.grid(axis="x", color="#e3e3e3", linewidth=0.7)
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.margins(x=0.08)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    absent = set(codes) - set(means["language"])
    for code in absent:                    # a language that this target task does not have
        panel.axhspan(place[code] - 0.5, place[code] + 0.5, color=ABSENT, linewidth=0, zorder=0)


def _with_average(rows: pd.DataFrame, languages: set[str]) -> pd.DataFrame:
    """(language, gain) of each seed, and 'avg' for the seeds that have every language."""
    rows = rows[["language", "seed", "gain"]]
    complete = rows.groupby("seed").filter(lambda some: set(some["language"]) == languages - {"avg"})
    average = complete.groupby("seed")["gain"].mean().reset_index().assign(language="avg")
    return pd.concat([rows, average], ignore_index=True)


def _same(seeds: pd.DataFrame, means: pd.DataFrame) -> pd.DataFrame:
    """The rows of single seeds that went into the means."""
    shared = [column for column in means if column in seeds and column not in ("baseline", "score", "gain", "language")]
    return seeds.merge(means[shared].drop_duplicates(), on=shared)


def _one(rows: list[tuple[str, str, pd.DataFrame]], index: int) -> bool:
    return len({row[index] for row in rows}) == 1


def _head(figure: Figure, rows: list, methods: list[str], seeds: list[int], width: float) -> None:
    """Title, what is shown of which model, and the legend."""
    from matplotlib.lines import Line2D

    model = rows[0][0] if _one(rows, 0) else "several scales"
    several = f"large marks: mean over {len(seeds)} seeds, dots: seeds" if len(seeds) > 1 else "1 seed, no spread"
    title = "Zero-shot gain from intermediate training" + (f": {rows[0][1]}" if _one(rows, 1) else "")
    characters = int(width * 11)
    lines = textwrap.wrap(title, characters) + textwrap.wrap(f"{model} · {several}", int(characters * 1.15))
    figure.suptitle("\n".join(lines), fontsize=10.5, x=0.01, ha="left")
    marks = [Line2D([], [], linestyle="", color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)],
                    markersize=6, label=label) for i, label in enumerate(methods)]
    figure.legend(handles=marks, loc="outside lower left", ncols=min(len(methods), 4), frameon=False, fontsize=9)
