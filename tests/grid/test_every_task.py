"""Every recipe, and so every task, is run for two steps in the miniature world; and the two controls change it."""

import dataclasses
import json

import pytest

from peft_stilts import results
from peft_stilts.errors import UsageError
from peft_stilts.grid.run import run
from peft_stilts.grid.stages import Train
from peft_stilts.miniature.provider import MiniatureWorld
from peft_stilts.miniature.translated import write_text, write_translated
from peft_stilts.recipe import recipe_names
from peft_stilts.store import Store
from peft_stilts.tasks import INTERMEDIATE, NOT_COMPARABLE, TARGETS, TASKS

EVERY_TARGET = (*TARGETS, *NOT_COMPARABLE)


class Small(MiniatureWorld):
    """The miniature world with pools of mining cut to a few sentences, so that every task runs in a moment."""

    def load(self, split, limit=None):
        rows = super().load(split, limit)
        if "match" in rows.column_names:
            kept = {key for row in list(rows)[:12] for key in (row["id"], row["match"]) if key}
            kept |= {row["match"] for row in rows if row["id"] in kept and row["match"]}
            kept |= {row["id"] for row in list(rows)[-6:] if not row["match"]}
            rows = rows.filter(lambda row: row["id"] in kept)
        return rows


@pytest.fixture(scope="module")
def every(tmp_path_factory, workshop, encoder):
    """Every recipe on one target and every target after one recipe: two steps of six rows a training, four rows of two
    languages a score."""
    runs, plans = tmp_path_factory.mktemp("every") / "runs", []
    for recipes, targets in ((tuple(recipe_names()), ("tatoeba",)), (("commonsenseqa",), EVERY_TARGET)):
        wanted = workshop.request(encoder, runs, recipes=recipes, targets=targets, methods=("lora",),
                                  languages=("en", "qa"), limit_train=12, limit_eval=4)
        plan = workshop.plan(wanted, Small())
        for cell in plan.cells:
            chain = cell.stage.parent
            while chain is not None:
                quick = dataclasses.replace(chain.settings, epochs=1.0, features_per_step=6, keep="last")
                object.__setattr__(chain, "settings", quick)
                chain = chain.parent
        run(plan)
        plans.append(plan)
    return plans, runs


def stages(plans):
    return {key: stage for plan in plans for key, stage in plan.stages.items()}


def test_every_recipe_and_every_task_is_there(every):
    plans, _ = every
    assert len(recipe_names()) == 11 and len(INTERMEDIATE) == 9 and len(TARGETS) == 9
    trained = {task.name for stage in stages(plans).values() if isinstance(stage, Train) for task in stage.tasks}
    scored = {stage.task.name for stage in stages(plans).values() if stage.kind == "evaluate"}
    assert trained | scored == set(TASKS) and len(TASKS) == 19
    assert {cell.labels["recipe"] for plan in plans for cell in plan.cells} == set(recipe_names())


def test_every_training_made_two_steps_and_more_only_where_many_tasks_mix(every):
    plans, runs = every
    store, steps = Store(runs), {}
    for key, stage in stages(plans).items():
        if stage.kind == "train" and stage.role == "intermediate":
            steps[stage.name] = store.record(key)["record"]["steps"]
    assert steps.pop("all") == sum(steps.values()), "a mixture makes the steps of its tasks together"
    assert set(steps.values()) == {2, 3} and steps["anli_plus"] == 3, "rows are shared evenly by ANLI+'s five parts"


def test_every_score_is_in_the_table_with_its_metrics(every):
    _, runs = every
    frame = results.read(runs)
    expected = {(recipe, "tatoeba") for recipe in recipe_names()}
    expected |= {(recipe, target) for recipe in ("none", "commonsenseqa") for target in EVERY_TARGET}
    assert set(zip(frame["recipe"], frame["target"])) == expected
    metrics = frame.groupby("target")["metric"].agg(lambda names: tuple(dict.fromkeys(names))).to_dict()
    assert metrics == {name: TASKS[name].metrics for name in EVERY_TARGET}
    primary = frame[frame["primary"]].groupby("target")["metric"].first().to_dict()
    accuracy = ("xnli", "pawsx", "tatoeba")
    assert primary == {target: "accuracy" if target in accuracy else "f1" for target in EVERY_TARGET}
    assert set(frame["intermediate"]) == {"none", "all", *INTERMEDIATE}


