"""Which items are right: as the target's own metric says of each alone, and read back only where nothing is amiss."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_stilts.errors import DataError
from peft_stilts.evaluate.items import COLUMNS, PARALLEL, items_file, judge, read_items, write_items
from peft_stilts.tasks import TASKS

WORDS = st.sampled_from(["the cat", "Cat!", "dog", "a  dog", "", "die Katze", "猫"])


@given(st.sampled_from(["xquad", "mlqa"]), st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)),
                                                  min_size=1, max_size=8))
def test_the_share_of_right_questions_is_the_exact_match(target, pairs):
    guesses = {str(number): guess for number, (guess, _) in enumerate(pairs)}
    golds = {str(number): answers for number, (_, answers) in enumerate(pairs)}
    told = judge(TASKS[target], "de", guesses, golds)
    assert 100 * told["right"].mean() == pytest.approx(TASKS[target].score(guesses, golds, "de")["exact_match"])
    assert list(told["id"]) == list(golds) and set(told["gold"]) == {""} and set(told["language"]) == {"de"}


@given(st.lists(st.tuples(*[st.sampled_from(TASKS["xnli"].labels)] * 2), min_size=1, max_size=8))
def test_the_share_of_right_pairs_is_the_accuracy_and_the_label_is_kept(pairs):
    guesses = {str(number): guess for number, (guess, _) in enumerate(pairs)}
    golds = {str(number): gold for number, (_, gold) in enumerate(pairs)}
    told = judge(TASKS["xnli"], "de", guesses, golds)
    assert 100 * told["right"].mean() == pytest.approx(TASKS["xnli"].score(guesses, golds, "de")["accuracy"])
    assert list(told["gold"]) == list(golds.values())


def test_an_answer_is_right_by_the_rule_of_its_own_target_and_language():
    guesses, golds = {"q": "die Katze"}, {"q": ["Katze"]}
    right = {(target, code): judge(TASKS[target], code, guesses, golds)["right"].item()
             for target in ("xquad", "mlqa") for code in ("de", "en")}
    assert right == {("mlqa", "de"): True, ("mlqa", "en"): False, ("xquad", "de"): False, ("xquad", "en"): False}


def test_the_metrics_that_make_an_item_right_are_those_of_the_targets():
    assert all(metric in TASKS[name].metrics and TASKS[name].is_target for name, metric in PARALLEL.items())


def test_what_was_written_is_read(tmp_path):
    parts = [judge(TASKS["pawsx"], code, {"0": "0", "1": "1"}, {"0": "0", "1": "0"}) for code in ("en", "de")]
    write_items(parts, tmp_path, "pawsx")
    told = read_items(tmp_path, "pawsx")
    assert list(told.columns) == list(COLUMNS)
    assert told.to_numpy().tolist() == [[code, number, right, "0"] for code in ("en", "de")
                                        for number, right in (("0", True), ("1", False))]


def test_what_cannot_be_used_is_refused_with_the_next_step(tmp_path):
    with pytest.raises(DataError, match="xquad.parquet is missing.*Remove .* give the command of the run again"):
        read_items(tmp_path, "xquad")
    path = items_file(tmp_path, "xquad")
    path.parent.mkdir()
    path.write_text("no parquet")
    with pytest.raises(DataError, match="cannot be read as a table.*Remove"):
        read_items(tmp_path, "xquad")
    frame = pd.DataFrame({"language": "en", "id": ["q", "q"], "right": True, "gold": ""})
    for wrong, told in ((frame.drop(columns="gold"), "expected are language, id, right, gold"),
                        (frame.assign(right=1), "right as bool"), (frame, "'q' of en is there more than once")):
        wrong.to_parquet(path, index=False)
        with pytest.raises(DataError, match=told):
            read_items(tmp_path, "xquad")
