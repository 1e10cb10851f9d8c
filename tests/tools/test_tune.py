"""Tuning: as many trials for each method, English development data only, the best mean rate, and resumption."""

import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from peft_stilts.errors import TrainingError, UsageError
from peft_stilts.grid.run import Runner
from peft_stilts.miniature.provider import MiniatureWorld
from peft_stilts.spec import Request

TOOL = Path(__file__).resolve().parents[2] / "tools" / "tune.py"
sys.path.insert(0, str(TOOL.parent))
import tune  # noqa: E402

METHODS = ("full", "lora")


def trials(rows):
    """Rows of trials.csv from (task, method, rate, seed, score), the recipe's own rate being 0.01."""
    return pd.DataFrame([{"task": task, "method": method, "rate": rate, "recipe_rate": 0.01, "seed": seed,
                          "score": score, "metric": "f1"} for task, method, rate, seed, score in rows])


def test_rates_hold_for_every_method_or_each_has_its_own():
    assert tune.parse_rates(["1e-3, 1e-4"], METHODS) == {"full": (1e-4, 1e-3), "lora": (1e-4, 1e-3)}
    assert tune.parse_rates(["lora:1e-3,1e-2", "full:2e-5,1e-5"], METHODS) == {
        "lora": (1e-3, 1e-2), "full": (1e-5, 2e-5)}


@pytest.mark.parametrize(("texts", "told"), [
    (["full:1e-4,1e-3", "lora:1e-4"], r"different numbers of rates \(full 2, lora 1\)"),
    (["full:1e-4"], "no rates for lora"),
    (["1e-4,0.0001"], "stand once"),
    (["0,1e-4"], "above 0"),
    (["1e-4,fast"], "'fast'; it must be a number"),
    (["full:1e-4", "1e-3"], "once for each method"),
    (["loRA:1e-4", "full:1e-4"], "once for each method"),
])
def test_rates_that_would_favour_a_method_or_are_none_are_refused(texts, told):
    with pytest.raises(UsageError, match=told):
        tune.parse_rates(texts, METHODS)


def test_the_best_mean_is_chosen_and_of_equal_ones_the_lowest():
    found = tune.curves(trials([("a", "full", 0.01, 1, 50.0), ("a", "full", 0.01, 2, 60.0),
                                ("a", "full", 0.1, 1, 58.0), ("a", "full", 0.1, 2, 52.0),
                                ("a", "full", 1.0, 1, 90.0), ("a", "full", 1.0, 2, 10.0)]))
    assert list(found["mean"]) == [55.0, 55.0, 50.0] and list(found["chosen"]) == [True, False, False]
    assert list(found["sd"]) == pytest.approx([math.sqrt(50), math.sqrt(18), math.sqrt(3200)])
    assert tune.verdicts(found) == ["a, full: 0.01 (55.0), the recipe's own. It is the outermost rate tried: the best "
                                    "one may lie beyond."]


def test_a_rate_with_a_failed_trial_is_never_chosen():
    rows = [("a", "lora", 0.01, 1, 50.0), ("a", "lora", 0.01, 2, 52.0), ("a", "lora", 0.1, 1, 99.0),
            ("a", "lora", 0.1, 2, math.nan)]
    found = tune.curves(trials(rows))
    assert list(found["chosen"]) == [True, False] and list(found["failed"]) == [0, 1]
    assert "| lora | 0.1 | 1 failed |" in tune.compose(trials(rows), "here")
    nothing = tune.curves(trials([("a", "full", 0.01, 1, math.nan)]))
    assert tune.verdicts(nothing) == ["a, full: every rate failed; try lower ones."]


def test_several_tasks_choose_one_rate_by_their_mean():
    found = tune.curves(trials([("a", "full", 0.01, 1, 60.0), ("a", "full", 0.1, 1, 50.0),
                                ("b", "full", 0.01, 1, 20.0), ("b", "full", 0.1, 1, 40.0)]))
    chosen = found[found["chosen"]].set_index("task")["rate"]
    assert dict(chosen) == {"a": 0.01, "b": 0.1, tune.ALL: 0.1}
    assert list(found[found["task"] == tune.ALL]["mean"]) == [40.0, 45.0]


