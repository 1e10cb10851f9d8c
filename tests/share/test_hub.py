"""Pushing bundles to a hub played on the loopback interface, breaking off, and loading them with stock libraries."""

import contextlib
import json
import logging
import shutil
import socket
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path[:0] = [str(Path(__file__).parents[1] / place) for place in (".", "model")]
import bundles  # noqa: E402
from hub_stand_in import HubStandIn, settings, use  # noqa: E402

from peft_stilts.data.pack import make_pack  # noqa: E402
from peft_stilts.errors import CheckpointError, UsageError  # noqa: E402
from peft_stilts.grid import hub as reading  # noqa: E402
from peft_stilts.model.stack import lora  # noqa: E402
from peft_stilts.share import hub as module  # noqa: E402
from peft_stilts.share.hub import push  # noqa: E402

REPO, TOKEN, OTHER = "ada/squad-stack", "hf_thesecretofada", "hf_thesecretofbob"
SCORES = [{"target": "xquad", "language": "de", "score": 61.25}, {"target": "xquad", "language": "fi", "score": 48.5}]


def fetch_bundle(*arguments, **options) -> Path:
    """The folder of the bundle that was fetched."""
    return reading.fetch_bundle(*arguments, **options).folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory, encoder, makers):
    """Two versions of a bundle, of two adapters and of one other."""
    folder = tmp_path_factory.mktemp("made")
    for name, tasks in (("first", ["squad", "mnli"]), ("second", ["mnli"])):
        makers.make_bundle(encoder, folder / name, tasks)
        (folder / name / "README.md").write_text(f"---\nlibrary_name: peft\n---\n{name}\n")
    values = bundles.read_json(folder / "first" / "stack.json")
    bundles.seal(folder / "first", values | {"scores": SCORES})
    return folder


@pytest.fixture
def hub():
    stand_in = HubStandIn(tokens={TOKEN: "ada", OTHER: "bob"})
    yield stand_in
    with contextlib.suppress(OSError):
        stand_in.close()


@pytest.fixture
def ada(hub, monkeypatch, tmp_path):
    """This process is Ada's, on the stand-in."""
    return use(monkeypatch, hub.url, tmp_path / "ada", TOKEN)


def of_a_bundle(hub: HubStandIn) -> dict[str, bytes]:
    return {name: data for name, data in hub.files(REPO).items() if name != ".gitattributes"}


def test_a_push_is_one_commit_and_another_user_gets_the_same_files(hub, ada, made, monkeypatch, tmp_path):
    said = []
    url = push(made / "first", REPO, say=said.append)
    assert of_a_bundle(hub) == files_of(made / "first")
    repository = hub.repositories["models", REPO]
    sha = repository.commits[-1][0]
    assert url == f"{hub.url}/{REPO}/commit/{sha}" and len(repository.commits) == 2 and not repository.private
    assert "public" in said[0] and sha in said[-1]
    use(monkeypatch, hub.url, tmp_path / "bob", OTHER)
    folder = fetch_bundle(REPO)
    assert files_of(folder) == files_of(made / "first") | {".gitattributes": hub.files(REPO)[".gitattributes"]}
    assert folder.is_relative_to(tmp_path / "bob")


def test_what_was_pulled_can_be_pushed(hub, ada, made):
    push(made / "first", REPO)
    again = fetch_bundle(REPO)          # links into the cache, and the hub's .gitattributes
    push(again, "ada/copy")
    assert {name: data for name, data in hub.files("ada/copy").items() if name != ".gitattributes"} == files_of(
        made / "first")


def test_a_newer_bundle_takes_the_place_of_the_older_in_one_commit(hub, ada, made):
    push(made / "first", REPO)
    hub.requests.clear()
    push(made / "second", REPO)
    assert of_a_bundle(hub) == files_of(made / "second")
    assert len(hub.repositories["models", REPO].commits) == 3
    assert sum("/commit/" in line for line in hub.requests) == 1
    before = len(hub.repositories["models", REPO].commits)
    push(made / "second", REPO)         # nothing is new
    assert len(hub.repositories["models", REPO].commits) == before


