"""What languages of one family are worth to inference: against dense matrices, plain cases, and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from peft_stilts.analysis.families import GRID, Families, from_layout, half_width, layout, mean_interval

NAMES = st.lists(st.sampled_from("abcde"), min_size=4, max_size=15)


def dense(group, correlation):
    """The covariance of languages, written out."""
    same = np.equal.outer(group.of, group.of)
    return np.where(same, correlation, 0.0) + np.eye(group.n) * (1 - correlation)


def taken_out(group):
    return np.eye(group.n) - group.design @ group.design.T


def test_layout_names_sizes():
    assert layout(["b", "a", "b", "c", "b", "a"]) == "3+2+1"
    assert layout(from_layout("3+2+1")) == "3+2+1"


@given(NAMES, st.sampled_from(list(GRID)), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_matrices_are_those_of_the_dense_covariance(names, correlation, random):
    """Whitening, the traces and the variance of a correlation, with and without a covariate."""
    draw = np.random.default_rng(random.randrange(2**32))
    for covariates in (None, draw.standard_normal((len(names), 1))):
        group = Families(names, covariates)
        covariance, out = dense(group, correlation), taken_out(group)
        values = draw.standard_normal((3, group.n))
        white = group.whiten(values, correlation)
        np.testing.assert_allclose(group.whiten(white, correlation, back=True), values, atol=1e-10)
        eigenvalues, vectors = np.linalg.eigh(covariance)
        root = vectors / np.sqrt(eigenvalues) @ vectors.T
        np.testing.assert_allclose(white, values @ root, atol=1e-9)
        block = dense(group, 1.0)
        np.testing.assert_allclose(group.traces, [np.trace(out @ block), np.trace(out @ block @ out @ block)],
                                   rtol=1e-9, atol=1e-9)
        x = out @ draw.standard_normal(group.n)
        if group.degrees > 0 and np.trace(out @ covariance) > 1e-9:
            place = list(GRID).index(correlation)
            np.testing.assert_allclose(group.variance(x)[place],
                                       x @ covariance @ x / (x @ x * np.trace(out @ covariance)), rtol=1e-7)
            np.testing.assert_allclose(group.spread()[place],
                                       np.trace(out @ covariance @ out @ covariance)
                                       / np.trace(out @ covariance)**2, rtol=1e-7)


@pytest.mark.parametrize("beside", [False, True])
def test_weights_are_the_restricted_likelihood(beside):
    """Against the likelihood of the contrasts that are free of the design, from scipy's multivariate normal."""
    draw = np.random.default_rng(3)
    group = Families(from_layout("5+3+2+1+1"))
    y, x = draw.standard_normal((2, group.n))
    design = np.column_stack([np.ones(group.n), x] if beside else [np.ones(group.n)])
    contrasts = np.linalg.svd(design.T, full_matrices=True)[2][design.shape[1]:]
    free = contrasts @ y
    logs = []
    for correlation in GRID:
        covariance = contrasts @ dense(group, correlation) @ contrasts.T
        scale = free @ np.linalg.solve(covariance, free) / len(free)
        logs.append(stats.multivariate_normal(cov=scale * covariance).logpdf(free))
    expected = np.exp(np.array(logs) - max(logs))
    np.testing.assert_allclose(group.weights(y, x if beside else None), expected / expected.sum(), rtol=1e-8)


def test_single_languages_are_independent():
    """Without families of several languages every intra-family correlation is as likely, and n languages count."""
    group = Families(list("abcdefgh"))
    draw = np.random.default_rng(1)
    np.testing.assert_allclose(group.weights(draw.standard_normal(8)), 1 / len(GRID))
    np.testing.assert_allclose(group.variance(draw.standard_normal(8)), 1 / 7)
    np.testing.assert_allclose(group.spread(), 1 / 7)


def test_a_measure_that_is_one_value_a_family_is_worth_fewer_languages():
    group = Families(from_layout("6+6+6"))
    between, within = np.repeat([0.0, 1.0, 2.0], 6), np.tile([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 3)
    high = list(GRID).index(GRID[GRID >= 0.6][0])
    assert 1 / group.variance(between)[high] < 4 < 17 < 1 / group.variance(within)[high]


def test_half_width_of_a_mixture():
    assert half_width(np.array([2.0]), np.array([1.0])) == pytest.approx(2 * stats.norm.ppf(0.975))
    deviations, weights = np.array([0.5, 3.0]), np.array([0.7, 0.3])
    found = half_width(deviations, weights)
    assert (weights * (2 * stats.norm.cdf(found / deviations) - 1)).sum() == pytest.approx(0.95)


def test_mean_interval_of_independent_languages_is_the_t_interval():
    values = [3.0, -1.0, 0.5, 2.0, 4.0]
    mean, low, high, error, freedom = mean_interval(values, list("abcde"))
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert (mean, low, high) == pytest.approx((np.mean(values), *expected))
    assert (error, freedom) == pytest.approx((stats.sem(values), 4))
    assert np.isnan(mean_interval([1.0], ["a"])[1:]).all()


def test_mean_interval_covers_the_mean_of_families():
    """Where the plain t interval does not."""
    names = from_layout("12+4+3+2+2+1+1+1")
    group, draw, simulations = Families(names), np.random.default_rng(5), 400
    values = np.sqrt(0.5) * draw.standard_normal((simulations, 8)) @ group.members.T \
        + np.sqrt(0.5) * draw.standard_normal((simulations, group.n))
    plain = stats.ttest_1samp(values, 0, axis=1).confidence_interval()
    ours = np.array([mean_interval(row, names)[1:3] for row in values])
    assert np.mean((plain.low <= 0) & (plain.high >= 0)) < 0.8
    assert np.mean((ours[:, 0] <= 0) & (ours[:, 1] >= 0)) > 0.9
