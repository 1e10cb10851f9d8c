"""Local folders: what is read, what goes into the key, and how each thing that can be wrong is said."""

import shutil
import stat

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from peft_stilts.errors import DataError, UsageError
from peft_stilts.languages import LANGUAGES
from peft_stilts.tasks import TASKS, RowFilter, Split
from peft_stilts.tasks.sources import LocalMirror, load_checked

GERMAN = TASKS["xquad"].test(LANGUAGES["de"])


def test_a_split_is_read_and_identified(folder, span_rows):
    mirror = LocalMirror(folder.root)
    rows = load_checked(mirror, "span", GERMAN)
    assert rows["id"][:] == ["q0", "q1", "q2", "q3"] and rows[1]["answers"] == span_rows()["answers"][1]
    found = mirror.identify(GERMAN)
    digest = found.pop("digest")
    assert len(digest) == 64 and found == {
        "repo": "google/xtreme",
        "config": "XQuAD.de",
        "split": "validation",
        "revision": "local",
        "rows": None,
    }
    assert mirror.languages(TASKS["xquad"]) == ("de",) and mirror.languages(TASKS["tatoeba"]) == ()
    assert mirror.language("de") is LANGUAGES["de"] and mirror.name == "local"


def test_a_changed_file_is_read_anew_with_another_digest(folder, span_rows):
    mirror = LocalMirror(folder.root)
    before, digest = mirror.load(GERMAN)["id"][:], mirror.identify(GERMAN)["digest"]
    folder.write("XQuAD.de", "validation", span_rows(prefix="x"))
    for provider in (mirror, LocalMirror(folder.root)):
        assert provider.load(GERMAN)["id"][:] == ["x0", "x1", "x2", "x3"] != before
        assert provider.identify(GERMAN)["digest"] != digest


def test_nothing_is_written_into_a_read_only_folder(folder):
    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.root.rglob("*")}

    for path in [folder.root, *folder.root.rglob("*")]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    before = state()
    try:
        mirror = LocalMirror(folder.root)
        mirror.identify(GERMAN)
        load_checked(mirror, "span", GERMAN)
        assert state() == before
    finally:
        for path in [folder.root, *folder.root.rglob("*")]:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)


def test_the_filter_comes_before_the_limit(folder):
    odd = RowFilter("odd", lambda rows: [n for n in range(len(rows)) if n % 2])
    split = Split("google/xtreme", "XQuAD.de", "validation", rows=odd)
    mirror = LocalMirror(folder.root)
    assert mirror.load(split, limit=1)["id"][:] == ["q1"] and mirror.load(split, limit=99)["id"][:] == ["q1", "q3"]
    assert mirror.identify(split)["rows"] == "odd"
    none = Split("google/xtreme", "XQuAD.de", "validation", rows=RowFilter("none", lambda rows: []))
    with pytest.raises(DataError, match="no rows left by 'none'"):
        mirror.load(none)


def test_several_files_make_one_split(folder, span_rows):
    shutil.copy(folder.write("more", "test", span_rows(2, "z")), folder.repo / "XQuAD.de" / "validation-1.parquet")
    assert LocalMirror(folder.root).load(GERMAN)["id"][:] == ["q0", "q1", "q2", "q3", "z0", "z1"]
    Dataset.from_dict({"other": [1]}).to_parquet(folder.repo / "XQuAD.de" / "validation-2.parquet")
    with pytest.raises(DataError, match="different columns"):
        LocalMirror(folder.root).load(GERMAN)


