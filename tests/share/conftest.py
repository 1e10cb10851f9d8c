"""Tiny encoders, stacks and runs for the tests of share/."""

import importlib.util
from pathlib import Path

import pytest
import torch


def _module(path):
    spec = importlib.util.spec_from_file_location(f"share_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_WORKSHOP = _module(Path(__file__).parents[1] / "grid" / "workshop.py")
_STACKS = _module(Path(__file__).with_name("stacks.py"))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Results depend on the number of threads in the last bits, and small models are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def workshop():
    """tests/grid/workshop.py."""
    return _WORKSHOP


@pytest.fixture(scope="session")
def makers():
    """tests/share/stacks.py."""
    return _STACKS


@pytest.fixture(scope="session")
def encoder(tmp_path_factory, workshop):
    """The folder of a random XLM-R of 2 layers."""
    return workshop.make_encoder(tmp_path_factory.mktemp("tiny") / "an encoder")
