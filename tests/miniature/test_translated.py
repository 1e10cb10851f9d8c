"""Translated training data and plain text: XTREME's formats, parallel, and written whole."""

import json

import pytest

from peft_stilts.miniature.generators import rows_of
from peft_stilts.miniature.pairs import training_pairs
from peft_stilts.miniature.texts import plain_texts
from peft_stilts.miniature.translated import write_text, write_translated


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("translated") / "made"
    files = write_translated(out, ("qa", "qh"))
    assert sorted(files) == sorted(out.iterdir()) and len(files) == 8
    return out


@pytest.mark.parametrize("code", ["qa", "qh"])
def test_squad_is_squads_format_and_parallel(folder, code):
    content = json.loads((folder / f"squad.translate.train.en-{code}.json").read_text(encoding="utf-8"))
    english = {row["id"]: row for row in rows_of("rajpurkar/squad", "plain_text", "train")}
    assert content["version"] == "1.1"
    seen = {}
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                (answer,) = asked["answers"]
                start = answer["answer_start"]
                assert paragraph["context"][start : start + len(answer["text"])] == answer["text"]
                assert paragraph["context"].count(".") == english[asked["id"]]["context"].count(".")
                seen[asked["id"]] = article["title"]
    assert seen == {identity: row["title"] for identity, row in english.items()}
    assert len(content["data"]) == 1500


@pytest.mark.parametrize(
    ("task", "repo", "config", "columns", "words"),
    [
        ("mnli", "nyu-mll/glue", "mnli", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
        ("qqp", "nyu-mll/glue", "qqp", ("question1", "question2"), ("0", "1")),
        ("pawsx", "google/xtreme", "PAWS-X.en", ("sentence1", "sentence2"), ("0", "1")),
    ],
)
def test_pairs_have_five_columns_the_first_two_as_in_the_training_rows(folder, task, repo, config, columns, words):
    rows = rows_of(repo, config, "train")
    for code in ("qa", "qh"):
        lines = (folder / f"{task}.translate.train.en-{code}.tsv").read_text(encoding="utf-8").splitlines()
        cells = [line.split("\t") for line in lines]
        assert {len(one) for one in cells} == {5} and len(cells) == len(rows)
        for one, row, pair in zip(cells, rows, training_pairs(task), strict=True):
            assert one[:2] == [row[name] for name in columns]
            assert tuple(one[2:4]) == pair.texts(code) and one[2] != one[0]
            assert one[4] == words[int(row["label"])]


def test_english_is_translated_into_itself(tmp_path):
    write_translated(tmp_path, ("en",))
    for line in (tmp_path / "pawsx.translate.train.en-en.tsv").read_text(encoding="utf-8").splitlines():
        cells = line.split("\t")
        assert cells[:2] == cells[2:4]


def test_text_has_one_example_a_line_and_fewer_lines_begin_alike(tmp_path):
    files = write_text(tmp_path / "long", ("en", "qi"), 50)
    assert [path.name for path in files] == ["en.txt", "qi.txt"]
    write_text(tmp_path / "short", ("qi",), 20)
    lines = (tmp_path / "long" / "qi.txt").read_text(encoding="utf-8").splitlines()
    assert lines == plain_texts("qi", 50) and len(lines) == 50
    assert (tmp_path / "short" / "qi.txt").read_text(encoding="utf-8").splitlines() == lines[:20]
    assert [row["text"] for row in rows_of("wikimedia/wikipedia", "20231101.qi", "train")][:50] == lines
    assert not [path for path in tmp_path.rglob(".*")]
