"""The pooled model: against statsmodels, against matrices written out, and against the regression that it is in the
balanced case; what it says where nothing can be fitted; and how often it is wrong by chance."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from peft_stilts.analysis import pooled

CODES = [f"l{number:02d}" for number in range(40)]
FAMILIES = {code: f"family {min(number // 4, 5)}" for number, code in enumerate(CODES)}
ALONE = {code: code for code in CODES}


def cells_of(seed, languages=20, targets=5, share=0.7, sds=(3.0, 1.5, 1.0, 1.0), slope=0.0, families=FAMILIES):
    """(cells as of `averaged`, measure): an incomplete table; sds of target, language, family, residual."""
    random = np.random.default_rng(seed)
    codes = CODES[:languages]
    names = sorted(set(families[code] for code in codes))
    of = np.array([names.index(families[code]) for code in codes])
    x = random.standard_normal(len(names))[of] * 0.7 + random.standard_normal(languages)
    own = slope * x + sds[1] * random.standard_normal(languages) + sds[2] * random.standard_normal(len(names))[of]
    of_target = sds[0] * random.standard_normal(targets)
    rows = [(f"t{target}", code, 40 + of_target[target] + own[place] + sds[3] * random.standard_normal())
            for target in range(targets) for place, code in enumerate(codes) if random.random() < share]
    return pd.DataFrame(rows, columns=["target", "language", "value"]), pd.Series(x, codes)


def inputs(cells, measure, families=FAMILIES):
    """(values, design, groups) of the model with all three random parts."""
    codes, of = np.unique(cells["language"], return_inverse=True)
    names, family = np.unique([families[code] for code in codes], return_inverse=True)
    groups = {"target": np.unique(cells["target"], return_inverse=True)[1], "language": of, "family": family[of]}
    return (cells["value"].to_numpy(), np.column_stack([np.ones(len(cells)), measure.loc[cells["language"]]]), groups)


def responses_of(cells, method="full", intermediate="squad", **changed):
    frame = cells.assign(**dict(method=method, method_config="{}", policy="continue", intermediate=intermediate,
                                metric="f1") | changed)
    return SimpleNamespace(means=frame)


def similarities_of(families=FAMILIES, **measures):
    return SimpleNamespace(values=pd.DataFrame(measures), families=families)


@pytest.mark.parametrize("seed", [1, 2])
def test_mixed_finds_what_statsmodels_finds(seed):
    import statsmodels.formula.api as smf

    cells, measure = cells_of(seed, languages=24)
    values, design, groups = inputs(cells, measure)
    found = pooled.mixed(values, design, groups)
    frame = cells.assign(x=design[:, 1], family=groups["family"], one=1)
    theirs = smf.mixedlm("value ~ x", frame, groups="one", re_formula="0", vc_formula={
        name: f"0 + C({name})" for name in ("target", "language", "family")}).fit(reml=True, method="lbfgs")
    assert found.converged and min(found.variances.values()) > 0
    assert found.coefficients == pytest.approx(theirs.fe_params.to_numpy(), rel=1e-3)
    assert found.residual == pytest.approx(theirs.scale, rel=1e-2)
    variances = dict(zip(theirs.model.exog_vc.names, theirs.vcomp))
    assert dict(found.variances) == pytest.approx(variances, rel=2e-2)
    assert found.errors == pytest.approx(written_out(values, design, groups, variances, theirs.scale)[1], rel=1e-2)
    # Theirs are from the observed information of coefficients and variances together.
    assert found.errors[1] == pytest.approx(theirs.bse_fe["x"], rel=5e-2)


def written_out(values, design, groups, variances, residual):
    """(coefficients, errors, Satterthwaite's degrees of freedom) by n x n matrices."""
    parts = [np.eye(len(values))] + [np.equal.outer(groups[name], groups[name]).astype(float)
                                     for name in groups if variances[name] > 0]
    sizes = [residual] + [variances[name] for name in groups if variances[name] > 0]
    inverse = np.linalg.inv(sum(size * part for size, part in zip(sizes, parts)))
    covariance = np.linalg.inv(design.T @ inverse @ design)
    projection = inverse - inverse @ design @ covariance @ design.T @ inverse
    information = np.array([[0.5 * np.trace(projection @ a @ projection @ b) for b in parts] for a in parts])
    pull = inverse @ design @ covariance[:, -1]
    slopes = np.array([pull @ part @ pull for part in parts])
    freedom = 2 * covariance[-1, -1]**2 / (slopes @ np.linalg.inv(information) @ slopes)
    return covariance @ design.T @ inverse @ values, np.sqrt(np.diag(covariance)), freedom


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), families=st.booleans(), language_sd=st.sampled_from([0.0, 2.0]))
def test_errors_and_degrees_of_freedom_are_those_of_the_matrices_written_out(seed, families, language_sd):
    cells, measure = cells_of(seed, sds=(2.0, language_sd, 1.0, 1.0))
    values, design, groups = inputs(cells, measure)
    if not families:
        del groups["family"]
    found = pooled.mixed(values, design, groups)
    coefficients, errors, freedom = written_out(values, design, groups, found.variances, found.residual)
    assert found.converged
    assert found.coefficients == pytest.approx(coefficients, rel=1e-6, abs=1e-6)
    assert found.errors == pytest.approx(errors, rel=1e-6)
    assert found.freedom == pytest.approx(freedom, rel=1e-5)


