"""Multiple choice: HellaSwag, CosmosQA (also the real development file), CommonsenseQA."""

import csv

import pyarrow as pa
import pytest

from peft_stilts.tasks import TASKS
from peft_stilts.tasks.mirror import mirror
from peft_stilts.tasks.sources import LocalMirror, load_checked


def hellaswag(label=2, **more):
    return {
        "ind": 4,
        "activity_label": "Removing ice",
        "ctx_a": "A man walks.",
        "ctx_b": "he",
        "ctx": "A man walks. he",
        "endings": ["a.", "b.", "c.", "d."],
        "source_id": "activitynet~v_1",
        "split": "train",
        "split_type": "indomain",
        "label": label,
    } | more


def test_hellaswag_labels_become_text(bench):
    wikihow = {key: value for key, value in hellaswag(0).items() if key not in ("ctx_a", "ctx_b")}
    unlabelled = {key: value for key, value in hellaswag().items() if key != "label"}
    assert bench.mirror(
        "hellaswag", {"hellaswag_train.jsonl": [hellaswag(), wikihow], "data/hellaswag_test.jsonl": [unlabelled]}
    ) == ["Rowan hellaswag default test", "Rowan hellaswag default train"]
    table = bench.table("Rowan/hellaswag", "default", "train")
    assert table.schema.names == [
        "ind",
        "activity_label",
        "ctx_a",
        "ctx_b",
        "ctx",
        "endings",
        "source_id",
        "split",
        "split_type",
        "label",
    ]
    assert table.schema.field("ind").type == pa.int32() and table.schema.field("label").type == pa.string()
    assert table.schema.field("endings").type == pa.list_(pa.string())
    assert table.to_pylist() == [hellaswag("2"), hellaswag("0", ctx_a="", ctx_b="")]
    assert bench.table("Rowan/hellaswag", "default", "test").to_pylist() == [hellaswag("")]
    assert bench.checked("hellaswag", TASKS["hellaswag"].train[0])["label"][:] == ["2", "0"]


COSMOS = "id,context,question,answer0,answer1,answer2,answer3,label\r\n"


def test_cosmosqa_from_csv_and_json(bench):
    test = {"id": "t", "context": "c", "question": "q"} | {f"answer{n}": str(n) for n in range(4)}
    files = {
        "train.csv": COSMOS + '1,"It was ""late"",\nI slept .",Why ?,a,b,c,d,3\r\n',
        "test.jsonl": [test],
        "valid.csv": COSMOS + "2,c,q,a,b,c,d,0\r\n",
    }
    assert bench.mirror("cosmosqa", files) == [
        f"allenai cosmos_qa default {split}" for split in ("test", "train", "validation")
    ]
    table = bench.table("allenai/cosmos_qa", "default", "train")
    assert table.schema.types == [pa.string()] * 7 + [pa.int32()]
    assert bench.rows("allenai/cosmos_qa", "default", "train") == [
        ("1", 'It was "late",\nI slept .', "Why ?", "a", "b", "c", "d", 3)
    ]
    assert bench.rows("allenai/cosmos_qa", "default", "test") == [("t", "c", "q", "0", "1", "2", "3", -1)]
    assert bench.checked("cosmosqa", TASKS["cosmosqa"].select[0])["label"][:] == ["0"]


def commonsense(key="A", letters="ABCDE", name="1"):
    choices = [{"label": letter, "text": f"choice {letter}"} for letter in letters]
    question = {"question_concept": "river", "choices": choices, "stem": "Where is water?"}
    return {"id": name, "question": question} | ({} if key is None else {"answerKey": key})


def test_commonsenseqa(bench):
    files = {"train_rand_split.jsonl": [commonsense("E")], "test_rand_split_no_answers.jsonl": [commonsense(None)]}
    assert bench.mirror("commonsenseqa", files) == [
        "tau commonsense_qa default test",
        "tau commonsense_qa default train",
    ]
    table = bench.table("tau/commonsense_qa", "default", "train")
    letters = list("ABCDE")
    assert table.to_pylist() == [
        {
            "id": "1",
            "question": "Where is water?",
            "question_concept": "river",
            "choices": {"label": letters, "text": [f"choice {letter}" for letter in letters]},
            "answerKey": "E",
        }
    ]
    assert table.schema.field("choices").type == pa.struct(
        [(name, pa.list_(pa.string())) for name in ("label", "text")]
    )
    assert bench.table("tau/commonsense_qa", "default", "test")["answerKey"].to_pylist() == [""]
    rows = bench.checked("commonsenseqa", TASKS["commonsenseqa"].train[0])
    assert rows["label"][:] == ["E"] and rows["choices"][0][4] == "choice E"


