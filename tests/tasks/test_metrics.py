"""The metrics against XTREME's published mock scores, cases computed by hand, and properties."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_stilts.errors import DataError
from peft_stilts.tasks import TASKS
from peft_stilts.tasks.metrics import qa
from peft_stilts.tasks.metrics.retrieval import accuracy


@pytest.mark.parametrize("name", ["xquad", "mlqa", "tydiqa"])
def test_the_mock_scores_of_xtreme(shared, name):
    mock = shared / "data" / "xtreme_mock"
    expected = json.loads((mock / "expected_scores_on_mock_data.json").read_text())[name]
    for code in TASKS[name].languages:
        data = json.loads((mock / "labels" / name / f"test-{code}.json").read_text(encoding="utf-8"))["data"]
        golds = {
            question["id"]: [answer["text"] for answer in question["answers"]]
            for article in data
            for part in article["paragraphs"]
            for question in part["qas"]
        }
        predictions = json.loads((mock / "predictions" / name / f"test-{code}.json").read_text(encoding="utf-8"))
        found = TASKS[name].score(predictions, golds, code)
        for metric in TASKS[name].metrics:
            assert found[metric] == pytest.approx(expected[metric][code], abs=1e-9), (code, metric)
    assert set(expected["f1"]) == set(TASKS[name].languages)


def test_the_mock_scores_of_tatoeba(shared):
    mock = shared / "data" / "xtreme_mock"
    expected = json.loads((mock / "expected_scores_on_mock_data.json").read_text())["tatoeba"]["accuracy"]
    assert set(expected) == set(TASKS["tatoeba"].languages)
    for code, score in expected.items():
        golds, predictions = (
            dict(enumerate((mock / part / "tatoeba" / f"test-{code}.tsv").read_text().split()))
            for part in ("labels", "predictions")
        )
        assert TASKS["tatoeba"].score(predictions, golds, code)["accuracy"] == pytest.approx(score, abs=1e-9)


def one(score, guess, golds, language="en"):
    found = score({"a": guess}, {"a": golds}, language)
    return found["exact_match"], pytest.approx(found["f1"])


def test_squad_by_hand():
    assert one(qa.squad, "The Cat!", ["a cat"]) == (100.0, 100.0)
    assert one(qa.squad, "big cat", ["cat sat"]) == (0.0, 50.0)
    assert one(qa.squad, "cat", ["dog", "the old cat"]) == (0.0, 100 * 2 * 1 * 0.5 / 1.5)
    assert one(qa.squad, "cat cat", ["cat"]) == (0.0, 100 * 2 * 0.5 / 1.5)
    assert one(qa.squad, "„Katze“", ["Katze"]) == (0.0, 0.0)  # only ASCII punctuation goes
    assert one(qa.squad, "die Katze", ["Katze"], "de") == (0.0, 100 * 2 * 0.5 / 1.5)  # only English articles go
    assert one(qa.squad, "狐狸", ["棕色狐狸"], "zh") == (0.0, 0.0)  # no splitting
    assert one(qa.squad, "the", ["a"]) == (100.0, 0.0)  # v1.1: both empty is exact, but F1 is 0
    assert one(qa.squad, "", ["cat"]) == (0.0, 0.0)


def test_mlqa_by_hand():
    assert one(qa.mlqa, "die „Katze“", ["Katze"], "de") == (100.0, 100.0)
    assert one(qa.mlqa, "el gato", ["unos gato"], "es") == (100.0, 100.0)
    assert one(qa.mlqa, "el gato", ["gato"], "en") == (0.0, 100 * 2 * 0.5 / 1.5)
    assert one(qa.mlqa, "những con mèo", ["con mèo"], "vi") == (100.0, 100.0)
    assert one(qa.mlqa, "the मकान।", ["the मकान"], "hi") == (100.0, 100.0)  # danda is punctuation, no articles
    # ar: every ال becomes a space, at a word's beginning and inside: البيت -> بيت, سؤال -> سؤ
    assert one(qa.mlqa, "البيت", ["بيت"], "ar") == (100.0, 100.0)
    assert one(qa.mlqa, "سؤال", ["سؤ"], "ar") == (100.0, 100.0)
    assert one(qa.mlqa, "كتال،باب", ["كت باب"], "ar") == (100.0, 100.0)
    # zh: each Han character a token, Latin words at white space: 3 of 4 tokens shared -> P 1, R 3/4
    assert one(qa.mlqa, "棕狐狸", ["棕色狐狸"], "zh") == (0.0, 100 * 2 * 0.75 / 1.75)
    assert one(qa.mlqa, "在NBA打球", ["在 nba 打球。"], "zh") == (100.0, 100.0)
    assert one(qa.mlqa, "1931年", ["1931"], "zh") == (0.0, 100 * 2 * 0.5 / 1.5)
    assert one(qa.mlqa, "vel gato", ["gato"], "qa") == (0.0, 100 * 2 * 0.5 / 1.5)  # a language MLQA does not have


def test_unanswered_counts_and_extra_predictions_do_not():
    golds = {"a": ["x"], "b": ["y"]}
    assert qa.squad({"a": "x", "other": "z"}, golds)["exact_match"] == 50.0
    assert accuracy({"a": 1, "c": 1}, {"a": 1, "b": 2}) == {"accuracy": 50.0}


def test_nothing_to_score_is_refused():
    for score in (qa.squad, qa.mlqa, accuracy):
        with pytest.raises(DataError):
            score({}, {}, "en")
    with pytest.raises(DataError, match="question 'a' has no gold answer"):
        qa.squad({"a": "x"}, {"a": []})


words = st.text("ab ,.的狐ال die the", max_size=12)


@given(
    st.lists(st.tuples(words, st.lists(words, min_size=1, max_size=3)), min_size=1, max_size=6),
    st.sampled_from("en ar zh de".split()),
)
def test_properties(items, language):
    golds = {str(n): answers for n, (_, answers) in enumerate(items)}
    predictions = {str(n): guess for n, (guess, _) in enumerate(items)}
    for score in (qa.squad, qa.mlqa):
        found = score(predictions, golds, language)
        assert all(0.0 <= value <= 100.0 + 1e-9 for value in found.values())
        assert score({key: answers[-1] for key, answers in golds.items()}, golds, language)["exact_match"] == 100.0
        assert score({}, golds, language) == {"exact_match": 0.0, "f1": 0.0}
        shuffled = score(
            dict(reversed(predictions.items())), {key: golds[key][::-1] for key in reversed(golds)}, language
        )
        assert shuffled == pytest.approx(found)
        swapped = score({key: golds[key][0] for key in golds}, {key: [predictions[key]] for key in golds}, language)
        straight = score(predictions, {key: answers[:1] for key, answers in golds.items()}, language)
        assert swapped == pytest.approx(straight)  # both metrics are symmetric in prediction and a single gold


def test_squad_v2_by_hand():
    golds = {"a": ["the cat"], "b": [], "c": ["dog"], "d": ["a"]}     # "a" is no answer: it normalises to nothing
    predictions = {"a": ("cat", -3.0), "b": ("fox", -1.0), "c": ("big dog", 0.5), "d": ("x", 2.0)}
    # at 0: a right, b wrong (answered), c "no answer" but has one, d "no answer", right
    found = qa.squad_v2(predictions, golds)
    assert (found["exact_match"], found["f1"]) == (50.0, 50.0)
    # exact: all "no answer" 2 of 4; up to a 3; a, b 2; a, b, c 2; all 1.  F1: 2, 3, 2, 2 + 2/3, 1 + 2/3
    assert (found["best_exact"], found["best_f1"], found["best"]) == (75.0, 75.0, 75.0)
    # with b's odds above c's: exact 2, 3, 3, 2, 1; F1 2, 3, 3 + 2/3, ...: each measure has its own threshold
    found = qa.squad_v2(predictions | {"b": ("fox", 1.0)}, golds)
    assert found == {"exact_match": 75.0, "f1": 75.0, "best_exact": 75.0, "best_f1": pytest.approx(100 * 11 / 12),
                     "best": pytest.approx((75 + 100 * 11 / 12) / 2)}
    # equal odds are answered together
    assert qa.squad_v2({"a": ("cat", 1.0), "b": ("fox", 1.0)}, {"a": ["cat"], "b": []})["best"] == 50.0
    # an empty text is "no answer" whatever the odds; no prediction scores 0, also where there is no answer
    assert qa.squad_v2({"b": ("", -9.0)}, {"b": [], "e": []})["best_exact"] == 50.0
    assert qa.squad_v2({}, golds) == dict.fromkeys(qa.V2_METRICS, 0.0)
    with pytest.raises(DataError):
        qa.squad_v2({}, {})


@given(st.lists(st.tuples(words, st.sampled_from([-2.0, -0.5, 0.0, 0.5, 3.0]), st.lists(words, max_size=2)),
                min_size=1, max_size=6))
def test_no_threshold_does_better_than_the_best(items):
    golds = {str(n): answers for n, (_, _, answers) in enumerate(items)}
    found = qa.squad_v2({str(n): (text, odds) for n, (text, odds, _) in enumerate(items)}, golds)

    def at(threshold):
        shifted = {str(n): (text, odds - threshold) for n, (text, odds, _) in enumerate(items)}
        return qa.squad_v2(shifted, golds)

    reached = [at(threshold) for threshold in (-9.0, -2.0, -0.5, 0.0, 0.5, 3.0)]
    assert found["best_exact"] == pytest.approx(max(scores["exact_match"] for scores in reached))
    assert found["best_f1"] == pytest.approx(max(scores["f1"] for scores in reached))
    assert found["best"] == pytest.approx((found["best_exact"] + found["best_f1"]) / 2)
    assert found["exact_match"] <= found["f1"] + 1e-9
