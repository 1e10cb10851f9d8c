"""The README runner on documents made for it."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest

from peft_stilts.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("run_readme", ROOT / "tools" / "run_readme.py")
sys.modules["run_readme"] = readme = importlib.util.module_from_spec(spec)
spec.loader.exec_module(readme)


@pytest.fixture
def clone(tmp_path):
    """A function that lays a small clone with a tool, a Makefile and the given README, and gives its root."""
    def lay(text):
        root = tmp_path / "a clone"
        (root / "tools").mkdir(parents=True)
        (root / "tools/count.py").write_text(
            "import argparse\np = argparse.ArgumentParser()\np.add_argument('--upto', type=int)\n"
            "print(*range(p.parse_args().upto))\n")
        (root / "Makefile").write_text("demo:\n\techo hello\n")
        (root / "README.md").write_text(text)
        return root
    return lay


@pytest.fixture(autouse=True)
def program(monkeypatch):
    """A command line with one flag, in the place of the real one."""
    def check_arguments(argv):
        unknown = [word for word in argv if word.startswith("--") and word != "--scale"]
        if unknown:
            raise UsageError(f"unknown flag {unknown[0]}")

    monkeypatch.setitem(sys.modules, "peft_stilts.cli", types.SimpleNamespace(check_arguments=check_arguments))


def problems(root, **options):
    return readme.run_document(root / "README.md", root, **options)


def test_blocks_run_in_order_in_one_new_folder_and_other_fences_do_not(clone):
    root = clone("```bash\npython tools/count.py --upto 3 > numbers\n```\ntext\n```text\nfalse\n```\n"
                 "  ```bash\n  test \"$(cat numbers)\" = '0 1 2'  # written by the first block\n  ```\n"
                 "````markdown\n```bash\nfalse\n```\n````\n")
    assert len(readme.blocks(root / "README.md")) == 2
    assert problems(root) == []
    assert sorted(p.name for p in root.iterdir()) == ["Makefile", "README.md", "tools"]


@pytest.mark.parametrize("body", ["false\ntrue", "false | true", "echo $not_set", "python tools/count.py --up 3 --x"])
def test_a_failing_block_is_shown_and_ends_the_run(clone, body):
    root = clone(f"# Title\n```bash\n{body}\n```\n```bash\ntouch \"{'reached'}\"\n```\n")
    told = problems(root)
    assert len(told) == 1 and told[0].startswith("README.md:3\n    ") and "exit status" in told[0]


def test_a_block_that_hangs_ends(clone, monkeypatch):
    monkeypatch.setattr(readme, "SECONDS", 0.2)
    assert "more than" in problems(clone("```bash\nsleep 30\n```\n"))[0]


@pytest.mark.parametrize("body, told", [
    ("python -m peft_stilts recipe squad --scale mini", ""),
    ("python -m peft_stilts recipe squad --scael mini", "unknown flag --scael"),
    ("OMP_NUM_THREADS=1 .venv/bin/python -m peft_stilts recipe squad \\\n    --bad 1  # comment", "unknown flag --bad"),
    ("cd x && peft_stilts recipe squad --bad > log", "unknown flag --bad"),
    ("echo a | peft_stilts doctor --bad; echo b", "unknown flag --bad"),
    ("python tools/count.py --upto 99999999999999", ""),
    ("python tools/count.py --up_to=3", "unknown --up_to; known: --help, --upto"),
    ("python tools/absent.py --upto 3", "failed"),
    ("make demo", ""),
    ("make dmeo", "dmeo"),
    ("git clone nowhere 'my folder' && pip install x > y 2>&1", ""),
    ("if true; then", "syntax error"),
])
def test_long_blocks_are_checked_and_not_run(clone, body, told):
    found = problems(clone(f"```bash long\n{body}\n```\n"))
    assert len(found) == bool(told) and all(told in problem for problem in found), found


def test_long_blocks_run_when_asked_with_a_log(clone, tmp_path):
    log = tmp_path / "log"
    root = clone("```bash long\npython tools/count.py --upto 4\n```\n```bash long\nexit 3\n```\n")
    assert "exit status 3" in problems(root, long=True, log=log)[0]
    text = log.read_text()
    assert "python tools/count.py --upto 4\n[" in text and "s, exit status 0]\n0 1 2 3\n" in text
    assert "exit status 3]" in text


@pytest.mark.parametrize("text", ["```bash\ntrue\n", "```sh\ntrue\n```\n", "```bash lnog\ntrue\n```\n"])
def test_fences_that_would_escape_the_check_are_refused(clone, text):
    with pytest.raises(ValueError, match="README.md:1"):
        problems(clone(text))


def test_documents(clone):
    root = clone("")
    (root / "docs").mkdir()
    (root / "docs/b.md").touch(), (root / "docs/a.md").touch()
    assert [path.name for path in readme.documents(root)] == ["README.md", "a.md", "b.md"]
