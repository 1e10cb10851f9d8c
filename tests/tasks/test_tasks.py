"""The task entries: splits, languages, and that nothing selected on is scored."""

import dataclasses
import hashlib
import json
import re

import pytest
from datasets import Dataset

from peft_stilts.errors import UsageError
from peft_stilts.languages import LANGUAGES
from peft_stilts.tasks import INTERMEDIATE, NOT_COMPARABLE, TARGETS, TASKS
from peft_stilts.tasks.intermediate import xquad_question_ids
from peft_stilts.tasks.mirror import write_question_ids


def test_there_are_nine_intermediate_tasks_and_nine_targets():
    assert INTERMEDIATE == ("anli_plus", "mnli", "qqp", "squad", "squad_v2", "hellaswag", "ccg", "cosmosqa",
                            "commonsenseqa")
    assert TARGETS == ("xnli", "pawsx", "udpos", "panx", "xquad", "mlqa", "tydiqa", "bucc2018", "tatoeba")
    assert set(TASKS) == {*INTERMEDIATE, *TARGETS, *NOT_COMPARABLE} and NOT_COMPARABLE == ("bucc_gold",)


def test_every_task_is_consistent():
    for name, task in TASKS.items():
        assert task.name == name and set(task.languages) <= set(LANGUAGES)
        assert task.is_target == (name in (*TARGETS, *NOT_COMPARABLE))
        assert task.licence and re.search(r" (19|20)\d\d, ", task.citation)
        if task.trained_on:
            source = TASKS[task.trained_on]
            assert source.train and source.select and source.trained_on == source.name
            assert (source.form, source.labels) == (task.form, task.labels)
            assert {"train", "select"} <= set(source.rows)
            assert not set(source.train) & set(source.select)
        else:
            assert task.form in ("retrieval", "mining") and not task.train
        assert (task.dev is not None) == (task.form == "mining")
        if task.test:
            splits = [task.test(LANGUAGES[code]) for code in task.languages]
            assert len(set(map(str, splits))) == len(splits)
            assert [task.test(LANGUAGES[code]) for code in task.languages] == splits
            assert len(set(splits)) == len(splits)
            assert set(task.languages) <= set(task.rows)
    assert [len(TASKS[name].languages) for name in TARGETS] == [15, 7, 33, 40, 11, 7, 9, 4, 36]


def test_selection_never_looks_at_a_scored_row():
    for task in (TASKS[name] for name in TARGETS if TASKS[name].trained_on):
        scored = {task.test(LANGUAGES[code]) for code in task.languages}
        assert not scored & {*TASKS[task.trained_on].select, *TASKS[task.trained_on].train}


def test_splits_are_the_hubs():
    test = {name: TASKS[name].test for name in (*TARGETS, *NOT_COMPARABLE)}
    assert str(test["xquad"](LANGUAGES["zh"])) == "google/xtreme XQuAD.zh validation"
    assert str(test["mlqa"](LANGUAGES["zh"])) == "google/xtreme MLQA.zh.zh test"
    assert str(test["tatoeba"](LANGUAGES["zh"])) == "google/xtreme tatoeba.cmn validation"
    assert str(test["tydiqa"](LANGUAGES["sw"])) == "google/xtreme tydiqa validation (id-prefix-swahili)"
    assert str(test["xnli"](LANGUAGES["sw"])) == "google/xtreme XNLI test (language-sw)"
    assert str(test["pawsx"](LANGUAGES["ko"])) == "google/xtreme PAWS-X.ko test"
    assert str(test["udpos"](LANGUAGES["af"])) == "google/xtreme udpos.Afrikaans test"
    assert str(test["panx"](LANGUAGES["my"])) == "google/xtreme PAN-X.my test"
    assert str(test["bucc2018"](LANGUAGES["zh"])) == "bucc/bucc2018 zh test"
    assert str(test["bucc_gold"](LANGUAGES["zh"])) == "google/xtreme bucc18.zh test"
    assert TASKS["squad"].train[0].repo == "rajpurkar/squad"
    assert [str(split) for split in TASKS["anli_plus"].train] == [
        "facebook/anli plain_text train_r1", "facebook/anli plain_text train_r2", "facebook/anli plain_text train_r3",
        "stanfordnlp/snli plain_text train (labelled)", "nyu-mll/glue mnli train"]