def test_missing_things_are_named_with_the_nearest(folder, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        LocalMirror(tmp_path / "nowhere")
    mirror = LocalMirror(folder.root)
    with pytest.raises(DataError, match="unknown configuration 'XQuAD.dee'. Did you mean 'XQuAD.de'"):
        mirror.load(Split("google/xtreme", "XQuAD.dee", "validation"))
    with pytest.raises(DataError, match="unknown split 'validatoin'. Did you mean 'validation'"):
        mirror.load(Split("google/xtreme", "XQuAD.de", "validatoin"))
    with pytest.raises(DataError, match="tools/mirror.py builds"):
        mirror.load(TASKS["squad"].train[0])
    with pytest.raises(UsageError, match="Did you mean"):
        mirror.language("dee")
    folder.path.unlink()
    with pytest.raises(DataError, match="there is no such file"):
        mirror.load(GERMAN)


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "header"])
def test_damaged_parquet_is_named(folder, damage):
    whole = folder.path.read_bytes()
    folder.path.write_bytes(
        {
            "empty": b"",
            "text": b"id,context\n",
            "truncated": whole[:-20],
            "header": whole[: len(whole) // 2] + whole[-8:],
        }[damage]
    )
    with pytest.raises(DataError, match="validation-00000-of-00001.parquet is no readable parquet file"):
        LocalMirror(folder.root).load(GERMAN)


def test_columns_a_filter_needs_are_named(folder):
    folder.write("tydiqa", "validation", {"question": ["a"], "context": ["b"]})
    folder.readme({"tydiqa": {"validation": "tydiqa/validation-*"}})
    finnish = TASKS["tydiqa"].test(LANGUAGES["fi"])
    with pytest.raises(DataError, match="cannot choose rows 'id-prefix-finnish' from columns question, context"):
        LocalMirror(folder.root).load(finnish)
    folder.write("tydiqa", "validation", {"id": [1]})
    with pytest.raises(DataError, match="cannot choose rows"):
        LocalMirror(folder.root).load(finnish)


@pytest.mark.parametrize(
    "path", ["../../other/x.parquet", "/etc/passwd", "XQuAD.de/../../x", "C:\\x", "hf://datasets/a/b"]
)
def test_paths_out_of_the_folder_are_refused(folder, path):
    (folder.root / "other").mkdir()
    shutil.copy(folder.path, folder.root / "other" / "x.parquet")
    folder.readme({"XQuAD.de": {"validation": path}})
    with pytest.raises(DataError, match="outside of its folder"):
        LocalMirror(folder.root).load(GERMAN)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_links_are_refused(folder, tmp_path, what):
    outside = tmp_path / "outside"
    shutil.copytree(folder.path.parent, outside)
    if what == "file":
        folder.path.unlink()
        folder.path.symlink_to(outside / folder.path.name)
    else:
        shutil.rmtree(folder.path.parent)
        folder.path.parent.symlink_to(outside)
    with pytest.raises(DataError, match="is a link"):
        LocalMirror(folder.root).load(GERMAN)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "README.md is missing"),
        ("# no header\n", "`configs:` must be a list"),
        ("---\nconfigs: 3\n---\n", "`configs:` must be a list"),
        ("---\nconfigs: [{config_name: a}]\n---\n", "`configs:` must be a list"),
        ("---\nconfigs: [{config_name: a, data_files: [{split: b, path: 3}]}]\n---\n", "`configs:` must be a list"),
        ("---\nconfigs: [\n---\n", "YAML header cannot be read"),
        ("---\n- a\n---\n", "no mapping"),
        ("---\nx: !!python/object/apply:os.system ['true']\n---\n", "YAML header cannot be read"),
        (b"---\n\xff\n---\n", "cannot read"),
    ],
)
def test_a_bad_readme_is_named(folder, text, message):
    readme = folder.repo / "README.md"
    readme.unlink()
    if text is not None:
        readme.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        LocalMirror(folder.root).load(GERMAN)


@pytest.mark.parametrize("form", ["{validation: F}", "{validation: [F]}", "[{split: validation, path: [F]}]"])
def test_every_form_of_data_files(folder, form):
    form = form.replace("F", "XQuAD.de/validation-00000-of-00001.parquet")
    (folder.repo / "README.md").write_text(f"---\nconfigs:\n- config_name: XQuAD.de\n  data_files: {form}\n---\n")
    assert len(LocalMirror(folder.root).load(GERMAN)) == 4


@pytest.mark.parametrize("path", [".", "***", "x/**y", "a" * 5000])
def test_patterns_that_are_none_are_named(folder, path):
    readme = folder.root / "google/xtreme/README.md"
    readme.write_text(f"---\nconfigs:\n- config_name: XQuAD.de\n  data_files: {{validation: '{path}'}}\n---\n")
    with pytest.raises(DataError, match="README.md names"):
        LocalMirror(folder.root).load(GERMAN)


@pytest.mark.parametrize("damage", ["bytes", "twice"])
def test_text_that_is_not_utf8_and_a_doubled_column_are_named(folder, damage):
    path = next(folder.root.rglob("XQuAD.de/*.parquet"))
    table = pq.read_table(path)
    lengths = pa.py_buffer(b"".join((2 * row).to_bytes(4, "little") for row in range(len(table) + 1)))
    wrong = pa.Array.from_buffers(pa.string(), len(table), [None, lengths, pa.py_buffer(b"\xff\xfe" * len(table))])
    changed = table.append_column("id", table["id"]) if damage == "twice" else table.set_column(
        table.column_names.index("context"), "context", wrong)
    pq.write_table(changed, path)
    with pytest.raises(DataError, match="parquet.*(UTF8|stands twice)"):
        LocalMirror(folder.root).load(GERMAN)
