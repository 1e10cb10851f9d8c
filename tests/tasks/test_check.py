"""Bad rows are refused with the place, the columns and the row; answers that moved are followed."""

import logging

import pytest
from datasets import Dataset, Value

from peft_stilts.errors import DataError
from peft_stilts.tasks.check import check_rows


def checked(rows, form="span", **more):
    return check_rows(form, Dataset.from_dict(rows), "the file", **more)


def test_good_rows_pass_unchanged(span_rows):
    rows = Dataset.from_dict(span_rows())
    assert check_rows("span", rows, "the file") is rows


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("id", "q0", "the file: 1 ids occur more than once, first 'q0'"),
        ("question", "  ", "the file: column 'question' is blank in 1 rows, first 'q1'"),
        ("context", "", "the file: column 'context' is blank"),
        ("context", None, "the file: column 'context' has 1 missing values"),
        ("context", "Nothing of the kind.", "question 'q1': its context does not contain its answer '1 km'"),
        ("answers", {"text": ["1 km"], "answer_start": [3, 4]}, "'q1' has 1 answer texts and 2 answer_start"),
        ("answers", {"text": [], "answer_start": []}, "'q1' has 0 answer texts"),
        ("answers", {"text": [" "], "answer_start": [3]}, "'q1' has a blank answer"),
        ("answers", None, "'q1' has 0 answer texts"),
    ],
)
def test_bad_rows_are_refused(span_rows, column, value, message):
    rows = span_rows()
    rows[column][1] = value
    with pytest.raises(DataError) as error:
        checked(rows)
    assert message in str(error.value)


def test_missing_and_mistyped_columns_are_named(span_rows):
    rows = Dataset.from_dict(span_rows())
    with pytest.raises(
        DataError, match="the file has no column 'question'; its columns are id, title, context, answers"
    ):
        check_rows("span", rows.remove_columns("question"), "the file")
    with pytest.raises(DataError, match="no column 'answers'"):
        check_rows("span", rows.remove_columns("answers"), "the file")
    numbered = rows.remove_columns("id").add_column("id", list(range(4)))
    with pytest.raises(DataError, match="column 'id' holds int64, not text"):
        check_rows("span", numbered, "the file")
    features = rows.features.copy()
    features["answers"]["answer_start"].feature = Value("string")
    with pytest.raises(DataError, match="column 'answers' holds struct"):
        check_rows("span", rows.cast(features), "the file")
    with pytest.raises(DataError, match="column 'answers' holds string"):
        check_rows("span", rows.remove_columns("answers").add_column("answers", ["a"] * 4), "the file")
    with pytest.raises(DataError, match="the file has no rows"):
        check_rows("span", rows.select([]), "the file")


def test_an_unlabelled_split_needs_no_answers(span_rows):
    rows = span_rows()
    del rows["answers"]
    assert len(checked(rows, labelled=False)) == 4


def test_an_answer_elsewhere_is_moved_to_its_nearest_place_and_said(span_rows, caplog):
    rows = span_rows()
    rows["context"][2] = "2 km, 2 km and again 2\u00a0km."
    rows["answers"][2] = {"text": ["2 km", "2 km"], "answer_start": [20, 5]}
    with caplog.at_level(logging.WARNING):
        found = checked(rows)
    assert found[2]["answers"] == {"text": ["2\u00a0km", "2 km"], "answer_start": [21, 6]}
    assert found["id"][:] == rows["id"] and found[1]["answers"] == rows["answers"][1]
    assert "2 answers stand elsewhere" in caplog.text


def test_selected_rows_are_checked_not_the_others(span_rows):
    rows = span_rows()
    rows["question"][0] = ""
    assert check_rows("span", Dataset.from_dict(rows).select([1, 2]), "the file")["id"][:] == ["q1", "q2"]


def test_retrieval_rows():
    rows = {
        "source_sentence": ["ein Haus", "zwei"],
        "target_sentence": ["a house", "two"],
        "source_lang": ["deu"] * 2,
        "target_lang": ["eng"] * 2,
    }
    assert len(checked(rows, "retrieval")) == 2
    with pytest.raises(DataError, match="column 'target_sentence' is blank in 1 rows, first 1"):
        checked(rows | {"target_sentence": ["a house", "\n"]}, "retrieval")
    with pytest.raises(DataError, match="no column 'source_lang'"):
        checked({key: rows[key] for key in rows if key != "source_lang"}, "retrieval")
