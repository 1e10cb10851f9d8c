"""Whether correlations differ between methods, against enumeration by hand and Zou's own example."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from peft_stilts.analysis import contrasts
from peft_stilts.analysis.families import Families
from peft_stilts.errors import UsageError
from tests.analysis.test_equivalence import CODES, responses_of, rows_of


def correlated(seed, sizes, noise=0.5):
    """(measure, values of two methods, family of each): all with a part common to a family."""
    random = np.random.default_rng(seed)
    of = np.repeat(np.arange(len(sizes)), sizes)
    x, *y = (random.standard_normal(len(sizes))[of] + noise * random.standard_normal(len(of)) for _ in range(3))
    return x, np.array(y), of


def similarities_of(**measures):
    return SimpleNamespace(values=pd.DataFrame(measures, index=CODES[:len(next(iter(measures.values())))]))


@pytest.mark.parametrize("coefficient, theirs", [("spearman", stats.spearmanr), ("pearson", stats.pearsonr)])
def test_contrast_is_the_difference_of_two_correlations(coefficient, theirs):
    x, y, of = correlated(1, [4, 3, 2, 2])
    y, x = np.round(y, 1), np.round(x, 1)                                     # ties
    frame = contrasts.contrasts(
        responses_of(rows_of("full", np.c_[y[1], y[1] + 1]), rows_of("lora", np.c_[y[0], y[0] - 2])),
        similarities_of(x=x, gone=np.where(np.arange(11) < 2, np.nan, x)), dict(zip(CODES, map(str, of))),
        (coefficient,), draws=200)
    assert list(frame) == contrasts.CONTRASTS
    for row, some in zip(frame.itertuples(), (slice(None), slice(2, None))):
        own, other = theirs(x[some], y[0][some]).statistic, theirs(x[some], y[1][some]).statistic
        assert (row.estimate, row.estimate_reference) == pytest.approx((own, other))
        assert row.difference == pytest.approx(own - other) and row.n == len(x[some]) and row.families == 4
        assert row.ci_low <= row.ci_high and 0 < row.p_swap <= 1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(1, 4), min_size=2, max_size=5))
def test_swaps_are_those_of_plain_enumeration(seed, sizes):
    x, y, of = correlated(seed, sizes + [2])
    ranks = stats.rankdata(y, axis=1)
    values = contrasts._standardised(ranks)
    shown, count = [], len(sizes) + 1
    for swap in itertools.product([False, True], repeat=count):
        turned = np.where(np.array(swap)[of], values[::-1], values)
        shown.append(abs(np.corrcoef(x, turned[0])[0, 1] - np.corrcoef(x, turned[1])[0, 1]))
    expected = (np.array(shown) >= shown[0] - 1e-9).mean()
    found = contrasts.swapped(contrasts._standardised(x[None])[0], values, of, 50, 1)
    assert found == pytest.approx(expected) and found >= 2 / 2**count


def test_random_swaps_come_near_to_all_of_them(monkeypatch):
    x, y, of = correlated(4, [2] * 10)
    y[0] += 0.5 * x
    arguments = contrasts._standardised(x[None])[0], contrasts._standardised(y), of, 4000, 1
    every = contrasts.swapped(*arguments)
    monkeypatch.setattr(contrasts, "EVERY_SWAP", 3)
    some = contrasts.swapped(*arguments)
    assert some != every and some == pytest.approx(every, abs=0.03) and contrasts.swapped(*arguments) == some


def test_methods_that_differ_by_chance_alone_are_told_apart_one_time_in_twenty():
    p = []
    for seed in range(400):
        x, y, of = correlated(seed, [5, 3, 2, 2, 1, 1, 1, 1])
        x, *y = contrasts._standardised(stats.rankdata(np.vstack([x, y]), axis=1))
        p.append(contrasts.swapped(x, np.array(y), of, 0, 1))
    assert (np.array(p) <= 0.05).sum() <= stats.binom.ppf(0.999, 400, 0.05)
    assert (np.array(p) <= 0.05).sum() >= stats.binom.ppf(0.001, 400, 0.05)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_interval_of_languages_without_relatives_is_zous(seed):
    """His example of correlations that overlap, whatever the data with these correlations: 0.396 and 0.179, of the
    other two variables 0.088, over 66; the interval is [-0.093, 0.517]."""
    wanted = np.array([[1, 0.396, 0.179], [0.396, 1, 0.088], [0.179, 0.088, 1]])
    drawn = np.random.default_rng(seed).standard_normal((66, 3))
    free = np.linalg.qr(drawn - drawn.mean(axis=0))[0]
    x, *y = np.linalg.cholesky(wanted) @ free.T
    found = contrasts.between(Families(range(66)), x, np.array(y), "pearson")
    assert np.round(found, 3) == pytest.approx([-0.093, 0.517])


@pytest.mark.parametrize("coefficient", ["pearson", "spearman"])
def test_interval_follows_from_those_of_both_correlations(coefficient):
    x, y, of = correlated(6, [3, 2, 2, 1, 1])
    x, y = stats.rankdata(x), stats.rankdata(y, axis=1)
    group = Families(of)
    low, high = contrasts.between(group, x, y, coefficient)
    back = contrasts.between(group, x, y[::-1], coefficient)
    assert back == pytest.approx((-high, -low))
    assert contrasts.between(group, 3 * x + 1, 2 * y - 5, coefficient) == pytest.approx((low, high))
    same = contrasts.between(group, x, np.array([y[0], y[0]]), coefficient)  # but for the skew of both intervals
    assert same[0] == -same[1] and same[1] < 0.1 * (high - low)
    both = contrasts.between(group, x, np.array([x, y[0]]), coefficient)     # a correlation of 1
    assert np.isfinite(both).all() and both[0] <= 1 - np.corrcoef(x, y[0])[0, 1] <= both[1]


def test_contrasts_without_an_answer_are_empty_and_kendall_is_refused():
    x, y, of = correlated(7, [3, 3, 3])
    responses = responses_of(rows_of("full", y[1][:, None]), rows_of("lora", y[0][:, None]))
    families = dict(zip(CODES, map(str, of)))
    few = np.where(np.arange(9) < 3, x, np.nan)
    frame = contrasts.contrasts(responses, similarities_of(constant=x * 0, few=few), families, draws=20)
    assert frame[["estimate", "difference", "ci_low", "p_swap"]].isna().all().all() and list(frame["n"]) == [9, 3]
    two_families = contrasts.contrasts(responses, similarities_of(x=x), {code: str(int(code[1:]) % 2)
                                                                            for code in CODES}, draws=20).iloc[0]
    assert two_families["ci_low"] < two_families["difference"] < two_families["ci_high"]
    assert two_families["p_swap"] >= 0.5                                      # of four swaps two tell nothing
    with pytest.raises(UsageError, match="kendall"):
        contrasts.contrasts(responses, similarities_of(x=x), families, ("kendall",))
