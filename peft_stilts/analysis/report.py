"""The report of a study: summary.md, table.tex, figures as PNG and SVG, and report.html."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from peft_stilts.analysis import diagonal, drawing, estimates, forest, page, scatter, summary
from peft_stilts.store import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from peft_stilts.analysis.study import Study


def write(study: Study, folder: Path) -> list[Path]:
    """Write the report into `folder`, made when needed; each file is replaced in one step. The paths of all.

    Figures that the study has nothing for are not written: one method has no diagonal.
    """
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    pictures, written = [], []
    for name, title, figure in figures(study):
        paths = drawing.save(figure, folder / "figures", name)
        pictures.append((title, f"figures/{paths[0].name}"))
        written += paths
    told = summary.sections(study)
    texts = {"summary.md": summary.markdown(study, told, pictures), "table.tex": summary.latex(study),
             "report.html": page.build(study, told)}
    for name, text in texts.items():
        write_atomic(folder / name, text)
    return [*(folder / name for name in texts), *written]


def figures(study: Study) -> Iterator[tuple[str, str, Figure]]:
    """(file name without its end, title, figure), one after another."""
    for place, (title, figure) in enumerate(scatter.figures(study), start=1):
        slug = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")[:48]
        yield f"scatter_{place}_{slug}".rstrip("_"), f"scatter: {title}", figure
    for name, title, module in (("estimates", "heat map of rank correlations", estimates),
                                ("diagonal", "adapters against full fine-tuning", diagonal),
                                ("forest", "rank correlations with intervals", forest)):
        figure = module.draw(study)
        if figure is not None:
            yield name, title, figure
