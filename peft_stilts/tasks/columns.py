"""From the columns of a release to those of a form: labels become the task's own words, in the task's own order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from peft_stilts.errors import DataError
from peft_stilts.tasks.check import table_to_dataset

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Pair:
    """Rows of two texts and a class -> text_a, text_b, label (str; '' where there is none).

    `words`: the labels as numbers stand for them, 0 first; a column of text must hold these words themselves. -1, ''
    and null mean no label. Called with rows and a name for messages; raises DataError for anything else.
    """

    first: str
    second: str
    label: str
    words: tuple[str, ...]

    def __call__(self, dataset: Dataset, where: str) -> Dataset:
        table = _table(dataset, (self.first, self.second, self.label), where)
        _same_order(dataset, self.label, self.words, where)
        label = _words(table[self.label], self.label, self.words, where)
        return _dataset({"text_a": table[self.first], "text_b": table[self.second], "label": label})


@dataclass(frozen=True)
class Tagged:
    """Rows of words and a tag each -> tokens, tags (lists of str); `words` as in Pair, None: tags are text already."""

    tokens: str
    tags: str
    words: tuple[str, ...] | None

    def __call__(self, dataset: Dataset, where: str) -> Dataset:
        table = _table(dataset, (self.tokens, self.tags), where)
        tags = table[self.tags].combine_chunks()
        if self.words is not None:
            if not hasattr(tags.type, "value_type"):
                raise DataError(f"{where}: column {self.tags!r} holds {tags.type}, not lists of tags.")
            _same_order(dataset, self.tags, self.words, where)
            words = _words(tags.flatten(), self.tags, self.words, where)
            sizes = pc.fill_null(pc.list_value_length(tags), 0).cast(pa.int32())
            offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(sizes)])
            tags = pa.ListArray.from_arrays(offsets, words)
        return _dataset({"tokens": table[self.tokens], "tags": tags})


@dataclass(frozen=True)
class HellaSwag:
    """HellaSwag -> prompt `ctx_a`, choices `ctx_b + ' ' + ending` (jiant, tasks/lib/hellaswag.py); labels 0 to 3."""

    def __call__(self, dataset: Dataset, where: str) -> Dataset:
        table = _table(dataset, ("ctx_a", "ctx_b", "endings", "label"), where)
        choices = [[f"{ctx} {ending}".strip() for ending in endings or ()]
                   for ctx, endings in zip(table["ctx_b"].to_pylist(), table["endings"].to_pylist())]
        return _dataset({"prompt": table["ctx_a"], "choices": pa.array(choices, pa.list_(pa.string())),
                         "label": _words(table["label"], "label", ("0", "1", "2", "3"), where)})


@dataclass(frozen=True)
class CosmosQA:
    """CosmosQA -> prompt `context + ' ' + question`, choices answer0 to answer3 (jiant, tasks/lib/cosmosqa.py)."""

    def __call__(self, dataset: Dataset, where: str) -> Dataset:
        answers = [f"answer{n}" for n in range(4)]
        table = _table(dataset, ("context", "question", *answers, "label"), where)
        prompt = pc.binary_join_element_wise(table["context"], table["question"], " ")
        choices = list(zip(*(table[name].to_pylist() for name in answers)))
        return _dataset({"prompt": prompt, "choices": pa.array(choices, pa.list_(pa.string())),
                         "label": _words(table["label"], "label", ("0", "1", "2", "3"), where)})


@dataclass(frozen=True)
class CommonsenseQA:
    """CommonsenseQA -> prompt the question, choices the texts A to E (jiant, tasks/lib/commonsenseqa.py)."""

    def __call__(self, dataset: Dataset, where: str) -> Dataset:
        table = _table(dataset, ("question", "choices", "answerKey"), where)
        try:
            rows = [dict(zip(row["label"], row["text"], strict=True)) for row in table["choices"].to_pylist()]
            choices = [[row[letter] for letter in "ABCDE"] for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where}: column 'choices' must hold {{label: A to E, text}} in every row.") from error
        return _dataset({"prompt": table["question"], "choices": pa.array(choices, pa.list_(pa.string())),
                         "label": _words(table["answerKey"], "answerKey", tuple("ABCDE"), where)})


@dataclass(frozen=True)
class GoldPairs:
    """Aligned pairs -> a mining pool in which every sentence has its translation; a sentence that occurs twice on a
    side is taken once, with its first pair."""

    def __call__(self, dataset: Dataset, where: str) -> Dataset:
        names = ("source_sentence", "target_sentence", "source_lang")
        table = _table(dataset, names, where)
        code = str(table["source_lang"][0]).split("-")[0] if table.num_rows else ""
        foreign: dict[str, int] = {}
        english: dict[str, int] = {}
        for row, (left, right) in enumerate(zip(*(table[name].to_pylist() for name in names[:2]))):
            if left not in foreign and right not in english:
                foreign[left] = english[right] = row
        ids = [f"{{}}-{row:09d}" for row in foreign.values()]
        sides = [[key.format(side) for key in ids] for side in (code, "en")]
        return _dataset({"id": sides[0] + sides[1], "language": [code] * len(ids) + ["en"] * len(ids),
                         "sentence": [*foreign, *english], "match": sides[1] + sides[0]})


def _table(dataset: Dataset, columns: Sequence[str], where: str) -> pa.Table:
    missing = [name for name in columns if name not in dataset.column_names]
    if missing:
        raise DataError(f"{where} has no column {', '.join(map(repr, missing))}; its columns are "
                        f"{', '.join(dataset.column_names)}.")
    return dataset.select_columns(list(columns)).with_format("arrow")[:]


def _dataset(columns: dict) -> Dataset:
    return table_to_dataset(pa.table(columns))


def _same_order(dataset: Dataset, column: str, words: Sequence[str], where: str) -> None:
    """DataError where the release itself names its numbers, and in another order than ours."""
    feature = dataset.features.get(column)
    feature = getattr(feature, "feature", feature)
    names = getattr(feature, "names", None)
    numbers = [str(number) for number in range(len(names or ()))]       # no names at all, only numbers
    if names and names != numbers and [name.lower() for name in names] != [word.lower() for word in words]:
        raise DataError(f"{where}: column {column!r} numbers its labels {', '.join(names)}; expected was the order "
                        f"{', '.join(words)}.")


def _words(column: pa.ChunkedArray | pa.Array, name: str, words: Sequence[str], where: str) -> pa.Array:
    """A column of label numbers or label words as words; '' where there is no label. DataError for any other value."""
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    known = pa.array(["", *words], pa.string())
    if pa.types.is_integer(values.type):
        inside = pc.and_(pc.greater_equal(values, -1), pc.less(values, len(words)))
        place = pc.add(pc.fill_null(values, -1), 1)
        allowed = f"-1 (none) or 0 to {len(words) - 1} ({', '.join(words)})"
    elif pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        place = pc.index_in(pc.fill_null(values.cast(pa.string()), ""), known)
        inside = pc.is_valid(place)
        allowed = f"'' (none) or one of {', '.join(words)}, written so"
    else:
        raise DataError(f"{where}: column {name!r} holds {values.type}, not label numbers or words.")
    wrong = values.filter(pc.invert(pc.fill_null(inside, True)))
    if len(wrong):
        shown = ", ".join(map(repr, dict.fromkeys(wrong.to_pylist()[:1000])))[:200]
        raise DataError(f"{where}: column {name!r} holds {shown} in {len(wrong)} places; allowed is {allowed}.")
    return known.take(place.cast(pa.int64()))
