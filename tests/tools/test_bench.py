"""The flags of the bench are read before anything is measured."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "bench.py"


def bench(*words):
    return subprocess.run([sys.executable, str(TOOL), *words], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("words", [("large", "--stepz", "3"), ("large", "--method", "lroa"), ("large", "--steps", "0"),
                                   ("step", "--method", "full,lora"), ("larg",), ("large", "--precision", "int8")])
def test_a_mistyped_flag_stops_before_anything_is_measured(words):
    done = bench(*words)
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stdout == ""


def test_help_names_every_flag():
    told = bench("--help").stdout
    assert all(f"--{flag}" in told for flag in (
        "method", "features", "length", "tokens_per_pack", "precision", "layers", "steps"))
