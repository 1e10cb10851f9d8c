"""Running a plan: the tables of the design, every item predicted once, nothing done twice, corruption said."""

import dataclasses
import json
import shutil

import pandas as pd
import pytest
from safetensors.torch import load_file

from peft_stilts import results
from peft_stilts.errors import DataError, StoreError
from peft_stilts.evaluate.items import PARALLEL, items_file, read_items
from peft_stilts.grid import loader
from peft_stilts.grid import run as module
from peft_stilts.grid.run import Runner, run, score_rows
from peft_stilts.grid.show import begin, finish, todo
from peft_stilts.store import Store

RESULTS = ("recipe scale base_model base_revision data_source protocol method method_config policy intermediate "
           "intermediate_variant target target_variant language split metric primary seed score examples stage_key")
STAGES = "stage_key parent_key kind trainable_parameters bytes tokens seconds peak_memory_bytes device"


@pytest.fixture
def again(workshop, copied):
    """The plan of a finished run over a copy of its folder."""

    def make(made, **changed):
        plan = dataclasses.replace(made.plan, request=dataclasses.replace(
            made.plan.request, runs=copied(made.runs), **changed))
        return plan, plan.request.runs

    return make


def artefacts(runs):
    """Every file below stages/ with what would change if it were written again."""
    return {path.relative_to(runs): (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in (runs / "stages").rglob("*") if path.is_file()}


def scores(runs):
    frame = pd.read_csv(runs / "results.csv", keep_default_na=False)
    return frame.sort_values(list(frame.columns), ignore_index=True)


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*args, **options):
        pytest.fail("something was trained")

    monkeypatch.setattr(module, "train", refuse)


def test_the_tables_have_exactly_the_columns_of_the_design(finished):
    for name, columns in (("results", RESULTS), ("stages", STAGES)):
        table = pd.read_csv(finished.runs / f"{name}.csv", keep_default_na=False)
        assert list(table) == columns.split()
        pd.testing.assert_frame_equal(pd.read_parquet(finished.runs / f"{name}.parquet"), table, check_dtype=False)


def test_there_is_one_row_for_every_score(finished):
    frame = results.read(finished.runs)
    cells = {"xquad": ("en", "qa", "qb"), "mlqa": ("en", "qa"), "tydiqa": ("en", "qb"), "tatoeba": ("qa", "qb")}
    expected = {(method, intermediate, target, language, metric) for method in ("full", "lora")
                for intermediate in ("none", "squad") for target, languages in cells.items() for language in languages
                for metric in (("accuracy",) if target == "tatoeba" else ("exact_match", "f1"))}
    told = frame[["method", "intermediate", "target", "language", "metric"]].apply(tuple, axis=1)
    assert len(frame) == len(expected) and set(told) == expected
    assert frame["examples"].eq(5).all() and frame["seed"].eq(1).all() and frame["data_source"].eq("miniature").all()
    assert frame["scale"].eq(finished.plan.base.scale).all() and frame["protocol"].eq("jiant").all()
    assert set(frame[frame["primary"]]["metric"]) == {"f1", "accuracy"}
    assert (frame["recipe"] == frame["intermediate"]).all(), "the recipe's name is its intermediate task here"
    assert frame[["method", "policy"]].drop_duplicates().apply(tuple, axis=1).tolist() == [
        ("full", "continue"), ("lora", "stack")]


def test_every_stage_stands_once_in_the_table_of_costs(finished):
    frame = results.STAGES.read(finished.runs).set_index("stage_key")
    assert sorted(frame.index) == sorted(finished.plan.stages)
    for key, stage in finished.plan.stages.items():
        row = frame.loc[key]
        assert row["kind"] == stage.kind and row["parent_key"] == (stage.parent.key if stage.parent else "")
        assert row["tokens"] > 0 and row["seconds"] > 0 and row["bytes"] > 0 and row["peak_memory_bytes"] > 1e6
        assert (row["trainable_parameters"] > 0) == (stage.kind == "train") and row["device"].startswith("cpu")
    trained = frame[frame["kind"] == "train"]
    methods = {key: stage.method for key, stage in finished.plan.stages.items() if stage.kind == "train"}
    by_method = trained.groupby(trained.index.map(methods))["trainable_parameters"]
    assert by_method.max()["lora"] < by_method.min()["full"] / 5


