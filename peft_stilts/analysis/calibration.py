"""Do the intervals and tests keep their promises? Data drawn with a known correlation and families as given.

Languages' measure and values are normal, each with the same intra-family correlation and correlated by rho: a
language's measure is x = sqrt(c) f + sqrt(1 - c) e, f drawn for each family and e for each language; its value is
rho x + sqrt(1 - rho^2) of another such draw.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import resources

import numpy as np
import pandas as pd
from scipy import stats

from peft_stilts.analysis.contrasts import contrast
from peft_stilts.analysis.correlation import FEWEST, intervals, p_values, strengths
from peft_stilts.analysis.families import Families, from_layout, layout
from peft_stilts.languages import LANGUAGES
from peft_stilts.tasks import TARGETS, TASKS

INTRA_FAMILY = (0.3, 0.6)
RHO = (0.0, 0.3, 0.5, 0.7, 0.9)
TESTED = ("pearson", "spearman", "kendall")
MOST_FALSE, LEAST_COVERAGE, LEAST_POWER = 0.07, 0.90, 0.50
"""With more false positives, less coverage, or less power at the largest correlation of RHO than this nothing is
concluded: 'too few families'."""
SIMULATIONS, DRAWS, RESAMPLES = 2000, 399, 400
ON_THE_SPOT = 1000
"""simulations of a layout that the shipped table lacks"""
COLUMNS = ["layout", "languages", "families", "icc", "rho", "coefficient", "interval", "test", "coverage", "rejected",
           "width", "simulations"]
MEASURED = ["measure", "layout", "languages", "icc", "coefficient", "rejected", "simulations"]
BETWEEN = ((0.0, 0.0, 0.8), (0.5, 0.5, 0.9), (0.7, 0.3, 0.8), (0.9, 0.9, 0.95))
"""true correlations of a measure with one method's values, with another's, and of both methods' values"""
CONTRASTED = ["layout", "languages", "families", "icc", "rho", "rho_reference", "rho_shared", "coefficient", "interval",
              "coverage", "width", "rejected", "simulations"]
REPORTED = ("effective number", "permutation by family")
"""(interval, test) of the report"""
TRUE = {"pearson": lambda rho: rho, "spearman": lambda rho: 6 / np.pi * np.arcsin(rho / 2),
        "kendall": lambda rho: 2 / np.pi * np.arcsin(rho)}
"""coefficient -> its value for normal variables that are correlated by rho (Kruskal 1958, JASA 53)"""


