"""The table at the end of a run: baseline, score after the intermediate task and gain, per target and language."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from peft_stilts.analysis import labels, overview, reported
from peft_stilts.results import CONTEXT, summary, unpaired
from peft_stilts.tasks import NOT_COMPARABLE

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

NUMBER_WIDTH = 5
"""At least this many characters a number: '100.0', '+12.3'."""
Line = tuple[str, str, list[str]]
"""(method, name, one cell a column)"""


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
    where there are several. More than MANY intermediate settings are told by their gains alone. A target scored at
    several layers has its usual layer here and the others in a small table of means; several intermediate settings are
    compared in a last table, target by target. Scales and models are never mixed: each has tables of its own under its
    heading. At scale `large`, what is reported stands beside it.
    """
    from rich.markup import escape

    told = summary(frame)
    if not len(told):
        return ["No scores yet."]
    parts: list[RenderableType] = []
    for heading, rows in labels.contexts(told):
        parts += ["", f"[bold]Zero-shot transfer from English · {escape(heading)}[/bold]"]
        usual, curves = labels.by_layer(rows)
        large = reported.shown(rows)
        many = _settings(rows) > labels.MANY
        for label, of_target in labels.targets(usual):
            codes = labels.languages(of_target, order)
            parts += _tables(label, ["avg", *codes], _lines(of_target, ["avg", *codes], many), width)
            target, metric = of_target[["target", "metric"]].iloc[0]
            limited = of_target["method_config"].str.contains('"limit_').any()
            if large and (line := reported.target_line(target, metric, codes, limited)):
                parts.append(f"[dim]{escape(line)}[/dim]")
        for label, of_target in curves:
            parts += _layers(label, of_target, width)
        cells = overview.averages(frame.merge(rows[CONTEXT].drop_duplicates(), on=CONTEXT))
        if cells["intermediate"].nunique() > 1 and cells["target"].nunique() > 1:
            parts += _overview(cells, width)
        lines = reported.headline_lines(cells) if large else []
        parts += [""] * bool(lines) + [f"[dim]{escape(line)}[/dim]" for line in lines]
    return [*parts, *_notes(told, frame)]


def _settings(rows: pd.DataFrame) -> int:
    """How many intermediate settings there are."""
    return len([name for name, _ in labels.intermediates(rows) if name != "none"])


