"""Does a method's gain follow a similarity as full fine-tuning's does? Differences of dependent correlations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from peft_stilts.analysis.correlation import FEWEST, ROUNDING, intervals
from peft_stilts.analysis.equivalence import KIND, PLACE, pairs
from peft_stilts.analysis.families import Families
from peft_stilts.errors import UsageError

if TYPE_CHECKING:
    from peft_stilts.analysis.responses import Responses
    from peft_stilts.analysis.similarity import Similarities

CONTRASTS = [*PLACE, "method", "reference", "method_config", "policy", "measure", "coefficient", "estimate",
             "estimate_reference", "difference", "ci_low", "ci_high", "p_swap", "n", "families"]
EVERY_SWAP = 11
"""up to this many families every one of the 2^families swaps is made"""


def contrasts(
    responses: Responses, similarities: Similarities, families: Mapping[str, str],
    coefficients: Sequence[str] = ("spearman",), draws: int = 2000, seed: int = 1, reference: str = "full",
) -> pd.DataFrame:
    """A row per pair (`equivalence.pairs`), measure and coefficient, pearson or spearman; columns CONTRASTS.

    `estimate`, `estimate_reference`: correlations of the measure with both, over the same languages and seeds;
    `difference` = estimate - estimate_reference, its 95 % interval: see `between`; `p_swap`: see `swapped`. NaN with
    fewer than FEWEST languages or where something is constant. Draws depend on nothing but `seed` and the number of
    families. Raises UsageError for other coefficients.
    """
    for coefficient in coefficients:
        if coefficient not in ("pearson", "spearman"):
            raise UsageError(f"contrasts of {coefficient!r}: choose pearson or spearman.")
    rows = []
    for pair in pairs(responses, reference)[0]:
        table = similarities.values.reindex(pair.languages)
        means = np.stack([pair.values.mean(axis=1), pair.reference.mean(axis=1)])
        names = np.array([families.get(code, code) for code in pair.languages], dtype=object)
        for measure in table.columns:
            x = table[measure].to_numpy(float)
            known = np.isfinite(x)
            for coefficient in coefficients:
                rows.append(dict(zip(PLACE, pair.place)) | dict(zip(KIND, pair.kind)) | {
                    "reference": reference, "measure": measure, "coefficient": coefficient,
                    **contrast(Families(names[known]), x[known], means[:, known], coefficient, draws, seed)})
    return pd.DataFrame(rows, columns=CONTRASTS)


def contrast(group: Families, x: np.ndarray, y: np.ndarray, coefficient: str, draws: int, seed: int
             ) -> dict[str, Any]:
    """The columns of CONTRASTS from `estimate` on; `x` (n,), `y` (2, n): the method's values and the reference's."""
    told: dict[str, Any] = dict.fromkeys(
        ("estimate", "estimate_reference", "difference", "ci_low", "ci_high", "p_swap"), math.nan)
    told |= {"n": len(x), "families": len(group.names)}
    if len(x) < FEWEST or np.ptp(x) == 0 or (np.ptp(y, axis=1) == 0).any():
        return told
    if coefficient == "spearman":
        x, y = stats.rankdata(x), stats.rankdata(y, axis=1)
    scaled = _standardised(np.vstack([x, y]))
    own, other = (float(scaled[0] @ values) for values in scaled[1:])
    low, high = between(group, x, y, coefficient)
    return told | dict(estimate=own, estimate_reference=other, difference=own - other, ci_low=low, ci_high=high,
                       p_swap=swapped(scaled[0], scaled[1:], group.of, draws, seed))


def between(group: Families, x: np.ndarray, y: np.ndarray, coefficient: str) -> tuple[float, float]:
    """The 95 % interval of the difference of the correlations of `x` (n,) with both rows of `y` (2, n); for spearman
    all of ranks.

    From the intervals of both (`correlation.intervals`, which know of families) and the correlation of the two
    estimates, which have x in common: Zou 2007 (Psychological Methods 12); that correlation after Olkin and Siotani
    1976. Chosen by `calibration.of_contrasts` over the bootstrap by family, which holds too little.
    """
    first, second, shared = np.corrcoef(np.vstack([x, y]))[np.triu_indices(3, 1)]
    low, high = intervals(group, np.stack([x, x]), y, np.array([first, second]), coefficient)
    left = (1 - first**2) * (1 - second**2)
    common = (shared - first * second / 2) * (1 - first**2 - second**2 - shared**2) + shared**3
    together = np.clip(common / left, -1, 1) if left > ROUNDING else 0.0

    def away(one: float, two: float) -> float:
        return math.sqrt(max(0.0, one**2 + two**2 - 2 * together * one * two))

    return (first - second - away(first - low[0], high[1] - second),
            first - second + away(high[0] - first, second - low[1]))


def _standardised(values: np.ndarray) -> np.ndarray:
    """Rows with mean 0 and length 1."""
    values = values - values.mean(axis=1, keepdims=True)
    return values / np.sqrt((values**2).sum(axis=1, keepdims=True))


def swapped(x: np.ndarray, y: np.ndarray, of: np.ndarray, draws: int, seed: int) -> float:
    """Two-sided p of the difference of two correlations: how often it is as large when methods are swapped by family.

    `x` (n,), `y` (2, n) standardised values, or standardised ranks; `of` (n,): family of each, 0 .. F - 1. Were the
    methods exchangeable within each family, every one of the 2^F ways of swapping their values there would be as likely
    as what was seen, whatever the dependence within families (all of them up to EVERY_SWAP families, else `draws`
    random ones and what was seen). Values are swapped as they are, neither ranked nor standardised again. No p is
    below 2 / 2^F.
    """
    count = int(of.max()) + 1
    if count <= EVERY_SWAP:
        swaps = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
    else:
        random = np.random.default_rng(seed).integers(0, 2, (draws, count))
        swaps = np.vstack([np.zeros((1, count), dtype=int), random])
    own, other = (np.stack([values, values**2, values * x]) for values in y)
    # Sums over languages of value, square and product; a swap moves a family's share from one method to the other.
    moved = swaps @ ((other - own) @ np.eye(count)[of]).T
    differences = np.abs(_from_sums(own.sum(axis=1) + moved, len(x)) - _from_sums(other.sum(axis=1) - moved, len(x)))
    return float((differences >= differences[0] - ROUNDING).mean())


def _from_sums(sums: np.ndarray, n: int) -> np.ndarray:
    """Correlations with a standardised variable from (..., 3) sums of value, square and product."""
    squares = np.maximum(sums[..., 1] - sums[..., 0]**2 / n, np.finfo(float).tiny)
    return np.where(squares > ROUNDING, sums[..., 2] / np.sqrt(squares), 0.0)
