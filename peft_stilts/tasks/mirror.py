"""Builds a data folder laid out like the hub's repositories from original release files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from peft_stilts.errors import DataError
from peft_stilts.languages import LANGUAGES
from peft_stilts.registry import Registry
from peft_stilts.store import replace_file
from peft_stilts.tasks.base import TASKS
from peft_stilts.tasks.check import check_rows, table_to_dataset
from peft_stilts.tasks.sources import read_configs, read_front

Piece = tuple[str, str, str, pa.Table]
"""Repository, configuration, split, rows."""

_ANSWERS = pa.struct([("answer_start", pa.list_(pa.int32())), ("text", pa.list_(pa.string()))])
_SPAN = [("id", pa.string()), ("context", pa.string()), ("question", pa.string()), ("answers", _ANSWERS)]
SPAN_SCHEMA = pa.schema(_SPAN)
SQUAD_SCHEMA = pa.schema([_SPAN[0], ("title", pa.string()), *_SPAN[1:]])
RETRIEVAL_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("source_sentence", "target_sentence", "source_lang", "target_lang")]
)

READERS: Registry[Callable[[Path, Callable[[str], None]], Iterator[Piece]]] = Registry("task with a mirror")
"""Task name -> reader of a folder of release files; it yields checked pieces and says what it skips."""


def mirror(task: str, source: Path | str, data_root: Path | str, say: Callable[[str], None] = print) -> list[Path]:
    """Converts the release files of `task` in `source` into `data_root`; the parquet files written.

    Everything is read and checked first, then each file is written under another name and moved into place, README.md
    last; its configurations are added to those already there. Raises UsageError for a task without a reader and
    DataError naming the file at fault; then nothing was written.
    """
    reader, source, root = READERS[task], Path(source), Path(data_root)
    if not source.is_dir():
        raise DataError(f"the source folder {source} does not exist.")
    pieces = list(reader(source, say))
    if not pieces:
        raise DataError(f"{source} holds no release file of {task}: {_EXPECTED[task]}.")
    headers = {repo: _merged_header(root / repo, pieces) for repo in {piece[0] for piece in pieces}}
    written = []
    for repo, config, split, table in pieces:
        path = root / repo / _file_name(config, split)
        _write(path, lambda draft, table=table: pq.write_table(table, draft))
        say(f"{path}: {table.num_rows} rows")
        written.append(path)
    for repo, text in headers.items():
        _write(root / repo / "README.md", lambda draft, text=text: draft.write_bytes(text.encode()))
    return written


def read_xquad(source: Path, say: Callable[[str], None]) -> Iterator[Piece]:
    """xquad.LL.json (deepmind/xquad) -> google/xtreme XQuAD.LL validation; languages outside of XTREME are skipped."""
    for path in sorted(source.glob("xquad.*.json")):
        code = path.name.split(".")[1]
        if code not in TASKS["xquad"].languages:
            say(f"{path.name}: {code!r} is none of XTREME's XQuAD languages, skipped")
            continue
        yield "google/xtreme", f"XQuAD.{code}", "validation", read_squad_json(path, SPAN_SCHEMA)


def read_squad(source: Path, say: Callable[[str], None]) -> Iterator[Piece]:
    """train-v1.1.json and dev-v1.1.json (both needed) -> rajpurkar/squad plain_text train and validation."""
    files = {"train": source / "train-v1.1.json", "validation": source / "dev-v1.1.json"}
    for split, path in files.items():
        if not path.is_file():
            raise DataError(f"{path} is missing: {_EXPECTED['squad']}.")
        yield "rajpurkar/squad", "plain_text", split, read_squad_json(path, SQUAD_SCHEMA)


def read_tatoeba(source: Path, say: Callable[[str], None]) -> Iterator[Piece]:
    """tatoeba.XXX-eng.XXX and .eng (LASER, data/tatoeba/v1) -> google/xtreme tatoeba.XXX validation."""
    wanted = {LANGUAGES[code].iso639_3 for code in TASKS["tatoeba"].languages}
    codes = sorted({path.name.split(".")[1][:-4] for path in source.glob("tatoeba.*-eng.*")})
    for code in codes:
        if code not in wanted:
            say(f"tatoeba.{code}-eng: {code!r} is none of XTREME's Tatoeba languages, skipped")
            continue
        paths = [source / f"tatoeba.{code}-eng.{side}" for side in (code, "eng")]
        foreign, english = (_lines(path) for path in paths)
        if len(foreign) != len(english):
            raise DataError(f"{paths[0]} has {len(foreign)} lines but {paths[1].name} has {len(english)}.")
        columns = [foreign, english, [code] * len(foreign), ["eng"] * len(foreign)]
        table = pa.table(dict(zip(RETRIEVAL_SCHEMA.names, columns, strict=True)), schema=RETRIEVAL_SCHEMA)
        check_rows("retrieval", table_to_dataset(table), str(paths[0]))
        yield "google/xtreme", f"tatoeba.{code}", "validation", table


READERS.add("xquad", read_xquad)
READERS.add("squad", read_squad)
READERS.add("tatoeba", read_tatoeba)

_EXPECTED = {
    "xquad": "expected xquad.LL.json as in github.com/deepmind/xquad",
    "squad": "expected train-v1.1.json and dev-v1.1.json of SQuAD v1.1",
    "tatoeba": "expected tatoeba.XXX-eng.XXX and tatoeba.XXX-eng.eng as in LASER's data/tatoeba/v1",
}


def read_squad_json(path: Path, schema: pa.Schema) -> pa.Table:
    """A file in SQuAD v1.1's JSON format as a checked table, a row a question, in its order; raises DataError."""
    try:
        articles = json.loads(_text(path))["data"]
        rows = [
            {
                "id": question["id"],
                "title": article.get("title", ""),
                "context": paragraph["context"],
                "question": question["question"],
                "answers": {
                    "text": [answer["text"] for answer in question["answers"]],
                    "answer_start": [answer["answer_start"] for answer in question["answers"]],
                },
            }
            for article in articles
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
        table = pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema=schema)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is no complete JSON: {error}.") from error
    except (KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise DataError(f"{path} is not in SQuAD's v1.1 format: {type(error).__name__} {error}.") from error
    checked = check_rows("span", table_to_dataset(table), str(path))
    return checked.with_format("arrow")[:].replace_schema_metadata(None).select(schema.names)


def write_question_ids(xquad_english: Path | str, out: Path | str) -> None:
    """Writes the sorted question ids of xquad.en.json: how tasks/xquad_question_ids.txt was made."""
    ids = sorted(read_squad_json(Path(xquad_english), SPAN_SCHEMA)["id"].to_pylist())
    head = "# Question ids of XQuAD (deepmind/xquad, xquad.en.json; CC BY-SA 4.0); made by tasks/mirror.py."
    text = "\n".join([head, *ids, ""])
    _write(Path(out), lambda draft: draft.write_bytes(text.encode()))


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}.") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}.") from error
    if not text.strip():
        raise DataError(f"{path} is empty.")
    return text


