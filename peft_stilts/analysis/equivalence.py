"""Adapters against full fine-tuning: the difference of gains, whether it is nothing, and what each costs.

Everything is paired: what is compared are values of one language and seed, after the same intermediate and target task.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from peft_stilts.analysis.families import mean_interval
from peft_stilts.errors import UsageError

if TYPE_CHECKING:
    from peft_stilts.analysis.responses import Responses

PLACE = ["intermediate", "target", "metric"]
KIND = ["method", "method_config", "policy"]
COSTS = ["trainable_parameters", "bytes", "seconds", "tokens"]
METHODS = [*PLACE, "method", "reference", "method_config", "policy", "n", "seeds", "gain", "gain_reference",
           "difference", "ci_low", "ci_high", "p_wilcoxon", "margin", "p_tost", "equivalent", *COSTS,
           *(f"{cost}_reference" for cost in COSTS)]
LEVEL = 0.05
FEWEST_SIGNED = 6
"""languages below which no signed-rank test can reach two-sided 5 %: 2 / 2^5 = 6.25 %"""
EVERY_SIGN = 13
"""up to this many differences every one of the 2^n signs is tried"""


@dataclass(frozen=True)
class Pair:
    """One method beside the reference in one cell: `values` and `reference` (languages, seeds) float64, complete, the
    same languages (sorted) and seeds in both; `place` and `kind`: values of PLACE and KIND; `against`: the reference's
    of KIND."""

    place: tuple[str, ...]
    kind: tuple[str, ...]
    against: tuple[str, ...]
    languages: list[str]
    values: np.ndarray
    reference: np.ndarray


def methods(
    responses: Responses, stages: pd.DataFrame | None, families: Mapping[str, str], margin: float = 1.0,
    reference: str = "full",
) -> tuple[pd.DataFrame, list[str]]:
    """(frame with the columns METHODS, notes): every method, configuration and policy against `reference`, by cell.

    `gain`, `gain_reference`: means over languages and shared seeds of the response (gains; for scores: scores), points;
    `difference` = gain - gain_reference with its 95 % interval, see `interval`; `n` languages, `seeds` shared seeds.
    `p_tost`: the larger p of two one-sided t tests against -margin and +margin (Schuirmann 1987, J. Pharmacokinetics
    and Biopharmaceutics 15); `equivalent`: p_tost < 0.05, so that the 90 % interval lies within the margin.
    `p_wilcoxon`: signed-rank test of the languages' mean differences, two-sided, differences of 0 left out
    (zero_method 'wilcox'); NaN with fewer than 6 languages or no difference at all. It takes languages for independent
    and seeds for all there are: it stands here because it is customary; the interval is the one to read.
    The columns of COSTS: sums over the training stages behind the scores, the intermediate task's among them, mean over
    seeds (`seconds` compare on one device only; `bytes` of the artefacts); NaN without `stages` (the stages table).
    Raises UsageError for a margin that is not above 0.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise UsageError(f"--margin {margin}: differences within plus and minus the margin count as none; it is a "
                         "number of points above 0, such as 1.")
    found, notes = pairs(responses, reference)
    paid = _costs(responses.keys, stages, found) if stages is not None else {}
    nothing = dict.fromkeys(COSTS, math.nan)
    rows = []
    for pair in found:
        own = paid.get((*pair.kind, *pair.place), nothing)
        other = paid.get((*pair.against, *pair.place), nothing)
        rows.append(dict(zip(PLACE, pair.place)) | dict(zip(KIND, pair.kind)) | {"reference": reference}
                    | _compared(pair, families, margin) | own
                    | {f"{cost}_reference": other[cost] for cost in COSTS})
    seeds = [pair.values.shape[1] for pair in found]
    if seeds.count(1):
        notes.append(f"{seeds.count(1)} of {len(seeds)} comparisons with {reference} rest on one seed: their intervals "
                     "are over languages alone, for these very trainings; others would differ by more.")
    if seeds.count(2):
        notes.append(f"{seeds.count(2)} of {len(seeds)} comparisons with {reference} rest on two seeds: where "
                     "trainings differ much, their 95 % intervals hold nearer 88 %.")
    return pd.DataFrame(rows, columns=METHODS), notes


