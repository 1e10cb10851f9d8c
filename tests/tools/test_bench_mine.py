"""The mining benchmark: its contestants mine the same pairs, and what is missing is named."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))
from benches import mine  # noqa: E402

JOB = mine.Job("ours", (120, 90, 24), threads=1, chunk=50)


def pairs(who):
    found = mine.CONTESTANTS[who](*mine.vectors(JOB.shape, JOB.seed), replace(JOB, who=who))
    return [pair[:2] for pair in found]


@pytest.mark.parametrize("who, module", [("faiss", "faiss"), ("sentence-transformers", "sentence_transformers")])
def test_every_contestant_mines_the_same_pairs(who, module):
    pytest.importorskip(module)
    assert pairs(who) == pairs("ours")


def test_half_of_the_shorter_side_are_translations_and_most_of_them_are_found():
    found = pairs("ours")
    x, y = mine.vectors((120, 90, 24), 1)
    near = [(x[i] @ y[j] / x[i].norm() / y[j].norm()).item() for i, j in found[:40]]
    assert len(found) > 45 and min(near) > 0.6
    assert pairs("product") == []


def test_packages_that_are_missing_are_named(monkeypatch, capsys):
    monkeypatch.setattr(mine.importlib.util, "find_spec", lambda name: None)
    assert list(mine.contestants(argparse.Namespace(threads=1), JOB.shape)) == ["ours"]
    told = capsys.readouterr().out
    assert "python -m pip install faiss-cpu" in told and "python -m pip install sentence-transformers" in told


def test_different_pairs_end_the_benchmark(monkeypatch, capsys):
    class Process:
        def __init__(self, job):
            self.job = job

        def __enter__(self):
            answer = {"seconds": 2.0 if self.job.who == "faiss" else 1.0, "peak_bytes": 2**30,
                      "pairs": [(0, 0), (1, 1)] if self.job.who == "ours" else found}
            return lambda: answer

        def __exit__(self, *told):
            pass

    monkeypatch.setattr(mine, "started", Process)
    monkeypatch.setattr(mine, "contestants", lambda *given: {"ours": JOB, "faiss": replace(JOB, who="faiss")})
    found = [(0, 0), (1, 1)]
    result = mine.compare(argparse.Namespace(threads=1, repeats=3), JOB.shape)
    assert result["contestants"]["faiss"]["seconds"] == [2.0] * 3
    assert result["ratios"]["ours / faiss"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    found = [(0, 0), (1, 2)]
    with pytest.raises(SystemExit, match="do not mine the same pairs"):
        mine.compare(argparse.Namespace(threads=1, repeats=3), JOB.shape)
    assert "2 of them differ" in capsys.readouterr().out
