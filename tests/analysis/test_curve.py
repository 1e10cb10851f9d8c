"""The curve of scores by layer: one line a setting, means and languages, and where there is nothing to draw."""

import numpy as np
import pandas as pd

from peft_stilts.analysis import curve
from tests.analysis.frames import frame_of

READINGS = ("layer 0", "layer 1", "layer 2", "", "layer 4")
LAYER = dict(zip(READINGS, range(5)))


def deeper(row):
    return 2.0 * LAYER[row["target_variant"]] + (1.0 if row["language"] == "de" else 0.0)


def retrieval(**arguments):
    return frame_of(deeper, **dict(targets=("tatoeba",), methods=("full", "lora"), readings=READINGS) | arguments)


def test_the_usual_layer_stands_at_its_place_and_the_base_encoder_is_one_line():
    told = curve.curves(retrieval(), 3)
    assert set(map(tuple, told[["intermediate", "method"]].drop_duplicates().to_numpy())) == {
        (curve.BASE, ""), ("squad", "full"), ("squad", "lora")}
    after = told[(told["method"] == "full") & (told["language"] == "avg")].sort_values("layer")
    assert list(after["layer"]) == [0, 1, 2, 3, 4] and np.allclose(after["score"], [40.5, 42.5, 44.5, 46.5, 48.5])
    assert set(told[told["intermediate"] == curve.BASE]["score"]) == {40.0}
    assert list(curve.curves(retrieval(), None)["layer"].drop_duplicates().sort_values()) == [0, 1, 2, 4]


def test_bold_lines_are_the_means_and_thin_ones_the_languages():
    (panel,) = curve.draw(retrieval(methods=("full",), seeds=(1, 2)), 3).axes
    bold = [line for line in panel.lines if line.get_linewidth() > 2]
    thin = [line for line in panel.lines if line.get_linewidth() < 0.6]
    assert len(bold) == 2 and len(thin) == 4
    assert np.allclose(bold[1].get_ydata(), [40.5, 42.5, 44.5, 46.5, 48.5])
    assert panel.get_title() == "tatoeba (accuracy)"
    assert [line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == ":"] == [3]


def test_panels_are_targets_and_ways_of_reading_and_rows_are_scales():
    centred = tuple(f"{reading} centred".strip() for reading in READINGS)
    frame = pd.concat([retrieval(), retrieval(targets=("bucc2018",)), retrieval(scale="large", base_model="x/large"),
                       frame_of(lambda row: 1.0, targets=("tatoeba",), readings=centred)])
    drawn = curve.draw(frame, 3)
    titles = [axes.get_title() for axes in drawn.axes]
    assert titles[:3] == ["tatoeba (accuracy)", "bucc2018 (F1)", "tatoeba centred (accuracy)"] and len(titles) == 6
    assert "several scales" in drawn.get_suptitle()


def test_file_is_written_only_when_there_are_several_layers(tmp_path):
    path = tmp_path / "new" / "layers.png"
    assert curve.write(retrieval(), path, 3) and path.read_bytes().startswith(b"\x89PNG")
    for nothing in (retrieval(readings=("",)), retrieval(readings=("layer 2",)), retrieval().iloc[:0],
                    frame_of(lambda row: 1.0, targets=("xnli",))):
        assert not curve.write(nothing, tmp_path / "none.png", 3)
    assert not (tmp_path / "none.png").exists()


def test_a_baseline_alone_has_its_curve():
    frame = retrieval()
    told = curve.curves(frame[frame["intermediate"] == "none"], 3)
    assert set(told["intermediate"]) == {curve.BASE} and set(told["layer"]) == {0, 1, 2, 3, 4}