def test_snli_pairs_without_a_gold_label_are_dropped():
    rows = Dataset.from_dict({"premise": list("abc"), "hypothesis": list("def"), "label": [2, -1, 0]})
    split = TASKS["anli_plus"].train[3]
    kept = split.columns(split.rows.apply(rows), "SNLI")
    assert kept["text_a"][:] == ["a", "c"] and kept["label"][:] == ["contradiction", "entailment"]


@pytest.mark.parametrize("change, told", [
    ({"form": "spam"}, "form 'spam' is none of"), ({"primary": "bleu"}, "primary 'bleu' is none of"),
    ({"train": ()}, "must have rows in train and in select"), ({"labels": ("one",)}, "two labels or more"),
    ({"form": "tagging", "labels": (), "test": TASKS["xnli"].test}, "names its tags in `labels`")])
def test_impossible_tasks_are_refused(change, told):
    with pytest.raises(ValueError, match=told):
        dataclasses.replace(TASKS["mnli"], **change)


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'xquad'"):
        TASKS["xquadd"]


def tydiqa_rows(english, other=40):
    ids = [f"english-{n}" for n in range(english)] + [f"finnish--{n}" for n in range(other)] + ["englishish-1"]
    return Dataset.from_dict({"id": ids})


@pytest.mark.parametrize(("english", "held_out"), [(3696, 500), (2000, 500), (800, 200), (3, 0)])
def test_tydiqa_holds_out_the_smallest_hashes_of_english(english, held_out):
    rows, task = tydiqa_rows(english), TASKS["tydiqa"]
    train = task.train[0].rows.apply(rows)["id"][:]
    select = task.select[0].rows.apply(rows)["id"][:]
    ids = [f"english-{n}" for n in range(english)]
    assert sorted(train + select) == sorted(ids) and len(select) == held_out
    hashes = {key: hashlib.sha256(key.encode()).hexdigest() for key in ids}
    assert set(select) == set(sorted(ids, key=hashes.get)[:held_out])
    assert train == [key for key in ids if key not in set(select)]


def test_tydiqa_is_tested_on_the_language_of_the_prefix():
    rows = Dataset.from_dict({"id": ["finnish--1", "english-1", "finnish-2", "korean-1", "finn-3"]})
    assert TASKS["tydiqa"].test(LANGUAGES["fi"]).rows.apply(rows)["id"][:] == ["finnish--1", "finnish-2"]


def test_squad_selects_outside_of_xquads_paragraphs():
    scored = sorted(xquad_question_ids())[0]
    rows = Dataset.from_dict(
        {"id": ["a", scored, "b", "c"], "context": ["one", "scored", "scored", "two"], "title": ["same article"] * 4}
    )
    assert TASKS["squad"].select[0].rows.apply(rows)["id"][:] == ["a", "c"]


def test_rows_of_other_ids_are_all_kept(span_rows):
    rows = Dataset.from_dict(span_rows())
    assert len(TASKS["squad"].select[0].rows.apply(rows)) == 4


def test_the_shipped_xquad_ids_are_xquads(shared, tmp_path):
    source = shared / "data" / "xquad" / "xquad.en.json"
    data = json.loads(source.read_text(encoding="utf-8"))["data"]
    ids = {question["id"] for article in data for part in article["paragraphs"] for question in part["qas"]}
    assert xquad_question_ids() == ids and len(ids) == 1190
    from peft_stilts.tasks import intermediate

    write_question_ids(source, tmp_path / "ids.txt")
    assert (tmp_path / "ids.txt").read_bytes() == intermediate._XQUAD_IDS.read_bytes()
