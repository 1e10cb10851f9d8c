"""The flags of the benchmarks are read before anything is measured."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "bench.py"
BENCHES = ("train", "evaluate", "mine", "kernels", "scaling", "lengths", "contestant", "large", "step", "bundle")


def bench(*words):
    return subprocess.run([sys.executable, str(TOOL), *words], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("words, told", [
    (("large", "--stepz", "3"), "--stepz"),
    (("large", "--method", "lroa"), "it must be some of full, lora"),
    (("large", "--steps", "0"), "--steps"),
    (("large", "--precision", "int8"), "int8"),
    (("step", "--method", "full,lora"), "step measures one method"),
    (("larg",), "larg"),
    (("train", "--peers", "padded,jiant"), "it must be some of padded, grouped"),
    (("train", "--task", "qa,qa"), "it must be some of qa, pairs"),
    (("train", "--kernels", "cuda"), "it must be some of auto, triton, compile, eager"),
    (("train", "--micro_batch", "2,0"), "--micro_batch"),
    (("train", "--output", "found.txt"), "it must be a name that ends in .json"),
    (("train", "--output", "/nowhere/found.json"), "in a folder that exists"),
    (("train", "--lengths_from", "/nowhere"), "'/nowhere' is not a folder"),
    (("train", "--round", "2"), "--round"),
    (("evaluate", "--peers", "grouped"), "it must be some of padded, dynamic, sorted"),
    (("lengths",), "--lengths_from"),
    ((), "BENCH"),
])
def test_a_mistyped_flag_stops_before_anything_is_measured(words, told):
    done = bench(*words)
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stdout == ""
    assert told in done.stderr


def test_help_names_every_bench_and_flag():
    told = bench("--help").stdout
    assert all(name in told for name in BENCHES)
    for name, flags in {"large": ("method", "features", "length", "tokens_per_pack", "precision", "layers", "steps"),
                        "train": ("task", "method", "peers", "rounds", "steps", "parity", "profile", "kernels",
                                  "micro_batch", "lengths_from", "output", "quick", "threads"),
                        "mine": ("quick", "repeats", "output", "threads"), "bundle": ("layers",)}.items():
        told = bench(name, "--help").stdout
        assert all(f"--{flag}" in told for flag in flags)
