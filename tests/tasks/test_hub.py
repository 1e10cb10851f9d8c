"""The hub, played by a server on the loopback interface: commits, the cache, and what happens without a network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from peft_stilts.errors import DataError
from peft_stilts.tasks import Split
from peft_stilts.tasks.sources import Hub

sys.path.insert(0, str(Path(__file__).parents[1]))
from hub_stand_in import COMMIT, HubStandIn  # noqa: E402

PROGRAM = """
import json, logging, sys, time
waited, time.sleep = [], lambda seconds: waited.append(seconds)     # retries would wait: counted, not waited for
logging.basicConfig(level=logging.WARNING)
from peft_stilts.errors import DataError
from peft_stilts.tasks import TASKS, Split
from peft_stilts.tasks.sources import Hub, load_checked
hub, answers = Hub(), []
for config, revision in json.loads(sys.argv[1]):
    split = Split("google/xtreme", config, "validation", revision)
    waited.clear()
    try:
        rows = load_checked(hub, "span", split)
        answers.append([hub.identify(split)["revision"], list(rows["id"])])
    except DataError as error:
        answers.append([f"{error}", sum(waited)])
print("ANSWERS" + json.dumps(answers))
"""


def ask(cache, endpoint, *splits, **more):
    """Loads (config, revision) pairs in a fresh process, as the endpoint is read when huggingface_hub is imported."""
    settings = {"HF_HOME": str(cache), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    settings |= {"HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])} | more
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(splits)],
        env=kept | settings,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cache,
    )
    assert "ANSWERS" in done.stdout, done.stderr
    return json.loads(done.stdout.split("ANSWERS")[1]), done.stderr


def test_commits_cache_and_no_network(folder, tmp_path, span_rows):
    folder.write("XQuAD.es", "validation", span_rows(2, "s"))
    files = {name: {"validation": f"{name}/validation-*"} for name in ("XQuAD.de", "XQuAD.es")}
    folder.readme(files)
    cache = tmp_path / "cache"
    cache.mkdir()
    hub = HubStandIn(folder.repo, "google/xtreme")
    answers, _ = ask(cache, hub.url, ("XQuAD.de", "main"), ("XQuAD.dee", "main"))
    assert answers[0] == [COMMIT, ["q0", "q1", "q2", "q3"]]
    assert "XQuAD.dee" in answers[1][0] and "--data_root" in answers[1][0]

    hub.close()
    answers, said = ask(cache, hub.url, ("XQuAD.de", "main"), ("XQuAD.es", "main"), ("XQuAD.de", "b" * 40))
    assert answers[0] == [COMMIT, ["q0", "q1", "q2", "q3"]] and f"using the cached commit {COMMIT}" in said
    assert "--data_root" in answers[1][0] and answers[1][1] < 5  # never downloaded
    assert "--data_root" in answers[2][0] and answers[2][1] < 5  # another commit is not replaced silently

    answers, said = ask(cache, hub.url, ("XQuAD.de", "main"), HF_HUB_OFFLINE="1")
    assert answers[0][0] == COMMIT and "using the cached commit" in said


def test_unreachable_without_a_cache_is_said_in_seconds(monkeypatch, tmp_path):
    from datasets import config
    from huggingface_hub import HfApi

    def refuse(*args, **more):
        assert more["timeout"] <= 10
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(HfApi, "dataset_info", refuse)
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(
        DataError, match="cannot be reached for google/xtreme .OSError: no route to host. and the cache"
    ) as error:
        Hub().identify(Split("google/xtreme", "XQuAD.de", "validation"))
    assert "--data_root" in str(error.value) and "tools/mirror.py" in str(error.value)


def test_a_revision_is_resolved_once_and_a_full_commit_not_at_all(monkeypatch):
    from huggingface_hub import HfApi

    asked = []

    def answer(self, repo, *, revision, timeout):
        asked.append((repo, revision))
        return type("Info", (), {"sha": COMMIT})

    monkeypatch.setattr(HfApi, "dataset_info", answer)
    hub = Hub()
    for config in ("XQuAD.de", "XQuAD.es"):
        assert hub.identify(Split("google/xtreme", config, "validation"))["revision"] == COMMIT
    assert hub.identify(Split("google/xtreme", "a", "validation", revision="c" * 40))["revision"] == "c" * 40
    assert asked == [("google/xtreme", "main")]
