"""Names for people: what a table or a picture says of its model, methods and metrics."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import pandas as pd

from peft_stilts.results import CONTEXT

MINIATURE = "miniature world - not XLM-R"
METRIC = {"f1": "F1", "exact_match": "exact match", "accuracy": "accuracy"}


def contexts(frame: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    """(heading, rows) of everything that may stand in one table: scales, models and policies are never mixed.

    The heading holds the scale and the model, and the other columns of CONTEXT where they tell headings apart.
    """
    varied = [column for column in CONTEXT[2:] if frame[column].nunique() > 1]
    for values, rows in frame.groupby(CONTEXT, sort=False):
        context = dict(zip(CONTEXT, values))
        told = [MINIATURE] * (context["scale"] == "mini") + [f"scale {context['scale']}"]
        if context["scale"] != "mini" and context["base_model"]:
            told.append(context["base_model"].rstrip("/").split("/")[-1])       # a path's last part tells most
        told += [f"{column.replace('_', ' ')} {context[column] or '-'}" for column in varied]
        yield " · ".join(told), rows


def targets(frame: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    """(label, rows) of every target task, its metric and, where they vary, its variant and split."""
    varied = [column for column in ("target_variant", "split") if varies(frame, "target", column)]
    for values, rows in frame.groupby(["target", "metric", *varied], sort=False):
        variant = " ".join(filter(None, values[2:]))
        yield f"{values[0]}{' ' + variant if variant else ''} ({METRIC.get(values[1], values[1])})", rows


def methods(frame: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    """(label, rows) of every method; where its configuration varies within a target, with the settings that differ:
    'lora lora.rank=8'. (Targets are trained with settings of their own, which are no difference between methods.)"""
    told = pd.Series("", index=frame.index)
    for (method, _), rows in frame.groupby(["method", "target"], sort=False):
        kinds = list(rows.groupby(["method_config", "policy"], sort=False))
        names = differing([_parsed(config) | {"policy": policy} for (config, policy), _ in kinds])
        for name, (_, some) in zip(names, kinds):
            told[some.index] = f"{method} {name}".strip()
    for label in told.unique():
        yield label, frame[told == label]


def intermediates(frame: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    """(label, rows) of every intermediate setting, with its variant when it has one, and with the recipe's name where
    several recipes train on the same task."""
    for (name, variant), rows in frame.groupby(["intermediate", "intermediate_variant"], sort=False):
        label = f"{name} {variant}".strip()
        recipes = list(rows.groupby("recipe", sort=False))
        for recipe, some in recipes:
            yield (label if len(recipes) == 1 else f"{label} ({recipe})"), some


def languages(frame: pd.DataFrame, order: Sequence[str] | None = None) -> list[str]:
    """The language codes of the rows: as in `order` (the rest after it), else English first and then as they come."""
    present = [code for code in frame["language"].unique() if code != "avg"]
    if order is None:
        return sorted(present, key=lambda code: code != "en")
    place = {code: index for index, code in enumerate(order)}
    return sorted(present, key=lambda code: place.get(code, len(place)))


def varies(frame: pd.DataFrame, within: str, column: str) -> bool:
    """Whether `column` has more than one value for some value of `within`."""
    return bool((frame.groupby(within)[column].nunique() > 1).any())


def differing(configs: list[dict]) -> list[str]:
    """For each of several settings the 'key=value' pairs in which they differ; '' when there is only one."""
    keys = sorted({key for config in configs for key in config})
    keys = [key for key in keys if len({json.dumps(config.get(key), sort_keys=True) for config in configs}) > 1]
    return [" ".join(f"{key}={config[key]}" for key in keys if key in config) for config in configs]


def _parsed(text: str) -> dict:
    try:
        value = json.loads(text)
    except ValueError:
        return {"config": text}
    if not isinstance(value, dict):
        return {"config": text}
    nested = {key: part if isinstance(part, dict) else {"": part} for key, part in value.items()}
    return {f"{key}.{name}".rstrip("."): item for key, part in nested.items() for name, item in part.items()}
