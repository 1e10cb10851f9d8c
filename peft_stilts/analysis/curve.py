"""The curve of `--layers`: how well each layer of the encoder finds translations, a panel a retrieval target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from peft_stilts.analysis import labels
from peft_stilts.analysis.figure import save
from peft_stilts.results import summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("black", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette; black is the encoder without intermediate training."""
STYLES = ("-", "--", ":", "-.")
BASE = "no intermediate task"


def write(frame: pd.DataFrame, path: Path, usual_layer: int | None) -> bool:
    """Draw the curves in `frame` (results columns) into the PNG `path`, replaced in one step; False: there are none.

    `usual_layer`: the index into hidden_states that an empty target_variant stands for (None: unknown, so that score is
    left out).
    """
    return save(draw(frame, usual_layer), path)


def curves(frame: pd.DataFrame, usual_layer: int | None) -> pd.DataFrame:
    """Mean scores over seeds of every layer: columns `heading`, `panel`, `intermediate`, `method` (labels for people),
    `language` (avg among them), `layer` (int: index into hidden_states, 0 the embeddings), `score` (0..100).

    The encoder without intermediate training is BASE with method '', where it is the same for every method.
    """
    parts = []
    for heading, rows in labels.contexts(summary(frame)):
        for label, some in labels.by_layer(rows)[1]:
            layer = some["layer"] if usual_layer is None else some["layer"].fillna(usual_layer)
            some = some.assign(layer=layer, heading=heading, panel=label, intermediate=labels.column(
                some, labels.intermediates(some)), method=labels.column(some, labels.methods(some)))[layer.notna()]
            base = some.dropna(subset=["baseline"]).assign(score=lambda rows: rows["baseline"], intermediate=BASE)
            same = base.groupby(["language", "layer"])["score"].nunique().le(1).all()
            base = base.assign(method="") if same else base
            parts += [base, some[(some["intermediate"] != "none") & some["score"].notna()]]
    columns = ["heading", "panel", "intermediate", "method", "language", "layer", "score"]
    if not parts:
        return pd.DataFrame(columns=columns)
    return pd.concat(parts)[columns].drop_duplicates(ignore_index=True).astype({"layer": int, "score": float})


def draw(frame: pd.DataFrame, usual_layer: int | None) -> Figure | None:
    """The figure, or None when no target was scored at several layers.

    Columns of panels are targets (another pooling, or centred vectors, is a panel of its own), rows are contexts. Bold
    lines are means over the target's languages, thin ones single languages; a colour is an intermediate setting, a
    line style a method. The dotted upright line is the usual layer.
    """
    from matplotlib.figure import Figure

    told = curves(frame, usual_layer)
    if not len(told):
        return None
    headings, names = list(told["heading"].unique()), list(told["panel"].unique())
    lines = [tuple(pair) for pair in told[["intermediate", "method"]].drop_duplicates().itertuples(index=False)]
    lines.sort(key=lambda pair: pair[0] != BASE)
    figure = Figure(figsize=(max(5.5, 4.4 * len(names)), 3.3 * len(headings) + 0.5 + 0.2 * len(lines)),
                    layout="constrained")
    panels = figure.subplots(len(headings), len(names), squeeze=False, sharey="row")
    for row, heading in zip(panels, headings):
        for panel, name in zip(row, names):
            some = told[(told["heading"] == heading) & (told["panel"] == name)]
            if len(some):
                _panel(panel, some, lines, usual_layer)
            else:
                panel.set_axis_off()
            panel.set_title(name, fontsize=10, fontweight="bold")
        row[0].set_ylabel("\n".join(["score"] + heading.split(" · ") * (len(headings) > 1)), fontsize=9)
    _head(figure, headings, lines, frame["seed"].nunique())
    return figure


def _panel(panel: Axes, told: pd.DataFrame, lines: list[tuple[str, str]], usual_layer: int | None) -> None:
    from matplotlib.ticker import MaxNLocator

    faint = 0.3 if told["language"].nunique() * len(lines) < 60 else 0.12
    for pair in lines:
        some = told[(told["intermediate"] == pair[0]) & (told["method"] == pair[1])]
        colour, style = _look(pair, lines)
        for language, scores in some.sort_values("layer").groupby("language", sort=False):
            mean = language == "avg"
            panel.plot(scores["layer"], scores["score"], linestyle=style, color=colour, zorder=3 if mean else 2,
                       linewidth=2.2 if mean else 0.5, alpha=1.0 if mean else faint)
    if usual_layer is not None:
        panel.axvline(usual_layer, color="#6b6b6b", linewidth=0.9, linestyle=":", zorder=1)
    panel.set_xlabel("layer (index into hidden_states; 0: embeddings)", fontsize=9)
    panel.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    panel.tick_params(labelsize=8)
    panel.grid(color="#e3e3e3", linewidth=0.6)
    panel.set_ylim(bottom=0)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def _look(pair: tuple[str, str], lines: list[tuple[str, str]]) -> tuple[str, str]:
    """Colour and line style of (intermediate setting, method)."""
    settings = [BASE, *dict.fromkeys(name for name, _ in lines if name != BASE)]
    methods = list(dict.fromkeys(method for _, method in lines if method))
    style = STYLES[methods.index(pair[1]) % len(STYLES)] if pair[1] else "-"
    return COLOURS[settings.index(pair[0]) % len(COLOURS)], style


def _head(figure: Figure, headings: list[str], lines: list[tuple[str, str]], seeds: int) -> None:
    from matplotlib.lines import Line2D

    model = headings[0] if len(headings) == 1 else "several scales"
    figure.suptitle(f"Retrieval by layer\n{model} · bold: mean over languages, thin: languages · "
                    + (f"mean over {seeds} seeds" if seeds > 1 else "1 seed"), fontsize=10.5, x=0.01, ha="left")
    marks = [Line2D([], [], color=colour, linestyle=style, linewidth=2.2, label=" ".join(
        [pair[0] if pair[0] == BASE else f"after {pair[0]}", *([f"({pair[1]})"] if pair[1] else [])]))
             for pair in lines for colour, style in [_look(pair, lines)]]
    figure.legend(handles=marks, loc="outside lower left", ncols=2, frameon=False, fontsize=8.5)