def _compared(pair: Pair, families: Mapping[str, str], margin: float) -> dict[str, Any]:
    """The columns of METHODS from `n` to `equivalent` for one pair."""
    differences = pair.values - pair.reference
    mean, error, freedom = interval(differences, [families.get(code, code) for code in pair.languages])
    told = dict(n=len(pair.languages), seeds=differences.shape[1], gain=float(pair.values.mean()),
                gain_reference=float(pair.reference.mean()), difference=mean, margin=float(margin))
    with np.errstate(divide="ignore", invalid="ignore"):
        above, below = (np.float64(mean + side) / error for side in (margin, -margin))
    p_tost = float(np.maximum(stats.t.sf(above, freedom), stats.t.cdf(below, freedom)))
    away = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * error
    return told | dict(ci_low=mean - away, ci_high=mean + away, p_wilcoxon=_signed_ranks(differences.mean(axis=1)),
                       p_tost=p_tost, equivalent=p_tost < LEVEL)


def interval(differences: np.ndarray, families: Sequence[str]) -> tuple[float, float, float]:
    """(mean, standard error, degrees of freedom) of the mean of `differences` (languages, seeds), both being samples.

    One training is scored in every language, so that its chance is common to them: the table is crossed, and
    Var(mean) = var_L + var_S - var_LS, in mean squares over the number of values: of languages, of seeds, and of the
    rest, which both of the former contain (expected mean squares of the two-way random model: Searle, Casella and
    McCulloch 1992, Variance Components, ch. 4; the same terms as two-way clustering's, Cameron, Gelbach and Miller
    2011, J. Business and Economic Statistics 29). var_L is from `families.mean_interval`, which counts in that
    languages of one family resemble each other. var_S - var_LS, the part of the seeds alone, counts as 0 when negative.
    Degrees of freedom after Satterthwaite 1946, who has no lower bound where a part is taken away; never fewer than
    languages or seeds alone would have. In simulations with 3 seeds and independent languages 95 % intervals
    held 92 to 97 % over all proportions of the three (see the tests), with 2 seeds as little as 88 %. With one seed
    var_L stands alone. NaN but for the mean with one language.
    """
    languages, seeds = differences.shape
    by_language, by_seed = differences.mean(axis=1), differences.mean(axis=0)
    mean, _, _, error, freedom = mean_interval(by_language, families)
    if seeds == 1 or languages == 1:
        return mean, error, freedom
    both = (languages - 1) * (seeds - 1)
    rest = ((differences - by_language[:, None] - by_seed + mean)**2).sum() / both / differences.size
    of_seeds = by_seed.var(ddof=1) / seeds
    if of_seeds <= rest:
        return mean, error, freedom
    whole = error**2 + of_seeds - rest
    satterthwaite = whole**2 / (error**4 / freedom + of_seeds**2 / (seeds - 1) + rest**2 / both)
    return mean, float(np.sqrt(whole)), float(max(satterthwaite, min(freedom, seeds - 1)))