def _lines(path: Path) -> list[str]:
    """Lines by newline only (a sentence may hold U+2028 or U+0085), without outer white space as XTREME reads them."""
    text = _text(path)
    return [line.strip() for line in (text[:-1] if text.endswith("\n") else text).split("\n")]


def _file_name(config: str, split: str) -> str:
    return f"{config}/{split}-00000-of-00001.parquet"


def _merged_header(folder: Path, pieces: list[Piece]) -> str:
    """README.md of `folder` with the configurations of `pieces` added or replaced; everything else in it stays."""
    readme = folder / "README.md"
    front, body = read_front(readme) if readme.is_file() else ({}, _BODY)
    if front.get("configs"):
        read_configs(folder)
    configs: dict[str, dict[str, Any]] = {entry["config_name"]: entry for entry in front.get("configs") or []}
    files: dict[str, list[dict[str, str]]] = {}
    for repo, config, split, _ in pieces:
        if folder.parts[-2:] == tuple(repo.split("/")):
            files.setdefault(config, []).append({"split": split, "path": _file_name(config, split)})
    for config, data_files in files.items():
        configs[config] = configs.get(config, {}) | {"config_name": config, "data_files": data_files}
    front["configs"] = [configs[name] for name in sorted(configs)]
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n{body}"


_BODY = "\nBuilt from original release files by peft_stilts' tools/mirror.py, in the layout of the hub's repository.\n"


def _write(path: Path, fill: Callable[[Path], Any]) -> None:
    """Let `fill` write the file `path`, whole or not at all; raises DataError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, fill)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}.") from error
