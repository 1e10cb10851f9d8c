"""Fixtures for every test: where the optional reference data are, and no network."""

import atexit
import os
from pathlib import Path

import pytest

# Before any library reads them: no test may reach the network, nor open a window.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["MPLBACKEND"] = "Agg"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"     # as many threads as processes
if os.environ.get("STILTS_TEST_DEVICE") != "cuda":      # with it, tests/kernels/fused runs on the GPU
    # The same arithmetic on every machine: what runs on a GPU is measured by tools/bench.py.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Fused kernels run in Triton's interpreter; read when Triton is imported, which torch does by itself.
    os.environ["TRITON_INTERPRET"] = "1"


@atexit.register
def _quiet_end():
    """After pytest's closing lines triton 3.9 would list the objects that Python still holds at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The optional folder of reference data beside the project; tests that need it are skipped without it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("the reference data folder is not beside the project")
    return folder
