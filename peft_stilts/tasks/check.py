"""Checks that rows mean what their columns say, before anything is trained or scored on them."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import pyarrow as pa

from peft_stilts.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS: dict[str, tuple[str, ...]] = {
    "span": ("id", "context", "question"),
    "nullable_span": ("id", "context", "question"),
    "classification": ("text_a", "text_b", "label"),
    "tagging": (),
    "choice": ("prompt", "label"),
    "retrieval": ("source_sentence", "target_sentence", "source_lang", "target_lang"),
    "mining": ("id", "language", "sentence", "match"),
    "text": ("text",),
}
"""The text columns of each form. Besides, spans have `answers` {text: list of str, answer_start: list of int}, tagging
`tokens` and `tags` (lists of str, of one length), choice `choices` (list of str). A label is a word of the task's, ''
where there is none (no tags at all in tagging); `match` is the id of a sentence's translation, '' for none."""
BLANKED = 50
"""From so many rows on, labels that are all the same are taken for blanked ones (published so on purpose)."""

log = logging.getLogger(__name__)


def check_rows(form: str, dataset: Dataset, where: str, labelled: bool = True, labels: tuple[str, ...] = ()) -> Dataset:
    """`dataset` with its columns, types and contents checked for a `form` of TASKS; `where` names it in messages.

    Span rows: ids are unique; context, question and answers are not blank; text and answer_start are of one length, at
    least one (none in nullable spans); the context holds each answer. An answer that stands elsewhere than answer_start
    says (or with other white space) is moved to its nearest place, their number is logged, and a corrected copy is
    returned. Retrieval and mining: no sentence is blank, mining's ids are unique and its matches mutual. Tagging: every
    sentence has words, and as many tags. Choice: as many choices as `labels`. Labels: all rows have one, or none has.
    Raises DataError naming `where`, the columns and the first rows at fault.
    """
    table = dataset.with_format("arrow")[:]
    if table.num_rows == 0:
        raise DataError(f"{where} has no rows. Fetch or build it again.")
    for column in COLUMNS[form]:
        _check_text(table, column, where)
    if form in _CHECKS:
        _CHECKS[form](table, where, labels)
        return dataset
    _check_ids(table, where)
    for column in ("context", "question"):
        _refuse_blank(table, column, where)
    if not labelled:
        return dataset
    _check_answer_type(table, where)
    answers = table["answers"].to_pylist()
    least = 0 if form == "nullable_span" else 1
    moved = _place_answers(table["id"].to_pylist(), table["context"].to_pylist(), answers, where, least)
    if not moved:
        return dataset
    log.warning("%s: %d answers stand elsewhere than answer_start says; moved to their nearest place.", where, moved)
    return _with_answers(table, answers)


def unlabelled(form: str, dataset: Dataset) -> str:
    """Why checked rows cannot be scored or trained on, in words: no labels, or blanked ones; '' when they can."""
    if form in ("classification", "choice"):
        found = set(dataset.with_format("arrow")["label"].to_pylist())
    elif form == "tagging":
        found = {tag for tags in dataset.with_format("arrow")["tags"].to_pylist() for tag in tags}
    elif form == "span":
        return "" if all(answer["text"] for answer in dataset["answers"]) else "it has questions without an answer"
    elif form == "mining":
        return "" if any(dataset["match"]) else "it has no gold pairs"
    else:
        return ""
    if not found or found == {""}:
        return "it has no labels"
    if len(found) == 1 and len(dataset) >= BLANKED:
        return f"all its labels are {found.pop()!r}: they were blanked"
    return ""


def _check_pairs(table: pa.Table, where: str, labels: tuple[str, ...]) -> None:
    _check_labels(table, where)


def _check_choices(table: pa.Table, where: str, labels: tuple[str, ...]) -> None:
    _check_lists(table, "choices", where)
    sizes = [len(row or ()) for row in table["choices"].to_pylist()]
    wrong = [row for row, size in enumerate(sizes) if size != len(labels)]
    if wrong:
        raise DataError(f"{where}: row {wrong[0]} has {sizes[wrong[0]]} choices, not {len(labels)} "
                        f"({', '.join(labels)}); {len(wrong)} rows are so.")
    _check_labels(table, where)


def _check_labels(table: pa.Table, where: str) -> None:
    """Every row has a label, or none has."""
    blank = [row for row, label in enumerate(table["label"].to_pylist()) if not label]
    if 0 < len(blank) < table.num_rows:
        raise DataError(f"{where}: {len(blank)} of {table.num_rows} rows have no label, first rows {_listed(blank[:3])}"
                        "; drop them, or give the split without labels as a whole.")


def _check_tags(table: pa.Table, where: str, labels: tuple[str, ...]) -> None:
    for column in ("tokens", "tags"):
        _check_lists(table, column, where)
    blank = 0
    for row, (tokens, tags) in enumerate(zip(table["tokens"].to_pylist(), table["tags"].to_pylist())):
        if not tokens or None in tokens:
            raise DataError(f"{where}: sentence {row} (from 0) has {'a missing word' if tokens else 'no words'}.")
        if not any(tags or ()):
            blank += 1
        elif len(tags) != len(tokens) or not all(tags):
            raise DataError(f"{where}: sentence {row} (from 0) has {len(tokens)} words and "
                            f"{sum(map(bool, tags))} tags: {' '.join(tokens)[:80]!r}.")
    if 0 < blank < table.num_rows:
        raise DataError(f"{where}: {blank} of {table.num_rows} sentences have no tags, the others have.")


