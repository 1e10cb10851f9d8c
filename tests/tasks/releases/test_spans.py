"""Question answering: SQuAD v2.0, MLQA and TyDiQA in the hub's columns (XQuAD and SQuAD v1.1: tests/tools)."""

import json

import pyarrow as pa
import pytest

from peft_stilts.languages import LANGUAGES
from peft_stilts.tasks import TASKS

ANSWERED = {"text": ["2 km"], "answer_start": [15]}


def question(key, answers=({"text": "2 km", "answer_start": 15},), **more):
    return {"id": key, "question": f"How long is {key}?", "answers": list(answers)} | more


def squad(*questions, **article):
    paragraphs = [{"context": "This river is, 2 km, not long.", "qas": list(questions)}]
    return json.dumps({"version": "1", "data": [{"paragraphs": paragraphs} | article]})


def v2(*questions):
    return {f"{name}-v2.0.json": squad(*questions, title="Rivers") for name in ("train", "dev")}


def test_squad_v2_has_questions_without_an_answer(bench):
    plausible = [{"text": "2 km", "answer_start": 15}]
    questions = (question("a", is_impossible=False), question("b", (), is_impossible=True, plausible_answers=plausible))
    assert bench.mirror("squad_v2", v2(*questions)) == [
        "rajpurkar squad_v2 squad_v2 train",
        "rajpurkar squad_v2 squad_v2 validation",
    ]
    table = bench.table("rajpurkar/squad_v2", "squad_v2", "train")
    assert table.schema.names == ["id", "title", "context", "question", "answers"]
    assert table.schema.field("answers").type.field("answer_start").type == pa.list_(pa.int32())
    assert table["answers"].to_pylist() == [ANSWERED, {"text": [], "answer_start": []}]
    assert bench.told("train-v2.0.json: 1 of 2 questions have no answer")
    assert len(bench.checked("squad_v2", TASKS["squad_v2"].train[0])) == 2


def test_mlqa_in_one_folder_or_in_its_own(bench):
    files = {
        "MLQA_V1/test/test-context-de-question-de.json": squad(question("a"), title="Fluss"),
        "dev/dev-context-de-question-es.json": squad(question("b")),
        "test-context-zh-question-zh.json": squad(question("c")),
    }
    assert bench.mirror("mlqa", files) == [
        "google xtreme MLQA.de.de test",
        "google xtreme MLQA.de.es validation",
        "google xtreme MLQA.zh.zh test",
    ]
    row = bench.table("google/xtreme", "MLQA.de.de", "test").to_pylist()[0]
    assert row["id"] == "a" and row["title"] == "Fluss" and row["answers"] == ANSWERED
    assert len(bench.checked("mlqa", TASKS["mlqa"].test(LANGUAGES["zh"]))) == 1


def test_tydiqa_as_published(bench):
    files = {
        "tydiqa-goldp-v1.1-train.json": squad(question("english-1"), question("finnish-2")),
        "tydiqa-goldp-v1.1-dev.json": squad(question("swahili-3")),
    }
    assert bench.mirror("tydiqa", files) == ["google xtreme tydiqa train", "google xtreme tydiqa validation"]
    assert bench.table("google/xtreme", "tydiqa", "train")["id"].to_pylist() == ["english-1", "finnish-2"]
    assert bench.checked("tydiqa", TASKS["tydiqa"].test(LANGUAGES["sw"]))["id"][:] == ["swahili-3"]


def test_tydiqa_in_xtremes_files_gets_its_languages_back(bench):
    names = {code: LANGUAGES[code].name.lower() for code in TASKS["tydiqa"].languages}
    dev = {
        f"tydiqa-goldp-v1.1-dev/tydiqa-goldp-dev-{name}.json": squad(question(f"{name}-7")) for name in names.values()
    }
    train = {
        "tydiqa-goldp-v1.1-train/tydiqa.goldp.fi.train.json": squad(question("1")),
        "tydiqa-goldp-v1.1-train/tydiqa.goldp.en.train.json": squad(question("1"), question("2")),
    }
    bench.mirror("tydiqa", dev | train)
    ids = bench.table("google/xtreme", "tydiqa", "train")["id"].to_pylist()
    assert ids == ["english-1", "english-2", "finnish-1"]
    assert bench.told("split 'train': en, fi joined, without ar, bn")
    for code, name in names.items():
        assert bench.checked("tydiqa", TASKS["tydiqa"].test(LANGUAGES[code]))["id"][:] == [f"{name}-7"]


BAD = {
    "impossible but answered": (
        "squad_v2",
        v2(question("a", is_impossible=True)),
        ["train-v2.0.json", "'a'", "1 answers"],
    ),
    "possible but not": ("squad_v2", v2(question("a", (), is_impossible=False)), ["'a' has is_impossible False and 0"]),
    "version 1.1": ("squad_v2", v2(question("a")), ["not in SQuAD's v2.0 format", "is_impossible"]),
    "one file": (
        "squad_v2",
        {"train-v2.0.json": squad(question("a", is_impossible=False))},
        ["dev-v2.0.json is missing"],
    ),
    "no answer": (
        "mlqa",
        {"dev-context-de-question-de.json": squad(question("a", ()))},
        ["de-question-de.json", "'a'"],
    ),
    "blanked answers": (
        "tydiqa",
        {"tydiqa-goldp-v1.1-dev.json": squad(question("english-1", [{"text": "", "answer_start": 0}]))},
        ["tydiqa-goldp-v1.1-dev.json", "blank answer"],
    ),
    "one development file": (
        "tydiqa",
        {"tydiqa.goldp.en.dev.json": squad(question("1"))},
        ["lacks the TyDiQA development file of ar, bn, fi"],
    ),
    "same id": ("mlqa", {"dev-context-de-question-de.json": squad(question("a"), question("a"))}, ["more than once"]),
    "deep": ("mlqa", {"dev-context-de-question-de.json": '{"data": ' + "[" * 100_000}, ["de-question-de.json"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_questions_are_refused(bench, name):
    task, files, parts = BAD[name]
    bench.refuses(task, files, *parts)
