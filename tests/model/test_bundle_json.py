"""JSON of bundles that was changed, sealed again or not: refused, or it says the same as before."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_stilts.errors import CheckpointError
from peft_stilts.model.bundle import MANIFEST, read_bundle
from peft_stilts.model.bundle_check import text_allowed
from tests.model.bundles import (
    FAST,
    METHODS,
    a_copy,
    meaning,
    read_json,
    reseal,
    seal,
    write_json,
)


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


ODD = st.one_of(
    st.sampled_from([None, True, False, 0, 1, -1, 2, 2**31, 2**63, 10**400, -10**30, 0.0, 0.5, 1e308, float("nan"),
                     float("inf"), "", "..", "../..", "/etc/passwd", "a" * 1000, "x\0y", "\x1b[2J", "\ud800", "\u202e",
                     "1-squad", "2-mnli", "squad", "merge", "continue", "nf4", "0" * 64, "adapters/../x", [], {}, [{}],
                     {"a": {"b": [None]}}, nested(20), nested(100), {"__class__": "os.system"}, [1, 2], ["query"],
                     "lora", "dora", "LORA", "IA3", "C:\\x", "(a+)+$"]),
    st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3))


def places(value, path=()):
    """The paths of all values inside of a JSON value."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(item, (*path, key))


def mangled(data, value):
    """(`value` with something changed, the path of it)."""
    path = data.draw(st.sampled_from(list(places(value))))
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    how = data.draw(st.sampled_from(["delete", "replace", "replace", "replace", "add", "twice", "swap"]))
    if how == "delete":
        del holder[path[-1]]
    elif how == "add" and isinstance(holder, dict):
        path = (*path[:-1], data.draw(st.sampled_from(["__proto__", "code", "auto_map", "a\nb", "layers_to_transform",
                                                       "trust_remote_code", "use_qalora", "lora_bias", "policy"])))
        holder[path[-1]] = data.draw(ODD)
    elif how == "twice" and isinstance(holder, list):
        holder.insert(path[-1], holder[path[-1]])
    elif how == "swap" and isinstance(holder, list):
        holder.reverse()
    else:
        holder[path[-1]] = data.draw(ODD)
    return value, path


FREE = {"recipe", "data", "versions", "licence", "scores"}
UNSEEN = {"vocab_size", "num_attention_heads", "max_position_embeddings", "type_vocab_size", "pad_token_id"}
"""Of the base's shape what no adapter and none of these heads depends on."""


@settings(FAST, max_examples=150)
@given(data=st.data(), sealed=st.sampled_from([True, True, True, False]))
def test_a_changed_manifest_is_refused_or_says_the_same(whole, data, sealed):
    with a_copy(whole["lora"]) as folder:
        before = read_json(folder / MANIFEST)
        values, path = mangled(data, read_json(folder / MANIFEST))
        if sealed and path[0] != "sha256" and isinstance(values, dict):
            seal(folder, values)
        else:
            write_json(folder / MANIFEST, values)
        try:
            bundle = read_bundle(folder)
        except CheckpointError as error:
            assert str(folder) in str(error) and text_allowed(str(error))
            return
        if read_json(folder / MANIFEST) == before:          # such as two swapped items that are equal
            return
        assert sealed and (path[0] in FREE or path[0] == "heads" or path[-1] in UNSEEN)
        assert meaning(bundle)[:1] == meaning(whole["lora"])[:1]


@settings(FAST, max_examples=200)
@given(data=st.data(), method=st.sampled_from(METHODS),
       name=st.sampled_from(["adapters/1-squad/adapter_config.json", "adapters/1-squad/identity.json",
                             "adapters/2-mnli/identity.json", "adapters/2-mnli/adapter_config.json",
                             "heads/squad/head.json", "heads/mnli/head.json"]))
def test_a_changed_file_of_a_part_is_refused_or_means_the_same(whole, data, method, name):
    with a_copy(whole[method]) as folder:
        values, path = mangled(data, read_json(folder / name))
        write_json(folder / name, values)
        reseal(folder, parts=False)
        try:
            bundle = read_bundle(folder)
        except CheckpointError as error:
            assert str((folder / name).parent) in str(error) and text_allowed(str(error))
            return
        assert meaning(bundle) == meaning(whole[method]), path


@pytest.mark.parametrize("name", [MANIFEST, "adapters/1-squad/identity.json", "adapters/1-squad/adapter_config.json",
                                  "heads/squad/head.json"])
@pytest.mark.parametrize("text, words", [
    (b"[" * 100_000, "cannot be read"), (b'{"a":' * 40 + b"1" + b"}" * 40, "nested deeper than 32"),
    (b"", "cannot be read"), (b"{", "cannot be read"), (b"\xff\xfe{}", "cannot be read"),
    (b'{"a": 1, "a": 2}', "twice"),
    (b'{"a": NaN}', "NaN"), (b'{"a": 1e999}', "too large"), (b'{"a": ' + b"9" * 5000 + b"}", "cannot be read"),
    (b'{"a": "\\u001b[31m"}', "control characters"), (b'{"\\ud800": 1}', "control characters"),
    (b"null", "lacks|must be|is None"), (b"3", "lacks|must be|is None"), (b"[]", "lacks|must be|is None"),
    (b"{}", "lacks|must be|is None")])
def test_json_that_is_none_is_refused(folder, name, text, words):
    (folder / name).write_bytes(text)
    if name != MANIFEST:
        reseal(folder, parts=False)
    with pytest.raises(CheckpointError, match=f"(?s){re.escape(name)}.*({words})"):
        read_bundle(folder)


@pytest.mark.parametrize("version, words", [
    (2, "has format_version 2; 1 is read here.*Install the newest"), (0, "has format_version 0; 1 is"),
    (True, "format_version: found True; it must be a whole number"), ("1", "found '1'"), (1.0, "found 1.0")])
def test_another_version_of_the_format_is_refused(folder, version, words):
    seal(folder, read_json(folder / MANIFEST) | {"format_version": version, "new field": 1})
    if version in (2, 0):
        with pytest.raises(CheckpointError, match=words):
            read_bundle(folder)
    seal(folder, read_json(folder / MANIFEST) | {"format_version": version})
    values = read_json(folder / MANIFEST)
    del values["new field"]
    seal(folder, values)
    with pytest.raises(CheckpointError, match=words):
        read_bundle(folder)
