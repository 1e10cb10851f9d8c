"""The plan: exactly the stages a request needs, keys that change with what matters alone, mistakes told together."""

import copy
import dataclasses
import importlib.metadata
import itertools
import json
import shutil

import pyarrow.parquet as pq
import pytest
import torch

from peft_stilts import recipe as recipes
from peft_stilts.errors import DataError, Problems, UsageError
from peft_stilts.grid import builder as module
from peft_stilts.grid.plan import make_plan
from peft_stilts.miniature.provider import MiniatureWorld
from peft_stilts.spec import Request
from peft_stilts.tasks import TASKS
from peft_stilts.tasks.sources import LocalMirror


@pytest.fixture
def ask(workshop, encoder, tmp_path):
    """Builds the plan of a request with the given changes."""

    def make(provider=None, **changed):
        return workshop.plan(workshop.request(changed.pop("scale", encoder), changed.pop("runs", tmp_path / "runs"),
                                              **changed), provider)

    return make


def problems(wanted, provider=None):
    found = Problems()
    assert make_plan(wanted, found, provider) is None
    return found.messages


def described(plan):
    """Every stage in words: what is trained on what, or what is scored with what; with method and seed."""
    return sorted(stage.label for stage in plan.stages.values())


def keys(plan):
    return sorted(plan.stages)


def test_the_squad_recipe_is_exactly_its_baseline_and_its_intermediate_task(ask):
    plan = ask(methods=("full", "lora"), seeds=(1, 2))
    expected = ["score tatoeba in 2 languages with the base encoder"]
    for end in ("(full, seed 1)", "(full, seed 2)", "(lora, seed 1)", "(lora, seed 2)"):
        expected.append(f"train squad {end}")
        for before in ("none", "squad"):
            expected += [f"train {before} > squad {end}", f"train {before} > tydiqa {end}",
                         f"score xquad in 3 languages with {before} > squad {end}",
                         f"score mlqa in 2 languages with {before} > squad {end}",
                         f"score tydiqa in 2 languages with {before} > tydiqa {end}"]
        expected += [f"score tatoeba in 2 languages with squad {end}"]
    assert described(plan) == sorted(expected)


def test_xquad_and_mlqa_share_their_training_and_both_methods_the_base_tatoeba(ask):
    plan = ask(methods=("full", "lora"))
    parents = {(cell.labels["method"], cell.labels["intermediate"], cell.stage.task.name):
               cell.stage.parent and cell.stage.parent.key for cell in plan.cells}
    assert len(parents) == len(plan.cells) == 16
    for method in ("full", "lora"):
        for intermediate in ("none", "squad"):
            assert parents[method, intermediate, "xquad"] == parents[method, intermediate, "mlqa"] is not None
    assert parents["full", "none", "tatoeba"] is parents["lora", "none", "tatoeba"] is None
    base = {cell.stage.key for cell in plan.cells if cell.stage.parent is None}
    assert len(base) == 1
    assert parents["full", "squad", "tatoeba"] != parents["lora", "squad", "tatoeba"]


def test_parents_come_before_children(ask):
    seen = set()
    for key, stage in ask(methods=("full", "lora"), seeds=(1, 2)).stages.items():
        assert stage.parent is None or stage.parent.key in seen
        seen.add(key)


def test_two_recipes_share_what_is_equal(ask):
    alone, both = ask(recipes=("squad",)), ask(recipes=("none", "squad"))
    assert keys(both) == keys(alone) and len(both.cells) == len(alone.cells)
    assert keys(ask(recipes=("none",))) == sorted(
        {stage.key for cell in alone.cells if cell.labels["recipe"] == "none"
         for stage in (cell.stage, cell.stage.parent) if stage})


def test_labels_hold_what_makes_two_scores_comparable(ask):
    plan = ask(methods=("lora",), limit_train=9)
    labels = {(cell.labels["intermediate"], cell.labels["target"]): cell.labels for cell in plan.cells}
    baseline, after = labels["none", "xquad"], labels["squad", "xquad"]
    assert {name for name in baseline if baseline[name] != after[name]} == {"recipe", "intermediate", "stage_key"}
    config = json.loads(after["method_config"])
    assert config["limit_train"] == 9 and config["precision"] == "fp32" and config["lora"]["rank"] == 16
    assert after["policy"] == "stack" and after["protocol"] == "jiant" and after["data_source"] == "miniature"


def test_seeds_are_one_in_the_miniature_world_and_three_elsewhere(ask, data_root):
    assert {cell.labels["seed"] for cell in ask(seeds=None).cells} == {1}
    plan = ask(LocalMirror(data_root), languages=("en",), targets=("xquad",), seeds=None)
    assert {cell.labels["seed"] for cell in plan.cells} == {1, 2, 3}


