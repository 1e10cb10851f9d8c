"""Rows: columns of the real data sets, exact offsets, parallel ids, disjoint splits, and the same in every process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from peft_stilts.digest import key_of
from peft_stilts.errors import DataError, UsageError
from peft_stilts.miniature.generators import rows_of
from peft_stilts.miniature.grammar import speaker
from peft_stilts.miniature.mining import RETRIEVAL_COLUMNS
from peft_stilts.miniature.provider import MiniatureWorld
from peft_stilts.miniature.spans import MLQA_LANGUAGES, SPAN_COLUMNS, TYDIQA_LANGUAGES
from peft_stilts.miniature.texts import MLQA, SQUAD, TEST, TYDIQA, quizzes
from peft_stilts.miniature.world import TONGUES, WORLD_VERSION
from peft_stilts.tasks import TASKS
from peft_stilts.tasks.base import RowFilter, Split
from peft_stilts.tasks.sources import load_checked

X = "google/xtreme"
CODES = tuple(TONGUES)
TRAINED = [(X, "SQuAD", "train"), (X, "tydiqa", "train")]
DEVELOPED = [(X, "SQuAD", "validation")] + [(X, f"MLQA.{code}.{code}", "validation") for code in MLQA_LANGUAGES]
SCORED = [
    *((X, f"XQuAD.{code}", "validation") for code in CODES),
    *((X, f"MLQA.{code}.{code}", "test") for code in MLQA_LANGUAGES),
    (X, "MLQA.en.qc", "test"),
    (X, "tydiqa", "validation"),
]
SPANS = TRAINED + DEVELOPED + SCORED
TATOEBA = [(X, f"tatoeba.{TONGUES[code].iso639_3}", "validation") for code in CODES[1:]]

OTHERS = [
    ("nyu-mll/glue", "mnli", "train"),
    ("nyu-mll/glue", "qqp", "validation"),
    ("rajpurkar/squad_v2", "squad_v2", "validation"),
    ("Rowan/hellaswag", "default", "validation"),
    ("allenai/cosmos_qa", "default", "validation"),
    ("tau/commonsense_qa", "default", "validation"),
    ("ldc/ccgbank", "default", "validation"),
    (X, "PAN-X.qh", "test"),
    (X, "udpos.Zolani", "test"),
    ("bucc/bucc2018", "qd", "dev"),
    ("wikimedia/wikipedia", "20231101.qf", "train"),
]

DIGEST = """
from peft_stilts.digest import key_of
from peft_stilts.miniature.generators import rows_of
print(key_of([rows_of(*split) for split in {splits!r}]))
"""


def test_the_same_rows_in_every_process():
    splits = [*TRAINED, *DEVELOPED[:1], *SCORED[-6:], *TATOEBA[:2], *OTHERS]
    code = DIGEST.format(splits=splits)
    root = str(Path(__file__).resolve().parents[2])
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == key_of([rows_of(*split) for split in splits])


@pytest.mark.parametrize("split", SPANS, ids=lambda split: " ".join(split))
def test_span_rows(split):
    rows = rows_of(*split)
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert tuple(row) == SPAN_COLUMNS
        (text,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
        assert text and row["context"][start : start + len(text)] == text
        assert start == 0 or row["context"][start - 1] == " "
        assert row["context"][start + len(text)] in " ."
        assert row["question"].endswith("?")


def test_sizes():
    assert len(rows_of(X, "SQuAD", "train")) == 3000
    assert all(len(rows_of(*split)) >= 300 for split in SCORED)
    assert len([row for row in rows_of(X, "tydiqa", "train") if row["id"].startswith("english-")]) == 1700
    assert rows_of(X, "SQuAD", "train") == rows_of("rajpurkar/squad", "plain_text", "train")


@pytest.mark.parametrize("prefix", ["XQuAD.{0}", "MLQA.{0}.{0}"])
def test_ids_are_parallel_and_questions_are_of_the_same_text(prefix):
    codes, split = (CODES, "validation") if prefix.startswith("XQuAD") else (MLQA_LANGUAGES, "test")
    english = rows_of(X, prefix.format("en"), split)
    for code in codes[1:]:
        rows = rows_of(X, prefix.format(code), split)
        assert [row["id"] for row in rows] == [row["id"] for row in english]
        assert [row["context"].count(".") for row in rows] == [row["context"].count(".") for row in english]
        for row, other in zip(rows, english, strict=True):
            digits = [text["answers"]["text"][0].isdigit() for text in (row, other)]
            assert digits[0] == digits[1]
            if digits[0]:
                assert row["answers"]["text"] == other["answers"]["text"]


def test_cross_lingual_mlqa_takes_context_and_question_from_two_languages():
    mixed, english, other = (rows_of(X, f"MLQA.{pair}", "test") for pair in ("en.qc", "en.en", "qc.qc"))
    assert [row["context"] for row in mixed] == [row["context"] for row in english]
    assert [row["question"] for row in mixed] == [row["question"] for row in other]


def test_tydiqa_ids_name_their_language_and_contexts_are_its_own():
    for split in ("train", "validation"):
        rows = rows_of(X, "tydiqa", split)
        prefixes = {row["id"].split("-")[0] for row in rows}
        assert prefixes == {TONGUES[code].name.lower() for code in TYDIQA_LANGUAGES}
    english = [row for row in rows_of(X, "tydiqa", "validation") if row["id"].startswith("english-")]
    assert len(english) == 300


@pytest.mark.parametrize("split", TATOEBA, ids=lambda split: split[1])
def test_tatoeba_rows(split):
    rows = rows_of(*split)
    assert len(rows) == 300
    assert all(tuple(row) == RETRIEVAL_COLUMNS for row in rows)
    assert len({row["source_sentence"] for row in rows}) == len({row["target_sentence"] for row in rows}) == 300
    assert {(row["source_lang"], row["target_lang"]) for row in rows} == {(split[1].removeprefix("tatoeba."), "eng")}


def _texts(splits):
    return {row["context"] for split in splits for row in rows_of(*split)}


def test_no_scored_text_is_trained_or_selected_on():
    trained, developed, scored = map(_texts, (TRAINED, DEVELOPED, SCORED))
    assert not trained & developed and not trained & scored and not developed & scored
    sentences = {part.strip() for text in trained | developed for part in text.split(".")}
    pairs = {row["target_sentence"].rstrip(".") for split in TATOEBA for row in rows_of(*split)}
    assert not pairs & sentences


def test_scored_splits_differ_from_each_other():
    names = ("XQuAD.en", "validation"), ("MLQA.en.en", "test"), ("tydiqa", "validation")
    texts = [_texts([(X, *name)]) for name in names]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]


def test_every_question_has_one_answer_only():
    for name, style in (("xquad", SQUAD), ("mlqa-test", MLQA), ("tydiqa-validation-en", TYDIQA)):
        for quiz in (quiz for pair in quizzes(name, style, TEST, 150) for quiz in pair):
            slots = quiz.clauses[quiz.about].roles
            fits = [
                clause
                for clause in quiz.clauses
                if quiz.asked in clause.roles and all(clause.roles.get(role) == slots[role] for role in quiz.keep)
            ]
            assert len(fits) == 1 and quiz.asked not in quiz.keep


@pytest.mark.parametrize("name", TASKS)
def test_the_world_serves_every_task(name):
    world, task = MiniatureWorld(), TASKS[name]
    codes = world.languages(task)
    assert codes and (task.is_target or codes == ("en",))
    splits = [*task.train, *task.select]
    if task.is_target:
        splits += [task.test(world.language(code)) for code in codes]
    if task.dev:
        splits += [task.dev(world.language(code)) for code in codes]
    for split in splits:
        assert len(load_checked(world, task.form, split, labels=task.labels))
        identity = world.identify(split)
        assert identity["revision"] == f"world-{WORLD_VERSION}" and identity["config"] == split.config
        key_of(identity)


def test_limit_comes_after_the_filter():
    last = Split(X, "XQuAD.qe", "validation", rows=RowFilter("last-20", lambda rows: range(len(rows) - 20, len(rows))))
    world = MiniatureWorld()
    assert [row["id"] for row in world.load(last, 3)] == [row["id"] for row in world.load(last)][:3]
    assert len(world.load(last, 50)) == 20


@pytest.mark.parametrize(
    "split", [Split(X, "XQuAD.de", "validation"), Split(X, "XQuAD.en", "test"), Split("u/x", None, "test")], ids=str
)
def test_what_the_world_has_not_is_an_error_that_says_so(split):
    with pytest.raises(DataError, match="miniature world"):
        MiniatureWorld().load(split)


def test_an_unknown_language_names_the_known_ones():
    with pytest.raises(UsageError, match="qa, qb"):
        MiniatureWorld().language("q")


def test_questions_by_class():
    rows = [row for row in rows_of(X, "tydiqa", "train") if row["id"].startswith("english-")]
    assert 0.3 < sum("which" in row["question"] for row in rows) / len(rows) < 0.8
    assert not any("which" in row["question"] for row in rows_of(X, "SQuAD", "train"))
    assert speaker("en").tongue.fronts_questions and not speaker("qe").tongue.fronts_questions
