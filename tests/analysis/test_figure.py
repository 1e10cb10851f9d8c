"""The picture of gains: one panel a target and intermediate task, every language a line, every seed a dot."""

import numpy as np
import pandas as pd
import pytest

from peft_stilts.analysis import figure
from peft_stilts.results import RESULTS, gains, summary
from tests.analysis.test_table import scores


def panels(drawn):
    return [[axes for axes in drawn.axes if axes.get_subplotspec().rowspan.start == row]
            for row in sorted({axes.get_subplotspec().rowspan.start for axes in drawn.axes})]


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)])
def test_marks_are_the_means_and_the_seeds(seeds):
    frame = scores(seeds, targets=("xquad",), methods=("full",))
    (panel,), = panels(figure.draw(frame))
    assert [tick.get_text() for tick in panel.get_yticklabels()][:3] == ["en", "qa", "qb"]
    shown = {line.get_marker(): np.sort(line.get_xdata()) for line in panel.lines if len(line.get_xdata()) > 2}
    means = summary(frame)
    assert np.allclose(shown["o"], np.sort(means["gain"]))
    assert ("." in shown) == (len(seeds) > 1)
    if len(seeds) > 1:
        each = gains(frame)
        expected = [*each["gain"], *each.groupby("seed")["gain"].mean()]
        assert np.allclose(shown["."], np.sort(expected))


def test_grid_is_intermediate_tasks_by_targets_and_the_titles_say_what_it_is():
    drawn = figure.draw(scores(intermediates=("none", "squad", "mnli")))
    grid = panels(drawn)
    assert [[panel.get_title() for panel in row] for row in grid] == [["xquad (F1)", "tatoeba (accuracy)"], ["", ""]]
    assert [row[0].get_ylabel() for row in grid] == ["after squad", "after mnli"]
    assert "miniature world - not XLM-R" in drawn.get_suptitle() and "1 seed" in drawn.get_suptitle()
    both = figure.draw(pd.concat([scores(), scores((1, 2), scale="large", base_model="x/large")]))
    assert [row[0].get_ylabel() for row in panels(both)] == [
        "after squad\nminiature world - not XLM-R\nscale mini", "after squad\nscale large\nlarge"]


def test_order_and_languages_a_target_lacks():
    frame = pd.concat([scores(targets=("xquad",), languages=("en", "de")),
                       scores(targets=("tatoeba",), languages=("fr", "de"))])
    (first, _), = panels(figure.draw(frame, order=["fr", "en", "de"]))
    assert [tick.get_text() for tick in first.get_yticklabels()] == ["fr", "en", "de", "avg"]


def test_file_is_written_whole_and_again(tmp_path):
    path = tmp_path / "new folder" / "gains.png"
    assert figure.write(scores(), path)
    first = path.read_bytes()
    assert first.startswith(b"\x89PNG") and [p.name for p in path.parent.iterdir()] == ["gains.png"]
    assert figure.write(scores(), path) and path.read_bytes() == first          # the same table, the same bytes
    assert not figure.write(scores(intermediates=("none",)), tmp_path / "none.png")
    assert not figure.write(RESULTS.frame(), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