def test_prediction_files_are_xtreme_s(every):
    plans, runs = every
    store, seen = Store(runs), set()
    for stage in stages(plans).values():
        if stage.kind == "evaluate" and stage.task.name not in seen:
            seen.add(stage.task.name)
            folder = store.open(stage.key) / "predictions" / stage.task.name
            text = {path.stem: path.read_text() for path in folder.iterdir()}
            assert set(text) == {f"test-{code}" for code in stage.languages}
            one = text[f"test-{stage.languages[-1]}"]
            if stage.task.form == "classification":
                assert len(one.splitlines()) == 4 and set(one.splitlines()) <= set(stage.task.labels)
            elif stage.task.form == "tagging":
                assert len(one.strip().split("\n\n")) == 4 and set(one.split()) <= set(stage.task.labels)
            elif stage.task.form == "span":
                assert len(json.loads(one)) == 4
            elif stage.task.form == "mining":
                assert all(line.split("\t")[1].startswith("en-") for line in one.splitlines())
            else:
                assert [line.isdigit() for line in one.splitlines()] == [True] * 4
    assert seen == set(EVERY_TARGET)


# The paper's two controls


def first_stage(plan):
    return next(stage for stage in plan.stages.values() if stage.kind == "train" and stage.role == "intermediate")


def test_masked_words_are_mixed_in_and_named(workshop, tmp_path):
    folder = tmp_path / "text of ours"
    write_text(folder, ("en", "qa", "qi"), 30)
    plan = workshop.plan(workshop.request("mini", tmp_path / "runs", targets=("tatoeba",), mlm_ratio=0.5,
                                          mlm_text=folder, mlm_languages=("qa", "en"), limit_train=64))
    stage = first_stage(plan)
    assert stage.spec["variant"].startswith("mlm 0.5 qa,en (") and set(stage.spec["mlm"]["data"]) == {"qa", "en"}
    run(plan)
    record = Store(tmp_path / "runs").record(stage.key)["record"]
    plain = workshop.plan(workshop.request("mini", tmp_path / "plain", targets=("tatoeba",), limit_train=64))
    assert record["steps"] == 2 * 3 * 2, "half of the steps, on top of the task's own: 64 rows, 32 a step, 3 epochs"
    assert first_stage(plain).key != stage.key
    frame = results.read(tmp_path / "runs")
    assert set(frame["intermediate_variant"]) == {"", stage.spec["variant"]}
    assert (frame["intermediate_variant"] == "").eq(frame["intermediate"] == "none").all()
    assert len(results.gains(frame)) == len(frame) / 2


@pytest.mark.parametrize("method", ["full", "lora"])
def test_masked_words_train_a_tied_head_and_leave_the_frozen_alone(workshop, tmp_path, method):
    folder = tmp_path / "text"
    write_text(folder, ("en", "qa"), 30)
    plan = workshop.plan(workshop.request("mini", tmp_path / "runs", targets=("tatoeba",), mlm_ratio=0.6,
                                          methods=(method,), mlm_text=folder, limit_train=64))
    run(plan)
    artefact = Store(tmp_path / "runs").open(first_stage(plan).key)
    assert sorted(path.name for path in (artefact / "heads").iterdir()) == ["squad"]
    assert (artefact / "adapter").is_dir() == (method == "lora")


