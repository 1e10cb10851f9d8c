"""A recipe becomes a graph of stages, each with its key; every mistake is found here, before any work starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from peft_stilts.errors import DataError, Problems
from peft_stilts.grid import recorded
from peft_stilts.grid.base import find_base, resolve_scale
from peft_stilts.grid.builder import StageBuilder, mixture
from peft_stilts.grid.given import resolve_stack
from peft_stilts.grid.stages import Evaluate, Given, Plan, Train, dev_rows, scored_rows
from peft_stilts.kernels import choose
from peft_stilts.machine import device, resolve_precision
from peft_stilts.miniature.provider import MiniatureWorld
from peft_stilts.recipe import Recipe, read_recipe
from peft_stilts.registry import unknown
from peft_stilts.spec import Request, choices
from peft_stilts.tasks import TASKS
from peft_stilts.tasks.base import Task
from peft_stilts.tasks.check import unlabelled
from peft_stilts.tasks.sources import OFF_HUB, Hub, LocalMirror, Provider, scored_languages, scored_split

if TYPE_CHECKING:
    from datasets import Dataset

DEFAULT_SEEDS = (1, 2, 3)
"""Seeds of a run, but one only (1) in the miniature world."""


def choose_provider(request: Request, miniature: bool) -> Provider:
    """`--data_root` when given; else the miniature world for the miniature encoder, and the hub for XLM-R."""
    if request.data_root is not None:
        return LocalMirror(request.data_root)
    return MiniatureWorld() if miniature else Hub(recorded.commits(request.runs))


def make_plan(request: Request, found: Problems, provider: Provider | None = None) -> Plan | None:
    """The plan of a request. Adds every mistake to `found`; returns None when some make a plan impossible.

    `provider` replaces the source of the data (tests, and controls with another encoder on the miniature world).
    """
    recipes: list[Recipe] = []
    for name in request.recipes:
        with found.collect():
            recipes.append(read_recipe(name, request.protocol))
    base, precision, kernels = None, "fp32", "eager"
    with found.collect():
        base = find_base(resolve_scale(request.scale), recorded.commits(request.runs))
    with found.collect():
        small = base is not None and base.miniature or provider is not None and provider.name == "miniature"
        precision = resolve_precision(request.precision, small)
    with found.collect():
        kernels = choose.resolve(request.kernels, small, device())
    provider = provider or choose_provider(request, base is not None and base.miniature)
    notes: list[str] = []
    tasks = _check_names(request, recipes, provider, found, notes)
    if base is None or found.messages:
        return None
    builder = StageBuilder(request, base, provider, precision, kernels)
    below = {}
    for recipe in recipes:
        with found.collect():
            below[recipe.name] = resolve_stack(request.stack or recipe.stack, request, base)
            notes += _given_notes(below[recipe.name])
    for seed in request.seeds or (DEFAULT_SEEDS[:1] if builder.miniature else DEFAULT_SEEDS):
        for method in request.methods:
            for policy in request.policies[: 1 if method == "full" else None]:
                for recipe in recipes if not found.messages else ():
                    with found.collect():
                        builder.add(recipe, below[recipe.name], method, policy, seed, tasks[recipe.name])
    plan = Plan(request, base, provider, precision, builder.cells, builder.data, notes, kernels)
    _check_data(plan, found)
    return None if found.messages else plan


def _given_notes(stack: Sequence[Recipe | Train | Given]) -> Iterator[str]:
    """What a reader of the scores must know of adapters that were not trained here."""
    for stage in stack:
        if isinstance(stage, Given):
            yield (f"{stage.model} is given, one adapter for all seeds: the spread over seeds is that of the stages "
                   "above it, and whether it has seen a scored item is not known here")


def _check_names(request: Request, recipes: list[Recipe], provider: Provider, found: Problems, notes: list[str]) \
        -> dict[str, list[tuple[Task, tuple[str, ...]]]]:
    """For each recipe its targets with the languages to score, every unknown task and language noted in `found`.

    A target that only stands in the recipe file and that the hub does not have is left out, and `notes` say so.
    """
    targets = [name for name, task in TASKS.items() if task.is_target]
    trainable = [name for name, task in TASKS.items() if not task.is_target and task.train]
    chosen: dict[str, list[tuple[Task, tuple[str, ...]]]] = {}
    wanted = {name for recipe in recipes for name in request.targets or recipe.targets if name in targets}
    if recipes and (request.layers is not None or request.centre) and not any(
            TASKS[name].form in ("retrieval", "mining") for name in wanted):
        found.add("--layers and --centre say how retrieval reads the encoder, and no retrieval target is asked for")
    if len({recipe.name for recipe in recipes}) < len(recipes):
        found.add(f"two recipes have the same name: {', '.join(recipe.name for recipe in recipes)}")
    if not recipes:             # none could be read; what was typed is checked all the same
        typed_languages(provider, request, found)
        choices(request.targets or (), targets, "target task", found)
    elif (request.mlm_ratio or request.translated) and not any(recipe.tasks for recipe in recipes):
        found.add("--mlm_ratio and --translated change the intermediate training, and these recipes have none")
    stages = {"default", "intermediate", *(TASKS[name].trained_on or name for name in targets)}
    for recipe in recipes:
        for stage in {*recipe.training, *recipe.miniature} - stages:
            found.add(f"recipe {recipe.name}: {unknown('stage', stage, stages)}")
        for task in mixture(recipe):
            if task not in trainable:
                found.add(f"recipe {recipe.name}: {unknown('intermediate task', task, ['none', 'all', *trainable])}")
        chosen[recipe.name] = []
        for name in choices(request.targets or recipe.targets, targets, "target task", found):
            there = scored_languages(provider, TASKS[name])[:1] if provider.name == "hub" else ()
            lacking = next((OFF_HUB.get(scored_split(provider, TASKS[name], code).repo) for code in there), None)
            if lacking and not request.targets:
                notes.append(f"{name} is left out. {lacking}.")
                continue
            languages = languages_of(TASKS[name], provider, request, found)
            if languages:
                chosen[recipe.name].append((TASKS[name], languages))
    notes[:] = dict.fromkeys(notes)
    return chosen


def languages_of(task: Task, provider: Provider, request: Request, found: Problems) -> tuple[str, ...]:
    """The languages in which `task` will be scored; a code that no target knows, or none left, is noted in `found`."""
    offered = scored_languages(provider, task)
    if not offered:
        found.add(f"no language of {task.name} was found in {provider.name} data; its languages: "
                  f"{', '.join(task.languages)}. Choose others with --targets, or complete it (tools/mirror.py)")
    if request.languages is None:
        return offered
    asked = typed_languages(provider, request, found)
    languages = tuple(code for code in offered if code in asked)
    if asked and not languages:
        found.add(f"{task.name} is not scored in {', '.join(asked)}; its languages: {', '.join(offered)}")
    return languages


def typed_languages(provider: Provider, request: Request, found: Problems) -> tuple[str, ...]:
    """The `--languages` that some target is scored in; each other one is noted in `found`."""
    known = sorted({code for task in TASKS.values() if task.is_target for code in scored_languages(provider, task)})
    return choices(request.languages or (), known, "language", found) if known else ()


def _check_data(plan: Plan, found: Problems) -> None:
    """Read and check every split the plan needs, so that unreadable data stops here."""
    ids = Ids()
    for stage in plan.stages.values():
        if stage.kind == "evaluate":
            for code in stage.languages:
                with found.collect():
                    rows = scored_rows(plan, stage, code)
                    dev = dev_rows(plan, stage, code)
                    if dev is not None and (why := unlabelled(stage.task.form, dev)):
                        raise DataError(f"{stage.task.name} {code}: no threshold can be taken from its development "
                                        f"pool: {why}")
                    for task, train in _trained_on(plan, stage):
                        ids.refuse_shared(rows, train, f"{stage.task.name} {code}", f"{task.name}'s training rows")
            continue
        for task in stage.tasks if stage.kind == "train" else ():
            train = None
            with found.collect():
                train = plan.data.joined(task, stage.splits[task.name], stage.limit)
                ids.refuse_shared(train, None, f"{task.name}'s training rows", "")
            if stage.settings.keep == "best":
                with found.collect():
                    select = plan.data.joined(task, task.select, stage.settings.select_examples)
                    ids.refuse_shared(select, train, f"{task.name}'s development rows", "its training rows")
        for split in stage.masked.splits.values() if stage.kind == "train" and stage.masked else ():
            with found.collect():
                plan.data.rows("text", split, None)


def _trained_on(plan: Plan, stage: Evaluate) -> Iterator[tuple[Task, Dataset]]:
    """The rows with ids that the model of an evaluation was trained on, in any of its stages."""
    model = stage.parent
    while model is not None and stage.task.form in WITH_IDS:
        for task in model.tasks if model.kind == "train" else ():
            if task.form in WITH_IDS:
                yield task, plan.data.joined(task, model.splits[task.name], model.limit)
        model = model.parent


WITH_IDS = ("span", "nullable_span")
"""The forms whose rows are known by an id."""


class Ids:
    """The ids of each Dataset that was looked at, and which pairs of them were compared: each is read once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Dataset, set[str], list[str]]] = {}
        self._compared: set[tuple[int, int]] = set()

    def of(self, rows: Dataset) -> tuple[set[str], list[str]]:
        """The ids of rows, and those that stand more than once."""
        if id(rows) not in self._known:
            counts = Counter(rows["id"]) if "id" in rows.column_names else Counter()
            self._known[id(rows)] = rows, set(counts), [key for key, count in counts.items() if count > 1]
        return self._known[id(rows)][1:]

    def refuse_shared(self, rows: Dataset, others: Dataset | None, name: str, other_name: str) -> None:
        """DataError where rows have an id twice, or one that `others` have too: a scored item was trained on, or two
        items would share one prediction. Rows without ids pass."""
        if (pair := (id(rows), id(others))) in self._compared or "answers" not in rows.column_names:
            return
        self._compared.add(pair)
        own, twice = self.of(rows)
        if twice:
            raise DataError(f"{name} have {len(twice)} ids more than once, first {', '.join(map(repr, twice[:3]))}: "
                            "their splits overlap.")
        if others is not None and (shared := sorted(own & self.of(others)[0])):
            raise DataError(f"{name} share {len(shared)} ids with {other_name}, first "
                            f"{', '.join(map(repr, shared[:3]))}; no item may be both.")
