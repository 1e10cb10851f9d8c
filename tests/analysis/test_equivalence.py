"""Adapters against full: paired differences, their intervals over languages and seeds, equivalence, costs; and whether
correlations differ, against enumeration by hand."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from peft_stilts.analysis import equivalence
from peft_stilts.errors import UsageError

CODES = [f"l{number:02d}" for number in range(24)]
ALONE = {code: code for code in CODES}


def rows_of(method, table, **changed):
    """Rows of one cell from a table (languages, seeds)."""
    place = dict(method=method, method_config="{}", policy="continue", intermediate="squad", target="xnli",
                 metric="accuracy") | changed
    return [place | dict(language=CODES[row], seed=column + 1, value=float(value),
                         stage_key=f"{method}-{place['intermediate']}-{column + 1}")
            for (row, column), value in np.ndenumerate(np.asarray(table, dtype=float)) if not np.isnan(value)]


def responses_of(*parts):
    frame = pd.DataFrame([row for part in parts for row in part])
    return SimpleNamespace(seeds=frame.drop(columns="stage_key"), keys=frame.drop(columns="value"))


def two(difference, base=None):
    """Responses of lora and full that differ by a table (languages, seeds)."""
    difference = np.asarray(difference, dtype=float)
    base = np.random.default_rng(0).uniform(0, 10, difference.shape) if base is None else base
    return responses_of(rows_of("full", base), rows_of("lora", base + difference))


def only(responses, families=ALONE, **arguments):
    """(the one row, notes)"""
    frame, notes = equivalence.methods(responses, None, families, **arguments)
    assert list(frame) == equivalence.METHODS
    (row,) = frame.to_dict("records")
    return row, notes


@settings(max_examples=25, deadline=None)
@given(differences=st.lists(st.floats(-3, 3), min_size=6, max_size=20), margin=st.floats(0.2, 2))
def test_one_seed_and_no_families_are_the_textbook_tests(differences, margin):
    differences = np.round(np.array(differences), 3)
    if np.ptp(differences) < 0.1:
        differences[0] += 1
    row, notes = only(two(differences[:, None]), margin=margin)
    plain = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert row["difference"] == pytest.approx(differences.mean(), abs=1e-9)
    assert [row["ci_low"], row["ci_high"]] == pytest.approx([plain.low, plain.high], abs=1e-6)
    sides = [stats.ttest_1samp(differences, bound, alternative=side).pvalue
             for bound, side in ((-margin, "greater"), (margin, "less"))]
    assert row["p_tost"] == pytest.approx(max(sides), abs=1e-6)
    narrow = stats.ttest_1samp(differences, 0).confidence_interval(0.9)
    if min(abs(narrow.low + margin), abs(narrow.high - margin)) > 1e-6:
        assert row["equivalent"] == (-margin < narrow.low and narrow.high < margin)
    assert row["n"] == len(differences) and row["seeds"] == 1 and "one seed" in notes[0]


def test_gains_of_both_methods_stand_beside_their_difference():
    table = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 10], [0, 0, 1]])
    base = np.arange(12.0).reshape(4, 3)
    row, notes = only(two(table, base))
    assert row["gain_reference"] == pytest.approx(base.mean()) and row["gain"] == pytest.approx((base + table).mean())
    assert row["difference"] == pytest.approx(table.mean()) and row["seeds"] == 3 and row["n"] == 4 and not notes
    assert row["reference"] == "full" and row["method"] == "lora" and np.isnan(row["bytes_reference"])


def test_interval_is_that_of_the_crossed_table_worked_by_hand():
    table = np.array([[1.0, 3.0], [2.0, 4.5], [0.0, 2.5], [4.0, 5.0]])
    # Mean squares of the two-way table: languages, seeds and the rest, each over the 8 values.
    mean, of_languages, of_seeds = table.mean(), table.mean(axis=1), table.mean(axis=0)
    first = 2 * ((of_languages - mean)**2).sum() / 3 / 8
    second = 4 * ((of_seeds - mean)**2).sum() / 1 / 8
    third = ((table - of_languages[:, None] - of_seeds + mean)**2).sum() / 3 / 8
    whole = first + second - third
    found = equivalence.interval(table, list("abcd"))
    assert found == pytest.approx((mean, np.sqrt(whole), whole**2 / (first**2 / 3 + second**2 / 1 + third**2 / 3)))


def test_seeds_that_differ_less_than_the_rest_leave_the_interval_over_languages():
    table = np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0], [2.0, 3.0]])
    plain = equivalence.mean_interval(table.mean(axis=1), list("abcd"))
    assert equivalence.interval(table, list("abcd")) == pytest.approx((plain[0], *plain[3:]))


@pytest.mark.parametrize("sds", [(1.0, 0.0, 1.0), (1.0, 0.5, 1.0), (0.3, 1.0, 0.3), (1.0, 1.0, 0.2)])
def test_interval_holds_the_truth_as_often_as_it_says(sds):
    random = np.random.default_rng(7)
    inside, count, languages, seeds = 0, 250, 14, 3
    for _ in range(count):
        table = (sds[0] * random.standard_normal((languages, 1)) + sds[1] * random.standard_normal((1, seeds))
                 + sds[2] * random.standard_normal((languages, seeds)))
        mean, error, freedom = equivalence.interval(table, CODES[:languages])
        inside += abs(mean) <= stats.t.ppf(0.975, freedom) * error
    low, high = stats.binom.ppf(0.001, count, 0.92), stats.binom.ppf(0.999, count, 0.97)
    assert low <= inside <= high


def test_languages_of_one_family_count_for_less():
    random = np.random.default_rng(2)
    names = np.repeat(["a", "b", "c", "d", "e"], 4)
    table = (random.standard_normal(5)[np.repeat(np.arange(5), 4)] + 0.1 * random.standard_normal(20))[:, None]
    families = dict(zip(CODES, names))
    wide, narrow = only(two(table), families)[0], only(two(table), ALONE)[0]
    assert wide["ci_high"] - wide["ci_low"] > 1.5 * (narrow["ci_high"] - narrow["ci_low"])
    assert wide["difference"] == pytest.approx(narrow["difference"])


@pytest.mark.parametrize("count, digits", [(6, 0), (7, 3), (8, 0), (9, 0), (13, 3), (20, 0), (20, 3)])
def test_signed_ranks_are_scipys_with_ties_and_without(count, digits):
    differences = np.round(np.random.default_rng(count).normal(0.7, 1.5, count), digits)
    row, _ = only(two(differences[:, None]))
    assert row["p_wilcoxon"] == pytest.approx(stats.wilcoxon(differences, zero_method="wilcox").pvalue)


def test_same_numbers_are_equivalent_and_signed_ranks_say_nothing():
    row, _ = only(two(np.zeros((8, 2))))
    assert row["equivalent"] and row["p_tost"] == 0 and np.isnan(row["p_wilcoxon"])
    assert row["ci_low"] == row["ci_high"] == row["difference"] == 0
    assert np.isnan(only(two(np.arange(5.0)[:, None]))[0]["p_wilcoxon"])
    far, _ = only(two(5 + np.zeros((8, 2))))
    assert not far["equivalent"] and far["p_tost"] == pytest.approx(1)


def test_one_language_has_a_difference_and_no_interval():
    row, _ = only(two([[1.0, 2.0]]))
    assert row["difference"] == pytest.approx(1.5) and np.isnan(row["ci_low"]) and not row["equivalent"]


@pytest.mark.parametrize("margin", [0, -1, float("nan"), float("inf")])
def test_margin_must_be_a_number_above_nothing(margin):
    with pytest.raises(UsageError, match="--margin"):
        equivalence.methods(two(np.ones((6, 1))), None, ALONE, margin)


def test_only_what_both_have_is_compared_and_the_rest_is_counted():
    full = np.random.default_rng(1).uniform(0, 9, (8, 3))
    lora = full + 1
    lora[6:, 2] = np.nan                      # seed 3 lacks two languages: 16 values of two seeds < 18 of six languages
    row, notes = only(responses_of(rows_of("full", full), rows_of("lora", lora)))
    assert (row["n"], row["seeds"]) == (6, 3) and "10 values in 1 comparisons" in notes[0]
    lora[1:, 2] = np.nan                      # now two seeds hold more than one language does
    row, notes = only(responses_of(rows_of("full", full), rows_of("lora", lora)))
    assert (row["n"], row["seeds"]) == (8, 2) and row["difference"] == pytest.approx(1)
    assert "9 values in 1 comparisons" in notes[0] and "two seeds" in notes[1]


def test_cells_without_one_reference_are_said():
    table = np.ones((6, 1))
    full, lora = rows_of("full", table), rows_of("lora", table)
    for parts, told in (
            ((full, lora, rows_of("lora", table, target="panx")), "no results of full: squad > panx"),
            ((full, lora, rows_of("full", table, method_config="b")), "several configurations of full: squad > xnli"),
            ((full, rows_of("lora", np.c_[table * np.nan, table])), "no language and seed in common with full")):
        frame, notes = equivalence.methods(responses_of(*parts), None, ALONE)
        assert any(told in note for note in notes) and len(frame) == ("panx" in told)
    for alone in (full, lora):
        frame, notes = equivalence.methods(responses_of(alone), None, ALONE)
        assert list(frame) == equivalence.METHODS and not len(frame) and not notes


def test_every_configuration_and_policy_is_a_row_whatever_the_order():
    random = np.random.default_rng(3)
    parts = [rows_of("full", random.uniform(0, 5, (7, 2)))] + [
        rows_of(method, random.uniform(0, 5, (7, 2)), method_config=config, policy=policy)
        for method, config, policy in (("lora", "8", "stack"), ("lora", "16", "stack"), ("lora", "8", "continue"),
                                       ("dora", "8", "stack"))]
    responses = responses_of(*parts)
    frame, _ = equivalence.methods(responses, None, ALONE)
    assert len(frame) == 4 and not frame.duplicated(["method", "method_config", "policy"]).any()
    again = SimpleNamespace(seeds=responses.seeds.sample(frac=1, random_state=2), keys=responses.keys)
    pd.testing.assert_frame_equal(frame, equivalence.methods(again, None, ALONE)[0])


def stages_of(*rows):
    columns = ["stage_key", "parent_key", "kind", "trainable_parameters", "bytes", "tokens", "seconds"]
    return pd.DataFrame([dict(zip(columns, row)) for row in rows])


def test_costs_are_of_the_whole_chain_of_trainings_and_means_over_seeds():
    stages = stages_of(
        ("full-squad-1", "f2", "evaluate", 0, 1, 9, 9.0), ("f2", "f1", "train", 100, 400, 20, 6.0),
        ("f1", "", "train", 100, 400, 50, 10.0), ("full-squad-2", "f2", "evaluate", 0, 1, 9, 9.0),
        ("lora-squad-1", "a2", "evaluate", 0, 1, 9, 9.0), ("a2", "a1", "train", 3, 12, 20, 4.0),
        ("a1", "", "train", 2, 8, 50, 7.0), ("lora-squad-2", "a3", "evaluate", 0, 1, 9, 9.0),
        ("a3", "a1", "train", 3, 12, 20, 5.0))
    responses = two(np.ones((6, 2)))
    row = equivalence.methods(responses, stages, ALONE)[0].iloc[0]
    assert row[equivalence.COSTS].to_list() == [5, 20, 11.5, 70]
    assert row[[f"{name}_reference" for name in equivalence.COSTS]].to_list() == [200, 800, 16, 70]
    for lacking in (stages[stages["stage_key"] != "a1"], stages[stages["stage_key"] != "lora-squad-2"]):
        row = equivalence.methods(responses, lacking, ALONE)[0].iloc[0]
        assert row[equivalence.COSTS].isna().all() and row["bytes_reference"] == 800


def test_tables_without_stage_keys_have_no_costs():
    responses = two(np.ones((6, 2)))
    responses.keys["stage_key"] = ""
    row = equivalence.methods(responses, stages_of(("a", "", "train", 1, 1, 1, 1.0)), ALONE)[0].iloc[0]
    assert row[equivalence.COSTS].isna().all()


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
    frame = equivalence.contrasts(
        responses_of(rows_of("full", np.c_[y[1], y[1] + 1]), rows_of("lora", np.c_[y[0], y[0] - 2])),
        similarities_of(x=x, gone=np.where(np.arange(11) < 2, np.nan, x)), dict(zip(CODES, map(str, of))),
        (coefficient,), draws=200)
    assert list(frame) == equivalence.CONTRASTS
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
    values = equivalence._standardised(ranks)
    shown, count = [], len(sizes) + 1
    for swap in itertools.product([False, True], repeat=count):
        turned = np.where(np.array(swap)[of], values[::-1], values)
        shown.append(abs(np.corrcoef(x, turned[0])[0, 1] - np.corrcoef(x, turned[1])[0, 1]))
    expected = (np.array(shown) >= shown[0] - 1e-9).mean()
    found = equivalence.swapped(equivalence._standardised(x[None])[0], values, of, 50, 1)
    assert found == pytest.approx(expected) and found >= 2 / 2**count


def test_random_swaps_come_near_to_all_of_them(monkeypatch):
    x, y, of = correlated(4, [2] * 10)
    y[0] += 0.5 * x
    arguments = equivalence._standardised(x[None])[0], equivalence._standardised(y), of, 4000, 1
    every = equivalence.swapped(*arguments)
    monkeypatch.setattr(equivalence, "EVERY_SWAP", 3)
    some = equivalence.swapped(*arguments)
    assert some != every and some == pytest.approx(every, abs=0.03) and equivalence.swapped(*arguments) == some


def test_methods_that_differ_by_chance_alone_are_told_apart_one_time_in_twenty():
    p = []
    for seed in range(400):
        x, y, of = correlated(seed, [5, 3, 2, 2, 1, 1, 1, 1])
        x, *y = equivalence._standardised(stats.rankdata(np.vstack([x, y]), axis=1))
        p.append(equivalence.swapped(x, np.array(y), of, 0, 1))
    assert (np.array(p) <= 0.05).sum() <= stats.binom.ppf(0.999, 400, 0.05)
    assert (np.array(p) <= 0.05).sum() >= stats.binom.ppf(0.001, 400, 0.05)


@pytest.mark.parametrize("ranked", [True, False])
def test_resamples_are_those_of_whole_families_ranked_anew(ranked):
    x, y, of = correlated(6, [3, 2, 2, 1, 1])
    y = np.round(y)                                                           # ties
    draws = 300
    weights = np.random.default_rng(9).multinomial(5, np.full(5, 0.2), draws)
    differences = []
    for times in weights:
        some = np.repeat(np.arange(len(of)), times[of])
        if min(np.ptp(x[some]), *np.ptp(y[:, some], axis=1)) > 0:
            strength = stats.spearmanr if ranked else stats.pearsonr
            differences.append(strength(x[some], y[0][some]).statistic - strength(x[some], y[1][some]).statistic)
    assert 250 < len(differences) < draws
    found = equivalence.resampled(x, y, of, ranked, draws, 9)
    assert found == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])))


def test_contrasts_without_an_answer_are_empty_and_kendall_is_refused():
    x, y, of = correlated(7, [3, 3, 3])
    responses = responses_of(rows_of("full", y[1][:, None]), rows_of("lora", y[0][:, None]))
    families = dict(zip(CODES, map(str, of)))
    few = np.where(np.arange(9) < 3, x, np.nan)
    frame = equivalence.contrasts(responses, similarities_of(constant=x * 0, few=few), families, draws=20)
    assert frame[["estimate", "difference", "ci_low", "p_swap"]].isna().all().all() and list(frame["n"]) == [9, 3]
    two_families = equivalence.contrasts(responses, similarities_of(x=x), {code: str(int(code[1:]) % 2)
                                                                            for code in CODES}, draws=20).iloc[0]
    assert np.isnan(two_families["ci_low"]) and two_families["p_swap"] >= 0.5
    with pytest.raises(UsageError, match="kendall"):
        equivalence.contrasts(responses, similarities_of(x=x), families, ("kendall",))
