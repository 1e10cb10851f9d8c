"""Tiny encoders, stacks and runs for the tests of share/."""

import gc
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.grid import conftest as grid

encoder, one_thread, workshop = grid.encoder, grid.one_thread, grid.workshop


def _module(path):
    spec = importlib.util.spec_from_file_location(f"share_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_STACKS = _module(Path(__file__).with_name("stacks.py"))
_CARDS = _module(Path(__file__).with_name("cards.py"))


@pytest.fixture(scope="session")
def makers():
    """tests/share/stacks.py."""
    return _STACKS


@dataclass
class Run:
    """A finished run: its plan and its folder."""

    plan: Any
    runs: Path

    def stage(self, *path, role="target"):
        """The trained stage with this path of names: MNLI's own stage and the training for XNLI have the same."""
        return next(stage for stage in self.plan.stages.values() if stage.kind == "train" and stage.path == path
                    and stage.role == role)

    def scored(self, target, parent):
        """The evaluation of a target with the model of `parent`."""
        return next(stage for stage in self.plan.stages.values() if stage.kind == "evaluate"
                    and stage.task.name == target and stage.parent.key == parent.key)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, workshop, encoder):
    """Makes, once each, a run in the miniature world with everything kept: targets on the bare encoder, on HellaSwag,
    and on MNLI on HellaSwag."""
    made = {}

    def make(method, targets=("xquad", "udpos"), policy="stack"):
        from peft_stilts.grid.run import run

        key = method, targets, policy
        if key not in made:
            gc.freeze()     # memory is freed before each training: what is there by now need not be looked through
            folder = tmp_path_factory.mktemp(f"{method} {policy}")
            fast = {"epochs": 1.0, "features_per_step": 6, "keep": "last"}
            shape = {"lr": 1e-2, "head_lr": 1e-2, "rank": 4, "dropout": 0.0}
            training = {"default": workshop.FAST["default"] | fast | dict.fromkeys(("lora", method), shape)}
            recipes = {name: str(workshop.make_recipe(folder / f"{name}.yaml", intermediate=name, training=training))
                       for name in ("hellaswag", "mnli", "none")}
            wanted = workshop.request(encoder, folder / "my runs", recipes=(recipes["none"], recipes["mnli"]),
                                      stack=(recipes["hellaswag"],), methods=(method,), policies=(policy,),
                                      targets=targets, languages=("en", "qa"), limit_train=12, limit_eval=4, keep=True)
            plan = workshop.plan(wanted)
            run(plan)
            made[key] = Run(plan, folder / "my runs")
        return made[key]

    return make


@pytest.fixture(scope="session")
def cards():
    """tests/share/cards.py."""
    return _CARDS


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory):
    """A random XLM-R of 2 layers with its tokenizer, in a folder whose path nobody should be told."""
    return _CARDS.make_encoder(tmp_path_factory.mktemp("some one's machine") / "encoder")


@pytest.fixture(scope="session")
def shared_bundle(encoder_folder, tmp_path_factory):
    """A bundle of squad and mnli for a base of the hub, with scores of three seeds and their baselines."""
    out = tmp_path_factory.mktemp("bundle") / "squad-mnli"
    stages = [("squad", "stack"), ("mnli", "stack")]
    return _CARDS.make_bundle(encoder_folder, out, stages, _CARDS.SCORES, _CARDS.HUB)
