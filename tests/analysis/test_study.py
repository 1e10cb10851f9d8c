"""The whole study of a table: estimates by scipy, families left out, q of all tests, and what cannot be computed."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from peft_stilts.analysis.responses import CELL, responses, tidy
from peft_stilts.analysis.similarity import similarities
from peft_stilts.analysis.study import study
from peft_stilts.errors import DataError, UsageError
from peft_stilts.languages import LANGUAGES

CODES = tuple(code for code in LANGUAGES if code != "en")
MEASURES = ("genetic", "syntactic", "family", "cc100")


def scores(codes=CODES, methods=("full", "lora"), targets=("xnli", "pawsx"), value=None):
    """Baselines and scores after MNLI whose gains are random, or `value(place)`."""
    random = np.random.default_rng(8)
    return pd.DataFrame([
        {"method": method, "intermediate": name, "target": target, "language": code, "seed": 1,
         "score": 40 + place / 4 + (name == "mnli") * (random.normal(3, 2) if value is None else value(place))}
        for method in methods for target in targets for name in ("none", "mnli") for place, code in enumerate(codes)])


def studied(frame, codes=CODES, measures=MEASURES, **settings):
    return study(responses(tidy(frame)), similarities(codes, "en", measures), draws=99, **settings)


@pytest.fixture(scope="module")
def usual():
    return studied(scores())


def test_every_estimate_is_scipys_over_the_languages_that_have_the_measure(usual):
    means, similar = usual.responses.means, usual.similarities.values
    compute = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}
    rows = usual.correlations[usual.correlations["coefficient"].isin(compute)]
    assert len(rows) == 2 * 2 * len(MEASURES) * 3
    for row in rows.itertuples():
        cell = means[(means["method"] == row.method) & (means["target"] == row.target)].set_index("language")["value"]
        both = pd.concat([cell, similar[row.measure]], axis=1).dropna()
        assert row.estimate == pytest.approx(compute[row.coefficient](both["value"], both[row.measure])[0], abs=1e-12)
        assert row.n == len(both) and row.ci_low <= row.estimate <= row.ci_high
    genetic = rows[rows["measure"] == "genetic"]
    assert set(genetic["n"]) == {len(CODES) - 1}        # Basque has no place in the family tree
    assert set(rows[rows["measure"] == "syntactic"]["n"]) == {len(CODES)}
    assert set(genetic["families"]) == {len({LANGUAGES[code].family for code in CODES if code != "eu"})}


def test_partial_correlations_are_those_of_residuals(usual):
    assert usual.covariates == ("baseline", "cc100")
    rows = usual.correlations.query("coefficient == 'partial_pearson' and method == 'full' and target == 'xnli'")
    cell = usual.responses.means.query("method == 'full' and target == 'xnli'").set_index("language")
    for row in rows.itertuples():
        given = [cell["baseline"], *([usual.similarities.values["cc100"]] if row.measure != "cc100" else [])]
        both = pd.concat([cell["value"], usual.similarities.values[row.measure], *given], axis=1).dropna().to_numpy()
        design = np.column_stack([np.ones(len(both)), both[:, 2:]])
        left = [column - design @ np.linalg.lstsq(design, column, rcond=None)[0] for column in both[:, :2].T]
        assert row.estimate == pytest.approx(stats.pearsonr(*left)[0], abs=1e-9)


def test_leaving_a_family_out_is_the_correlation_without_it(usual):
    rows = usual.left_out.query("coefficient == 'spearman' and measure == 'syntactic'")
    families = {LANGUAGES[code].family for code in CODES}
    assert len(rows) == 4 * len(families)       # isolates and all: each is left out once in every cell
    means = usual.responses.means
    for row in rows.sample(6, random_state=1).itertuples():
        cell = means[(means["method"] == row.method) & (means["target"] == row.target)].set_index("language")["value"]
        kept = [code for code in cell.index if usual.similarities.families[code] != row.family]
        assert len(kept) == row.n < len(CODES)
        measured = usual.similarities.values.loc[kept, "syntactic"]
        assert row.estimate == pytest.approx(stats.spearmanr(cell[kept], measured)[0], abs=1e-12)


def test_q_is_over_all_cells_and_measures_of_a_coefficient(usual):
    for coefficient, rows in usual.correlations.groupby("coefficient"):
        assert np.allclose(rows["q_bh"], stats.false_discovery_control(rows["p_permutation"], method="bh")), coefficient


def test_order_of_rows_changes_nothing(usual):
    again = studied(scores().sample(frac=1, random_state=3))
    for name in ("correlations", "left_out", "pooled", "methods", "contrasts"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(usual, name))


def test_a_seed_is_a_seed_and_no_estimate_depends_on_it(usual):
    other = studied(scores(), seed=2).correlations
    same = [*CELL, "measure", "coefficient", "estimate", "n", "families"]
    pd.testing.assert_frame_equal(other[same], usual.correlations[same])
    assert not other["p_permutation"].equals(usual.correlations["p_permutation"])


def test_constant_gains_have_no_correlation_and_get_no_verdict():
    from peft_stilts.analysis import words

    told = studied(scores(value=lambda place: 2.0))
    assert told.correlations[["estimate", "p_permutation", "q_bh"]].isna().all(axis=None)
    assert "cannot tell" in words.answer(told)[0]


def test_three_languages_and_unknown_covariates_are_refused():
    with pytest.raises(DataError, match="no cell has 4 languages .the largest has 3."):
        studied(scores(codes=CODES[:3]), CODES[:3])
    with pytest.raises(UsageError, match="unknown covariate 'cc10'; did you mean 'cc100'|cc100"):
        studied(scores(), covariates=("cc10",))
    alone = studied(scores(methods=("full",), targets=("xnli",)), covariates=()).correlations
    assert alone["coefficient"].nunique() == 3      # no partial ones


def test_tests_are_judged_by_the_languages_that_have_the_measure():
    """Four languages of a measure are four, however many the cell has."""
    codes = ("de", "fr", "es", "ru", "el", "bg", "hi", "ur", "zh", "ar", "tr", "vi", "th", "sw")
    mine = pd.DataFrame({"language": ["de", "tr", "zh", "ar"], "mine": [4.0, 3.0, 2.0, 1.0]})
    told = study(responses(tidy(scores(codes, ("full",), ("xnli",)))),
                 similarities(codes, "en", ("syntactic", "mine"), csv=mine), draws=99).correlations
    rows = told[~told["coefficient"].str.startswith("partial")].set_index(["measure", "coefficient"])
    assert rows.loc["syntactic", "reliable"].all() and not rows.loc["mine", "reliable"].any()
    assert rows.loc["mine", "q_bh"].isna().all() and rows.loc["mine", "p_permutation"].notna().any()


def test_a_covariate_that_says_nothing_more_takes_nothing_out(usual):
    frame = scores(methods=("full",), targets=("xnli",))
    columns = ["measure", "coefficient", "estimate", "n", "p_permutation"]
    once, twice = (studied(frame, covariates=names).correlations[columns] for names in (
        ("cc100",), ("cc100", "cc100")))
    pd.testing.assert_frame_equal(once, twice)
    assert not ((once["measure"] == "cc100") & once["coefficient"].str.startswith("partial")).any()
    level = frame.assign(score=frame["score"].where(frame["intermediate"] != "none", 50.0))
    given = {names: studied(level, covariates=names).correlations[columns] for names in (("cc100",),
                                                                                       ("baseline", "cc100"))}
    both = [table[table["measure"] != "cc100"].reset_index(drop=True) for table in given.values()]
    pd.testing.assert_frame_equal(*both)
