"""The picture of many intermediate tasks: mean gains as a heat map, intermediate task by target, a panel a method."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from peft_stilts.analysis import labels, overview
from peft_stilts.tasks import NOT_COMPARABLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOUR_MAP = "RdBu"
"""Loss red, gain blue, nothing white: told apart with any colour vision, and every cell has its number besides."""
CELL = (0.78, 0.33)
"""Width and height of a cell in inches: room for '+12.3' over '±1.2'."""
MISSING = "#e9e9e9"


def draw(frame: pd.DataFrame) -> Figure | None:
    """The heat map of the gains in `frame` (results columns), averaged over languages; None when there are none.

    Rows are intermediate settings, columns target tasks, the mean over targets first where there are several. Methods
    and contexts (scales, models) have panels of their own; all share one scale of colours. Under a number stands the
    standard deviation over seeds where there are several. Grey: not scored.
    """
    from matplotlib.figure import Figure

    blocks = [(heading, method, told[told["method"] == method]) for heading, told in _matrices(frame)
              for method in told["method"].unique()]
    if not blocks:
        return None
    shapes = [(some["intermediate"].nunique(), some["target"].nunique()) for _, _, some in blocks]
    names = max(len(name) for _, _, some in blocks for name in some["intermediate"])
    heights = [rows * CELL[1] + 0.75 for rows, _ in shapes]
    width = max(6.5, max(columns for _, columns in shapes) * CELL[0] + names * 0.075 + 0.9)
    figure = Figure(figsize=(width, sum(heights) + 0.8), layout="constrained")
    panels = figure.subplots(len(blocks), 1, squeeze=False, height_ratios=heights)[:, 0]
    limit = max(1.0, *(some["gain"].abs().max() for _, _, some in blocks))
    headings = list(dict.fromkeys(heading for heading, _, _ in blocks))
    for (heading, method, some), panel in zip(blocks, panels):
        image = _panel(panel, some, limit)
        title = method if len(headings) == 1 else f"{method} · {heading}"
        panel.set_title(title, fontsize=10, fontweight="bold", loc="left")
    bar = figure.colorbar(image, ax=list(panels), shrink=0.5, pad=0.01, aspect=30)
    bar.set_label("gain (points)", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    _head(figure, frame, headings, width)
    return figure


def _matrices(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    found = [(heading, overview.averages(rows)) for heading, rows in labels.contexts(frame)]
    return [(heading, overview.matrix(cells)) for heading, cells in found if len(cells)]


def _panel(panel: Axes, told: pd.DataFrame, limit: float):
    """One method: numbers on their colours, intermediate settings from the top in their order."""
    columns, rows = overview.columns(told), list(told["intermediate"].unique())
    place = {column: number for number, column in enumerate(columns)}
    values = np.full((len(rows), len(columns)), np.nan)
    for cell in told.itertuples():
        at = rows.index(cell.intermediate), place[cell.target]
        values[at] = cell.gain
        several = not np.isnan(cell.gain_sd)
        colour = "white" if abs(cell.gain) > 0.62 * limit else "black"
        panel.text(at[1], at[0] - 0.14 * several, f"{round(cell.gain, 1) + 0.0:+.1f}", ha="center", va="center",
                   fontsize=8.5, color=colour)
        if several:
            panel.text(at[1], at[0] + 0.25, f"±{cell.gain_sd:.1f}", ha="center", va="center", fontsize=6.5,
                       color=colour)
    panel.set_facecolor(MISSING)
    image = panel.imshow(np.ma.masked_invalid(values), cmap=COLOUR_MAP, vmin=-limit, vmax=limit, aspect="auto")
    panel.set_xticks(range(len(columns)), columns.values(), fontsize=8.5)
    panel.set_yticks(range(len(rows)), [f"+{name}" for name in rows], fontsize=8.5)
    panel.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
    panel.set_xticks(np.arange(0.5, len(columns) - 1), minor=True)
    panel.set_yticks(np.arange(0.5, len(rows) - 1), minor=True)
    panel.grid(which="minor", color="white", linewidth=1.2)
    panel.tick_params(which="minor", length=0)
    if overview.MEAN in columns:
        panel.axvline(0.5, color="black", linewidth=1.2)
    for side in panel.spines.values():
        side.set_visible(False)
    return image


def _head(figure: Figure, frame: pd.DataFrame, headings: list[str], width: float) -> None:
    """Title, and what is shown of which model."""
    import textwrap

    seeds = frame["seed"].nunique()
    told = [headings[0] if len(headings) == 1 else "several scales", "mean over the languages of each target",
            f"mean over {seeds} seeds ± standard deviation" if seeds > 1 else "1 seed, no spread"]
    if frame["target"].isin(NOT_COMPARABLE).any():
        told.append("* not comparable with XTREME, in no mean")
    lines = ["Zero-shot gain from intermediate training, intermediate task by target",
             *textwrap.wrap(" · ".join(told), int(width * 12))]
    figure.suptitle("\n".join(lines), fontsize=10.5, x=0.01, ha="left")
