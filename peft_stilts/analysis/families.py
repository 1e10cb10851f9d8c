"""Inference over languages when those of one family resemble each other: how many independent ones they are worth.

A value of a language is taken as mean + family's part + its own part, with intra-family correlation c: languages of one
family correlate by c, others do not. c is not known and badly estimated from a dozen families, so nothing here rests
on one estimate of it: every result is a mixture over the values of GRID, each weighted by its restricted likelihood
(Patterson and Thompson 1971, Biometrika 58) under a uniform prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from scipy import special, stats

GRID = np.arange(0.0, 0.96, 0.05)
"""intra-family correlations"""
STEPS = 60
"""halvings of an interval in which a quantile is sought: below float64's rounding"""


def layout(families: Sequence[str]) -> str:
    """The sizes of the families, descending: '19+4+3+1+1'. Equal layouts are alike to inference."""
    _, sizes = np.unique(np.asarray(families, dtype=object).astype(str), return_counts=True)
    return "+".join(map(str, sorted(sizes.tolist(), reverse=True)))


def from_layout(text: str) -> list[str]:
    """Family names with the sizes of a layout."""
    return [f"family {place}" for place, size in enumerate(text.split("+")) for _ in range(int(size))]


class Families:
    """Languages in families, and a linear design that is taken out of every value: the mean, and covariates if any.

    `families`: n names. `covariates`: (n, p) float, None for none. `degrees`: n - 1 - p.
    """

    def __init__(self, families: Sequence[str], covariates: np.ndarray | None = None):
        self.names, self.of = np.unique(np.asarray(families, dtype=object).astype(str), return_inverse=True)
        self.sizes = np.bincount(self.of)
        self.n = len(self.of)
        design = np.ones((self.n, 1)) if covariates is None else np.column_stack([np.ones(self.n), covariates])
        self.design = np.linalg.qr(design)[0]
        self.degrees = self.n - design.shape[1]

    @property
    def layout(self) -> str:
        """See `layout`."""
        return layout(self.names[self.of])

    @cached_property
    def members(self) -> np.ndarray:
        """(n, families) float: 1 where a language is of a family."""
        return np.eye(len(self.names))[self.of]

    @cached_property
    def traces(self) -> tuple[float, float]:
        """tr(MJ) and tr(MJMJ): M takes the design out, J is 1 within families and 0 elsewhere."""
        taken = self.members - self.design @ (self.design.T @ self.members)
        inner = self.members.T @ taken
        return float(np.trace(inner)), float((inner * inner.T).sum())

    def residuals(self, values: np.ndarray) -> np.ndarray:
        """`values` (..., n) less what the design explains, by least squares."""
        return values - (values @ self.design) @ self.design.T

    def whiten(self, values: np.ndarray, correlation: float, back: bool = False) -> np.ndarray:
        """The values (..., n) times the covariance's power -1/2 (`back`: +1/2) for one intra-family correlation."""
        sizes = self.sizes[self.of]
        own, mean = np.sqrt(1 - correlation), np.sqrt(1 - correlation + sizes * correlation)
        means = (values @ self.members / self.sizes)[..., self.of]
        return (values - means) * own + means * mean if back else (values - means) / own + means / mean

    @cached_property
    def white_designs(self) -> list[tuple[np.ndarray, float]]:
        """For every intra-family correlation c an orthonormal basis (n, 1 + p) of the whitened design X, and
        log|X'S^-1 X|."""
        found = []
        for correlation in GRID:
            basis, upper = np.linalg.qr(self.whiten(self.design.T, correlation).T)
            found.append((basis, float(2 * np.log(np.abs(np.diag(upper))).sum())))
        return found

    def weights(self, values: np.ndarray, beside: np.ndarray | None = None) -> np.ndarray:
        """(..., K) float64, summing to 1 over GRID: how well each intra-family correlation explains `values` (..., n).

        `beside`: (..., n), a variable that belongs to the design as well. The restricted likelihood with the variance
        profiled out: -1/2 (log|S| + log|X'S^-1 X| + (n - p) log RSS).
        """
        scores = []
        for correlation, (basis, log_design) in zip(GRID, self.white_designs):
            white = self.whiten(values, correlation)
            white = white - (white @ basis) @ basis.T
            left, degrees = (white**2).sum(axis=-1), self.degrees
            if beside is not None:
                other = self.whiten(beside, correlation)
                other = other - (other @ basis) @ basis.T
                size = np.maximum((other**2).sum(axis=-1), np.finfo(float).tiny)
                left = left - (white * other).sum(axis=-1)**2 / size
                log_design, degrees = log_design + np.log(size), degrees - 1
            log_covariance = ((self.sizes - 1) * np.log(1 - correlation)
                              + np.log(1 - correlation + self.sizes * correlation)).sum()
            left = np.maximum(left, np.finfo(float).tiny)
            scores.append(-0.5 * (log_covariance + log_design + degrees * np.log(left)))
        return special.softmax(np.stack(scores, axis=-1), axis=-1)

    def variance(self, x: np.ndarray) -> np.ndarray:
        """(..., K): variance of the correlation of `x` (..., n), as it is, with values that have nothing to do with it,
        for every intra-family correlation of those values; 1 / (n - 1) where that is 0.

        x'Sx / (x'x tr(MS)), the conditional form of Clifford, Richardson and Hemon 1989 (Biometrics 45) and Dutilleul
        1993 (Biometrics 49), which they use for places instead of families.
        """
        x = self.residuals(x)
        size = np.maximum((x**2).sum(axis=-1, keepdims=True), np.finfo(float).tiny)
        together = ((x @ self.members)**2).sum(axis=-1, keepdims=True) / size
        return (1 - GRID + GRID * together) / ((1 - GRID) * self.degrees + GRID * self.traces[0])

    def spread(self) -> np.ndarray:
        """(K,): 1 / degrees of freedom of a variance of such values (Satterthwaite 1946): tr(MSMS) / tr(MS)^2."""
        once, twice = self.traces
        squares = (1 - GRID)**2 * self.degrees + 2 * GRID * (1 - GRID) * once + GRID**2 * twice
        return squares / ((1 - GRID) * self.degrees + GRID * once)**2


