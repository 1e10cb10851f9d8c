"""The results table: columns, exact round trips, joining, pairing with baselines, means and spreads."""

import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_stilts import results
from peft_stilts.errors import DataError
from peft_stilts.results import RESULTS, STAGES, gains, read, summary, unpaired, validate, write

DESIGN = ("recipe, scale, base_model, base_revision, data_source, protocol, method, method_config, policy, "
          "intermediate, intermediate_variant, target, target_variant, language, split, metric, primary, seed, score, "
          "examples, stage_key")


def row(**changed):
    values = dict(
        recipe="squad", scale="mini", base_model="miniature", base_revision="abc", data_source="miniature",
        protocol="stilts", method="full", method_config='{"lr":0.001}', policy="fp32", intermediate="none",
        intermediate_variant="", target="xquad", target_variant="", language="en", split="validation", metric="f1",
        primary=True, seed=1, score=50.0, examples=100, stage_key="0011")
    return values | changed


def both(**changed):
    """A baseline of 50 and a score of 60 after SQuAD."""
    return [row(**changed), row(**({"score": 60.0, "stage_key": "s1"} | changed | {"intermediate": "squad"}))]


def test_columns_are_those_of_the_design():
    assert ", ".join(RESULTS.columns) == DESIGN
    assert ", ".join(STAGES.columns) == ("stage_key, parent_key, kind, trainable_parameters, bytes, tokens, seconds, "
                                         "peak_memory_bytes, device")
    frame = RESULTS.frame([row()])
    assert list(frame) == RESULTS.columns
    assert [frame[c].dtype.kind for c in ("primary", "seed", "score", "examples")] == ["b", "i", "f", "i"]
    assert len(RESULTS.frame()) == 0 and list(RESULTS.frame()) == RESULTS.columns


@settings(deadline=None, max_examples=25)
@given(score=st.floats(0, 100), seed=st.integers(0, 2**62), primary=st.booleans(),
       text=st.sampled_from(["", "NA", "null", "na", "1e5", "007", "None", "a,b", 'x"y', "öşü", " lead", "two\nlines"]))
def test_round_trip_is_exact(tmp_path_factory, score, seed, primary, text):
    folder = tmp_path_factory.mktemp("round trip")
    frame = RESULTS.frame([row(score=score, seed=seed, primary=primary, base_model=text)])
    write(frame, folder)
    pd.testing.assert_frame_equal(read(folder), frame)
    pd.testing.assert_frame_equal(read(folder / "results.parquet"), frame)
    assert sorted(p.name for p in folder.iterdir()) == ["results.csv", "results.parquet"]


