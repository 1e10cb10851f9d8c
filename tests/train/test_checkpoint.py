"""A training that was ended anywhere goes on bit for bit; a damaged checkpoint is never used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from peft_stilts.errors import TrainingError
from peft_stilts.train import checkpoint
from peft_stilts.train.checkpoint import Checkpoints
from peft_stilts.train.loop import train


class Ended(Exception):
    """Stands for anything that ends a training from outside."""


@pytest.fixture
def run(tiny, tmp_path):
    """run(name, ...) -> (record, weights, what was said): dropout and early stopping, in a folder of its own."""

    def run(name, end_at=None, error=Ended, method="full", **settings):
        learner, features, said = tiny.make_learner(method, dropout=0.2), tiny.make_features(), []

        def progress(done, total, tokens, loss):
            if done == end_at:
                raise error

        record = train(
            learner, {"toy": features}, tiny.SETTINGS, seed=7, folder=tmp_path / name,
            select=tiny.selector(learner, features), progress=progress, say=said.append, **settings,
        )  # fmt: skip
        return record, tiny.weights(learner), said

    return run


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(Checkpoints, "due", lambda self: True)


def same(one, other):
    for name in ("steps", "features", "tokens", "best_score", "best_step", "first_loss", "last_loss", "token_budget"):
        assert getattr(one[0], name) == getattr(other[0], name), name
    return one[1].keys() == other[1].keys() and all(torch.equal(one[1][name], other[1][name]) for name in one[1])


@pytest.mark.parametrize("method", ["full", "lora"])
def test_ended_at_each_step(run, always, method):
    undisturbed = run("whole", method=method)
    assert undisturbed[0].best_step < undisturbed[0].steps  # so that the kept weights are not simply the last
    for step in range(1, undisturbed[0].steps + 1):
        with pytest.raises(Ended):
            run(f"at-{step}", end_at=step, method=method)
        resumed = run(f"at-{step}", method=method)
        assert same(resumed, undisturbed)
        assert resumed[2] == ([f"resumed after step {step - 1}, from {resumed[2][0].split('from ')[1]}"])


def test_checkpoints_do_not_change_the_training(run, monkeypatch):
    plain = run("plain")
    monkeypatch.setattr(Checkpoints, "due", lambda self: True)
    assert same(run("often"), plain)


def test_interrupt_writes_a_checkpoint(run, tmp_path):
    undisturbed = run("whole")
    for step in (1, 4, 5):
        with pytest.raises(KeyboardInterrupt):
            run(f"at-{step}", end_at=step, error=KeyboardInterrupt)
        assert [path.name for path in (tmp_path / f"at-{step}").glob("checkpoint-*")] == [f"checkpoint-{step:09d}"]
        assert same(run(f"at-{step}"), undisturbed)


def test_interrupt_in_an_update_keeps_the_earlier_checkpoint(run, always, tmp_path, monkeypatch):
    undisturbed, inner, calls = run("whole"), torch.optim.AdamW.step, []

    def step(self, closure=None):
        calls.append(1)
        if len(calls) == 5:
            self.param_groups[0]["params"][0].data.add_(1.0)  # half done
            raise KeyboardInterrupt
        return inner(self, closure)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(KeyboardInterrupt):
            run("cut")
    assert same(run("cut"), undisturbed)


def test_killed_processes(tiny, tmp_path):
    """SIGKILL twice, then to the end: the same bits as in one go."""
    root, script = Path(__file__).parents[2], Path(__file__).with_name("tiny_training.py")
    paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}

    def start(step):
        command = [sys.executable, str(script), str(tmp_path / "killed"), str(step)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert start(3).returncode == start(8).returncode == -9
    ended, threads = start(-1), torch.get_num_threads()
    assert ended.returncode == 0, ended.stderr
    torch.set_num_threads(1)
    assert ended.stdout.strip() == tiny.main(tmp_path / "whole", -1)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("cut", ["save_file", "rename"])
def test_ended_while_a_checkpoint_is_written(run, always, cut, monkeypatch, tmp_path):
    undisturbed, calls = run("whole"), []
    owner = checkpoint if cut == "save_file" else os
    inner = getattr(owner, cut)

    def dies(*told, **more):
        calls.append(1)
        if len(calls) == 6:
            raise Ended
        return inner(*told, **more)

    with monkeypatch.context() as patch:
        patch.setattr(owner, cut, dies)
        with pytest.raises(Ended):
            run("cut")
    (tmp_path / "cut" / "writing-1").mkdir()  # what a kill leaves
    assert same(run("cut"), undisturbed)
    assert not list((tmp_path / "cut").glob("writing-*"))


@pytest.mark.parametrize("damage", ["truncate", "flip", "json", "gone", "best"])
def test_a_damaged_checkpoint_is_not_used(run, always, damage, tmp_path):
    undisturbed = run("whole")
    with pytest.raises(Ended):
        run("cut", end_at=7)
    [folder] = (tmp_path / "cut").glob("checkpoint-*")
    [best] = (tmp_path / "cut").glob("best-*")
    path = best if damage == "best" else folder / ("state.json" if damage == "json" else "tensors.safetensors")
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "json":
        values = json.loads(data)
        values["record"]["state"]["step"] += 1
        path.write_text(json.dumps(values))
    elif damage == "truncate":
        path.write_bytes(data[:-5])
    else:
        path.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    resumed = run("cut")
    assert same(resumed, undisturbed)
    assert len(resumed[2]) == 1 and "is not used: " in resumed[2][0]


def test_the_older_checkpoint_is_used_when_the_newer_is_damaged(run, always, tmp_path, monkeypatch):
    undisturbed = run("whole")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_clear", lambda self, kept, best: None)  # as if killed before the removal
        with pytest.raises(Ended):
            run("cut", end_at=7)
    newest = max((tmp_path / "cut").glob("checkpoint-*"))
    (newest / "tensors.safetensors").write_bytes(b"")
    resumed = run("cut")
    assert same(resumed, undisturbed)
    assert "is not used" in resumed[2][0] and "resumed after step 5" in resumed[2][1]


def test_a_checkpoint_of_another_training_is_not_used(run, always, tmp_path):
    with pytest.raises(Ended):
        run("one", end_at=3)
    other = run("one", method="lora")
    assert "it is of another training" in other[2][0]
    assert same(other, run("whole", method="lora"))


def test_only_the_newest_stays(run, always, tmp_path):
    record, _, _ = run("one")
    assert len(list((tmp_path / "one").glob("checkpoint-*"))) == 1
    assert not list((tmp_path / "one").glob("writing-*"))


def test_writing_takes_a_bounded_share(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])
    points = Checkpoints.__new__(Checkpoints)
    points._written, points._cost = 0.0, 0.0
    clock[0] = 4.9
    assert not points.due()
    clock[0] = 5.0
    assert points.due()
    points._cost = 2.0  # a write of 2 s: the next after 40 s
    clock[0] = 39.0
    assert not points.due()
    clock[0] = 40.0
    assert points.due()


def test_a_full_disk_is_told(run, always, monkeypatch, tmp_path):
    def full(*told):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync", full)
    with pytest.raises(TrainingError, match="cannot be written: .*No space left on device"):
        run("full")
    assert not list((tmp_path / "full").rglob("*.safetensors"))