BAD = {
    "three endings": (
        "hellaswag",
        {"hellaswag_val.jsonl": [hellaswag(endings=["a", "b", "c"])]},
        ["line 1", "four texts"],
    ),
    "label 4": ("hellaswag", {"hellaswag_val.jsonl": [hellaswag(4)]}, ["line 1", "unknown label '4'", "0, 1, 2, 3"]),
    "label as text": ("hellaswag", {"hellaswag_val.jsonl": [hellaswag("2")]}, ["unknown label '2'"]),
    "no label": ("hellaswag", {"hellaswag_val.jsonl": [hellaswag(None)]}, ["hellaswag_val.jsonl, line 1", "'None'"]),
    "no context": ("hellaswag", {"hellaswag_val.jsonl": [hellaswag(ctx=None)]}, ["ctx must be text"]),
    "ind as text": ("hellaswag", {"hellaswag_val.jsonl": [hellaswag(ind="4")]}, ["ind must be a number"]),
    "a field too few": ("cosmosqa", {"valid.csv": COSMOS + "1,c,q,a,b,c,0\n"}, ["line 2", "7 fields, not 8"]),
    "blank answer": ("cosmosqa", {"valid.csv": COSMOS + "1,c,q,a, ,c,d,0\n"}, ["line 2: answer1 is blank"]),
    "unlabelled": ("cosmosqa", {"valid.csv": COSMOS + "1,c,q,a,b,c,d,\n"}, ["valid.csv, line 2: unknown label ''"]),
    "same id": ("cosmosqa", {"valid.csv": COSMOS + "1,c,q,a,b,c,d,0\n" * 2}, ["line 3: id '1'"]),
    "cut off": ("cosmosqa", {"valid.csv": COSMOS + '1,c,"q,a,b'}, ["valid.csv, line 2"]),
    "four choices": ("commonsenseqa", {"dev_rand_split.jsonl": [commonsense(letters="ABCD")]}, ["not A, B, C, D."]),
    "other order": ("commonsenseqa", {"dev_rand_split.jsonl": [commonsense(letters="ABCED")]}, ["not A, B, C, E, D"]),
    "a choice twice": (
        "commonsenseqa",
        {"dev_rand_split.jsonl": [commonsense(letters="ABCDEE")]},
        ["must be labelled"],
    ),
    "no answer": (
        "commonsenseqa",
        {"dev_rand_split.jsonl": [commonsense(None)]},
        ["dev_rand_split.jsonl, line 1: unknown"],
    ),
    "small letter": ("commonsenseqa", {"dev_rand_split.jsonl": [commonsense("a")]}, ["unknown label 'a'"]),
    "flat": ("commonsenseqa", {"dev_rand_split.jsonl": [commonsense() | {"question": "Where?"}]}, ["must hold stem"]),
    "two of one id": ("commonsenseqa", {"dev_rand_split.jsonl": [commonsense(), commonsense()]}, ["line 2: id '1'"]),
    "a list for an id": ("commonsenseqa", {"dev_rand_split.jsonl": [commonsense(name=[1])]}, ["id must be text"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_choices_are_refused(bench, name):
    task, files, parts = BAD[name]
    bench.refuses(task, files, *parts)


def test_the_real_cosmosqa_development_file(shared, tmp_path):
    mirror("cosmosqa", shared / "data" / "cosmosqa", tmp_path, lambda line: None)
    local, split = LocalMirror(tmp_path), TASKS["cosmosqa"].select[0]
    rows = load_checked(local, "choice", split, labels=TASKS["cosmosqa"].labels)
    with open(shared / "data" / "cosmosqa" / "valid.csv", encoding="utf-8", newline="") as file:
        original = list(csv.DictReader(file))
    assert len(rows) == len(original) == 2985
    assert rows["label"][:] == [row["label"] for row in original]
    assert local.load(split)["id"][:] == [row["id"] for row in original]
    assert rows["choices"][2984] == [original[2984][f"answer{n}"] for n in range(4)]
