"""Does the miniature world learn, and what do gains look like there? Three seeds, both methods, and a random control.

    python tools/miniature_report.py --out miniature_report        # about 25 minutes on two cores; resumes when killed

Runs the recipe `squad` with the shipped encoder, and the baseline with a randomly initialised encoder of the same
shape, then prints (and writes to OUT/report.md) scores, control, gains with 95 % intervals over seeds, and Spearman's
rank correlation with the languages' true distance from English. Nothing in it says anything about XLM-R.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

import numpy as np
import pandas as pd


def report(folder: Path, seeds: tuple[int, ...], limit_train: int | None, limit_eval: int | None) -> None:
    """Run what is missing, then write FOLDER/report.md and print it."""
    control = random_folder(folder / "random_encoder")
    pretrained = run(folder / "pretrained", "mini", "squad", seeds, limit_train, limit_eval)
    random = run(folder / "random", str(control), "none", seeds, limit_train, limit_eval)
    limits = f", {limit_train} training rows" * bool(limit_train) + f", {limit_eval} test rows" * bool(limit_eval)
    text = compose(pretrained, random, f"seeds {', '.join(map(str, seeds))}{limits}")
    (folder / "report.md").write_text(text, encoding="utf-8")
    print(text)


def random_folder(folder: Path) -> Path:
    """A model folder with random weights (seed 1) in the shape of the shipped encoder, with its tokenizer."""
    from peft_stilts.grid.base import find_base, load_tokenizer
    from peft_stilts.model.adapter_io import save_encoder
    from peft_stilts.model.encoder import random_encoder

    if not (folder / "model.safetensors").is_file():
        base = find_base("mini")
        tokenizer = load_tokenizer(base)
        save_encoder(random_encoder(base.config, 1, tokenizer).model, tokenizer, folder)
    return folder


def run(runs: Path, scale: str, recipe: str, seeds: tuple[int, ...], limit_train: int | None,
        limit_eval: int | None) -> pd.DataFrame:
    """The results table of one recipe with both methods on the miniature world."""
    from peft_stilts import results
    from peft_stilts.errors import Problems, TrainingError
    from peft_stilts.grid.plan import make_plan
    from peft_stilts.grid.run import run as run_plan
    from peft_stilts.grid.show import begin
    from peft_stilts.miniature.provider import MiniatureWorld
    from peft_stilts.spec import Request

    request = dataclasses.replace(Request((recipe,)), scale=scale, methods=("full", "lora"), seeds=seeds, runs=runs,
                                  limit_train=limit_train, limit_eval=limit_eval)
    with Problems() as found:
        plan = make_plan(request, found, MiniatureWorld())
    begin(plan)
    try:
        run_plan(plan)
    except TrainingError as error:      # a control that learns nothing is a result: its cell stays empty
        print(error, flush=True)
    return results.read(runs).query("primary and intermediate in ('none', @recipe)")      # a grid may have more


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half width of the 95 % t interval over seeds; NaN half width for one seed."""
    from scipy import stats

    if len(values) < 2:
        return float(values.mean()), float("nan")
    return float(values.mean()), float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))


def correlation(values: pd.Series, distances: dict[str, float]) -> str:
    """Spearman's rank correlation of values by language with distance from English (English left out), and its p by
    permutation of the languages."""
    from scipy import stats

    values = values.drop("en", errors="ignore")
    x, y = values.to_numpy(), np.array([distances[code] for code in values.index])
    if len(set(x)) < 2:
        return "-"
    test = stats.permutation_test((x,), lambda x: stats.spearmanr(x, y).statistic, permutation_type="pairings",
                                  n_resamples=9999, rng=np.random.default_rng(0))
    return f"{test.statistic:+.2f} (p {test.pvalue:.3f}, n {len(x)})"


def compose(pretrained: pd.DataFrame, random: pd.DataFrame, told: str) -> str:
    """The report as Markdown."""
    from peft_stilts import results
    from peft_stilts.miniature.world import TONGUES, distance

    distances = {code: distance(tongue) for code, tongue in TONGUES.items()}
    gains = results.gains(pretrained)
    lines = ["# The miniature world, measured", "", f"Not XLM-R: an encoder of a million parameters, {told}. Scores "
             "are F1 (retrieval: accuracy), 0 to 100; `±` is the 95 % t interval over seeds.", "",
             "| target | method | English | other languages | random encoder, English | random, others | "
             "gain, English | gain, others | score ~ distance | gain ~ distance |", "|" + "---|" * 10]
    for (method, target), pairs in grouped(gains):
        control = random[(random["target"] == target) & (random["method"] == method)]
        cells = [_told(pairs, "baseline", True), _told(pairs, "baseline", False), _told(control, "score", True),
                 _told(control, "score", False), _told(pairs, "gain", True), _told(pairs, "gain", False)]
        by_language = pairs.groupby("language")[["baseline", "gain"]].mean()
        cells += [correlation(by_language[column], distances) for column in ("baseline", "gain")]
        lines.append(f"| {target} | {method} | " + " | ".join(cells) + " |")
    lines += ["", "## Gain by language (mean over seeds, with its standard deviation)", ""]
    codes = list(TONGUES)
    lines += ["| target | method | " + " | ".join(codes) + " |", "|" + "---|" * (len(codes) + 2)]
    lines.append("| *distance from English* | | " + " | ".join(f"{distances[code]:.2f}" for code in codes) + " |")
    for (method, target), pairs in grouped(gains):
        by_language = pairs.groupby("language")["gain"].agg(["mean", "std"]).reindex(codes)
        cells = ["" if np.isnan(row.mean_) else f"{row.mean_:+.1f} ({row.sd:.1f})" for row in
                 by_language.rename(columns={"mean": "mean_", "std": "sd"}).itertuples()]
        lines.append(f"| {target} | {method} | " + " | ".join(cells) + " |")
    items = pretrained.groupby("language")["examples"].min().min()
    lines += ["", f"At least {items} items a language. Correlations: Spearman over the languages but English, of the "
              "mean over seeds, two-sided permutation p."]
    return "\n".join(lines) + "\n"


def grouped(gains: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """((method, target), rows): methods and targets in the order of the program's own lists."""
    from peft_stilts.spec import METHODS
    from peft_stilts.tasks import TARGETS

    order = {pair: place for place, pair in enumerate((method, target) for method in METHODS for target in TARGETS)}
    return sorted(gains.groupby(["method", "target"]), key=lambda item: order[item[0]])


def _told(rows: pd.DataFrame, column: str, english: bool) -> str:
    """Mean over languages and its interval over seeds; '' where the target has no such language."""
    chosen = rows[(rows["language"] == "en") == english]
    if not len(chosen):
        return ""
    mean, half = interval(chosen.groupby("seed")[column].mean().to_numpy())
    sign = "+" if column == "gain" else ""
    return f"{mean:{sign}.1f}" + ("" if np.isnan(half) else f" ± {half:.1f}")


def main() -> None:
    """Read the flags and make the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("miniature_report"), help="folder of the runs and report.md")
    parser.add_argument("--seeds", default="1,2,3", help="seeds with commas between")
    parser.add_argument("--limit_train", type=int, help="only the first N training rows (the report says so)")
    parser.add_argument("--limit_eval", type=int, help="only the first N test rows per language")
    flags = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    report(flags.out, tuple(int(seed) for seed in flags.seeds.split(",")), flags.limit_train, flags.limit_eval)


if __name__ == "__main__":
    main()