@pytest.fixture
def changed_recipe(tmp_path, workshop):
    def write(name, **settings):
        path = tmp_path / name / "tiny.yaml"
        path.parent.mkdir()
        return str(workshop.make_recipe(path, training={"default": settings}))

    return write


def test_a_key_changes_with_every_setting_that_changes_results(ask, changed_recipe):
    numbers = itertools.count()

    def all_of(**settings):
        return keys(ask(recipes=(changed_recipe(f"r{next(numbers)}", **settings),), targets=("xquad",)))

    seen = []
    for settings in ({}, {"adam_epsilon": 1e-6}, {"max_grad_norm": 2}, {"adam_betas": [0.9, 0.98]},
                     {"warmup_ratio": 0.2}, {"full": {"lr": 1e-4}}):
        seen.append(all_of(**settings))
    # The miniature world has its own learning rate, so that of `training` does not count there.
    assert seen[5] == seen[0]
    assert all(not set(one) & set(other) for number, one in enumerate(seen[:5]) for other in seen[:number])
    assert all_of(adam_epsilon="1e-6") == seen[1], "the same number in other words is the same stage"


@pytest.mark.parametrize("change", [{"seeds": (2,)}, {"limit_train": 17}, {"precision": "bf16"}])
def test_a_key_changes_with_the_request(ask, change):
    def trained(plan):
        return {stage.key for stage in plan.stages.values() if stage.parent or stage.kind == "train"}

    assert not trained(ask()) & trained(ask(**change))


@pytest.mark.parametrize("change", [{"limit_eval": 6}, {"languages": ("en", "qa")}])
def test_what_is_scored_changes_no_training(ask, change):
    before, after = ask(targets=("xquad",)), ask(targets=("xquad",), **change)
    for kind, same in (("train", True), ("evaluate", False)):
        one, other = ({stage.key for stage in plan.stages.values() if stage.kind == kind} for plan in (before, after))
        assert (one == other) == same and (same or not one & other)


def test_a_layer_changes_retrieval_alone(ask):
    one, other = (ask(layers=(layer,), targets=("xquad", "tatoeba")) for layer in (1, 2))
    differ = {stage.task.name for key, stage in one.stages.items() if key not in other.stages}
    assert differ == {"tatoeba"}


def test_a_key_changes_with_a_library_and_the_numerics_version(ask, monkeypatch):
    before = keys(ask())
    with monkeypatch.context() as patch:
        patch.setattr(module, "NUMERICS_VERSION", module.NUMERICS_VERSION + 1)
        assert not set(keys(ask())) & set(before)
    plain = importlib.metadata.version
    for library in ("torch", "transformers", "peft", "tokenizers"):
        with monkeypatch.context() as patch:
            patch.setattr(importlib.metadata, "version", lambda name, library=library: "99" if name == library
                          else plain(name))
            assert not set(keys(ask())) & set(before), library
    assert keys(ask()) == before


def test_neither_the_place_of_the_encoder_nor_of_the_results_is_in_a_key(ask, encoder, tmp_path):
    moved = shutil.copytree(encoder, tmp_path / "another machine" / "model")
    assert keys(ask(scale=str(moved), runs=tmp_path / "other runs", keep=True)) == keys(ask())


def leaves(spec, path=()):
    """The place of every value in a specification."""
    for name, value in spec.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name)


def test_every_field_of_a_specification_is_in_its_key(ask):
    plan = ask(methods=("lora",))
    for kind in ("train", "evaluate"):
        stage = next(stage for stage in plan.stages.values() if stage.kind == kind)
        places = list(leaves(stage.spec))
        assert len(places) > 15
        for place in places:
            changed = inner = copy.deepcopy(dict(stage.spec))
            for name in place[:-1]:
                inner = inner[name]
            inner[place[-1]] = "another value"
            assert dataclasses.replace(stage, spec=changed).key != stage.key, place
        assert dataclasses.replace(stage, spec=copy.deepcopy(dict(reversed(stage.spec.items())))).key == stage.key


def test_other_weights_change_every_key(ask, workshop, tmp_path):
    other = workshop.make_encoder(tmp_path / "other", seed=1)
    assert not set(keys(ask(scale=str(other)))) & set(keys(ask()))


