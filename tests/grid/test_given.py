"""Stacks below a recipe: trained, given, continued or folded in; what is refused; and that the base is loaded once."""

import shutil

import pytest
import yaml

from peft_stilts import results
from peft_stilts.digest import sha256_folder
from peft_stilts.errors import UsageError
from peft_stilts.grid import loader
from peft_stilts.grid.run import run
from peft_stilts.grid.stages import adapters
from peft_stilts.store import Store


@pytest.fixture(scope="module")
def first(tmp_path_factory, workshop, encoder):
    """A run of SQuAD, then TyDiQA's English, by LoRA: the stack of `none --stack tiny,tiny2`."""
    runs = tmp_path_factory.mktemp("given") / "my runs"
    plan = workshop.plan(workshop.request(encoder, runs, methods=("lora",), targets=("xquad",), keep=True))
    run(plan)
    return plan, runs


def trained(plan, *path):
    return next(stage for stage in plan.stages.values() if stage.kind == "train" and stage.path == path)


def ask(workshop, encoder, runs, *stack, **changed):
    return workshop.plan(workshop.request(encoder, runs, **{
        "recipes": ("none",), "methods": ("lora",), "targets": ("xquad",), "stack": stack} | changed))


def test_recipes_are_trained_one_upon_the_other(workshop, encoder, tmp_path, capsys):
    plan = ask(workshop, encoder, tmp_path / "runs", "squad", "mnli", languages=("en", "qa"))
    run(plan)
    said = capsys.readouterr().out
    assert "stack: [1-squad (frozen), 2-mnli (frozen), 3-squad (train)]" in said
    frame = results.read(tmp_path / "runs")
    assert set(frame["intermediate"]) == {"none", "squad>mnli"} and set(frame["policy"]) == {"stack"}
    stage = trained(plan, "squad", "mnli", "squad")
    assert [one.name for one in adapters(stage)] == ["squad", "mnli", "squad"]


def test_a_stack_in_a_recipe_file_is_that_of_the_flag(workshop, encoder, tmp_path):
    recipe = workshop.make_recipe(tmp_path / "own.yaml", intermediate="none", stack=["squad", "mnli"])
    plan = workshop.plan(workshop.request(encoder, tmp_path, recipes=(str(recipe),), methods=("lora",),
                                          targets=("xquad",)))
    assert {cell.labels["intermediate"] for cell in plan.cells} == {"none", "squad>mnli"}
    content = yaml.safe_load(recipe.read_text()) | {"intermediate": "qqp"}
    recipe.write_text(yaml.safe_dump(content))
    plan = workshop.plan(workshop.request(encoder, tmp_path, recipes=(str(recipe),), methods=("lora", "full"),
                                          targets=("xquad",)))
    assert {cell.labels["intermediate"] for cell in plan.cells} == {"none", "squad>mnli>qqp"}


def test_a_given_adapter_is_taken_into_the_run_and_left_alone(first, workshop, encoder, tmp_path):
    plan, runs = first
    folder = Store(runs).folder(trained(plan, "squad").key)
    before = sha256_folder(folder)
    by_stage = ask(workshop, encoder, tmp_path / "by stage", str(folder))
    by_adapter = ask(workshop, encoder, tmp_path / "by adapter", str(folder / "adapter"))
    for made, place in ((by_stage, "by stage"), (by_adapter, "by adapter")):
        run(made)
        frame = results.read(tmp_path / place).query("intermediate == 'squad'")
        old = results.read(runs).query("intermediate == 'squad'")
        assert frame["score"].tolist() == old["score"].tolist(), "the same adapter below, the same target above"
        assert frame["intermediate_variant"].str.startswith("adapter ").all()
    assert sha256_folder(folder) == before
    stages = results.STAGES.read(tmp_path / "by stage")
    assert stages.query("kind == 'given'")["trainable_parameters"].tolist() == [0]
    assert any("given, one adapter for all seeds" in note for note in by_stage.notes)
    again = ask(workshop, encoder, tmp_path / "by stage", next(key for key, stage in by_stage.stages.items()
                                                               if stage.kind == "given"))
    assert {key for key in again.stages} <= {key for key in by_stage.stages}, "a key of the run is the same stage"