def _signed_ranks(differences: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; float64's last digits make neither ties nor differences.

    Up to EVERY_SIGN differences that are not 0 all signs are enumerated, ties or not, as scipy does with ties (there it
    takes a second a test); beyond, scipy's: exact without ties, else the normal approximation.
    """
    some = np.round(differences, 9)
    some = some[some != 0]
    if len(differences) < FEWEST_SIGNED or not len(some):
        return math.nan
    if len(some) > EVERY_SIGN:
        return float(stats.wilcoxon(some).pvalue)
    ranks = stats.rankdata(np.abs(some))
    sums = ((np.arange(2**len(some))[:, None] >> np.arange(len(some))) & 1) @ ranks      # mid-ranks: exact in float64
    found = ranks[some > 0].sum()
    return float(min(1.0, 2 * min((sums <= found).mean(), (sums >= found).mean())))


def pairs(responses: Responses, reference: str) -> tuple[list[Pair], list[str]]:
    """Every method, configuration and policy beside the reference in every cell, and what could not be paired."""
    seeds = responses.seeds[responses.seeds["value"].notna()]
    if not (seeds["method"] == reference).any() or (seeds["method"] == reference).all():
        return [], []
    found, alone, several, apart, unused, partial = [], [], [], [], 0, 0
    for place, rows in seeds.groupby(PLACE):
        kinds = {kind: some.pivot(index="language", columns="seed", values="value")
                 for kind, some in rows.groupby(KIND)}
        against = [kind for kind in kinds if kind[0] == reference]
        others = [kind for kind in kinds if kind[0] != reference]
        if len(against) != 1:
            (several if against else alone).extend([" > ".join(place[:2])] * bool(others))
            continue
        for kind in others:
            own, other = kinds[kind].align(kinds[against[0]], join="inner")
            both = _complete(own.notna() & other.notna())
            left = sum(int(kinds[name].notna().sum().sum()) for name in (kind, against[0])) - 2 * both.size
            unused, partial = unused + left, partial + (left > 0)
            if both.size:
                found.append(Pair(place, kind, against[0], [str(code) for code in both.index],
                                  *(table.loc[both.index, both.columns].to_numpy(float) for table in (own, other))))
            else:
                apart.append(" > ".join(place[:2]))
    notes = [f"{unused} values in {partial} comparisons with {reference} are left out: they have no partner of the same"
             " language and seed, or theirs is not in the largest complete table."] * bool(unused)
    for places, why in ((apart, "no language and seed in common with"), (alone, "no results of"),
                        (several, "several configurations of")):
        if places:
            told = ", ".join(places[:3]) + ", ..." * (len(places) > 3)
            notes.append(f"{len(places)} cells are not compared, as there are {why} {reference}: {told}.")
    return found, notes


def _complete(both: pd.DataFrame) -> pd.DataFrame:
    """The larger complete part of a table (languages, seeds) of bool: seeds that have every language, or languages that
    have every seed."""
    both = both.loc[both.any(axis=1), both.any(axis=0)]
    by_seed, by_language = both.loc[:, both.all(axis=0)], both.loc[both.all(axis=1)]
    return by_seed if by_seed.size >= by_language.size else by_language


def _costs(keys: pd.DataFrame, stages: pd.DataFrame, pairs: Sequence[Pair]) -> dict[tuple[str, ...], dict[str, float]]:
    """(values of KIND and PLACE) -> the columns of COSTS, of every cell in `pairs`; NaN where a stage is not known."""
    wanted = {(*kind, *pair.place) for pair in pairs for kind in (pair.kind, pair.against)}
    known = stages.drop_duplicates("stage_key").set_index("stage_key")
    parents, kinds = dict(known["parent_key"]), dict(known["kind"])
    values = known[COSTS].astype(float)

    def trainings(key: str) -> Iterator[str]:
        """Keys of the training stages behind a stage; '' for what is not known."""
        while True:
            if key not in parents:
                yield ""
                return
            if kinds[key] == "train":
                yield key
            key = parents[key]
            if not key:
                return

    paid: dict[tuple[str, ...], list[pd.Series]] = {}
    for (*cell, _), some in keys[[*KIND, *PLACE, "seed", "stage_key"]].drop_duplicates().groupby(
            [*KIND, *PLACE, "seed"])["stage_key"]:
        if tuple(cell) in wanted:
            behind = sorted({key for stage in some for key in trainings(stage)})
            paid.setdefault(tuple(cell), []).append(values.reindex(behind).sum(skipna=False))
    return {cell: dict(pd.concat(sums, axis=1).mean(axis=1, skipna=False)) for cell, sums in paid.items()}
