"""Which learning rate suits each method? English development data only, and as many trials for full as for LoRA.

    python tools/tune.py squad --scale mini --rates 3e-4,1e-3,3e-3 --out tuned
    python tools/tune.py squad,udpos --rates full:5e-6,1e-5,2e-5 lora:1e-4,2e-4,4e-4 --seeds 1,2 --out tuned

TASK is a recipe's intermediate stage (squad, mnli, all, my.yaml) or the training of a target task (udpos; xquad: on
SQuAD with the target's settings), several with commas between. Every trial is a training stage like any other, so a
killed run resumes by the same command. No target language and no test item is read. Writes OUT/trials.csv,
OUT/tuning.md and OUT/tuning.png; trained weights are dropped, a trial's score stays in OUT/runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from peft_stilts.errors import Problems, StiltsError, TrainingError, UsageError
from peft_stilts.spec import METHODS, Request, parse_request, typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from peft_stilts.grid.builder import StageBuilder
    from peft_stilts.grid.run import Runner
    from peft_stilts.grid.stages import Plan, Train
    from peft_stilts.recipe import Recipe
    from peft_stilts.tasks.base import Task

COLUMNS = ("task", "method", "rate", "recipe_rate", "seed", "score", "metric", "best_step", "steps", "seconds", "stage")
"""Of trials.csv: `rate` and `recipe_rate` (the recipe's own) are peak learning rates, `score` the best one of English
development data, 0..100 (empty: the training collapsed), reached after `best_step` of `steps`, `stage` its key."""
ALL = "all tasks"


@dataclass(frozen=True)
class Subject:
    """What is tuned: the training of `tasks` with the settings of `block` in `recipe`, under the name typed."""

    name: str
    recipe: Recipe
    block: str
    tasks: tuple[Task, ...]

    @property
    def metric(self) -> str:
        return " and ".join(dict.fromkeys(task.primary for task in self.tasks))


@dataclass(frozen=True)
class Trial:
    """One training: `stage` with learning rate `rate`, where the recipe has `own`."""

    subject: Subject
    rate: float
    own: float
    stage: Train


def parse_rates(texts: Sequence[str], methods: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Method -> its learning rates, ascending, from `1e-4,1e-3` (for all methods) or `full:1e-5,1e-4 lora:...`.

    Raises UsageError for what is no rate, a rate that stands twice, a method without rates, and for methods with
    different numbers of rates: the one that may choose among more would be favoured.
    """
    rates: dict[str, tuple[float, ...]] = {}
    with Problems() as found:
        for text in texts:
            named, _, numbers = text.rpartition(":")
            for method in [named] if named else methods:
                if method not in methods or method in rates:
                    found.add(f"--rates {text!r}: give rates once for each method of --methods ({', '.join(methods)}), "
                              "as in full:1e-5,2e-5 lora:1e-4,2e-4, or once for all, as in 1e-5,1e-4")
                    continue
                rates[method] = ()
                with found.collect():
                    values = [typed(item.strip(), float, "--rates") for item in numbers.split(",")]
                    if min(values) <= 0 or len(set(values)) < len(values):
                        raise UsageError(f"--rates {text!r}: each rate must be above 0 and stand once")
                    rates[method] = tuple(sorted(values))
    with Problems() as found:
        for method in methods:
            if method not in rates:
                found.add(f"--rates names no rates for {method}")
    counts = {method: len(values) for method, values in rates.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{method} {count}" for method, count in counts.items())
        raise UsageError(f"the methods have different numbers of rates ({told}); a fair comparison gives each the same "
                         "number of trials")
    return rates


def find_subject(name: str, protocol: str | None, target_recipe: str = "none") -> Subject:
    """The first stage of the recipe `name`, or the training task of the target task `name` with the settings it has in
    `target_recipe`; raises UsageError."""
    from peft_stilts.grid.builder import mixture
    from peft_stilts.recipe import read_recipe, recipe_names
    from peft_stilts.registry import unknown
    from peft_stilts.tasks import TASKS

    tunable = [task for task in TASKS if TASKS[task].is_target and TASKS[task].trained_on]
    with_stage = [recipe for recipe in recipe_names() if recipe != "none"]
    if name in with_stage or name.endswith((".yaml", ".yml")):
        recipe = read_recipe(name, protocol)
        if not mixture(recipe):
            raise UsageError(f"{name} has no intermediate stage to tune; name a target task: {', '.join(tunable)}")
        return Subject(recipe.name, recipe, "intermediate", tuple(TASKS[task] for task in mixture(recipe)))
    if name not in tunable:
        raise UsageError(unknown("recipe with an intermediate stage, or target task that is trained", name,
                                 [*with_stage, *tunable]))
    trained = TASKS[TASKS[name].trained_on]
    return Subject(name, read_recipe(target_recipe, protocol), trained.name, (trained,))


def trials_of(builder: StageBuilder, subject: Subject, rates: Mapping[str, Iterable[float]], dev_examples: int | None) \
        -> list[Trial]:
    """Every rate and seed of every method: the recipe's stage with another learning rate, all else as it is.

    The head's own rate, where a recipe gives one, keeps its ratio to the encoder's. The weights are always those of
    the best look at English development data, on the first `dev_examples` rows (None: as many as the recipe says).
    """
    found = []
    for method, values in rates.items():
        usual = subject.recipe.settings(subject.block, method, builder.miniature)
        usual = dataclasses.replace(usual, keep="best", select_examples=dev_examples or usual.select_examples)
        adapter = subject.recipe.lora(subject.block, method, builder.miniature)
        name = subject.recipe.intermediate if subject.block == "intermediate" else subject.block
        role = "intermediate" if subject.block == "intermediate" else "target"
        for rate in values:
            head = usual.head_lr and usual.head_lr / usual.lr * rate
            settings = dataclasses.replace(usual, lr=rate, head_lr=head)
            for seed in builder.request.seeds or (1, 2, 3):
                stage = builder.train(name, subject.tasks, method, settings, adapter, seed, None, role)
                found.append(Trial(subject, rate, usual.lr, stage))
    return found


def make_trials(names: Sequence[str], request: Request, rates: Mapping[str, Iterable[float]],
                dev_examples: int | None = None, target_recipe: str = "none", provider: Any = None) \
        -> tuple[Plan, list[Trial]]:
    """All trials and what they share; data and machine are checked here. Raises UsageError with every mistake."""
    from peft_stilts.grid import recorded
    from peft_stilts.grid.base import find_base, resolve_scale
    from peft_stilts.grid.builder import StageBuilder
    from peft_stilts.grid.estimate import Estimator, check_machine
    from peft_stilts.grid.plan import choose_provider
    from peft_stilts.grid.stages import Plan
    from peft_stilts.machine import resolve_precision
    from peft_stilts.store import Store

    with Problems() as found:
        subjects = []
        for name in names:
            with found.collect():
                subjects.append(find_subject(name, request.protocol, target_recipe))
        base = None
        with found.collect():
            base = find_base(resolve_scale(request.scale), recorded.commits(request.runs))
    provider = provider or choose_provider(request, base.miniature)
    small = base.miniature or provider.name == "miniature"
    builder = StageBuilder(request, base, provider, resolve_precision(request.precision, small))
    plan = Plan(request, base, provider, builder.precision, [], builder.data)
    with Problems() as found:
        trials = []
        for subject in subjects:
            with found.collect():
                trials += trials_of(builder, subject, rates, dev_examples)
        for stage in {trial.subject.name: trial.stage for trial in trials}.values():
            for task in stage.tasks:
                with found.collect():
                    plan.data.joined(task, stage.splits[task.name], stage.limit)
                    plan.data.joined(task, task.select, stage.settings.select_examples)
    todo = [trial.stage for trial in trials if not Store(request.runs).finished(trial.stage.key)]
    with Problems() as found:
        check_machine(plan, Estimator(plan), todo, found)
    models = {f"{base.id}@main": base.revision} if base.from_hub else {}
    recorded.record(request.runs, models | getattr(provider, "commits", {}), plan.data.identified())
    return plan, trials


def run_trial(runner: Runner, trial: Trial, place: str) -> dict[str, Any]:
    """The row of COLUMNS of a trial, which is trained unless that was done before; its weights are dropped."""
    from peft_stilts.grid.run import waiting

    stage, store = trial.stage, runner.store
    record: dict[str, Any] = {"best_score": math.nan, "best_step": None, "steps": None, "seconds": None}
    with store.claim(stage.key, waiting(stage, place)):
        try:
            if not store.finished(stage.key):
                runner.train(stage, place)
            store.drop(stage.key)
            record = store.record(stage.key)["record"]
        except TrainingError as error:      # a rate too high is an answer too
            print(f"{place} {stage.label} at {trial.rate:g} counts as failed: {error}", flush=True)
    return {"task": trial.subject.name, "method": stage.method, "rate": trial.rate, "recipe_rate": trial.own,
            "seed": stage.seed, "score": record["best_score"], "metric": trial.subject.metric, "stage": stage.key} | {
        name: record[name] for name in ("best_step", "steps", "seconds")}


def curves(trials: pd.DataFrame) -> pd.DataFrame:
    """Rows (task, method, rate) with `mean` and `sd` (n - 1) over seeds, `failed` trials, `recipe_rate`, `chosen`.

    `chosen` is one rate of each task and method, the best mean; among equal ones the lowest. A rate with a failed
    trial is never chosen and has no mean. With several tasks there are rows of the task ALL, the mean over tasks by
    seed, which chooses one rate for all.
    """
    wide = trials.pivot(index=["method", "rate", "seed"], columns="task", values="score")
    joined = wide.mean(axis=1, skipna=False).rename("score").reset_index().assign(task=ALL, recipe_rate=math.nan)
    rows = pd.concat([trials, joined]) if wide.shape[1] > 1 else trials
    grouped = rows.groupby(["task", "method", "rate"], sort=False)
    found = grouped["score"].agg(mean=lambda scores: scores.mean(skipna=False),
                                 sd=lambda scores: scores.std(ddof=1, skipna=False))
    found["failed"] = grouped["score"].agg(lambda scores: int(scores.isna().sum()))
    found["recipe_rate"] = grouped["recipe_rate"].first()
    found = found.reset_index().sort_values("rate", kind="stable")
    best = found.dropna(subset="mean").sort_values("mean", ascending=False, kind="stable").groupby(["task", "method"])
    found["chosen"] = found.index.isin(best.head(1).index)
    return found.sort_values(["method", "rate"], kind="stable", ignore_index=True)


def told(row: Any) -> str:
    """A cell of the table: mean and standard deviation, bold where chosen."""
    if row.failed:
        return f"{row.failed} failed"
    text = f"{row.mean:.1f}" + ("" if math.isnan(row.sd) else f" ± {row.sd:.1f}")
    return f"**{text}**" if row.chosen else text


def compose(trials: pd.DataFrame, heading: str) -> str:
    """The report as Markdown: a line a method and rate, a column a task, and what was chosen."""
    found = curves(trials)
    tasks = [*dict.fromkeys(trials["task"]), *([ALL] if ALL in set(found["task"]) else [])]
    metrics = trials.groupby("task")["metric"].first()
    heads = [f"{task} ({metrics[task]})" if task in metrics else task for task in tasks]
    rates, seeds = trials.groupby("method")["rate"].nunique().max(), sorted(set(trials["seed"]))
    lines = ["# Learning rates, chosen on English development data", "", heading, "",
             f"{rates * len(seeds)} trials for each task and method: {rates} rates, seeds "
             f"{', '.join(map(str, seeds))}. Best development score, mean ± standard deviation over seeds; bold: "
             "chosen.", "",
             f"| method | rate | {' | '.join(heads)} |", "|---" * (2 + len(tasks)) + "|"]
    for (method, rate), some in found.groupby(["method", "rate"], sort=False):
        cells = {row.task: told(row) for row in some.itertuples(index=False)}
        lines.append(f"| {method} | {rate:g} | {' | '.join(cells[task] for task in tasks)} |")
    lines += ["", *(f"- {sentence}" for sentence in verdicts(found))]
    return "\n".join(lines) + "\n"


def verdicts(found: pd.DataFrame) -> list[str]:
    """What was chosen for each task and method, in words: beside the recipe's own rate, and whether at an end."""
    sentences = []
    for (task, method), some in found.groupby(["task", "method"], sort=False):
        if not some["chosen"].any():
            sentences.append(f"{task}, {method}: every rate failed; try lower ones.")
            continue
        best = some[some["chosen"]].iloc[0]
        outermost = best["rate"] in (some["rate"].min(), some["rate"].max())
        end = " It is the outermost rate tried: the best one may lie beyond." if outermost else ""
        own = some[some["rate"] == best["recipe_rate"]]
        beside = "" if math.isnan(best["recipe_rate"]) else f"; the recipe's {best['recipe_rate']:g} was not tried"
        if len(own):
            gap = best["mean"] - own.iloc[0]["mean"]
            beside = ", the recipe's own" if best["rate"] == best["recipe_rate"] else (
                f"; the recipe's {best['recipe_rate']:g} " + (
                    "failed" if math.isnan(gap) else f"scores {gap:.1f} points less"))
        sentences.append(f"{task}, {method}: {best['rate']:g} ({best['mean']:.1f}){beside}.{end}")
    return sentences


def draw(trials: pd.DataFrame, heading: str) -> Figure:
    """A panel a task: development score over learning rate, a line a method with its seeds as dots; a ring marks the
    chosen rate, a dashed line the recipe's own."""
    from matplotlib.figure import Figure

    from peft_stilts.analysis.figure import COLOURS, MARKERS

    found, tasks = curves(trials), list(dict.fromkeys(trials["task"]))
    figure = Figure(figsize=(3.4 * len(tasks) + 0.6, 3.4), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for task, panel in zip(tasks, panels):
        for place, method in enumerate(dict.fromkeys(trials["method"])):
            line = found[(found["task"] == task) & (found["method"] == method)]
            dots = trials[(trials["task"] == task) & (trials["method"] == method)]
            colour = COLOURS[METHODS.index(method)]
            panel.plot(line["rate"], line["mean"], color=colour, marker=MARKERS[place], label=method, markersize=5)
            panel.plot(dots["rate"], dots["score"], linestyle="", marker=".", color=colour, alpha=0.6)
            best = line[line["chosen"]]
            panel.plot(best["rate"], best["mean"], linestyle="", marker="o", markersize=12, markerfacecolor="none",
                       markeredgecolor=colour)
            panel.axvline(line["recipe_rate"].iloc[0], color=colour, linestyle="--", linewidth=0.8, alpha=0.7)
        panel.set_xscale("log")
        panel.set_title(task, fontsize=10, fontweight="bold")
        panel.set_xlabel("learning rate (ring: chosen, dashed: the recipe's)", fontsize=8)
        panel.set_ylabel(f"English dev {dots['metric'].iloc[0]}", fontsize=9)
        panel.tick_params(labelsize=8)
    panels[0].legend(frameon=False, fontsize=9)
    figure.suptitle(heading, fontsize=9)
    return figure


def write_report(trials: pd.DataFrame, heading: str, out: Path) -> None:
    """Write trials.csv, tuning.md and tuning.png into `out`, each in one step."""
    from peft_stilts.store import replace_file, write_atomic

    write_atomic(out / "tuning.md", compose(trials, heading))
    replace_file(out / "trials.csv", lambda path: trials.to_csv(path, index=False, lineterminator="\n"))
    figure = draw(trials, heading)
    replace_file(out / "tuning.png", lambda path: figure.savefig(path, dpi=150, metadata={"Software": None}))


def tune(names: Sequence[str], request: Request, rates: Mapping[str, Iterable[float]], out: Path,
         dev_examples: int | None = None, target_recipe: str = "none", provider: Any = None) -> pd.DataFrame:
    """Run the trials that are missing, write the report into `out`, and return its rows (COLUMNS)."""
    from peft_stilts.grid.run import Runner
    from peft_stilts.grid.show import heading

    plan, trials = make_trials(names, request, rates, dev_examples, target_recipe, provider)
    print(f"{heading(plan)}\n{len(trials)} trials", flush=True)
    runner = Runner(plan)
    rows = [run_trial(runner, trial, f"[{number}/{len(trials)}]") for number, trial in enumerate(trials, start=1)]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    limit = f", {request.limit_train} training rows" if request.limit_train else ""
    write_report(frame, f"{heading(plan)}{limit}", out)
    return frame


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("task", help="recipes or target tasks with commas between")
    parser.add_argument("--rates", required=True, nargs="+", help="learning rates with commas between, the same for "
                        "every method, or METHOD:RATES for each, as many for one as for the other")
    parser.add_argument("--out", type=Path, default=Path("tuned"), help="folder of report and runs (%(default)s)")
    parser.add_argument("--scale", default="auto", help="auto, mini, base, large, a folder or hub id (%(default)s)")
    parser.add_argument("--methods", "--method", default="full,lora", help="(%(default)s)")
    parser.add_argument("--seeds", help="whole numbers with commas between; 1,2,3 when not given")
    parser.add_argument("--limit_train", "--limit-train", help="only the first N training rows (the report says so)")
    parser.add_argument("--dev_examples", "--dev-examples", help="English development rows looked at; the recipe's "
                        "number when not given")
    parser.add_argument("--recipe", default="none", help="whose settings a target task is trained with, a name or a "
                        "YAML file (%(default)s)")
    parser.add_argument("--protocol", help="jiant or xtreme; the recipe's own when not given")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16 (%(default)s)")
    parser.add_argument("--data_root", "--data-root", help="folder laid out like the hub's repositories")
    flags = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with Problems() as found:
            kept = ("scale", "methods", "seeds", "limit_train", "protocol", "precision", "data_root")
            request = parse_request(flags.task, {name: getattr(flags, name) for name in kept}
                                    | {"runs": str(flags.out / "runs")}, found)
            dev_examples = None
            with found.collect():
                if flags.dev_examples is not None:
                    dev_examples = typed(flags.dev_examples, int, "--dev_examples")
            with found.collect():
                rates = parse_rates(flags.rates, request.methods)
        tune(request.recipes, request, rates, flags.out, dev_examples, flags.recipe)
        print((flags.out / "tuning.md").read_text(encoding="utf-8"))
    except StiltsError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
