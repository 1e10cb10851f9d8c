"""Keys are equal exactly for equal values; digests follow names and bytes."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_stilts.digest import canonical_json, key_of, sha256_file, sha256_folder

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12)


@given(value=st.dictionaries(st.text(), JSON, max_size=5))
def test_the_order_of_a_mapping_does_not_matter(value):
    turned = dict(reversed(value.items()))
    assert canonical_json(turned) == canonical_json(value)
    assert key_of(turned) == key_of(value)
    assert json.loads(canonical_json(value)) == value


@given(one=JSON, other=JSON)
def test_different_values_have_different_keys(one, other):
    assert (key_of(one) == key_of(other)) == (canonical_json(one) == canonical_json(other))


def test_the_key_is_the_beginning_of_the_sha256_of_the_utf8_text():
    assert canonical_json({"b": [1, 2.5, None], "a": "ö"}) == '{"a":"ö","b":[1,2.5,null]}'
    assert key_of({"a": "ö"}) == hashlib.sha256('{"a":"ö"}'.encode()).hexdigest()[:16]


@pytest.mark.parametrize("value, error", [(float("nan"), ValueError), (float("inf"), ValueError), ({1j}, TypeError)])
def test_what_json_does_not_know_is_refused(value, error):
    with pytest.raises(error):
        key_of({"a": value})


def test_a_folder_is_known_by_its_names_and_bytes_alone(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "a.txt").write_bytes(b"a")
        (tmp_path / name / "inner" / "b.txt").write_bytes(b"b" * 100_000)
    one, two = tmp_path / "one", tmp_path / "two"
    assert sha256_file(one / "a.txt") == hashlib.sha256(b"a").hexdigest()
    before = sha256_folder(one)
    assert sha256_folder(two) == before
    assert sha256_folder(two, [two / "inner" / "b.txt", two / "a.txt"]) == before
    assert sha256_folder(two, [two / "a.txt"]) != before
    (two / "a.txt").write_bytes(b"c")
    assert sha256_folder(two) != before
    (two / "a.txt").rename(two / "c.txt")
    (two / "c.txt").write_bytes(b"a")
    assert sha256_folder(two) != before
