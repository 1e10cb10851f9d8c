"""Labels of every release become the task's own words; anything else is refused with the value and the choices."""

import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value

from peft_stilts.errors import DataError
from peft_stilts.tasks.check import check_rows, unlabelled
from peft_stilts.tasks.columns import CommonsenseQA, CosmosQA, GoldPairs, HellaSwag, Pair, Tagged
from peft_stilts.tasks.xtreme import NLI, UPOS

PAIR = Pair("a", "b", "label", NLI)


def pairs(labels, **columns):
    count = len(labels)
    return Dataset.from_dict({"a": [f"a{n}" for n in range(count)], "b": ["b"] * count, "label": labels} | columns)


@pytest.mark.parametrize("labels", [[0, 1, 2, -1], ["entailment", "neutral", "contradiction", ""], [0, 1, 2, None]])
def test_numbers_and_words_become_words(labels):
    rows = PAIR(pairs(labels), "the file")
    assert rows.column_names == ["text_a", "text_b", "label"]
    assert rows["label"][:] == ["entailment", "neutral", "contradiction", ""]
    assert rows["text_a"][:] == ["a0", "a1", "a2", "a3"]


@pytest.mark.parametrize("labels, told", [
    ([0, 3], "holds 3 in 1 places; allowed is -1 .none. or 0 to 2 .entailment, neutral, contradiction."),
    ([-2, 0], "holds -2 in 1 places"), (["Neutral", "neutral"], "holds 'Neutral' in 1 places; .*'' .none. or one of"),
    (["0", "1"], "holds '0', '1' in 2 places"), ([0.5, 1.0], "holds double, not label numbers or words")])
def test_other_values_are_named_with_the_choices(labels, told):
    with pytest.raises(DataError, match=f"the file: column 'label' {told}"):
        PAIR(pairs(labels), "the file")


def test_another_order_of_the_release_s_own_names_is_refused():
    features = Features({"a": Value("string"), "b": Value("string"), "label": ClassLabel(names=list(NLI))})
    assert PAIR(pairs([2, 0]).cast(features), "x")["label"][:] == ["contradiction", "entailment"]
    features["label"] = ClassLabel(names=["contradiction", "neutral", "entailment"])
    with pytest.raises(DataError, match="numbers its labels contradiction, neutral, entailment; expected was"):
        PAIR(pairs([2, 0]).cast(features), "x")
    tags = Features({"tokens": Sequence(Value("string")), "tags": Sequence(ClassLabel(names=["X", *UPOS[:-1]]))})
    with pytest.raises(DataError, match="numbers its labels X, ADJ"):
        Tagged("tokens", "tags", UPOS)(Dataset.from_dict({"tokens": [["a"]], "tags": [[3]]}).cast(tags), "x")


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match="the file has no column 'b'; its columns are a, label"):
        PAIR(pairs([0]).remove_columns("b"), "the file")


def test_tags_become_words_sentence_by_sentence():
    rows = Dataset.from_dict({"tokens": [["a", "b"], ["c"]], "tags": [[0, 16], [7]]})
    assert Tagged("tokens", "tags", UPOS)(rows, "x")["tags"][:] == [["ADJ", "X"], ["NOUN"]]
    assert Tagged("tokens", "tags", UPOS)(rows.select([1]), "x")["tags"][:] == [["NOUN"]]
    with pytest.raises(DataError, match="holds 17 in 1 places; allowed is -1 .none. or 0 to 16"):
        Tagged("tokens", "tags", UPOS)(Dataset.from_dict({"tokens": [["a"]], "tags": [[17]]}), "x")
    text = Dataset.from_dict({"tokens": [["a"]], "tags": [["N/N"]]})
    assert Tagged("tokens", "tags", None)(text, "x")["tags"][:] == [["N/N"]]