@pytest.mark.parametrize("answers_lost", [False, True])
def test_a_push_broken_off_at_any_request_leaves_the_earlier_state_and_is_completed(hub, ada, made, answers_lost):
    """answers_lost: the hub does what it was asked, and only its answers do not arrive."""
    push(made / "first", REPO)
    old, new, breaks = files_of(made / "first"), files_of(made / "second"), 0
    hub.answers_lost = answers_lost
    for stop in range(1, 100):
        hub.add(REPO, old | {".gitattributes": hub.files(REPO)[".gitattributes"]})
        hub.objects.clear()
        hub.requests.clear()
        hub.break_from = stop
        try:
            push(made / "second", REPO, say=lambda line: None)
        except UsageError as error:
            assert "the same command completes it" in str(error)
            assert of_a_bundle(hub) in ([old, new] if answers_lost else [old])
            breaks += 1
        else:
            break
        hub.break_from = None
        push(made / "second", REPO, say=lambda line: None)
        assert of_a_bundle(hub) == new
    assert breaks >= 5 and of_a_bundle(hub) == new


def test_a_first_push_broken_off_is_completed(hub, ada, made):
    hub.break_from = 5
    with pytest.raises(UsageError, match="broke off"):
        push(made / "first", REPO, private=True)
    hub.break_from = None
    push(made / "first", REPO, private=True)
    assert of_a_bundle(hub) == files_of(made / "first") and hub.repositories["models", REPO].private


def test_someone_else_pushing_at_the_same_time_is_not_overwritten(hub, ada, made, monkeypatch):
    push(made / "first", REPO)
    plain = module._changes

    def slow(*args):
        hub.add(REPO, hub.files(REPO) | {"notes.txt": b"meanwhile"})
        return plain(*args)

    monkeypatch.setattr(module, "_changes", slow)
    with pytest.raises(UsageError, match="was changed on the hub meanwhile"):
        push(made / "second", REPO)
    assert hub.files(REPO)["notes.txt"] == b"meanwhile" and "adapters/1-squad/identity.json" in hub.files(REPO)


def test_private_repositories(hub, ada, made, monkeypatch, tmp_path):
    push(made / "first", "ada/hidden", private=True)
    push(made / "second", "ada/hidden")         # stays private
    assert hub.repositories["models", "ada/hidden"].private
    push(made / "first", REPO)
    with pytest.raises(UsageError, match="is public on the hub already"):
        push(made / "second", REPO, private=True)
    assert of_a_bundle(hub) == files_of(made / "first")
    use(monkeypatch, hub.url, tmp_path / "bob", OTHER)
    with pytest.raises(UsageError, match="no model 'ada/hidden' that this account may read.*hf auth login.*HF_TOKEN"):
        fetch_bundle("ada/hidden")