def test_a_name_means_a_recipes_first_stage_or_a_targets_training():
    squad, xquad = tune.find_subject("squad", None), tune.find_subject("xquad", None)
    assert (squad.block, xquad.block) == ("intermediate", "squad")
    assert [task.name for task in squad.tasks] == [task.name for task in xquad.tasks] == ["squad"]
    for name in ("none", "tatoeba", "sqaud"):
        with pytest.raises(UsageError, match="udpos"):
            tune.find_subject(name, None)


def test_a_targets_settings_may_be_another_recipes(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("{intermediate: none, targets: [udpos], training: {udpos: {epochs: 7}}}")
    assert tune.find_subject("udpos", None, str(path)).recipe.settings("udpos", "full", False).epochs == 7
    assert tune.find_subject("udpos", None).recipe.settings("udpos", "full", False).epochs == 10


class Watched(MiniatureWorld):
    """The miniature world, noting what is read of it."""

    def __init__(self):
        self.read = set()

    def load(self, split, limit=None):
        self.read.add((split.config, split.split))
        return super().load(split, limit)


@pytest.fixture
def request_(tmp_path):
    return Request(("udpos",), scale="mini", methods=METHODS, seeds=(1, 2), limit_train=24, precision="fp32",
                   runs=tmp_path / "out" / "runs")


def test_trials_read_english_train_and_dev_only_and_resume(request_, tmp_path, monkeypatch):
    world, rates = Watched(), {"full": (1e-4, 1e-3), "lora": (1e-3, 1e-2)}
    frame = tune.tune(["udpos"], request_, rates, tmp_path / "out", 8, provider=world)
    assert world.read == {("udpos.English", "train"), ("udpos.English", "validation")}
    assert frame.groupby("method").size().to_dict() == {"full": 4, "lora": 4}
    assert frame["score"].between(0, 100).all() and frame["stage"].is_unique
    assert {"trials.csv", "tuning.md", "tuning.png"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert not list((tmp_path / "out").rglob("*.safetensors"))      # a score is what stays of a trial

    monkeypatch.setattr(Runner, "train", lambda *args: pytest.fail("trained again"))
    again = tune.tune(["udpos"], request_, rates, tmp_path / "out", 8, provider=world)
    pd.testing.assert_frame_equal(frame, again)


def test_a_trial_is_the_recipes_stage_with_another_rate(request_):
    _, found = tune.make_trials(["udpos"], request_, {"lora": (5e-3,)}, provider=MiniatureWorld())
    settings = found[0].stage.settings
    assert (settings.lr, settings.head_lr, settings.keep) == (5e-3, 5e-3, "best")
    assert settings.epochs == tune.find_subject("udpos", None).recipe.settings("udpos", "lora", True).epochs
    assert {trial.stage.seed for trial in found} == {1, 2} and all(trial.stage.parent is None for trial in found)


def test_a_collapsed_trial_is_a_result_and_not_the_end(request_, tmp_path, monkeypatch):
    plain = Runner.train

    def collapsing(self, stage, place):
        if stage.settings.lr == 1.0:
            raise TrainingError("training collapsed")
        plain(self, stage, place)

    monkeypatch.setattr(Runner, "train", collapsing)
    frame = tune.tune(["udpos"], request_, {"full": (1e-3, 1.0)}, tmp_path / "out", 8, provider=MiniatureWorld())
    assert list(frame["score"].isna()) == [False, False, True, True]
    assert "2 failed" in (tmp_path / "out" / "tuning.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("words", [
    ("squad", "--rates", "full:1e-4", "lora:1e-4,1e-3"), ("sqaud", "--rates", "1e-4"),
    ("squad", "--rates", "1e-4", "--seeds", "x"), ("squad", "--rates", "1e-4", "--dev_examples", "few")])
def test_a_mistyped_flag_stops_before_anything_is_trained(words, tmp_path):
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, str(TOOL), *words, "--scale", "mini", "--out", str(out)],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stderr and not out.exists()
