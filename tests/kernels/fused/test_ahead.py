"""Every kernel compiles for sm_80 and sm_90 without a GPU, and keeps its numbers in registers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from peft_stilts.kernels.fused import ahead

ROOT = Path(__file__).resolve().parents[3]
WITHOUT_KERNELS = {"__init__", "ahead", "dropout", "sizes"}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What tools/compile_kernels.py wrote and printed, in a process without the interpreter."""
    folder = tmp_path_factory.mktemp("compiled")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    told = subprocess.run([sys.executable, str(ROOT / "tools/compile_kernels.py"), "--output", folder / "table.json"],
                          env=environment | {"TRITON_CACHE_DIR": str(folder / "cache")}, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr
    return json.loads((folder / "table.json").read_text(encoding="utf-8")), told.stdout


def test_every_variant_is_in_the_table_and_none_spills(compiled):
    table, printed = compiled
    expected = [(variant.name, f"sm_{target}") for variant in ahead.variants() for target in ahead.TARGETS]
    assert [(row["kernel"], row["target"]) for row in table["kernels"]] == expected and table["failures"] == []
    for row in table["kernels"]:
        assert 0 < row["registers"] <= 255 and row["spills"] == 0, row
        # What a block may have at most (CUDA programming guide, compute capabilities), in KiB.
        assert row["shared"] <= {"sm_80": 163, "sm_90": 227}[row["target"]] * 1024, row
    assert all(name in printed for name, _ in expected)


def test_every_file_has_variants_in_both_dtypes():
    files = {path.stem for path in Path(ahead.__file__).parent.glob("*.py")} - WITHOUT_KERNELS
    names = [variant.name for variant in ahead.variants()]
    assert len(set(names)) == len(names)
    for file in files:
        module = sys.modules[f"peft_stilts.kernels.fused.{file}"]
        assert {"fp32", "bf16"} <= {variant.name.split()[-1] for variant in module.VARIANTS}, file


def test_a_kernel_that_does_not_compile_is_told(tmp_path):
    """The tool goes on with the others, and ends with status 1."""
    (tmp_path / "broken.py").write_text(
        "import triton, runpy, sys\n"
        "from peft_stilts.kernels.fused import ahead\n"
        "@triton.jit\n"
        "def kernel(x):\n"
        "    unknown(x)\n"
        "ahead.variants = lambda: [ahead.Variant('broken fp32', kernel, {'x': '*fp32'})]\n"
        f"sys.argv = ['compile_kernels.py', '--output', {str(tmp_path / 'table.json')!r}]\n"
        f"runpy.run_path({str(ROOT / 'tools/compile_kernels.py')!r}, run_name='__main__')\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    told = subprocess.run([sys.executable, str(tmp_path / "broken.py")], capture_output=True, text=True,
                          env=environment | {"TRITON_CACHE_DIR": str(tmp_path / "cache")}, cwd=ROOT)
    assert told.returncode == 1 and "broken fp32" in told.stdout and "does not compile" in told.stdout, told.stderr
    failures = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))["failures"]
    assert [row["target"] for row in failures] == ["sm_80", "sm_90"] and "unknown" in failures[0]["error"]
