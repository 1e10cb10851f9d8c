"""The commands as people type them: export, card, push, pull by another user, evaluate, a recipe upon it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from peft_stilts import results
from peft_stilts.digest import sha256_folder
from tests.hub_stand_in import HubStandIn

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_a_token_that_nobody_may_see"


@pytest.fixture
def hub():
    stand_in = HubStandIn(tokens={TOKEN: "ada"})
    yield stand_in
    stand_in.close()


def test_from_a_run_to_the_hub_and_from_there_to_another_users_recipe(hub, tmp_path):
    def command(user, *words, code=0):
        home = tmp_path / user
        home.mkdir(exist_ok=True)
        own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        own |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1",
                "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **({"HF_TOKEN": TOKEN} if user == "ada" else {})}
        done = subprocess.run([sys.executable, "-m", "peft_stilts", *words], cwd=home, env=own, capture_output=True,
                              text=True)
        told = done.stdout + done.stderr
        assert done.returncode == code, told
        assert TOKEN not in told
        return told

    small = ("--limit_train", "16", "--limit_eval", "4", "--languages", "en,qa")
    command("ada", "recipe", "squad", "--targets", "tatoeba", "--method", "lora", *small[:4], "--runs", "my runs")
    assert "head of squad" in command("ada", "share", "export", "my runs", "--out", "mine", "--licence", "mit")
    before = sha256_folder(tmp_path / "ada" / "mine")
    command("ada", "share", "card", "mine", "--repo", "ada/squad")
    assert "ada/squad" in (tmp_path / "ada" / "mine" / "README.md").read_text() and sha256_folder(
        tmp_path / "ada" / "mine") != before
    assert hub.url in command("ada", "share", "push", "mine", "ada/squad")
    assert "1-squad" in command("bob", "share", "pull", "ada/squad")
    command("bob", "evaluate", "ada/squad", "--targets", "xquad,tatoeba", *small[2:])
    frame = results.read(tmp_path / "bob" / "evaluation")
    assert set(frame["target"]) == {"xquad", "tatoeba"} and set(frame["method"]) == {"lora"}
    told = command("bob", "recipe", "none", "--targets", "xquad", "--stack", "ada/squad,mnli", "--method", "lora",
                   *small)
    assert "stack: [1-squad (frozen), 2-mnli (frozen), 3-squad (train)]" in told
    assert set(results.read(tmp_path / "bob" / "runs")["intermediate"]) == {"none", "squad>mnli"}
    hub.close()
    told = command("bob", "share", "pull", "ada/squad", "--out", "copy")
    assert "the hub cannot be reached" in told and "using the cached commit" in told
    kept = {path.name for path in (tmp_path / "bob" / "copy").iterdir()}
    assert {"stack.json", "README.md", "adapters", "heads"} <= kept
