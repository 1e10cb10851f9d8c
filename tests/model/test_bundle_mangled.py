"""Bundles that were damaged, or made to do harm: each is refused by a CheckpointError that names the place."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from peft_stilts.errors import CheckpointError
from peft_stilts.model import bundle_check
from peft_stilts.model.bundle import MANIFEST, read_bundle
from tests.model.bundles import (
    CONFIG,
    FAST,
    METHODS,
    WEIGHTS,
    a_copy,
    change_tensors,
    names_of,
    read_json,
    reseal,
    seal,
    write_json,
)


@FAST
@given(data=st.data(), mask=st.integers(1, 255))
def test_a_changed_byte_of_any_file_is_found(whole, data, mask):
    with a_copy(whole["lora"]) as folder:
        path = folder / data.draw(st.sampled_from(names_of(folder)))
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= mask
        path.write_bytes(content)
        try:
            found = read_bundle(folder)
        except CheckpointError as error:
            assert path.relative_to(folder).as_posix() in str(error)
        else:           # a space in stack.json that became another one
            assert path.name == MANIFEST and json.loads(path.read_bytes()) == read_json(whole["lora"].folder / MANIFEST)
            assert found.files == whole["lora"].files


@FAST
@given(data=st.data(), kept=st.floats(0, 1, exclude_max=True))
def test_a_file_that_was_cut_off_is_found(whole, data, kept):
    with a_copy(whole["lora"]) as folder:
        path = folder / data.draw(st.sampled_from(names_of(folder)))
        os.truncate(path, int(path.stat().st_size * kept))
        with pytest.raises(CheckpointError, match=re.escape(path.relative_to(folder).as_posix())):
            if int(kept * len((whole["lora"].folder / path.relative_to(folder)).read_bytes())) == len(
                    (whole["lora"].folder / path.relative_to(folder)).read_bytes().rstrip()):
                path.write_bytes(b"")           # only the line's end was cut: cut all
            read_bundle(folder)


def test_every_missing_file_is_named(whole):
    for name in names_of(whole["lora"].folder):
        with a_copy(whole["lora"]) as folder:
            (folder / name).unlink()
            with pytest.raises(CheckpointError, match=re.escape(name)):
                read_bundle(folder)


@FAST
@given(data=st.data(), new=st.one_of(
    st.sampled_from(["pytorch_model.bin", "a.py", "adapters/1-squad/x.so", "adapters/README.md", "heads/squad/head.pkl",
                     "adapters/1-squad/sub/identity.json", "adapters/3-x/identity.json", "config.json", ".hidden",
                     "heads/x/head.json", "STACK.json", "Readme.MD.exe", "adapters/1-squad/.x"]),
    st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=20).filter(
        lambda name: name not in (".", "..") and not bundle_check.EXTRA.fullmatch(name))))
def test_a_file_that_does_not_belong_is_named(whole, data, new):
    with a_copy(whole["lora"]) as folder:
        if (folder / new).exists():             # such as `adapters`
            return
        (folder / new).parent.mkdir(parents=True, exist_ok=True)
        if data.draw(st.booleans()):
            (folder / new).write_bytes(b"x")
        else:
            (folder / data.draw(st.sampled_from(names_of(folder)))).rename(folder / new)
        with pytest.raises(CheckpointError) as caught:
            read_bundle(folder)
        assert str(folder) in str(caught.value) and bundle_check.text_allowed(str(caught.value))


def test_cards_licences_and_pictures_may_lie_there(folder):
    for name in ("README.md", "LICENSE", "gains.png", ".gitattributes", "notes.txt"):
        (folder / name).write_bytes(b"x")
    assert read_bundle(folder).folder == folder
    (folder / "readme.MD").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="readme.MD"):
        read_bundle(folder)
    (folder / "readme.MD").rename(folder / "readme.md")
    with pytest.raises(CheckpointError, match="differ only by case"):
        read_bundle(folder)


@pytest.mark.parametrize("name", ["README.md", WEIGHTS, "adapters/1-squad/identity.json", MANIFEST])
def test_a_file_that_is_too_large_is_not_read(folder, name, monkeypatch):
    (folder / name).touch()
    size = bundle_check.size_limit(name) + 1
    os.truncate(folder / name, size)            # a hole: it takes no room
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(CheckpointError, match=f"{re.escape(name)} is refused: it has {size} bytes, at most {size - 1}"):
        read_bundle(folder)


def test_too_many_files_are_not_read(folder):
    for number in range(bundle_check.MOST_FILES):
        (folder / f"{number}.md").touch()
    with pytest.raises(CheckpointError, match="has more than 1000 files"):
        read_bundle(folder)


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS, "adapters/1-squad", "adapters", "heads", "extra.md"])
@pytest.mark.parametrize("dangling", [False, True])
def test_links_are_refused(folder, tmp_path, name, dangling):
    path, away = folder / name, tmp_path / "away"
    if path.exists():
        path.rename(away)
    else:
        away.write_text("x")
    if dangling:
        away.rename(tmp_path / "gone")
    path.symlink_to(away)
    with pytest.raises(CheckpointError, match=re.escape(name) + (".*No such file" if not dangling else "")
                       if dangling else rf"{re.escape(name)} is refused: it is a link"):
        read_bundle(folder)


def test_special_files_are_refused_and_not_opened(folder):
    os.mkfifo(folder / "README.md")
    with pytest.raises(CheckpointError, match="README.md is refused: it is no ordinary file"):
        read_bundle(folder)


def test_links_of_the_hubs_cache_are_files(folder, tmp_path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "c0ffee", tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    for number, name in enumerate(names_of(folder)):
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, blobs / str(number))
        (snapshot / name).symlink_to(os.path.relpath(blobs / str(number), (snapshot / name).parent))
    assert read_bundle(snapshot).files == read_bundle(folder).files
    (snapshot / MANIFEST).unlink()
    (snapshot / MANIFEST).symlink_to(folder / MANIFEST)
    with pytest.raises(CheckpointError, match="stack.json is refused: it is a link"):
        read_bundle(snapshot)


@pytest.mark.parametrize("place", ["/bundle", "/snapshots/bundle", "/a/bundle", "/"])
def test_a_bundle_near_the_root_of_the_disk_is_in_no_cache(place):
    assert not bundle_check._in_hub_cache(Path(place), Path(place) / "README.md")


# Tensors: all checksums agree, so that it is the check of the tensors that speaks

def first(tensors):
    return next(iter(sorted(tensors)))


TENSORS = {
    "missing": lambda t: {name: value for name, value in t.items() if name != first(t)},
    "unexpected": lambda t: t | {"base_model.model.encoder.layer.9.x": torch.zeros(1)},
    "misshapen": lambda t: t | {first(t): t[first(t)].T.contiguous()},
    r"misshapen.*\(1, ": lambda t: t | {first(t): t[first(t)][None]},
    "not finite": lambda t: t | {first(t): torch.full_like(t[first(t)], float("nan"))},
    "not finite: [^;]*lora_A": lambda t: t | {first(t): t[first(t)].index_fill(0, torch.tensor(0), float("-inf"))},
    "is of type F16": lambda t: t | {first(t): t[first(t)].half()},
    "is of type BF16": lambda t: t | {first(t): t[first(t)].bfloat16()},
    "is of type F64": lambda t: t | {first(t): t[first(t)].double()},
    "is of type I64": lambda t: t | {first(t): t[first(t)].long()},
    "control characters": lambda t: t | {"a\x1b[31m": torch.zeros(1)},
    "missing: .* unexpected": lambda t: {name.replace("lora_A", "lora_C"): value for name, value in t.items()},
    "missing.*more|missing": lambda t: {},
}


@pytest.mark.parametrize("words", TENSORS)
@pytest.mark.parametrize("method", METHODS)
def test_tensors_that_do_not_fit_the_base_are_named(whole, method, words):
    for name in (WEIGHTS, "adapters/2-mnli/adapter_model.safetensors"):
        with a_copy(whole[method]) as folder:
            change_tensors(folder, name, TENSORS[words])
            with pytest.raises(CheckpointError, match=f"{re.escape(name)}.*({words})"):
                read_bundle(folder)


def test_magnitudes_of_dora_are_checked(whole):
    with a_copy(whole["dora"]) as folder:
        name = next(name for name in load_file(folder / WEIGHTS) if "magnitude" in name)
        change_tensors(folder, WEIGHTS, lambda t: {key: value for key, value in t.items() if key != name})
        with pytest.raises(CheckpointError, match=f"missing: {re.escape(name)}"):
            read_bundle(folder)
    with a_copy(whole["lora"]) as folder:
        change_tensors(folder, WEIGHTS, lambda t: t | {name: torch.ones(32)})
        with pytest.raises(CheckpointError, match=f"unexpected: {re.escape(name)}"):
            read_bundle(folder)


@pytest.mark.parametrize("change, words", [
    (lambda t: {}, "missing"), (lambda t: t | {"x": torch.zeros(1)}, "unexpected: x"),
    (lambda t: {name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in t.items()}, "misshapen"),
    (lambda t: {name: value * float("nan") for name, value in t.items()}, "not finite"),
    (lambda t: {name: value.double() for name, value in t.items()}, "is of type F64")])
def test_tensors_of_a_head_are_named(folder, change, words):
    change_tensors(folder, "heads/mnli/head.safetensors", change)
    with pytest.raises(CheckpointError, match=f"heads/mnli/head.safetensors.*{words}"):
        read_bundle(folder)


@FAST
@given(data=st.data(), name=st.sampled_from([WEIGHTS, "heads/squad/head.safetensors"]))
def test_a_safetensors_file_that_is_not_sound_is_refused_whatever_its_checksum(whole, data, name):
    with a_copy(whole["lora"]) as folder:
        content = (folder / name).read_bytes()
        length = int.from_bytes(content[:8], "little")
        kind = data.draw(st.sampled_from(["cut", "more", "length", "header", "random"]))
        if kind == "cut":
            content = content[:data.draw(st.integers(0, len(content) - 1))]
        elif kind == "more":
            content += data.draw(st.binary(min_size=1, max_size=9))
        elif kind == "length":
            wrong = data.draw(st.integers(0, 2**64 - 1).filter(lambda number: number != length))
            content = wrong.to_bytes(8, "little") + content[8:]
        elif kind == "header":
            header = json.loads(content[8:8 + length])
            key = data.draw(st.sampled_from(sorted(header.keys() - {"__metadata__"})))
            header[key] = data.draw(st.sampled_from([
                None, [], {}, {"dtype": "F32"}, header[key] | {"shape": [2**62, 2**62]}, header[key] | {"dtype": "Q9"},
                header[key] | {"shape": [-1]}, header[key] | {"data_offsets": [0, 2**63]},
                header[key] | {"data_offsets": [8, 0]}, header[key] | {"data_offsets": [1, 2]}]))
            text = json.dumps(header).encode()
            content = len(text).to_bytes(8, "little") + text + content[8 + length:]
        else:
            content = data.draw(st.binary(max_size=200))
        (folder / name).write_bytes(content)
        reseal(folder)
        with pytest.raises(CheckpointError, match=re.escape(name)):
            read_bundle(folder)


# JSON

def edit(entries, **parents):
    for entry in entries:
        if entry["name"] in parents:
            entry["parent"] = parents[entry["name"]]
    return entries


CHAINS = {
    "reversed": (lambda e: e[::-1], "parent of 2-mnli is '1-squad', which makes a circle; it must be null"),
    "circle": (lambda e: edit(e, **{"1-squad": "2-mnli"}), "parent of 1-squad is '2-mnli', which makes a circle"),
    "its own": (lambda e: edit(e, **{"2-mnli": "2-mnli"}), "parent of 2-mnli is '2-mnli', which makes a circle"),
    "unknown": (lambda e: edit(e, **{"2-mnli": "9-x"}), "parent of 2-mnli is '9-x', which is none of them; it must be"),
    "two trunks": (lambda e: edit(e, **{"2-mnli": None}), "parent of 2-mnli is None, so the adapters are no single"),
    "no parent": (lambda e: e[1:], "parent of 2-mnli is '1-squad', which is none of them"),
    "twice": (lambda e: [*e, e[1]], "once each"),
    "none": (lambda e: [], "from 1 to 64 adapters"),
    "many": (lambda e: e * 40, "from 1 to 64 adapters"),
    "branch": (lambda e: [*e, e[1] | {"name": "3-x", "path": "adapters/3-x"}],
               "parent of 3-x is '1-squad', so the adapters are no single line"),
    "case": (lambda e: [*e, e[1] | {"name": "2-MNLI", "path": "adapters/2-MNLI", "parent": "2-mnli"}],
             "2-mnli and 2-MNLI differ only by case"),
    "path": (lambda e: [e[0] | {"path": "../1-squad"}, e[1]], r"path: found '../1-squad'; it must be adapters/1-squad"),
    "absolute": (lambda e: [e[0] | {"path": "/adapters/1-squad"}, e[1]], "it must be adapters/1-squad"),
    "other": (lambda e: [e[0] | {"path": "adapters/2-mnli"}, e[1]], "it must be adapters/1-squad"),
    "name": (lambda e: [e[0] | {"name": "..", "path": "adapters/.."}, e[1]],
             "found '..'; it must be a name of letters"),
    "backslash": (lambda e: [e[0] | {"name": "a\\b", "path": "adapters/a\\b"}, e[1]], "it must be a name of letters"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHAINS)
def test_adapters_that_are_no_line_are_refused(folder, kind):
    change, words = CHAINS[kind]
    values = read_json(folder / MANIFEST)
    seal(folder, values | {"adapters": change(values["adapters"])})
    with pytest.raises(CheckpointError, match=re.escape(words) if kind == "path" else words):
        read_bundle(folder)


def test_an_adapters_own_parents_must_be_those_of_the_manifest(folder):
    path = folder / "adapters/2-mnli/identity.json"
    identity = read_json(path)
    for parents, words in (([], "trained on top of the bare encoder; stack.json puts it on '1-squad'"),
                           (identity["parents"] * 2, "trained on top of '1-squad'.*, '1-squad'"),
                           ([identity["parents"][0] | {"sha256": "0" * 64}], "000"),
                           ([identity["parents"][0] | {"name": "1-x"}], "on top of '1-x'"),
                           ([identity["parents"][0] | {"task": "x"}], "trained on top of"),
                           ([{"name": "2-mnli", "task": "mnli", "sha256": identity["sha256"]}], "on top of '2-mnli'")):
        write_json(path, identity | {"parents": parents})
        reseal(folder, parts=False)
        with pytest.raises(CheckpointError, match=f"2-mnli/identity.json: .*{words}"):
            read_bundle(folder)


@pytest.mark.parametrize("change, words", [
    ({"sha256": "0" * 64}, "trained on user/tiny.*the encoder here is user/tiny.*000"), ({"id": "b/c"}, "b/c"),
    ({"revision": "main"}, "stack.json says.*main"), ({"quantization": "nf4"}, "quantised to nf4")])
def test_a_base_that_the_adapters_do_not_name_is_refused(folder, change, words):
    values = read_json(folder / MANIFEST)
    seal(folder, values | {"base": values["base"] | change})
    with pytest.raises(CheckpointError, match=f"identity.json.*{words}|{words}"):
        read_bundle(folder)


@pytest.mark.parametrize("change, words", [
    ({"auto_mapping": {"parent_library": "os", "base_model_class": "system"}}, "auto_mapping names code"),
    ({"base_model_name_or_path": "evil/base"}, "the base is 'evil/base'; stack.json says 'user/tiny'"),
    ({"revision": "refs/pr/1"}, "revision is 'refs/pr/1'; stack.json says"),
    ({"peft_type": "IA3"}, "only 'LORA' is read"), ({"r": 2**60}, "r|rank"),
    ({"r": 4, "rank_pattern": {"x": 2}}, "rank"),
    ({"target_modules": "(a+)+$"}, "target_modules"), ({"modules_to_save": ["pooler"]}, "modules_to_save"),
    ({"use_qalora": True}, "use_qalora"), ({"lora_bias": True}, "lora_bias"), ({"bias": "all"}, "bias"),
    ({"layer_replication": [[0, 1], [0, 1]]}, "layer_replication"), ({"r": True}, "'r'|r is"),
    ({"lora_alpha": None}, "lora_alpha"), ({"lora_dropout": "0"}, "lora_dropout"), ({"fan_in_fan_out": True}, "fan_in"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights"), ({"corda_config": {"cache_file": "x"}}, "corda_config")])
def test_a_configuration_that_asks_for_more_is_refused(folder, change, words):
    path = folder / "adapters/1-squad/adapter_config.json"
    write_json(path, read_json(path) | change)
    reseal(folder)
    with pytest.raises(CheckpointError, match=f"1-squad/adapter_.*({words})"):
        read_bundle(folder)


@pytest.mark.parametrize("change, words", [
    ({"adapter": "9-x"}, "squad: adapter: found '9-x'; it must be one of 1-squad, 2-mnli"),
    ({"path": "heads/mnli"}, "it must be heads/squad"), ({"sha256": "x"}, "64 hexadecimal"),
    ({"code": "x"}, "not known")])
def test_a_head_that_the_manifest_says_wrong_is_refused(folder, change, words):
    values = read_json(folder / MANIFEST)
    values["heads"]["squad"] |= change
    seal(folder, values)
    with pytest.raises(CheckpointError, match=words):
        read_bundle(folder)


def test_a_head_cannot_have_the_widths_of_a_bomb(folder):
    path = folder / "heads/mnli/head.json"
    write_json(path, read_json(path) | {"num_labels": 10**9, "labels": []})
    reseal(folder)
    with pytest.raises(CheckpointError, match="num_labels is 1000000000; it must be from 1 to 100000"):
        read_bundle(folder)


def test_a_shape_as_large_as_is_believed_costs_nothing(folder):
    values = read_json(folder / MANIFEST)
    values["base"]["shape"] |= {"vocab_size": 2**24, "max_position_embeddings": 2**24, "hidden_size": 2**20,
                                "intermediate_size": 2**22}
    seal(folder, values)
    with pytest.raises(CheckpointError, match=rf"misshapen: .*\(2, {CONFIG.hidden_size}\) for \(2, 1048576\)"):
        read_bundle(folder)


def test_reading_leaves_the_folder_as_it_was(folder):
    save_file({}, folder / WEIGHTS)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(CheckpointError):
        read_bundle(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
