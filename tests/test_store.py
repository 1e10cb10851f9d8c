"""The artefact store: whole or absent, checked when read, made by one process at a time."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from peft_stilts import store as module
from peft_stilts.digest import sha256_file
from peft_stilts.errors import StoreError
from peft_stilts.store import Store, write_atomic

RECORD = {"kind": "train", "spec": {"lr": 1e-5}, "parent": None}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "my runs")


def draft(store, key="k1", content="weights"):
    folder = store.work(key) / "artefact"
    (folder / "encoder").mkdir(parents=True)
    (folder / "encoder" / "model.bin").write_text(content)
    (folder / "head.bin").write_text("head")
    return folder


def commit(store, key="k1", content="weights"):
    return store.commit(key, draft(store, key, content), RECORD)


def test_a_committed_artefact_is_whole_and_its_work_is_gone(store):
    assert not store.finished("k1") and store.keys() == []
    folder = commit(store)
    assert store.finished("k1") and store.keys() == ["k1"] and not store.dropped("k1")
    assert store.open("k1") == folder == store.root / "stages" / "k1"
    assert (folder / "encoder" / "model.bin").read_text() == "weights"
    record = store.record("k1")
    assert record["files"] == {name: sha256_file(folder / name) for name in ("encoder/model.bin", "head.bin")}
    assert {name: record[name] for name in RECORD} == RECORD and record["key"] == "k1"
    assert not (store.root / "work" / "k1").exists()


STEPS = ["sync", "sha256_file", "write_atomic", "json.dumps", "os.replace", "shutil.rmtree"]


@pytest.mark.parametrize("again", [False, True], ids=["first", "made again"])
@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_leaves_no_half_artefact(store, monkeypatch, step, again):
    if again:
        commit(store, content="before")
        store.drop("k1")
    written = draft(store, content="after")

    def crash(*args, **options):
        raise SystemExit("killed here")

    with monkeypatch.context() as patch:
        owner, _, name = step.rpartition(".")
        patch.setattr({"": module, "json": json, "os": os, "shutil": shutil}[owner], name, crash)
        with pytest.raises(SystemExit):
            store.commit("k1", written, RECORD)
    if store.finished("k1") and not store.dropped("k1"):
        assert (store.open("k1") / "encoder" / "model.bin").read_text() == "after"
    else:
        assert store.keys() == (["k1"] if again else [])
    shutil.rmtree(store.root / "work", ignore_errors=True)
    commit(store, content="at last")
    assert (store.open("k1") / "encoder" / "model.bin").read_text() == "at last"


def test_a_changed_file_is_named_with_both_digests_and_what_to_do(store):
    folder = commit(store)
    path = folder / "encoder" / "model.bin"
    before = sha256_file(path)
    path.write_text("weightz")
    with pytest.raises(StoreError) as caught:
        store.open("k1")
    for part in (str(path), before, sha256_file(path), f"remove {folder} to have the stage made again"):
        assert part in str(caught.value)
    shutil.rmtree(folder)
    assert not store.finished("k1")


def test_a_missing_file_and_a_broken_record_are_named(store):
    folder = commit(store)
    (folder / "head.bin").unlink()
    with pytest.raises(StoreError, match="head.bin is missing; remove"):
        store.open("k1")
    for content in ("", "{", "[]", '{"kind": "train"}'):
        (folder / "stage.json").write_text(content)
        with pytest.raises(StoreError, match="stage.json cannot be read .*remove"):
            store.dropped("k1")
    with pytest.raises(StoreError, match="none.stage.json cannot be read"):
        store.record("none")


def test_dropping_removes_the_weights_and_keeps_the_record(store):
    folder = commit(store)
    before = store.record("k1")
    store.drop("k1")
    assert os.listdir(folder) == ["stage.json"]
    assert store.record("k1") == before | {"dropped": True}
    assert store.finished("k1") and store.dropped("k1") and store.keys() == ["k1"]
    with pytest.raises(StoreError, match="dropped after scoring .*--keep"):
        store.open("k1")
    commit(store, content="again")
    assert not store.dropped("k1") and (store.open("k1") / "encoder" / "model.bin").read_text() == "again"


def test_a_killed_drop_is_no_corruption(store, monkeypatch):
    commit(store)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("pathlib.Path.unlink", lambda self, missing_ok=False: sys.exit("killed here"))
        store.drop("k1")
    assert store.dropped("k1") and len(os.listdir(store.folder("k1"))) == 3
    store.drop("k1")
    assert os.listdir(store.folder("k1")) == ["stage.json"]


def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "file.txt"
    write_atomic(path, "öne")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        write_atomic(path, "two")
    assert path.read_text(encoding="utf-8") == "öne" and os.listdir(path.parent) == ["file.txt"]


HOLDER = """
import sys
from peft_stilts.store import Store
with Store(sys.argv[1]).claim("k1"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def hold(store):
    """Another process that holds the claim k1 until it is told, or killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(store.root)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("end", ["finished", "killed"])
def test_a_claim_keeps_a_second_process_waiting_until_the_first_ends(store, end):
    process, waited = hold(store), []

    def release():
        waited.append(process.poll())
        process.send_signal(signal.SIGKILL) if end == "killed" else process.communicate("\n")

    with store.claim("k1", release):
        assert process.wait(10) == (-signal.SIGKILL if end == "killed" else 0)
    assert waited == [None], "it waited while the other process lived"
    with store.claim("k1", lambda: waited.append("again")), store.claim("k2", lambda: waited.append("other")):
        pass
    assert waited == [None]


def test_a_claim_is_given_back_when_its_work_fails(store):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), store.claim("k1", pytest.fail):
            _ = 1 / 0


def test_the_record_of_another_stage_is_refused(tmp_path):
    store = Store(tmp_path)
    draft = store.work("one") / "artefact"
    draft.mkdir()
    store.commit("one", draft, {"kind": "train", "spec": {}, "parent": None})
    shutil.copytree(store.folder("one"), store.folder("two"))
    with pytest.raises(StoreError, match="not the record of two.*remove"):
        store.open("two")


def test_a_file_that_the_record_does_not_name_is_refused(tmp_path):
    store = Store(tmp_path)
    draft = store.work("k") / "artefact"
    draft.mkdir()
    (draft / "weights").write_text("w")
    store.commit("k", draft, {"kind": "train", "spec": {}, "parent": None})
    (store.folder("k") / "more").write_text("x")
    with pytest.raises(StoreError, match="does not name: more"):
        store.open("k")