def half_width(deviations: np.ndarray, weights: np.ndarray, level: float = 0.95) -> np.ndarray:
    """(...,): half the interval that holds `level` of a mixture of normal distributions around one centre.

    `deviations`, `weights`: (..., K). Found by halving an interval.
    """
    low = np.zeros(deviations.shape[:-1])
    high = np.nanmax(deviations, axis=-1) * 10.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        inside = (weights * special.erf(middle[..., None] / (deviations * np.sqrt(2)))).sum(axis=-1)
        low, high = np.where(inside < level, middle, low), np.where(inside < level, high, middle)
    return high


def mean_interval(values: Sequence[float], families: Sequence[str], level: float = 0.95
                  ) -> tuple[float, float, float, float, float]:
    """(mean, low, high, standard error, degrees of freedom) of the mean over languages as a sample of such families.

    The plain mean over languages, as everywhere in the program. Its variance is 1'S1 / n^2, S scaled by the variance
    found (y'My / tr(MS)), averaged over GRID by the weights; degrees of freedom likewise (Satterthwaite 1946).
    NaN but for the mean where there are fewer than 2 languages.
    """
    values = np.asarray(values, dtype=float)
    mean = float(values.mean()) if len(values) else float("nan")
    if len(values) < 2:
        return mean, *[float("nan")] * 4
    group = Families(families)
    weights = group.weights(values)
    once = group.traces[0]
    left = (group.residuals(values)**2).sum() / ((1 - GRID) * group.degrees + GRID * once)
    of_mean = (1 - GRID) / group.n + GRID * (group.sizes**2).sum() / group.n**2
    error = float(np.sqrt((weights * left * of_mean).sum()))
    freedom = float(1 / (weights * group.spread()).sum())
    away = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    return mean, mean - away, mean + away, error, freedom
