"""Recipes: one intermediate setting, its targets and the settings of every stage, read from YAML and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from peft_stilts.errors import Problems, UsageError
from peft_stilts.paths import typed_path
from peft_stilts.registry import unknown
from peft_stilts.spec import (
    ADAPTERS,
    LORA,
    METHODS,
    SETTINGS,
    LoraSettings,
    TrainingSettings,
    build,
    typed,
)
from peft_stilts.store import write_atomic


@dataclass(frozen=True)
class Recipe:
    """One intermediate setting, the targets it is measured on, and the settings of every stage.

    `intermediate` is the name in the results table: `none`, a task, `all`, or a mixture `a+b`; `tasks` the tasks in it
    (`all` stands for itself: grid/plan.py knows which those are).
    `training` and `miniature` map a stage (`default`, `intermediate`, or the name of a target's training task such
    as `squad`) to settings; the blocks `full:` and `lora:` inside a stage hold for full fine-tuning and for adapters
    only and win over the plain ones; `rslora:`, `dora:` and `qlora:` win over `lora:`. `miniature` is laid over
    `training` in the miniature world. `stack`: what is trained or taken before the intermediate task, lowest first, as
    for `--stack`.
    """

    name: str
    intermediate: str
    tasks: tuple[str, ...]
    targets: tuple[str, ...]
    protocol: str
    training: Mapping[str, Mapping[str, Any]]
    miniature: Mapping[str, Mapping[str, Any]]
    stack: tuple[str, ...] = ()

    def _values(self, stage: str, method: str, miniature: bool) -> dict[str, Any]:
        blocks = [source.get(name, {}) for source in (self.training, self.miniature)[: 1 + miniature]
                  for name in ("default", stage)]
        plain = {key: value for block in blocks for key, value in block.items() if key not in METHODS}
        own = dict.fromkeys(("lora" if method in ADAPTERS else method, method))
        return plain | {key: value for name in own for block in blocks for key, value in block.get(name, {}).items()}

    def settings(self, stage: str, method: str, miniature: bool) -> TrainingSettings:
        """Settings of `stage` for `method`; `stage` is `intermediate` or the name of a training task."""
        values = {key: value for key, value in self._values(stage, method, miniature).items() if key in SETTINGS}
        return build(TrainingSettings, values, f"recipe {self.name}: {stage} ({method})")

    def lora(self, stage: str, method: str, miniature: bool) -> LoraSettings | None:
        """Shape of the adapter that `stage` trains by `method`; None for full fine-tuning."""
        if method not in ADAPTERS:
            return None
        values = {key: value for key, value in self._values(stage, method, miniature).items() if key in LORA}
        return build(LoraSettings, values, f"recipe {self.name}: {stage} ({method})")


RECIPE_KEYS = ("name", "intermediate", "stack", "targets", "protocol", "training", "miniature")


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
    except (OSError, ValueError, AttributeError, RecursionError, yaml.YAMLError) as error:  # PyYAML lets some through
        raise UsageError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no settings; `python -m peft_stilts copy squad {path.name}` writes an example")
    return content


def _check_blocks(stages: Any, where: str, found: Problems) -> None:
    """Note in `found` every key that is unknown or out of its place and every value of another type."""
    if not isinstance(stages, dict):
        found.add(f"{where} is {stages!r}; it must map stages to settings")
        return
    kinds = get_type_hints(TrainingSettings) | get_type_hints(LoraSettings)
    for stage, block in stages.items():
        if not isinstance(stage, str):
            found.add(f"{where}.{stage}: a stage is named by a word")
        if not isinstance(block, dict):
            found.add(f"{where}.{stage} is {block!r}; it must map settings to values")
            continue
        for key, value in block.items():
            if key in METHODS:
                allowed = SETTINGS | (LORA if key in ADAPTERS else set())
                if not isinstance(value, dict):
                    found.add(f"{where}.{stage}.{key} is {value!r}; it must map settings to values")
                    continue
                for inner, content in value.items():
                    place = f"{where}.{stage}.{key}.{inner}"
                    if inner not in allowed:
                        found.add(f"{place}: {unknown('key', inner, allowed)}")
                    else:
                        with found.collect():
                            typed(content, kinds[inner], place)
            elif key in LORA:
                found.add(f"{where}.{stage}.{key} shapes an adapter; it belongs in {where}.{stage}.lora")
            elif key not in SETTINGS:
                found.add(f"{where}.{stage}.{key}: {unknown('key', key, SETTINGS | set(METHODS))}")
            else:
                with found.collect():
                    typed(value, kinds[key], f"{where}.{stage}.{key}")


def _check_effect(own: Mapping[str, Any], stages: Mapping[str, Any], where: str, found: Problems) -> None:
    """Note every plain value in a recipe's `own` file that the blocks full and lora of `default` make useless."""
    wide = METHODS[:2]      # the other methods' blocks lie over `lora`
    above = [stages.get("default", {}).get(method, {}) for method in wide]
    for stage, block in own.items():
        for key in block:
            if all(key in values and key not in block.get(method, {}) for method, values in zip(wide, above)):
                found.add(f"{where}.{stage}.{key} would have no effect: the blocks full and lora of `default` have "
                          f"their own {key} and win; set it in the blocks full and lora of `{stage}`")


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for key, value in above.items():
        both[key] = _merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


