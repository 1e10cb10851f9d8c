"""Names for people: what a table or a picture says of its model, methods, tasks and metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

import pandas as pd

from peft_stilts.results import CONTEXT
from peft_stilts.tasks import NOT_COMPARABLE

MINIATURE = "miniature world - not XLM-R"
METRIC = {"f1": "F1", "exact_match": "exact match", "accuracy": "accuracy"}
MANY = 3
"""More intermediate settings than this are shown as gains alone, and in a picture as a heat map."""
_CODES = re.compile(r"[a-z]{2,3}(?:,[a-z]{2,3}){6,}")
_READING = re.compile(r"(?:layer (\d+))?\s*((?:cls)?\s*(?:centred)?)")


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
    """(label, rows) of every target task: its variant where it has one, its metric, its split where that varies, and
    whether it is not comparable with XTREME's."""
    varied = ["split"] if varies(frame, "target", "split") else []
    for values, rows in frame.groupby(["target", "metric", "target_variant", *varied], sort=False):
        name, metric, *rest = values
        told = " ".join(filter(None, [name, *rest])) + ", not comparable" * (name in NOT_COMPARABLE)
        yield f"{told} ({METRIC.get(metric, metric)})", rows


def reading(variant: str) -> tuple[int | None, str] | None:
    """How retrieval read the encoder, from a target_variant: (layer, rest), as in 'layer 7 cls centred'.

    The layer is None for the usual one, the rest '' for the mean as it is; None for a variant of another kind.
    """
    found = _READING.fullmatch(variant)
    return found and (None if found[1] is None else int(found[1]), found[2])


def by_layer(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, pd.DataFrame]]]:
    """(rows but for other layers than the usual, [(label, rows with a column `layer`)] of targets scored at several).

    `layer` is Int64, missing for the usual layer. A target that was scored at one layer only stays as it is.
    """
    read = [reading(variant) for variant in frame["target_variant"]]
    layer = pd.Series([None if found is None else found[0] for found in read], frame.index, "Int64")
    rest = pd.Series(["another kind" if found is None else found[1] for found in read], frame.index, "object")
    other, curves = pd.Series(False, frame.index), []
    for (target, how), rows in frame.groupby(["target", rest], sort=False):
        layers = layer[rows.index]
        if how != "another kind" and layers.nunique(dropna=False) > 1:
            other[rows.index] = layers.notna()
            told = " ".join(filter(None, [target, how])) + ", not comparable" * (target in NOT_COMPARABLE)
            metric = rows["metric"].iloc[0]
            curves.append((f"{told} ({METRIC.get(metric, metric)})", rows.assign(layer=layers)))
    return frame[~other], curves


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
    kinds = list(frame.groupby(["intermediate", "intermediate_variant"], sort=False))
    full = [f"{name} {variant}".strip() for (name, variant), _ in kinds]
    short = [_CODES.sub(lambda codes: f"{codes[0].count(',') + 1} languages", label) for label in full]
    for long, label, (_, rows) in zip(full, short, kinds):
        label = label if short.count(label) == 1 else long
        recipes = list(rows.groupby("recipe", sort=False))
        for recipe, some in recipes:
            yield (label if len(recipes) == 1 else f"{label} ({recipe})"), some


def column(frame: pd.DataFrame, labelled: Iterable[tuple[str, pd.DataFrame]]) -> pd.Series:
    """The labels that one of the functions above gives, as a column beside the rows of `frame`."""
    told = pd.Series("", index=frame.index)
    for label, rows in labelled:
        told[rows.index] = label
    return told


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
