"""The table at the end of a run: baseline, score after the intermediate task and gain, per target and language."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from peft_stilts.analysis import labels
from peft_stilts.results import summary, unpaired

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

NUMBER_WIDTH = 5
"""At least this many characters a number: '100.0', '+12.3'."""


def render(frame: pd.DataFrame, width: int | None = None, order: Sequence[str] | None = None) -> str:
    """The table as plain text of at most `width` columns (None: the terminal's width, 120 without a terminal).

    See `renderables` for the other arguments.
    """
    from rich.console import Console

    width = shutil.get_terminal_size((120, 24)).columns if width is None else width
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    show(frame, console, order)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


def show(frame: pd.DataFrame, console: Console, order: Sequence[str] | None = None) -> None:
    """Print the table on a rich console, with its styles and as wide as it is."""
    for part in renderables(frame, console.width, order):
        console.print(part, highlight=False)


def renderables(frame: pd.DataFrame, width: int, order: Sequence[str] | None = None) -> list[RenderableType]:
    """Rich tables of the primary metrics in `frame` (results columns), one per target task, at most `width` wide.

    Languages are columns, in `order` or as they come; where they do not fit they go on in a further table.
    The average over languages stands first. Values are means over seeds, with the standard deviation over seeds
    where there are several. Scales and models are never mixed: each has tables of its own under its heading.
    """
    from rich.markup import escape

    told = summary(frame)
    if not len(told):
        return ["No scores yet."]
    parts: list[RenderableType] = []
    for heading, rows in labels.contexts(told):
        parts += ["", f"[bold]Zero-shot transfer from English · {escape(heading)}[/bold]"]
        for label, of_target in labels.targets(rows):
            parts += _target(label, of_target, width, labels.languages(of_target, order))
    return [*parts, *_notes(told, frame)]


def _target(label: str, rows: pd.DataFrame, width: int, codes: list[str]) -> list[RenderableType]:
    """The tables of one target: as many languages in each as fit."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    lines = _lines(rows, ["avg", *codes])
    cell = max(len(number) for _, _, numbers in lines for number in numbers)
    cell = max(cell, NUMBER_WIDTH, *(len(code) for code in codes))
    methods, names = (max(len(line[index]) for line in lines) for index in (0, 1))
    fit = max(1, (width - methods - names - 2) // (cell + 1))
    tables: list[RenderableType] = []
    columns = ["avg", *codes]
    for start in range(0, len(columns), fit):
        chosen = columns[start:start + fit]
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0,
                      title=escape(label) + ", continued" * (start > 0), title_justify="left", title_style="bold")
        table.add_column(min_width=methods, no_wrap=True)
        table.add_column(min_width=names, no_wrap=True)
        for code in chosen:
            table.add_column(code, justify="right", min_width=cell, no_wrap=True)
        for index, (method, name, numbers) in enumerate(lines):
            shown = method if index == 0 or lines[index - 1][0] != method else ""
            style = "bold" if name == "gain" else "dim" if name == "none" else ""
            new = index + 1 < len(lines) and lines[index + 1][0] != method
            table.add_row(escape(shown), escape(name), *numbers[start:start + fit], style=style, end_section=new)
        tables += ["", table]
    return tables


def _lines(rows: pd.DataFrame, codes: list[str]) -> list[tuple[str, str, list[str]]]:
    """(method, line name, one cell a language) of the lines of one target: none, +task, gain, +task, gain ..."""
    lines = []
    for method, of_method in labels.methods(rows):
        cells = {}
        for name, some in labels.intermediates(of_method):
            by_language = some.set_index("language")
            cells[name] = {value: [_cell(by_language, code, value) for code in codes]
                           for value in ("baseline", "score", "gain")}
        # Every intermediate task has the same baseline; a language that one of them lacks is taken from another.
        known = [next((c for c in column if c), "") for column in zip(*(c["baseline"] for c in cells.values()))]
        lines.append((method, "none", known))
        for name in (name for name in cells if name != "none"):
            lines += [(method, f"+{name}", cells[name]["score"]), (method, "gain", cells[name]["gain"])]
    return lines


def _cell(rows: pd.DataFrame, code: str, value: str) -> str:
    if code not in rows.index or math.isnan(rows.at[code, value]):
        return ""
    spread = rows.at[code, f"{value}_sd"]
    number = format(round(rows.at[code, value], 1) + 0.0, "+.1f" if value == "gain" else ".1f")     # no "-0.0"
    return number if math.isnan(spread) else f"{number}±{spread:.1f}"


def _notes(told: pd.DataFrame, frame: pd.DataFrame) -> list[RenderableType]:
    """What a reader must know of the numbers: seeds, the average, and what has no baseline."""
    from rich.markup import escape

    seeds = sorted(frame["seed"].unique())
    notes = ["none: no intermediate task; gain: score with it - score without it, in points, same seed.",
             "avg: unweighted mean over the target's languages, English included (as XTREME)."]
    if len(seeds) == 1:
        notes.append(f"1 seed ({seeds[0]}): no spread; a gain of a few points may be chance.")
    else:
        counts = sorted(told["seeds"].unique())
        range_ = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        notes.append(f"mean±standard deviation over {range_} seeds ({', '.join(map(str, seeds))}).")
    alone = unpaired(frame)
    if len(alone):
        which = ", ".join(sorted({f"{r.target}/{r.method}/{r.intermediate}" for r in alone.itertuples()}))
        notes.append(f"{len(alone)} scores have no baseline of the same settings, and so no gain: {which}.")
    return ["", *(f"[dim]{escape(note)}[/dim]" for note in notes)]
