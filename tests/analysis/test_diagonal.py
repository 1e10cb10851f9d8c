"""Adapters against full fine-tuning: a language's two numbers make one mark, and the band is the margin."""

import numpy as np
import pandas as pd

from peft_stilts.analysis import diagonal
from tests.analysis.studies import study_of
from tests.analysis.test_scatter import marks


def test_marks_are_pairs_of_the_same_language_and_cell():
    study = study_of(targets=("xquad", "xnli"))
    panel, = diagonal.draw(study).axes
    means = study.responses.means.set_index(["method", "target", "language"])["value"]
    expected = sorted(zip(means["full"], means["lora"].loc[means["full"].index]))
    assert np.allclose(marks(panel), expected)


def test_languages_that_one_side_lacks_and_excluded_ones_are_left_out():
    study = study_of()
    means = study.responses.means
    study.responses.means = means[~((means["method"] == "lora") & (means["language"] == "de"))]
    study.excluded = ("en", "fr")
    assert {"de", "fr"}.isdisjoint(diagonal.pairs(study)["language"])
    assert len(diagonal.pairs(study)) == len(means["language"].unique()) - len({"de", "fr"} & set(means["language"]))


def test_a_panel_for_every_adapter_configuration_and_setting():
    study = study_of(methods=("full", "lora", "dora"), intermediates=("a", "b"))
    assert [panel.get_title(loc="left") for panel in diagonal.draw(study).axes] == [
        "lora, after a", "lora, after b", "dora, after a", "dora, after b"]
    many = study_of(intermediates=tuple("abcd"))
    assert [panel.get_title(loc="left") for panel in diagonal.draw(many).axes] == [f"lora, {diagonal.ALL}"]
    means = study_of().responses.means
    other = means[means["method"] == "lora"].assign(method_config='{"lora": {"rank": 4}}')
    study = study_of()
    study.responses.means = pd.concat([means, other], ignore_index=True)
    assert len(diagonal.draw(study).axes) == 2


def test_the_band_is_the_margin():
    study = study_of(margin=2.5)
    panel, = diagonal.draw(study).axes
    corners = panel.collections[0].get_paths()[0].vertices
    assert np.isclose(np.abs(corners[:, 1] - corners[:, 0]).max(), 2.5)
    assert panel.get_xlim() == panel.get_ylim()


def test_one_method_has_no_diagonal():
    assert diagonal.draw(study_of(methods=("full",))) is None
    assert diagonal.draw(study_of(methods=("lora", "dora"))) is None
