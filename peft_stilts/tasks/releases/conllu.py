"""CoNLL-U, the format of Universal Dependencies: sentences, multiword tokens, and the two ways to count words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peft_stilts.errors import DataError
from peft_stilts.tasks.releases.files import lines_of, place

_ID = re.compile(r"(\d+)(?:-(\d+)|\.(\d+))?", re.ASCII)

PRECEDENCE = {
    language: order.split() for language, order in {
        "default": "VERB NOUN PROPN PRON ADJ NUM ADV INTJ AUX ADP DET PART CCONJ SCONJ X PUNCT",
        "es": "VERB AUX PRON ADP DET",
        "fr": "VERB AUX PRON NOUN ADJ ADV ADP DET PART SCONJ CONJ",
        "it": "VERB AUX ADV PRON ADP DET INTJ",
    }.items()
}
"""Which part of speech a fused word takes among equals, first ones first, by XTREME's language code (its third_party/
ud-conversion-tools/conllu_to_conll.py). A part of speech that is not listed comes last here, and is an error there."""


@dataclass(frozen=True)
class Word:
    """A syntactic word: FORM, UPOS, and the numbers of its heads (HEAD, and the whole numbers in DEPS; 0: the root)."""

    form: str
    tag: str
    heads: frozenset[int]


@dataclass(frozen=True)
class Multiword:
    """A multiword token: the numbers of its first and last word (from 1), and its own form, as in `2-3 don't`."""

    first: int
    last: int
    form: str


@dataclass(frozen=True)
class Sentence:
    """Its syntactic words (number 1 first), multiword tokens, the number of empty nodes (`5.1`), and its first line."""

    words: tuple[Word, ...]
    multiwords: tuple[Multiword, ...]
    empty: int
    line: int


def read_conllu(path: Path) -> Iterator[Sentence]:
    """The sentences of a CoNLL-U file in their order; comments are passed over.

    Raises DataError naming file and line for a line without ten fields, a number out of order, a multiword token
    around words that are not there, a blank form, a sentence without words.
    """
    block: list[tuple[int, str]] = []
    for line, text in enumerate(lines_of(path), 1):
        if not text.strip():
            if block:
                yield _sentence(path, block)
            block = []
        elif not text.startswith("#"):
            block.append((line, text))
    if block:
        yield _sentence(path, block)


def _sentence(path: Path, block: list[tuple[int, str]]) -> Sentence:
    words: list[Word] = []
    multiwords: list[Multiword] = []
    empty = 0
    for line, text in block:
        fields = text.split("\t")
        where = place(path, line)
        if len(fields) != 10:
            raise DataError(f"{where} has {len(fields)} tab-separated fields, not CoNLL-U's 10.")
        number = _ID.fullmatch(fields[0])
        if not number:
            raise DataError(f"{where}: {fields[0]!r} is no number of a word, a multiword token (2-3) or an empty node "
                            "(5.1).")
        if not fields[1].strip():
            raise DataError(f"{where}: word {fields[0]} has a blank form.")
        if number[3]:
            empty += 1
        elif number[2]:
            first, last = int(number[1]), int(number[2])
            if first != len(words) + 1 or last < first or (multiwords and first <= multiwords[-1].last):
                raise DataError(f"{where}: multiword token {fields[0]} does not stand before its first word, or "
                                "overlaps another.")
            multiwords.append(Multiword(first, last, fields[1]))
        elif int(number[1]) != len(words) + 1:
            raise DataError(f"{where}: word {fields[0]} stands where word {len(words) + 1} must.")
        else:
            words.append(Word(fields[1], fields[3], _heads(fields[6], fields[8])))
    if not words:
        raise DataError(f"{place(path, block[0][0])}: a sentence of 0 words.")
    if multiwords and multiwords[-1].last > len(words):
        raise DataError(f"{place(path, block[0][0])}: the sentence lacks words of its token {multiwords[-1].form!r}.")
    return Sentence(tuple(words), tuple(multiwords), empty, block[0][0])


def _heads(head: str, deps: str) -> frozenset[int]:
    """XTREME's converter puts enhanced dependencies beside the basic one; an unknown head counts as one more (-1)."""
    enhanced = [number for number in (pair.split(":")[0] for pair in deps.split("|")) if number.isdecimal()]
    return frozenset([int(head) if head.isdecimal() else -1, *map(int, enhanced)])


def syntactic(sentence: Sentence, language: str) -> tuple[list[str], list[str]]:
    """(tokens, tags): one for every syntactic word, so `don't` is `do`, `n't`; empty nodes and fused forms left out."""
    return [clean(word.form) for word in sentence.words], [word.tag for word in sentence.words]


def fused(sentence: Sentence, language: str) -> tuple[list[str], list[str]]:
    """(tokens, tags) by XTREME's rule: a multiword token is one token, `don't`, with the tag of its head word.

    The head word is the one nearest to the root (with the fewest ancestors); among several, the one whose tag comes
    first in PRECEDENCE, then the first. Empty nodes are left out.
    """
    starts = {multiword.first: multiword for multiword in sentence.multiwords}
    tokens, tags, number = [], [], 1
    while number <= len(sentence.words):
        word = sentence.words[number - 1]
        multiword = starts.get(number, Multiword(number, number, word.form))
        tokens.append(clean(multiword.form))
        tags.append(sentence.words[_head(sentence, multiword, language) - 1].tag)
        number = multiword.last + 1
    return tokens, tags


def _head(sentence: Sentence, multiword: Multiword, language: str) -> int:
    span = range(multiword.first, multiword.last + 1)
    if len(span) == 1:
        return multiword.first
    order = PRECEDENCE.get(language, PRECEDENCE["default"])
    tags = {number: sentence.words[number - 1].tag for number in span}
    return min(span, key=lambda number: (
        _ancestors(sentence, number), order.index(tags[number]) if tags[number] in order else len(order)))


def _ancestors(sentence: Sentence, number: int) -> int:
    """How many nodes can be reached from a word by going to heads, itself not counted; there may be circles."""
    found: set[int] = set()
    todo = [number]
    while todo:
        node = todo.pop()
        heads = sentence.words[node - 1].heads if 0 < node <= len(sentence.words) else frozenset()
        todo += heads - found
        found |= heads
    return len(found - {number})


def clean(form: str) -> str:
    """A form as XTREME writes it, without spaces (as in Vietnamese) and U+200C; unchanged if nothing would be left."""
    return form.replace("\u200c", "").replace(" ", "") or form


def is_withheld(tokens: list[str]) -> bool:
    """XTREME's rule for sentences whose text is not published: all words, or all but one, are `_`."""
    blank = tokens.count("_")
    return 0 < blank and blank >= len(tokens) - 1
