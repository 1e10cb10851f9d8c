"""Bundles: what is written is read back, refused for another base, and loads in stock PEFT."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from peft_stilts.data.pack import make_pack
from peft_stilts.digest import canonical_json, sha256_folder
from peft_stilts.errors import CheckpointError, StoreError, UsageError
from peft_stilts.model.adapter_io import read_identity
from peft_stilts.model.bundle import (
    MANIFEST,
    allowed_file,
    check_base,
    read_bundle,
    read_manifest,
    write_bundle,
)
from peft_stilts.model.stack import lora
from peft_stilts.store import new_folder
from tests.model.bundles import COMMIT, SHAPE, TASKS, load_base, make_bundle, make_parts, read_json, save_base, told


@pytest.fixture
def base(tmp_path):
    return save_base(tmp_path / "base")


@pytest.fixture
def pack(features):
    return make_pack(features, range(12), 1)


def test_a_bundle_says_what_it_holds(base, tmp_path):
    bundle, _ = make_bundle(base, tmp_path, 2)
    folder = tmp_path / "bundle"
    assert bundle == read_bundle(folder) and bundle.folder == folder
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        *(f"adapters/{name}/{file}" for name in ("1-squad", "2-mnli")
          for file in ("adapter_config.json", "adapter_model.safetensors", "identity.json")),
        *(f"heads/{task}/{file}" for task in ("mnli", "squad") for file in ("head.json", "head.safetensors")),
        "stack.json"]
    assert bundle.adapter_folders == [folder / "adapters/1-squad", folder / "adapters/2-mnli"]
    assert [(a.name, a.parent) for a in bundle.adapters] == [("1-squad", None), ("2-mnli", "1-squad")]
    assert (bundle.depth_of("squad"), bundle.depth_of("mnli")) == (1, 2)
    assert bundle.head_folder("mnli") == folder / "heads/mnli"
    assert {name: getattr(bundle, name) for name in told()} == told()
    values = read_json(folder / MANIFEST)
    assert (values["format_version"], values["base"]["shape"], values["base"]["quantization"]) == (1, SHAPE, None)
    assert values["base"]["revision"] == COMMIT
    with pytest.raises(KeyError):
        bundle.head_folder("udpos")


@pytest.mark.parametrize("method, depth, policy", [
    *((method, depth, "stack") for method in ("lora", "rslora", "dora", "qlora") for depth in (1, 2, 3)),
    *((method, 2, "merge") for method in ("lora", "rslora", "dora"))])
def test_a_bundle_computes_what_was_trained(base, pack, tmp_path, method, depth, policy):
    bundle, stack = make_bundle(base, tmp_path, depth, method, policy)
    assert bundle.base["quantization"] == ("nf4" if method == "qlora" else None)
    assert [read_identity(folder)["policy"] for folder in bundle.adapter_folders][-1] == policy
    again = lora(load_base(base, method), bundle.adapter_folders, None)
    assert torch.equal(again(pack), stack(pack))
    check_base(bundle, load_base(base, method).identity)


def test_the_same_content_is_the_same_bundle(base, tmp_path):
    digests = []
    for name in ("one", "two"):
        make_bundle(base, tmp_path / name, 2)
        digests.append(sha256_folder(tmp_path / name / "bundle"))
    assert digests[0] == digests[1]


STOCK = """
import sys, torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import XLMRobertaModel

base, out, *bundles = sys.argv[1:]
states = {}
for bundle in bundles:
    encoder = XLMRobertaModel.from_pretrained(base, add_pooling_layer=False)
    model = PeftModel.from_pretrained(encoder, bundle, subfolder="adapters/1-squad").eval()
    with torch.no_grad():
        states[bundle] = model(input_ids=torch.arange(5, 25)[None]).last_hidden_state[0]