def test_nothing_is_sent_without_a_token_or_from_a_damaged_bundle(hub, ada, made, monkeypatch, tmp_path):
    folder = Path(shutil.copytree(made / "first", tmp_path / "bundle"))
    (folder / "adapters/1-squad/adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="is damaged"):
        push(folder, REPO)
    (folder / "run.py").write_text("")
    with pytest.raises(CheckpointError, match="it is code"):
        push(folder, REPO)
    use(monkeypatch, hub.url, tmp_path / "nobody")
    with pytest.raises(UsageError, match="needs a token that may write: log in with `hf auth login`, or set HF_TOKEN"):
        push(made / "first", REPO)
    assert not hub.requests


@pytest.mark.parametrize("name", ["stack", "ada/a/b", "ada/a b", "ada/a--b", "ada/.git", "ada/x@main", "../ada/x", ""])
def test_names_that_no_hub_takes_are_refused_first(hub, ada, made, name):
    with pytest.raises(UsageError, match="no name of a model|goes to main"):
        push(made / "first", name)
    assert not hub.requests


def test_names_that_are_taken(hub, ada, made):
    with pytest.raises(UsageError, match="this account writes below ada, not below 'bob': push to ada/stack, or log"):
        push(made / "first", "bob/stack")
    model = {"config.json": b"{}", "pytorch_model.bin": b"x", "README.md": b""}
    hub.add("ada/model", model)
    with pytest.raises(UsageError, match="another model on the hub .it has config.json, pytorch_model.bin."):
        push(made / "first", "ada/model")
    assert hub.files("ada/model") == model
    hub.add("ada/empty", {".gitattributes": b"", "README.md": b"mine", "LICENSE": b"MIT"})
    push(made / "first", "ada/empty")
    assert hub.files("ada/empty")["LICENSE"] == b"MIT" and "stack.json" in hub.files("ada/empty")
    hub.add("ada/empty", hub.files("ada/empty") | {"train.py": b"x"})
    with pytest.raises(UsageError, match="it has train.py"):        # it could not be pulled
        push(made / "second", "ada/empty")


def test_a_card_that_the_hub_refuses(hub, ada, made, tmp_path):
    folder = Path(shutil.copytree(made / "first", tmp_path / "bundle"))
    (folder / "README.md").write_text("no metadata")
    with pytest.raises(UsageError, match="refuses the metadata of README.md.*no metadata"):
        push(folder, REPO)
    assert of_a_bundle(hub) == {}


def test_an_unreachable_hub_is_said_in_seconds(hub, ada, made, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(reading, "HUB_TIMEOUT", 0.2)
    monkeypatch.setattr(module, "HUB_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(UsageError, match="broke off .TimeoutError: no answer in"):
            push(made / "first", REPO)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    hub.close()
    with pytest.raises(UsageError, match="broke off .*refused"):
        push(made / "first", REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set"):
        push(made / "first", REPO)
    assert sum(ada) < 10                # retries would not have waited long


def test_the_token_is_nowhere_but_in_requests(hub, ada, made, monkeypatch, tmp_path, capfd, caplog):
    """Everything that is said, logged, printed, raised or written, when all is well and in every kind of failure."""
    caplog.set_level(logging.DEBUG)
    told = []
    unknown, broken = "hf_thesecretofeve", ("hf_thesecretof\x01mallory", "hf_thesecretofmallöry")

    def attempt(token, ask):
        use(monkeypatch, hub.url, tmp_path / "home", token)
        try:
            ask()
        except UsageError:
            told.append(traceback.format_exc())

    attempt(TOKEN, lambda: push(made / "first", REPO, say=told.append))
    attempt(TOKEN, lambda: fetch_bundle(REPO, say=told.append))
    attempt(OTHER, lambda: push(made / "first", REPO, say=told.append))
    attempt(unknown, lambda: push(made / "first", REPO, say=told.append))
    attempt(unknown, lambda: fetch_bundle("ada/hidden"))
    attempt(broken[0], lambda: push(made / "first", REPO, say=told.append))
    attempt(broken[1], lambda: fetch_bundle(REPO))
    hub.break_from = len(hub.requests) + 4
    attempt(TOKEN, lambda: push(made / "second", REPO, say=told.append))
    hub.close()
    attempt(TOKEN, lambda: push(made / "second", REPO, say=told.append))
    assert sum("Traceback" in text for text in told) == 7
    printed = capfd.readouterr()
    for text in (*told, caplog.text, printed.out, printed.err):
        assert "thesecretof" not in text
    for place in (tmp_path, made):
        for path in place.rglob("*"):
            assert not path.is_file() or b"thesecretof" not in path.read_bytes(), path
    assert all(b"thesecretof" not in data for files in hub.repositories.values()
               for _, commit in files.commits for data in commit.values())


STOCK = """
import json, sys
import torch
from datasets import load_dataset
from peft import PeftModel
from transformers import XLMRobertaModel
base = XLMRobertaModel.from_pretrained(sys.argv[1], add_pooling_layer=False)
model = PeftModel.from_pretrained(base, "ada/squad-stack", subfolder="adapters/1-squad").eval()
with torch.no_grad():
    states = model(input_ids=torch.tensor([json.loads(sys.argv[2])])).last_hidden_state[0]
scores = load_dataset("json", data_files="hf://ada/squad-stack/stack.json", field="scores", split="train")
rows = load_dataset("ada/rows", split="train")
assert not any(name.startswith("peft_stilts") for name in sys.modules)
print("STATES" + json.dumps([states.double().tolist(), list(scores), list(rows)]))
"""


def test_stock_libraries_load_what_was_pushed(hub, ada, made, encoder, tmp_path):
    """PEFT loads an adapter, and datasets the scores and a data set, in a process that has not our program."""
    push(made / "first", REPO)
    hub.add("ada/rows", {"train.jsonl": b'{"text": "one"}\n{"text": "two"}\n'}, kind="datasets")
    ids = [0, 17, 250, 9, 42, 2]
    (tmp_path / "bob").mkdir()
    done = subprocess.run([sys.executable, "-c", STOCK, str(encoder), json.dumps(ids)], capture_output=True, text=True,
                          timeout=200, cwd=tmp_path, env=settings(hub.url, tmp_path / "bob", OTHER))
    assert "STATES" in done.stdout, done.stderr
    states, scores, rows = json.loads(done.stdout.split("STATES")[1])
    features = type("Features", (), {"input_ids": [np.array(ids, dtype=np.int32)], "labels": {}})()
    from peft_stilts.model.encoder import load_encoder

    with torch.no_grad():
        bare, ours = (lora(load_encoder(encoder), below, None).eval()(make_pack(features, range(1), 1))
                      for below in ([], [made / "first" / "adapters" / "1-squad"]))
    assert (torch.tensor(states) - ours).abs().max() < 1e-5 < 0.05 < (bare - ours).abs().max()
    assert scores == SCORES and rows == [{"text": "one"}, {"text": "two"}]
