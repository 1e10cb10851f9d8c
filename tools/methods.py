"""Full fine-tuning beside LoRA of ranks 1 to 64, rsLoRA, DoRA and QLoRA in the miniature world: gains and costs.

    python tools/methods.py --out methods                       # about an hour on two cores; resumes when killed
    python tools/methods.py --out methods --write docs/adapters.md

Runs the recipe `squad` by every variant with three seeds, then prints, for each variant, the score without and with the
intermediate task, the gain with its standard deviation over seeds, the parameters that are trained, the bytes that a
stage leaves, and the seconds that its trainings took. Nothing in it says anything about XLM-R.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import yaml
from marks import fill

from peft_stilts import results
from peft_stilts.errors import Problems, StiltsError, UsageError
from peft_stilts.recipe import recipe_source
from peft_stilts.spec import ADAPTERS, METHODS, Request, names, seeds, whole
from peft_stilts.store import write_atomic

VARIANTS = ("full", *(f"lora-{rank}" for rank in (1, 2, 4, 8, 16, 32, 64)), "rslora-4", "rslora-64", "dora-16",
            "qlora-16")
TARGETS = ("xquad", "tydiqa", "tatoeba")


def split(variant: str) -> tuple[str, int]:
    """`lora-4` -> its method and rank; the rank of `full` has no meaning."""
    method, _, rank = variant.partition("-")
    if method not in METHODS or (method in ADAPTERS and not rank.isdigit()):
        raise UsageError(f"variant {variant!r} is no method with a rank, such as lora-4; the usual ones: "
                         f"{', '.join(VARIANTS)}")
    return method, int(rank or 16)


def recipe_file(rank: int, folder: Path) -> Path:
    """Write the recipe `squad` with adapters of `rank`: LoRA, DoRA and QLoRA scaled by 2 at every rank (alpha is twice
    the rank), rsLoRA by 8 / sqrt(rank); learning rates as they are, tuned at rank 16 (docs/tuning.md)."""
    content = {key: value for key, value in recipe_source("squad").items() if key != "name"}
    content["miniature"]["default"] |= {"lora": {"rank": rank, "alpha": 2 * rank}, "rslora": {"rank": rank, "alpha": 8}}
    path = folder / f"squad_r{rank}.yaml"
    write_atomic(path, yaml.safe_dump(content, sort_keys=False))
    return path


def run(variants: Sequence[str], folder: Path, chosen: tuple[int, ...], limit: int | None) -> None:
    """Make every variant that is missing in `folder`."""
    from peft_stilts.grid.plan import make_plan
    from peft_stilts.grid.run import run as run_plan
    from peft_stilts.grid.show import begin

    for seed in chosen:             # all variants of one seed first: an interrupted run can be read
        for variant in variants:
            method, rank = split(variant)
            request = Request((str(recipe_file(rank, folder / "recipes")),), scale="mini", methods=(method,),
                              targets=TARGETS, seeds=(seed,), runs=folder / "runs", limit_train=limit)
            with Problems() as found:
                plan = make_plan(request, found)
            begin(plan)
            run_plan(plan)


def table(folder: Path) -> str:
    """The Markdown table of everything that was run in `folder`."""
    scores, stages = results.read(folder / "runs"), results.STAGES.read(folder / "runs").set_index("stage_key")
    means = results.summary(scores).query("language == 'avg'")
    count = scores["seed"].nunique()
    lines = ["| variant | trained parameters | bytes of a stage | seconds a training | "
             + " | ".join(f"{target}: none, squad, gain ± sd" for target in TARGETS) + " |",
             "|---|--:|--:|--:|" + "--:|" * len(TARGETS)]
    for variant in VARIANTS:
        method, rank = split(variant)
        mine = means[(means["method"] == method) & (means["recipe"].isin(["none", f"squad_r{rank}"]))]
        mine = mine[mine["intermediate"] == "squad"].set_index("target")
        keys = scores[(scores["recipe"] == f"squad_r{rank}") & (scores["method"] == method)]["stage_key"]
        trained = stages.loc[[key for key in stages.loc[keys.unique(), "parent_key"].unique() if key]]
        if not len(mine):
            continue
        cells = [_told(mine.loc[target]) for target in TARGETS if target in mine.index]
        lines.append(f"| {variant.replace('-', ', rank ')} | {trained['trainable_parameters'].median():,.0f} | "
                     f"{trained['bytes'].median():,.0f} | {_seconds(trained['seconds'])} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Means over languages and {count} seeds; ± is the standard deviation over seeds "
                      "(n - 1)."])


def _told(row: pd.Series) -> str:
    return f"{row['baseline']:.1f}, {row['score']:.1f}, {row['gain']:+.1f} ± {row['gain_sd']:.1f}"


def _seconds(column: pd.Series) -> str:
    return f"{column.median():.0f} ({column.min():.0f} to {column.max():.0f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="such as full,lora-4")
    parser.add_argument("--limit_train", help="only the first N training rows")
    parser.add_argument("--write", type=Path, metavar="FILE",
                        help="only put the table into a Markdown file with the marks <!-- methods --> and "
                             "<!-- end of methods -->")
    arguments = parser.parse_args()
    try:
        limit = whole(arguments.limit_train, "limit_train") if arguments.limit_train else None
        variants = names(arguments.variants, "variants")
        for variant in variants:
            split(variant)
        if not arguments.write:
            run(variants, arguments.out, seeds(arguments.seeds), limit)
        text = table(arguments.out)
        if arguments.write:
            fill(arguments.write, "methods", text)
    except StiltsError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
