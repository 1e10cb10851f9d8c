"""Releases of sentence pairs: MultiNLI, SNLI, ANLI, XNLI, QQP, PAWS-X."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from peft_stilts.errors import DataError
from peft_stilts.tasks.base import TASKS
from peft_stilts.tasks.intermediate import NLI
from peft_stilts.tasks.releases.base import READERS, XTREME, Piece, Reader, Say, find, present, to_table
from peft_stilts.tasks.releases.files import Row, Unique, jsonl_rows, label, lines_of, place, text, tsv_rows

_STR, _LABEL = pa.string(), ("label", pa.int64())
SNLI_SCHEMA = pa.schema([("premise", _STR), ("hypothesis", _STR), _LABEL])
MNLI_SCHEMA = pa.schema([*SNLI_SCHEMA, ("idx", pa.int32())])
ANLI_SCHEMA = pa.schema([("uid", _STR), *SNLI_SCHEMA, ("reason", _STR)])
QQP_SCHEMA = pa.schema([("question1", _STR), ("question2", _STR), _LABEL, ("idx", pa.int32())])
XNLI_SCHEMA = pa.schema([(name, _STR) for name in ("language", "sentence1", "sentence2", "gold_label")])
PAWSX_SCHEMA = pa.schema([(name, _STR) for name in ("sentence1", "sentence2", "label")])

QQP_SHORT_LINES = 10
"""Broken lines that QQP may have: the hub's loader drops 3 of GLUE's train.tsv and keeps 363,846 rows."""


def read_mnli(source: Path, say: Say) -> Iterator[Piece]:
    """MultiNLI -> nyu-mll/glue mnli train, validation_matched, validation_mismatched.

    From multinli_1.0_SPLIT.jsonl or .txt, GLUE's MNLI/SPLIT.tsv, or (train only) XNLI-MT-1.0's multinli.train.en.tsv.
    Pairs without a gold label ('-') are left out and the others numbered from 0, as in GLUE.
    """
    splits = {}
    for split, name in (("train", "train"), ("validation_matched", "dev_matched"),
                        ("validation_mismatched", "dev_mismatched")):
        originals = [f"{folder}multinli_1.0_{name}.{end}"
                     for end in ("jsonl", "txt") for folder in ("", "multinli_1.0/")]
        glue = [f"{name}.tsv", f"MNLI/{name}.tsv"]
        translated = [f"{folder}multinli.train.en.tsv" for folder in ("", "multinli/", "XNLI-MT-1.0/multinli/")]
        splits[split] = find(source, *originals, *glue, *(translated if name == "train" else []))
    for split, path in present(splits, say):
        pairs = list(_nli(path, say))
        rows = [(*pair, idx) for idx, pair in enumerate(pair for pair in pairs if pair[2] >= 0)]
        say(f"{path.name}: {len(pairs) - len(rows)} pairs without a gold label ('-') left out")
        yield "nyu-mll/glue", "mnli", split, to_table(rows, MNLI_SCHEMA, path)


def read_snli(source: Path, say: Say) -> Iterator[Piece]:
    """snli_1.0_{train,dev,test}.jsonl or .txt -> stanfordnlp/snli plain_text; label -1 for no gold label ('-')."""
    splits = {split: find(source, *(f"{folder}snli_1.0_{name}.{end}" for end in ("jsonl", "txt")
                                    for folder in ("", "snli_1.0/")))
              for split, name in (("train", "train"), ("validation", "dev"), ("test", "test"))}
    for split, path in present(splits, say):
        pairs = list(_nli(path, say))
        say(f"{path.name}: {sum(pair[2] < 0 for pair in pairs)} pairs have no gold label ('-'), kept as -1")
        yield "stanfordnlp/snli", "plain_text", split, to_table(pairs, SNLI_SCHEMA, path)


def _nli(path: Path, say: Say) -> Iterator[tuple[str, str, int]]:
    """(premise, hypothesis, label in NLI's order or -1) of MultiNLI's and SNLI's files."""
    if path.name == "multinli.train.en.tsv":            # XNLI-MT-1.0: other columns, and another word
        keys, words = ("premise", "hypo", "label"), (*NLI[:2], "contradictory")
    else:
        keys, words = ("sentence1", "sentence2", "gold_label"), (*NLI, "-")
    blank = 0
    for line, row in (jsonl_rows if path.suffix == ".jsonl" else tsv_rows)(path, keys):
        where = place(path, line)
        premise, hypothesis = (text(row, key, where) for key in keys[:2])
        blank += _is_blank(premise, hypothesis)
        number = label(row[keys[2]], words, where)
        yield premise, hypothesis, number if number < 3 else -1
    _say_blank(path, blank, say)


def read_anli(source: Path, say: Say) -> Iterator[Piece]:
    """R{1,2,3}/{train,dev,test}.jsonl, also in anli_v1.0/ -> facebook/anli plain_text train_r1 to test_r3."""
    splits = {f"{name}_r{turn}": find(source, *(f"{folder}R{turn}/{name}.jsonl" for folder in ("", "anli_v1.0/")))
              for turn in (1, 2, 3) for name in ("train", "dev", "test")}
    for split, path in present(splits, say):
        rows, ids, blank = [], Unique(), 0
        for line, row in jsonl_rows(path, ("uid", "context", "hypothesis", "label")):
            where = place(path, line)
            uid, premise, hypothesis = (text(row, key, where) for key in ("uid", "context", "hypothesis"))
            ids.add(uid, where)
            blank += _is_blank(premise, hypothesis)
            reason = text(row, "reason", where) if "reason" in row else ""
            rows.append((uid, premise, hypothesis, label(row["label"], ("e", "n", "c"), where), reason))
        _say_blank(path, blank, say)
        yield "facebook/anli", "plain_text", split, to_table(rows, ANLI_SCHEMA, path)


def read_qqp(source: Path, say: Say) -> Iterator[Piece]:
    """GLUE's QQP/{train,dev}.tsv -> nyu-mll/glue qqp train, validation; `idx` is the row's number in the file.

    Lines with too few fields are dropped, as the hub does, but no more than QQP_SHORT_LINES a file.
    """
    splits = {split: find(source, f"{name}.tsv", f"QQP/{name}.tsv")
              for split, name in (("train", "train"), ("validation", "dev"))}
    for split, path in present(splits, say):
        rows, ids, blank, malformed = [], Unique(), 0, []
        for line, row in tsv_rows(path, ("id", "question1", "question2", "is_duplicate"), malformed):
            where = place(path, line)
            ids.add(row["id"], where)
            blank += _is_blank(row["question1"], row["question2"])
            rows.append((row["question1"], row["question2"], label(row["is_duplicate"], ("0", "1"), where), line - 2))
        if len(malformed) > QQP_SHORT_LINES:
            raise DataError(f"{path}: {len(malformed)} lines have another number of tabs than the first line, first "
                            f"line {malformed[0]}; GLUE's file has 3.")
        if malformed:
            say(f"{path.name}: {len(malformed)} broken lines left out: {', '.join(map(str, malformed))}")
        _say_blank(path, blank, say)
        yield "nyu-mll/glue", "qqp", split, to_table(rows, QQP_SCHEMA, path)


def read_xnli(source: Path, say: Say) -> Iterator[Piece]:
    """XNLI-1.0's xnli.{dev,test}.tsv -> google/xtreme XNLI validation, test, all languages in one configuration.

    Or XTREME's own {dev,test}-LL.tsv: columns sentence1, sentence2, gold_label; its test files have no labels, so
    gold_label is '' there.
    """
    for split, name in (("validation", "dev"), ("test", "test")):
        path = find(source, f"xnli.{name}.tsv", f"XNLI-1.0/xnli.{name}.tsv")
        if path:
            yield XTREME, "XNLI", split, to_table(_xnli_rows(path, say), XNLI_SCHEMA, path)
            continue
        files = {code: find(source, f"{name}-{code}.tsv", f"xnli/{name}-{code}.tsv")
                 for code in TASKS["xnli"].languages}
        if not any(files.values()):
            continue
        absent = [code for code, file in files.items() if not file]
        if absent:
            raise DataError(f"{source} lacks {name}-LL.tsv of {', '.join(absent)}; all languages are one split.")
        rows = [(code, *row) for code, file in sorted(files.items()) for row in _xtreme_pairs(file, name == "test")]
        yield XTREME, "XNLI", split, to_table(rows, XNLI_SCHEMA, source)


def _xnli_rows(path: Path, say: Say) -> list[tuple[str, str, str, str]]:
    rows, ids, blank, others = [], Unique(), 0, 0
    known = TASKS["xnli"].languages
    for line, row in tsv_rows(path, ("language", "gold_label", "sentence1", "sentence2", "pairID")):
        where = place(path, line)
        if row["language"] not in known:
            others += 1
            continue
        ids.add((row["language"], row["pairID"]), where)
        label(row["gold_label"], NLI, where)
        blank += _is_blank(row["sentence1"], row["sentence2"])
        rows.append(tuple(row[name] for name in XNLI_SCHEMA.names))
    if others:
        say(f"{path.name}: {others} rows in languages that are none of XTREME's XNLI languages, skipped")
    _say_blank(path, blank, say)
    return rows


def _xtreme_pairs(path: Path, test: bool) -> Iterator[tuple[str, str, str]]:
    """Rows of XTREME's own files (utils_preprocess.py writes them with Python's csv module, which quotes)."""
    reader = csv.reader((f"{line}\n" for line in lines_of(path)), delimiter="\t", strict=True)
    try:
        for fields in reader:
            where = place(path, reader.line_num)
            if len(fields) != 3 and not (test and len(fields) == 2):
                raise DataError(f"{where} has {len(fields)} tab-separated fields, not 3 (sentence1, sentence2, label).")
            if len(fields) == 3:
                label(fields[2], NLI, where)
            yield fields[0], fields[1], fields[2] if len(fields) == 3 else ""
    except csv.Error as error:
        raise DataError(f"{place(path, reader.line_num)}: {error}.") from error


def read_pawsx(source: Path, say: Say) -> Iterator[Piece]:
    """x-final/LL/{train or translated_train,dev_2k,test_2k}.tsv -> google/xtreme PAWS-X.LL train, validation, test.

    Labels stay '0' and '1'. Pairs that nobody translated ('NS') or that are blank are kept, since XTREME scores them;
    their number is said. Broken lines of a machine-translated train file are dropped, as the hub does, and said.
    """
    for code in TASKS["pawsx"].languages:
        names = {"train": "train" if code == "en" else "translated_train", "validation": "dev_2k", "test": "test_2k"}
        splits = {split: find(source, f"{code}/{name}.tsv", f"x-final/{code}/{name}.tsv")
                  for split, name in names.items()}
        for split, path in present(splits, lambda message, code=code: say(f"{code}: {message}")):
            rows, ids, untranslated = [], Unique(), 0
            malformed = [] if path.name == "translated_train.tsv" else None
            for line, row in tsv_rows(path, ("id", "sentence1", "sentence2", "label"), malformed):
                ids.add(row["id"], place(path, line))
                label(row["label"], ("0", "1"), place(path, line))
                untranslated += _is_untranslated(row)
                rows.append(tuple(row[name] for name in PAWSX_SCHEMA.names))
            if malformed:
                say(f"{code}/{path.name}: {len(malformed)} broken lines left out, first line {malformed[0]}")
            if untranslated:
                say(f"{code}/{path.name}: {untranslated} pairs have a sentence that is blank or 'NS' (not translated), "
                    "kept as they are")
            yield XTREME, f"PAWS-X.{code}", split, to_table(rows, PAWSX_SCHEMA, path)


def _is_untranslated(row: Row) -> bool:
    return any(row[name].strip() in ("", "NS") for name in ("sentence1", "sentence2"))


def _is_blank(*sentences: str) -> bool:
    return not all(sentence.strip() for sentence in sentences)


def _say_blank(path: Path, blank: int, say: Say) -> None:
    if blank:
        say(f"{path.name}: {blank} pairs have a blank sentence, kept as they are")


READERS.add("mnli", Reader(
    read_mnli, "expected multinli_1.0_{train,dev_matched,dev_mismatched}.jsonl or .txt of MultiNLI, GLUE's MNLI/*.tsv, "
               "or XNLI-MT-1.0's multinli.train.en.tsv"))
READERS.add("qqp", Reader(read_qqp, "expected train.tsv and dev.tsv of GLUE's QQP, here or in QQP/"))
READERS.add("snli", Reader(read_snli, "expected snli_1.0_{train,dev,test}.jsonl of SNLI"))
READERS.add("anli", Reader(read_anli, "expected R1, R2 and R3 of anli_v1.0, each with {train,dev,test}.jsonl"))
READERS.add("xnli", Reader(
    read_xnli, "expected xnli.dev.tsv and xnli.test.tsv of XNLI-1.0, or XTREME's {dev,test}-LL.tsv of all languages"))
READERS.add("pawsx", Reader(
    read_pawsx, "expected LL/{train,translated_train,dev_2k,test_2k}.tsv of PAWS-X, here or in x-final/"))