def test_every_item_has_exactly_one_prediction(finished):
    store = Store(finished.runs)
    for stage in (cell.stage for cell in finished.plan.cells):
        folder = store.open(stage.key) / "predictions" / stage.task.name
        suffix = "tsv" if stage.task.form == "retrieval" else "json"
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            f"test-{code}.{suffix}" for code in stage.languages)
        for code in stage.languages:
            split = stage.task.test(finished.plan.provider.language(code))
            rows = finished.plan.provider.load(split, 5)
            text = (folder / f"test-{code}.{suffix}").read_text(encoding="utf-8")
            if suffix == "json":
                pairs = json.loads(text, object_pairs_hook=list)
                assert sorted(key for key, _ in pairs) == sorted(rows["id"])
                assert all(value in context for (_, value), context in zip(pairs, rows["context"]))
            else:
                assert len(text.splitlines()) == 5 and all(0 <= int(line) < 5 for line in text.splitlines())


def test_the_scores_are_those_of_the_predictions(finished):
    frame, store = results.read(finished.runs), Store(finished.runs)
    for cell in finished.plan.cells:
        stage = cell.stage
        if stage.task.name != "xquad":
            continue
        for code in stage.languages:
            rows = finished.plan.provider.load(stage.task.test(finished.plan.provider.language(code)), 5)
            path = store.open(stage.key) / "predictions" / "xquad" / f"test-{code}.json"
            predictions = json.loads(path.read_text(encoding="utf-8"))
            right = [predictions[key].strip(".? ").lower() == answer["text"][0].lower()
                     for key, answer in zip(rows["id"], rows["answers"])]
            told = frame[(frame["stage_key"] == stage.key) & (frame["language"] == code)].set_index("metric")["score"]
            assert told["exact_match"] == pytest.approx(100 * sum(right) / 5) and told["f1"] >= told["exact_match"]


def test_the_right_items_of_parallel_targets_are_kept_and_make_the_score(finished):
    frame, store = results.read(finished.runs), Store(finished.runs)
    for stage in (cell.stage for cell in finished.plan.cells):
        folder, target = store.open(stage.key), stage.task.name
        assert items_file(folder, target).is_file() == (target in ("xquad", "mlqa"))
        if target not in PARALLEL:
            continue
        told = frame[(frame["stage_key"] == stage.key) & (frame["metric"] == PARALLEL[target])]
        items = read_items(folder, target).groupby("language")["right"].agg(["mean", "count"])
        assert (100 * items["mean"]).to_dict() == pytest.approx(dict(zip(told["language"], told["score"])))
        assert items["count"].to_dict() == dict(zip(told["language"], told["examples"]))


def test_target_models_are_dropped_and_intermediate_ones_kept(finished, kept):
    store = Store(finished.runs)
    for key, stage in finished.plan.stages.items():
        assert store.dropped(key) == (stage.kind == "train" and stage.role == "target"), stage.label
        assert not list((finished.runs / "work").glob("*")), "checkpoints are gone"
    kept_store = Store(kept.runs)
    assert not any(kept_store.dropped(key) for key in kept.plan.stages)
    assert all(kept_store.open(key) for key in kept.plan.stages)


def test_a_second_run_does_nothing_and_gives_the_same_tables(finished, again, no_training, capsys):
    plan, runs = again(finished)
    before, tables = artefacts(runs), (runs / "results.csv").read_bytes() + (runs / "stages.csv").read_bytes()
    assert todo(plan, Store(runs)) == []
    begin(plan)
    run(plan)
    finish(plan)
    assert artefacts(runs) == before
    assert (runs / "results.csv").read_bytes() + (runs / "stages.csv").read_bytes() == tables
    told = capsys.readouterr().out
    assert "25 stages, 25 of them done before" in told and (runs / "gains.png").stat().st_size > 5000


def test_a_lost_table_is_written_again_from_the_artefacts(finished, again, no_training):
    plan, runs = again(finished)
    (runs / "results.csv").unlink()
    (runs / "results.parquet").unlink()
    run(plan)
    pd.testing.assert_frame_equal(scores(runs), scores(finished.runs))


