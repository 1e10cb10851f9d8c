"""Lines, tables and JSON of release files: what is a line, and which lines are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_stilts.errors import DataError
from peft_stilts.tasks import TARGETS
from peft_stilts.tasks.releases import READERS
from peft_stilts.tasks.releases.files import csv_rows, jsonl_rows, label, lines_of, tsv_rows


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"\xef\xbb\xbfa\r\nb\r\n", ["a", "b"]),
        ("a\u2028b\u0085c\x0bd\re\n\n".encode(), ["a\u2028b\u0085c\x0bd\re", ""]),
    ],
)
def test_lines_end_at_newlines_only(tmp_path, content, expected):
    (tmp_path / "file").write_bytes(content)
    assert list(lines_of(tmp_path / "file")) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf \n\t\n", "is empty"),
        ("ä".encode("latin-1"), "not UTF-8"),
        ("a".encode("utf-16"), "not UTF-8"),
        (None, "cannot read"),
    ],
)
def test_files_without_lines(tmp_path, content, message):
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=f"{message}") as error:
        list(lines_of(tmp_path / "file"))
    assert str(tmp_path / "file") in str(error.value)


def test_a_table_names_the_line_at_fault(tmp_path):
    path = tmp_path / "file.tsv"
    path.write_text('id\ttext\tlabel1\tlabel2\n1\t"a\tx\ty\n2\tb"\n3\n4\tb\tx\ty\tz\n')
    broken = []
    rows = list(tsv_rows(path, ("id", "text"), broken))
    assert rows == [(2, {"id": "1", "text": '"a', "label1": "x", "label2": "y"}), (3, {"id": "2", "text": 'b"'})]
    assert broken == [4, 5]
    with pytest.raises(DataError, match="line 4 has 1 tab-separated fields, not 4 .id, text, label1, label2"):
        list(tsv_rows(path, ("id", "text")))
    with pytest.raises(DataError, match="first line lacks gold_label; it has id, text"):
        list(tsv_rows(path, ("id", "gold_label")))


def test_only_labels_at_the_end_may_be_missing(tmp_path):
    path = tmp_path / "file.tsv"
    path.write_text("id\tlabel1\ttext\n1\tx\n")
    with pytest.raises(DataError, match="line 2 has 2"):
        list(tsv_rows(path, ("id", "text")))


def test_comma_separated_rows_may_hold_commas_quotes_and_lines(tmp_path):
    path = tmp_path / "file.csv"
    path.write_bytes(b'\xef\xbb\xbfid,text\r\n1,"a, ""b""\r\nc"\r\n2,d\r\n')
    assert list(csv_rows(path, ("id",))) == [(3, {"id": "1", "text": 'a, "b"\nc'}), (4, {"id": "2", "text": "d"})]
    for content, message in (
        ("id\n1,2\n", "line 2 ends a row of 2 fields, not 1"),
        ('id\n"1\n', "line 2: "),
        ("text\n1\n", "lacks id"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=message):
            list(csv_rows(path, ("id",)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": 1}\n{"id": 2\n', "line 2 is no complete JSON"),
        ("[1]\n", "line 1 is no JSON object but list"),
        ('{"uid": 1}\n', "line 1 lacks id; it has uid"),
        ('{"id": 1}\n\n', "line 2 is no complete JSON"),
        ("[" * 200_000, "line 1 is no complete JSON"),
    ],
)
def test_json_lines_that_are_refused(tmp_path, content, message):
    (tmp_path / "file.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        list(jsonl_rows(tmp_path / "file.jsonl", ("id",)))


@given(st.one_of(st.text(), st.none(), st.integers(), st.lists(st.integers(), max_size=2)))
def test_a_label_is_one_of_the_words_exactly(value):
    words = ("entailment", "neutral")
    if value in words:
        assert words[label(value, words, "here")] == value
    else:
        with pytest.raises(DataError, match="here: unknown label .*Known: entailment, neutral"):
            label(value, words, "here")


def test_every_reader_says_what_it_needs_when_nothing_is_there(bench):
    assert set(TARGETS) < set(READERS) and len(READERS) == 21
    for task, reader in READERS.items():
        if task not in ("squad", "squad_v2"):
            bench.refuses(task, {"notes.md": "x"}, f"holds no release file of {task}: {reader.expected}", "unpacked")
        else:
            bench.refuses(task, {}, "is missing", reader.expected)
