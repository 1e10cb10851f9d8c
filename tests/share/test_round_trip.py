"""From a run to a bundle, elsewhere, and back: predictions byte for byte those of the run."""

import shutil

import pytest

from peft_stilts import results
from peft_stilts.grid import evaluate as evaluating
from peft_stilts.grid import run as running
from peft_stilts.grid.evaluate import evaluate_source
from peft_stilts.grid.given import open_adapters
from peft_stilts.grid.stages import adapters
from peft_stilts.miniature.provider import MiniatureWorld
from peft_stilts.model.bundle import read_bundle
from peft_stilts.share.archive import unpack
from peft_stilts.share.export import export
from peft_stilts.share.load import load
from peft_stilts.store import Store

HEADS = {"xquad": "squad", "udpos": "udpos", "xnli": "mnli"}


@pytest.fixture
def rescored(workshop, encoder, tmp_path, monkeypatch):
    """Scores a source as `evaluate` does, training being a failure; returns the folder of the results."""

    def make(source, target, out="scored elsewhere"):
        monkeypatch.setattr(running, "train", lambda *args, **options: pytest.fail("something was trained"))
        monkeypatch.setattr(evaluating, "choose_provider", lambda *args: MiniatureWorld())
        wanted = workshop.request(encoder, tmp_path / "nothing", targets=(target,), languages=("en", "qa"), layers=None,
                                  limit_train=None, limit_eval=4)
        evaluate_source(str(source), wanted, tmp_path / out)
        return tmp_path / out

    return make


def predictions(folder, target):
    return {path.name: path.read_bytes() for path in (folder / "predictions" / target).iterdir()}


BELOW = ((), ("hellaswag",), ("hellaswag", "mnli"))
ALL = ("xquad", "udpos", "xnli")
CASES = [(method, "stack", (target,), target, below) for method, target in
         (("rslora", "xquad"), ("dora", "udpos"), ("qlora", "xquad")) for below in BELOW]
CASES += [("lora", "stack", ALL, target, below) for target, below in
          (("xnli", ()), ("udpos", BELOW[1]), ("xnli", BELOW[2]), ("xquad", BELOW[2]))]
CASES += [(method, policy, ("xquad",), "xquad", ("hellaswag", "mnli")) for method, policy in
          (("dora", "merge"), ("lora", "continue"))]


@pytest.mark.parametrize(("method", "policy", "targets", "target", "below"), CASES)
def test_a_bundle_predicts_what_the_run_did(trained, rescored, tmp_path, method, policy, targets, target, below):
    made = trained(method, targets, policy)
    stage = made.stage(*below, HEADS[target])
    export(str(made.runs), tmp_path / "a bundle", stage=stage.key, licence="mit", say=lambda line: None)
    shutil.copytree(tmp_path / "a bundle", tmp_path / "elsewhere" / "copied")
    shutil.rmtree(tmp_path / "a bundle")
    bundle = read_bundle(tmp_path / "elsewhere" / "copied")
    assert len(bundle.adapters) == (1 if policy == "continue" else len(below) + 1)

    out = rescored(bundle.folder, target)
    there = Store(made.runs).folder(made.scored(target, stage).key)
    assert predictions(out, target) == predictions(there, target)
    before = results.read(made.runs)
    before = before[before["stage_key"] == made.scored(target, stage).key]
    same = ["target", "language", "metric", "split", "examples", "method", "intermediate", "seed", "score"]
    ours, theirs = (frame[same].sort_values(same).to_dict("records") for frame in (results.read(out), before))
    if policy == "continue":        # what is known of it is one adapter, trained on several tasks
        assert [row["score"] for row in ours] == [row["score"] for row in theirs]
    else:
        assert ours == theirs


