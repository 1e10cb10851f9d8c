"""The forest plot and the heat map of rank correlations: every estimate at its place, no verdict without families."""

import math

import numpy as np
import pytest

from peft_stilts.analysis import estimates, forest, words
from tests.analysis.studies import MEASURES, study_of


def drawn(figure):
    """(estimates, (low, high)) of everything in the panels of a forest plot, sorted."""
    marks = [float(x) for panel in figure.axes for line in panel.lines if line.get_linestyle() == "None"
             for x in line.get_xdata()]
    ends = [tuple(path.vertices[:, 0]) for panel in figure.axes for some in panel.collections
            for path in some.get_paths()]
    return sorted(marks), sorted(ends)


@pytest.mark.parametrize("targets, panels", [(("xquad",), 1), (("xquad", "xnli", "mlqa", "tydiqa"), 9)])
def test_every_rank_correlation_is_drawn_with_its_interval(targets, panels):
    study = study_of(targets=targets, measures=MEASURES)
    figure = forest.draw(study)
    rows = study.correlations.query("coefficient == 'spearman'")
    marks, ends = drawn(figure)
    assert len(figure.axes) == panels
    assert np.allclose(marks, sorted(rows["estimate"]))
    assert np.allclose(ends, sorted(zip(rows["ci_low"], rows["ci_high"])))


def test_one_cell_is_a_row_a_measure():
    figure = forest.draw(study_of(methods=("full",), measures=MEASURES))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == list(MEASURES)


def test_full_marks_pass_and_too_few_families_are_grey():
    study = study_of(methods=("full",), measures=("syntactic", "genetic"))
    study.correlations["q_bh"] = np.where(study.correlations["measure"] == "syntactic", 0.01, 0.5)
    faces = {line.get_markerfacecolor() for line in forest.draw(study).axes[0].lines if len(line.get_xdata())
             and line.get_linestyle() == "None"}
    assert faces == {"#0072B2", "white"}
    study.correlations["reliable"] = False
    faces = {line.get_markerfacecolor() for line in forest.draw(study).axes[0].lines if len(line.get_xdata())
             and line.get_linestyle() == "None"}
    assert faces == {"white"}


def test_no_estimate_no_figure():
    study = study_of()
    study.correlations["estimate"] = math.nan
    assert forest.draw(study) is None and estimates.draw(study) is None


def texts(figure):
    return [[text.get_text() for text in panel.texts] for panel in figure.axes]


def test_heat_map_has_every_setting_by_every_target_of_the_headline_measure():
    study = study_of(targets=("xquad", "xnli"), intermediates=tuple("abcd"))
    figure = estimates.draw(study)
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["full", "lora"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [f"after {name}" for name in "abcd"]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["xquad", "xnli"]
    rows = study.correlations.query("coefficient == 'spearman' and measure == 'syntactic' and method == 'full'")
    expected = sorted(words.number(row.estimate, sign=True) + "*" * (row.q_bh < 0.05) for row in rows.itertuples())
    assert sorted(texts(figure)[0]) == expected


def test_heat_map_of_few_settings_has_every_measure_and_greys_what_has_no_verdict():
    study = study_of(methods=("full",))
    figure = estimates.draw(study)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == list(MEASURES[:3])
    assert not figure.axes[0].patches
    study.correlations["reliable"] = False
    figure = estimates.draw(study)
    assert len(figure.axes[0].patches) == 3 and not any("*" in text for text in texts(figure)[0])
