"""From a recipe to stages: every stage of a request with its settings, its data and its key."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Sequence
from typing import Any

from peft_stilts.digest import canonical_json, key_of
from peft_stilts.errors import Problems, UsageError
from peft_stilts.grid.base import DEFAULT_LAYERS, Base
from peft_stilts.grid.stages import Cell, DataCache, Evaluate, Given, Masked, Train, adapters
from peft_stilts.recipe import Recipe
from peft_stilts.spec import NF4, LoraSettings, Request, TrainingSettings, choices
from peft_stilts.tasks import INTERMEDIATE, TARGETS, TASKS
from peft_stilts.tasks.base import Split, Task
from peft_stilts.tasks.controls import text_languages, text_split, translations
from peft_stilts.tasks.sources import Provider, dev_split, scored_languages, scored_split
from peft_stilts.train.optim import check_optimizer
from peft_stilts.version import NUMERICS_VERSION

VERSIONED = ("torch", "transformers", "peft", "tokenizers")
"""Libraries whose versions stand in every stage key (design, rule 7)."""
RETRIEVAL_LENGTH = 512
"""tokens of a sentence in retrieval (protocol: run_tatoeba.sh); never more than the encoder has positions for"""


def mixture(recipe: Recipe) -> tuple[str, ...]:
    """Names of the tasks of a recipe's first stage; () without one."""
    return INTERMEDIATE if recipe.intermediate == "all" else recipe.tasks