def test_an_interrupted_write_keeps_the_old_table(tmp_path, monkeypatch):
    write(RESULTS.frame([row()]), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def cut(self, path, **_):
        path.write_text("recipe,sca")
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_parquet", cut)
    with pytest.raises(KeyboardInterrupt):
        write(RESULTS.frame([row(score=1.0)]), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_joining_keeps_identical_rows_once_and_refuses_other_scores(tmp_path):
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    write(RESULTS.frame([row(), row(language="de")]), a)
    write(RESULTS.frame([row(), row(language="fr"), row(language="de", stage_key="other")]), b)
    write(RESULTS.frame([row(score=51.5, stage_key="9999")]), c)
    assert read([a, b])["language"].tolist() == ["en", "de", "fr"]
    with pytest.raises(DataError) as caught:
        read([a, c])
    for part in ("50.0", "51.5", "stage 0011", "stage 9999", str(a), str(c), "language=en"):
        assert part in str(caught.value)


def test_stages_measured_twice_are_both_kept(tmp_path):
    stage = dict(stage_key="k", parent_key="", kind="train", trainable_parameters=10, bytes=4, tokens=5, seconds=1.5,
                 peak_memory_bytes=7, device="cpu")
    STAGES.write(STAGES.frame([stage]), tmp_path / "a")
    STAGES.write(STAGES.frame([stage, stage | {"seconds": 2.5}]), tmp_path / "b")
    assert STAGES.read([tmp_path / "a", tmp_path / "b"])["seconds"].tolist() == [1.5, 2.5]


@pytest.mark.parametrize("change, told", [
    ({"score": 100.5}, "0..100"), ({"score": float("nan")}, "score"), ({"seed": 1.5}, "seed"),
    ({"primary": "yes"}, "primary"), ({"language": None}, "language"), ({"extra": 1}, "unknown extra"),
])
def test_bad_values_are_named(change, told):
    with pytest.raises(DataError, match=told):
        validate(pd.DataFrame([row(**change)]))


@pytest.mark.parametrize("content", [b"", b"recipe,scale\nx", b"\xff\xfe\x00garbage", b"PAR1"])
@pytest.mark.parametrize("name", ["results.csv", "results.parquet"])
def test_broken_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read(tmp_path)


def test_absent_table_is_named(tmp_path):
    with pytest.raises(DataError, match="no results table at"):
        read([tmp_path])


def test_tables_of_older_versions_stay_readable(tmp_path):
    newer = results.Table("results", RESULTS.dtypes | {"adapter": "str"}, RESULTS.measured, {"adapter": "none"})
    write(RESULTS.frame([row()]), tmp_path)
    assert newer.read(tmp_path)["adapter"].tolist() == ["none"]
    newer.write(newer.frame([row() | {"adapter": "lora"}]), tmp_path)
    with pytest.raises(DataError, match="unknown adapter.*newer version"):
        read(tmp_path)


def test_gains_pair_within_everything_but_the_intermediate_task():
    rows = [r for m in ("full", "lora") for s in (1, 2) for r in both(method=m, seed=s)]
    rows += [row(recipe="none")]                                        # the same baseline, as another recipe stored it
    told = gains(RESULTS.frame(rows))
    assert len(told) == 4 and told["gain"].eq(10).all() and told["baseline"].eq(50).all()
    assert told["baseline_key"].eq("0011").all() and told["stage_key"].eq("s1").all()
    assert set(told) == {*RESULTS.columns, "baseline", "baseline_key", "gain"}


@pytest.mark.parametrize("column, value", [
    ("scale", "large"), ("method", "lora"), ("seed", 2), ("policy", "bf16"), ("examples", 99),
    ("metric", "exact_match"), ("base_revision", "def"), ("protocol", "xtreme"), ("method_config", "{}"),
    ("target_variant", "x"), ("data_source", "hub")])
def test_rows_that_differ_in_anything_else_never_pair(column, value):
    frame = RESULTS.frame([row(), row(intermediate="squad", stage_key="s1", **{column: value})])
    assert len(gains(frame)) == 0
    assert unpaired(frame)[column].tolist() == [value]
    told = summary(frame)
    assert told["gain"].isna().all() and len(told) in (2, 4)


def test_two_scores_of_one_thing_are_refused():
    with pytest.raises(DataError, match="61.0"):
        gains(RESULTS.frame([*both(), row(intermediate="squad", score=61.0)]))
    with pytest.raises(DataError, match="baseline.*50.0"):
        gains(RESULTS.frame([*both(), row(score=51.0, intermediate_variant="x")]))


def test_summary_means_spreads_and_the_average_over_languages():
    rng = np.random.default_rng(0)
    rows, table = [], {}
    for seed in (1, 2, 3):
        for language in ("en", "de", "fr"):
            b, s = rng.uniform(0, 100, 2)
            table[seed, language] = (b, s)
            rows += [row(seed=seed, language=language, score=b),
                     row(seed=seed, language=language, score=s, intermediate="squad"),
                     row(seed=seed, language=language, score=3.0, metric="exact_match", primary=False)]
    told = summary(RESULTS.frame(rows)).set_index("language")
    assert told.index.tolist() == ["en", "de", "fr", "avg"] and told["seeds"].eq(3).all()
    for language in ("en", "de", "fr"):
        gain = [table[seed, language][1] - table[seed, language][0] for seed in (1, 2, 3)]
        assert told.loc[language, "gain"] == pytest.approx(np.mean(gain))
        assert told.loc[language, "gain_sd"] == pytest.approx(np.std(gain, ddof=1))
    average = [np.mean([table[seed, lang][1] for lang in ("en", "de", "fr")]) for seed in (1, 2, 3)]
    assert told.loc["avg", "score"] == pytest.approx(np.mean(average))
    assert told.loc["avg", "score_sd"] == pytest.approx(np.std(average, ddof=1))


def test_summary_of_one_seed_a_lone_baseline_and_an_unfinished_seed():
    told = summary(RESULTS.frame([row(target="mlqa"), *both(), *both(seed=2), *both(language="de")]))
    lone = told[told["target"] == "mlqa"]
    assert lone["intermediate"].eq("none").all() and lone["baseline"].eq(50).all() and lone["score"].isna().all()
    average = told[(told["target"] == "xquad") & (told["language"] == "avg")].iloc[0]
    assert average["seeds"] == 1 and np.isnan(average["gain_sd"])       # seed 2 lacks German: it is not averaged
    assert len(summary(RESULTS.frame())) == 0


def test_order_of_files_in_a_folder(tmp_path):
    """CSV is written last, so it is read first: after a crash between the two it is not newer than the Parquet."""
    write(RESULTS.frame([row()]), tmp_path)
    assert os.stat(tmp_path / "results.csv").st_mtime_ns >= os.stat(tmp_path / "results.parquet").st_mtime_ns
    (tmp_path / "results.csv").unlink()
    assert len(read(tmp_path)) == 1
