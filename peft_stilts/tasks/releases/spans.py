"""Releases of question answering: SQuAD's JSON format in its versions, XQuAD, MLQA, TyDiQA."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from peft_stilts.errors import DataError
from peft_stilts.languages import LANGUAGES
from peft_stilts.tasks.base import TASKS
from peft_stilts.tasks.check import check_rows, table_to_dataset
from peft_stilts.tasks.releases.base import READERS, XTREME, Piece, Reader, Say, find, present
from peft_stilts.tasks.releases.files import lines_of

_ANSWERS = pa.struct([("answer_start", pa.list_(pa.int32())), ("text", pa.list_(pa.string()))])
_SPAN = [("id", pa.string()), ("context", pa.string()), ("question", pa.string()), ("answers", _ANSWERS)]
SPAN_SCHEMA = pa.schema(_SPAN)
SQUAD_SCHEMA = pa.schema([_SPAN[0], ("title", pa.string()), *_SPAN[1:]])


def read_xquad(source: Path, say: Say) -> Iterator[Piece]:
    """xquad.LL.json (deepmind/xquad) -> google/xtreme XQuAD.LL validation; languages outside of XTREME are skipped."""
    for path in sorted(source.glob("xquad.*.json")):
        code = path.name.split(".")[1]
        if code not in TASKS["xquad"].languages:
            say(f"{path.name}: {code!r} is none of XTREME's XQuAD languages, skipped")
            continue
        yield XTREME, f"XQuAD.{code}", "validation", read_squad_json(path, SPAN_SCHEMA)


def read_squad(source: Path, say: Say) -> Iterator[Piece]:
    """train-v1.1.json and dev-v1.1.json (both needed) -> rajpurkar/squad plain_text train and validation."""
    for split, path in _both(source, "squad", "v1.1").items():
        yield "rajpurkar/squad", "plain_text", split, read_squad_json(path, SQUAD_SCHEMA)


def read_squad_v2(source: Path, say: Say) -> Iterator[Piece]:
    """train-v2.0.json and dev-v2.0.json (both needed) -> rajpurkar/squad_v2 squad_v2 train and validation.

    A question that is_impossible has no answers (its plausible ones are left out), every other one has.
    """
    for split, path in _both(source, "squad_v2", "v2.0").items():
        table = read_squad_json(path, SQUAD_SCHEMA, nullable=True)
        none = sum(not answers["text"] for answers in table["answers"].to_pylist())
        say(f"{path.name}: {none} of {table.num_rows} questions have no answer")
        yield "rajpurkar/squad_v2", "squad_v2", split, table


def read_mlqa(source: Path, say: Say) -> Iterator[Piece]:
    """{test,dev}-context-CC-question-QQ.json, also in MLQA_V1/ -> google/xtreme MLQA.CC.QQ test and validation."""
    for name, split in (("dev", "validation"), ("test", "test")):
        for context in TASKS["mlqa"].languages:
            for question in TASKS["mlqa"].languages:
                file = f"{name}-context-{context}-question-{question}.json"
                path = find(source, file, f"{name}/{file}", f"MLQA_V1/{name}/{file}")
                if path:
                    yield XTREME, f"MLQA.{context}.{question}", split, read_squad_json(path, SQUAD_SCHEMA)


def read_tydiqa(source: Path, say: Say) -> Iterator[Piece]:
    """TyDiQA-GoldP v1.1 -> google/xtreme tydiqa train and validation, all languages in one split.

    Either tydiqa-goldp-v1.1-{train,dev}.json or one file a language as XTREME lays them out. XTREME's own train files
    have lost the language at the beginning of an id ('finnish-...'), by which languages are told apart here: it is put
    back.
    """
    whole = {"train": find(source, "tydiqa-goldp-v1.1-train.json"),
             "validation": find(source, "tydiqa-goldp-v1.1-dev.json")}
    for split, path in whole.items():
        if path is None:
            whole[split] = next(iter(_by_language(source, split).values()), None)
    for split, path in present(whole, say):
        if "v1.1" in path.name:
            yield XTREME, "tydiqa", split, read_squad_json(path, SQUAD_SCHEMA)
            continue
        files = _by_language(source, split)
        absent = [code for code in TASKS["tydiqa"].languages if code not in files]
        if absent and split == "validation":
            raise DataError(f"{source} lacks the TyDiQA development file of {', '.join(absent)}: all languages are one "
                            "split.")
        tables = [_with_language(read_squad_json(file, SQUAD_SCHEMA), code) for code, file in files.items()]
        say(f"split {split!r}: {', '.join(files)} joined" + (f", without {', '.join(absent)}" if absent else ""))
        yield XTREME, "tydiqa", split, pa.concat_tables(tables)


def _by_language(source: Path, split: str) -> dict[str, Path]:
    """TyDiQA's files of one language each, by code."""
    name = {"train": "train", "validation": "dev"}[split]
    found = {}
    for code in TASKS["tydiqa"].languages:
        files = [f"tydiqa.goldp.{code}.{name}.json"]
        if split == "validation":
            files.append(f"tydiqa-goldp-dev-{LANGUAGES[code].name.lower()}.json")
        found[code] = find(source, *files, *(f"tydiqa-goldp-v1.1-{name}/{file}" for file in files))
    return {code: path for code, path in found.items() if path}