@pytest.mark.parametrize(("method", "targets"), [("lora", ALL), ("qlora", ("xquad",))])
def test_what_is_known_of_a_training_comes_back(trained, tmp_path, method, targets):
    made = trained(method, targets)
    stage = made.stage("hellaswag", "mnli", "squad")
    export(str(made.runs), tmp_path / "bundle", stage=stage.key, say=lambda line: None)
    chain = open_adapters(str(tmp_path / "bundle"))
    assert len(chain) == 3
    for found, trained_stage in zip(chain, adapters(stage), strict=True):
        for name in ("name", "method", "settings", "lora", "seed", "limit", "role", "policy", "tasks"):
            assert getattr(found, name) == getattr(trained_stage, name), name
        assert found.spec["precision"] == "fp32" and found.spec["variant"].startswith("adapter ")
    assert [one.path for one in chain] == [("hellaswag",), ("hellaswag", "mnli"), ("hellaswag", "mnli", "squad")]


def test_trainings_of_one_adapter_come_back_in_order(trained, tmp_path):
    made = trained("lora", ("xquad",), "continue")
    stage = made.stage("hellaswag", "mnli", "squad")
    bundle = export(str(made.runs), tmp_path / "bundle", stage=stage.key, say=lambda line: None)
    assert [(part["adapter"], part["name"], part["policy"]) for part in bundle.recipe] == [
        ("1-squad", "hellaswag", "stack"), ("1-squad", "mnli", "continue"), ("1-squad", "squad", "continue")]
    [found] = open_adapters(str(tmp_path / "bundle"))
    assert found.name == "hellaswag>mnli>squad" and found.role == "target" and set(found.heads) == {"squad"}


def test_a_stack_is_trained_on_from_a_bundle_as_from_the_run(trained, workshop, encoder, tmp_path):
    """A bundle of the intermediate stages, unpacked from a zip, starts a new run: the target that is trained on it is
    the very same adapter."""
    made = trained("lora", ALL)
    stage = made.stage("hellaswag", "mnli", role="intermediate")
    export(str(made.runs), tmp_path / "my.zip", stage=stage.key, licence="mit", say=lambda line: None)
    unpack(tmp_path / "my.zip", tmp_path / "unpacked")
    none = made.runs.parent / "none.yaml"
    plan = workshop.plan(workshop.request(
        encoder, tmp_path / "runs", recipes=(str(none),), stack=(str(tmp_path / "unpacked"),), methods=("lora",),
        targets=("udpos",), languages=("en", "qa"), limit_train=12, limit_eval=4, layers=None, keep=True))
    running.run(plan)
    again = next(stage for stage in plan.stages.values() if stage.kind == "train" and stage.parent)
    first = made.stage("hellaswag", "mnli", "udpos")
    weights = [Store(runs).open(key) / "adapter" / "adapter_model.safetensors" for runs, key in
               ((made.runs, first.key), (tmp_path / "runs", again.key))]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    folders = [Store(runs).open(next(stage.key for stage in of.stages.values() if stage.kind == "evaluate"
                                     and stage.task.name == "udpos" and stage.parent.key == key))
               for runs, of, key in ((made.runs, made.plan, first.key), (tmp_path / "runs", plan, again.key))]
    assert predictions(folders[0], "udpos") == predictions(folders[1], "udpos")
    frame = results.read(tmp_path / "runs")
    assert set(frame["intermediate"]) == {"none", "hellaswag>mnli"} and not len(results.unpaired(frame))
    bundle = export(str(tmp_path / "runs"), tmp_path / "bundle", stage=again.key, say=lambda line: None)
    assert [part["name"] for part in bundle.recipe] == ["hellaswag", "mnli", "udpos"], "what the first bundle told"
    assert set(bundle.heads) == {"hellaswag", "mnli", "udpos"}
    assert {row["base_model"] for row in bundle.scores} == {row["scale"] for row in bundle.scores} == {"an encoder"}
    model, _ = load(Store(tmp_path / "runs").folder(again.key))     # the run knows where its base is
    assert type(model).__name__ == "XLMRobertaForTokenClassification"