def draw(sizes: str, icc: float, rho: float, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(count, n), (count, n): measures and values of languages in families of such sizes; see the head of the file."""
    group = Families(from_layout(sizes))
    x = _normal(group, icc, count, random)
    return x, rho * x + np.sqrt(1 - rho**2) * _normal(group, icc, count, random)


def _normal(group: Families, icc: float, count: int, random: np.random.Generator) -> np.ndarray:
    """(count, n): normal values of languages that resemble each other by `icc` within families."""
    own = random.standard_normal((count, group.n))
    return np.sqrt(icc) * random.standard_normal((count, len(group.names))) @ group.members.T + np.sqrt(1 - icc) * own


def simulate(
    layouts: Iterable[str], intra_family: Sequence[float] = INTRA_FAMILY, rhos: Sequence[float] = RHO,
    coefficients: Sequence[str] = TESTED, simulations: int = SIMULATIONS, seed: int = 1, usual: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> pd.DataFrame:
    """COLUMNS: coverage of 95 % intervals, share of data in which p < 0.05 (false positives at rho 0, else power), mean
    width, over `simulations` data sets; of the report's procedures, and with `usual` of the usual ones beside them."""
    rows = []
    for sizes in layouts:
        say(f"{len(from_layout(sizes))} languages in families of {sizes}")
        for place, (icc, rho) in enumerate((icc, rho) for icc in intra_family for rho in rhos):
            x, y = draw(sizes, icc, rho, simulations, np.random.default_rng([seed, place]))
            for coefficient in coefficients:
                told = [_reported(sizes, x, y, coefficient, seed)]
                told += _usual(sizes, x, y, coefficient, seed) if usual else []
                for (interval, test), low, high, p in told:
                    truth = TRUE[coefficient](rho)
                    rows.append((sizes, x.shape[1], sizes.count("+") + 1, icc, rho, coefficient, interval, test,
                                 np.mean((low <= truth) & (truth <= high)), np.mean(p < 0.05), np.mean(high - low),
                                 simulations))
    return pd.DataFrame(rows, columns=COLUMNS)


def of_measures(values: pd.DataFrame, families: Sequence[str], simulations: int = SIMULATIONS, seed: int = 1
                ) -> pd.DataFrame:
    """False positives with the measures as they are, not normal ones: MEASURED columns.

    `values`: a row a language, a column a measure, NaN where missing; `families`: of the rows. Drawn are values that
    have nothing to do with any measure but resemble each other within families. A measure that is nearly a label of a
    family leaves the test little to go by. Constant measures reject nothing; those of fewer than FEWEST languages are
    left out."""
    rows = []
    there = values.notna()
    for kept, measures in there.T.groupby(list(there.index)).groups.items():   # those that the same languages have
        kept = np.array(kept, dtype=bool)
        if kept.sum() < FEWEST:
            continue
        group = Families(np.asarray(families, dtype=object)[kept])
        x = values[measures].to_numpy(float).T[:, kept]
        for icc in INTRA_FAMILY:
            for coefficient in TESTED:
                random = np.random.default_rng(seed)
                y = _normal(group, icc, simulations, random)
                *_, p = _tested(group, np.broadcast_to(x, (simulations, *x.shape)), y, coefficient, random)
                rows += [(measure, group.layout, group.n, icc, coefficient, rate, simulations)
                         for measure, rate in zip(measures, (p < 0.05).mean(axis=0))]
    told = pd.DataFrame(rows, columns=MEASURED)
    return told.sort_values("measure", key=lambda names: names.map(list(values).index), kind="stable",
                            ignore_index=True)


def of_contrasts(layouts: Iterable[str], simulations: int = SIMULATIONS, seed: int = 1,
                 say: Callable[[str], None] = lambda text: None) -> pd.DataFrame:
    """CONTRASTED: of the difference between Spearman's of one measure with two methods' values, coverage of the
    report's interval and of the bootstrap by family, and how often the report's test has p < 0.05; see `simulate`."""
    rows, coefficient = [], "spearman"
    for sizes in layouts:
        say(f"differences between methods, {len(from_layout(sizes))} languages in families of {sizes}")
        group = Families(from_layout(sizes))
        counts = _resampled(group, seed)
        for icc, rhos in itertools.product(INTRA_FAMILY, BETWEEN):
            random = np.random.default_rng(seed)
            own = np.stack([_normal(group, icc, simulations, random) for _ in range(3)])
            first, second, shared = rhos
            root = np.linalg.cholesky([[1, first, second], [first, 1, shared], [second, shared, 1]])
            truth = TRUE[coefficient](first) - TRUE[coefficient](second)
            ends, p = [], []
            for x, *y in np.einsum("vw,wdn->dvn", root, own):
                found = contrast(group, x, np.array(y), coefficient, DRAWS, seed)
                resampled = np.subtract(*(_of_draws(counts, x, values, coefficient) for values in y))
                ends.append(((found["ci_low"], found["ci_high"]), np.nanpercentile(resampled, [2.5, 97.5])))
                p.append(found["p_swap"])
            rejected = np.mean(np.array(p) < 0.05)
            for name, (low, high) in zip(("both intervals", "bootstrap by family"), np.array(ends).transpose(1, 2, 0)):
                rows.append((sizes, group.n, len(group.names), icc, *rhos, coefficient, name,
                             np.mean((low <= truth) & (truth <= high)), np.mean(high - low), rejected, simulations))
    return pd.DataFrame(rows, columns=CONTRASTED)


def _reported(sizes: str, x: np.ndarray, y: np.ndarray, coefficient: str, seed: int) -> tuple:
    """The very functions of the report, on every simulated data set."""
    group = Families(from_layout(sizes))
    x, y, estimate, p = _tested(group, x[:, None], y, coefficient, np.random.default_rng(seed))
    return REPORTED, *intervals(group, x[:, 0], y, estimate[:, 0], coefficient), p[:, 0]


def _tested(group: Families, x: np.ndarray, y: np.ndarray, coefficient: str, random: np.random.Generator) -> tuple:
    """(x, y, estimate, p) of m measures x (count, m, n) with values y (count, n) in every data set, estimates and p
    (count, m); x and y are ranked where the coefficient is of ranks."""
    if coefficient != "pearson":
        x, y = stats.rankdata(x, axis=-1), stats.rankdata(y, axis=-1)
    estimate = np.array([strengths(group, a, b[None], coefficient)[:, 0] for a, b in zip(x, y)])
    p = np.array([p_values(group, a, b, r, coefficient, DRAWS, random) for a, b, r in zip(x, y, estimate)])
    return x, y, estimate, p


def _usual(sizes: str, x: np.ndarray, y: np.ndarray, coefficient: str, seed: int) -> list[tuple]:
    """What is usually done: as if languages were independent, and the percentile bootstrap over families."""
    n = x.shape[1]
    test = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}[coefficient]
    estimate, p = np.array([test(a, b) for a, b in zip(x, y)]).T
    factor = {"pearson": 1 / (n - 3), "spearman": (1 + estimate**2 / 2) / (n - 3),
              "kendall": 0.437 / (n - 4) if n > 4 else np.inf}
    away = stats.norm.ppf(0.975) * np.sqrt(factor[coefficient])
    z = np.arctanh(np.clip(estimate, -1 + 1e-9, 1 - 1e-9))
    low, high = _bootstrapped(sizes, x, y, coefficient, seed)
    outside = np.where((low > 0) | (high < 0), 0.0, 1.0)
    return [(("independent languages", "independent languages"), np.tanh(z - away), np.tanh(z + away), p),
            (("bootstrap by family", "bootstrap by family"), low, high, outside)]


