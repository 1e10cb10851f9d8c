"""The English intermediate tasks: one entry each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from peft_stilts.tasks.base import TASKS, RowFilter, Split, Task
from peft_stilts.tasks.columns import CommonsenseQA, CosmosQA, HellaSwag, Pair, Tagged
from peft_stilts.tasks.metrics import classification, qa, tagging

if TYPE_CHECKING:
    from datasets import Dataset

_XQUAD_IDS = Path(__file__).with_name("xquad_question_ids.txt")


@cache
def xquad_question_ids() -> frozenset[str]:
    """The 1,190 question ids of XQuAD, each also an id of SQuAD's development set (shipped; see tasks/mirror.py)."""
    lines = _XQUAD_IDS.read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def _outside_xquad(dataset: Dataset) -> Sequence[int]:
    """Rows whose paragraph is in no XQuAD question: XQuAD has paragraphs of all 48 articles of SQuAD's development set,
    so articles cannot be told apart, but paragraphs can."""
    ids, contexts = list(dataset["id"]), list(dataset["context"])
    scored = {context for key, context in zip(ids, contexts, strict=True) if key in xquad_question_ids()}
    return [row for row, context in enumerate(contexts) if context not in scored]


def _labelled(dataset: Dataset) -> Sequence[int]:
    """SNLI marks sentences on which its annotators disagreed by -1."""
    return [row for row, label in enumerate(dataset["label"]) if label != -1]


NLI = ("entailment", "neutral", "contradiction")
"""NLI's labels in the order of GLUE's, SNLI's and ANLI's numbers."""

_SQUAD = "rajpurkar/squad"
_GLUE = "nyu-mll/glue"
_NLI_COLUMNS = Pair("premise", "hypothesis", "label", NLI)
_MNLI = [Split(_GLUE, "mnli", name, columns=_NLI_COLUMNS) for name in ("train", "validation_matched")]
_SNLI = [Split("stanfordnlp/snli", "plain_text", name, rows=RowFilter("labelled", _labelled), columns=_NLI_COLUMNS)
         for name in ("train", "validation")]
_ANLI = {kind: [Split("facebook/anli", "plain_text", f"{kind}_r{n}", columns=_NLI_COLUMNS) for n in (1, 2, 3)]
         for kind in ("train", "dev")}
_PARQUET = "refs/convert/parquet"
"""The hub's own conversion: those repositories' main branches hold scripts, which are not run."""


def _intermediate(name: str, form: str, train, select, score, primary: str, metrics: tuple[str, ...], licence: str,
                  citation: str, rows: dict[str, int], labels: tuple[str, ...] = ()) -> None:
    TASKS.add(name, Task(name, form, ("en",), train, select, None, name, score, primary, metrics, licence, citation,
                         rows, labels))


_intermediate(
    "anli_plus", "classification", (*_ANLI["train"], _SNLI[0], _MNLI[0]), (*_ANLI["dev"], _SNLI[1], _MNLI[1]),
    classification.accuracy, "accuracy", classification.METRICS,
    "CC BY-NC 4.0 (ANLI), CC BY-SA 4.0 (SNLI), OANC (MNLI)",
    "Nie et al. 2020, Adversarial NLI (rounds 1-3), with SNLI (Bowman et al. 2015) and MNLI (Williams et al. 2018)",
    {"train": 162_865 + 549_367 + 392_702, "select": 3_200 + 9_842 + 9_815}, NLI)
_intermediate(
    "mnli", "classification", _MNLI[0], _MNLI[1], classification.accuracy, "accuracy", classification.METRICS,
    "OANC and others (see the MNLI paper)",
    "Williams et al. 2018, A Broad-Coverage Challenge Corpus for Sentence Understanding through Inference",
    {"train": 392_702, "select": 9_815}, NLI)
_intermediate(
    "qqp", "classification",
    *(Split(_GLUE, "qqp", name, columns=Pair("question1", "question2", "label", ("not_duplicate", "duplicate")))
      for name in ("train", "validation")),
    classification.accuracy, "accuracy", classification.METRICS, "Quora's terms (non-commercial)",
    "Iyer et al. 2017, First Quora Dataset Release: Question Pairs (as in GLUE)",
    {"train": 363_846, "select": 40_430}, ("not_duplicate", "duplicate"))
_intermediate(
    "squad", "span", Split(_SQUAD, "plain_text", "train"),
    Split(_SQUAD, "plain_text", "validation", rows=RowFilter("no-xquad-paragraph", _outside_xquad)),
    qa.squad, "f1", qa.METRICS, "CC BY-SA 4.0",
    "Rajpurkar et al. 2016, SQuAD: 100,000+ Questions for Machine Comprehension of Text (v1.1)",
    {"train": 87_599, "select": 10_570})
_intermediate(
    "squad_v2", "nullable_span", Split("rajpurkar/squad_v2", "squad_v2", "train"),
    Split("rajpurkar/squad_v2", "squad_v2", "validation", rows=RowFilter("no-xquad-paragraph", _outside_xquad)),
    qa.squad_v2, "best", qa.V2_METRICS, "CC BY-SA 4.0",
    "Rajpurkar et al. 2018, Know What You Don't Know: Unanswerable Questions for SQuAD",
    {"train": 130_319, "select": 11_873})
_intermediate(
    "hellaswag", "choice",
    *(Split("Rowan/hellaswag", "default", name, _PARQUET, columns=HellaSwag()) for name in ("train", "validation")),
    classification.accuracy, "accuracy", classification.METRICS, "MIT",
    "Zellers et al. 2019, HellaSwag: Can a Machine Really Finish Your Sentence?",
    {"train": 39_905, "select": 10_042}, ("0", "1", "2", "3"))
_intermediate(
    "ccg", "tagging",
    *(Split("ldc/ccgbank", "default", name, columns=Tagged("tokens", "tags", None))
      for name in ("train", "validation")),
    tagging.accuracy, "accuracy", ("accuracy",), "LDC (LDC2005T13)",
    "Hockenmaier and Steedman 2007, CCGbank: A Corpus of CCG Derivations and Dependency Structures",
    {"train": 39_604, "select": 1_913})
_intermediate(
    "cosmosqa", "choice",
    *(Split("allenai/cosmos_qa", "default", name, _PARQUET, columns=CosmosQA()) for name in ("train", "validation")),
    classification.accuracy, "accuracy", classification.METRICS, "CC BY 4.0",
    "Huang et al. 2019, Cosmos QA: Machine Reading Comprehension with Contextual Commonsense Reasoning",
    {"train": 25_262, "select": 2_985}, ("0", "1", "2", "3"))
_intermediate(
    "commonsenseqa", "choice",
    *(Split("tau/commonsense_qa", "default", name, columns=CommonsenseQA()) for name in ("train", "validation")),
    classification.accuracy, "accuracy", classification.METRICS, "MIT",
    "Talmor et al. 2019, CommonsenseQA: A Question Answering Challenge Targeting Commonsense Knowledge",
    {"train": 9_741, "select": 1_221}, tuple("ABCDE"))

INTERMEDIATE: tuple[str, ...] = tuple(TASKS)
"""Names of the nine intermediate tasks of Phang et al. 2020; `all` stands for a mixture of them."""