save_file(states, out)
assert not any(module.startswith("peft_stilts") for module in sys.modules)
"""


def test_stock_peft_reads_an_adapter_of_a_bundle(base, tmp_path):
    pack = make_pack(SimpleNamespace(input_ids=[np.arange(5, 25, dtype=np.int32)], labels={}), [0], 1)
    wanted = {}
    for method in ("lora", "rslora", "dora"):
        bundle, stack = make_bundle(base, tmp_path / method, 1, method)
        wanted[str(bundle.folder)] = stack(pack).detach()
    script, out = tmp_path / "stock.py", tmp_path / "states.safetensors"
    script.write_text(STOCK)
    done = subprocess.run([sys.executable, str(script), str(base), str(out), *wanted], capture_output=True, text=True,
                          cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    found = load_file(out)
    for folder, states in wanted.items():
        torch.testing.assert_close(found[folder], states, atol=1e-5, rtol=0)
        for other in wanted.keys() - {folder}:
            assert (states - wanted[other]).abs().max() > 1e-3


def test_the_check_of_the_base_names_both_sides(base, tmp_path):
    bundle, _ = make_bundle(base, tmp_path, 1)
    identity = load_base(base).identity
    other = "f" * 64
    for change, words in [({"sha256": other}, rf"{identity['sha256'][:12]}.*not quantised.*encoder here.*{other[:12]}"),
                          ({"quantization": "nf4"}, "not quantised.*the encoder here.*quantised to nf4"),
                          ({"revision": "a" * 40}, rf"{COMMIT}.*the encoder here.*{'a' * 40}")]:
        with pytest.raises(CheckpointError, match=words):
            check_base(bundle, identity | change)
    # The same weights from a folder are the same base; a branch says nothing of the commit.
    check_base(bundle, identity | {"id": "/home/someone/tiny", "revision": "local"})
    check_base(bundle, identity | {"revision": "main"})


def test_a_base_id_stands_in_every_file(base, tmp_path):
    adapters, heads, _, identity = make_parts(base, tmp_path, 2)
    bundle = write_bundle(tmp_path / "bundle", identity | {"id": "/home/someone/base", "revision": "local",
                                                           "shape": SHAPE}, adapters, heads, **told(), base_id="a/b")
    for folder in bundle.adapter_folders:
        config = read_json(folder / "adapter_config.json")
        assert (config["base_model_name_or_path"], config["revision"]) == ("a/b", None)
        assert read_identity(folder)["base"]["id"] == "a/b"
    assert bundle.base["id"] == "a/b"
    text = "".join(path.read_text("utf-8") for path in bundle.folder.rglob("*.json"))
    assert "/home" not in text and str(tmp_path) not in text


def test_what_cannot_be_a_bundle_is_not_written(base, tmp_path):
    adapters, heads, _, identity = make_parts(base, tmp_path, 2)
    shaped, out = identity | {"shape": SHAPE}, tmp_path / "new" / "bundle"
    wrong = [
        (UsageError, "needs one adapter or more", ([], {}), {}),
        (UsageError, "head of squad stands on 3 adapters; the bundle has 2",
         (adapters, {"squad": (heads["squad"][0], 3)}), {}),
        (UsageError, "not finite", (adapters, heads), {"scores": [{"score": float("nan")}]}),
        (CheckpointError, "trained on top of.*puts it on", (adapters[1:], {}), {}),
        (CheckpointError, "trained on top of", (adapters[::-1], {}), {}),
        (CheckpointError, "holds the span head of 'squad'", (adapters, {"mnli": heads["squad"]}), {}),
        (CheckpointError, "has no head.json|has no head.safetensors", (adapters, {"x": (tmp_path, 1)}), {}),
        (CheckpointError, "control characters", (adapters, heads), {"licence": "mit\x1b[31m"}),
    ]  # fmt: skip
    for kind, words, parts, change in wrong:
        with pytest.raises(kind, match=words) as caught:
            write_bundle(out, shaped, *parts, **(told() | change))
        assert f".bundle.{os.getpid()}" not in str(caught.value)
        assert not (tmp_path / "new").exists()
    with pytest.raises(CheckpointError, match="trained on"):
        write_bundle(out, shaped | {"sha256": "0" * 64}, adapters, heads, **told())
    with pytest.raises(CheckpointError, match=r"1-squad.*\(2, 32\) for \(2, 64\)"):
        write_bundle(out, identity | {"shape": SHAPE | {"hidden_size": 64}}, adapters, heads, **told())
    assert not (tmp_path / "new").exists()


def test_a_bundle_replaces_nothing(base, tmp_path):
    bundle, _ = make_bundle(base, tmp_path, 1)
    before = sha256_folder(bundle.folder)
    adapters, heads, _, identity = make_parts(base, tmp_path / "again", 1)
    with pytest.raises(UsageError, match="is there already"):
        write_bundle(bundle.folder, identity | {"shape": SHAPE}, adapters, heads, **told())
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        write_bundle(tmp_path / "file", identity | {"shape": SHAPE}, adapters, heads, **told())
    with pytest.raises(StoreError, match="cannot be written"):
        write_bundle(tmp_path / "file" / "below", identity | {"shape": SHAPE}, adapters, heads, **told())
    assert sha256_folder(bundle.folder) == before and (tmp_path / "file").read_text() == "mine"


def test_a_draft_that_fails_leaves_nothing(tmp_path):
    for error, told_as in ((OSError(28, "No space left on device"), StoreError), (KeyboardInterrupt(), None),
                           (CheckpointError("in {draft}"), CheckpointError)):
        with pytest.raises(told_as or type(error)) as caught, new_folder(tmp_path / "a" / "b") as draft:
            (draft / "half").write_text("half")
            if isinstance(error, CheckpointError):
                error = CheckpointError(f"in {draft}")
            raise error
        assert list(tmp_path.iterdir()) == []
    assert str(caught.value) == f"in {tmp_path / 'a' / 'b'}"
    with new_folder(tmp_path / "a" / "b") as draft:
        (draft / "whole").write_text("whole")
        assert not (tmp_path / "a" / "b").exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_the_manifest_is_read_alone(base, tmp_path):
    bundle, _ = make_bundle(base, tmp_path, 3)
    manifest = read_manifest((bundle.folder / MANIFEST).read_bytes(), "user/bundle")
    assert [adapter.name for adapter in manifest.adapters] == [f"{n}-{task}" for n, task in enumerate(TASKS, 1)]
    assert manifest.files.keys() == {path.relative_to(bundle.folder).as_posix() for path in bundle.folder.rglob("*")
                                     if path.is_file()} - {MANIFEST}
    # Order of keys and spaces mean nothing; a word does.
    values = read_json(bundle.folder / MANIFEST)
    again = json.dumps(dict(reversed(values.items())), indent=7).encode()
    assert read_manifest(again, "x") == manifest
    assert read_manifest(canonical_json(values).encode(), "x") == manifest
    with pytest.raises(CheckpointError, match=r"user/bundle was changed: its sha256 is [0-9a-f]{64}, recorded was"):
        read_manifest(json.dumps(values | {"licence": "gpl"}).encode(), "user/bundle")


@pytest.mark.parametrize("name", [
    "stack.json", "README.md", "LICENSE", "LICENSE-MIT", "LICENSE.txt", ".gitattributes", "gains.png", "NOTES.txt",
    "adapters/1-squad/adapter_model.safetensors", "adapters/1-mnli+squad/identity.json", "heads/squad/head.json"])
def test_names_that_belong_in_a_bundle(name):
    assert allowed_file(name) == ""


@pytest.mark.parametrize("name, reason", [
    ("pytorch_model.bin", "pickled"), ("adapters/1-squad/adapter_model.bin", "pickled"), ("a.PKL", "pickled"),
    ("heads/squad/head.pt", "pickled"), ("modeling.py", "code"), ("adapters/1-squad/x.so", "code"), ("run.SH", "code"),
    ("../stack.json", r"\.\."), ("adapters/../x.md", r"\.\."), ("/etc/README.md", "absolute"), ("C:/x.md", "absolute"),
    ("a\\..\\b.md", "absolute"), ("./README.md", "absolute"), ("adapters//x", "absolute"), ("a\nb.md", "control"),
    ("evil\u202egnp.md", "control"), ("x\0.md", "control"), ("config.json", "no part"),
    ("model.safetensors", "no part"),
    ("adapters/1-squad/README.md", "no part"), ("adapters/adapter_config.json", "no part"),
    ("docs/README.md", "no part"),
    ("heads/squad/identity.json", "no part"), ("adapters/1.squad/identity.json", "no part"), ("", "absolute"),
    (".env", "no part"), ("README.md/", "absolute"), ("stack.json\n", "control"), ("README.md\n", "control")])
def test_names_that_do_not(name, reason):
    assert re.search(reason, allowed_file(name))


def test_a_folder_that_is_no_bundle_is_said_to_be_none(tmp_path):
    for folder, words in ((tmp_path / "nowhere", "cannot be read as a bundle"), (tmp_path, "has no stack.json")):
        with pytest.raises(CheckpointError, match=words):
            read_bundle(folder)
    Path(tmp_path / "stack.json").write_text("[]")
    with pytest.raises(CheckpointError, match="it must be an object with format_version"):
        read_bundle(tmp_path)
