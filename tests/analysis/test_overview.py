"""Gains averaged over languages and targets: which seeds, languages and targets count."""

import pandas as pd
import pytest

from peft_stilts.analysis import overview
from tests.analysis.frames import frame_of


def by_language(row):
    return {"en": 1.0, "de": 4.0}[row["language"]] + row["seed"] + (10 if row["target"] == "tatoeba" else 0)


def test_averages_are_over_languages_of_each_target_and_seed():
    cells = overview.averages(frame_of(by_language, targets=("xnli", "tatoeba"), seeds=(1, 2)))
    assert cells.set_index(["target", "seed"])["gain"].to_dict() == {
        ("xnli (accuracy)", 1): 3.5, ("xnli (accuracy)", 2): 4.5,
        ("tatoeba (accuracy)", 1): 13.5, ("tatoeba (accuracy)", 2): 14.5}
    told = overview.matrix(cells).set_index("target")
    assert told.loc[overview.MEAN, "gain"] == 9.0 and told.loc[overview.MEAN, "seeds"] == 2
    assert told.loc[overview.MEAN, "gain_sd"] == pytest.approx(0.5 ** 0.5)
    assert overview.columns(told.reset_index()) == {
        overview.MEAN: "mean", "xnli (accuracy)": "xnli", "tatoeba (accuracy)": "tatoeba"}


def test_a_seed_without_all_languages_does_not_count():
    frame = frame_of(by_language, seeds=(1, 2))
    cells = overview.averages(frame[~((frame["seed"] == 2) & (frame["language"] == "de"))])
    assert list(cells["seed"]) == [1]


def test_a_setting_without_all_targets_has_no_mean():
    frame = frame_of(by_language, ("squad", "mnli"), targets=("xnli", "tatoeba"))
    told = overview.matrix(overview.averages(frame[~((frame["intermediate"] == "mnli")
                                                     & (frame["target"] == "tatoeba"))]))
    assert set(told[told["target"] == overview.MEAN]["intermediate"]) == {"squad"}


def test_what_is_not_comparable_is_in_no_mean():
    frame = frame_of(lambda row: 50.0 if row["target"] == "bucc_gold" else 2.0,
                     targets=("xnli", "tatoeba", "bucc_gold"))
    cells = overview.averages(frame)
    assert list(overview.over_targets(cells)["gain"]) == [2.0] and list(overview.over_targets(cells)["targets"]) == [2]
    assert "bucc_gold*" in overview.columns(overview.matrix(cells)).values()


def test_other_layers_are_left_out_and_a_single_other_layer_is_not():
    readings = ("", "layer 1", "layer 2")
    frame = frame_of(lambda row: {"": 1.0, "layer 1": 5.0, "layer 2": 9.0}[row["target_variant"]],
                     targets=("tatoeba",), readings=readings)
    assert list(overview.averages(frame)["gain"]) == [1.0]
    alone = overview.averages(frame[frame["target_variant"] == "layer 2"])
    assert list(alone["gain"]) == [9.0] and list(alone["target"]) == ["tatoeba layer 2 (accuracy)"]


def test_nothing_gives_nothing():
    frame = frame_of(by_language)
    cells = overview.averages(frame[frame["intermediate"] == "none"])
    assert len(cells) == 0 and len(overview.matrix(cells)) == 0 and len(overview.over_targets(cells)) == 0
    assert isinstance(overview.matrix(cells), pd.DataFrame)