def test_masked_words_come_from_the_provider_without_a_folder(workshop, tmp_path):
    plan = workshop.plan(workshop.request("mini", tmp_path, targets=("tatoeba",), mlm_ratio=0.25,
                                          mlm_languages=("qi",)))
    stage = first_stage(plan)
    assert stage.masked.splits["qi"].repo == "wikimedia/wikipedia"
    assert stage.spec["mlm"]["data"]["qi"]["config"] == "20231101.qi"


@pytest.mark.parametrize("recipe, rows", [("squad", 2), ("mnli", 3), ("qqp", 2)])
def test_translated_rows_are_joined_as_asked(workshop, tmp_path, recipe, rows):
    write_translated(tmp_path / "translated", ("qa", "qi"))
    asked = {2: ("qi", "en"), 3: None}[rows]
    plan = workshop.plan(workshop.request("mini", tmp_path / "runs", recipes=(recipe,), targets=("tatoeba",),
                                          translated=tmp_path / "translated", translated_languages=asked))
    stage = first_stage(plan)
    assert stage.spec["variant"].startswith("translated en,qi (" if asked else "translated en,qa,qi (")
    joined = plan.data.joined(stage.tasks[0], stage.splits[recipe], None)
    english = plan.data.joined(stage.tasks[0], stage.tasks[0].train, None)
    column, sizes = ("question", 16) if recipe == "squad" else ("text_a", 16)
    assert len(english) >= sizes and len(joined) == rows * len(english)
    assert set(english[column]) < set(joined[column])
    if "label" in joined.column_names:
        labels = joined["label"][:]
        assert labels[: len(english)] == labels[len(english) : 2 * len(english)] == english["label"][:]


def test_translations_that_are_not_there_or_have_no_format_are_refused(workshop, tmp_path):
    write_translated(tmp_path, ("qa",))
    for recipe, told in (("hellaswag", "no format of translated data is known for hellaswag"),
                         ("anli_plus", "has no translation of anli_plus; its files are named")):
        with pytest.raises(UsageError, match=told):
            workshop.plan(workshop.request("mini", tmp_path / "r", recipes=(recipe,), translated=tmp_path))
    with pytest.raises(UsageError, match="unknown language of translated squad 'qx'"):
        workshop.plan(workshop.request("mini", tmp_path / "r", translated=tmp_path, translated_languages=("qx",)))
    with pytest.raises(UsageError, match="change the intermediate training, and these recipes have none"):
        workshop.plan(workshop.request("mini", tmp_path / "r", recipes=("none",), translated=tmp_path))


def test_a_damaged_translation_is_named_with_its_line(workshop, tmp_path):
    write_translated(tmp_path, ("qa",))
    path = tmp_path / "mnli.translate.train.en-qa.tsv"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:4], lines[4].replace("\t", " ", 1), *lines[5:]]), encoding="utf-8")
    with pytest.raises(UsageError, match="en-qa.tsv, line 5: 4 columns, not 5"):
        workshop.plan(workshop.request("mini", tmp_path / "r", recipes=("mnli",), translated=tmp_path))
    path.write_text("\n".join([*lines[:2], lines[2].rpartition("\t")[0] + "\tEntailment"]), encoding="utf-8")
    with pytest.raises(UsageError, match="line 3: the label is 'Entailment'; known: entailment, neutral"):
        workshop.plan(workshop.request("mini", tmp_path / "r", recipes=("mnli",), translated=tmp_path))


def test_another_text_or_temperature_is_another_variant(workshop, tmp_path):
    variants = set()
    for number, (lines, temperature) in enumerate([(30, 1 / 0.3), (31, 1 / 0.3), (30, 1.0)]):
        write_text(tmp_path / str(number), ("qa",), lines)
        plan = workshop.plan(workshop.request("mini", tmp_path / "runs", targets=("tatoeba",), mlm_ratio=0.5,
                                              mlm_text=tmp_path / str(number), mlm_temperature=temperature))
        variants.add(first_stage(plan).spec["variant"])
    assert len(variants) == 3 and sum(variant.startswith("mlm 0.5 qa T 1 (") for variant in variants) == 1