def test_choices_are_jiant_s():
    swag = {"ctx_a": ["A man sits."], "ctx_b": ["he"], "endings": [["runs", "sleeps", "eats", "is"]], "label": ["2"]}
    rows = HellaSwag()(Dataset.from_dict(swag), "x")
    assert rows[0] == {"prompt": "A man sits.", "choices": ["he runs", "he sleeps", "he eats", "he is"], "label": "2"}
    cosmos = {"context": ["It rained."], "question": ["Why?"], "label": [3]}
    cosmos |= {f"answer{n}": [f"a{n}"] for n in range(4)}
    rows = CosmosQA()(Dataset.from_dict(cosmos), "x")
    assert rows[0] == {"prompt": "It rained. Why?", "choices": ["a0", "a1", "a2", "a3"], "label": "3"}
    sense = {"question": ["where"], "choices": [{"label": list("BACDE"), "text": list("badce")}], "answerKey": ["B"]}
    rows = CommonsenseQA()(Dataset.from_dict(sense), "x")
    assert rows[0] == {"prompt": "where", "choices": list("abdce"), "label": "B"}
    sense["choices"] = [{"label": list("ABCD"), "text": list("abcd")}]
    with pytest.raises(DataError, match="column 'choices' must hold .label: A to E, text."):
        CommonsenseQA()(Dataset.from_dict(sense), "x")


def test_gold_pairs_make_a_pool_of_distinct_sentences():
    rows = Dataset.from_dict({"source_sentence": ["eins", "zwei", "eins"], "target_sentence": ["one", "two", "uno"],
                              "source_lang": ["de"] * 3, "target_lang": ["en"] * 3})
    pool = check_rows("mining", GoldPairs()(rows, "x"), "x")
    assert pool["sentence"][:] == ["eins", "zwei", "one", "two"] and pool["language"][:] == ["de", "de", "en", "en"]
    assert pool["match"][:2] == pool["id"][2:]


# check.py: forms other than spans


def form(name, **columns):
    return check_rows(name, Dataset(pa.table(columns)), "the file", labels=("a", "b"))


LISTS = pa.list_(pa.string())


@pytest.mark.parametrize("name, columns, told", [
    ("classification", {"text_a": ["x"] * 2, "text_b": ["y"] * 2, "label": ["a", ""]}, "1 of 2 rows have no label"),
    ("classification", {"text_a": ["x", None], "text_b": ["y"] * 2, "label": ["a", "b"]}, "'text_a' has 1 missing"),
    ("choice", {"prompt": ["x"], "choices": pa.array([["1", "2", "3"]], LISTS), "label": ["a"]}, "3 choices, not 2"),
    ("choice", {"prompt": ["x"], "choices": ["1"], "label": ["a"]}, "'choices' holds string, not lists of text"),
    ("tagging", {"tokens": pa.array([["x", "y"]], LISTS), "tags": pa.array([["a"]], LISTS)}, "2 words and 1 tags"),
    ("tagging", {"tokens": pa.array([[]], LISTS), "tags": pa.array([[]], LISTS)}, "sentence 0 .from 0. has no words"),
    ("tagging", {"tokens": pa.array([["x"], ["y"]], LISTS), "tags": pa.array([["a"], []], LISTS)}, "1 of 2 sentences"),
    ("mining", {"id": ["1", "1"], "language": ["de", "en"], "sentence": ["x", "y"], "match": ["", ""]}, "than once"),
    ("mining", {"id": ["1", "2"], "language": ["de", "en"], "sentence": ["x", "y"], "match": ["2", ""]}, "is matched"),
    ("mining", {"id": ["1", "2"], "language": ["de", "fr"], "sentence": ["x", "y"], "match": ["", ""]}, "be en and")])
def test_rows_at_fault_are_named(name, columns, told):
    with pytest.raises(DataError, match=told):
        form(name, **columns)


def test_what_cannot_be_scored_is_told():
    texts = {"text_a": ["x"] * 60, "text_b": ["y"] * 60}
    assert unlabelled("classification", form("classification", **texts, label=[""] * 60)) == "it has no labels"
    assert "all its labels are 'a': they were blanked" in unlabelled(
        "classification", form("classification", **texts, label=["a"] * 60))
    assert unlabelled("classification", form("classification", **texts, label=["a"] * 59 + ["b"])) == ""
    few = {name: values[:5] for name, values in texts.items()}
    assert unlabelled("classification", form("classification", **few, label=["a"] * 5)) == "", "so few agree by chance"
    tags = {"tokens": pa.array([["x"]] * 60, LISTS), "tags": pa.array([[]] * 60, LISTS)}
    assert unlabelled("tagging", form("tagging", **tags)) == "it has no labels"
