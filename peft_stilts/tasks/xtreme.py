"""XTREME's target tasks: one entry each, trained on English only and scored in every language."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from peft_stilts.languages import Language
from peft_stilts.tasks.base import TASKS, RowFilter, Split, Task
from peft_stilts.tasks.columns import GoldPairs, Pair, Tagged
from peft_stilts.tasks.intermediate import NLI
from peft_stilts.tasks.metrics import classification, mining, qa, retrieval, tagging

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


def _in_language(language: Language) -> RowFilter:
    """XNLI holds all languages in one configuration, told apart by a column."""
    code = language.code
    return RowFilter(f"language-{code}", lambda dataset: [n for n, c in enumerate(dataset["language"]) if c == code])


UPOS = tuple("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split())
"""The universal parts of speech in the order of google/xtreme's numbers (protocol: its dataset_info)."""
NER = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")
"""PAN-X's tags in the order of google/xtreme's numbers."""

_ALL = tuple("af ar bg bn de el en es et eu fa fi fr he hi hu id it ja jv ka kk ko ml mr ms my nl pt ru sw ta te th tl "
             "tr ur vi yo zh".split())
_XNLI = tuple("ar bg de el en es fr hi ru sw th tr ur vi zh".split())
_UDPOS = tuple("af ar bg de el en es et eu fa fi fr he hi hu id it ja kk ko mr nl pt ru ta te th tl tr ur vi yo "
               "zh".split())

TASKS.add(
    "xnli",
    Task(
        name="xnli",
        form="classification",
        languages=_XNLI,
        train=(),
        select=(),
        test=lambda language: Split(_XTREME, "XNLI", "test", rows=_in_language(language),
                                    columns=Pair("sentence1", "sentence2", "gold_label", NLI)),
        trained_on="mnli",
        score=classification.accuracy,
        primary="accuracy",
        metrics=classification.METRICS,
        licence="CC BY-NC 4.0",
        citation="Conneau et al. 2018, XNLI: Evaluating Cross-lingual Sentence Representations",
        rows=dict.fromkeys(_XNLI, 5_010),
        labels=NLI,
    ),
)


def _pawsx(code: str, split: str) -> Split:
    return Split(_XTREME, f"PAWS-X.{code}", split, columns=Pair("sentence1", "sentence2", "label", ("0", "1")))


TASKS.add(
    "pawsx",
    Task(
        name="pawsx",
        form="classification",
        languages=("de", "en", "es", "fr", "ja", "ko", "zh"),
        train=_pawsx("en", "train"),
        select=_pawsx("en", "validation"),
        test=lambda language: _pawsx(language.code, "test"),
        trained_on="pawsx",
        score=classification.accuracy,
        primary="accuracy",
        metrics=classification.METRICS,
        licence="free for any purpose, with attribution to Google (data set's LICENSE)",
        citation="Yang et al. 2019, PAWS-X: A Cross-lingual Adversarial Dataset for Paraphrase Identification",
        rows={"train": 49_401, "select": 2_000} | dict.fromkeys(("de", "en", "es", "fr", "ja", "ko", "zh"), 2_000),
        labels=("0", "1"),
    ),
)


def _udpos(name: str, split: str) -> Split:
    return Split(_XTREME, f"udpos.{name}", split, columns=Tagged("tokens", "pos_tags", UPOS))


TASKS.add(
    "udpos",
    Task(
        name="udpos",
        form="tagging",
        languages=_UDPOS,
        train=_udpos("English", "train"),
        select=_udpos("English", "validation"),
        test=lambda language: _udpos(language.name, "test"),
        trained_on="udpos",
        score=tagging.pos,
        primary="f1",
        metrics=tagging.POS_METRICS,
        licence="each treebank its own (CC BY, BY-SA, BY-NC-SA and others)",
        citation="Nivre et al. 2020, Universal Dependencies v2 (v2.5, as in XTREME)",
        rows={"train": 21_253, "select": 3_974} | dict.fromkeys(_UDPOS, 1_500) | {"en": 5_440, "kk": 1_047},
        labels=UPOS,
    ),
)


def _panx(code: str, split: str) -> Split:
    return Split(_XTREME, f"PAN-X.{code}", split, columns=Tagged("tokens", "ner_tags", NER))


TASKS.add(
    "panx",
    Task(
        name="panx",
        form="tagging",
        languages=_ALL,
        train=_panx("en", "train"),
        select=_panx("en", "validation"),
        test=lambda language: _panx(language.code, "test"),
        trained_on="panx",
        score=tagging.ner,
        primary="f1",
        metrics=tagging.NER_METRICS,
        licence="ODC-BY (WikiAnn)",
        citation="Pan et al. 2017, Cross-lingual Name Tagging and Linking for 282 Languages (splits: Rahimi 2019)",
        rows={"train": 20_000, "select": 10_000} | dict.fromkeys(_ALL, 10_000),
        labels=NER,
    ),
)

TASKS.add(
    "xquad",
    Task(
        name="xquad",
        form="span",
        languages=("en", "es", "de", "el", "ru", "tr", "ar", "vi", "th", "zh", "hi"),
        train=(),
        select=(),
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
        train=(),
        select=(),
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
        train=(),
        select=(),
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

_BUCC = ("de", "fr", "ru", "zh")


def _mining(name: str, repo: str, config: str, splits: tuple[str, str], columns, rows: dict[str, int]) -> Task:
    return Task(
        name=name,
        form="mining",
        languages=_BUCC,
        train=(),
        select=(),
        test=lambda language: Split(repo, config.format(language.code), splits[1], columns=columns),
        dev=lambda language: Split(repo, config.format(language.code), splits[0], columns=columns),
        trained_on=None,
        score=mining.f1,
        primary="f1",
        metrics=mining.METRICS,
        licence="free for research (BUCC 2018)",
        citation="Zweigenbaum et al. 2018, Overview of the Third BUCC Shared Task: Spotting Parallel Sentences",
        rows=rows,
    )


TASKS.add("bucc2018", _mining("bucc2018", "bucc/bucc2018", "{}", ("dev", "test"), None,
                              {"de": 813_000, "fr": 642_000, "ru": 1_019_000, "zh": 183_000}))
TASKS.add("bucc_gold", _mining("bucc_gold", _XTREME, "bucc18.{}", ("validation", "test"), GoldPairs(),
                               {"de": 19_160, "fr": 18_172, "ru": 28_870, "zh": 3_798}))

TARGETS: tuple[str, ...] = ("xnli", "pawsx", "udpos", "panx", "xquad", "mlqa", "tydiqa", "bucc2018", "tatoeba")
"""XTREME's nine target tasks, in the order of its paper."""
NOT_COMPARABLE: tuple[str, ...] = ("bucc_gold",)
"""Targets that are scored by XTREME's rule on other rows: never shown as XTREME's."""
