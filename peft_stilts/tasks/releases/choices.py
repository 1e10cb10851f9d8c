"""Releases of multiple choice: HellaSwag, CosmosQA, CommonsenseQA."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from peft_stilts.errors import DataError
from peft_stilts.tasks.releases.base import READERS, Piece, Reader, Say, find, present, to_table
from peft_stilts.tasks.releases.files import Row, Unique, csv_rows, filled, jsonl_rows, label, place, text

_STR, _STRS = pa.string(), pa.list_(pa.string())
HELLASWAG_SCHEMA = pa.schema([
    ("ind", pa.int32()), ("activity_label", _STR), ("ctx_a", _STR), ("ctx_b", _STR), ("ctx", _STR), ("endings", _STRS),
    ("source_id", _STR), ("split", _STR), ("split_type", _STR), ("label", _STR)])
COSMOSQA_SCHEMA = pa.schema([
    *((name, _STR) for name in ("id", "context", "question", "answer0", "answer1", "answer2", "answer3")),
    ("label", pa.int32())])
COMMONSENSEQA_SCHEMA = pa.schema([
    ("id", _STR), ("question", _STR), ("question_concept", _STR),
    ("choices", pa.struct([("label", _STRS), ("text", _STRS)])), ("answerKey", _STR)])


def read_hellaswag(source: Path, say: Say) -> Iterator[Piece]:
    """hellaswag_{train,val,test}.jsonl -> Rowan/hellaswag default; labels are the texts '0' to '3', '' in test."""
    splits = {split: find(source, f"hellaswag_{name}.jsonl", f"data/hellaswag_{name}.jsonl")
              for split, name in (("train", "train"), ("validation", "val"), ("test", "test"))}
    for split, path in present(splits, say):
        needed = ("ind", "activity_label", "ctx", "endings", "source_id", "split", "split_type")
        rows = [_hellaswag_row(row, split == "test", place(path, line)) for line, row in jsonl_rows(path, needed)]
        yield "Rowan/hellaswag", "default", split, to_table(rows, HELLASWAG_SCHEMA, path)


def _hellaswag_row(row: Row, test: bool, where: str) -> tuple:
    endings = row["endings"]
    if not isinstance(endings, list) or len(endings) != 4 or not all(isinstance(ending, str) for ending in endings):
        raise DataError(f"{where}: endings must be four texts.")
    if not isinstance(row["ind"], int):
        raise DataError(f"{where}: ind must be a number, not {row['ind']!r}.")
    contexts = [text({"ctx_a": "", "ctx_b": ""} | row, name, where) for name in ("ctx_a", "ctx_b", "ctx")]
    number = "" if test and row.get("label") in (None, "") else str(label(row.get("label"), range(4), where))
    names = [text(row, name, where) for name in ("activity_label", "source_id", "split", "split_type")]
    return row["ind"], names[0], *contexts, endings, *names[1:], number


def read_cosmosqa(source: Path, say: Say) -> Iterator[Piece]:
    """train.csv, valid.csv, test.jsonl (wilburOne/cosmosqa, data/) -> allenai/cosmos_qa default; label -1 in test."""
    splits = {split: find(source, name, f"data/{name}")
              for split, name in (("train", "train.csv"), ("validation", "valid.csv"), ("test", "test.jsonl"))}
    for split, path in present(splits, say):
        names, rows, ids = COSMOSQA_SCHEMA.names[:-1], [], Unique()
        for line, row in (jsonl_rows if split == "test" else csv_rows)(path, names):
            where = place(path, line)
            ids.add(text(row, "id", where), where)
            given = str(row.get("label", ""))
            number = -1 if split == "test" and given in ("", "-1", "None") else label(given, tuple("0123"), where)
            rows.append((*(filled(row, name, where) for name in names), number))
        yield "allenai/cosmos_qa", "default", split, to_table(rows, COSMOSQA_SCHEMA, path)


def read_commonsenseqa(source: Path, say: Say) -> Iterator[Piece]:
    """{train,dev}_rand_split.jsonl, test_rand_split_no_answers.jsonl -> tau/commonsense_qa; answerKey '' in test."""
    splits = {split: find(source, f"{name}.jsonl")
              for split, name in (("train", "train_rand_split"), ("validation", "dev_rand_split"),
                                  ("test", "test_rand_split_no_answers"))}
    for split, path in present(splits, say):
        rows, ids = [], Unique()
        for line, row in jsonl_rows(path, ("id", "question")):
            where = place(path, line)
            ids.add(text(row, "id", where), where)
            rows.append(_commonsenseqa_row(row, split == "test", where))
        yield "tau/commonsense_qa", "default", split, to_table(rows, COMMONSENSEQA_SCHEMA, path)


def _commonsenseqa_row(row: Row, test: bool, where: str) -> tuple:
    question = row["question"]
    try:
        choices = {choice["label"]: text(choice, "text", where) for choice in question["choices"]}
        stem, concept = question["stem"], question.get("question_concept", "")
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{where}: question must hold stem and choices of label and text: {error}.") from error
    if list(choices) != list("ABCDE") or len(question["choices"]) != 5:
        raise DataError(f"{where}: choices must be labelled A, B, C, D, E, not {', '.join(map(str, choices))}.")
    key = row.get("answerKey", "")
    if not (test and key == ""):
        label(key, tuple("ABCDE"), where)
    texts = {"stem": stem, "question_concept": concept}
    return (text(row, "id", where), filled(texts, "stem", where), text(texts, "question_concept", where),
            {"label": list(choices), "text": list(choices.values())}, key)


READERS.add("hellaswag", Reader(read_hellaswag, "expected hellaswag_{train,val,test}.jsonl of HellaSwag"))
READERS.add("cosmosqa", Reader(
    read_cosmosqa, "expected train.csv, valid.csv, test.jsonl as in github.com/wilburOne/cosmosqa, data"))
READERS.add("commonsenseqa", Reader(
    read_commonsenseqa, "expected train_rand_split.jsonl, dev_rand_split.jsonl, test_rand_split_no_answers.jsonl of "
                        "CommonsenseQA 1.11"))
