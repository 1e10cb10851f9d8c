"""From a run to a bundle, elsewhere, and back: predictions byte for byte those of the run."""

import shutil

import pytest

from peft_stilts import results
from peft_stilts.grid import evaluate as evaluating
from peft_stilts.grid import run as running
from peft_stilts.grid.evaluate import evaluate_source
from peft_stilts.grid.given import lineage_told, open_adapters, told_of
from peft_stilts.grid.stages import adapters
from peft_stilts.miniature.provider import MiniatureWorld
from peft_stilts.model.bundle import read_bundle
from peft_stilts.share.archive import unpack
from peft_stilts.share.export import export
from peft_stilts.store import Store

HEADS = {"xquad": "squad", "udpos": "udpos", "xnli": "mnli"}


@pytest.fixture
def rescored(workshop, encoder, tmp_path, monkeypatch):
    """Scores a source as `evaluate` does, training being a failure; returns the folder of the results."""
    monkeypatch.setattr(running, "train", lambda *args, **options: pytest.fail("something was trained"))
    monkeypatch.setattr(evaluating, "choose_provider", lambda *args: MiniatureWorld())

    def make(source, target, out="scored elsewhere"):
        wanted = workshop.request("auto", tmp_path / "nothing", targets=(target,), languages=("en", "qa"), layers=None,
                                  limit_train=None, limit_eval=4)
        evaluate_source(str(source), wanted, tmp_path / out)
        return tmp_path / out

    return make


def predictions(folder, target):
    return {path.name: path.read_bytes() for path in (folder / "predictions" / target).iterdir()}


CASES = [(method, "stack", ("xquad", "udpos"), target, below) for method in ("rslora", "dora", "qlora")
         for target, below in (("xquad", ()), ("udpos", ("hellaswag",)), ("xquad", ("hellaswag", "mnli")))]
CASES += [("lora", "stack", ("xquad", "udpos", "xnli"), target, below) for target, below in
          (("xnli", ()), ("udpos", ("hellaswag",)), ("xquad", ("hellaswag", "mnli")), ("xnli", ("hellaswag", "mnli")))]
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
    assert len(bundle.adapters) == len(adapters(stage)) == (1 if policy == "continue" else len(below) + 1)
    # An encoder in a folder has no id by which others find it: it is named.
    evaluate_base = {"id": bundle.base["id"]}
    assert evaluate_base == {"id": "an encoder"}
    out = rescored_with_base(rescored, bundle.folder, target, made)
    run_folder = Store(made.runs).folder(made.scored(target, stage).key)
    assert predictions(out, target) == predictions(run_folder, target)
    ours, theirs = results.read(out), results.RESULTS.read(run_folder)
    same = ["target", "language", "metric", "score", "examples", "method", "seed", "intermediate", "split"]
    assert ours[same].sort_values(same).to_dict("records") == theirs[same].sort_values(same).to_dict("records")
