"""Score what is there: a finished run, one of its stages, an encoder or an adapter; nothing is trained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd

from peft_stilts import results
from peft_stilts.digest import canonical_json, key_of
from peft_stilts.errors import Problems, StoreError, UsageError
from peft_stilts.grid.base import Base, find_base
from peft_stilts.grid.builder import StageBuilder
from peft_stilts.grid.given import base_of_adapter, base_of_stage, open_stack, read_stage
from peft_stilts.grid.plan import choose_provider, languages_of
from peft_stilts.grid.run import Runner, write_rows
from peft_stilts.grid.show import draw_layers
from peft_stilts.grid.stages import ROWS, Cell, Evaluate, Given, Plan, Train, dev_rows, scored_rows
from peft_stilts.kernels import choose
from peft_stilts.machine import device, resolve_precision
from peft_stilts.paths import typed_path
from peft_stilts.spec import Request, TrainingSettings, choices
from peft_stilts.store import RECORD, Store
from peft_stilts.tasks import TASKS
from peft_stilts.tasks.base import Task


@dataclasses.dataclass(frozen=True)
class Source:
    """What can be scored: a base encoder, training stages found on disk (None: the base itself), a stack of adapters
    (lowest first)."""

    base: Base
    models: tuple[Train | Given | None, ...]
    runs: Path


def evaluate_source(source: str, request: Request, out: Path) -> None:
    """Score `request.targets` with the models at `source`; write predictions and results.csv below `out`.

    `request.scale`: the base encoder under adapters, `auto` for the one they name.

    Where several models can score a target (methods, seeds, with and without intermediate task), each has a folder of
    its own, named by its key, and so has each of several layers in it. Scores that an earlier call left in `out` stay,
    but for those made again. Raises UsageError with every mistake before anything is scored.
    """
    found_source = open_source(source, request.scale)
    with Problems() as found:
        plan = _plan(found_source, request, found)
    runner = _ScoringRunner(plan)
    several = len({cell.stage.parent and cell.stage.parent.key for cell in plan.cells}) > 1
    layers = len({cell.stage.layer for cell in plan.cells} - {None}) > 1     # each layer's predictions stay
    earlier = results.read(out) if (out / ROWS).is_file() else results.RESULTS.frame()
    parts: dict[Path, list[dict[str, Any]]] = {}
    scored: dict[str, pd.DataFrame] = {}
    for number, cell in enumerate(plan.cells, start=1):
        parent = cell.stage.parent
        folder = out / (parent.key if parent else "base") if several else out
        if layers and cell.stage.layer is not None:
            folder = folder / f"layer-{cell.stage.layer}"
        folder.mkdir(parents=True, exist_ok=True)
        if cell.stage.key not in scored:
            runner.write_scores(cell.stage, cell.labels, folder, f"[{number}/{len(plan.cells)}]")
            scored[cell.stage.key] = results.RESULTS.read(folder / ROWS)
        parts.setdefault(folder, []).extend(scored[cell.stage.key].assign(**cell.labels).to_dict("records"))
        write_rows(results.RESULTS.frame(parts[folder]), folder)
    frame = results.RESULTS.frame([row for part in parts.values() for row in part])
    results.write(pd.concat([earlier, frame]).drop_duplicates(results.RESULTS.identity, keep="last"), out)
    _print_scores(frame, out)
    for path in draw_layers(frame, out, plan.base):
        print(f"picture: {path}")


def open_source(source: str, scale: str = "auto") -> Source:
    """What lies at `source`: a runs folder, a stage, an adapter or bundle folder, an encoder folder, or a hub id of one
    of the last two. `scale`: the base of adapters, `auto` for the one they name."""
    path = typed_path(source, "SOURCE")
    if (path / "stages").is_dir():
        store = Store(path)
        keys = [key for key in store.keys() if store.record(key)["kind"] != "evaluate" and not store.dropped(key)]
        models = [read_stage(store, key) for key in keys]
        if not models:
            raise UsageError(f"{source} holds no finished model; `python -m peft_stilts recipe` makes some")
        bases = {store.record(key)["base"]["revision"]: key for key in keys}
        if len(bases) > 1:
            raise UsageError(f"{source} holds models over {len(bases)} base encoders; name one stage: "
                             + ", ".join(str(store.folder(key)) for key in bases.values()))
        return Source(base_of_stage(store, keys[0]), (None, *models), path)
    if (path / RECORD).is_file():
        store, key = Store.locate(path)
        return Source(base_of_stage(store, key), (read_stage(store, key),), store.root)
    chain = open_stack(source)
    if chain is None:
        return Source(find_base(source), (None,), Path("runs"))
    return Source(base_of_adapter(chain[0].folder, scale), tuple(chain), Path("runs"))


def _plan(source: Source, request: Request, found: Problems) -> Plan:
    provider = choose_provider(request, source.base.miniature)
    precision, kernels = "fp32", "eager"
    with found.collect():
        precision = resolve_precision(request.precision, source.base.miniature)
    with found.collect():
        kernels = choose.resolve(request.kernels, source.base.miniature, device())
    builder = StageBuilder(dataclasses.replace(request, runs=source.runs), source.base, provider, precision,
                           kernels)
    cells: list[Cell] = []
    for name in choices(request.targets or (), [name for name in TASKS if TASKS[name].is_target], "target task", found):
        task = TASKS[name]
        languages = languages_of(task, provider, request, found)
        able = _able(source, task, found)
        for model in able:
            with found.collect():
                settings = model.settings if model else TrainingSettings(tokens_per_pack=2048)
                # The base encoder is the baseline of every model: one evaluation, a row for each to pair with.
                alike = [model] if model else [other for other in able if other] or [None]
                for method in dict.fromkeys(like.method if like else "full" for like in alike):
                    for stage in builder.evaluations(task, languages, settings, model, method):
                        cells += [Cell(stage, _labels(source, builder, model, task, stage, like)) for like in alike
                                  if like is None or like.method == method]
    plan = Plan(builder.request, source.base, provider, precision, cells, builder.data, kernels=kernels)
    for cell in cells:
        for code in cell.stage.languages:
            with found.collect():
                scored_rows(plan, cell.stage, code)
                dev_rows(plan, cell.stage, code)
    return plan


def _able(source: Source, task: Task, found: Problems) -> list[Train | Given | None]:
    """The models that can score `task`: with a head of its training task, or any encoder where none is needed."""
    given = [model for model in source.models if model is not None and model.kind == "given"]
    if task.trained_on is None and len(given) == len(source.models):        # a stack: all of it
        return given[-1:]
    if task.trained_on is None:
        models = [model for model in source.models if model is None or model.role == "intermediate"]
        return models or list(source.models)
    able = [model for model in source.models
            if model is not None and task.trained_on in [own.name for own in model.tasks]]
    able = [model for model in able if model.role == "target"] or able
    if not able:
        found.add(f"nothing here has a head for {task.name}: it needs a model trained on {task.trained_on}. Target "
                  "models are removed after scoring; `recipe ... --keep` with a new --runs folder keeps them")
    return able


def _labels(source: Source, builder: StageBuilder, model: Train | Given | None, task: Task, stage: Evaluate,
            like: Train | Given | None) -> dict[str, Any]:
    """The results columns of scoring `model`; `like` is the model whose method, seed and settings they name."""
    path = ">".join(model.path).split(">") if model else []     # one adapter may have been trained on several tasks
    before = path if task.trained_on is None else path[:-1]
    method = like.method if like else "full"
    trained = model if task.trained_on else None
    policy = like.policy if like else "stack"
    labels = builder.labels(method, policy, trained and trained.settings, trained and trained.lora, stage)
    config = json.loads(labels["method_config"])
    if like:                    # how it was trained, whatever the flags of this command are
        config |= {"precision": like.spec["precision"], "kernels": like.spec.get("kernels"), "limit_train": like.limit}
    config = canonical_json({key: value for key, value in config.items() if value is not None})
    return labels | {"recipe": _told_recipe(model), "protocol": "",
                     "intermediate_variant": model.variant if model else "",
                     "intermediate": ">".join(before) or "none",
                     "seed": like.seed if like else 0, "method_config": config,
                     "target_variant": f"head of {_named(trained)}" if trained and trained.role == "intermediate"
                     else labels["target_variant"]}


def _named(model: Train | Given) -> str:
    """The name of what was trained, with its variant."""
    return f"{model.name} ({model.spec['variant']})" if model.spec.get("variant") else model.name


def _told_recipe(model: Train | Given | None) -> str:
    """`evaluate` and a digest of how the model was trained, which is the same for every seed: stages know no recipe."""
    settings = []
    while model is not None:
        settings.append({name: model.spec[name] for name in ("name", "tasks", "method", "settings", "lora")})
        model = model.parent
    return f"evaluate {key_of(settings)[:8]}" if settings else "evaluate"


class _ScoringRunner(Runner):
    """A runner that never trains."""

    def train(self, stage: Train, place: str) -> None:
        raise StoreError(f"the weights of `{stage.label}` ({stage.key}) are not there: target models are removed after "
                         "scoring. Run the recipe with --keep in a new --runs folder, then score that")


def _print_scores(frame, out: Path) -> None:
    """One line a model and target: the mean over languages, and where everything is."""
    primary = frame[frame["primary"]]
    group = ["target", "target_variant", "method", "intermediate", "seed", "metric", "stage_key"]
    for values, rows in primary.groupby(group, sort=False):
        target, variant, method, intermediate, seed, metric, key = values
        print(f"{target}{variant and f', {variant}'}: {metric} {rows['score'].mean():.1f} over {len(rows)} languages, "
              f"{rows['examples'].sum():,} items ({method}, intermediate {intermediate}, seed {seed}, {key})")
    print(f"scores: {out / 'results.csv'}, predictions: below {out}")
