"""All targets together: the slope of gains on a similarity in a linear mixed model, with its interval.

The model of one method: value(target, language) = intercept + slope * similarity(language) + target's part + language's
part + family's part + rest. The parts are random, crossed, and fitted by restricted maximum likelihood (REML). How much
of what languages have of their own is their family's is badly known from a dozen families; so, as in `families`, every
share of GRID is fitted, and the fits count by their restricted likelihood.

Fitted here and not by statsmodels' MixedLM, whose estimates the tests compare: MixedLM knows neither fixed shares nor
degrees of freedom, and its normal intervals are too narrow with a dozen languages (Luke 2017, Behavior Research Methods
49). The restricted likelihood with the residual variance profiled out needs only crossproducts of (levels + 3)^2
numbers (Bates et al. 2015, J. Statistical Software 67(1), eq. 34 to 42).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import linalg, optimize, special, stats

from peft_stilts.analysis.correlation import FEWEST

if TYPE_CHECKING:
    from peft_stilts.analysis.responses import Responses
    from peft_stilts.analysis.similarity import Similarities

COLUMNS = ["method", "intermediate", "measure", "slope", "ci_low", "ci_high", "p", "n", "languages", "targets",
           "families", "note"]
EVERY = "all"
"""`intermediate` of the fits to every intermediate setting together."""
MIXTURE = "all (the mixture)"
"""`intermediate` of the setting that is itself called 'all'."""
GRID = np.arange(0.0, 0.95, 0.1)
"""the family's shares of the variance of languages: intra-family correlations"""
STARTS = (0.3, 3.0)
"""first ratios of standard deviations, random part to residual; the better end is kept"""
LARGEST = 1e4
"""bound of those ratios: there is no residual beyond it"""
NOTHING = 1e-4
"""ratios below it are 0"""
ROUNDING = 1e-13
"""residual sums of squares below this share of the whole are rounding"""


@dataclass(frozen=True)
class Mixed:
    """A fitted linear mixed model.

    `coefficients` (p,) and their `errors` (p,), float64; `freedom`: degrees of freedom of the last coefficient;
    `variances`: random part -> variance; `residual`: the residual's; `deviance`: -2 log restricted likelihood, less a
    constant of the data; `converged`: the search ended at an optimum.
    """

    coefficients: np.ndarray
    errors: np.ndarray
    freedom: float
    variances: Mapping[str, float]
    residual: float
    deviance: float
    converged: bool


def pooled(responses: Responses, similarities: Similarities, measures: Sequence[str], excluded: Sequence[str] = ()
           ) -> pd.DataFrame:
    """One row per method, intermediate setting (EVERY first, and alone where there is one) and measure: the slope over
    all targets; columns COLUMNS.

    `slope`, `ci_low`, `ci_high` (95 %): points per standard deviation (n - 1) of the measure over the languages in the
    fit; `p` two-sided, Student's t; `n` values in the fit. Values are means over seeds. NaN where nothing can be
    fitted; `note` says why, or why the fit is doubtful, '' otherwise. Languages of `excluded` and those whose measure
    is missing are left out. Targets count in points as they are: those whose gains vary most have the most weight.
    """
    means = responses.means
    means = means[~means["language"].isin(list(excluded)) & means["value"].notna()]
    rows = []
    for method, of_method in means.groupby("method"):
        settings = [(MIXTURE if name == EVERY else name, some) for name, some in of_method.groupby("intermediate")]
        for intermediate, some in [(EVERY, of_method), *(settings if len(settings) > 1 else [])]:
            cells = averaged(some)
            alone = not some.duplicated(["intermediate", "target", "metric", "language"]).any()
            for measure in measures:
                found = slope(cells, similarities.values[measure], similarities.families)
                note = "; ".join(filter(None, [found["note"], "" if alone else "several configurations averaged"]))
                rows.append({"method": method, "intermediate": intermediate, "measure": measure, **found, "note": note})
    return pd.DataFrame(rows, columns=COLUMNS)


