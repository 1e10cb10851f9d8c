"""Bundles from the hub, played by a server on the loopback interface: what is fetched, refused, kept and said."""

import contextlib
import json
import shutil
import socket
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path[:0] = [str(Path(__file__).parents[1] / place) for place in (".", "grid", "model", "share")]
import bundles  # noqa: E402
import stacks  # noqa: E402
from hub_stand_in import COMMIT, HubStandIn, use  # noqa: E402
from workshop import make_encoder  # noqa: E402

from peft_stilts.errors import CheckpointError, UsageError  # noqa: E402
from peft_stilts.grid import hub as module  # noqa: E402
from peft_stilts.grid.base import find_base  # noqa: E402
from peft_stilts.grid.hub import Unreachable, ask_hub, is_hub_id, reach_hub, split_id, within  # noqa: E402
from peft_stilts.model.bundle import read_bundle  # noqa: E402

REPO, TOKEN = "someone/squad-stack", "hf_thesecretofsomeone"


def fetch_bundle(*arguments, **options) -> Path:
    """The folder of the bundle that was fetched."""
    return module.fetch_bundle(*arguments, **options).folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a bundle of two adapters and two heads, with a card."""
    folder = tmp_path_factory.mktemp("made")
    stacks.make_bundle(make_encoder(folder / "base"), folder / "bundle", ["squad", "mnli"])
    (folder / "bundle" / "README.md").write_text("---\nlibrary_name: peft\n---\nA card.\n")
    return folder / "bundle"


@pytest.fixture
def stand_in(made):
    hub = HubStandIn(made, REPO, "models", tokens={TOKEN: "someone", "hf_another": "another"})
    yield hub
    with contextlib.suppress(OSError):
        hub.close()


@pytest.fixture
def here(stand_in, monkeypatch, tmp_path):
    """This process uses the stand-in; the folder of its cache."""
    use(monkeypatch, stand_in.url, tmp_path)
    return tmp_path / "hub"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kept_of(cache: Path) -> list[str]:
    """Everything of repositories in the cache, without the (empty) lock files."""
    return sorted(path.relative_to(cache).as_posix() for path in cache.rglob("*")
                  if path.is_file() and path.relative_to(cache).parts[0] not in (".locks", "CACHEDIR.TAG"))


def test_a_bundle_comes_whole_and_stack_json_before_the_rest(stand_in, here, made):
    said = []
    folder = fetch_bundle(REPO, say=said.append)
    assert files_of(folder) == files_of(made) and folder.name == COMMIT and folder.is_relative_to(here)
    assert COMMIT in said[0] and f"{len(files_of(made))} files" in said[0]
    fetched = [line.split("/resolve/")[1].split("/", 1)[1] for line in stand_in.requests if "GET" in line[:4]
               and "/resolve/" in line]
    assert fetched[0] == "stack.json" and len(fetched) == len(set(files_of(made).values()))     # equal files once
    before = len(stand_in.requests)
    assert fetch_bundle(REPO, COMMIT) == folder and len(stand_in.requests) == before     # a commit never changes
    fetch_bundle(f"{REPO}@main")
    assert len(stand_in.requests) == before + 1


def test_main_moves_and_older_commits_stay(stand_in, here, made):
    first = fetch_bundle(REPO)
    newer = stand_in.add(REPO, files_of(made) | {"README.md": b"---\nlicense: mit\n---\n"})
    second = fetch_bundle(REPO)
    assert second.name == newer != first.name and fetch_bundle(REPO, COMMIT) == first
    assert (second / "README.md").read_bytes() != (first / "README.md").read_bytes()
    with pytest.raises(UsageError, match="has no revision 'v2'"):
        fetch_bundle(REPO, "v2")


def test_the_shared_blobs_of_the_cache_are_files_of_the_bundle(here):
    """huggingface_hub moves what came through xet to CACHE/blobs/xx/HASH, and leaves a link in the repository."""
    folder = fetch_bundle(REPO)
    blob = (folder / "adapters/1-squad/adapter_model.safetensors").resolve()
    shared = here / "blobs" / "ab" / ("ab" + "0" * 62)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(shared)
    assert fetch_bundle(REPO, COMMIT) == folder and read_bundle(folder).folder == folder


@pytest.mark.parametrize("offline", [False, True])
def test_without_the_hub_the_cache_is_used_and_said(stand_in, here, made, monkeypatch, offline):
    fetched = fetch_bundle(REPO)
    stand_in.add(REPO, files_of(made) | {"note.txt": b"newer"})
    if offline:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        stand_in.close()
    for revision in (None, "main"):
        said = []
        assert fetch_bundle(REPO, revision, said.append) == fetched
        assert f"using the cached commit {COMMIT} of {REPO}" in said[0]
        assert ("HF_HUB_OFFLINE is set" if offline else "refused") in said[0]
    for repo, revision in ((REPO, "v2"), (REPO, "b" * 40), ("someone/else", None)):
        with pytest.raises(UsageError, match="cannot be reached for .*and the cache has no bundle.*share pull"):
            fetch_bundle(repo, revision)
    (fetched / "README.md").resolve().unlink()      # a link that leads nowhere: the cache was tidied by hand
    with pytest.raises(CheckpointError, match="cannot be reached.*not as it was"):
        fetch_bundle(REPO)


def test_a_hub_that_accepts_and_never_answers_costs_seconds(stand_in, here, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(module, "HUB_TIMEOUT", 0.2)
    fetched = fetch_bundle(REPO)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        said = []
        assert fetch_bundle(REPO, say=said.append) == fetched and "imeout" in said[0]
        with pytest.raises(UsageError, match="cannot be reached for 'someone/else'"):
            fetch_bundle("someone/else")
        assert reach_hub(constants.ENDPOINT)


def test_a_name_that_does_not_resolve_is_not_waited_for(here, monkeypatch):
    """getaddrinfo knows no timeout; here it takes until the end of the test."""
    monkeypatch.setattr(module, "HUB_TIMEOUT", 0.1)
    over = threading.Event()

    def resolve(*args, **more):
        over.wait()
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(Unreachable, match="no answer in"):
        ask_hub(REPO)
    assert "no answer in" in reach_hub("http://hub.example")
    over.set()


def test_within_gives_back_what_was_returned_or_raised():
    assert within(5, lambda: 3) == 3
    with pytest.raises(KeyError, match="gone"):
        within(5, lambda: {}["gone"])


@pytest.mark.parametrize("token", [None, "hf_another", "hf_of_nobody"])
def test_a_private_bundle_needs_a_token_that_may_read_it(stand_in, made, monkeypatch, tmp_path, token):
    stand_in.add("someone/hidden", files_of(made), private=True)
    use(monkeypatch, stand_in.url, tmp_path, token)
    with pytest.raises(UsageError, match="log in with `hf auth login`, or set HF_TOKEN") as error:
        fetch_bundle("someone/hidden")
    assert len(error.value.problems) == 1 and (token or "hf_another") not in str(error.value)
    assert kept_of(tmp_path) == []
    use(monkeypatch, stand_in.url, tmp_path, TOKEN)
    assert files_of(fetch_bundle("someone/hidden")) == files_of(made)


@pytest.mark.parametrize("token", ["hf_with\x01control", "hf_with space", "hf_wïth"])
def test_a_token_that_no_request_can_carry_is_not_shown(stand_in, monkeypatch, tmp_path, token):
    use(monkeypatch, stand_in.url, tmp_path, token)
    with pytest.raises(UsageError, match="characters that no token has") as error:
        fetch_bundle(REPO)
    assert "hf_w" not in str(error.value) and error.value.__cause__ is None and not stand_in.requests


def changed(made: Path, **files: bytes | None) -> dict[str, bytes]:
    found = files_of(made) | files
    return {name: data for name, data in found.items() if data is not None}


WEIGHTS = "adapters/1-squad/adapter_model.safetensors"
BAD = {
    "code": ({"modeling.py": b"import os"}, "modeling.py: it is code"),
    "pickle": ({"adapters/1-squad/adapter_model.bin": b"\x80"}, "adapter_model.bin: pickled files can run code"),
    "outside": ({"../../evil.txt": b"x"}, r"evil.txt.*nothing is written outside"),
    "large text": ({"notes.md": bytes(17 * 2**20)}, "notes.md: it has 17825792 bytes"),
    "large stack.json": ({"stack.json": b"[" * (4 * 2**20 + 1)}, "stack.json: it has 4194305 bytes"),
    "nested stack.json": ({"stack.json": b"[" * 10**5}, "stack.json cannot be read"),
    "no stack of ours": ({"stack.json": b"{}"}, "stack.json"),
    "missing": ({WEIGHTS: None}, "1-squad/adapter_model.safetensors is missing, but listed"),
    "unlisted": ({"heads/xnli/head.json": b"{}"}, "heads/xnli/head.json is not listed"),
    "twins": ({"readme.md": b"x"}, "differ only by case"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_may_not_lie_in_a_bundle_is_refused_before_it_is_fetched(stand_in, here, made, case):
    files, told = BAD[case]
    commit = stand_in.add("someone/bad", changed(made, **files))
    with pytest.raises(CheckpointError, match=f"(?s)someone/bad at commit {commit} is refused.*{told}"):
        fetch_bundle("someone/bad")
    fetched = [line for line in stand_in.requests if "GET" in line[:4] and "/resolve/" in line]
    assert all(line.endswith("/stack.json") for line in fetched)
    assert kept_of(here) == []


def test_a_changed_weight_is_refused_and_nothing_of_it_stays(stand_in, here, made):
    data = bytearray(files_of(made)[WEIGHTS])
    data[-1] ^= 1
    good = fetch_bundle(REPO)
    before = kept_of(here)
    stand_in.add(REPO, changed(made, **{WEIGHTS: bytes(data)}))
    with pytest.raises(CheckpointError, match="is damaged: its sha256 is"):
        fetch_bundle(REPO)
    assert kept_of(here) == before
    stand_in.close()
    assert fetch_bundle(REPO, say=lambda line: None) == good        # main as last seen whole


def test_only_the_refused_repository_is_cleaned(stand_in, here, made):
    """Copies of a repository have the same commits."""
    kept = fetch_bundle(REPO)
    stand_in.add("another/copy", changed(made, **{"heads/squad/head.safetensors": b"x"}), sha=COMMIT)
    with pytest.raises(CheckpointError):
        fetch_bundle("another/copy")
    assert files_of(kept) == files_of(made) and not list(here.glob("models--another--copy"))


def test_a_damaged_cache_is_fetched_anew(here, made):
    weights = fetch_bundle(REPO) / WEIGHTS
    weights.resolve().write_bytes(b"x")
    with pytest.raises(CheckpointError, match="is damaged.*"):
        fetch_bundle(REPO, COMMIT)
    assert files_of(fetch_bundle(REPO)) == files_of(made)


def test_a_fetch_that_broke_off_goes_on(stand_in, here, made):
    asked = []
    for stop in range(2, 100):
        stand_in.requests.clear()
        stand_in.break_from = stop
        try:
            folder = fetch_bundle(REPO, say=lambda line: None)
        except UsageError as error:
            assert "broke off at" in str(error) and "goes on where it stopped" in str(error)
            asked.append(len(stand_in.requests))
        else:
            break
    assert asked and files_of(folder) == files_of(made)


@pytest.mark.parametrize("files, told", [
    ({"adapter_config.json": b"{}", "adapter_model.safetensors": b""},
     "plain PEFT adapter.*which weights.*PeftModel.from_pretrained.base, 'someone/other'."),
    ({"squad/adapter_config.json": b"{}"}, "subfolder='squad'"),
    ({"config.json": b"{}", "model.safetensors": b""}, "whole model.*--scale someone/other"),
    ({"README.md": b"", "x.bin": b""}, "no stack.json .found: 'README.md', 'x.bin'"),
    ({}, "found: nothing"),
])  # fmt: skip
def test_a_repository_that_is_no_bundle_is_told_apart(stand_in, here, files, told):
    stand_in.add("someone/other", files)
    with pytest.raises(UsageError, match=f"(?s){told}"):
        fetch_bundle("someone/other")
    assert kept_of(here) == []


def test_ids():
    assert split_id("user/name") == ("user/name", None)
    assert split_id("user/name@v1.0") == ("user/name", "v1.0")
    assert split_id("user/name@refs/pr/1") == ("user/name", "refs/pr/1")
    for wrong in ("name", "a/b/c", "user/na me", "user/na--me", "../up", "user/", "/name", "~/x", "user/x.git",
                  "user/name@", "user/name@../../x", "user/name@a b", "user/name@-x", "user/name@/etc", "http://a/b"):
        assert not is_hub_id(wrong), wrong
        with pytest.raises(UsageError):
            split_id(wrong)


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=20))
def test_any_text_is_an_id_or_a_usage_error_and_never_a_way_out_of_the_cache(user, name, revision):
    text = f"{user}/{name}@{revision}"
    if is_hub_id(text):
        repo, at = split_id(text)
        assert f"{repo}@{at}" == text and ".." not in text and not at.startswith("/")
        inside = Path("/cache/refs") / at
        assert Path(*inside.parts).is_relative_to("/cache/refs") and inside.resolve() == inside


def test_a_model_from_the_cache_is_said(stand_in, here, tmp_path, caplog):
    stand_in.repositories.clear()
    folder = make_encoder(tmp_path / "tiny")
    stand_in.add("someone/tiny", files_of(folder), sha=COMMIT)
    assert find_base("someone/tiny").revision == COMMIT
    assert caplog.text == ""
    stand_in.close()
    assert find_base("someone/tiny").revision == COMMIT
    assert f"using the cached commit {COMMIT} of someone/tiny" in caplog.text
    shutil.rmtree(here)
    with pytest.raises(UsageError, match="cannot be reached for 'someone/tiny', and nothing of it is cached"):
        find_base("someone/tiny")


def test_a_sealed_bundle_with_other_shapes_is_refused(stand_in, here, made, tmp_path):
    """All checksums agree: it is the tensors that do not fit the base that stack.json names."""
    folder = Path(shutil.copytree(made, tmp_path / "bundle"))
    bundles.change_tensors(folder, WEIGHTS, lambda tensors: dict(list(tensors.items())[1:]))
    bundles.reseal(folder)
    assert json.loads((folder / "stack.json").read_text())["files"]
    stand_in.add("someone/bad", files_of(folder))
    with pytest.raises(CheckpointError, match="missing"):
        fetch_bundle("someone/bad")
    assert kept_of(here) == []