def _bootstrapped(sizes: str, x: np.ndarray, y: np.ndarray, coefficient: str, seed: int
                  ) -> tuple[np.ndarray, np.ndarray]:
    """Percentile intervals over RESAMPLES draws of families with replacement."""
    counts = _resampled(Families(from_layout(sizes)), seed)
    return tuple(np.array([np.nanpercentile(_of_draws(counts, a, b, coefficient), [2.5, 97.5])
                           for a, b in zip(x, y)]).T)


def _resampled(group: Families, seed: int) -> np.ndarray:
    """(RESAMPLES, n): how often each language is there when families are drawn with replacement."""
    count = len(group.names)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return drawn.astype(float) @ group.members.T


def _of_draws(counts: np.ndarray, a: np.ndarray, b: np.ndarray, coefficient: str) -> np.ndarray:
    """(RESAMPLES,): the coefficient of `a` and `b` (n,) in each draw; ranks are those within the data."""
    if coefficient == "kendall":
        a, b = (np.sign(side[:, None] - side) for side in (a, b))
        found = np.einsum("di,ij,dj->d", counts, a * b, counts, optimize=True)
        return found / np.sqrt(np.einsum("di,ij,dj->d", counts, a * a, counts, optimize=True)
                               * np.einsum("di,ij,dj->d", counts, b * b, counts, optimize=True))
    if coefficient == "spearman":
        a, b = stats.rankdata(a), stats.rankdata(b)
    weights = counts / counts.sum(axis=1, keepdims=True)
    means = [weights @ side for side in (a, b)]
    both = weights @ (a * b) - means[0] * means[1]
    with np.errstate(invalid="ignore"):  # a draw of one singleton family has no correlation: NaN, left out
        return both / np.sqrt((weights @ a**2 - means[0]**2) * (weights @ b**2 - means[1]**2))


