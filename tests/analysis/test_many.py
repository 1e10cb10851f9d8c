"""Many intermediate tasks, variants and layers: the table stays short, the picture is a heat map, all is named."""

import re

import numpy as np
import pytest

from peft_stilts.analysis import figure, labels
from peft_stilts.analysis.table import render
from peft_stilts.tasks import INTERMEDIATE, TARGETS, TASKS
from tests.analysis.frames import frame_of

EVERY = (*INTERMEDIATE, "all")


def points(row):
    return EVERY.index(row["intermediate"]) + TARGETS.index(row["target"]) / 10 + row["seed"] / 100


def test_the_overview_has_every_setting_by_every_target_and_the_mean():
    text = render(frame_of(points, EVERY, TARGETS, ("full", "lora"), (1, 2, 3)), 120)
    last = text[text.index("Mean gain over languages"):]
    assert max(map(len, text.splitlines())) <= 120
    lines = {line.replace("full", "").replace("lora", "").split()[0]: line for line in last.splitlines()
             if re.match(r"(full|lora)? *\+", line)}
    assert set(lines) == {f"+{name}" for name in EVERY}
    numbers = re.findall(r"\+\d+\.\d(?=±)", lines["+all"])
    assert numbers == ["+9.4", *(f"+{9 + place / 10:.1f}" for place in range(9))]       # 9.4: the mean of 9.0 to 9.8
    assert re.search(r"mean +xnli +pawsx +udpos +panx +xquad +mlqa +tydiqa +bucc2018 +tatoeba", last)


def test_many_settings_are_told_by_their_gains_and_few_with_their_scores():
    few = render(frame_of(points, EVERY[:3], TARGETS[:2]), 100)
    assert "+mnli" in few and " gain " in few and "gain +mnli" not in few and "Mean gain" in few
    many = render(frame_of(points, EVERY[:4], TARGETS[:2]), 100)
    assert "gain +mnli" in many and "none" in many
    assert "Mean gain" not in render(frame_of(points, EVERY[:1], TARGETS), 100)         # the old look for one
    assert "Mean gain" not in render(frame_of(points, EVERY[:2], TARGETS[:1]), 100)     # its avg column says it


def test_variants_are_named_and_long_lists_of_languages_counted():
    codes = TASKS["panx"].languages
    variants = ("", "mlm 0.2 de,en", f"mlm 0.2 {','.join(codes)}", "translated de")
    frame = frame_of(lambda row: 1.0, ("squad",), ("xnli",), variants=variants)
    names = [name for name, _ in labels.intermediates(frame)]
    assert names == ["none", "squad", "squad mlm 0.2 de,en", "squad mlm 0.2 40 languages", "squad translated de"]
    assert all(f"gain +{name}" in render(frame, 120) for name in names[1:])
    other = ",".join(reversed(codes))
    frame = frame_of(lambda row: 1.0, variants=(f"mlm 0.2 {','.join(codes)}", f"mlm 0.2 {other}"))
    assert [name for name, _ in labels.intermediates(frame)][1:] == [
        f"squad mlm 0.2 {','.join(codes)}", f"squad mlm 0.2 {other}"]                   # never two of one name
    assert max(map(len, render(frame, 60).splitlines())) <= 60


def test_the_gold_only_mining_task_is_marked_not_comparable():
    text = render(frame_of(lambda row: 1.0, targets=("bucc_gold",)), 120)
    assert "bucc_gold, not comparable (F1)" in text and "not comparable with XTREME's bucc2018" in text
    assert "not comparable" not in render(frame_of(lambda row: 1.0, targets=("bucc2018",)), 120)
    title = figure.draw(frame_of(lambda row: 1.0, targets=("bucc_gold",))).axes[0].get_title()
    assert "not comparable" in title.replace("\n", " ")


def test_layers_are_one_small_table_of_means():
    readings = ("layer 0", "layer 1", "", "layer 3")
    gains = {"layer 0": 1.0, "layer 1": 2.0, "": 5.0, "layer 3": 7.0}
    frame = frame_of(lambda row: gains[row["target_variant"]], targets=("tatoeba",), methods=("full", "lora"),
                     readings=readings)
    text = render(frame, 100)
    assert text.count("tatoeba (accuracy)\n") == 1 and text.count("by layer, mean over languages") == 1
    small = text[text.index("by layer"):text.index("none: no")]
    rows = [line.split() for line in small.splitlines()[1:]]
    assert rows[0] == ["usual", "0", "1", "3"]
    assert [row for row in rows if "none" in row] == [["none", "40.0", "40.0", "40.0", "40.0"]]
    assert [row for row in rows if "+squad" in row] == [
        [method, "+squad", "45.0", "41.0", "42.0", "47.0"] for method in ("full", "lora")]
    alone = render(frame[frame["target_variant"] == "layer 3"], 100)
    assert "tatoeba layer 3 (accuracy)" in alone and "by layer" not in alone


@pytest.mark.parametrize("variant, found", [
    ("", (None, "")), ("layer 7", (7, "")), ("layer 7 cls", (7, "cls")), ("layer 7 cls centred", (7, "cls centred")),
    ("centred", (None, "centred")), ("head of the intermediate stage", None)])
def test_how_retrieval_read_the_encoder(variant, found):
    assert labels.reading(variant) == found


def test_many_settings_are_drawn_as_a_heat_map_of_the_means(tmp_path):
    frame = frame_of(points, EVERY, TARGETS, ("full", "lora"), (1, 2))
    drawn = figure.draw(frame)
    panels = [axes for axes in drawn.axes if axes.images and axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in panels] == ["full", "lora"]
    values = np.asarray(panels[0].images[0].get_array())
    assert values.shape == (10, 10)
    assert np.allclose(values[:, 1:], [[row + column / 10 + 0.015 for column in range(9)] for row in range(10)])
    assert np.allclose(values[:, 0], values[:, 1:].mean(axis=1))
    assert [tick.get_text() for tick in panels[0].get_yticklabels()] == [f"+{name}" for name in EVERY]
    assert [tick.get_text() for tick in panels[0].get_xticklabels()] == ["mean", *TARGETS]
    assert "miniature world - not XLM-R" in drawn.get_suptitle() and "2 seeds" in drawn.get_suptitle()
    path = tmp_path / "gains.png"
    assert figure.write(frame, path) and (first := path.read_bytes()).startswith(b"\x89PNG")
    assert figure.write(frame, path) and path.read_bytes() == first


def test_a_cell_that_was_not_scored_is_empty_in_the_heat_map():
    frame = frame_of(points, EVERY[:4], TARGETS[:2])
    drawn = figure.draw(frame[~((frame["intermediate"] == "qqp") & (frame["target"] == "pawsx"))])
    values = drawn.axes[0].images[0].get_array()
    assert values.mask[2].tolist() == [True, False, True] and values.mask.sum() == 2    # its mean and the cell


def test_pictures_leave_other_layers_out():
    frame = frame_of(lambda row: 1.0, targets=("tatoeba",), readings=("", "layer 0", "layer 1"))
    drawn = figure.draw(frame)
    assert [axes.get_title() for axes in drawn.axes] == ["tatoeba (accuracy)"]