def test_mixed_is_at_the_top_of_the_likelihood():
    cells, measure = cells_of(5)
    values, design, groups = inputs(cells, measure)
    likelihood = pooled._Likelihood(values, design, list(groups.values()))
    found = pooled.mixed(values, design, groups)
    best = np.sqrt(np.array(list(found.variances.values())) / found.residual)
    top = likelihood(best)[0]
    for place, factor in itertools.product(range(3), (0.8, 1.25)):
        moved = best.copy()
        moved[place] = moved[place] * factor + 0.01
        assert likelihood(moved)[0] > top
        step = np.eye(3)[place] * 1e-6
        slope = (likelihood(moved + step)[0] - likelihood(moved - step)[0]) / 2e-6
        assert likelihood(moved)[1][place] == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_without_random_parts_it_is_least_squares():
    random = np.random.default_rng(3)
    x, values = random.standard_normal((2, 12))
    found = pooled.mixed(values, np.column_stack([np.ones(12), x]), {})
    line = stats.linregress(x, values)
    assert found.coefficients == pytest.approx([line.intercept, line.slope])
    assert found.errors == pytest.approx([line.intercept_stderr, line.stderr]) and found.freedom == pytest.approx(10)
    with pytest.raises(np.linalg.LinAlgError, match="collinear"):
        pooled.mixed(values, np.ones((12, 2)), {})


def assert_is_line(found, x, values):
    line = stats.linregress((x - x.mean()) / x.std(ddof=1), values)
    away = stats.t.ppf(0.975, len(x) - 2) * line.stderr
    assert found["slope"] == pytest.approx(line.slope, rel=1e-6)
    assert [found["ci_low"], found["ci_high"]] == pytest.approx([line.slope - away, line.slope + away], rel=1e-4)
    assert found["p"] == pytest.approx(line.pvalue, rel=1e-3)


def test_complete_table_is_the_regression_of_the_languages_means():
    cells, measure = cells_of(4, languages=12, share=1.0, slope=1.0)
    found = pooled.slope(cells, measure, ALONE)
    assert_is_line(found, measure, cells.groupby("language")["value"].mean().loc[measure.index])
    assert found["n"] == 60 and found["languages"] == found["families"] == 12 and found["targets"] == 5
    assert found["note"] == ""


def test_one_target_is_the_regression_over_its_languages():
    cells, measure = cells_of(6, languages=9, targets=1, share=1.0)
    found = pooled.slope(cells, measure, ALONE)
    assert_is_line(found, measure, cells.set_index("language")["value"].loc[measure.index])
    assert found["note"] == ""


def test_scale_of_the_measure_is_nothing_and_missing_languages_are_left_out():
    cells, measure = cells_of(7)
    first = pooled.slope(cells, measure, FAMILIES)
    again = pooled.slope(cells, 100 * measure - 7, FAMILIES)
    assert [again[name] for name in ("slope", "ci_low", "p")] == pytest.approx(
        [first[name] for name in ("slope", "ci_low", "p")], rel=1e-5)
    gone = measure.copy()
    gone.iloc[:3] = np.nan
    fewer = pooled.slope(cells, gone, FAMILIES)
    known = pooled.slope(cells[~cells["language"].isin(gone.index[:3])], measure.iloc[3:], FAMILIES)
    assert fewer == known and fewer["languages"] == 17