def usual_languages() -> list[list[str]]:
    """The languages of XTREME's nine targets without English, and all of them; lists of codes, sorted."""
    codes = [TASKS[target].languages for target in TARGETS if target in TASKS] + [tuple(LANGUAGES)]
    return [list(some) for some in sorted({tuple(sorted({*some} - {"en"})) for some in codes})]


def usual_layouts() -> list[str]:
    """The layouts of `usual_languages`, and of the miniature world's targets, whose 4, 5 or 9 languages are families of
    their own."""
    found = [layout([LANGUAGES[code].family for code in some]) for some in usual_languages()]
    found += ["+".join("1" * count) for count in (4, 5, 9)]
    return sorted(set(found), key=lambda sizes: (len(from_layout(sizes)), sizes))


def shipped() -> pd.DataFrame:
    """The calibration that comes with the package: `python -m peft_stilts.analysis --simulate` makes it again."""
    with resources.as_file(resources.files(__package__) / "calibration.csv") as path:
        return pd.read_csv(path)


def of_layouts(layouts: Iterable[str], seed: int = 1) -> pd.DataFrame:
    """The calibration of these layouts: what is shipped, and for others ON_THE_SPOT simulations of the report's own."""
    known = shipped()
    wanted = [sizes for sizes in dict.fromkeys(layouts) if len(from_layout(sizes)) >= FEWEST]
    others = [sizes for sizes in wanted if sizes not in set(known["layout"])]
    parts = [known[known["layout"].isin(wanted)]]
    return pd.concat([*parts, *(_on_the_spot(sizes, seed) for sizes in others)], ignore_index=True)


@cache
def _on_the_spot(sizes: str, seed: int) -> pd.DataFrame:
    return simulate([sizes], simulations=ON_THE_SPOT, seed=seed, usual=False)


def reliable(calibration: pd.DataFrame, sizes: str, coefficient: str) -> bool:
    """Whether the report's interval and test keep to MOST_FALSE, LEAST_COVERAGE and LEAST_POWER on this layout,
    whatever the correlation and the intra-family correlation simulated. Partial coefficients: as those they are of."""
    coefficient = coefficient.removeprefix("partial_")
    rows = calibration[(calibration["layout"] == sizes) & (calibration["coefficient"] == coefficient)
                       & (calibration["test"] == REPORTED[1])]
    if not len(rows):
        return False
    false, power = (rows.loc[rows["rho"] == rho, "rejected"] for rho in (0.0, max(RHO)))
    return bool(false.max() <= MOST_FALSE and rows["coverage"].min() >= LEAST_COVERAGE and power.min() >= LEAST_POWER)


def detectable(calibration: pd.DataFrame, sizes: str, coefficient: str, power: float = 0.8) -> float:
    """The smallest correlation of normal variables that the report's test finds with this power on this layout, under
    the least favourable intra-family correlation; between simulated ones by linear interpolation. NaN: above 0.9."""
    rows = calibration[(calibration["layout"] == sizes) & (calibration["coefficient"] == coefficient)
                       & (calibration["test"] == REPORTED[1])]
    found = rows.groupby("rho")["rejected"].min()
    if not len(found) or found.max() < power:
        return float("nan")
    above = int(np.argmax(found.to_numpy() >= power))
    return float(np.interp(power, found.iloc[above - 1:above + 1], found.index[above - 1:above + 1]))


def told(frame: pd.DataFrame) -> str:
    """A line a layout and procedure for people: the worst false-positive rate and the worst coverage, in per cent."""
    rows = []
    for (sizes, interval, test), some in frame.groupby(["layout", "interval", "test"], sort=False):
        name = interval if interval == test else f"{interval}, {test}"
        rows.append((sizes, name, 100 * some.loc[some["rho"] == 0, "rejected"].max(), 100 * some["coverage"].min()))
    table = pd.DataFrame(rows, columns=["families of", "interval and test", "most false positives", "least coverage"])
    return table.to_string(index=False, float_format="%.1f")
