"""The scatter of gains by similarity: the right languages at the right places, an honest band, labels apart."""

import numpy as np
import pytest
from scipy import stats

from peft_stilts.analysis import scatter
from tests.analysis.studies import CODES, study_of


def marks(panel):
    """(x, y) of every mark in a panel, sorted."""
    drawn = [line for line in panel.lines if line.get_linestyle() == "None"]
    return sorted((float(x), float(y)) for line in drawn for x, y in zip(line.get_xdata(), line.get_ydata()))


def test_every_language_is_a_mark_at_its_similarity_and_value_with_its_name():
    study = study_of(targets=("xquad", "xnli"))
    figure = scatter.draw(study, "full", "squad", "genetic")
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["xquad (F1)", "xnli (accuracy)"]
    means = study.responses.means
    for panel, target in zip(figure.axes, ("xquad", "xnli")):
        rows = means[(means["method"] == "full") & (means["target"] == target)]
        expected = sorted(zip(study.similarities.values.loc[rows["language"], "genetic"], rows["value"]))
        assert np.allclose(marks(panel), expected)
        assert {text.get_text() for text in panel.texts} >= set(rows["language"])


def test_languages_without_the_measure_are_left_out_and_none_is_no_figure():
    study = study_of()
    study.similarities.values.loc["de", "genetic"] = np.nan
    panel, = scatter.draw(study, "full", "squad", "genetic").axes
    assert len(marks(panel)) == 11 and "de" not in {text.get_text() for text in panel.texts}
    study.similarities.values["genetic"] = np.nan
    assert scatter.draw(study, "full", "squad", "genetic") is None


def test_no_verdict_no_band():
    for reliable in (True, False):
        panel, = scatter.draw(study_of(reliable=reliable), "full", "squad", "syntactic").axes
        assert bool(panel.collections) == reliable
        assert ("too few families" in " ".join(text.get_text() for text in panel.texts)) != reliable


def test_many_settings_are_one_figure_a_method_of_their_means():
    study = study_of(intermediates=("a", "b", "c", "d"))
    drawn = dict(scatter.figures(study))
    assert list(drawn) == [f"{method} {scatter.MEAN}" for method in ("full", "lora")]
    means = study.responses.means.query("method == 'full'").groupby("language", sort=False)["value"].mean()
    expected = sorted(zip(study.similarities.values.loc[means.index, "syntactic"], means))
    assert np.allclose(marks(drawn[f"full {scatter.MEAN}"].axes[0]), expected)
    few = dict(scatter.figures(study_of(intermediates=("a", "b"))))
    assert list(few) == ["full a", "full b", "lora a", "lora b"]


def test_a_dollar_in_a_name_is_a_dollar(tmp_path):
    figure = scatter.draw(study_of(targets=("$x_", "a_b$")), "full", "squad", "genetic")
    figure.savefig(tmp_path / "x.png")
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["$x_ (accuracy)", "a_b$ (accuracy)"]


def test_the_line_of_unrelated_languages_has_the_textbook_interval():
    random = np.random.default_rng(3)
    x, at = random.normal(size=14), np.linspace(-2, 2, 9)
    y = 1.5 * x + random.normal(size=14)
    found = scatter.line(x, y, [f"family {place}" for place in range(14)], at)
    fit = stats.linregress(x, y)
    middle = fit.intercept + fit.slope * at
    spread = np.sqrt(((y - fit.intercept - fit.slope * x)**2).sum() / 12)
    away = stats.t.ppf(0.975, 12) * spread * np.sqrt(1 / 14 + (at - x.mean())**2 / ((x - x.mean())**2).sum())
    assert np.allclose(found, (middle, middle - away, middle + away))


def test_the_line_of_related_languages_is_less_certain():
    random = np.random.default_rng(4)
    families = np.repeat(["a", "b", "c", "d"], 6)
    x = np.repeat(random.normal(size=4), 6) + 0.1 * random.normal(size=24)
    y = np.repeat(random.normal(size=4), 6) + 0.1 * random.normal(size=24)
    at = np.array([0.0, 1.0])
    alone = scatter.line(x, y, [str(place) for place in range(24)], at)
    together = scatter.line(x, y, families, at)
    assert np.allclose(alone[0], together[0])
    assert ((together[2] - together[1]) > 1.5 * (alone[2] - alone[1])).all()


@pytest.mark.parametrize("count, most", [(12, 0), (40, 0.12)])
def test_labels_hardly_lie_on_each_other(count, most):
    random = np.random.default_rng(count)
    texts, size, font = (CODES + ["zz"])[:count], (3.25, 2.75), 6.3
    x, y = random.uniform(0.3, size[0] - 0.3, count), random.uniform(0.3, size[1] - 0.3, count)
    centres = np.column_stack([x, y]) + scatter.places(x, y, texts, size, font)
    half = np.array([2 * scatter.LETTER[0], scatter.LETTER[1]]) * font / 72 / 2
    apart = np.abs(centres[:, None] - centres[None]) - 2 * half
    over = ((apart < -1e-9).all(axis=-1) & ~np.eye(count, dtype=bool)).any(axis=1)
    assert over.mean() <= most
    assert (centres - half > -1e-9).all() and (centres + half < np.array(size) + 1e-9).all()
