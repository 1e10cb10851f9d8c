"""A tiny random XLM-R, a small data folder, and finished runs for the tests of grid/."""

import gc
import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

_spec = importlib.util.spec_from_file_location("grid_workshop", Path(__file__).with_name("workshop.py"))
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)


@dataclass
class Run:
    """A finished run: its plan, its folder, and what it printed."""

    plan: Any
    runs: Path
    said: str = ""


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Results depend on the number of threads in the last bits, and small models are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()     # memory is freed before each training: what is there by now need not be looked through
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def workshop():
    return _module


@pytest.fixture(scope="session")
def encoder(tmp_path_factory, workshop):
    """The folder of a random XLM-R of 2 layers."""
    return workshop.make_encoder(tmp_path_factory.mktemp("tiny") / "an encoder")


@pytest.fixture(scope="session")
def data_root(tmp_path_factory, workshop):
    """A --data_root folder with all four targets in en, de and fi, as far as they have them."""
    return workshop.make_data(tmp_path_factory.mktemp("data") / "hub mirror")


@pytest.fixture(scope="session")
def recipe(tmp_path_factory, workshop):
    """A recipe file with settings for a tiny encoder."""
    return workshop.make_recipe(tmp_path_factory.mktemp("recipes") / "tiny.yaml")


@pytest.fixture(scope="session")
def finished(tmp_path_factory, workshop, encoder):
    """The recipe squad in the miniature world, by both methods, target models dropped. Copy it before changing it."""
    from peft_stilts.grid.run import run

    runs = tmp_path_factory.mktemp("finished") / "my runs"
    plan = workshop.plan(workshop.request(encoder, runs, methods=("full", "lora")))
    run(plan)
    return Run(plan, runs)


@pytest.fixture(scope="session")
def kept(tmp_path_factory, workshop, encoder, data_root, recipe):
    """The tiny recipe on the data folder, by both methods, target models kept. Copy it before changing it."""
    from peft_stilts.grid.run import run
    from peft_stilts.tasks.sources import LocalMirror

    runs = tmp_path_factory.mktemp("kept") / "my runs"
    wanted = workshop.request(encoder, runs, recipes=(str(recipe),), methods=("full", "lora"), keep=True,
                              languages=("en", "de", "fi"), data_root=data_root)
    plan = workshop.plan(wanted, LocalMirror(data_root))
    run(plan)
    return Run(plan, runs)


@pytest.fixture
def copied(tmp_path):
    """Copies a runs folder, times of the files included, into the test's own folder."""

    def copy(runs):
        return Path(shutil.copytree(runs, tmp_path / "copied runs"))

    return copy
