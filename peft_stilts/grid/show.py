"""What a person sees of a plan and of its results: the tree of stages, the opening lines, the closing table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from peft_stilts import results
from peft_stilts.analysis import curve, figure, table
from peft_stilts.errors import Problems
from peft_stilts.grid import recorded
from peft_stilts.grid.base import DEFAULT_LAYERS, Base
from peft_stilts.grid.estimate import GIB, Cost, Estimator, check_machine
from peft_stilts.grid.stages import Evaluate, Plan, Train
from peft_stilts.progress import clock
from peft_stilts.spec import METHODS
from peft_stilts.store import Store
from peft_stilts.tasks.sources import scored_languages

FIGURE, CURVE = "gains.png", "layers.png"


def todo(plan: Plan, store: Store) -> list[Train | Evaluate]:
    """The stages that have to be made: unfinished evaluations, and the models below them that are not there."""
    needed: dict[str, Train | Evaluate] = {}
    for cell in plan.cells:
        if store.finished(cell.stage.key):
            continue
        needed[cell.stage.key] = cell.stage
        below = cell.stage.parent
        while below is not None and (not store.ready(below.key)):
            needed[below.key] = below
            below = below.parent
    return list(needed.values())


def heading(plan: Plan) -> str:
    """Which model, data and precision, in one line."""
    kind = " (miniature world: not XLM-R)" if plan.base.miniature else ""
    return (f"scale {plan.base.scale}{kind}: {plan.base.id} at {plan.base.revision[:12]}, data: {plan.provider.name}, "
            f"precision {plan.precision}, kernels {plan.kernels}")


def begin(plan: Plan) -> None:
    """Check that the machine can do the plan, and say what will be done. Raises UsageError when it cannot."""
    store = Store(plan.request.runs)
    needed = todo(plan, store)
    with Problems() as found:
        check_machine(plan, Estimator(plan), needed, found)
    models = {f"{plan.base.id}@main": plan.base.revision} if plan.base.from_hub else {}
    recorded.record(plan.request.runs, models | getattr(plan.provider, "commits", {}), plan.data.identified())
    cached = len(plan.stages) - len(needed)
    print(heading(plan))
    print(f"{len(plan.stages)} stages, {cached} of them done before, in {plan.request.runs}", flush=True)
    _say_notes(plan)
    for task in {cell.stage.task.name: cell.stage.task for cell in plan.cells}.values():
        there = scored_languages(plan.provider, task)
        missing = [code for code in task.languages if code not in there]
        unscored = [code for code in plan.request.languages or () if code not in there]
        if unscored:
            print(f"note: {task.name} is not scored in {', '.join(unscored)}")
        if missing and (plan.provider.name == "local" or task.origin):
            print(f"note: {task.name} is not in this data in {', '.join(missing)}; its average is over the others")


def draw_layers(frame: pd.DataFrame, folder: Path, base: Base) -> list[Path]:
    """The curve of `--layers` in `folder`, where several layers were scored; its path, or nothing."""
    path = folder / CURVE
    return [path] if curve.write(frame, path, DEFAULT_LAYERS.get(base.config.num_hidden_layers)) else []


def _say_notes(plan: Plan) -> None:
    for note in plan.notes:
        print(f"note: {note}", flush=True)


def show_plan(plan: Plan) -> None:
    """Print the stages as a tree with what is cached and what each would cost."""
    console, store, estimator = Console(highlight=False), Store(plan.request.runs), Estimator(plan)
    making = todo(plan, store)
    needed = {stage.key for stage in making}
    root = Tree(escape(heading(plan)), highlight=False)
    branches: dict[str | None, Tree] = {None: root}
    total, largest = 0.0, 0
    for key, stage in plan.stages.items():
        cost = estimator.cost(stage)
        state = "to do" if key in needed else "scored, weights dropped" if store.dropped(key) else "cached"
        if key in needed:
            total, largest = total + cost.seconds, max(largest, cost.memory)
        label = stage.label if stage.kind != "evaluate" else f"score {stage.task.name}: {', '.join(stage.languages)}"
        parent = branches[stage.parent.key if stage.parent else None]
        branches[key] = parent.add(f"[bold]{state}:[/bold] {label}\n[dim]{_told(cost)} · {key}[/dim]", highlight=False)
    console.print(root)
    print(f"to do: {len(needed)} of {len(plan.stages)} stages, about {clock(total)} on this machine, "
          f"at most {largest / GIB:.1f} GiB of memory (estimates)")
    _compare_methods(plan, estimator)
    _say_notes(plan)
    problems = Problems()
    check_machine(plan, estimator, making, problems)
    for message in problems.messages:
        print(f"warning: {message}")


def _compare_methods(plan: Plan, estimator: Estimator) -> None:
    """One line a method: what the plan's trainings would cost by it, done before or not."""
    first = plan.request.methods[0]
    trainings = [stage for stage in plan.stages.values() if stage.kind == "train" and stage.method == first]
    for method in METHODS if trainings else ():
        costs = [estimator.cost(stage, method) for stage in trainings]
        seconds, disk = (sum(getattr(cost, name) for cost in costs) for name in ("seconds", "disk"))
        memory = max(cost.memory for cost in costs) / GIB
        print(f"all {len(trainings)} trainings by {method}: about {clock(seconds)}, at most {memory:.1f} GiB of "
              f"memory, {disk / 2**20:,.0f} MiB of weights (estimates)")


def _told(cost: Cost) -> str:
    about = "" if cost.exact else "~"
    return (f"{about}{cost.features:,} features, {about}{cost.tokens:,} tokens a pass, ~{cost.memory / GIB:.1f} GiB, "
            f"~{clock(cost.seconds)}")


def finish(plan: Plan) -> None:
    """Print the table of this plan's scores, draw the gains of the whole folder, and say where everything is."""
    folder = plan.request.runs
    keys = {cell.stage.key for cell in plan.cells}
    recipes = {cell.labels["recipe"] for cell in plan.cells}
    if not (folder / "results.csv").is_file():
        return print("no score was made")
    frame = results.read(folder)
    mine = frame[frame["stage_key"].isin(keys) & frame["recipe"].isin(recipes)]
    tasks = {cell.stage.task.name: cell.stage.task for cell in plan.cells}
    order = list(dict.fromkeys(code for task in tasks.values() for code in scored_languages(plan.provider, task)))
    table.show(mine, Console(highlight=False), order)
    drawn = [folder / FIGURE] if figure.write(frame, folder / FIGURE, order) else []
    drawn += draw_layers(frame, folder, plan.base)
    print(", ".join([f"scores: {folder / 'results.csv'}", f"costs: {folder / 'stages.csv'}",
                     *(f"picture: {path}" for path in drawn)]))
    _say_notes(plan)