def _with_language(table: pa.Table, code: str) -> pa.Table:
    prefix = f"{LANGUAGES[code].name.lower()}-"
    ids = [key if key.startswith(prefix) else prefix + key for key in table["id"].to_pylist()]
    return table.set_column(0, "id", pa.array(ids, pa.string()))


def _both(source: Path, task: str, version: str) -> dict[str, Path]:
    """{split: file} of a SQuAD version whose two files are both there or both missing; raises DataError otherwise."""
    files = {"train": source / f"train-{version}.json", "validation": source / f"dev-{version}.json"}
    for path in files.values():
        if not path.is_file():
            raise DataError(f"{path} is missing: {READERS[task].expected}.")
    return files


def read_squad_json(path: Path, schema: pa.Schema, nullable: bool = False) -> pa.Table:
    """A file in SQuAD's JSON format as a checked table, a row a question, in its order; raises DataError.

    `nullable`: version 2.0, where `is_impossible` says which questions have no answer.
    """
    try:
        articles = json.loads("\n".join(lines_of(path)))["data"]
        rows = [_question(article, paragraph, question, nullable, path)
                for article in articles for paragraph in article["paragraphs"] for question in paragraph["qas"]]
        table = pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema=schema)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is no complete JSON: {error}.") from error
    except (KeyError, TypeError, AttributeError, RecursionError, pa.ArrowException) as error:
        raise DataError(f"{path} is not in SQuAD's {'v2.0' if nullable else 'v1.1'} format: {type(error).__name__} "
                        f"{error}.") from error
    checked = check_rows("nullable_span" if nullable else "span", table_to_dataset(table), str(path))
    return checked.with_format("arrow")[:].replace_schema_metadata(None).select(schema.names)


def _question(article: dict, paragraph: dict, question: dict, nullable: bool, path: Path) -> dict[str, Any]:
    answers = question["answers"]
    if nullable and question["is_impossible"] != (not answers):
        raise DataError(f"{path}: question {question['id']!r} has is_impossible {question['is_impossible']!r} and "
                        f"{len(answers)} answers.")
    return {
        "id": question["id"],
        "title": article.get("title", ""),
        "context": paragraph["context"],
        "question": question["question"],
        "answers": {
            "text": [answer["text"] for answer in answers],
            "answer_start": [answer["answer_start"] for answer in answers],
        },
    }


READERS.add("xquad", Reader(read_xquad, "expected xquad.LL.json as in github.com/deepmind/xquad"))
READERS.add("squad", Reader(read_squad, "expected train-v1.1.json and dev-v1.1.json of SQuAD v1.1"))
READERS.add("squad_v2", Reader(read_squad_v2, "expected train-v2.0.json and dev-v2.0.json of SQuAD v2.0"))
READERS.add("mlqa", Reader(
    read_mlqa, "expected {test,dev}-context-LL-question-LL.json of MLQA_V1, here or in MLQA_V1/{test,dev}/"))
READERS.add("tydiqa", Reader(
    read_tydiqa, "expected tydiqa-goldp-v1.1-train.json and tydiqa-goldp-v1.1-dev.json, or XTREME's "
                 "tydiqa.goldp.LL.{train,dev}.json of every language"))