class StageBuilder:
    """Makes the stages of one plan; equal specifications give one key, so shared stages meet by themselves."""

    def __init__(self, request: Request, base: Base, provider: Provider, precision: str, kernels: str = "eager"):
        self.request, self.base, self.provider, self.precision = request, base, provider, precision
        self.kernels = None if kernels == "eager" else kernels      # eager stages keep the keys from before the choice
        self.miniature = base.miniature or provider.name == "miniature"
        self.data, self.cells = DataCache(provider), []
        self.shared = {"base": base.identity, "precision": precision, "numerics": NUMERICS_VERSION,
                       "versions": {name: importlib.metadata.version(name) for name in VERSIONED}}
        if self.kernels:
            self.shared["kernels"] = self.kernels

    def add(self, recipe: Recipe, below: Sequence[Recipe | Train | Given], method: str, policy: str, seed: int,
            targets: list[tuple[Task, tuple[str, ...]]]) -> None:
        """The cells of one recipe, method, policy and seed: baseline first, then with the intermediate tasks: those
        `below`, lowest first, and the recipe's own."""
        intermediates: list[Train | Given | None] = [None]
        if below or mixture(recipe):
            intermediates.append(self.intermediate(recipe, below, method, policy, seed))
        for intermediate in intermediates:
            for task, languages in targets:
                stage = task.trained_on or task.name
                settings = recipe.settings(stage, method, self.miniature)
                shape = recipe.lora(stage, method, self.miniature)
                parent = intermediate
                if task.trained_on is not None:
                    trained = TASKS[task.trained_on]
                    parent = self.train(trained.name, (trained,), method, settings, shape, seed, intermediate, "target",
                                        policy=policy)
                for evaluate in self.evaluations(task, languages, settings, parent, method):
                    own = settings if task.trained_on is not None else None
                    self.cell(evaluate, self.labels(method, policy, own, own and shape, evaluate) | {
                        "recipe": recipe.name if intermediate else "none", "protocol": recipe.protocol, "seed": seed,
                        "intermediate": ">".join(intermediate.path) if intermediate else "none",
                        "intermediate_variant": intermediate.variant if intermediate else ""})

    def intermediate(self, recipe: Recipe, below: Sequence[Recipe | Train | Given], method: str, policy: str,
                     seed: int) -> Train | Given:
        """The last stage before the targets: what is `below`, trained where it is a recipe, and on top the recipe's own
        stage, with the paper's controls where they are asked for."""
        top: Train | Given | None = None
        for entry in below:
            if isinstance(entry, Recipe):
                top = self.first_stage(entry, method, policy, seed, top)
            else:
                top = entry
                _refuse_mixture(entry, method)
        if not mixture(recipe):
            return top
        tasks = tuple(TASKS[name] for name in mixture(recipe))
        translated = self.translated(tasks) if self.request.translated else None
        return self.first_stage(recipe, method, policy, seed, top, self.masked(), translated)

    def first_stage(self, recipe: Recipe, method: str, policy: str, seed: int, parent: Train | Given | None,
                    masked: Masked | None = None, translated: tuple[str, dict] | None = None) -> Train:
        """The intermediate training of a recipe, on top of `parent`."""
        tasks = tuple(TASKS[name] for name in mixture(recipe))
        settings = recipe.settings("intermediate", method, self.miniature)
        shape = recipe.lora("intermediate", method, self.miniature)
        return self.train(recipe.intermediate, tasks, method, settings, shape, seed, parent, "intermediate", masked,
                          translated, policy)

    def masked(self) -> Masked | None:
        """The text for masked-language modelling; None without --mlm_ratio."""
        asked, folder = self.request, self.request.mlm_text
        if asked.mlm_ratio is None:
            return None
        known = text_languages(folder) if folder else sorted({
            code for name in TARGETS for code in scored_languages(self.provider, TASKS[name])})
        with Problems() as found:
            codes = choices(asked.mlm_languages or known, known, "language of --mlm_languages", found)
        return Masked(asked.mlm_ratio, asked.mlm_temperature, codes, {code: text_split(code, folder) for code in codes})

    def translated(self, tasks: tuple[Task, ...]) -> tuple[str, dict[str, tuple[Split, ...]]]:
        """What the translated data is called in tables, and the training rows of each task, its languages joined."""
        asked, splits, names = self.request, {}, set()
        for task in tasks:
            there = translations(task, asked.translated)
            found = {"en": task.train} | {code: (split,) for code, split in there.items()}
            if not there:
                raise UsageError(f"--translated {asked.translated} has no translation of {task.name}; its files are "
                                 f"named {task.name}.translate.train.en-LL.json (spans) or .tsv (pairs)")
            with Problems() as wrong:
                codes = choices(asked.translated_languages or found, found, f"language of translated {task.name}",
                                wrong)
            splits[task.name] = tuple(split for code in codes for split in found[code])
            names.update(codes)
        return f"translated {','.join(sorted(names))}", splits

    def labels(self, method: str, policy: str, settings: TrainingSettings | None, lora: LoraSettings | None,
               stage: Evaluate) -> dict[str, Any]:
        """The results columns of one evaluation, less recipe, protocol, intermediate and seed.

        `method_config` holds what must agree for two scores to be compared: precision, kernels, row limits, of a target
        that is trained its adapter's shape, the chief `settings` and a digest of all (None: no training).
        """
        config = {"lora": lora and lora.told(), "precision": self.precision, "kernels": self.kernels,
                  "limit_train": self.request.limit_train, "limit_eval": self.request.limit_eval}
        if settings is not None:
            config |= {"lr": settings.lr, "epochs": settings.epochs,
                       "settings": key_of(settings.told())[:8]}
        return {"scale": self.base.scale, "base_model": self.base.id, "base_revision": self.base.revision,
                "data_source": self.provider.name, "method": method,
                "method_config": canonical_json({key: value for key, value in config.items() if value is not None}),
                "policy": "continue" if method == "full" else policy,
                "target": stage.task.name, "stage_key": stage.key, "target_variant": self.variant(stage)}

    def variant(self, stage: Evaluate) -> str:
        """How retrieval reads the encoder, where that is not the usual: `layer 7 cls centred`."""
        if stage.layer is None:
            return ""
        usual = DEFAULT_LAYERS.get(self.base.config.num_hidden_layers)
        told = [f"layer {stage.layer}"] if stage.layer != usual else []
        told += [stage.settings.pooling] if stage.settings.pooling != "mean" else []
        return " ".join([*told, *(["centred"] if stage.centred else [])])

    def cell(self, stage: Evaluate, labels: dict[str, Any]) -> None:
        """Note a cell, once: recipes with the same target settings share their baseline."""
        if not any(cell.labels == labels for cell in self.cells):
            self.cells.append(Cell(stage, labels))

    def train(self, name: str, tasks: tuple[Task, ...], method: str, settings: TrainingSettings,
              lora: LoraSettings | None, seed: int, parent: Train | Given | None, role: str,
              masked: Masked | None = None, translated: tuple[str, dict[str, tuple[Split, ...]]] | None = None,
              policy: str = "stack") -> Train:
        settings = self.fitted(settings)
        policy = "stack" if parent is None or lora is None else policy
        _refuse_inexact(name, method, lora, parent, policy)
        check_optimizer(settings.optimizer)
        splits = translated[1] if translated else {task.name: task.train for task in tasks}
        data = {"train": {task: list(map(self.data.identity, found)) for task, found in splits.items()}}
        if settings.keep == "best":
            data["select"] = {task.name: list(map(self.data.identity, task.select)) for task in tasks}
        spec = {"kind": "train", "name": name, "tasks": [task.name for task in tasks], "method": method,
                "settings": settings.told(), "lora": lora and lora.told(),
                "seed": seed, "parent": parent and parent.key, "limit_train": self.request.limit_train,
                "data": data} | self.shared
        if policy != "stack":       # keys of stacks are those from before there was a choice
            spec["policy"] = policy
        words = []
        if masked:
            spec["mlm"] = {"ratio": masked.ratio, "temperature": masked.temperature, "data": {
                code: self.data.identity(split) for code, split in masked.splits.items()}}
            words.append(f"{masked} ({key_of(spec['mlm']['data'])[:6]})")     # the text's digest: which text it was
        if translated:
            words.append(f"{translated[0]} ({key_of(data['train'])[:6]})")
        if words:
            spec["variant"] = "; ".join(words)
        if origins := {task.name: task.origin for task in tasks if task.origin}:
            spec["origins"] = origins
        return Train(name, tasks, method, settings, lora, seed, self.request.limit_train, parent, role, spec, splits,
                     masked, policy)

    def evaluations(self, task: Task, languages: tuple[str, ...], settings: TrainingSettings,
                    parent: Train | Given | None, method: str) -> list[Evaluate]:
        """The evaluations of a target: one, but of a retrieval target one for each layer asked for."""
        if task.form not in ("retrieval", "mining"):
            return [self.evaluate(task, languages, settings, parent, method, None)]
        return [self.evaluate(task, languages, settings, parent, method, layer)
                for layer in self.base.retrieval_layers(self.request.layers, settings.layer)]

    def evaluate(self, task: Task, languages: tuple[str, ...], settings: TrainingSettings,
                 parent: Train | Given | None, method: str, layer: int | None) -> Evaluate:
        splits = {code: scored_split(self.provider, task, code) for code in languages}
        used = ("max_length", "doc_stride", "max_query_length", "max_answer_length", "n_best", "tokens_per_pack")
        spec = {"kind": "evaluate", "target": task.name, "parent": parent and parent.key, "layer": layer}
        if layer is not None:
            settings = dataclasses.replace(settings, max_length=min(RETRIEVAL_LENGTH, self.positions))
            used = ("max_length", "tokens_per_pack", "pooling")
            spec["centred"] = self.request.centre
        settings = self.fitted(settings)
        spec |= {"settings": {name: getattr(settings, name) for name in used}, "limit_eval": self.request.limit_eval,
                 "data": {code: self.data.identity(split) for code, split in splits.items()}} | self.shared
        if task.dev is not None:
            spec["dev"] = {code: self.data.identity(dev_split(self.provider, task, code)) for code in languages}
        if task.origin:
            spec["origins"] = {task.name: task.origin}
        quantized = parent is None and method == "qlora"
        if quantized:
            spec["quantization"] = NF4
        return Evaluate(task, languages, settings, layer, self.request.limit_eval, parent, spec, self.request.centre,
                        quantized)

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


