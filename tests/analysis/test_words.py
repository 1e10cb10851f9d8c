"""The answer in two sentences says what the numbers say, and no more."""

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_stilts.analysis import words
from tests.analysis.studies import methods_of, study_of

NONE = pd.DataFrame(columns=["method", "intermediate", "measure", "slope", "ci_low", "ci_high", "note"])


def ranks_with(study, estimates, q, reliable=True, measure="syntactic"):
    """Rank correlations of one measure, a target each, with these estimates and one q for all."""
    rows = study.correlations.iloc[[0] * len(estimates)].reset_index(drop=True)
    return rows.assign(target=[f"t{place}" for place in range(len(rows))], coefficient="spearman", measure=measure,
                       estimate=estimates, q_bh=q, reliable=reliable)


def slopes(*ends, method="full", measure="syntactic", intermediate="all", note=""):
    return pd.DataFrame([dict(method=method, intermediate=intermediate, measure=measure, slope=(low + high) / 2,
                              ci_low=low, ci_high=high, note=note) for low, high in ends])


def first(estimates=(0.5, 0.4), q=0.2, reliable=True, pooled=NONE, **changed):
    study = study_of()
    study.correlations = ranks_with(study, list(estimates), q, reliable)
    for name, value in ({"pooled": pooled} | changed).items():
        setattr(study, name, value)
    return words.answer(study)[0]


def test_what_passes_is_counted_with_its_direction():
    up = first([0.5, 0.4, -0.1], [0.01, 0.04, 0.3])
    assert up.startswith("Gains are higher in languages more similar to English in 2 of 3 rank correlations "
                         "(at a false discovery rate of 5 %)")
    assert "lower in languages more similar" in first([-0.5], 0.01)
    both = first([0.5, -0.5, 0.1], [0.01, 0.02, 0.9])
    assert "in no single direction" in both and "rise with it in 1 and fall in 1 of 3" in both
    assert "only 1 of 20 rank correlations" in first([0.5] + [0.1] * 19, [0.01] + [0.5] * 19)


def test_nothing_that_passes_is_not_called_no_relation():
    for pooled, said in ((NONE, "cannot tell whether gains follow similarity"),
                         (slopes((-0.5, 3.0)), "cannot tell whether gains follow similarity"),
                         (slopes((-0.5, 0.6)), "a large one is unlikely"), (slopes((0.2, 3.0)), "is weak")):
        told = first(pooled=pooled)
        assert said in told and "none of 2 rank correlations passes" in told
        assert "there is no relation" not in told and "are higher" not in told
    assert "may be nothing or much" in first(pooled=slopes((-0.5, 3.0)))
    assert "may be nothing or much" not in first(pooled=slopes((0.2, 3.0)))


def test_the_power_of_the_data_is_said():
    assert "would find in 4 of 5 cases is 0.61." in first()
    assert "no correlation that was simulated would be found" in first(detectable=math.nan)


def test_too_few_families_give_no_verdict_however_small_q_is():
    told = first([0.9, 0.9], 0.001, reliable=False, pooled=slopes((0.5, 1.0)))
    assert told.startswith("These data cannot tell") and "too few families for a verdict on any of the 2" in told
    assert "12 languages of" in told and "which rests on as few" in told and "higher in languages" not in told
    study = study_of()
    study.correlations = pd.concat([ranks_with(study, [0.5], 0.01), ranks_with(study, [0.9], 0.01, reliable=False)])
    told = words.answer(study)[0]
    assert "in 1 of 1 rank correlation " in told and "1 more get no verdict" in told


def test_sizes_are_no_similarity_and_undefined_tests_do_not_count():
    study = study_of()
    study.correlations = pd.concat([ranks_with(study, [0.9], 0.001, measure="cc100"),
                                    ranks_with(study, [math.nan], math.nan)])
    assert "no cell has four languages or more" in words.answer(study)[0]


