"""Responses: pairing, metrics and scales of any table, and every kind of bad input named."""

import numpy as np
import pandas as pd
import pytest

from peft_stilts import results
from peft_stilts.analysis.responses import CELL, read, responses, tidy
from peft_stilts.errors import DataError, UsageError
from tests.analysis.frames import frame_of

CODES = ("en", "de", "fr", "ru", "zh")


def table(**options):
    return frame_of(lambda row: 10.0 * row["seed"] + CODES.index(row["language"]), languages=CODES, **options)


def others(**columns):
    """A CSV of others: gains of two intermediate settings on one target."""
    rows = [{"intermediate": name, "target": "xnli", "language": code, "score": 50.0 + (name == "mnli") * place}
            for name in ("none", "mnli") for place, code in enumerate(CODES)]
    return pd.DataFrame(rows).assign(**columns)


def written(tmp_path, frame, name="a.csv"):
    frame.to_csv(tmp_path / name, index=False)
    return tmp_path / name


def test_gains_of_our_table_over_seeds(tmp_path):
    results.write(table(seeds=(1, 2), targets=("xnli", "xquad")), tmp_path)
    told = responses(*read([tmp_path])[:1])
    assert len(told.means) == 2 * 4 and set(told.means["language"]) == set(CODES) - {"en"}
    row = told.means.query("target == 'xnli' and language == 'fr'").iloc[0]
    assert (row["value"], row["median"], row["seeds"]) == (17.0, 17.0, 2)
    assert row["sd"] == pytest.approx(np.sqrt(50))
    assert (row["baseline"], row["headroom"]) == (40.0, 60.0)
    assert told.miniature and "not XLM-R" in told.heading
    assert {*results.PAIR, "intermediate", "baseline", "score", "gain", "headroom"} <= set(told.pairs)
    assert set(told.keys) == {*CELL, "language", "seed", "stage_key"}


def test_a_table_of_others_gives_the_gains(tmp_path):
    told = responses(read([written(tmp_path, others())])[0])
    assert dict(zip(told.means["language"], told.means["value"])) == {"de": 1, "fr": 2, "ru": 3, "zh": 4}
    assert not told.miniature and told.heading == ""


def test_scores_alone(tmp_path):
    frame = others().query("intermediate == 'mnli'").drop(columns="intermediate")
    told = responses(read([written(tmp_path, frame)])[0], "score")
    assert dict(zip(told.means["language"], told.means["value"]))["zh"] == 54
    assert told.means["baseline"].isna().all()
    with pytest.raises(UsageError, match="--response score"):
        responses(read([written(tmp_path, frame)])[0])


def test_order_of_rows_and_the_same_file_twice_change_nothing(tmp_path):
    frame = others()
    first = responses(read([written(tmp_path, frame)])[0])
    path = written(tmp_path, frame.sample(frac=1, random_state=3)[frame.columns[::-1]], "b.csv")
    for paths in ([path], [path, path], [tmp_path / "a.csv", path]):
        again = responses(read(paths)[0])
        pd.testing.assert_frame_equal(again.means, first.means)
        pd.testing.assert_frame_equal(again.seeds, first.seeds)


@pytest.mark.parametrize(("change", "says"), [
    (lambda frame: frame.rename(columns={"language": "lang"}), "no column 'language'"),
    (lambda frame: frame.rename(columns={"intermediate": "intermedate"}), "Did you mean 'intermediate'"),
    (lambda frame: frame.assign(sed=1), "Did you mean 'seed'"),
    (lambda frame: frame.assign(score=frame["score"].where(frame["language"] != "fr")), "missing or no finite"),
    (lambda frame: frame.assign(score="inf"), "missing or no finite"),
    (lambda frame: frame.assign(score="much"), "missing or no finite"),
    (lambda frame: frame.assign(score=frame["score"] + 60), "outside 0 to 100"),
    (lambda frame: frame.assign(score=frame["score"] / 100), "multiply them by 100"),
    (lambda frame: frame.assign(language=["", *frame["language"][1:]]), "no language"),
    (lambda frame: frame.assign(seed=["", *["1"] * (len(frame) - 1)]), "no seed"),
    (lambda frame: frame.assign(seed="one"), "must be int"),
    (lambda frame: frame.iloc[:0], "no rows"),
    (lambda frame: frame.assign(intermediate="mnli").drop_duplicates(["target", "language"]),
     "no score has a baseline"),
    (lambda frame: pd.concat([frame, frame.assign(score=frame["score"] + 1)]), "measured twice"),
])
def test_bad_tables_are_refused(tmp_path, change, says):
    with pytest.raises((DataError, UsageError), match=says):
        responses(read([written(tmp_path, change(others()))])[0])


def test_files_that_are_none(tmp_path):
    with pytest.raises(UsageError, match="is not there"):
        read([tmp_path / "none.csv"])
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="is empty"):
        read([tmp_path / "empty.csv"])
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00\x81" * 20)
    with pytest.raises(DataError, match="cannot be read|no column"):
        read([tmp_path / "bytes.csv"])
    with pytest.raises(DataError, match="no results table"):
        read([tmp_path])


def test_metrics_are_never_mixed():
    both = pd.concat([others(metric="f1"), others(metric="exact_match").assign(score=lambda rows: rows["score"] - 9)])
    with pytest.raises(UsageError, match="several metrics .*exact_match, f1.* name a --metric"):
        responses(tidy(both))
    assert set(responses(tidy(both), metric="f1").means["metric"]) == {"f1"}
    with pytest.raises(UsageError, match="no row has the metric 'f2'"):
        responses(tidy(both), metric="f2")
    marked = responses(tidy(both.assign(primary=both["metric"] == "exact_match")))
    assert set(marked.means["metric"]) == {"exact_match"}
    with pytest.raises(UsageError, match="more than one is marked primary"):
        responses(tidy(both.assign(primary=True)))
    with pytest.raises(UsageError, match="marked primary: name a --metric"):
        responses(tidy(others(metric="f1")), metric="primary")


def test_scales_are_never_mixed_but_chosen():
    both = pd.concat([others(scale="large"), others(scale="base")])
    with pytest.raises(UsageError, match="never mixed .*--only scale=base"):
        responses(tidy(both))
    assert len(responses(tidy(both, {"scale": "base"})).means) == 4
    with pytest.raises(UsageError, match="no column 'scael'. Did you mean 'scale'"):
        tidy(both, {"scael": "base"})
    with pytest.raises(UsageError, match="that value is not there; there are 'base', 'large'"):
        tidy(both, {"scale": "xl"})


def test_unpaired_and_uneven_seeds_are_told():
    frame = table(seeds=(1, 2, 3))
    lacking = frame[~((frame["seed"] == 3) & (frame["intermediate"] == "none"))]
    told = responses(lacking)
    assert any("5 scores have no baseline" in note for note in told.notes)
    assert (told.means["seeds"] == 2).all()
    uneven = frame[~((frame["seed"] == 3) & (frame["language"] == "de"))]
    assert any("2 to 3 seeds" in note for note in responses(uneven).notes)


def test_variants_are_cells_of_their_own():
    told = responses(table(variants=("", "translated de"), readings=("", "layer 7"), targets=("tatoeba",)))
    assert set(told.means["intermediate"]) == {"squad", "squad translated de"}
    assert set(told.means["target"]) == {"tatoeba", "tatoeba layer 7"}


def test_all_languages_left_out():
    with pytest.raises(UsageError, match="nothing is left"):
        responses(table(), exclude=CODES)
