"""Exact translations of training data in XTREME's published formats, and plain text: what the paper's controls read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from peft_stilts.miniature.pairs import training_pairs
from peft_stilts.miniature.spans import squad_training
from peft_stilts.miniature.texts import plain_texts
from peft_stilts.store import write_atomic
from peft_stilts.tasks.intermediate import NLI

_LABELS = {"mnli": NLI, "qqp": ("0", "1"), "pawsx": ("0", "1")}
"""Task of pairs -> its labels as the published files write them."""


def write_translated(out: Path, languages: Sequence[str]) -> list[Path]:
    """Write the training sets of SQuAD, MNLI, QQP and PAWS-X in each of the `languages` (codes); returns the files.

    squad.translate.train.en-LL.json is SQuAD v1.1's format, all in LL; mnli, qqp and pawsx.translate.train.en-LL.tsv
    have five columns and no header: both original texts, both translated ones, the label as a word (mnli) or 0 and 1.
    """
    files = []
    for code in languages:
        path = out / f"squad.translate.train.en-{code}.json"
        write_atomic(path, json.dumps(_squad(code), ensure_ascii=False))
        files.append(path)
        for task, labels in _LABELS.items():
            lines = ["\t".join((*pair.texts("en"), *pair.texts(code), labels[pair.label]))
                     for pair in training_pairs(task)]
            path = out / f"{task}.translate.train.en-{code}.tsv"
            write_atomic(path, "".join(line + "\n" for line in lines))
            files.append(path)
    return files


def write_text(out: Path, languages: Sequence[str], lines: int) -> list[Path]:
    """Write LL.txt for each of the `languages`: `lines` texts, one a line, each of two to five sentences."""
    files = [out / f"{code}.txt" for code in languages]
    for path in files:
        write_atomic(path, "".join(text + "\n" for text in plain_texts(path.stem, lines)))
    return files


def _squad(code: str) -> dict[str, object]:
    """SQuAD's training rows in the language `code` as SQuAD v1.1's JSON: an article with one paragraph a context."""
    articles: dict[str, dict] = {}
    for row in squad_training(code):
        starts, texts = row["answers"]["answer_start"], row["answers"]["text"]
        paragraph = articles.setdefault(row["title"], {"context": row["context"], "qas": []})
        paragraph["qas"].append({
            "id": row["id"], "question": row["question"],
            "answers": [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)],
        })  # fmt: skip
    return {
        "version": "1.1",
        "data": [{"title": title, "paragraphs": [paragraph]} for title, paragraph in articles.items()],
    }