def _refuse_mixture(given: Train | Given, method: str) -> None:
    """UsageError where `method` cannot stand on a stage that is there already."""
    if "full" in (method, given.method) and method != given.method:
        raise UsageError(f"{given.model} cannot be the start of --method {method}: an adapter stands on adapters, a "
                         "fully trained encoder on such encoders")
    if "qlora" in (method, given.method) and method != given.method:
        raise UsageError(f"{given.model} cannot be the start of --method {method}: the 4-bit base of qlora has other "
                         "weights than that of the others. Train both by the same method")


def _refuse_inexact(name: str, method: str, lora: LoraSettings | None, parent: Train | Given | None,
                    policy: str) -> None:
    """UsageError for what would not be exact: see model/stack.py, which refuses the same of folders."""
    if parent is None or lora is None:
        return
    if policy == "merge" and method == "qlora":
        raise UsageError("--policy merge folds adapters into the base, which cannot be done exactly in the 4 bits of "
                         "--method qlora: the sum would have to be rounded again. Choose --policy stack or continue")
    if policy == "continue":
        there, asked = {"method": parent.method} | parent.lora.fixed(), {"method": method} | lora.fixed()
        if there != asked:
            raise UsageError(f"--policy continue trains one adapter on and on, but that of {parent.name} is {there}, "
                             f"that of {name} is to be {asked}; give their stages the same shape in the recipe")
    frozen = adapters(parent)[: -1 if policy == "continue" else None] if policy != "merge" else []
    if method == "dora" and lora.dropout > 0 and frozen:
        raise UsageError(f"{name}: DoRA with dropout {lora.dropout:g} over frozen adapters is trained over the bare "
                         "base by PEFT, as if those were not there, and used over all of them; set dropout: 0 in the "
                         "recipe's block dora, or choose --policy merge")
