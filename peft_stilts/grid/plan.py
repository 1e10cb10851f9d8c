"""A recipe becomes a graph of stages, each with its key; every mistake is found here, before any work starts."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from peft_stilts import NUMERICS_VERSION
from peft_stilts.digest import canonical_json, key_of
from peft_stilts.errors import Problems, UsageError
from peft_stilts.grid import recorded
from peft_stilts.grid.base import DEFAULT_LAYERS, Base, find_base, resolve_scale
from peft_stilts.machine import resolve_precision
from peft_stilts.miniature.provider import MiniatureWorld
from peft_stilts.recipe import Recipe, read_recipe
from peft_stilts.registry import unknown
from peft_stilts.spec import LoraSettings, Request, TrainingSettings, choices
from peft_stilts.tasks import TASKS
from peft_stilts.tasks.base import Split, Task
from peft_stilts.tasks.sources import Hub, LocalMirror, Provider, load_checked

if TYPE_CHECKING:
    from datasets import Dataset

VERSIONED = ("torch", "transformers", "peft", "tokenizers")
"""Libraries whose versions stand in every stage key (design, rule 7)."""
DEFAULT_SEEDS = (1, 2, 3)
"""Seeds of a run, but one only (1) in the miniature world."""
RETRIEVAL_LENGTH = 512
"""tokens of a sentence in retrieval (protocol: run_tatoeba.sh); never more than the encoder has positions for"""


@dataclass(frozen=True)
class Train:
    """Train `task` on top of `parent` (None: the base encoder); `label` says it in words."""

    task: Task
    method: str
    settings: TrainingSettings
    lora: LoraSettings | None
    seed: int
    limit: int | None
    parent: Train | None
    role: str
    spec: Mapping[str, Any] = field(repr=False)
    kind = "train"

    @property
    def key(self) -> str:
        return key_of(self.spec)

    @property
    def path(self) -> tuple[str, ...]:
        """Names of the tasks trained so far, this one last."""
        return (*(self.parent.path if self.parent else ()), self.task.name)

    @property
    def model(self) -> str:
        """The model that comes out, in words: `squad > tydiqa (lora, seed 1)`, `none > tydiqa (...)` the baseline."""
        before = ("none",) if self.role == "target" and self.parent is None else ()
        return f"{' > '.join((*before, *self.path))} ({self.method}, seed {self.seed})"

    @property
    def label(self) -> str:
        return f"train {self.model}"


@dataclass(frozen=True)
class Evaluate:
    """Score `task` in `languages` with the model of `parent` (None: the base encoder itself)."""

    task: Task
    languages: tuple[str, ...]
    settings: TrainingSettings
    layer: int | None
    limit: int | None
    parent: Train | None
    spec: Mapping[str, Any] = field(repr=False)
    kind = "evaluate"

    @property
    def key(self) -> str:
        return key_of(self.spec)

    @property
    def label(self) -> str:
        on = self.parent.model if self.parent else "the base encoder"
        return f"score {self.task.name} in {len(self.languages)} languages with {on}"


@dataclass(frozen=True)
class Cell:
    """One evaluation under the labels of one recipe: the columns of its rows in the results table."""

    stage: Evaluate
    labels: Mapping[str, Any]


@dataclass
class Plan:
    """What a request comes to: its cells in the order they will be made, and all that their stages share."""

    request: Request
    base: Base
    provider: Provider
    precision: str
    cells: list[Cell]
    data: DataCache

    @property
    def stages(self) -> dict[str, Train | Evaluate]:
        """Every stage by key, parents before children, each once."""
        found: dict[str, Train | Evaluate] = {}
        for cell in self.cells:
            chain: list[Train | Evaluate] = [cell.stage]
            while chain[-1].parent is not None:
                chain.append(chain[-1].parent)
            for stage in reversed(chain):
                found.setdefault(stage.key, stage)
        return found


class DataCache:
    """Rows of each split, read and checked once a process, and what identifies them."""

    def __init__(self, provider: Provider):
        self.provider = provider
        self.read: dict[tuple[Split, int | None], Dataset] = {}
        self._identities: dict[Split, dict[str, Any]] = {}

    def rows(self, form: str, split: Split, limit: int | None) -> Dataset:
        """The rows of `split`, checked for their form, the first `limit` of them; raises DataError."""
        if (split, limit) not in self.read:
            self.read[split, limit] = load_checked(self.provider, form, split, limit)
        return self.read[split, limit]

    def identified(self) -> Iterator[tuple[dict[str, Any], Dataset]]:
        """What was read: identity, the limit among it, and rows."""
        for (split, limit), rows in self.read.items():
            yield self.identity(split) | {"limit": limit}, rows

    def identity(self, split: Split) -> dict[str, Any]:
        """Repository, configuration, revision and, for a local folder, digest: the part of a key that is data."""
        if split not in self._identities:
            self._identities[split] = self.provider.identify(split)
        return self._identities[split]


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
            recipes.append(read_recipe(name))
    base, precision = None, "fp32"
    with found.collect():
        base = find_base(resolve_scale(request.scale), recorded.commits(request.runs))
    with found.collect():
        small = base is not None and base.miniature or provider is not None and provider.name == "miniature"
        precision = resolve_precision(request.precision, small)
    provider = provider or choose_provider(request, base is not None and base.miniature)
    tasks = _check_names(request, recipes, provider, found)
    if base is None or found.messages:
        return None
    builder = StageBuilder(request, base, provider, precision)
    for seed in request.seeds or (DEFAULT_SEEDS[:1] if builder.miniature else DEFAULT_SEEDS):
        for method in request.methods:
            for recipe in recipes:
                with found.collect():
                    builder.add(recipe, method, seed, tasks[recipe.name])
    plan = Plan(request, base, provider, precision, builder.cells, builder.data)
    _check_data(plan, found)
    return None if found.messages else plan


def _check_names(request: Request, recipes: list[Recipe], provider: Provider, found: Problems) \
        -> dict[str, list[tuple[Task, tuple[str, ...]]]]:
    """For each recipe its targets with the languages to score, every unknown task and language noted."""
    targets = [name for name, task in TASKS.items() if task.is_target]
    trainable = [name for name, task in TASKS.items() if not task.is_target and task.train is not None]
    chosen: dict[str, list[tuple[Task, tuple[str, ...]]]] = {}
    if recipes and request.layer is not None and not any(TASKS[name].form == "retrieval" for recipe in recipes
                                             for name in request.targets or recipe.targets if name in targets):
        found.add("--layer chooses the layer that retrieval pools, and no retrieval target is asked for")
    if len({recipe.name for recipe in recipes}) < len(recipes):
        found.add(f"two recipes have the same name: {', '.join(recipe.name for recipe in recipes)}")
    if not recipes:             # none could be read; what was typed is checked all the same
        typed_languages(provider, request, found)
        choices(request.targets or (), targets, "target task", found)
    stages = {"default", "intermediate", *(TASKS[name].trained_on or name for name in targets)}
    for recipe in recipes:
        for stage in {*recipe.training, *recipe.miniature} - stages:
            found.add(f"recipe {recipe.name}: {unknown('stage', stage, stages)}")
        if recipe.intermediate not in ("none", *trainable):
            found.add(f"recipe {recipe.name}: "
                      f"{unknown('intermediate task', recipe.intermediate, ['none', *trainable])}")
        chosen[recipe.name] = []
        for name in choices(request.targets or recipe.targets, targets, "target task", found):
            languages = languages_of(TASKS[name], provider, request, found)
            if languages:
                chosen[recipe.name].append((TASKS[name], languages))
    return chosen


def languages_of(task: Task, provider: Provider, request: Request, found: Problems) -> tuple[str, ...]:
    """The languages in which `task` will be scored; a code that no target knows, or none left, is noted in `found`."""
    offered = provider.languages(task)
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
    known = sorted({code for task in TASKS.values() if task.is_target for code in provider.languages(task)})
    return choices(request.languages or (), known, "language", found) if known else ()


class StageBuilder:
    """Makes the stages of one plan; equal specifications give one key, so shared stages meet by themselves."""

    def __init__(self, request: Request, base: Base, provider: Provider, precision: str):
        self.request, self.base, self.provider, self.precision = request, base, provider, precision
        self.miniature = base.miniature or provider.name == "miniature"
        self.data, self.cells = DataCache(provider), []
        self.shared = {"base": base.identity, "precision": precision, "numerics": NUMERICS_VERSION,
                       "versions": {name: importlib.metadata.version(name) for name in VERSIONED}}

    def add(self, recipe: Recipe, method: str, seed: int, targets: list[tuple[Task, tuple[str, ...]]]) -> None:
        """The cells of one recipe, method and seed: baseline first, then with the intermediate task."""
        adapter = recipe.lora("intermediate", self.miniature) if method == "lora" else None
        intermediates: list[Train | None] = [None]
        if recipe.intermediate != "none":
            settings = recipe.settings("intermediate", method, self.miniature)
            intermediates.append(self.train(TASKS[recipe.intermediate], method, settings, adapter, seed, None,
                                            "intermediate"))
        for intermediate in intermediates:
            for task, languages in targets:
                stage = task.trained_on or task.name
                settings = recipe.settings(stage, method, self.miniature)
                shape = recipe.lora(stage, self.miniature) if method == "lora" else None
                parent = intermediate
                if task.trained_on is not None:
                    parent = self.train(TASKS[task.trained_on], method, settings, shape, seed, intermediate, "target")
                evaluate = self.evaluate(task, languages, settings, parent)
                trained = settings if task.trained_on is not None else None
                self.cell(evaluate, self.labels(method, trained, trained and shape, evaluate) | {
                    "recipe": recipe.name if intermediate else "none", "protocol": recipe.protocol, "seed": seed,
                    "intermediate": recipe.intermediate if intermediate else "none"})

    def labels(self, method: str, settings: TrainingSettings | None, lora: LoraSettings | None,
               stage: Evaluate) -> dict[str, Any]:
        """The results columns of one evaluation, less recipe, protocol, intermediate and seed.

        `method_config` holds what must agree for two scores to be compared: precision, limits on rows, and of a target
        that is trained its adapter's shape, the chief `settings` and a digest of all (None: no training).
        """
        usual = DEFAULT_LAYERS.get(self.base.config.num_hidden_layers)
        config = {"lora": lora and dataclasses.asdict(lora), "precision": self.precision,
                  "limit_train": self.request.limit_train, "limit_eval": self.request.limit_eval}
        if settings is not None:
            config |= {"lr": settings.lr, "epochs": settings.epochs,
                       "settings": key_of(dataclasses.asdict(settings))[:8]}
        return {"scale": self.base.scale, "base_model": self.base.id, "base_revision": self.base.revision,
                "data_source": self.provider.name, "method": method,
                "method_config": canonical_json({key: value for key, value in config.items() if value is not None}),
                "policy": "stack" if method == "lora" else "continue", "intermediate_variant": "",
                "target": stage.task.name, "stage_key": stage.key,
                "target_variant": "" if stage.layer in (None, usual) else f"layer {stage.layer}"}

    def cell(self, stage: Evaluate, labels: dict[str, Any]) -> None:
        """Note a cell, once: recipes with the same target settings share their baseline."""
        if not any(cell.labels == labels for cell in self.cells):
            self.cells.append(Cell(stage, labels))

    def train(self, task: Task, method: str, settings: TrainingSettings, lora: LoraSettings | None, seed: int,
              parent: Train | None, role: str) -> Train:
        settings = self.fitted(settings)
        data = {"train": self.data.identity(task.train)}
        if settings.keep == "best":
            data["select"] = self.data.identity(task.select)
        spec = {"kind": "train", "task": task.name, "method": method, "settings": dataclasses.asdict(settings),
                "lora": dataclasses.asdict(lora) if lora else None, "seed": seed, "parent": parent and parent.key,
                "limit_train": self.request.limit_train, "data": data} | self.shared
        return Train(task, method, settings, lora, seed, self.request.limit_train, parent, role, spec)

    def evaluate(self, task: Task, languages: tuple[str, ...], settings: TrainingSettings,
                 parent: Train | None) -> Evaluate:
        splits = {code: task.test(self.provider.language(code)) for code in languages}
        blank = [str(split) for split in splits.values() if not split.labelled]
        if blank:
            raise UsageError(f"{task.name} cannot be scored: {', '.join(blank)} has no labels (design, rule 6)")
        used = ("max_length", "doc_stride", "max_query_length", "max_answer_length", "n_best", "tokens_per_pack")
        layer = self.base.retrieval_layer(self.request.layer) if task.form == "retrieval" else None
        if layer is not None:
            longest = min(RETRIEVAL_LENGTH, self.positions)
            settings = dataclasses.replace(settings, max_length=longest)
            used = ("max_length", "tokens_per_pack")
        settings = self.fitted(settings)
        spec = {"kind": "evaluate", "target": task.name, "parent": parent and parent.key, "layer": layer,
                "settings": {name: getattr(settings, name) for name in used}, "limit_eval": self.request.limit_eval,
                "data": {code: self.data.identity(split) for code, split in splits.items()},
                } | self.shared
        return Evaluate(task, languages, settings, layer, self.request.limit_eval, parent, spec)

    @property
    def positions(self) -> int:
        """Tokens the encoder has positions for: XLM-R's begin at padding_idx + 1 (design, rule 1)."""
        return self.base.config.max_position_embeddings - self.base.config.pad_token_id - 1

    def fitted(self, settings: TrainingSettings) -> TrainingSettings:
        """The settings, checked against the encoder's number of positions."""
        if settings.max_length > self.positions:
            raise UsageError(f"max_length is {settings.max_length}, but {self.base.id} has positions for "
                             f"{self.positions} tokens")
        return settings


def _check_data(plan: Plan, found: Problems) -> None:
    """Read and check every split the plan needs, so that unreadable data stops here."""
    for stage in plan.stages.values():
        if stage.kind == "train":
            with found.collect():
                plan.data.rows(stage.task.form, stage.task.train, stage.limit)
            if stage.settings.keep == "best":
                with found.collect():
                    plan.data.rows(stage.task.form, stage.task.select, stage.settings.select_examples)
        else:
            for code in stage.languages:
                with found.collect():
                    plan.data.rows(stage.task.form, stage.task.test(plan.provider.language(code)), stage.limit)
