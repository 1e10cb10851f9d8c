"""The mirror tool: real files in, the hub's layout out; bad files stop it before anything is written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peft_stilts.errors import DataError, UsageError
from peft_stilts.languages import LANGUAGES
from peft_stilts.tasks import TASKS
from peft_stilts.tasks.mirror import mirror
from peft_stilts.tasks.releases import READERS
from peft_stilts.tasks.sources import LocalMirror, load_checked, read_configs

TOOL = Path(__file__).resolve().parents[2] / "tools" / "mirror.py"


def squad_json(prefix="q"):
    question = {"id": f"{prefix}1", "question": "How long?", "answers": [{"text": "2 km", "answer_start": 15}]}
    paragraph = {"context": "This river is, 2 km, not long.", "qas": [question]}
    return {"version": "1.1", "data": [{"title": "Rivers", "paragraphs": [paragraph]}]}


@pytest.fixture
def source(tmp_path):
    """Release files of two XQuAD languages, two Tatoeba languages and SQuAD."""
    folder = tmp_path / "release files"
    folder.mkdir()
    for code in ("de", "es", "ro"):
        (folder / f"xquad.{code}.json").write_text(json.dumps(squad_json(code)), encoding="utf-8")
    for split in ("train", "dev"):
        (folder / f"{split}-v1.1.json").write_text(json.dumps(squad_json(split)), encoding="utf-8")
    for code in ("deu", "fra", "xyz"):
        (folder / f"tatoeba.{code}-eng.{code}").write_text(f"eins {code}\nzwei\u2028drei\n", encoding="utf-8")
        (folder / f"tatoeba.{code}-eng.eng").write_text("one\ntwo\n", encoding="utf-8")
    return folder


def everything_below(root):
    return (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        if root.exists()
        else {}
    )


def quiet(message):
    pass


def test_each_task_is_added_to_the_same_folder(source, tmp_path):
    root, said = tmp_path / "root", []
    mirror("xquad", source, root, said.append)
    (root / "google/xtreme/README.md").write_text(
        (root / "google/xtreme/README.md").read_text().replace("---\nconfigs", "---\nlicense: other\nconfigs")
        + "My notes.\n"
    )
    mirror("tatoeba", source, root, said.append)
    mirror("squad", source, root, said.append)
    assert any("'ro'" in line and "skipped" in line for line in said)
    assert any("'xyz'" in line and "skipped" in line for line in said)
    assert list(read_configs(root / "google/xtreme")) == ["XQuAD.de", "XQuAD.es", "tatoeba.deu", "tatoeba.fra"]
    text = (root / "google/xtreme/README.md").read_text()
    assert "license: other" in text and text.endswith("My notes.\n")
    local = LocalMirror(root)
    assert local.languages(TASKS["xquad"]) == ("es", "de") and local.languages(TASKS["tatoeba"]) == ("de", "fr")
    rows = load_checked(local, "span", TASKS["squad"].train[0])
    assert rows[0] == {
        "id": "train1",
        "title": "Rivers",
        "context": "This river is, 2 km, not long.",
        "question": "How long?",
        "answers": {"answer_start": [15], "text": ["2 km"]},
    }
    pair = local.load(TASKS["tatoeba"].test(LANGUAGES["de"]))[1]
    expected = ("zwei\u2028drei", "two", "deu", "eng")
    assert tuple(pair.values()) == expected


def test_a_split_mirrored_later_joins_those_that_are_there(tmp_path):
    root = tmp_path / "root"
    for name, split in (("dev", "validation"), ("train", "train")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"ccg.{name}").write_text(f"a {name}\tN N\n")
        mirror("ccg", folder, root, quiet)
        assert split in read_configs(root / "ldc/ccgbank")["default"]
    assert list(read_configs(root / "ldc/ccgbank")["default"]) == ["validation", "train"]
    local = LocalMirror(root)
    assert local.load(TASKS["ccg"].select[0])["tokens"][:] == [["a", "dev"]]
    assert local.load(TASKS["ccg"].train[0])["tokens"][:] == [["a", "train"]]


def test_running_again_changes_nothing(source, tmp_path):
    root = tmp_path / "root"
    mirror("xquad", source, root, quiet)
    before = everything_below(root)
    mirror("xquad", source, root, quiet)
    assert everything_below(root) == before
    assert not [path for path in before if path.name.startswith(".")]


def damage_json(path, change):
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data["data"][0]["paragraphs"][0])
    path.write_text(json.dumps(data), encoding="utf-8")


DAMAGES = {
    "truncated": ("xquad", "xquad.es.json", lambda path: path.write_bytes(path.read_bytes()[:-30]), "no complete JSON"),
    "latin-1": (
        "xquad",
        "xquad.es.json",
        lambda path: path.write_bytes('{"data": "ñ"}'.encode("latin-1")),
        "not UTF-8",
    ),
    "empty": ("xquad", "xquad.es.json", lambda path: path.write_text(" \n"), "is empty"),
    "other json": ("xquad", "xquad.es.json", lambda path: path.write_text("[1]"), "not in SQuAD's v1.1 format"),
    "no question": ("xquad", "xquad.es.json", lambda path: path.write_text('{"data": []}'), "has no rows"),
    "number": (
        "xquad",
        "xquad.es.json",
        lambda path: damage_json(path, lambda part: part["qas"][0].update(id=7)),
        "not in SQuAD's",
    ),
    "duplicate": (
        "xquad",
        "xquad.es.json",
        lambda path: damage_json(path, lambda part: part["qas"].append(part["qas"][0])),
        "more than once",
    ),
    "no answer": (
        "xquad",
        "xquad.es.json",
        lambda path: damage_json(path, lambda part: part.update(context="Else.")),
        "does not contain",
    ),
    "short": ("tatoeba", "tatoeba.fra-eng.eng", lambda path: path.write_text("one\n"), "has 2 lines but"),
    "blank": ("tatoeba", "tatoeba.fra-eng.eng", lambda path: path.write_text("one\n \n"), "is blank"),
    "nothing": ("tatoeba", "tatoeba.fra-eng.fra", lambda path: path.write_text(""), "is empty"),
    "missing": ("tatoeba", "tatoeba.fra-eng.fra", lambda path: path.unlink(), "cannot read"),
    "binary": ("tatoeba", "tatoeba.fra-eng.fra", lambda path: path.write_bytes(b"\xff\xfe\n\n"), "not UTF-8"),
    "no dev": ("squad", "dev-v1.1.json", lambda path: path.unlink(), "is missing"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_bad_files_are_named_and_nothing_is_written(source, tmp_path, name):
    task, file, damage, message = DAMAGES[name]
    damage(source / file)
    root = tmp_path / "root"
    with pytest.raises(DataError) as error:
        mirror(task, source, root, quiet)
    assert message in str(error.value) and file.rsplit(".", 1)[0] in str(error.value)
    assert everything_below(root) == {}


def test_other_mistakes(source, tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'xquad'"):
        mirror("xqad", source, tmp_path / "root", quiet)
    with pytest.raises(DataError, match="does not exist"):
        mirror("xquad", tmp_path / "nowhere", tmp_path / "root", quiet)
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="holds no release file of xquad: expected xquad.LL.json"):
        mirror("xquad", tmp_path / "bare", tmp_path / "root", quiet)
    readme = tmp_path / "root" / "google" / "xtreme" / "README.md"
    readme.parent.mkdir(parents=True)
    readme.write_text("---\nconfigs: 3\n---\n")
    with pytest.raises(DataError, match="must be a list"):
        mirror("xquad", source, tmp_path / "root", quiet)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        mirror("xquad", source, tmp_path / "file", quiet)


def test_a_failed_write_leaves_the_old_file(source, tmp_path, monkeypatch):
    root = tmp_path / "root"
    mirror("xquad", source, root, quiet)
    before = everything_below(root)
    (source / "xquad.de.json").write_text(json.dumps(squad_json("new")), encoding="utf-8")

    def full(table, file):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(DataError, match="cannot write .*No space left"):
        mirror("xquad", source, root, quiet)
    assert everything_below(root) == before


def test_the_command_line(source, tmp_path):
    def tool(*arguments, cwd=None):
        return subprocess.run([sys.executable, str(TOOL), *arguments], capture_output=True, text=True, timeout=100,
                              cwd=cwd)

    done = tool("xquad", "--source", str(source), "--data_root", str(tmp_path / "007"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "007" / "google" / "xtreme" / "XQuAD.de").is_dir()
    shutil.copytree(source, tmp_path / "7e1")
    done = tool("tatoeba", "--source", "7e1", "--data_root=007", cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "007/google/xtreme/tatoeba.fra").is_dir(), done.stderr
    for wrong in (["--sourc", "7e1"], ["--force"], ["squad"]):
        done = tool("xquad", "--source", str(source), "--data_root", str(tmp_path / "none"), *wrong)
        assert done.returncode == 2 and "unrecognized arguments" in done.stderr, done.stderr
    done = tool("--help")
    assert done.returncode == 0 and {"--source", "--data_root"} <= set(done.stdout.split())
    assert {f"{task}:" for task in READERS} <= set(done.stdout.split())
    assert not (tmp_path / "none").exists()
    done = tool("xqad", "--source", str(source), "--data_root", str(tmp_path / "x"))
    assert done.returncode == 2 and "Did you mean 'xquad'" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
    root = tmp_path_factory.mktemp("real")
    mirror("xquad", shared / "data" / "xquad", root, quiet)
    mirror("tatoeba", shared / "data" / "tatoeba_v1", root, quiet)
    return root


def test_all_real_xquad_files(real, shared):
    local = LocalMirror(real)
    assert local.languages(TASKS["xquad"]) == TASKS["xquad"].languages
    for code in TASKS["xquad"].languages:
        rows = load_checked(local, "span", TASKS["xquad"].test(LANGUAGES[code]))
        data = json.loads((shared / "data" / "xquad" / f"xquad.{code}.json").read_text(encoding="utf-8"))["data"]
        questions = [q for article in data for part in article["paragraphs"] for q in part["qas"]]
        assert rows.num_rows == len(questions) == 1190
        assert rows["id"][:] == [question["id"] for question in questions]
        assert rows["question"][:] == [question["question"] for question in questions]
        assert rows["answers"][5]["text"] == [answer["text"] for answer in questions[5]["answers"]]


def test_all_real_tatoeba_files(real, shared):
    local = LocalMirror(real)
    assert local.languages(TASKS["tatoeba"]) == TASKS["tatoeba"].languages
    for code in TASKS["tatoeba"].languages:
        language = LANGUAGES[code]
        rows = load_checked(local, "retrieval", TASKS["tatoeba"].test(language))
        path = shared / "data" / "tatoeba_v1" / f"tatoeba.{language.iso639_3}-eng.{language.iso639_3}"
        with open(path, encoding="utf-8", newline="\n") as file:
            assert rows["source_sentence"][:] == [line.strip() for line in file]
        assert rows.num_rows == TASKS["tatoeba"].rows[code]


def test_datasets_loads_the_result_too(real, tmp_path):
    from datasets import load_dataset

    rows = load_dataset(str(real / "google" / "xtreme"), "XQuAD.de", split="validation", cache_dir=str(tmp_path))
    ours = LocalMirror(real).load(TASKS["xquad"].test(LANGUAGES["de"]))
    assert rows.num_rows == 1190 and rows[7] == ours[7] and rows.features == ours.features


def test_columns_and_types_are_the_hubs(real):
    path = real / "google" / "xtreme" / "XQuAD.de" / "validation-00000-of-00001.parquet"
    schema = pq.read_schema(path)
    assert schema.names == ["id", "context", "question", "answers"]
    answers = schema.field("answers").type
    assert answers.field("answer_start").type.value_type == pa.int32()
    assert answers.field("text").type.value_type == pa.string()