def test_the_pooled_slope_is_the_headline_measures_and_a_doubtful_fit_is_called_so():
    told = first(pooled=pd.concat([slopes((0.2, 1.0)), slopes((3.0, 4.0), measure="genetic"),
                                   slopes((0.4, 0.8), method="lora", note="singular fit")]))
    assert "full +0.60 [+0.20, +1.00]" in told and "lora +0.60 [+0.40, +0.80] (a doubtful fit)" in told
    assert "+3.50" not in told and "of syntactic similarity, in points" in told
    one = first(pooled=slopes((0.2, 1.0), intermediate="squad"))          # one intermediate task: its own is the whole
    assert "+0.60" in one


def test_scores_and_the_miniature_world_are_called_what_they_are():
    score = words.answer(study_of(response="score"))
    assert "scores" in score[0].lower() and "gain" not in score[0].lower()
    for sentence in words.answer(study_of(miniature=True, measures=("closeness", "loans"))):
        assert sentence.startswith("In the miniature world") and "not XLM-R" in sentence
    assert all("miniature" not in sentence for sentence in words.answer(study_of()))


def second(*kinds, **changed):
    study = study_of()
    study.methods = methods_of(*kinds, **changed)
    return words.answer(study)[1]


SAME, WORSE, BETTER = (0.1, -0.3, 0.5, True), (-2.0, -3.0, -1.0, False), (2.0, 1.0, 3.0, False)
OPEN = (-0.5, -2.0, 1.0, False)


@pytest.mark.parametrize("kinds, said", [
    ([SAME, SAME], "Adapters match full fine-tuning within ±1 point in every cell"),
    ([OPEN, OPEN], "These data cannot tell whether adapters match full fine-tuning within ±1 point"),
    ([SAME, OPEN], "in some cells, and of the others these data cannot tell"),
    ([WORSE], "Adapters fall short of full fine-tuning:"),
    ([WORSE, OPEN], "Adapters fall short of full fine-tuning where these data can tell"),
    ([BETTER, OPEN], "Adapters exceed full fine-tuning where these data can tell"),
    ([SAME, WORSE], "depends on the cell"), ([BETTER, WORSE], "depends on the cell"),
])
def test_adapters_match_only_where_equivalence_is_shown(kinds, said):
    told = second(*kinds)
    assert said in told and "not corrected for their number" in told
    for kind, name in ((SAME, "equivalent"), (WORSE, "worse"), (BETTER, "better"), (OPEN, "undecided")):
        assert (f"{name} in {kinds.count(kind)}" in told) == (kind in kinds)


def test_one_seed_and_one_method_are_said():
    assert "with one seed" in second(SAME, seeds=1) and "with one seed" not in second(SAME)
    alone = study_of(methods=("lora",))
    assert "there is one method only, lora." in words.answer(alone)[1]
    apart = study_of()
    apart.methods = methods_of()
    apart.notes = ["3 cells are not compared, as there are several configurations of full: squad > xnli."]
    assert "no cell could be compared: 3 cells are not compared, as there are several" in words.answer(apart)[1]
    renamed = study_of(methods=("Full", "LoRA"))
    renamed.methods = methods_of()
    assert "no method is called full (there are Full, LoRA)" in words.answer(renamed)[1]


def test_methods_are_told_by_the_configurations_that_differ():
    study = study_of(methods=("lora",))
    means = study.responses.means
    study.responses.means = pd.concat([means.assign(method_config='{"lora": {"rank": 8}}'),
                                       means.assign(method_config='{"lora": {"rank": 4}}')], ignore_index=True)
    named = words.named(study, study.responses.means)
    assert set(named["label"]) == {"lora lora.rank=8", "lora lora.rank=4"}
    assert set(named["task"]) == {"xquad (F1)"}


@given(st.floats(-1e3, 1e3), st.integers(0, 3), st.booleans())
def test_numbers_round_and_never_show_a_negative_nothing(value, digits, sign):
    text = words.number(value, digits, sign)
    assert float(text) == pytest.approx(value, abs=0.5 * 10**-digits + 1e-9)
    assert not (text.startswith("-") and float(text) == 0)


def test_missing_numbers_and_small_p():
    assert words.number(math.nan) == words.interval(math.nan, 1) == words.p_value(math.nan) == "–"
    assert words.p_value(0.0004) == "<0.001" and words.p_value(0.0514) == "0.051"