def test_no_more_degrees_of_freedom_than_languages():
    cells, measure = cells_of(8, languages=8, targets=9, share=1.0, sds=(1.0, 0.0, 0.0, 1.0))
    found = pooled.slope(cells, measure, ALONE)
    t = found["slope"] / ((found["ci_high"] - found["slope"]) / stats.t.ppf(0.975, 6))
    assert found["p"] == pytest.approx(2 * stats.t.sf(abs(t), 6))
    singular = [pooled.slope(*cells_of(seed, 8, 9, 1.0, (1.0, 0.0, 0.0, 1.0)), ALONE)["note"] for seed in range(12)]
    assert "singular fit: variance of language is 0" in singular


def test_what_cannot_be_fitted_is_said():
    cells, measure = cells_of(9)
    for changed, told in ((measure * 0, "measure is constant"), (measure.iloc[:3], "fewer than 4 languages"),
                          (measure * np.nan, "fewer than 4 languages")):
        found = pooled.slope(cells, changed, FAMILIES)
        assert told in found["note"] and np.isnan(found["slope"]) and np.isnan(found["p"])
    found = pooled.slope(cells.assign(value=1.0), measure, FAMILIES)
    assert "response is constant" in found["note"] and np.isnan(found["ci_low"])


def test_values_without_a_residual_are_no_silent_success():
    cells, measure = cells_of(10, share=1.0, sds=(1.0, 1.0, 0.0, 0.0))
    assert "converge" in pooled.slope(cells, measure, ALONE)["note"]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), gaps=st.integers(0, 6))
def test_gaps_do_not_favour_a_language(seed, gaps):
    random = np.random.default_rng(seed)
    own, setting = random.standard_normal(8), 10 * random.standard_normal(4)
    table = own[:, None] + setting
    for row in random.permutation(8)[:gaps]:          # two whole rows connect all
        table[row, random.integers(4)] = np.nan
    assert pooled._row_effects(table) == pytest.approx(own + setting.mean())


def test_settings_are_averaged_within_targets_and_several_configurations_are_told():
    cells, measure = cells_of(11)
    first = responses_of(cells).means
    both = pd.concat([first, first.assign(intermediate="mnli", value=first["value"] + 4)])
    similar = similarities_of(x=measure)
    found = pooled.pooled(SimpleNamespace(means=both), similar, ["x"]).set_index("intermediate")
    assert list(found.index) == ["all", "mnli", "squad"] and set(found["note"]) == {""}
    assert found["slope"].to_numpy() == pytest.approx([found.loc["squad", "slope"]] * 3, rel=1e-6)
    assert found["n"].nunique() == 1                       # repeated measures are not more values
    twice = pd.concat([first, first.assign(policy="merge", value=first["value"] - 1)])
    told = pooled.pooled(SimpleNamespace(means=twice), similar, ["x"])
    assert (told["note"] == "several configurations averaged").all() and told["n"].eq(len(cells)).all()


def test_frame_has_a_row_per_method_setting_and_measure_whatever_the_order():
    cells, measure = cells_of(12)
    parts = [responses_of(cells.assign(value=cells["value"] + shift), method, name).means
             for shift, (method, name) in enumerate(itertools.product(("full", "lora"), ("squad", "all")))]
    frame, similar = pd.concat(parts, ignore_index=True), similarities_of(x=measure, y=measure**2)
    found = pooled.pooled(SimpleNamespace(means=frame), similar, ["x", "y"], ["l00", "l01"])
    assert list(found) == pooled.COLUMNS and len(found) == 2 * 3 * 2
    assert set(found["intermediate"]) == {pooled.EVERY, pooled.MIXTURE, "squad"}
    assert found["languages"].eq(18).all() and not found.duplicated(["method", "intermediate", "measure"]).any()
    mixed = frame.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(found, pooled.pooled(SimpleNamespace(means=mixed), similar, ["x", "y"],
                                                       ["l01", "l00"]))
    nothing = pooled.pooled(SimpleNamespace(means=frame.iloc[:0]), similar, ["x"])
    assert list(nothing) == pooled.COLUMNS and not len(nothing)


@pytest.mark.parametrize("languages, sds", [(12, (2.0, 1.0, 0.0, 1.0)),
                                            pytest.param(20, (2.0, 1.0, 1.0, 1.0), marks=pytest.mark.slow)])
def test_without_a_relation_one_in_twenty_is_called_one(languages, sds):
    p = [pooled.slope(*cells_of(1000 + seed, languages, 4, 0.7, sds), FAMILIES)["p"] for seed in range(200)]
    low, high = stats.binom.ppf([0.001, 0.999], len(p), 0.05)
    assert low <= (np.array(p) < 0.05).sum() <= high
