"""A model on the hub, played by a server on the loopback interface: its commit, the cache, and no network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
from hub_stand_in import COMMIT, HubStandIn  # noqa: E402
from workshop import make_encoder  # noqa: E402

PROGRAM = """
import time
waited, time.sleep = [], lambda seconds: waited.append(seconds)     # retries would wait: counted, not waited for
from peft_stilts.errors import UsageError
from peft_stilts.grid.base import encoder_folder, find_base, load_tokenizer
from peft_stilts.model.encoder import load_encoder
try:
    base = find_base("someone/tiny-xlmr")
    encoder = load_encoder(encoder_folder(base))
    print("FOUND", base.scale, base.revision, encoder.identity["sha256"], len(load_tokenizer(base)))
except UsageError as error:
    print("REFUSED", error)
assert sum(waited) < 10, waited
"""


def ask(cache: Path, endpoint: str) -> str:
    """What a fresh process finds, as the endpoint is read when huggingface_hub is imported."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    told = {"HF_HOME": str(cache), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=kept | told, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture()
def tiny(tmp_path) -> Path:
    return make_encoder(tmp_path / "tiny")


def test_a_model_comes_from_the_hub_at_its_commit_and_then_from_the_cache(tiny, tmp_path):
    hub = HubStandIn(tiny, "someone/tiny-xlmr", "models")
    first = ask(tmp_path / "cache", hub.url)
    hub.close()
    assert f"FOUND someone/tiny-xlmr {COMMIT}" in first
    assert ask(tmp_path / "cache", hub.url) == first


def test_an_unreachable_hub_without_a_cache_is_a_clear_error_in_seconds(tmp_path):
    told = ask(tmp_path / "cache", "http://127.0.0.1:9")
    assert "REFUSED the hub cannot be reached for 'someone/tiny-xlmr'" in told and "--scale DIR" in told


def test_a_model_that_the_hub_has_not_is_named(tiny, tmp_path):
    hub = HubStandIn(tiny, "someone/else", "models")
    told = ask(tmp_path / "cache", hub.url)
    hub.close()
    assert "REFUSED the hub has no model 'someone/tiny-xlmr'" in told
