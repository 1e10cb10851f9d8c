"""XTREME's folder of predictions: its file formats, read strictly and written; scoring and assembling such folders."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from peft_stilts.errors import DataError, Problems, UsageError
from peft_stilts.registry import unknown
from peft_stilts.store import write_atomic
from peft_stilts.tasks import TARGETS, TASKS
from peft_stilts.tasks.base import Score
from peft_stilts.tasks.metrics import tagging

BLANKED = 8
"""From so many gold labels in a file on, all of one value are taken for blanked ones."""

SHOWN = 3
"""Mistakes of one kind in a file that are spelled out; the others are counted."""


# --- files: one function reads a format, one writes it; `where` names the file in messages ---


def parse_classes(text: str, where: str, names: Sequence[str]) -> dict[str, str]:
    """One label word a line -> {line number from 0, as text: label, one of `names`}.

    Raises DataError naming the lines that are empty or hold another word.
    """
    lines = _lines(text)
    _refuse(where, [f"line {number}: {_not_among('label', word, names)}"
                    for number, word in enumerate(lines, start=1) if word not in names])
    return {str(row): word for row, word in enumerate(lines)}


def parse_indices(text: str, where: str) -> dict[str, int]:
    """One number a line (Tatoeba) -> {line number from 0, as text: number}; DataError names the lines without one."""
    lines = _lines(text)
    _refuse(where, [f"line {number}: {word!r} is not the number of a sentence (0, 1, ...)"
                    for number, word in enumerate(lines, start=1) if not (word.isascii() and word.isdigit())])
    return {str(row): int(word) for row, word in enumerate(lines)}


def parse_tags(text: str, where: str, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """One tag a line, an empty line between sentences -> {sentence number from 0, as text: its tags}.

    The empty line after the last sentence may be missing. Raises DataError naming the lines with another tag than
    `names`, and the empty ones without a sentence before them.
    """
    lines = _lines(text)
    _refuse(where, [f"line {number}: {_not_among('tag', tag, names) if tag else 'no sentence before this empty line'}"
                    for number, (before, tag) in enumerate(zip(["", *lines], lines), start=1)
                    if tag not in names and (tag or not before)])
    ends = [row for row, tag in enumerate([*lines, ""]) if not tag and row and lines[row - 1]]
    starts = [0, *(end + 1 for end in ends)]
    return {str(number): tuple(lines[start:end]) for number, (start, end) in enumerate(zip(starts, ends))}


def render_tags(sentences: Iterable[Sequence[str]]) -> str:
    """Tags of each sentence -> one a line, an empty line after each sentence; DataError where one has no words."""
    parts = ["".join(f"{tag}\n" for tag in sentence) for sentence in sentences]
    if "" in parts:
        raise DataError(f"sentence {parts.index('')} (from 0) has no words, which a file of tags cannot say.")
    return "".join(f"{part}\n" for part in parts)


def parse_pairs(text: str, where: str) -> tuple[tuple[str, str], ...]:
    """One 'foreign id<TAB>English id' a line (BUCC) -> the pairs; an id may stand in several, as in XTREME's scorer.

    Raises DataError naming the lines of another form, with the English id first, and with a pair for the second time.
    """
    wrong, seen = [], set()
    for number, line in enumerate(_lines(text), start=1):
        pair = tuple(line.split("\t"))
        if len(pair) != 2 or not all(pair):
            wrong.append(f"line {number}: {line!r:.80} is not 'foreign id<TAB>English id'")
        elif pair[0].startswith("en-") and not pair[1].startswith("en-"):
            wrong.append(f"line {number}: {line!r:.80} has the English id first; the foreign one comes first")
        elif pair in seen:
            wrong.append(f"line {number}: {line!r:.80} is there already")
        seen.add(pair)
    _refuse(where, wrong)
    return tuple(tuple(line.split("\t")) for line in _lines(text))


def render_pairs(pairs: Iterable[tuple[str, str]]) -> str:
    """Pairs (foreign id, English id) -> 'foreign id<TAB>English id' a line."""
    return "".join(f"{foreign}\t{english}\n" for foreign, english in pairs)


def parse_answers(text: str, where: str) -> dict[str, str]:
    """{question id: answer text} of a JSON file; DataError names ids that stand twice and answers that are no text."""
    answers = _json(text, where)
    if not isinstance(answers, dict):
        raise DataError(f"{where}: it holds a {type(answers).__name__}, not one JSON object {{id: answer text}}.")
    _refuse(where, [f"question {key!r}: its answer {answer!r:.60} is not text"
                    for key, answer in answers.items() if not isinstance(answer, str)])
    return answers


def parse_golds(text: str, where: str) -> dict[str, list[str]]:
    """{question id: accepted answers} of a JSON file in SQuAD v1.1's format, as XTREME's label files are.

    Raises DataError naming the questions whose id is given twice or that have no answer, and when all answers are the
    same (`BLANKED`) or empty.
    """
    content = _json(text, where)
    try:
        articles = content["data"] if isinstance(content, dict) else content
        questions = [(question["id"], [answer["text"] for answer in question["answers"]])
                     for article in articles for part in article["paragraphs"] for question in part["qas"]]
        answers = [answer.strip() for _, given in questions for answer in given]
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{where}: it is not JSON in SQuAD's format (data, paragraphs, qas, id, answers, text): "
                        f"{type(error).__name__} {error}.") from error
    _refuse_blanked(where, answers)
    times = Counter(key for key, _ in questions)
    _refuse(where, [f"question {key!r} is there {count} times" for key, count in times.items() if count > 1])
    _refuse(where, [f"question {key!r} has no answer" for key, given in questions if not any(map(str.strip, given))])
    return dict(questions)


# --- the format of each form of task ---


@dataclass(frozen=True)
class Format:
    """What a task's files end with, what an item of them is, and how predictions and labels are read.

    `predictions`, `labels`: (text, where), and the task's labels where it has such, -> {id: value}, or pairs, of which
    any number may be predicted. `score`: the metrics of XTREME's scorer where `Task.score` gives others.
    """

    suffix: str
    unit: str
    predictions: Callable[..., Any]
    labels: Callable[..., Any]
    score: Score | None = None


FORMATS: dict[str, Format] = {
    "classification": Format("tsv", "lines", parse_classes, parse_classes),
    "tagging": Format("tsv", "sentences", parse_tags, parse_tags, tagging.spans),
    "span": Format("json", "questions", parse_answers, parse_golds),
    "retrieval": Format("tsv", "lines", parse_indices, parse_indices),
    "mining": Format("tsv", "pairs", parse_pairs, parse_pairs),
}
"""By form of task (XTREME's evaluate.py: READER_FUNCTION, METRIC_FUNCTION)."""

GROUPS: dict[str, tuple[str, ...]] = {
    "all_task": TARGETS, "classification": ("pawsx", "xnli"), "tagging": ("udpos", "panx"),
    "qa": ("xquad", "mlqa", "tydiqa"), "retrieval": ("bucc2018", "tatoeba"),
}
"""What is averaged over tasks, by XTREME's name for it."""


def files(task: str) -> dict[str, Path]:
    """{language: TASK/test-LL.SUFFIX}, the files of one of XTREME's tasks below a folder of predictions or labels."""
    suffix = FORMATS[TASKS[task].form].suffix
    return {code: Path(task, f"test-{code}.{suffix}") for code in TASKS[task].languages}


# --- folders ---


def score_folders(predictions: Path, labels: Path, say: Callable[[str], None] = lambda message: None) -> dict[str, Any]:
    """Scores in 0..100 of PREDICTIONS/TASK/test-LL.* against LABELS/TASK/test-LL.*, under the keys of XTREME's scorer.

    {task: {metric: {language: score}, 'avg_METRIC': mean over languages, 'avg_metric': the task's score}}, and before
    them the means over the tasks of each of GROUPS, only where all of these are there (XTREME's evaluate.py). `say`
    hears which tasks are missing. A task that is there needs every language, and these every item. Raises UsageError
    when there is no folder or no task in both, DataError with every problem of every file, naming both sides.
    """
    found = Problems()
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for task in _tasks_in(Path(predictions), Path(labels), say):
        scores[task] = {}
        for code, name in files(task).items():
            with found.collect():
                for metric, score in _score_file(task, code, Path(predictions, name), Path(labels, name)).items():
                    scores[task].setdefault(metric, {})[code] = score
    _raise(found)
    detailed = {task: _with_averages(by_metric) for task, by_metric in scores.items()}
    groups = {group: sum(detailed[task]["avg_metric"] for task in tasks) / len(tasks)
              for group, tasks in GROUPS.items() if detailed.keys() >= set(tasks)}
    return groups | detailed


def write_submission(
    sources: Mapping[str, Path], out: Path, items: Mapping[str, Mapping[str, int]] | None = None
) -> dict[str, tuple[str, ...]]:
    """Copy prediction files SOURCES[TASK]/test-LL.* to OUT/TASK/test-LL.*: XTREME's submission folder.

    `items`: {task: {language: number of lines, sentences or questions that are predicted}}, compared where given.
    Nothing is written unless every file can be read as its task's format. Returns, by task, the languages without a
    file: {} when the submission is complete. Raises UsageError for an unknown task, and when OUT has files that are
    not among these; DataError with every problem of the files.
    """
    if strange := [unknown("task of XTREME", task, TARGETS) for task in sources if task not in TARGETS]:
        raise UsageError(*strange)
    found = Problems()
    texts: dict[Path, str] = {}
    missing: dict[str, tuple[str, ...]] = {}
    for task in TARGETS:
        for code, name in files(task).items():
            path = Path(sources[task], name.name) if task in sources else None
            if path is None or not path.is_file():
                missing[task] = (*missing.get(task, ()), code)
                continue
            with found.collect():
                texts[name] = _read(path)
                _check_count(task, path, texts[name], (items or {}).get(task, {}).get(code))
    _raise(found)
    _refuse_others(Path(out), texts)
    for name, text in texts.items():
        write_atomic(Path(out, name), text)
    return missing


def _tasks_in(predictions: Path, labels: Path, say: Callable[[str], None]) -> list[str]:
    """The tasks that both folders have; says what is left out."""
    for folder in (predictions, labels):
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder; it must hold a folder for each task: {', '.join(TARGETS)}.")
    for folder in sorted(path.name for path in predictions.iterdir() if path.is_dir()):
        if folder not in TARGETS:
            say(f"{predictions / folder} is not scored: {unknown('task of XTREME', folder, TARGETS)}")
    lacking = {task: [str(side / task) for side in (predictions, labels) if not (side / task).is_dir()]
               for task in TARGETS}
    present = [task for task in TARGETS if not lacking[task]]
    if not present:
        raise UsageError(f"no task has a folder in both {predictions} and {labels}; XTREME's are {', '.join(TARGETS)}.")
    for task, paths in lacking.items():
        if paths:
            without = [group for group, tasks in GROUPS.items() if task in tasks]
            say(f"{task} is not scored: there is no {' and no '.join(paths)}; so there is no {' or '.join(without)}.")
    return present


def _score_file(task: str, code: str, predictions: Path, labels: Path) -> dict[str, float]:
    form = FORMATS[TASKS[task].form]
    sides, found = [], Problems()
    for path, parse in ((predictions, form.predictions), (labels, form.labels)):
        with found.collect():
            text = _read(path)
            if path == labels and form.suffix == "tsv":
                _refuse_blanked(str(path), [line for line in _lines(text) if line] or _lines(text))
            sides.append(parse(text, str(path), *_names(task)))
    _raise(found)
    guesses, golds = sides
    if not golds:
        raise DataError(f"{labels} is empty, so there is nothing to score against.")
    if form.unit == "questions":
        _refuse_other_ids(guesses, golds, predictions, labels)
    elif form.unit != "pairs" and len(guesses) != len(golds):
        raise DataError(f"{predictions} has {len(guesses)} {form.unit}, {labels} has {len(golds)}; "
                        "each needs its prediction, in the same order.")
    elif form.unit == "sentences":
        _refuse_other_lengths(guesses, golds, predictions, labels)
    return (form.score or TASKS[task].score)(guesses, golds, code)


def _check_count(task: str, path: Path, text: str, wanted: int | None) -> None:
    """That a file of predictions can be read, and predicts as many items as are wanted."""
    form = FORMATS[TASKS[task].form]
    count = len(form.predictions(text, str(path), *_names(task)))
    if form.unit != "pairs" and wanted not in (None, count):
        raise DataError(f"{path} has {count} {form.unit}, but {wanted} are to be predicted.")


def _names(task: str) -> tuple[tuple[str, ...], ...]:
    """What the task's parse function takes besides: its labels, where it has such."""
    return (TASKS[task].labels,) if TASKS[task].labels else ()


def _refuse_other_ids(guesses: Mapping[str, str], golds: Mapping[str, Any], predictions: Path, labels: Path) -> None:
    for these, those, here, there in ((guesses, golds, predictions, labels), (golds, guesses, labels, predictions)):
        if lacking := [repr(key) for key in those if key not in these]:
            raise DataError(f"{here} lacks {len(lacking)} of the {len(those)} questions in {there}: "
                            f"{', '.join(lacking[:SHOWN])}{_more(lacking)}.")


def _refuse_other_lengths(
    guesses: Mapping[str, Sequence[str]], golds: Mapping[str, Sequence[str]], predictions: Path, labels: Path
) -> None:
    starts = [list(accumulate((len(tags) + 1 for tags in side.values()), initial=1)) for side in (guesses, golds)]
    wrong = [f"line {starts[0][row]}: sentence {row + 1} has {len(guesses[key])} tags, "
             f"but {len(golds[key])} in {labels}, line {starts[1][row]}"
             for row, key in enumerate(golds) if len(guesses[key]) != len(golds[key])]
    _refuse(str(predictions), wrong)


def _with_averages(by_metric: dict[str, dict[str, float]]) -> dict[str, Any]:
    """XTREME's averages beside a task's scores: question answering's headline is the mean of EM and F1."""
    means = {f"avg_{metric}": sum(scores.values()) / len(scores) for metric, scores in by_metric.items()}
    heads = ("exact_match", "f1") if "exact_match" in by_metric else ("f1",) if "f1" in by_metric else ("accuracy",)
    return by_metric | means | {"avg_metric": sum(means[f"avg_{head}"] for head in heads) / len(heads)}


def _refuse_others(out: Path, texts: Mapping[Path, str]) -> None:
    others = [str(path) for task in TARGETS for path in sorted((out / task).glob("*"))
              if path.relative_to(out) not in texts]
    if others:
        raise UsageError(f"{out} already holds what is not among these predictions: {', '.join(others[:SHOWN])}"
                         f"{_more(others)}. Remove it, or choose another folder.")


# --- reading, and refusing ---


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise DataError(f"{path} is missing; a task is scored in all of its languages.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}.") from error


def _lines(text: str) -> list[str]:
    """The lines without white space around them; only a line feed ends one."""
    return [line.strip() for line in text.removesuffix("\n").split("\n")] if text else []


def _json(text: str, where: str) -> Any:
    """The content of a JSON text in which no object has a key twice."""
    twice: list[str] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice.extend(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        return dict(pairs)

    try:
        content = json.loads(text, object_pairs_hook=keep)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: it is not JSON: {error}.") from error
    _refuse(where, [f"key {key!r} is there more than once" for key in twice])
    return content


def _not_among(kind: str, word: str, names: Sequence[str]) -> str:
    if not word:
        return f"no {kind}"
    same = [name for name in names if name.lower() == word.lower()]
    return f"unknown {kind} {word!r}: write it as {same[0]!r}" if same else unknown(kind, word, names)


def _refuse_blanked(where: str, labels: Sequence[str]) -> None:
    if len(set(labels)) == 1 and (len(labels) >= BLANKED or not labels[0]):
        raise DataError(f"{where}: all its {len(labels)} labels are {labels[0]!r}: test labels blanked to one value, "
                        "so no score would mean anything. Score against the real labels, or submit the predictions.")


def _refuse(where: str, wrong: Sequence[str]) -> None:
    """Raises DataError with the first of these mistakes, each naming the file, and the number of the others."""
    if wrong:
        raise DataError("\n".join(f"{where}, {mistake}" for mistake in wrong[:SHOWN]) + _more(wrong))


def _more(wrong: Sequence[Any]) -> str:
    return f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""


def _raise(found: Problems) -> None:
    if found.messages:
        raise DataError("\n".join(found.messages))
