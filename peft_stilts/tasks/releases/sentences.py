"""Releases of sentences to find translations among, Tatoeba and BUCC 2018, and plain text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from peft_stilts.errors import DataError
from peft_stilts.languages import LANGUAGES
from peft_stilts.tasks.base import TASKS
from peft_stilts.tasks.check import check_rows, table_to_dataset
from peft_stilts.tasks.releases.base import READERS, XTREME, Piece, Reader, Say, find, to_table
from peft_stilts.tasks.releases.files import Unique, lines_of, place

RETRIEVAL_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("source_sentence", "target_sentence", "source_lang", "target_lang")]
)
MINING_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "language", "sentence", "match")])
TEXT_SCHEMA = pa.schema([("text", pa.string())])

WIKIPEDIA = "20231101"
"""The dump whose configurations plain text stands in for: wikimedia/wikipedia 20231101.LL."""


def read_tatoeba(source: Path, say: Say) -> Iterator[Piece]:
    """tatoeba.XXX-eng.XXX and .eng (LASER, data/tatoeba/v1) -> google/xtreme tatoeba.XXX validation."""
    wanted = {LANGUAGES[code].iso639_3 for code in TASKS["tatoeba"].languages}
    codes = sorted({path.name.split(".")[1][:-4] for path in source.glob("tatoeba.*-eng.*")})
    for code in codes:
        if code not in wanted:
            say(f"tatoeba.{code}-eng: {code!r} is none of XTREME's Tatoeba languages, skipped")
            continue
        paths = [source / f"tatoeba.{code}-eng.{side}" for side in (code, "eng")]
        foreign, english = ([line.strip() for line in lines_of(path)] for path in paths)    # as XTREME reads them
        if len(foreign) != len(english):
            raise DataError(f"{paths[0]} has {len(foreign)} lines but {paths[1].name} has {len(english)}.")
        table = to_table([(*pair, code, "eng") for pair in zip(foreign, english)], RETRIEVAL_SCHEMA, paths[0])
        check_rows("retrieval", table_to_dataset(table), str(paths[0]))
        yield XTREME, f"tatoeba.{code}", "validation", table


def read_bucc2018(source: Path, say: Say) -> Iterator[Piece]:
    """LL-en.{sample,training}.{LL,en,gold} -> bucc/bucc2018 LL dev (the sample) and test (the training set).

    XTREME uses BUCC's splits so, since the gold pairs of the real test set are not published. Rows are the foreign
    sentences, then the English ones; `match` is the id of a sentence's translation on the other side, '' for none.
    """
    for code in TASKS["bucc2018"].languages:
        for split, name in (("dev", "sample"), ("test", "training")):
            files = {side: find(source, *(f"{folder}{code}-en.{name}.{side}"
                                          for folder in ("", f"{code}-en/", f"bucc2018/{code}-en/")))
                     for side in (code, "en", "gold")}
            absent = [f"{code}-en.{name}.{side}" for side, path in files.items() if path is None]
            if len(absent) == 3:
                continue
            if absent:
                raise DataError(f"{source} lacks {', '.join(absent)}: {READERS['bucc2018'].expected}.")
            yield "bucc/bucc2018", code, split, _mining_table(files, code)


def _mining_table(files: dict[str, Path], code: str) -> pa.Table:
    ids, pools = Unique(), {}
    for side in (code, "en"):
        pools[side] = {}
        for line, (key, sentence) in _pairs(files[side]):
            ids.add(key, place(files[side], line))
            if not sentence.strip():
                raise DataError(f"{place(files[side], line)}: sentence {key!r} is blank.")
            pools[side][key] = sentence
    match: dict[str, str] = {}
    for line, pair in _pairs(files["gold"]):
        where = place(files["gold"], line)
        for key, side in zip(pair, (code, "en")):
            if key not in pools[side]:
                raise DataError(f"{where}: {key!r} is no id of {files[side].name}.")
            if key in match:
                raise DataError(f"{where}: {key!r} has a second translation, beside {match[key]!r}.")
        match |= {pair[0]: pair[1], pair[1]: pair[0]}
    rows = [(key, side, sentence, match.get(key, "")) for side in (code, "en") for key, sentence in pools[side].items()]
    return to_table(rows, MINING_SCHEMA, files[code])


def _pairs(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, two fields) of a tab-separated file of two columns without names."""
    for line, text in enumerate(lines_of(path), 1):
        fields = text.split("\t")
        if len(fields) != 2:
            raise DataError(f"{place(path, line)} has {len(fields)} tab-separated fields, not 2.")
        yield line, fields


def read_text(source: Path, say: Say) -> Iterator[Piece]:
    """LL.txt, an example a line -> wikimedia/wikipedia 20231101.LL train, column `text`; blank lines are left out."""
    for path in sorted(source.glob("*.txt")):
        if path.stem not in LANGUAGES:
            say(f"{path.name}: {path.stem!r} is no language's code, skipped")
            continue
        lines = [line.strip() for line in lines_of(path)]
        rows = [(line,) for line in lines if line]
        if len(rows) < len(lines):
            say(f"{path.name}: {len(lines) - len(rows)} blank lines left out")
        yield "wikimedia/wikipedia", f"{WIKIPEDIA}.{path.stem}", "train", to_table(rows, TEXT_SCHEMA, path)


READERS.add("tatoeba", Reader(
    read_tatoeba, "expected tatoeba.XXX-eng.XXX and tatoeba.XXX-eng.eng as in LASER's data/tatoeba/v1"))
READERS.add("bucc2018", Reader(
    read_bucc2018, "expected LL-en.{sample,training}.{LL,en,gold} (LL: de, fr, ru, zh) of BUCC 2018, here, in LL-en/ "
                   "or in bucc2018/LL-en/"))
READERS.add("text", Reader(read_text, "expected LL.txt (LL: a two-letter code of languages.py), an example a line"))
