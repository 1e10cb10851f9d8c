"""Releases of tagged words: Universal Dependencies, WikiAnn (PAN-X), CCGbank as text and tags."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from peft_stilts.errors import DataError
from peft_stilts.languages import LANGUAGES
from peft_stilts.registry import unknown
from peft_stilts.tasks.base import TASKS
from peft_stilts.tasks.releases import conllu
from peft_stilts.tasks.releases.base import READERS, XTREME, Piece, Reader, Say, find, present, to_table
from peft_stilts.tasks.releases.files import lines_of, place
from peft_stilts.tasks.xtreme import NER, UPOS

_STRS, _NUMBERS = pa.list_(pa.string()), pa.list_(pa.int64())
UDPOS_SCHEMA = pa.schema([("tokens", _STRS), ("pos_tags", _NUMBERS)])
PANX_SCHEMA = pa.schema([("tokens", _STRS), ("ner_tags", _NUMBERS), ("langs", _STRS)])
CCG_SCHEMA = pa.schema([("tokens", _STRS), ("tags", _STRS)])

_TREEBANK = re.compile(r"([a-z]+)_\w+-ud-(train|dev|test).*\.conllu", re.ASCII)
_SPLITS = {"train": "train", "dev": "validation", "test": "test"}

Treatment = Callable[[conllu.Sentence, str], tuple[list[str], list[str]]]


def read_udpos(source: Path, say: Say, treatment: Treatment = conllu.fused) -> Iterator[Piece]:
    """Treebanks LL_NAME-ud-SPLIT.conllu in any folders -> google/xtreme udpos.LANGUAGE train, validation, test.

    All treebanks of a language are joined, files in the order of their names (XTREME's utils_preprocess.py).
    `treatment` decides what a word is: `conllu.fused`, XTREME's own rule and the default, since published scores count
    words so; or `conllu.syntactic`, one word for every tag of the treebank. (The hub's google/xtreme has syntactic
    words, by its loader.) Sentences whose words are not published are left out; all of it is counted and said.
    """
    files: dict[str, Path] = {}
    for path in sorted(source.rglob("*.conllu"), key=lambda path: (path.name, str(path))):
        if path.name in files:
            raise DataError(f"{path.name} is there twice: {files[path.name]} and {path}.")
        files[path.name] = path
    found: dict[str, dict[str, list[Path]]] = {}
    for name, path in files.items():
        match = _TREEBANK.fullmatch(name)
        if not match or match[1] not in TASKS["udpos"].languages:
            why = "none of XTREME's languages" if match else "not named LL_NAME-ud-SPLIT.conllu"
            say(f"{name}: {why}, skipped")
        else:
            found.setdefault(match[1], {}).setdefault(match[2], []).append(path)
    for code, splits in found.items():
        for name in (name for name in _SPLITS if name in splits):
            rows = [row for path in splits[name] for row in _treebank(path, code, treatment, say)]
            table = to_table(rows, UDPOS_SCHEMA, splits[name][0])
            yield XTREME, f"udpos.{LANGUAGES[code].name}", _SPLITS[name], table


def _treebank(path: Path, code: str, treatment: Treatment, say: Say) -> Iterator[tuple[list[str], list[int]]]:
    numbers = {tag: number for number, tag in enumerate(UPOS)}
    counts: Counter[str] = Counter()
    for sentence in conllu.read_conllu(path):
        tokens, tags = treatment(sentence, code)
        if conllu.is_withheld(tokens):
            counts["withheld"] += 1
            continue
        for token, tag in zip(tokens, tags):
            if tag not in numbers:
                raise DataError(f"{path}, sentence at line {sentence.line}: {token!r}: {unknown('tag', tag, UPOS)}")
        counts.update(sentences=1, words=len(sentence.words), tokens=len(tokens), empty=sentence.empty,
                      multiwords=len(sentence.multiwords))
        yield tokens, [numbers[tag] for tag in tags]
    done = "fused" if treatment is conllu.fused else "split"
    say(f"{path.name}: {counts['sentences']} sentences, {counts['words']} syntactic words, {counts['tokens']} tokens "
        f"({counts['multiwords']} multiword tokens {done}, {counts['empty']} empty nodes left out, "
        f"{counts['withheld']} sentences without their words left out)")


def read_panx(source: Path, say: Say) -> Iterator[Piece]:
    """WikiAnn as XTREME ships it, LL/{train,dev,test} with lines `LL:word TAB tag` -> google/xtreme PAN-X.LL.

    Words are kept as they are, the blank ones that WikiAnn has are counted and said.
    """
    for code in TASKS["panx"].languages:
        splits = {split: find(source, *(f"{folder}{start}{name}" for folder in ("", "panx_dataset/")
                                        for start in (f"{code}/", f"panx_{code}/", f"{code}-")))
                  for name, split in _SPLITS.items()}
        for split, path in present(splits, lambda message, code=code: say(f"{code}: {message}")):
            rows = list(_wikiann(path, code))
            blank = sum(not token.strip() for tokens, _, _ in rows for token in tokens)
            if blank:
                say(f"{code}/{path.name}: {blank} words are blank, kept as they are")
            yield XTREME, f"PAN-X.{code}", split, to_table(rows, PANX_SCHEMA, path)


def _wikiann(path: Path, code: str) -> Iterator[tuple[list[str], list[int], list[str]]]:
    numbers = {tag: number for number, tag in enumerate(NER)}
    tokens: list[str] = []
    tags: list[int] = []
    for line, text in enumerate(lines_of(path), 1):
        if text.strip():
            fields = text.split("\t")
            if len(fields) != 2 or not fields[0].startswith(f"{code}:"):
                raise DataError(f"{place(path, line)} is not of the form '{code}:word', tab, tag: {text[:80]!r}.")
            if fields[1] not in numbers:
                raise DataError(f"{place(path, line)}: {unknown('tag', fields[1], NER)}")
            tokens.append(fields[0][len(code) + 1:])
            tags.append(numbers[fields[1]])
        elif tokens:
            yield tokens, tags, [code] * len(tokens)
            tokens, tags = [], []
    if tokens:
        yield tokens, tags, [code] * len(tokens)


def read_ccg(source: Path, say: Say) -> Iterator[Piece]:
    """{train,dev,test}.tsv or ccg.{train,dev,test}: words TAB supertags, both with spaces between -> ldc/ccgbank.

    CCGbank is licensed (LDC2005T13) and not on the hub; these files are made from it, a sentence a line (jiant).
    """
    splits = {split: find(source, f"{name}.tsv", f"ccg.{name}", f"ccg.{name}.tsv") for name, split in _SPLITS.items()}
    for split, path in present(splits, say):
        rows = []
        for line, text in enumerate(lines_of(path), 1):
            where, fields = place(path, line), text.split("\t")
            if len(fields) != 2:
                raise DataError(f"{where} has {len(fields)} tab-separated fields, not 2 (words, supertags).")
            tokens, tags = (field.split() for field in fields)
            if not tokens or len(tokens) != len(tags):
                raise DataError(f"{where} has {len(tokens)} words and {len(tags)} supertags.")
            rows.append((tokens, tags))
        yield "ldc/ccgbank", "default", split, to_table(rows, CCG_SCHEMA, path)


READERS.add("udpos", Reader(
    read_udpos, "expected LL_TREEBANK-ud-{train,dev,test}.conllu of Universal Dependencies, in any folders"))
READERS.add("udpos_syntactic", Reader(
    partial(read_udpos, treatment=conllu.syntactic), "the same files as for udpos; one word for every syntactic word, "
    "where udpos fuses multiword tokens as XTREME does"))
READERS.add("panx", Reader(
    read_panx, "expected LL/{train,dev,test} of WikiAnn (each LL.tar.gz unpacked into LL/ or panx_LL/), or "
               "LL-{train,dev,test}"))
READERS.add("ccg", Reader(
    read_ccg, "expected {train,dev,test}.tsv or ccg.{train,dev,test}, a sentence a line: words, tab, supertags"))
