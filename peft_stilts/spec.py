"""What is asked for, as frozen typed values: training settings, recipes read from YAML, and the flags of a run."""

from __future__ import annotations

import dataclasses
import math
import os
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from peft_stilts.errors import Problems, UsageError
from peft_stilts.registry import unknown
from peft_stilts.store import write_atomic

METHODS = ("full", "lora")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SCALES = {"base": "FacebookAI/xlm-roberta-base", "large": "FacebookAI/xlm-roberta-large"}
"""Short names of `--scale` and the model ids they stand for; `mini` is the shipped miniature encoder."""


@dataclass(frozen=True)
class LoraSettings:
    """Shape of one adapter (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = 16
    """rows of A and columns of B"""
    alpha: float = 32.0
    """the update is scaled by alpha / rank"""
    dropout: float = 0.05
    """probability on the adapter's input"""


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides how one stage is trained. Defaults: the authors' published replication, jiant
    `guides/projects/xstilts.md` and `scripts/benchmarks/xtreme/subscripts` (see docs/paper_deviations.md)."""

    lr: float = 1e-5
    """peak learning rate of encoder or adapter, per optimizer step"""
    head_lr: float | None = None
    """peak learning rate of the head; none means `lr`"""
    epochs: float = 2.0
    """passes over the training features"""
    features_per_step: int = 16
    """features (windows of examples) in one optimizer step, whatever the memory"""
    tokens_per_pack: int = 4096
    """tokens in one forward pass; halved when memory runs out, without changing the mathematics"""
    warmup_ratio: float = 0.1
    """share of the optimizer steps in which the learning rate rises from zero"""
    weight_decay: float = 0.01
    """AdamW's decoupled decay, not on biases and LayerNorm"""
    adam_epsilon: float = 1e-8
    """added to the denominator of AdamW"""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """decay rates of AdamW's two moments"""
    max_grad_norm: float = 1.0
    """gradients are clipped to this L2 norm once an optimizer step"""
    max_length: int = 384
    """tokens in one feature, special tokens included"""
    doc_stride: int = 128
    """tokens from the start of one window of a long text to the next (a step, not an overlap)"""
    max_query_length: int = 64
    """tokens kept of a question"""
    max_answer_length: int = 30
    """tokens in the longest answer considered"""
    n_best: int = 20
    """start and end positions considered per window"""
    select_every_steps: int | None = 1000
    """optimizer steps between two looks at English development data; none means after each epoch"""
    select_examples: int = 500
    """English development examples (the first ones) looked at"""
    patience: int = 30
    """looks without a gain after which training stops"""
    keep: str = "best"
    """`best`: the weights of the best look; `last`: the last weights, and no look at all"""

    def __post_init__(self) -> None:
        with Problems() as found:
            for name in ("lr", "epochs", "features_per_step", "tokens_per_pack", "max_grad_norm", "adam_epsilon",
                         "max_length", "doc_stride", "max_query_length", "max_answer_length", "n_best",
                         "select_examples", "patience"):
                if not getattr(self, name) > 0:
                    found.add(f"{name} is {getattr(self, name)}; it must be greater than 0")
            for name in ("head_lr", "select_every_steps"):
                if getattr(self, name) is not None and not getattr(self, name) > 0:
                    found.add(f"{name} is {getattr(self, name)}; it must be greater than 0, or null")
            for name in ("warmup_ratio", "weight_decay"):
                if not 0 <= getattr(self, name) <= 1:
                    found.add(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
            if not all(0 <= beta < 1 for beta in self.adam_betas):
                found.add(f"adam_betas are {self.adam_betas}; each must be at least 0 and below 1")
            if self.keep not in ("best", "last"):
                found.add(unknown("value of keep", self.keep, ("best", "last")))
            if self.max_query_length + 5 > self.max_length:
                found.add(f"max_query_length {self.max_query_length} leaves no room for a text in max_length "
                          f"{self.max_length}; a pair needs 4 special tokens")


_SETTINGS = {field.name for field in dataclasses.fields(TrainingSettings)}
_LORA = {field.name for field in dataclasses.fields(LoraSettings)}


def typed(value: Any, kind: Any, where: str) -> Any:
    """`value` as `kind` (int, float, str, a union with None or a tuple of floats); text such as `1e-5` is read as
    a number, since YAML calls it a string. Raises UsageError naming `where`, the value and what is expected."""
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and type(None) in options:
        return None
    target = next(option for option in options if option is not type(None))
    try:
        if typing.get_origin(target) is tuple:
            kinds = typing.get_args(target)
            if isinstance(value, (str, Mapping)) or len(value) != len(kinds):
                raise ValueError
            return tuple(typed(item, of, where) for item, of in zip(value, kinds))
        if isinstance(value, bool) or (target is str and not isinstance(value, str)):
            raise ValueError
        if target is int:
            number = float(value)
            if number != int(number):
                raise ValueError
            return int(str(value)) if str(value).lstrip("+-").isdigit() else int(number)
        if target is float and not math.isfinite(float(value)):
            raise ValueError
        return target(value)
    except (ValueError, TypeError, OverflowError):
        name = {int: "a whole number", float: "a number", str: "text"}.get(target, "a list of two numbers")
        orelse = ", or null" if type(None) in options else ""
        raise UsageError(f"{where} is {value!r}; it must be {name}{orelse}") from None


def _build(cls: type, values: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(cls)
    with Problems() as found:
        kept = {}
        for name, value in values.items():
            with found.collect():
                kept[name] = typed(value, hints[name], f"{where}.{name}")
        try:
            return cls(**kept)
        except UsageError as error:
            for problem in error.problems:
                found.add(f"{where}: {problem}")


@dataclass(frozen=True)
class Recipe:
    """One intermediate setting, the targets it is measured on, and the settings of every stage.

    `training` and `miniature` map a stage (`default`, `intermediate`, or the name of a target's training task such
    as `squad`) to settings; the blocks `full:` and `lora:` inside a stage hold for that method only and win over
    the plain ones. `miniature` is laid over `training` in the miniature world.
    """

    name: str
    intermediate: str
    targets: tuple[str, ...]
    protocol: str
    training: Mapping[str, Mapping[str, Any]]
    miniature: Mapping[str, Mapping[str, Any]]

    def _values(self, stage: str, method: str, miniature: bool) -> dict[str, Any]:
        blocks = [source.get(name, {}) for source in (self.training, self.miniature)[: 1 + miniature]
                  for name in ("default", stage)]
        plain = {key: value for block in blocks for key, value in block.items() if key not in METHODS}
        return plain | {key: value for block in blocks for key, value in block.get(method, {}).items()}

    def settings(self, stage: str, method: str, miniature: bool) -> TrainingSettings:
        """Settings of `stage` for `method`; `stage` is `intermediate` or the name of a training task."""
        values = {key: value for key, value in self._values(stage, method, miniature).items() if key in _SETTINGS}
        return _build(TrainingSettings, values, f"recipe {self.name}: {stage} ({method})")

    def lora(self, stage: str, miniature: bool) -> LoraSettings:
        """Shape of the adapter that `stage` trains."""
        values = {key: value for key, value in self._values(stage, "lora", miniature).items() if key in _LORA}
        return _build(LoraSettings, values, f"recipe {self.name}: {stage} (lora)")


RECIPE_KEYS = ("name", "intermediate", "targets", "protocol", "training", "miniature")


def recipes_folder() -> Path:
    """The folder of the recipes that come with the program: inside the installed package, else beside it."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes that come with the program, sorted."""
    return sorted(path.stem for path in recipes_folder().glob("*.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, read with `safe_load`; raises UsageError naming the file and the place."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no settings; `python -m peft_stilts copy squad {path.name}` writes an example")
    return content


def _check_blocks(stages: Any, where: str, found: Problems) -> None:
    if not isinstance(stages, dict):
        found.add(f"{where} is {stages!r}; it must map stages to settings")
        return
    for stage, block in stages.items():
        if not isinstance(block, dict):
            found.add(f"{where}.{stage} is {block!r}; it must map settings to values")
            continue
        for key, value in block.items():
            if key in METHODS:
                allowed = _SETTINGS | (_LORA if key == "lora" else set())
                if not isinstance(value, dict):
                    found.add(f"{where}.{stage}.{key} is {value!r}; it must map settings to values")
                    continue
                for inner in value:
                    if inner not in allowed:
                        found.add(unknown("key", f"{where}.{stage}.{key}.{inner}", allowed))
            elif key in _LORA:
                found.add(f"{where}.{stage}.{key} shapes an adapter; it belongs in {where}.{stage}.lora")
            elif key not in _SETTINGS:
                found.add(unknown("key", f"{where}.{stage}.{key}", _SETTINGS | set(METHODS)))


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for key, value in above.items():
        both[key] = _merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


def recipe_source(name: str) -> dict[str, Any]:
    """The content of a recipe file (`squad` or `my.yaml`) with the settings of its protocol filled in below.

    Raises UsageError for an unknown name, an unreadable file or an unknown protocol.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UsageError(f"recipe file {name!r} does not exist; "
                             f"`python -m peft_stilts copy squad {path.name}` writes one to edit")
    else:
        path = recipes_folder() / f"{name}.yaml"
        if name not in recipe_names():
            raise UsageError(unknown("recipe", name, recipe_names()))
    content = {"name": path.stem} | read_yaml(path)
    protocol = content.get("protocol", "jiant")
    known = [file.stem for file in (recipes_folder() / "protocols").glob("*.yaml")]
    if protocol not in known:
        raise UsageError(f"{path}: {unknown('protocol', protocol, known)}")
    return _merged(read_yaml(recipes_folder() / "protocols" / f"{protocol}.yaml"), content | {"protocol": protocol})


def read_recipe(name: str) -> Recipe:
    """The recipe `name` (one that comes with the program, or a YAML file), checked.

    Raises UsageError with every unknown key, wrong type and impossible value at once.
    """
    content = recipe_source(name)
    with Problems() as found:
        for key in content:
            if key not in RECIPE_KEYS:
                found.add(f"{name}: {unknown('key', key, RECIPE_KEYS)}")
        for key in ("name", "intermediate"):
            if not isinstance(content.get(key), str) or not content[key]:
                found.add(f"{name}: {key} is {content.get(key)!r}; it must be a name")
        targets = content.get("targets")
        if not isinstance(targets, list) or not targets or not all(isinstance(item, str) for item in targets):
            found.add(f"{name}: targets is {targets!r}; it must be a list of target tasks")
        training, miniature = content.get("training", {}), content.get("miniature", {})
        _check_blocks(training, f"{name}: training", found)
        _check_blocks(miniature, f"{name}: miniature", found)
    recipe = Recipe(content["name"], content["intermediate"], tuple(targets), content["protocol"], training, miniature)
    with Problems() as found:
        stages = {stage for blocks in (training, miniature) for stage in blocks} - {"default"}
        for stage in sorted(stages | {"intermediate"}):
            for small in (False, True):
                for method in METHODS:
                    with found.collect():
                        recipe.settings(stage, method, small)
                with found.collect():
                    recipe.lora(stage, small)
    return recipe


def copy_recipe(name: str, path: Path) -> None:
    """Write recipe `name` with its protocol's settings filled in to the new file `path`, its comments kept on top.

    Raises UsageError for an unknown recipe, another ending than .yaml, or a file that exists.
    """
    with Problems() as found:
        if path.suffix not in (".yaml", ".yml"):
            found.add(f"{str(path)!r} must end in .yaml, so that `recipe` knows it for a file")
        if path.exists():
            found.add(f"{path} exists and is not overwritten; choose another name")
        with found.collect():
            content = recipe_source(name)
    content = {key: content[key] for key in RECIPE_KEYS if key in content and key != "name"}
    text = (recipes_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    body = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)
    first = f"# Copied from the recipe {name!r}, with the settings of its protocol filled in.\n"
    write_atomic(path, f"{first}{head}\n{body}")


@dataclass(frozen=True)
class Request:
    """The flags of one `recipe` command, parsed; `None` means the recipe's or the scale's own value."""

    recipes: tuple[str, ...]
    scale: str = "auto"
    methods: tuple[str, ...] = ("full",)
    targets: tuple[str, ...] | None = None
    languages: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    precision: str = "auto"
    data_root: Path | None = None
    runs: Path = Path("runs")
    limit_train: int | None = None
    limit_eval: int | None = None
    layer: int | None = None
    plan_only: bool = False
    keep: bool = False


def names(text: str, flag: str) -> tuple[str, ...]:
    """A comma list as typed, spaces around the names dropped; raises UsageError for empty or repeated names."""
    items = tuple(item.strip() for item in text.split(","))
    if not all(items):
        raise UsageError(f"--{flag} is {text!r}; it must be names with commas between, such as a,b")
    if len(set(items)) < len(items):
        raise UsageError(f"--{flag} is {text!r}; each name may stand once")
    return items


def whole(text: str, flag: str, least: int = 1) -> int:
    """A whole number as typed (`007`, `1e5`); raises UsageError below `least`."""
    number = typed(text, int, f"--{flag}")
    if number < least:
        raise UsageError(f"--{flag} is {text}; it must be at least {least}")
    return number


def choices(items: Iterable[str], known: Iterable[str], kind: str, found: Problems) -> tuple[str, ...]:
    """The `items` that are among `known`; each other one is added to `found` with the nearest names."""
    items, known = tuple(items), tuple(known)
    for item in items:
        if item not in known:
            found.add(unknown(kind, item, known))
    return tuple(item for item in items if item in known)


def switch(text: str, flag: str) -> bool:
    """`True` for a flag that stands alone, or the word typed after it."""
    if text.lower() not in ("true", "false"):
        raise UsageError(f"--{flag} is {text!r}; it takes no value")
    return text.lower() == "true"


def parse_request(recipes: str, flags: Mapping[str, str | None], found: Problems) -> Request:
    """The request that the typed texts make; every mistake goes into `found` and its flag keeps the default.

    `flags` maps the fields of Request but `recipes` to the text typed, or None where the flag was not given.
    """
    readers = {
        "scale": lambda text: text.strip() or "auto",
        "methods": lambda text: choices(names(text, "method"), METHODS, "method", found) or METHODS[:1],
        "targets": lambda text: names(text, "targets"),
        "languages": lambda text: names(text, "languages"),
        "seeds": lambda text: tuple(whole(item, "seeds", 0) for item in names(text, "seeds")),
        "precision": lambda text: (choices([text], PRECISIONS, "precision", found) or ("auto",))[0],
        "data_root": lambda text: existing_folder(text, "data_root"),
        "runs": lambda text: Path(text).expanduser(),
        "limit_train": lambda text: whole(text, "limit_train"),
        "limit_eval": lambda text: whole(text, "limit_eval"),
        "layer": lambda text: whole(text, "layer", 0),
        "plan_only": lambda text: switch(text, "plan_only"),
        "keep": lambda text: switch(text, "keep"),
    }
    values: dict[str, Any] = {"recipes": ()}
    with found.collect():
        values["recipes"] = names(recipes, "recipe")
    for name, text in flags.items():
        if text is not None:
            with found.collect():
                values[name] = readers[name](text)
    return Request(**values)


def existing_folder(text: str, flag: str) -> Path:
    """The folder typed; raises UsageError when it is not there or cannot be read."""
    folder = Path(text).expanduser()
    if not folder.is_dir():
        raise UsageError(f"--{flag} {text!r} is no folder; `python tools/mirror.py --help` shows how to make one")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UsageError(f"--{flag} {text!r} cannot be read; check its permissions")
    return folder.resolve()
