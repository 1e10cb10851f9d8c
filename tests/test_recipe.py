"""Recipes: those that come with the program load; every mistake in a file is named; copies mean the same."""

import os

import pytest
import yaml

from peft_stilts.errors import UsageError
from peft_stilts.recipe import copy_recipe, read_recipe, recipe_names, recipe_source
from peft_stilts.spec import ADAPTERS, METHODS, LoraSettings, TrainingSettings
from peft_stilts.tasks import INTERMEDIATE, TARGETS, TASKS

STAGES = ("intermediate", "mnli", "pawsx", "udpos", "panx", "squad", "tydiqa", "bucc2018", "tatoeba")


@pytest.fixture
def write(tmp_path):
    """Writes a recipe file from Python values (or from text) and gives its name."""

    def make(content, name="my.yaml"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return str(path)

    return make


def recipe(**changed):
    return {"intermediate": "squad", "targets": ["xquad"]} | changed


def everything(read):
    """All settings of all stages, for both methods, in and outside of the miniature world."""
    return {(stage, method, small): (read.settings(stage, method, small), read.lora(stage, method, small))
            for stage in STAGES for method in METHODS for small in (False, True)}


def problems(name):
    with pytest.raises(UsageError) as caught:
        read_recipe(name)
    return caught.value.problems


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_comes_with_the_program_is_sound(name):
    read = read_recipe(name)
    assert read.name == name and read.intermediate in ("none", "all", *INTERMEDIATE)
    assert read.targets and all(TASKS[target].is_target for target in read.targets)
    assert all(settings.lr > 0 for settings, _ in everything(read).values())


def test_the_squad_recipe_has_the_settings_of_its_sources():
    read = read_recipe("squad")
    assert read.targets == TARGETS and len(TARGETS) == 9
    full, lora = read.settings("intermediate", "full", False), read.settings("intermediate", "lora", False)
    assert (full.lr, full.epochs, full.features_per_step, full.max_length, full.doc_stride) == (1e-5, 3, 32, 384, 128)
    assert (lora.lr, lora.head_lr) == (2e-4, 2e-4)
    assert read.lora("intermediate", "lora", False) == read.lora("squad", "lora", False) == LoraSettings(16, 32.0, 0.05)
    target = read.settings("squad", "full", False)
    assert (target.lr, target.epochs, target.features_per_step) == (1e-5, 2, 16)


def test_a_stage_wins_over_the_default_and_a_method_over_both(write):
    read = read_recipe(write(recipe(training={
        "default": {"epochs": 7, "patience": 5, "lora": {"epochs": 9, "rank": 2}},
        "tydiqa": {"patience": 6, "full": {"epochs": 4}},
        "squad": {"epochs": 11, "lora": {"rank": 3}}})))
    epochs = {(stage, method): read.settings(stage, method, False).epochs
              for stage in ("tydiqa", "squad", "tatoeba") for method in ("full", "lora")}
    assert epochs == {("tydiqa", "full"): 4, ("tydiqa", "lora"): 9, ("squad", "full"): 11, ("squad", "lora"): 9,
                      ("tatoeba", "full"): 7, ("tatoeba", "lora"): 9}
    assert [read.lora(stage, "lora", False).rank for stage in ("tydiqa", "squad")] == [2, 3]
    assert read.settings("tydiqa", "full", False).patience == 6
    assert read.settings("squad", "full", False).patience == 5


def test_the_other_adapters_take_loras_values_but_for_their_own(write):
    read = read_recipe(write(recipe(training={
        "default": {"epochs": 7, "lora": {"epochs": 9, "rank": 2, "dropout": 0.1}, "rslora": {"alpha": 4}},
        "squad": {"lora": {"rank": 3, "target_maps": ["value", "query"]}, "qlora": {"epochs": 1, "rank": 5}}})))
    shapes = {method: read.lora("squad", method, False) for method in ADAPTERS}
    assert [shapes[method].rank for method in ADAPTERS] == [3, 3, 3, 5]
    assert [shapes[method].alpha for method in ADAPTERS] == [32, 4, 32, 32]
    assert shapes["dora"].dropout == 0 and shapes["lora"].dropout == 0.1, "the protocol's block for dora"
    assert shapes["lora"].target_maps == ("query", "value"), "in the order of a layer, however they are written"
    assert shapes["lora"].told()["target_maps"] == ["query", "value"]
    assert "target_maps" not in read.lora("tydiqa", "lora", False).told(), "keys of all six maps are the old ones"
    assert read.settings("squad", "qlora", False).epochs == 1 and read.settings("squad", "dora", False).epochs == 9
    assert read.lora("squad", "full", False) is None


@pytest.mark.parametrize(("value", "told"), [
    (["querry"], "Did you mean 'query'"), ([], "one map or more"), (["key", "key"], "each once"),
    ("query", "must be a list of names"), (["full"], "unknown map in target_maps")])
def test_wrong_target_maps_are_named(write, value, told):
    found = problems(write(recipe(training={"default": {"lora": {"target_maps": value}}})))
    assert any(told in problem for problem in found), found


@pytest.mark.parametrize("value", ["squad", [1], [""], {"a": 1}])
def test_a_stack_is_a_list_of_names(write, value):
    assert any("stack is" in problem for problem in problems(write(recipe(stack=value))))


def test_the_miniature_block_is_laid_over_training_in_the_miniature_world_alone(write):
    read = read_recipe(write(recipe(
        training={"squad": {"epochs": 11, "max_query_length": 50, "full": {"lr": "1e-3"}}},
        miniature={"squad": {"epochs": 12}, "default": {"n_best": 3}})))
    large, small = (read.settings("squad", "full", miniature) for miniature in (False, True))
    assert (large.epochs, large.max_query_length, large.n_best, large.max_length) == (11, 50, 20, 384)
    assert (small.epochs, small.max_query_length, small.n_best, small.max_length) == (12, 24, 3, 126)
    assert large.lr == 1e-3 and small.lr == 1.4e-3, "the protocol's miniature rate stands above the recipe's training"


def test_an_unknown_key_is_named_with_the_nearest_at_every_depth(write):
    told = problems(write(recipe(
        intermediat="squad", training={"squad": {"ephocs": 2, "rank": 4, "lora": {"rnk": 4}, "full": {"rank": 4}}},
        miniature={"default": {"learning_rate": 1}})))
    parts = ["key 'intermediat'. Did you mean 'intermediate'", "training.squad.ephocs: unknown key 'ephocs'. Did you "
             "mean 'epochs'", "training.squad.lora.rnk: unknown key 'rnk'. Did you mean 'rank'",
             "training.squad.rank shapes an adapter; it belongs in", "training.squad.full.rank: unknown key 'rank'",
             "miniature.default.learning_rate: unknown key 'learning_rate'"]
    assert len(told) == len(parts)
    assert [part for part in parts if not any(part in message for message in told)] == []


@pytest.mark.parametrize("change, told", [
    ({"targets": "xquad"}, "targets is 'xquad'; it must be a list"),
    ({"targets": []}, r"targets is \[\]; it must be a list"),
    ({"targets": [1]}, r"targets is \[1\]; it must be a list"),
    ({"intermediate": None}, "intermediate is None; it must be none, a task, all, or a list of tasks"),
    ({"intermediate": []}, "intermediate is .*; it must be none, a task, all, or a list of tasks"),
    ({"intermediate": ["squad", "squad"]}, "intermediate is .*; it must be .* a list of tasks, each once"),
    ({"name": 5}, "name is 5; it must be a name"),
    ({"training": None}, "training is None; it must map stages to settings"),
    ({"training": ["squad"]}, "it must map stages to settings"),
    ({"training": {"squad": 3}}, "training.squad is 3; it must map settings to values"),
    ({"training": {"squad": {"lora": 3}}}, "training.squad.lora is 3; it must map settings to values"),
    ({"training": {1: {"lr": 1}}}, "training.1"),
    ({"training": {"squad": {"lr": "fast"}}}, "training.squad.lr is 'fast'; it must be a number"),
    ({"training": {"squad": {"full": {"lr": 0}}}}, "squad .full.: lr is 0.0; it must be greater than 0"),
    ({"training": {"squad": {"lr": 1e-3}}},
     "training.squad.lr would have no effect: .* set it in the blocks full and lora of `squad`"),
    ({"training": {"squad": {"lora": {"rank": "wide"}}}}, "squad.lora.rank is 'wide'; it must be a whole number"),
    ({"training": {"squad": {"lora": {"rank": 0}}}}, "rank is 0; it must be greater than 0"),
    ({"miniature": {"squad": {"epochs": [1]}}}, "epochs is .1.; it must be a number"),
    ({"protocol": "jaint"}, "unknown protocol 'jaint'. Did you mean 'jiant'"),
    ({"protocol": ["jiant"]}, "unknown protocol"),
])
def test_a_wrong_value_is_named(write, change, told):
    with pytest.raises(UsageError, match=told):
        read_recipe(write(recipe(**change)))


@pytest.mark.parametrize("content, told", [
    ("", "holds no settings"), ("- squad\n", "holds no settings"), ("a: [1\n", "cannot read .*my.yaml"),
    ("a: !!python/object/apply:os.system ['true']\n", "cannot read .*my.yaml")])
def test_a_file_that_is_no_recipe_is_named(write, content, told):
    with pytest.raises(UsageError, match=told):
        read_recipe(write(content))


def test_a_file_of_other_bytes_is_named(tmp_path):
    (tmp_path / "my.yaml").write_bytes(b"intermediate: \xff\xfe")
    with pytest.raises(UsageError, match="cannot read .*my.yaml"):
        read_recipe(str(tmp_path / "my.yaml"))


def test_an_absent_recipe_is_told_how_to_get_one():
    assert problems("sqaud") == ["unknown recipe 'sqaud'. Did you mean 'squad' or 'squad_v2'? Known: all, anli_plus, "
                                 "ccg, commonsenseqa, cosmosqa, hellaswag, mnli, none, qqp, squad, squad_v2."]
    assert "copy squad my.yaml` writes one" in problems("my.yaml")[0]


@pytest.mark.parametrize("name", recipe_names())
def test_a_copy_has_equal_settings_everywhere(name, tmp_path):
    copy = tmp_path / "my copy.yaml"
    copy_recipe(name, copy)
    before, after = read_recipe(name), read_recipe(str(copy))
    assert everything(after) == everything(before)
    assert (after.targets, after.intermediate, after.protocol) == (before.targets, before.intermediate, before.protocol)
    assert after.name == "my copy" and os.listdir(tmp_path) == ["my copy.yaml"]
    assert copy.read_text(encoding="utf-8").startswith(f"# Copied from the recipe {name!r}")


def test_a_copy_holds_every_setting_of_its_protocol_to_edit(tmp_path):
    copy_recipe("squad", tmp_path / "my.yaml")
    text = (tmp_path / "my.yaml").read_text(encoding="utf-8")
    held = recipe_source("squad")["training"]["default"]
    assert {"max_length", "patience", "lora"} <= held.keys() and all(f"{key}:" in text for key in held)
    (tmp_path / "my.yaml").write_text(text.replace("patience: 30", "patience: 2"), encoding="utf-8")
    assert read_recipe(str(tmp_path / "my.yaml")).settings("squad", "full", False).patience == 2


def test_a_copied_file_can_be_copied_again(write, tmp_path):
    first = write(recipe(training={"squad": {"epochs": 5}}))
    copy_recipe(first, tmp_path / "other.yaml")
    assert everything(read_recipe(str(tmp_path / "other.yaml"))) == everything(read_recipe(first))


def test_nothing_is_overwritten_and_all_mistakes_are_told(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UsageError) as caught:
        copy_recipe("sqaud", tmp_path / "mine.txt")
    assert [part for part in ("must end in .yaml", "exists and is not overwritten", "'sqaud'")
            if part not in str(caught.value)] == []
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_settings_without_a_recipe_are_those_of_the_class(write):
    assert read_recipe(write(recipe())).settings("none such", "full", False).adam_betas == TrainingSettings().adam_betas


@pytest.mark.parametrize("content", [
    "[" * 3000, "a: 2001-99-99", "a: !!int x", "a: !!timestamp x", "a: !!python/name:os.x"])
def test_yaml_that_its_reader_trips_over_is_named(tmp_path, content):
    (tmp_path / "my.yaml").write_text(content)
    with pytest.raises(UsageError, match="cannot read .*my.yaml"):
        read_recipe(str(tmp_path / "my.yaml"))


def test_names_that_are_no_files_are_told(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    for name, told in (("a" * 5000 + ".yaml", "File name too long"), (str(tmp_path / "folder.yaml"), "is no file")):
        with pytest.raises(UsageError, match=told):
            read_recipe(name)


@pytest.mark.parametrize("value, name, tasks", [
    ("none", "none", ()), ("all", "all", ("all",)), ("squad", "squad", ("squad",)),
    (["squad", "mnli"], "squad+mnli", ("squad", "mnli")), (["squad"], "squad", ("squad",))])
def test_an_intermediate_setting_has_a_name_and_its_tasks(write, value, name, tasks):
    read = read_recipe(write(recipe(intermediate=value)))
    assert (read.intermediate, read.tasks) == (name, tasks)


def test_there_are_eleven_recipes_and_two_protocols():
    assert len(recipe_names()) == 11 and {read_recipe(name).protocol for name in recipe_names()} == {"jiant"}
    assert {read_recipe(name).intermediate for name in recipe_names()} == {"none", "all", *INTERMEDIATE}


# XTREME scripts/train_*.sh for xlm-roberta-large; jiant d_write_configs.sh and e_run_models.sh
@pytest.mark.parametrize("protocol, stage, expected", [
    ("xtreme", "mnli", dict(lr=3e-5, epochs=5, features_per_step=32, max_length=128, keep="best",
                            select_every_steps=100)),
    ("xtreme", "pawsx", dict(lr=2e-5, epochs=5, features_per_step=32, max_length=128, weight_decay=0.0)),
    ("xtreme", "udpos", dict(lr=2e-5, epochs=10, max_length=128, select_every_steps=500, warmup_ratio=0.0)),
    ("xtreme", "panx", dict(lr=2e-5, epochs=10, max_length=128, select_every_steps=1000, warmup_steps=None)),
    ("xtreme", "squad", dict(lr=3e-5, epochs=3, features_per_step=32, max_length=384, keep="last", warmup_steps=500,
                             weight_decay=1e-4)),
    ("xtreme", "tydiqa", dict(lr=3e-5, epochs=3, features_per_step=32, keep="last", warmup_steps=500)),
    ("xtreme", "tatoeba", dict(pooling="mean", layer=None)), ("xtreme", "bucc2018", dict(pooling="cls", layer=-5)),
    ("jiant", "mnli", dict(lr=1e-5, epochs=2, features_per_step=32, max_length=256, warmup_ratio=0.1)),
    ("jiant", "pawsx", dict(lr=1e-5, epochs=5, features_per_step=32, max_length=256, weight_decay=0.01)),
    ("jiant", "udpos", dict(epochs=10, features_per_step=32, max_length=256)),
    ("jiant", "panx", dict(epochs=10, features_per_step=32, max_length=256, patience=30, select_examples=500)),
    ("jiant", "tydiqa", dict(epochs=2, features_per_step=16, max_length=384, keep="best")),
    ("jiant", "bucc2018", dict(pooling="mean", layer=None))])
def test_protocols_have_the_settings_of_their_sources(protocol, stage, expected):
    read = read_recipe("squad", protocol)
    settings = read.settings(stage, "full", False)
    assert read.protocol == protocol and {name: getattr(settings, name) for name in expected} == expected