def test_other_data_change_the_keys_of_what_reads_them_and_their_place_does_not(ask, data_root, tmp_path):
    def local(root):
        return ask(LocalMirror(root), languages=("en", "de", "fi"), seeds=(1,), data_root=root)

    moved = shutil.copytree(data_root, tmp_path / "moved")
    before = local(data_root)
    assert keys(local(moved)) == keys(before)
    file = moved / "google/xtreme/XQuAD.de/validation-00000-of-00001.parquet"
    pq.write_table(pq.read_table(file).slice(0, 5), file)
    gone = {before.stages[key].label for key in set(keys(before)) - set(keys(local(moved)))}
    assert gone == {f"score xquad in 2 languages with {before} > squad (full, seed 1)" for before in ("none", "squad")}


def test_settings_longer_than_the_encoder_are_refused(ask, workshop, tmp_path):
    short = workshop.make_encoder(tmp_path / "short", positions=100)
    told = problems(workshop.request(short, tmp_path / "runs"), MiniatureWorld())
    assert told == [f"max_length is 126, but {short} has positions for 98 tokens"]


def test_all_mistakes_of_a_request_are_told_at_once(tmp_path):
    told = problems(Request(("sqaud", "nowhere.yaml"), scale="huge", precision="fp16", targets=("xqaud", "tatoeba"),
                            languages=("xx",), data_root=None), MiniatureWorld())
    parts = ["unknown recipe 'sqaud'. Did you mean 'squad'", "recipe file 'nowhere.yaml' does not exist",
             "--scale 'huge' is no folder", "--precision fp16 needs a CUDA device",
             "unknown target task 'xqaud'. Did you mean 'xquad'", "unknown language 'xx'"]
    assert [part for part in parts if not any(part in message for message in told)] == []
    assert len(told) == len(parts)


def test_impossible_combinations_are_refused(workshop, encoder, tmp_path):
    def told(**changed):
        return "\n".join(problems(workshop.request(encoder, tmp_path, **changed), MiniatureWorld()))

    assert "--layers and --centre say how retrieval reads the encoder" in told(targets=("xquad",), layers=(1,))
    assert "mlqa is not scored in qb; its languages: en, qa" in told(languages=("qb",))
    assert "say --layers 0 to 2" in told(layers=None)
    assert "two recipes have the same name" in told(recipes=("squad", "squad"))


def test_a_mistyped_stage_or_intermediate_task_of_a_recipe_is_refused(workshop, encoder, tmp_path):
    path = workshop.make_recipe(tmp_path / "my.yaml", intermediate="sqad", training={"sqaud": {"epochs": 1}},
                                miniature={"tydiq": {"epochs": 1}})
    told = problems(workshop.request(encoder, tmp_path / "runs", recipes=(str(path),)), MiniatureWorld())
    parts = ["unknown intermediate task 'sqad'. Did you mean 'squad'", "unknown stage 'sqaud'. Did you mean 'squad'",
             "unknown stage 'tydiq'. Did you mean 'tydiqa'"]
    assert [part for part in parts if not any(part in message for message in told)] == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_an_optimizer_that_this_machine_has_not_is_refused_before_any_work(workshop, encoder, tmp_path, changed_recipe):
    recipe = changed_recipe("paged", optimizer="adamw_paged")
    told = problems(workshop.request(encoder, tmp_path / "runs", recipes=(recipe,), seeds=(1, 2)), MiniatureWorld())
    assert len(told) == 1 and "optimizer adamw_paged pages to a CUDA device's host" in told[0]


def test_no_retrieval_needs_no_layer(ask):
    assert {stage.layer for stage in ask(targets=("xquad",), layers=None).stages.values() if stage.kind == "evaluate"} \
        == {None}


def test_unreadable_data_stop_the_plan_with_every_file_named(workshop, encoder, data_root, tmp_path):
    root = shutil.copytree(data_root, tmp_path / "damaged")
    for config in ("XQuAD.en", "tatoeba.fin"):
        (root / f"google/xtreme/{config}/validation-00000-of-00001.parquet").write_bytes(b"PAR1 and no more")
    wanted = workshop.request(encoder, tmp_path / "runs", languages=("en", "de", "fi"), data_root=root)
    told = problems(wanted)
    assert len(told) == 2 and "XQuAD.en" in told[0] + told[1] and "tatoeba.fin" in told[0] + told[1]


def test_rows_are_read_once_however_many_stages_need_them(workshop, encoder, tmp_path, monkeypatch):
    calls = []
    plain = MiniatureWorld.load

    def counted(self, split, limit=None):
        calls.append((str(split), limit))
        return plain(self, split, limit)

    monkeypatch.setattr(MiniatureWorld, "load", counted)
    workshop.plan(workshop.request(encoder, tmp_path, methods=("full", "lora")))
    assert len(calls) == len(set(calls)) > 5