def test_a_lost_csv_loses_no_row_of_another_request(workshop, encoder, finished, copied, no_training):
    runs = copied(finished.runs)
    (runs / "results.csv").unlink()
    run(workshop.plan(workshop.request(encoder, runs, targets=("tydiqa",))))
    pd.testing.assert_frame_equal(scores(runs), scores(finished.runs))


def test_what_a_kill_after_a_commit_left_undone_is_made_up_for(finished, again, no_training):
    plan, runs = again(finished)
    frame = results.STAGES.read(runs)
    results.STAGES.write(frame.iloc[3:-1], runs)
    models = [key for key, stage in plan.stages.items() if stage.kind == "train"]
    dropped = [key for key in models if Store(runs).dropped(key)]
    for key in plan.stages:
        (runs / "work" / key / "checkpoints").mkdir(parents=True)
    run(plan)
    pd.testing.assert_frame_equal(results.STAGES.read(runs).sort_values("stage_key", ignore_index=True),
                                  frame.sort_values("stage_key", ignore_index=True))
    left = sorted(path.name for path in (runs / "work").iterdir())
    assert left == sorted(dropped), "a dropped model's may belong to a process that trains it again"


def test_a_full_target_stage_loads_its_parents_encoder_alone(kept, monkeypatch):
    stage = next(stage for stage in kept.plan.stages.values()
                 if stage.kind == "train" and stage.method == "full" and stage.parent)
    loaded, load = [], loader.load_encoder
    monkeypatch.setattr(loader, "load_encoder", lambda folder: loaded.append(folder) or load(folder))
    assert Runner(kept.plan).loader.new_stack(stage).full
    assert loaded == [Store(kept.runs).folder(stage.parent.key) / "encoder"]


def test_a_broken_table_is_named_and_left_alone(finished, again, no_training):
    plan, runs = again(finished)
    (runs / "results.csv").write_text("recipe,scale\nhalf a row\n")
    with pytest.raises(DataError, match="results.csv"):
        run(plan)
    assert (runs / "results.csv").read_text() == "recipe,scale\nhalf a row\n"


def test_more_languages_score_again_and_a_dropped_model_is_trained_again_to_the_same_bits(
        workshop, encoder, finished, copied):
    runs = copied(finished.runs)
    wanted = workshop.request(encoder, runs, languages=("en", "qa", "qb", "qc"), targets=("mlqa",), keep=True)
    run(workshop.plan(wanted))
    before, after = results.read(finished.runs), results.read(runs)
    same = [name for name in before.columns if name not in ("stage_key",)]
    joined = before.merge(after, on=same, how="left", indicator=True)
    assert joined["_merge"].eq("both").all(), "retrained models give the very same scores"
    assert set(after[after["language"] == "qc"]["target"]) == {"mlqa"}


def test_results_of_two_recipes_stand_in_one_table(workshop, encoder, finished, copied, tmp_path):
    runs = copied(finished.runs)
    other = workshop.make_recipe(tmp_path / "other.yaml", miniature={"intermediate": {"epochs": 1}}, targets=["xquad"])
    run(workshop.plan(workshop.request(encoder, runs, recipes=(str(other),), targets=("xquad",))))
    before, after = results.read(finished.runs), results.read(runs)
    assert set(after["recipe"]) == {"none", "squad", "other"}
    assert len(after.merge(before, on=list(before.columns))) == len(before)
    own = results.gains(after[after["recipe"].isin(["none", "other"]) & after["primary"]])
    assert sorted(own["language"]) == ["en", "qa", "qb"] and own["recipe"].eq("other").all()
    first = results.gains(after[after["recipe"].isin(["none", "squad"]) & after["primary"]])
    assert set(own["baseline_key"]) <= set(first["baseline_key"]), "equal target settings share their baseline"


