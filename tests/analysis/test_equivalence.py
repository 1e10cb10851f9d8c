"""Adapters against full: paired differences, their intervals over languages and seeds, equivalence, costs."""

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