def test_policies_are_rows_of_one_table_and_share_their_baseline(workshop, encoder, tmp_path):
    policies = ("stack", "continue", "merge")
    plan = workshop.plan(workshop.request(encoder, tmp_path / "runs", methods=("lora",), targets=("xquad",),
                                          policies=policies, languages=("en", "qa")))
    run(plan)
    frame = results.read(tmp_path / "runs")
    assert set(frame["policy"]) == set(policies)
    assert frame.query("intermediate == 'none'")["stage_key"].nunique() == 1
    assert frame.query("intermediate == 'squad'")["stage_key"].nunique() == 3
    assert len(results.gains(frame)) == len(frame) / 2
    labels = {stage.model for stage in plan.stages.values() if stage.kind == "train"}
    assert "squad > squad (lora, continue, seed 1)" in labels and "squad > squad (lora, merge, seed 1)" in labels


@pytest.mark.parametrize(("method", "changed", "told"), [
    ("qlora", {"policies": ("merge",)}, "cannot be done exactly in the 4 bits"),
    ("dora", {"dropout": 0.1}, "DoRA with dropout 0.1 over frozen adapters"),
    ("lora", {"policies": ("continue",), "rank": 2}, "'rank': 4.* is to be .*'rank': 2")])
def test_what_is_not_exact_is_refused_before_anything_runs(workshop, encoder, tmp_path, method, changed, told):
    changed = dict(changed)
    policies, own = changed.pop("policies", ("stack",)), {"lora": {"rank": 4}}
    content = {"default": {"max_length": 96, "max_query_length": 24}, "intermediate": own,
               "squad": {"lora": {"rank": changed.pop("rank", 4)}, "dora": changed}}
    recipe = workshop.make_recipe(tmp_path / "own.yaml", training=content)
    with pytest.raises(UsageError, match=told):
        workshop.plan(workshop.request(encoder, tmp_path, recipes=(str(recipe),), methods=(method,), policies=policies,
                                       targets=("xquad",)))


def test_wrong_stacks_name_both_sides(first, workshop, encoder, tmp_path):
    plan, runs = first
    store = Store(runs)
    squad, above = (store.folder(trained(plan, *path).key) for path in (("squad",), ("squad", "squad")))
    for stack, told in (
            (("squadd",), "'squadd' is nothing to start from.*share pull FILE.zip"),
            (("none",), "no intermediate task to train"),
            (("squad", str(squad)), "trained on the bare encoder; in this stack it would stand on squad"),
            ((str(above / "adapter"),), "trained on sha256 .*; in this stack it would stand on the bare encoder")):
        with pytest.raises(UsageError, match=told):
            ask(workshop, encoder, tmp_path, *stack)
    ask(workshop, encoder, tmp_path, str(squad / "adapter"), str(above / "adapter"))        # where it belongs
    other = workshop.make_encoder(tmp_path / "other", seed=7)
    with pytest.raises(UsageError, match="was trained on .*; the encoder here is .*name its base with --scale"):
        ask(workshop, other, tmp_path, str(squad))
    for method, told in (("full", "an adapter stands on adapters"), ("qlora", "4-bit base of qlora")):
        with pytest.raises(UsageError, match=told):
            ask(workshop, encoder, tmp_path, str(squad), methods=(method,))
    broken = shutil.copytree(squad / "adapter", tmp_path / "broken")
    data = bytearray((broken / "adapter_model.safetensors").read_bytes())
    data[-1] ^= 1
    (broken / "adapter_model.safetensors").write_bytes(bytes(data))
    with pytest.raises(UsageError, match="is damaged: its sha256 is"):
        ask(workshop, encoder, tmp_path, str(broken))


def test_many_adapters_are_trained_and_scored_on_one_loaded_base(workshop, encoder, tmp_path, monkeypatch):
    loaded, load = [], loader.load_encoder
    monkeypatch.setattr(loader, "load_encoder", lambda folder: loaded.append(folder) or load(folder))
    plan = workshop.plan(workshop.request(encoder, tmp_path / "runs", methods=("lora", "rslora", "dora"),
                                          seeds=(1, 2), languages=("en", "qa")))
    run(plan)
    assert len(loaded) == 1, "the base, once, for every adapter of every method and seed"
    alone = workshop.plan(workshop.request(encoder, tmp_path / "alone", methods=("dora",), seeds=(2,),
                                           languages=("en", "qa")))
    run(alone)
    both = results.read(tmp_path / "runs").query("method == 'dora' and seed == 2")
    assert both["score"].tolist() == results.read(tmp_path / "alone")["score"].tolist()
