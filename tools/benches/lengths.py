"""How long the features of a benchmark are: histograms from XQuAD, AmericasNLI and XCOPA, stored or counted anew."""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from peft_stilts.data.encode import SPAN_SPECIALS, plan_windows

STORED = Path(__file__).with_name("lengths.json")
LIMITS = {"qa": 384, "pairs": 256}
"""Most tokens of a feature of each kind, and what Trainer pads to: XTREME's and jiant's settings."""
STRIDE, QUESTION = 128, 64
"""Context tokens between two windows, and most tokens of a question (XTREME's settings)."""
WORD = re.compile(r"\w+|[^\w\s]")
CHARACTERS = {"en": 8, "zh": 2}
"""Characters of a word that one piece holds, by language; OTHERS for the rest."""
OTHERS = 4
ESTIMATED = (
    "tokens are estimated, since XLM-R's tokeniser was not at hand: every punctuation mark is one piece and every word "
    "one for each 8 characters begun (English: 1.33 pieces a word between spaces), 4 in other languages, 2 in Chinese; "
    "special tokens are counted"
)
SOURCES = {
    "qa": ("XQuAD, English (deepmind/xquad): windows of 384 tokens every 128", "CC BY-SA 4.0"),
    "pairs": ("AmericasNLI, ten languages (abteen/americasnli): premise and hypothesis; XCOPA, eleven languages "
              "(cambridgeltl/xcopa): premise and each choice; cut after 256 tokens", "CC BY-SA 4.0 and CC BY 4.0"),
}


def pieces(text: str, language: str) -> int:
    """Estimated XLM-R pieces of a text."""
    size = CHARACTERS.get(language, OTHERS)
    return sum(-(-len(word) // size) for word in WORD.findall(text))


def qa_lengths(folder: Path) -> Iterator[int]:
    """Tokens of every window of the English questions in FOLDER/xquad/xquad.en.json."""
    articles = json.loads((folder / "xquad" / "xquad.en.json").read_text("utf-8"))["data"]
    for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
        context = pieces(paragraph["context"], "en")
        for question in paragraph["qas"]:
            before = min(QUESTION, pieces(question["question"], "en")) + SPAN_SPECIALS
            for first, last in plan_windows(context, LIMITS["qa"] - before, STRIDE):
                yield before + last - first


def pair_lengths(folder: Path) -> Iterator[int]:
    """Tokens of every pair in FOLDER/americasnli/*/*.tsv and FOLDER/xcopa/*/*.jsonl."""
    for path in sorted((folder / "americasnli").glob("*/*.tsv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                yield _pair(row["premise"], row["hypothesis"], path.stem)
    for path in sorted((folder / "xcopa").glob("*/*.jsonl")):
        for row in map(json.loads, path.read_text("utf-8").splitlines()):
            for choice in ("choice1", "choice2"):
                yield _pair(row["premise"], row[choice], path.parent.name)


def _pair(first: str, second: str, language: str) -> int:
    return min(LIMITS["pairs"], pieces(first, language) + pieces(second, language) + SPAN_SPECIALS)


READERS = {"qa": qa_lengths, "pairs": pair_lengths}


def histogram(kind: str, folder: Path | None) -> dict[int, int]:
    """{tokens: features of that length} of `kind` ('qa' or 'pairs'), from the data in `folder` or, for None, as stored.

    Raises SystemExit naming what `folder` should hold.
    """
    if folder is None:
        return {int(size): count for size, count in json.loads(STORED.read_text("utf-8"))[kind]["counts"].items()}
    try:
        found = Counter(READERS[kind](folder))
    except OSError as error:
        raise SystemExit(f"--lengths_from {folder}: {error}") from None
    if not found:
        raise SystemExit(f"--lengths_from {folder} holds no americasnli/*/*.tsv and no xcopa/*/*.jsonl")
    return dict(found)


def mean(counts: dict[int, int]) -> float:
    """Mean tokens of a feature."""
    return sum(size * count for size, count in counts.items()) / sum(counts.values())


def draw(counts: dict[int, int], number: int, generator: np.random.Generator) -> np.ndarray:
    """(number,) int64 lengths, drawn from a histogram."""
    sizes = np.array(sorted(counts))
    shares = np.array([counts[size] for size in sizes], dtype=np.float64)
    return generator.choice(sizes, size=number, p=shares / shares.sum())


def run(arguments: argparse.Namespace) -> dict:
    """The histograms of the data in `arguments.lengths_from`, with where they are from: what lengths.json holds."""
    if arguments.lengths_from is None:
        raise SystemExit("lengths needs --lengths_from FOLDER, which holds xquad, americasnli and xcopa")
    found = {}
    for kind, (source, licence) in SOURCES.items():
        counts = histogram(kind, arguments.lengths_from)
        print(f"{kind}: {sum(counts.values()):,} features, {mean(counts):.1f} tokens on average, at most {max(counts)}")
        found[kind] = {"source": source, "licence": licence, "estimated": ESTIMATED, "mean": round(mean(counts), 1),
                       "counts": {str(size): counts[size] for size in sorted(counts)}}
    return found