def read_intermediate(value: Any, name: str) -> tuple[str, tuple[str, ...]]:
    """What stands under `intermediate:` as its name in tables and its tasks; raises UsageError.

    `none`; a task; `all`, the nine of the paper; or a list of tasks, a mixture named `a+b`.
    """
    if value == "none":
        return "none", ()
    if value == "all":
        return "all", ("all",)
    tasks = value if isinstance(value, list) else [value]
    if not tasks or not all(isinstance(task, str) and task for task in tasks) or len(set(tasks)) < len(tasks):
        raise UsageError(f"{name}: intermediate is {value!r}; it must be none, a task, all, or a list of tasks, each "
                         "once")
    return "+".join(tasks), tuple(tasks)


def recipe_file(name: str) -> Path:
    """The file of the recipe `name`, one that comes with the program or a YAML file; raises UsageError."""
    if not name.endswith((".yaml", ".yml")):
        if name not in recipe_names():
            raise UsageError(unknown("recipe", name, recipe_names()))
        return recipes_folder() / f"{name}.yaml"
    path = typed_path(name, "recipe file")
    if not path.is_file():
        raise UsageError(f"recipe file {name!r} {'is no file' if path.exists() else 'does not exist'}; "
                         f"`python -m peft_stilts copy squad {path.name}` writes one to edit")
    return path


def recipe_source(name: str, protocol: str | None = None) -> dict[str, Any]:
    """The content of a recipe file (`squad` or `my.yaml`) with the settings of its protocol filled in below (or of
    another `protocol`, where one is given).

    Raises UsageError for an unknown name, an unreadable file or an unknown protocol.
    """
    path = recipe_file(name)
    content = {"name": path.stem} | read_yaml(path)
    protocol = protocol or content.get("protocol", "jiant")
    known = [file.stem for file in (recipes_folder() / "protocols").glob("*.yaml")]
    if protocol not in known:
        raise UsageError(f"{path}: {unknown('protocol', protocol, known)}")
    return _merged(read_yaml(recipes_folder() / "protocols" / f"{protocol}.yaml"), content | {"protocol": protocol})


def read_recipe(name: str, protocol: str | None = None) -> Recipe:
    """The recipe `name` (one that comes with the program, or a YAML file), checked; see `recipe_source`.

    Raises UsageError with every unknown key, wrong type and impossible value at once.
    """
    content = recipe_source(name, protocol)
    with Problems() as found:
        for key in content:
            if key not in RECIPE_KEYS:
                found.add(f"{name}: {unknown('key', key, RECIPE_KEYS)}")
        if not isinstance(content["name"], str) or not content["name"]:
            found.add(f"{name}: name is {content['name']!r}; it must be a name")
        with found.collect():
            intermediate, tasks = read_intermediate(content.get("intermediate"), name)
        targets = content.get("targets")
        if not isinstance(targets, list) or not targets or not all(isinstance(item, str) for item in targets):
            found.add(f"{name}: targets is {targets!r}; it must be a list of target tasks")
        stack = content.get("stack") or []
        if not isinstance(stack, list) or not all(isinstance(item, str) and item.strip() for item in stack):
            found.add(f"{name}: stack is {stack!r}; it must be a list of recipes, adapter folders, bundles or hub ids")
            stack = []
        training, miniature = content.get("training", {}), content.get("miniature", {})
        _check_blocks(training, f"{name}: training", found)
        _check_blocks(miniature, f"{name}: miniature", found)
    recipe = Recipe(content["name"], intermediate, tasks, tuple(targets), content["protocol"], training, miniature,
                    tuple(stack))
    with Problems() as found:
        own = read_yaml(recipe_file(name))
        _check_effect(own.get("training", {}), training, f"{name}: training", found)
        _check_effect(own.get("miniature", {}), miniature, f"{name}: miniature", found)
        stages = {stage for blocks in (training, miniature) for stage in blocks} - {"default"}
        for stage in sorted(stages | {"intermediate"}):
            for small in (False, True):
                for method in METHODS:
                    with found.collect():
                        recipe.settings(stage, method, small)
                    with found.collect():
                        recipe.lora(stage, method, small)
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
    text = recipe_file(name).read_text(encoding="utf-8")
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    body = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)
    first = f"# Copied from the recipe {name!r}, with the settings of its protocol filled in.\n"
    write_atomic(path, f"{first}{head}\n{body}")