def _tables(title: str, columns: list[str], lines: list[Line], width: int) -> list[RenderableType]:
    """Lines of numbers under a title: as many columns in each table as fit in `width`."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    cell = max(len(number) for _, _, numbers in lines for number in numbers)
    cell = max(cell, NUMBER_WIDTH, *map(len, columns))
    methods, names = (min(max(len(line[index]) for line in lines), max(12, width // 2 - 8)) for index in (0, 1))
    fit = max(1, (width - methods - names - 2) // (cell + 1))
    tables: list[RenderableType] = []
    for start in range(0, len(columns), fit):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
        for size in (methods, names):
            table.add_column(min_width=size, max_width=size, overflow="fold")
        for column in columns[start:start + fit]:
            table.add_column(escape(column), justify="right", min_width=cell, no_wrap=True)
        for index, (method, name, numbers) in enumerate(lines):
            shown = method if index == 0 or lines[index - 1][0] != method else ""
            style = "bold" if name == "gain" else "dim" if name == "none" else ""
            new = index + 1 < len(lines) and lines[index + 1][0] != method
            table.add_row(escape(shown), escape(name), *numbers[start:start + fit], style=style, end_section=new)
        tables += ["", f"[bold]{escape(title)}{', continued' * (start > 0)}[/bold]", table]
    return tables


def _lines(rows: pd.DataFrame, codes: list[str], many: bool) -> list[Line]:
    """The lines of one target: none, +task, gain, +task, gain ...; with `many`: none, gain +task, gain +task ..."""
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
            if many:
                lines.append((method, f"gain +{name}", cells[name]["gain"]))
            else:
                lines += [(method, f"+{name}", cells[name]["score"]), (method, "gain", cells[name]["gain"])]
    return lines


def _layers(label: str, rows: pd.DataFrame, width: int) -> list[RenderableType]:
    """The small table of a target scored at several layers: mean over languages, a column a layer."""
    rows = rows[rows["language"] == "avg"].assign(layer=rows["layer"].fillna(-1))
    layers = sorted(rows["layer"].unique())
    columns = ["usual" if layer < 0 else str(layer) for layer in layers]
    lines = []
    for method, of_method in labels.methods(rows):
        for name, some in labels.intermediates(of_method):
            by_layer = some.set_index("layer")
            for title, value in (("none", "baseline"), (f"+{name}", "score")):
                line = (method, title, [_cell(by_layer, layer, value) for layer in layers])
                lines += [line] * (any(line[2]) and line not in lines)
    baselines = [line for line in lines if line[1] == "none"]
    if len({tuple(line[2]) for line in baselines}) == 1:        # the base encoder, whatever the method
        lines = [("", *baselines[0][1:]), *(line for line in lines if line not in baselines)]
    return _tables(f"{label} by layer, mean over languages", columns, lines, width)


def _overview(cells: pd.DataFrame, width: int) -> list[RenderableType]:
    """The table of mean gains, a line an intermediate setting, a column a target."""
    told = overview.matrix(cells)
    columns = overview.columns(told)
    lines = []
    for method in told["method"].unique():
        for name, some in told[told["method"] == method].groupby("intermediate", sort=False):
            by_target = some.set_index("target")
            lines.append((method, f"+{name}", [_cell(by_target, target, "gain") for target in columns]))
    return _tables("Mean gain over languages, intermediate task by target", list(columns.values()), lines, width)


def _cell(rows: pd.DataFrame, at: str | int, value: str) -> str:
    if at not in rows.index or math.isnan(rows.at[at, value]):
        return ""
    spread = rows.at[at, f"{value}_sd"]
    number = format(round(rows.at[at, value], 1) + 0.0, "+.1f" if value == "gain" else ".1f")     # no "-0.0"
    return number if math.isnan(spread) else f"{number}±{spread:.1f}"


def _notes(told: pd.DataFrame, frame: pd.DataFrame) -> list[RenderableType]:
    """What a reader must know of the numbers: seeds, the average, and what has no baseline."""
    from rich.markup import escape

    seeds = sorted(frame["seed"].unique())
    notes = ["none: no intermediate task; gain: score with it - score without it, in points, same seed.",
             "avg: unweighted mean over the target's languages, English included (as XTREME)."]
    if _settings(told) > 1 and told["target"].nunique() > 1:
        notes.append("mean: over the targets, where a line has them all.")
    if any(labels.by_layer(rows)[1] for _, rows in labels.contexts(told)):
        notes.append("by layer: index into hidden_states, 0 the embeddings; usual: the layer of every other table.")
    if told["target"].isin(NOT_COMPARABLE).any():
        notes.append("bucc_gold mines among gold pairs only, a much easier task than BUCC: not comparable with "
                     "XTREME's bucc2018, and in no mean over targets.")
    if len(seeds) == 1:
        notes.append(f"1 seed ({seeds[0]}): no spread; a gain of a few points may be chance.")
    else:
        counts = sorted(told["seeds"].unique())
        range_ = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        notes.append(f"mean±standard deviation over {range_} seeds ({', '.join(map(str, seeds))}).")
    alone = unpaired(frame)
    if len(alone):
        which = ", ".join(sorted({"/".join(filter(None, (r.target, r.target_variant, r.method, r.intermediate,
                                                         r.intermediate_variant))) for r in alone.itertuples()}))
        notes.append(f"{len(alone)} scores have no baseline of the same settings, and so no gain: {which}.")
    return ["", *(f"[dim]{escape(note)}[/dim]" for note in notes)]
