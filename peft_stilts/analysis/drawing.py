"""What the pictures of a study share: looks of families and methods, headings, and files as PNG and SVG."""

from __future__ import annotations

import functools
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peft_stilts.analysis import words
from peft_stilts.analysis.figure import COLOURS, MARKERS
from peft_stilts.store import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from peft_stilts.analysis.study import Study

TITLE, SMALL = 10.5, 7.5
"""points of a figure's heading and of the smallest notes"""
LINE = 0.17
"""inches of a line of heading"""


def plain(draw: Callable) -> Callable:
    """Have `draw` take every text from data as it is: a '$' starts no formula."""
    @functools.wraps(draw)
    def drawn(*arguments, **keywords):
        from matplotlib import rc_context

        with rc_context({"text.parse_math": False}):
            return draw(*arguments, **keywords)
    return drawn


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write folder/name.png and .svg, each replaced in one step and the same bytes for the same figure."""
    from matplotlib import rc_context

    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    for path, nameless in zip(paths, ({"Software": None}, {"Date": None, "Creator": None})):
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False}):
            replace_file(path, lambda draft, told=nameless: figure.savefig(draft, dpi=160, metadata=told))
    return paths


def look(place: int) -> tuple[str, str]:
    """(colour, marker) of the place-th thing: the first six differ in both, the first 36 in one of them."""
    return COLOURS[place % len(COLOURS)], MARKERS[(place + place // len(COLOURS)) % len(MARKERS)]


def groups(families: Sequence[str]) -> list[str]:
    """The families with more than one of the languages, largest first: these get a colour, the others are grey."""
    counts = Counter(families)
    return sorted((family for family, count in counts.items() if count > 1), key=lambda name: (-counts[name], name))


def heading(study: Study) -> str:
    """What every picture says of its data: the model, the language left out, the seeds."""
    counts = sorted(study.responses.means["seeds"].unique())
    if not counts:
        seeds = ""
    elif counts[-1] == 1:
        seeds = "1 seed"
    else:
        seeds = f"mean over {counts[0]} to {counts[-1]} seeds" if counts[0] < counts[-1] else \
            f"mean over {counts[0]} seeds"
    without = f"without {', '.join(study.excluded)}" if study.excluded else ""
    return " · ".join(filter(None, [study.responses.heading, seeds, without]))


def titled(figure: Figure, title: str, *lines: str) -> float:
    """Write title and lines at the top left, wrapped to the width; returns the inches that they take."""
    width, height = figure.get_size_inches()
    told = wrapped(title, width * 10.5)
    rest = [part for line in lines if line for part in wrapped(line, width * 13)]
    figure.text(0.1 / width, 1 - 0.08 / height, "\n".join(told), fontsize=TITLE, fontweight="bold", va="top")
    figure.text(0.1 / width, 1 - (0.1 + LINE * len(told)) / height, "\n".join(rest), fontsize=8.5, va="top",
                color="#333333")
    return 0.22 + LINE * len(told) + 0.145 * len(rest)


def wrapped(text: str, characters: float) -> list[str]:
    """The text in lines of at most so many characters, an overlong word cut."""
    return textwrap.wrap(text, max(8, int(characters)))


def cut(text: str, characters: int) -> str:
    """The text, its end replaced by … where it is longer."""
    return text if len(text) <= characters else text[:characters - 1] + "…"


def bare(panel: Axes) -> None:
    """No frame but the axes, small ticks, a faint grid."""
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    panel.tick_params(labelsize=8, length=2.5)
    panel.grid(color="#e9e9e9", linewidth=0.6)
    panel.set_axisbelow(True)


def axis_label(study: Study, prefix: str = "") -> str:
    """'gain (points)' or 'score', with what it is of."""
    unit = "gain (points)" if study.responses.response == "gain" else "score"
    return f"{prefix} {unit}".strip()


def similarity_label(study: Study, measure: str) -> str:
    """The axis of a measure; amounts of text are called by their name."""
    return measure if measure in words.SIZES else f"{measure} · similarity to {words.source(study)}"
