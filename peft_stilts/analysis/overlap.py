"""Parallel text in files, and the share of subword types that two languages have in common on it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from peft_stilts.errors import DataError, UsageError
from peft_stilts.languages import LANGUAGES
from peft_stilts.miniature.world import TONGUES

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST = 10_000
"""pairs of a language that are read at most: what is held in memory"""
BATCH = 1000

Pairs = dict[str, list[tuple[str, str]]]
"""code -> [(sentence of the source language, its translation)]"""


def overlaps(tokenizer: str | Path, folder: str | Path, source: str, codes: Sequence[str]) -> pd.Series:
    """The subword overlap of every language in `codes` with `source`: a float64 Series, 0..1, NaN without text.

    |S n L| / |S u L|, S and L the sets of subword types of the two sides of the pairs that `parallel` reads, special
    and unknown tokens left out. Pires et al. 2019 (arXiv 1906.01502) define it so for the word pieces of entities; here
    it is of all the text. `tokenizer`: a folder with tokenizer.json, or a hub id (the cached file, or fetched).
    `attrs["origin"]` says what was read. Raises UsageError and DataError.
    """
    pieces, pairs = load_tokenizer(tokenizer), parallel(folder, source, codes)
    strange = _special(pieces)
    found = {code: _jaccard(*(_types(pieces, side, strange) for side in zip(*some))) for code, some in pairs.items()}
    told = pd.Series(found | {source: 1.0}, dtype=float).reindex(list(codes)).rename("overlap")
    name = Path(tokenizer).name if Path(tokenizer).is_dir() else tokenizer
    told.attrs["origin"] = (f"shared / all subword types of {name} on {len(next(iter(pairs.values())))} pairs a "
                            f"language ({Path(folder).name})")
    return told


def parallel(folder: str | Path, source: str, codes: Sequence[str]) -> Pairs:
    """Pairs of sentences of `source` and each of `codes` (XTREME's codes or the miniature world's) in `folder`.

    Files: tatoeba.LLL-eng.LLL beside .eng (LASER's; LLL = iso639_3, so with English only), or XX.txt of every language
    with the same sentences line by line. Pairs with an empty side are left out; `source` itself and languages without a
    file are absent. Every language has as many pairs, as many as the one with the fewest and at most MOST: measures of
    text grow or shrink with its size. Raises UsageError where nothing is found, DataError for files that are not
    parallel.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"--parallel {folder} is no folder")
    layout = _tatoeba if any(folder.glob("tatoeba.*-eng.*")) else _lines_each
    files = layout(folder, source, codes)
    if not files:
        raise UsageError(f"--parallel {folder} has no text of {', '.join(code for code in codes if code != source)}: "
                         f"it needs tatoeba.LLL-eng.LLL with tatoeba.LLL-eng.eng (LLL = iso639_3), or {source}.txt and "
                         "XX.txt with a line for every line")
    pairs = {code: _pairs(*both) for code, both in files.items()}
    fewest = min(map(len, pairs.values()))
    return {code: some[:fewest] for code, some in pairs.items()}


def load_tokenizer(source: str | Path) -> Tokenizer:
    """The fast tokenizer of a folder with tokenizer.json, or of a hub id; nothing of a repository is run."""
    from tokenizers import Tokenizer

    path = Path(source) / "tokenizer.json"
    if not Path(source).is_dir():
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(str(source), "tokenizer.json"))
        except Exception as error:      # huggingface_hub raises many kinds: no such repository, file, network, cache
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UsageError(f"--tokenizer {source} is no folder here, and its tokenizer.json cannot be had from the "
                             f"hub: {reason}") from error
    elif not path.is_file():
        raise UsageError(f"--tokenizer {source} has no tokenizer.json; a fast tokenizer's save_pretrained writes it")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:          # the library raises plain Exception
        raise DataError(f"{path} is no tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _tatoeba(folder: Path, source: str, codes: Sequence[str]) -> dict[str, tuple[Path, Path]]:
    """code -> (English file, the other), of those that are there."""
    if source != "en":
        raise UsageError(f"--parallel {folder} has Tatoeba's pairs with English; --source {source} needs files XX.txt")
    found = {}
    for code in codes:
        language = LANGUAGES[code] if code in LANGUAGES else TONGUES.get(code)
        three = language.iso639_3 if language else code
        files = folder / f"tatoeba.{three}-eng.eng", folder / f"tatoeba.{three}-eng.{three}"
        if code != source and any(file.is_file() for file in files):
            found[code] = files
    return found


def _lines_each(folder: Path, source: str, codes: Sequence[str]) -> dict[str, tuple[Path, Path]]:
    """code -> (the source language's file, the other), of those that are there."""
    start = folder / f"{source}.txt"
    files = {code: folder / f"{code}.txt" for code in codes if code != source}
    return {code: (start, file) for code, file in files.items() if start.is_file() and file.is_file()}


def _pairs(one: Path, other: Path) -> list[tuple[str, str]]:
    pairs = []
    for number, (left, right) in enumerate(zip_longest(_lines(one), _lines(other)), 1):
        if left is None or right is None:
            raise DataError(f"{one} and {other.name} are not parallel: "
                            f"{(one if left is None else other).name} ends before line {number}")
        if left and right and len(pairs) < MOST:
            pairs.append((left, right))
    if not pairs:
        raise DataError(f"{one} and {other.name} have no line with text in both")
    return pairs


def _lines(path: Path) -> Iterator[str]:
    """Lines split at newlines only (a sentence may hold U+2028), without white space around them."""
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            for line in file:
                yield line.strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _special(tokenizer: Tokenizer) -> set[int]:
    """The ids that stand for no piece of text: special tokens, and whatever the model gives for what it lacks."""
    model = json.loads(tokenizer.to_str())["model"]
    unknown = model.get("unk_id") if "unk_id" in model else tokenizer.token_to_id(model.get("unk_token") or "")
    return {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special} | {unknown}


def _types(tokenizer: Tokenizer, lines: Sequence[str], strange: set[int]) -> set[int]:
    found: set[int] = set()
    for start in range(0, len(lines), BATCH):
        for encoding in tokenizer.encode_batch(list(lines[start:start + BATCH]), add_special_tokens=False):
            found.update(encoding.ids)
    return found - strange


def _jaccard(one: set[int], other: set[int]) -> float:
    return len(one & other) / len(one | other) if one | other else math.nan
