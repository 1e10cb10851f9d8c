"""XTREME's target tasks: one entry each, trained on English only and scored in every language."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from peft_stilts.languages import Language
from peft_stilts.tasks.base import TASKS, RowFilter, Split, Task
from peft_stilts.tasks.metrics import qa, retrieval

if TYPE_CHECKING:
    from datasets import Dataset

_XTREME = "google/xtreme"

TYDIQA_HELD_OUT = 500
"""Questions of TyDiQA's English train kept for model selection (design, rule 4: its English dev is XTREME's test)."""


def _with_prefix(dataset: Dataset, language: str) -> list[int]:
    return [row for row, key in enumerate(list(dataset["id"])) if key.startswith(f"{language}-")]


def _of_language(language: Language) -> RowFilter:
    """TyDiQA holds all languages in one configuration; an id begins with the English name, as in 'finnish-...'."""
    name = language.name.lower()
    return RowFilter(f"id-prefix-{name}", lambda dataset: _with_prefix(dataset, name))


def _english(dataset: Dataset, held_out: bool) -> Sequence[int]:
    """English rows that are, or are not, among the TYDIQA_HELD_OUT whose ids have the smallest SHA-256.

    At most a quarter of the English rows is held out, so that a small split (the miniature world's) keeps its train.
    """
    rows = _with_prefix(dataset, "english")
    ids = list(dataset["id"])
    by_hash = sorted(rows, key=lambda row: hashlib.sha256(ids[row].encode()).hexdigest())
    kept = set(by_hash[: min(TYDIQA_HELD_OUT, len(rows) // 4)])
    return [row for row in rows if (row in kept) == held_out]


TASKS.add(
    "xquad",
    Task(
        name="xquad",
        form="span",
        languages=("en", "es", "de", "el", "ru", "tr", "ar", "vi", "th", "zh", "hi"),
        train=None,
        select=None,
        test=lambda language: Split(_XTREME, f"XQuAD.{language.code}", "validation"),
        trained_on="squad",
        score=qa.squad,
        primary="f1",
        metrics=qa.METRICS,
        licence="CC BY-SA 4.0",
        citation="Artetxe et al. 2020, On the Cross-lingual Transferability of Monolingual Representations",
        rows={code: 1_190 for code in ("en", "es", "de", "el", "ru", "tr", "ar", "vi", "th", "zh", "hi")},
    ),
)

TASKS.add(
    "mlqa",
    Task(
        name="mlqa",
        form="span",
        languages=("en", "es", "de", "ar", "hi", "vi", "zh"),
        train=None,
        select=None,
        test=lambda language: Split(_XTREME, f"MLQA.{language.code}.{language.code}", "test"),
        trained_on="squad",
        score=qa.mlqa,
        primary="f1",
        metrics=qa.METRICS,
        licence="CC BY-SA 3.0",
        citation="Lewis et al. 2020, MLQA: Evaluating Cross-lingual Extractive Question Answering",
        rows={"en": 11_590, "es": 5_253, "de": 4_517, "ar": 5_335, "hi": 4_918, "vi": 5_495, "zh": 5_137},
    ),
)

TASKS.add(
    "tydiqa",
    Task(
        name="tydiqa",
        form="span",
        languages=("en", "ar", "bn", "fi", "id", "ko", "ru", "sw", "te"),
        train=Split(
            _XTREME, "tydiqa", "train", rows=RowFilter("english-not-held-out-500", lambda d: _english(d, False))
        ),
        select=Split(_XTREME, "tydiqa", "train", rows=RowFilter("english-held-out-500", lambda d: _english(d, True))),
        test=lambda language: Split(_XTREME, "tydiqa", "validation", rows=_of_language(language)),
        trained_on="tydiqa",
        score=qa.squad,
        primary="f1",
        metrics=qa.METRICS,
        licence="Apache 2.0",
        citation="Clark et al. 2020, TyDi QA: A Benchmark for Information-Seeking Question Answering (GoldP, v1.1)",
        rows={"train": 3_196, "select": TYDIQA_HELD_OUT}
        | {"en": 440, "ar": 921, "bn": 113, "fi": 782, "id": 565, "ko": 276, "ru": 812, "sw": 499, "te": 669},
    ),
)

_TATOEBA = "ar he vi id jv tl eu ml ta te af nl de el bn hi mr ur fa fr it pt es bg ru ja ka ko th sw zh kk tr et fi hu"

TASKS.add(
    "tatoeba",
    Task(
        name="tatoeba",
        form="retrieval",
        languages=tuple(_TATOEBA.split()),
        train=None,
        select=None,
        test=lambda language: Split(_XTREME, f"tatoeba.{language.iso639_3}", "validation"),
        trained_on=None,
        score=retrieval.accuracy,
        primary="accuracy",
        metrics=retrieval.METRICS,
        licence="CC BY 2.0",
        citation="Artetxe and Schwenk 2019, Massively Multilingual Sentence Embeddings (LASER, data/tatoeba/v1)",
        rows={code: 1_000 for code in _TATOEBA.split()}
        | {"jv": 205, "te": 234, "ta": 307, "sw": 390, "th": 548, "kk": 575, "ml": 687, "ka": 746},
    ),
)

TARGETS: tuple[str, ...] = ("xquad", "mlqa", "tydiqa", "tatoeba")
"""Names of the target tasks."""
