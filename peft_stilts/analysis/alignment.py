"""Alignment against transfer: the gain in retrieval beside the gain in the task, language by language.

After Hua et al. 2024 (mOthello, arXiv 2404.12444), who find that aligned representations alone do not bring
cross-lingual transfer. Here the gain in retrieval stands for alignment, the zero-shot gain in a target for transfer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd

from peft_stilts.analysis import calibration
from peft_stilts.analysis.correlation import DRAWS, correlate
from peft_stilts.analysis.families import layout
from peft_stilts.analysis.responses import CELL, Responses
from peft_stilts.tasks import TASKS

RETRIEVAL = ("tatoeba", "bucc2018")
"""Where the gain in retrieval is taken from: the first that was scored."""
USED = ("pearson", "spearman", "kendall")
TRAINED = ("lora", "lr", "epochs", "settings")
"""What `method_config` says of the training of a target; retrieval has none."""
COLUMNS = [*CELL, "retrieval", "coefficient", "estimate", "n", "families", "ci_low", "ci_high", "p_permutation",
           "retrieval_gain", "task_gain", "reliable"]


def alignment(responses: Responses, families: Mapping[str, str], draws: int = DRAWS, seed: int = 1) -> pd.DataFrame:
    """COLUMNS: for every cell of a target that is trained and scored beside retrieval, and every coefficient of USED,
    the correlation over languages of its gains with those in `retrieval` (a target's label) after the same training.

    The languages are those that both have. `retrieval_gain` and `task_gain`: means over them (points), by which
    intermediate tasks can be compared; `n` of them in `families` (number) families. The rest is as in correlations.csv:
    NaN with fewer than 4 languages. No rows where the response is no gain, or nothing can be paired.
    """
    means = responses.means.assign(
        name=[target.split(" ")[0] for target in responses.means["target"]],
        shared=[_untrained(config) for config in responses.means["method_config"]])
    of_retrieval = means["name"].map(_is_retrieval).astype(bool)
    same, rows = ["method", "shared", "policy", "intermediate"], []
    sides = dict(iter(means[of_retrieval].groupby(same, sort=True))) if responses.response == "gain" else {}
    for cell, task in means[~of_retrieval].groupby([*CELL, "shared"], sort=True):
        told = dict(zip([*CELL, "shared"], cell))
        side = sides.get(tuple(told[name] for name in same))
        if side is not None and (read := _reading(side)) is not None:
            rows += _pair({name: told[name] for name in CELL}, task, read, families, draws, seed)
    frame = pd.DataFrame(rows, columns=[*COLUMNS[:-1], "layout"])
    known = calibration.of_layouts(frame["layout"].unique(), seed) if len(frame) else None
    reliable = [calibration.reliable(known, row.layout, row.coefficient) for row in frame.itertuples()]
    return frame.drop(columns="layout").assign(reliable=np.array(reliable, dtype=bool))


def _is_retrieval(name: str) -> bool:
    return name in RETRIEVAL or (name in TASKS and TASKS[name].is_target and TASKS[name].trained_on is None)


def _untrained(config: str) -> str:
    """The part of a `method_config` that a score without a training of its own has as well."""
    try:
        told = json.loads(config)
    except ValueError:
        return config
    if not isinstance(told, dict):
        return config
    return json.dumps({name: value for name, value in told.items() if name not in TRAINED}, sort_keys=True)


def _reading(side: pd.DataFrame) -> pd.DataFrame | None:
    """The rows of one way of reading retrieval: of the first of RETRIEVAL, its usual layer if scored, else the one with
    the most languages (the first by name among equals); None where none of RETRIEVAL is there."""
    for name in RETRIEVAL:
        kinds = list(side[side["name"] == name].groupby(["target", "method_config", "metric"], sort=True))
        if kinds:
            return max(kinds, key=lambda kind: (kind[0][0] == name, len(kind[1])))[1]
    return None


def _pair(cell: Mapping[str, str], task: pd.DataFrame, side: pd.DataFrame, families: Mapping[str, str], draws: int,
          seed: int) -> list[dict]:
    """The rows of one cell: the languages of `task` and `side` (retrieval) paired, in the order of their codes."""
    both = task[["language", "value"]].merge(side[["language", "value"]], on="language", suffixes=("", "_retrieval"),
                                             validate="one_to_one").sort_values("language")
    if not len(both):
        return []
    x, y = both["value_retrieval"].to_numpy(), both["value"].to_numpy()
    of = [families[code] for code in both["language"]]
    rows = []
    for coefficient in USED:
        found = correlate(x[None], y, of, coefficient, draws=draws, seed=seed)
        rows.append(dict(cell, retrieval=side["target"].iloc[0], coefficient=coefficient, estimate=found.estimate[0],
                         n=len(both), families=len(set(of)), ci_low=found.low[0], ci_high=found.high[0],
                         p_permutation=found.p[0], retrieval_gain=x.mean(), task_gain=y.mean(), layout=layout(of)))
    return rows