@pytest.mark.parametrize("role", ["intermediate", "score"])
def test_a_corrupted_artefact_is_said_and_made_again_only_once_removed(finished, again, monkeypatch, role):
    plan, runs = again(finished)
    store = Store(runs)
    chosen = next(stage for stage in plan.stages.values()
                  if (stage.role if stage.kind == "train" else "score") == role and stage.parent is None)
    name = "encoder/model.safetensors" if role == "intermediate" else "results.csv"
    path = store.folder(chosen.key) / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    # Something that needs the artefact: itself for scores, a score of the model for weights.
    for child in plan.stages.values():
        if child.kind == "evaluate" and child.parent and child.parent.key == chosen.key:
            shutil.rmtree(store.folder(child.key))
    with monkeypatch.context() as patch:
        patch.setattr(module, "train", lambda *args, **options: pytest.fail("silently trained again"))
        with pytest.raises(StoreError) as caught:
            run(plan)
    assert str(path) in str(caught.value) and f"remove {store.folder(chosen.key)}" in str(caught.value)
    shutil.rmtree(store.folder(chosen.key))
    run(plan)
    assert path.read_bytes() == whole
    pd.testing.assert_frame_equal(scores(runs), scores(finished.runs))


def test_limits_take_the_first_rows_of_each_language(workshop, encoder, tmp_path):
    wanted = workshop.request(encoder, tmp_path / "runs", targets=("xquad",), recipes=("none",), limit_train=7,
                              limit_eval=3, languages=("en", "qb"))
    plan = workshop.plan(wanted)
    run(plan)
    frame = results.read(tmp_path / "runs")
    assert frame["examples"].eq(3).all() and set(frame["language"]) == {"en", "qb"}
    assert json.loads(frame["method_config"][0])["limit_train"] == 7
    train = next(stage for stage in plan.stages.values() if stage.kind == "train")
    record = Store(tmp_path / "runs").record(train.key)["record"]
    assert record["features"] == 7 * train.settings.epochs


def test_methods_differ_in_what_is_saved(kept):
    store = Store(kept.runs)
    for key, stage in kept.plan.stages.items():
        if stage.kind == "train":
            part = "encoder" if stage.method == "full" else "adapter"
            assert sorted(path.name for path in store.folder(key).iterdir()) == sorted([part, "heads", "stage.json"])


def test_a_frozen_adapter_is_the_file_its_stage_trained_and_the_targets_lies_above(kept):
    store = Store(kept.runs)
    for key, stage in kept.plan.stages.items():
        if stage.kind == "train" and stage.method == "lora" and stage.parent is not None:
            below = json.loads((store.folder(stage.parent.key) / "adapter/identity.json").read_text())
            own = json.loads((store.folder(key) / "adapter/identity.json").read_text())
            assert [parent["sha256"] for parent in own["parents"]] == [below["sha256"]]
            assert own["base"]["id"] == kept.plan.base.id and own["base"]["sha256"] == kept.plan.base.revision


def test_full_training_moves_the_encoder_on_from_its_parent(kept):
    store = Store(kept.runs)
    stage = next(stage for stage in kept.plan.stages.values()
                 if stage.kind == "train" and stage.method == "full" and stage.parent)
    start, parent, end = (load_file(f"{folder}/model.safetensors") for folder in (
        kept.plan.base.folder, store.folder(stage.parent.key) / "encoder", store.folder(stage.key) / "encoder"))
    name = "encoder.layer.1.output.dense.weight"
    first, second = (parent[name] - start[name]).norm(), (end[name] - parent[name]).norm()
    assert first > 0 and second > 0 and second < (end[name] - start[name]).norm() * 1.5


def test_a_missing_prediction_is_an_error(finished):
    stage = finished.plan.cells[0].stage
    with pytest.raises(DataError, match="xquad en: 1 predictions for 2 items"):
        score_rows(stage, "en", "validation", {"a": "x"}, {"a": ["x"], "b": ["y"]})


def test_a_shared_baseline_is_labelled_for_each_method(finished):
    frame = results.read(finished.runs)
    base = frame[(frame["target"] == "tatoeba") & (frame["intermediate"] == "none")]
    assert base["stage_key"].nunique() == 1 and sorted(set(base["method"])) == ["full", "lora"]


def test_a_stage_of_another_request_is_no_hindrance(workshop, encoder, finished, copied, no_training):
    """A plan that asks for less of a finished run finds everything there."""
    runs = copied(finished.runs)
    plan = workshop.plan(workshop.request(encoder, runs, targets=("tydiqa",)))
    assert todo(plan, Store(runs)) == []
    Runner(plan).cell(plan.cells[0])