def averaged(rows: pd.DataFrame) -> pd.DataFrame:
    """One value per target and language: columns `target`, `language`, `value`, sorted by the first two.

    The gains of one target and language after several intermediate tasks are repeated measures: all contain the same
    baseline, so that each is far from one more observation. Similarity varies between languages only, hence their mean
    loses nothing about the slope (for complete tables it is sufficient), and no covariance between intermediate tasks
    has to be guessed. Settings (intermediate, configuration, policy) are fixed effects within each target: where some
    have not every language, the value is the language's in the least-squares fit value = setting + language.
    """
    rows = rows.assign(setting=rows.groupby(["intermediate", "method_config", "policy"]).ngroup())
    parts = []
    for (target, metric), some in rows.groupby(["target", "metric"]):
        table = some.pivot(index="language", columns="setting", values="value").sort_index()
        parts.append(pd.DataFrame({"target": f"{target} ({metric})", "language": table.index,
                                   "value": _row_effects(table.to_numpy(float))}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["target", "language", "value"])


def _row_effects(table: np.ndarray) -> np.ndarray:
    """Means of the rows of `table`; with gaps (NaN) the rows' effects beside effects of columns that sum to 0."""
    row, column = np.nonzero(~np.isnan(table))
    if len(row) == table.size:
        return table.mean(axis=1)
    own, other = np.eye(table.shape[0])[row], np.eye(table.shape[1])[column]
    other = other[:, 1:] - other[:, :1]
    return np.linalg.lstsq(np.hstack([own, other]), table[row, column], rcond=None)[0][:table.shape[0]]


def slope(cells: pd.DataFrame, measure: pd.Series, families: Mapping[str, str]) -> dict[str, Any]:
    """The columns of COLUMNS from `slope` on, of `cells` (see `averaged`) on `measure` (language -> similarity).

    Random parts: target, language and, where families have several languages, family (see `over_shares`). A part is
    left out where its levels are single values (with one target the language's part is the residual). Student's t with
    degrees of freedom after Satterthwaite (see `mixed`), and at most languages - 2, as a similarity varies between
    languages only, however many targets there are: on complete tables without families that is exactly the regression
    of the languages' means. A variance of 0 is noted.
    """
    known = measure.reindex(cells["language"]).to_numpy(float)
    cells, known = cells[np.isfinite(known)], known[np.isfinite(known)]
    languages, of_language = np.unique(cells["language"].astype(str), return_inverse=True)
    targets, of_target = np.unique(cells["target"].astype(str), return_inverse=True)
    names, family = np.unique([families.get(code, code) for code in languages], return_inverse=True)
    found = dict(slope=np.nan, ci_low=np.nan, ci_high=np.nan, p=np.nan, n=len(cells), languages=len(languages),
                 targets=len(targets), families=len(names))
    values, each = cells["value"].to_numpy(float), measure.reindex(languages).to_numpy(float)
    if len(languages) < FEWEST:
        return found | {"note": f"not fitted: fewer than {FEWEST} languages"}
    if np.ptp(each) == 0 or np.ptp(values) == 0:
        return found | {"note": f"not fitted: the {'measure' if np.ptp(each) == 0 else 'response'} is constant"}
    groups = {name: of for name, of in (("target", of_target), ("language", of_language)) if 1 < of.max() + 1 < len(of)}
    design = np.column_stack([np.ones(len(values)), (known - each.mean()) / each.std(ddof=1)])
    related = 1 < len(names) < len(languages)
    try:
        estimate, error, freedom, notes = over_shares(
            values - values.mean(), design, groups, family[of_language] if related else None)
    except (np.linalg.LinAlgError, ValueError) as failed:
        return found | {"note": f"not fitted: {failed}"}
    if not error > 0:
        return found | {"slope": estimate, "note": "; ".join([*notes, "no residual: the fit has no interval"])}
    freedom = max(1.0, min(freedom, len(languages) - 2))
    away = float(stats.t.ppf(0.975, freedom)) * error
    return found | dict(slope=estimate, ci_low=estimate - away, ci_high=estimate + away,
                        p=float(2 * stats.t.sf(abs(estimate) / error, freedom)), note="; ".join(notes))


def over_shares(values: np.ndarray, design: np.ndarray, groups: Mapping[str, np.ndarray], family: np.ndarray | None
                ) -> tuple[float, float, float, list[str]]:
    """(the last coefficient, its error, degrees of freedom, notes) over the shares of GRID that families may have.

    `family` (n,) int: the family of every value's language; None where none has two languages. Each share of the
    variance of languages (of the residual where `groups` has no 'language') is fitted; the coefficient is the mean of
    the fits weighted by restricted likelihood, under a uniform prior; its variance their mean variance and their
    spread; the degrees of freedom their harmonic mean.
    """
    if family is None:
        fits = [mixed(values, design, groups)]
    else:
        parts, fits, start = [*groups.values(), family], [], None
        likelihood = _Likelihood(values, design, parts)
        place = list(groups).index("language") if "language" in groups else None
        for share in GRID:
            fixed, spread = np.zeros(len(parts)), np.eye(len(parts))[:, :-1]
            if place is None:
                fixed[-1] = np.sqrt(share / (1 - share))
            else:
                spread[place, place], spread[-1, place] = np.sqrt(1 - share), np.sqrt(share)
            fit, start = likelihood.fit(fixed, spread, list(groups), start)
            fits.append(fit)
    weights = special.softmax([-0.5 * fit.deviance for fit in fits])
    each, errors = (np.array([values[-1] for values in some]) for some in (
        [fit.coefficients for fit in fits], [fit.errors for fit in fits]))
    mean = float(weights @ each)
    notes = [] if all(fit.converged for fit, weight in zip(fits, weights) if weight > 0.01) else [
        "the fit did not converge"]
    best = fits[int(weights.argmax())]
    none = [name for name, variance in best.variances.items() if variance == 0]
    notes += [f"singular fit: variance of {' and '.join(none)} is 0"] * bool(none)
    return (mean, float(np.sqrt(weights @ (errors**2 + (each - mean)**2))),
            float(1 / (weights @ [1 / fit.freedom for fit in fits])), notes)


def mixed(values: np.ndarray, design: np.ndarray, groups: Mapping[str, np.ndarray]) -> Mixed:
    """REML fit of values (n,) = design (n, p) @ coefficients + a random part for each of `groups` + residual.

    `groups`: name -> level of every value, int (n,), 0 .. levels - 1. Degrees of freedom of the last coefficient:
    2 v^2 / Var(v), v its variance (Satterthwaite 1946; Giesbrecht and Burns 1985, Biometrics 41; lmerTest, Kuznetsova
    et al. 2017, J. Statistical Software 82(13)), with the expected information of the variances that are not 0.
    Raises LinAlgError for columns of `design` that are collinear.
    """
    count = len(groups)
    return _Likelihood(values, design, list(groups.values())).fit(np.zeros(count), np.eye(count), list(groups))[0]


class _Likelihood:
    """The profiled restricted likelihood of one model; called with ratios of standard deviations (random part to
    residual) it gives -2 log likelihood, less a constant, and its gradient."""

    def __init__(self, values: np.ndarray, design: np.ndarray, groups: list[np.ndarray]):
        if np.linalg.matrix_rank(design) < design.shape[1]:
            raise np.linalg.LinAlgError("the columns of the design are collinear")
        indicators = [np.eye(of.max() + 1)[of] for of in groups]
        columns = np.column_stack([design, values, *indicators])
        self.products = columns.T @ columns
        self.p, self.left = design.shape[1], len(values) - design.shape[1]
        self.owner = np.repeat(np.arange(len(groups)), np.array([part.shape[1] for part in indicators], dtype=int))

    def fit(self, fixed: np.ndarray, spread: np.ndarray, names: Sequence[str], start: np.ndarray | None = None
            ) -> tuple[Mixed, np.ndarray]:
        """(the best model with ratios `fixed` (K,) + `spread` (K, J) @ parameters, its parameters (J,)), `names` (J,).

        `start`: parameters near the best; None: STARTS.
        """
        def aim(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            deviance, gradient = self(fixed + spread @ parameters)
            return deviance, gradient @ spread

        parameters, converged = np.zeros(len(names)), True
        if len(names):
            starts = [np.full(len(names), first) for first in STARTS] if start is None else [np.maximum(start, 0.1)]
            ends = [optimize.minimize(aim, first, jac=True, method="L-BFGS-B", bounds=[(0.0, LARGEST)] * len(names),
                                      options=dict(ftol=1e-10, gtol=1e-4)) for first in starts]
            best = min(ends, key=lambda end: end.fun).x
            parameters = np.where(best < NOTHING, 0.0, best)
            converged = bool((best < LARGEST).all()
                             and np.abs(aim(parameters)[1][parameters > 0]).max(initial=0.0) < 1e-2)
        deviance = self(fixed + spread @ parameters)[0]
        residual, coefficients, covariance, freedom = self.at(fixed, spread, parameters)
        return Mixed(coefficients, np.sqrt(np.maximum(np.diag(covariance), 0.0)), freedom,
                     dict(zip(names, residual * parameters**2)), residual, deviance, converged), parameters

    def whitened(self, ratios: np.ndarray) -> tuple[np.ndarray, float]:
        """(W'V^-1 W, log|V|), W = [design, values, indicators], V the covariance over the residual variance."""
        scale, start = ratios[self.owner], self.p + 1
        inner = np.eye(len(scale)) + scale[:, None] * self.products[start:, start:] * scale
        lower = linalg.cholesky(inner, lower=True)
        half = linalg.solve_triangular(lower, scale[:, None] * self.products[start:], lower=True)
        return self.products - half.T @ half, 2 * float(np.log(np.diag(lower)).sum())

    def without_design(self, ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
        """([values, indicators]'P[values, indicators], W'V^-1 W, log|V| + log|X'V^-1 X|, residual variance), P the
        projection of Patterson and Thompson, without its scale."""
        whole, log_size = self.whitened(ratios)
        own, beside = whole[:self.p, :self.p], whole[:self.p, self.p:]
        rest = whole[self.p:, self.p:] - beside.T @ np.linalg.solve(own, beside)
        left = max(float(rest[0, 0]), ROUNDING * float(self.products[self.p, self.p]))
        return rest, whole, log_size + float(np.linalg.slogdet(own)[1]), left / self.left

    def __call__(self, ratios: np.ndarray) -> tuple[float, np.ndarray]:
        rest, _, log_size, variance = self.without_design(ratios)
        by_level = np.diag(rest)[1:] - rest[1:, 0]**2 / variance
        return (self.left * np.log(variance) + log_size,
                2 * ratios * np.bincount(self.owner, by_level, minlength=len(ratios)))

    def at(self, fixed: np.ndarray, spread: np.ndarray, parameters: np.ndarray
           ) -> tuple[float, np.ndarray, np.ndarray, float]:
        """(residual variance, coefficients, their covariance, degrees of freedom of the last one); see `fit`."""
        ratios = fixed + spread @ parameters
        rest, whole, _, residual = self.without_design(ratios)
        own = whole[:self.p, :self.p]
        covariance = np.linalg.inv(own) * residual
        coefficients = np.linalg.solve(own, whole[:self.p, self.p])
        sizes, members = residual * ratios**2, np.eye(len(ratios))[self.owner]
        of_rest = rest[1:, 1:] / residual                                     # Z'PZ, with its scale
        # tr(PV_i PV_j) of the random parts; those with the residual follow from PVP = P and tr(PV) = n - p.
        crossed = members.T @ of_rest**2 @ members
        once = np.diag(of_rest) @ members
        beside = (once - crossed @ sizes) / residual
        alone = ((self.left - sizes @ once) / residual - sizes @ beside) / residual
        information = 0.5 * np.block([[np.array([[alone]]), beside[None]], [beside[:, None], crossed]])
        # The derivatives of the coefficient's variance: |Z'V^-1 X C c|^2, and the residual's from u'Vu.
        slopes = (whole[self.p + 1:, :self.p] @ (covariance[:, -1] / residual))**2 @ members
        slopes = np.concatenate([[(covariance[-1, -1] - sizes @ slopes) / residual], slopes])
        # From variances of parts to those that were searched: the residual's moves the fixed parts too.
        moves = np.block([[np.ones((1, 1)), np.zeros((1, (parameters > 0).sum()))],
                          [fixed[:, None]**2, spread[:, parameters > 0]**2]])
        slopes, information = slopes @ moves, moves.T @ information @ moves
        uncertain = float(slopes @ np.linalg.solve(information, slopes))
        return residual, coefficients, covariance, 2 * float(covariance[-1, -1])**2 / uncertain
