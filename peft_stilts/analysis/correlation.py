"""Correlations of what languages score with how similar they are: estimate, interval and p, families counted in.

The choice of interval and test among several was made by `calibration` (docs/correlate.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from peft_stilts.analysis.families import GRID, Families, half_width

COEFFICIENTS = ("pearson", "spearman", "kendall", "partial_pearson", "partial_spearman")
FEWEST = 4
"""languages below which no correlation is computed"""
DRAWS = 1999
"""permutations: p is a multiple of 1/2000"""
ROUNDING = 1e-12


@dataclass(frozen=True)
class Found:
    """Correlations of m measures with one set of values: float64 (m,), NaN where one of both is constant."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def correlate(
    measures: np.ndarray, values: np.ndarray, families: Sequence[str], coefficient: str,
    covariates: np.ndarray | None = None, draws: int = DRAWS, seed: int | Sequence[int] = 1, level: float = 0.95,
) -> Found:
    """The correlations of every row of `measures` (m, n) with `values` (n,), over n languages in `families`.

    `coefficient`: of COEFFICIENTS; tau is tau-b, ranks of ties are their means; partial ones are given `covariates`
    (n, p), of ranks for partial_spearman, less those that are constant or follow from the others. p: of `draws`
    permutations that know of families (see `_permuted`).
    Intervals: see `intervals`. All without missing values. Fewer than FEWEST + p languages: NaN.
    """
    measures, values = np.atleast_2d(np.asarray(measures, dtype=float)), np.asarray(values, dtype=float)
    nothing = np.full(len(measures), np.nan)
    partial = coefficient.startswith("partial_")
    if len(values) < FEWEST + (covariates.shape[1] if partial else 0):
        return Found(nothing, nothing, nothing, nothing)
    if coefficient.removeprefix("partial_") != "pearson":
        measures, values = stats.rankdata(measures, axis=-1), stats.rankdata(values)
        covariates = stats.rankdata(covariates, axis=0) if partial else None
    covariates = independent(covariates) if partial else None
    group = Families(families, covariates if partial else None)
    estimate = strengths(group, measures, values[None], coefficient)[:, 0]
    p = p_values(group, measures, values, estimate, coefficient, draws, np.random.default_rng(seed))
    return Found(estimate, *intervals(group, measures, values, estimate, coefficient, level), p)


def independent(covariates: np.ndarray) -> np.ndarray:
    """The columns of (n, p) that say something which neither a constant nor the columns before them do."""
    kept = [np.ones(len(covariates))]
    for column in covariates.T:
        told = np.column_stack(kept)
        left = column - told @ np.linalg.lstsq(told, column, rcond=None)[0]
        if np.linalg.norm(left) > 1e-9 * np.linalg.norm(column):
            kept.append(column)
    return np.column_stack(kept)[:, 1:]


def strengths(group: Families, x: np.ndarray, y: np.ndarray, coefficient: str) -> np.ndarray:
    """The coefficient (m, d) of every row of `x` (m, n) with every row of `y` (d, n); of ranks as they are given."""
    return _taus(group, x, y) if coefficient == "kendall" else _products(group, x, y)


def p_values(group: Families, x: np.ndarray, y: np.ndarray, estimate: np.ndarray, coefficient: str, draws: int,
             random: np.random.Generator) -> np.ndarray:
    """(m,): the share of permutations (see `_permuted`), the data themselves among them, at least as far from 0."""
    draw = _permuted(group, y, draws, random)
    if coefficient.endswith("spearman"):
        draw = stats.rankdata(draw, axis=-1)
    more = np.abs(strengths(group, x, draw, coefficient)) >= np.abs(estimate)[:, None] - ROUNDING
    return np.where(np.isnan(estimate), np.nan, (1 + more.sum(axis=1)) / (1 + draws))


def _products(group: Families, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Product-moment correlations (m, d) of x (m, n) with y (d, n), the design taken out of both."""
    return _scaled(group.residuals(x), x) @ _scaled(group.residuals(y), y).T


def _scaled(left: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Residuals at length 1; NaN where nothing but rounding is left of the whole."""
    size = np.linalg.norm(left, axis=-1, keepdims=True)
    nothing = size <= 1e-10 * np.linalg.norm(whole, axis=-1, keepdims=True)
    return np.where(nothing, np.nan, left / np.where(nothing, 1, size))


def _taus(group: Families, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Kendall's tau-b (m, d) of x (m, n) with y (d, n)."""
    first, second = np.triu_indices(group.n, 1)
    signs = [np.sign(side[:, first] - side[:, second]).astype(np.float32) for side in (x, y)]
    untied = [np.abs(sign).sum(axis=1, dtype=np.float64) for sign in signs]
    with np.errstate(invalid="ignore"):
        return (signs[0] @ signs[1].T).astype(np.float64) / np.sqrt(untied[0][:, None] * untied[1])


def _permuted(group: Families, values: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """(draws, n): `values` as they might be if they had nothing to do with any measure, but as much with families.

    What is left of them after the design is made independent (covariance to the power -1/2), permuted, and made
    dependent again, as Abney 2015 (Genetic Epidemiology 39) does for relatives; each time with another intra-family
    correlation, drawn by its weight. Where that is 0, it is the plain permutation.
    """
    counts = random.multinomial(draws, group.weights(values))
    found = []
    for correlation, (basis, _), count in zip(GRID, group.white_designs, counts):
        white = group.whiten(values, correlation)
        white = white - (white @ basis) @ basis.T
        found.append(group.whiten(random.permuted(np.tile(white, (count, 1)), axis=1), correlation, back=True))
    return np.concatenate(found)


def intervals(group: Families, x: np.ndarray, y: np.ndarray, estimate: np.ndarray, coefficient: str,
              level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Ends (m,), (m,) of the intervals of the correlations of x (m, n) with y, (n,) or a row each (m, n).

    They are Fisher's z with the number of languages that the languages at hand are worth.

    With r the correlation, the variance of r / sqrt(1 - r^2) has a part from the product of both and, growing with r,
    one from the variance of each (the delta method; together 1 / (n - 1) for independent languages, whence z has
    1 / (n - 3)). Averaged over intra-family correlations of what the measure leaves unexplained. Spearman's z has
    1 + r^2 / 2 times the variance (Bonett and Wright 2000, Psychometrika 65), Kendall's 0.437 / (n - 4) (Fieller,
    Hartley and Pearson 1957, Biometrika 44).
    """
    spread = group.spread()
    of_x = (group.weights(x) * spread).sum(axis=-1, keepdims=True)
    r = np.clip(estimate, -1 + 1e-9, 1 - 1e-9)
    square = np.sin(np.pi / 2 * r[:, None])**2 if coefficient == "kendall" else r[:, None]**2
    worth = 1 / ((1 - square) * group.variance(x) + square * (of_x + spread) / 2)       # n - 1 - p, where independent
    factor, lost = {"kendall": (0.437, 3)}.get(coefficient, (1, 2))
    if coefficient.endswith("spearman"):
        factor = 1 + square / 2
    deviations = np.sqrt(factor / np.maximum(worth - lost, 1e-3))
    known = ~np.isnan(estimate)
    away = np.full(len(estimate), np.nan)
    away[known] = half_width(deviations[known], group.weights(np.broadcast_to(y, x.shape), beside=x)[known], level)
    return np.tanh(np.arctanh(r) - away), np.tanh(np.arctanh(r) + away)