def _check_translations(table: pa.Table, where: str, labels: tuple[str, ...]) -> None:
    for column in ("source_sentence", "target_sentence"):
        _refuse_blank(table, column, where)


def _check_mining(table: pa.Table, where: str, labels: tuple[str, ...]) -> None:
    _check_ids(table, where)
    _refuse_blank(table, "sentence", where)
    rows = list(zip(*(table[name].to_pylist() for name in ("id", "language", "match"))))
    language, match = ({row[0]: row[place] for row in rows} for place in (1, 2))
    if len(set(language.values())) != 2 or "en" not in language.values():
        raise DataError(f"{where}: column 'language' holds {_listed(sorted(set(language.values())))}; it must be en "
                        "and one other.")
    for key, other in match.items():
        if other and (match.get(other) != key or language[other] == language[key]):
            raise DataError(f"{where}: {key!r} is matched with {other!r}, which is not there, on the same side, or "
                            "matched with another.")


_CHECKS = {"classification": _check_pairs, "choice": _check_choices, "tagging": _check_tags,
           "retrieval": _check_translations, "mining": _check_mining, "text": lambda table, where, labels: None}


def table_to_dataset(table: pa.Table) -> Dataset:
    """An in-memory Dataset over `table`; column types are the table's own, no cache file is read or written."""
    from datasets import Dataset
    from datasets.table import InMemoryTable

    return Dataset(InMemoryTable(table.replace_schema_metadata(None)))


def _with_answers(table: pa.Table, answers: list[dict]) -> Dataset:
    place = table.schema.get_field_index("answers")
    column = pa.array(answers, type=table.schema.field("answers").type)
    return table_to_dataset(table.set_column(place, "answers", column))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _check_text(table: pa.Table, column: str, where: str) -> None:
    if column not in table.column_names:
        raise DataError(f"{where} has no column {column!r}; its columns are {', '.join(table.column_names)}.")
    kind = table.schema.field(column).type
    if not _is_text(kind):
        raise DataError(f"{where}: column {column!r} holds {kind}, not text.")
    if table[column].null_count:
        raise DataError(f"{where}: column {column!r} has {table[column].null_count} missing values.")


def _check_lists(table: pa.Table, column: str, where: str) -> None:
    if column not in table.column_names:
        raise DataError(f"{where} has no column {column!r}; its columns are {', '.join(table.column_names)}.")
    kind = table.schema.field(column).type
    if not (hasattr(kind, "value_type") and _is_text(kind.value_type)):
        raise DataError(f"{where}: column {column!r} holds {kind}, not lists of text.")


def _refuse_blank(table: pa.Table, column: str, where: str) -> None:
    blank = [row for row, text in enumerate(table[column].to_pylist()) if not text or text.isspace()]
    if blank:
        names = [repr(table["id"][row].as_py()) for row in blank[:3]] if "id" in table.column_names else blank[:3]
        raise DataError(f"{where}: column {column!r} is blank in {len(blank)} rows, first {_listed(names)}.")


def _check_ids(table: pa.Table, where: str) -> None:
    seen: set[str] = set()
    twice = [key for key in table["id"].to_pylist() if key in seen or seen.add(key)]
    if twice:
        raise DataError(f"{where}: {len(twice)} ids occur more than once, first {_listed(map(repr, twice[:3]))}.")


def _check_answer_type(table: pa.Table, where: str) -> None:
    wanted = "{text: list of text, answer_start: list of integers}"
    if "answers" not in table.column_names:
        raise DataError(
            f"{where} has no column 'answers' of {wanted}; its columns are {', '.join(table.column_names)}."
        )
    kind = table.schema.field("answers").type
    fields = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
    lists = all(name in fields and hasattr(fields[name], "value_type") for name in ("text", "answer_start"))
    if not (lists and _is_text(fields["text"].value_type) and pa.types.is_integer(fields["answer_start"].value_type)):
        raise DataError(f"{where}: column 'answers' holds {kind}, not {wanted}.")


def _place_answers(ids: list[str], contexts: list[str], answers: list[dict], where: str, least: int) -> int:
    """Moves answers that are not at their answer_start, in place; the number moved. `least`: answers a question has."""
    moved = 0
    for key, context, answer in zip(ids, contexts, answers, strict=True):
        texts, starts = (answer or {}).get("text"), (answer or {}).get("answer_start")
        if texts is None or starts is None or len(texts) != len(starts) or len(texts) < least:
            raise DataError(
                f"{where}: question {key!r} has {len(texts or [])} answer texts and {len(starts or [])} answer_start; "
                f"both lists must have the same length, at least {least}."
            )
        for which, (text, start) in enumerate(zip(texts, starts, strict=True)):
            if text and start is not None and start >= 0 and context.startswith(text, start) and not text.isspace():
                continue
            texts[which], starts[which] = _nearest(context, text, start, f"{where}: question {key!r}")
            moved += 1
    return moved


def _nearest(context: str, text: str | None, start: int | None, where: str) -> tuple[str, int]:
    """The occurrence of `text` in `context`, white space of any kind being equal, nearest to `start`."""
    words = (text or "").split()
    if not words:
        raise DataError(f"{where} has a blank answer.")
    found = [match.span() for match in re.finditer(r"\s+".join(map(re.escape, words)), context)]
    if not found:
        raise DataError(f"{where}: its context does not contain its answer {text!r}.")
    first, last = min(found, key=lambda span: abs(span[0] - (start or 0)))
    return context[first:last], first


def _listed(names) -> str:
    return ", ".join(map(str, names))
