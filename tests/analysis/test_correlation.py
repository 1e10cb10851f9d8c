"""Correlations: estimates against scipy and by hand, plain cases of interval and p, and what must not matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from peft_stilts.analysis.correlation import COEFFICIENTS, correlate, strengths
from peft_stilts.analysis.families import Families, from_layout

PLAIN = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}
SIXTEEN = from_layout("6+3+2+2+1+1+1")


def data(seed, count=3, ties=False):
    draw = np.random.default_rng(seed)
    x, y = draw.standard_normal((count, 16)), draw.standard_normal(16)
    return (np.round(x), np.round(y)) if ties else (x, y)


@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=30, deadline=None)
def test_estimates_are_scipys(seed, ties):
    x, y = data(seed, ties=ties)
    for coefficient, plain in PLAIN.items():
        found = correlate(x, y, SIXTEEN, coefficient, draws=1)
        expected = [np.nan if np.ptp(row) == 0 or np.ptp(y) == 0 else plain(row, y).statistic for row in x]
        np.testing.assert_allclose(found.estimate, expected, atol=1e-10)
        assert ((found.low <= found.estimate) & (found.estimate <= found.high) | np.isnan(found.estimate)).all()


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_partial_estimates_by_hand(kind):
    """The correlation of what two regressions leave."""
    x, y = data(4)
    z = np.random.default_rng(9).standard_normal((16, 2))
    rank = (lambda values, axis=-1: values) if kind == "pearson" else stats.rankdata
    design = np.column_stack([np.ones(16), rank(z, axis=0)])
    left = [row - design @ np.linalg.lstsq(design, row, rcond=None)[0] for row in (*rank(x, axis=-1), rank(y))]
    expected = [stats.pearsonr(row, left[-1]).statistic for row in left[:-1]]
    np.testing.assert_allclose(correlate(x, y, SIXTEEN, f"partial_{kind}", z, draws=1).estimate, expected, atol=1e-10)


def test_independent_languages_give_fishers_interval_and_the_permutation_test():
    """A family each: nothing but the usual interval, and scipy's p."""
    x, y = data(7, count=1)
    apart = list("abcdefghijklmnop")
    found = correlate(x, y, apart, "pearson", draws=20_000)
    expected = stats.pearsonr(x[0], y).confidence_interval(method=None)
    assert (found.low[0], found.high[0]) == pytest.approx(tuple(expected), abs=1e-6)
    assert found.p[0] == pytest.approx(stats.pearsonr(x[0], y).pvalue, abs=0.02)
    taus = correlate(x, y, apart, "kendall", draws=20_000)
    assert taus.p[0] == pytest.approx(stats.kendalltau(x[0], y).pvalue, abs=0.02)
    away = 1.959964 * np.sqrt(0.437 / 12)
    assert taus.high[0] == pytest.approx(np.tanh(np.arctanh(taus.estimate[0]) + away), abs=1e-5)


def test_families_widen_the_interval_and_raise_p():
    """Values that go by family alone: four families are four observations, not sixteen."""
    names = from_layout("4+4+4+4")
    draw = np.random.default_rng(2)
    of_family = np.repeat([0.0, 1.0, 2.0, 3.0], 4)
    x = (of_family + draw.normal(0, 0.1, 16))[None]
    y = np.repeat([0.0, 2.0, 1.0, 3.0], 4) + draw.normal(0, 0.1, 16)
    apart = correlate(x, y, list("abcdefghijklmnop"), "pearson")
    together = correlate(x, y, names, "pearson")
    assert apart.p[0] < 0.005 < 0.05 < together.p[0]
    assert apart.low[0] > 0.4 and together.low[0] < 0
    assert apart.estimate == together.estimate


@given(st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_scale_does_not_matter_and_sign_turns(seed):
    x, y = data(seed)
    for coefficient in COEFFICIENTS[:3]:
        plain = correlate(x, y, SIXTEEN, coefficient, draws=99)
        scaled = correlate(x * 7 + 3, y / 5 - 100, SIXTEEN, coefficient, draws=99)
        turned = correlate(-x, y, SIXTEEN, coefficient, draws=99)
        for name in ("estimate", "low", "high", "p"):
            np.testing.assert_allclose(getattr(scaled, name), getattr(plain, name), atol=1e-7)
        np.testing.assert_allclose(turned.estimate, -plain.estimate, atol=1e-12)
        np.testing.assert_allclose(turned.low, -plain.high, atol=1e-9)
        np.testing.assert_allclose(turned.p, plain.p)


def test_constants_and_few_languages_are_nan():
    x, y = data(1)
    x[1] = 5.0
    for coefficient in PLAIN:
        found = correlate(x, y, SIXTEEN, coefficient, draws=19)
        assert np.isnan([found.estimate[1], found.low[1], found.high[1], found.p[1]]).all()
        assert np.isfinite(found.estimate[[0, 2]]).all()
        assert np.isnan(correlate(x, np.full(16, 2.0), SIXTEEN, coefficient, draws=19).estimate).all()
        assert np.isnan(correlate(x[:, :3], y[:3], SIXTEEN[:3], coefficient, draws=19).estimate).all()


def test_taus_of_many_at_once():
    x, y = data(11, ties=True)
    z = np.round(np.random.default_rng(12).standard_normal((4, 16)))
    found = strengths(Families(SIXTEEN), x, z, "kendall")
    expected = [[stats.kendalltau(row, other).statistic for other in z] for row in x]
    np.testing.assert_allclose(found, expected, atol=1e-12)
