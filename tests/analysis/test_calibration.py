"""Calibration: what is drawn is as said, what is shipped is of this program, and promises that are kept."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from peft_stilts.analysis import calibration
from peft_stilts.analysis.families import Families, from_layout, layout
from peft_stilts.languages import LANGUAGES

ALL = "19+4+3+3+2+2+2+2+1+1+1+1+1+1"


def test_layout_of_all_languages():
    families = [LANGUAGES[code].family for code in LANGUAGES if code != "en"]
    assert layout(families) in calibration.usual_layouts()


@pytest.mark.parametrize("icc", [0.0, 0.6])
def test_drawn_correlations_are_those_asked_for(icc):
    sizes = "5+3+1"
    x, y = calibration.draw(sizes, icc, 0.5, 20_000, np.random.default_rng(1))
    both = np.corrcoef(np.hstack([x, y]).T)
    same = np.equal.outer(Families(from_layout(sizes)).of, Families(from_layout(sizes)).of)
    expected = np.where(same, icc, 0.0)
    np.fill_diagonal(expected, 1)
    np.testing.assert_allclose(both, np.block([[expected, 0.5 * expected], [0.5 * expected, expected]]), atol=0.03)


@pytest.mark.parametrize("coefficient", calibration.TESTED)
def test_true_values_of_normal_variables(coefficient):
    x, y = calibration.draw("1+1+1+1", 0.3, 0.7, 3000, np.random.default_rng(2))
    plain = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}[coefficient]
    found = plain(x[:, 0], y[:, 0]).statistic
    assert found == pytest.approx(calibration.TRUE[coefficient](0.7), abs=0.03)


def test_simulation_repeats_and_shows_the_usual_procedures_fail():
    """XTREME's languages taken as independent: the test rejects, and the interval misses, far too often."""
    layout = calibration.usual_layouts()[-1]
    found = calibration.simulate([layout], (0.6,), (0.0,), ("pearson",), simulations=400)
    again = calibration.simulate([layout], (0.6,), (0.0,), ("pearson",), simulations=400)
    assert found.equals(again)
    rows = found.set_index("test")
    assert rows.loc["independent languages", "rejected"] > 0.12
    assert rows.loc["independent languages", "coverage"] < 0.88
    assert rows.loc[calibration.REPORTED[1], "rejected"] < 0.10
    assert rows.loc[calibration.REPORTED[1], "coverage"] > 0.92
    assert list(found.columns) == calibration.COLUMNS


def test_shipped_table_has_every_layout_of_xtreme():
    known = calibration.shipped()
    assert list(known.columns) == calibration.COLUMNS
    assert set(calibration.usual_layouts()) <= set(known["layout"])
    assert (known["simulations"] >= 2000).all()


def test_shipped_rows_are_what_this_program_computes():
    """A few of the simulations again: within three standard errors of the shipped rates."""
    known = calibration.shipped()
    sizes = calibration.usual_layouts()[-1]
    again = calibration.simulate([sizes], (0.3,), (0.0, 0.5), ("spearman",), simulations=200, seed=77, usual=False)
    for row in again.itertuples():
        same = known[(known["layout"] == sizes) & (known["icc"] == 0.3) & (known["rho"] == row.rho)
                     & (known["coefficient"] == "spearman") & (known["test"] == row.test)].iloc[0]
        for name in ("coverage", "rejected"):
            share = same[name]
            assert abs(getattr(row, name) - share) <= 3.5 * np.sqrt(share * (1 - share) / 200) + 0.005, (name, row)


def test_reliable_and_detectable_read_the_table():
    rows = calibration.simulate(["2+1+1+1+1"], (0.3,), (0.0, 0.9), ("pearson",), simulations=60, usual=False)
    rows.loc[rows["rho"] == 0, ["rejected", "coverage"]] = 0.05, 0.95
    rows.loc[rows["rho"] == 0.9, ["rejected", "coverage"]] = 0.9, 0.95
    assert calibration.reliable(rows, "2+1+1+1+1", "pearson") and calibration.reliable(rows, "2+1+1+1+1",
                                                                                       "partial_pearson")
    assert not calibration.reliable(rows, "2+1+1+1+1", "kendall")
    assert calibration.detectable(rows, "2+1+1+1+1", "pearson") == pytest.approx(0.9 * 0.75 / 0.85)
    rows.loc[rows["rho"] == 0, "rejected"] = 0.08
    assert not calibration.reliable(rows, "2+1+1+1+1", "pearson")
    rows.loc[rows["rho"] == 0, ["rejected", "coverage"]] = 0.05, 0.89
    assert not calibration.reliable(rows, "2+1+1+1+1", "pearson")
    rows["rejected"] = 0.1
    assert np.isnan(calibration.detectable(rows, "2+1+1+1+1", "pearson"))


def test_measures_that_share_their_languages_are_drawn_together_and_none_is_changed_by_another():
    families = from_layout("4+2+1+1")
    random = np.random.default_rng(3)
    values = pd.DataFrame({"whole": random.normal(size=8), "flat": 1.0, "part": random.normal(size=8),
                           "label": [1.0] * 4 + [0.0] * 4, "few": random.normal(size=8)})
    values.loc[0, "part"], values.loc[:4, "few"] = np.nan, np.nan
    found = calibration.of_measures(values, families, simulations=40)
    assert list(found) == calibration.MEASURED
    assert list(found["measure"].unique()) == ["whole", "flat", "part", "label"]
    assert (found[found["measure"] == "flat"]["rejected"] == 0).all()
    assert set(found[found["measure"] == "part"]["layout"]) == {"3+2+1+1"}
    alone = calibration.of_measures(values[["label"]], families, simulations=40)
    assert alone.equals(found[found["measure"] == "label"].reset_index(drop=True))


def test_of_contrasts_says_how_often_the_interval_holds():
    found = calibration.of_contrasts(["3+2+1+1+1+1"], simulations=60)
    assert list(found) == calibration.CONTRASTED and len(found) == 2 * len(calibration.BETWEEN) * 2
    ours = found[found["interval"] == "both intervals"]
    assert ours["coverage"].min() >= 0.88 and ours["coverage"].between(0, 1).all()
    alike = ours[ours["rho"] == ours["rho_reference"]]
    assert alike["rejected"].max() <= 0.15
