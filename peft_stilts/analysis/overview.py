"""Gains averaged over languages: one number for every method, intermediate task, target and seed."""

from __future__ import annotations

import pandas as pd

from peft_stilts.analysis import labels
from peft_stilts.results import gains
from peft_stilts.tasks import NOT_COMPARABLE

MEAN = "mean"
"""The label of the mean over targets."""
ROW = ["method", "intermediate"]


def averages(frame: pd.DataFrame) -> pd.DataFrame:
    """The gain of every target, averaged over its languages (English included, as XTREME does), a row a seed.

    `frame`: results rows of one context (`labels.contexts`); other layers than the usual are left out. Columns
    `method`, `intermediate`, `target` (labels for people), `task`, `variant`, `target_task` (the same as names: the
    columns intermediate, intermediate_variant, target), `comparable` (bool: with XTREME), `seed` (int), `gain`
    (points). A seed counts for a target only where it has all of the target's languages.
    """
    pairs = gains(frame[frame["primary"]])
    pairs = labels.by_layer(pairs)[0].reset_index(drop=True)
    told = pairs[["seed", "gain"]].assign(
        method=labels.column(pairs, labels.methods(pairs)), target=labels.column(pairs, labels.targets(pairs)),
        intermediate=labels.column(pairs, labels.intermediates(pairs)), language=pairs["language"],
        task=pairs["intermediate"], variant=pairs["intermediate_variant"], target_task=pairs["target"],
        comparable=~pairs["target"].isin(NOT_COMPARABLE))
    cell = [*ROW, "target", "task", "variant", "target_task", "comparable"]
    languages = told.groupby(cell, sort=False)["language"].transform("nunique")
    own = told.groupby([*cell, "seed"], sort=False)["language"].transform("nunique")
    return told[own == languages].groupby([*cell, "seed"], sort=False)["gain"].mean().reset_index()


def over_targets(cells: pd.DataFrame) -> pd.DataFrame:
    """The mean over targets of `averages`: columns `method`, `intermediate`, `seed`, `gain`, `targets` (how many).

    Targets that are not comparable with XTREME's do not count; a seed counts where it has all of the row's targets.
    """
    cells = cells[cells["comparable"]]
    told = cells.groupby([*ROW, "seed"], sort=False)["gain"].agg(gain="mean", targets="count").reset_index()
    most = cells.groupby(ROW, sort=False)["target"].nunique().rename("most").reset_index()
    told = told.merge(most, on=ROW)
    return told[told["targets"] == told["most"]].drop(columns="most").reset_index(drop=True)


def matrix(cells: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of `averages`, a row a method and intermediate task and target, in their order.

    Columns `method`, `intermediate`, `target`, `gain`, `gain_sd` (n - 1; NaN for one seed), `seeds`. With several
    targets the mean over them is the target MEAN, for the rows that have every comparable target.
    """
    whole = over_targets(cells)
    count = cells.loc[cells["comparable"], "target"].nunique()
    whole = whole[whole["targets"] == count].assign(target=MEAN) if count > 1 else whole.iloc[:0]
    both = pd.concat([part for part in (cells, whole) if len(part)] or [cells.assign(target="")], ignore_index=True)
    told = both.groupby([*ROW, "target"], sort=False)["gain"].agg(gain="mean", gain_sd="std", seeds="count")
    return told.reset_index()


def columns(told: pd.DataFrame) -> dict[str, str]:
    """{target of `matrix`: short title}, the mean first; without metrics where names alone tell targets apart."""
    targets = sorted(told["target"].unique(), key=lambda target: target != MEAN)
    short = [target.partition(" (")[0].replace(", not comparable", "*") for target in targets]
    return dict(zip(targets, short if len(set(short)) == len(short) else targets))
