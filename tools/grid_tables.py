"""The tables of a whole grid for docs/grid.md: baselines, gains of every intermediate task on every target, and costs.

    python tools/grid_tables.py runs_grid                          # prints them; several folders are joined
    python tools/grid_tables.py runs_grid --write docs/grid.md     # and puts them between that file's marks

Every number is a mean over seeds with its standard deviation (n - 1). Gains are averaged over the languages other than
English, in which nothing was trained.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from marks import fill  # noqa: E402

from peft_stilts import results  # noqa: E402
from peft_stilts.errors import StiltsError  # noqa: E402
from peft_stilts.progress import clock  # noqa: E402
from peft_stilts.tasks import INTERMEDIATE, TARGETS  # noqa: E402

ORDER = (*INTERMEDIATE, "all")


def tables(frame: pd.DataFrame, stages: pd.DataFrame) -> str:
    """All tables as Markdown; `frame`: results rows of one scale, `stages`: the stages table beside them."""
    frame = frame[frame["primary"] & (frame["intermediate_variant"] == "") & (frame["target_variant"] == "")]
    parts = [baselines(frame)]
    parts += [gains(frame, method) for method in dict.fromkeys(frame["method"])]
    return "\n\n".join([*parts, costs(frame, stages)]) + "\n"


def baselines(frame: pd.DataFrame) -> str:
    """Scores without intermediate task: English, and the mean over the other languages."""
    none = frame[frame["intermediate"] == "none"]
    targets = [target for target in TARGETS if target in set(none["target"])]
    lines = ["**Without intermediate task** (English / mean of the other languages)", "", _row("method", *targets),
             _rule(len(targets))]
    for method, rows in none.groupby("method", sort=False):
        cells = [f"{_told(rows, target, 'score', True)} / {_told(rows, target, 'score', False)}" for target in targets]
        lines.append(_row(method, *cells))
    return "\n".join(lines)


def gains(frame: pd.DataFrame, method: str) -> str:
    """Gain over the languages other than English of every intermediate task on every target, by one method."""
    pairs = results.gains(frame[frame["method"] == method])
    targets = [target for target in TARGETS if target in set(pairs["target"])]
    tasks = [task for task in ORDER if task in set(pairs["intermediate"])]
    lines = [f"**Gain outside English, {method}**", "", _row("after", *targets, "mean"), _rule(len(targets) + 1)]
    for task in tasks:
        rows = pairs[pairs["intermediate"] == task]
        others = rows[rows["language"] != "en"]
        by_target = others.groupby(["seed", "target"])["gain"].mean()
        whole = by_target.groupby("seed").mean()
        lines.append(_row(task, *(_told(rows, target, "gain", False) for target in targets),
                          f"**{_spread(whole, '+')}**"))
    return "\n".join(lines)


def costs(frame: pd.DataFrame, stages: pd.DataFrame) -> str:
    """What the trainings and the scoring took, by kind of stage, from the stages table."""
    lines = [f"**Costs** ({len(stages)} stages, {len(frame)} scores)", "",
             _row("stages", "number", "tokens, millions", "seconds", "longest", "peak memory, MiB", "files, MiB"),
             _rule(6)]
    for kind, rows in stages.groupby("kind", sort=False):
        lines.append(_row(kind, f"{len(rows)}", f"{rows['tokens'].sum() / 1e6:.1f}", clock(rows["seconds"].sum()),
                          f"{rows['seconds'].max():.0f} s", f"{rows['peak_memory_bytes'].max() / 2**20:,.0f}",
                          f"{rows['bytes'].sum() / 2**20:,.0f}"))
    return "\n".join(lines)


def _told(rows: pd.DataFrame, target: str, column: str, english: bool) -> str:
    """Mean over languages and its spread over seeds; '-' where the target has no such language."""
    chosen = rows[(rows["target"] == target) & ((rows["language"] == "en") == english)]
    return _spread(chosen.groupby("seed")[column].mean(), "+" if column == "gain" else "") if len(chosen) else "-"


def _spread(values: pd.Series, sign: str) -> str:
    spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.1f}{spread}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(count: int) -> str:
    return "|" + "---|" * (count + 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, help="--runs folders")
    parser.add_argument("--write", type=Path, metavar="FILE", help="a Markdown file with the marks <!-- tables --> and "
                                                                   "<!-- end of tables -->")
    arguments = parser.parse_args()
    try:
        text = tables(results.read(arguments.runs), results.STAGES.read(arguments.runs))
        if arguments.write:
            fill(arguments.write, "tables", f"\n{text}")
    except StiltsError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