def test_every_recipe_that_comes_with_the_program_makes_a_plan(ask):
    for name in recipes.recipe_names():
        assert ask(recipes=(name,)).cells


def test_stages_are_values(ask):
    stage = next(iter(ask().stages.values()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        stage.seed = 9


def test_data_errors_of_the_provider_are_told_as_one_more_mistake(workshop, encoder, tmp_path, monkeypatch):
    def fail(self, split, limit=None):
        raise DataError(f"no rows of {split}")

    monkeypatch.setattr(MiniatureWorld, "load", fail)
    told = problems(workshop.request(encoder, tmp_path, targets=("xquad",)), MiniatureWorld())
    assert len(told) == 5 and all(message.startswith("no rows of") for message in told)


def test_a_split_without_labels_is_no_training_data(workshop, encoder, tmp_path, monkeypatch):
    columns = TASKS["mnli"].train[0].columns

    def blank(dataset, where):
        rows = columns(dataset, where)
        return rows.remove_columns("label").add_column("label", [""] * len(rows))

    train = dataclasses.replace(TASKS["mnli"].train[0], columns=blank)
    monkeypatch.setitem(TASKS._values, "mnli", dataclasses.replace(TASKS["mnli"], train=(train,)))
    with pytest.raises(UsageError, match="glue mnli train cannot be trained or selected on: it has no labels"):
        workshop.plan(workshop.request(encoder, tmp_path, recipes=("mnli",), targets=("xnli",)))


class FakeHub(MiniatureWorld):
    """The miniature world under the hub's name, so that what no hub has is treated so."""

    name = "hub"


def test_a_target_that_no_hub_has_is_left_out_and_said_or_refused_where_it_was_asked_for(workshop, encoder, tmp_path):
    plan = workshop.plan(workshop.request(encoder, tmp_path, targets=None), FakeHub())
    assert "bucc2018" not in {cell.stage.task.name for cell in plan.cells} and len(plan.notes) == 1
    assert "bucc2018 is left out. BUCC's pools of sentences are not on the hub" in plan.notes[0]
    assert "that is `bucc_gold`, not comparable" in plan.notes[0]
    everything = workshop.plan(workshop.request(encoder, tmp_path, targets=None), MiniatureWorld())
    assert "bucc2018" in {cell.stage.task.name for cell in everything.cells} and not everything.notes


@pytest.mark.parametrize("recipe, target, told", [
    ("ccg", "tatoeba", "CCGbank is licensed .LDC2005T13. and not on the hub.*tools/mirror.py ccg --source DIR"),
    ("all", "tatoeba", "Or leave ccg out: a YAML recipe with `intermediate: .*` mixes the tasks it names"),
    ("none", "bucc2018", "the gold pairs only, a much easier task: that is `bucc_gold`, not comparable")])
def test_what_is_licensed_or_on_no_hub_says_what_is_needed(workshop, encoder, tmp_path, recipe, target, told):
    from peft_stilts.tasks.sources import Hub

    hub = Hub({f"{repo}@{revision}": "0" * 40 for repo, revision in [
        ("google/xtreme", "main"), ("nyu-mll/glue", "main"), ("stanfordnlp/snli", "main"), ("facebook/anli", "main"),
        ("rajpurkar/squad", "main"), ("rajpurkar/squad_v2", "main"), ("tau/commonsense_qa", "main"),
        ("Rowan/hellaswag", "refs/convert/parquet"), ("allenai/cosmos_qa", "refs/convert/parquet")]})
    with pytest.raises(UsageError, match=told):
        workshop.plan(workshop.request(encoder, tmp_path, recipes=(recipe,), targets=(target,), languages=None,
                                       layers=(1,)), hub)


def overlapping(monkeypatch, name, **splits):
    monkeypatch.setitem(TASKS._values, name, dataclasses.replace(TASKS[name], **splits))


def test_ids_that_stand_in_two_splits_are_refused(workshop, encoder, tmp_path, monkeypatch):
    squad = TASKS["squad"]
    for splits, told in (({"select": squad.train}, "squad's development rows share 16 ids with its training rows"),
                         ({"train": squad.train * 2}, "squad's training rows have 8 ids more than once")):
        with monkeypatch.context() as patch:
            overlapping(patch, "squad", **splits)
            with pytest.raises(UsageError, match=told):
                workshop.plan(workshop.request(encoder, tmp_path, targets=("xquad",)))
    overlapping(monkeypatch, "xquad", test=lambda language: squad.train[0])
    with pytest.raises(UsageError, match="xquad en share 5 ids with squad's training rows"):
        workshop.plan(workshop.request(encoder, tmp_path, targets=("xquad",), languages=("en",)))
