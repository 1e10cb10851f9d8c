"""Flags are read as the text typed, settings as typed values, and every mistake is told at once."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_stilts.errors import Problems, UsageError
from peft_stilts.paths import existing_folder, writable_folder
from peft_stilts.spec import (
    SETTINGS,
    LoraSettings,
    Request,
    TrainingSettings,
    build,
    names,
    parse_request,
    typed,
    whole,
)


def request(recipes="squad", **flags):
    with Problems() as found:
        return parse_request(recipes, flags, found)


def problems(recipes="squad", **flags):
    found = Problems()
    parse_request(recipes, flags, found)
    return found.messages


def test_flags_that_are_not_given_keep_their_defaults():
    assert request(scale=None, methods=None) == Request(("squad",))


@pytest.mark.parametrize("text, number", [("1e5", 100_000), ("007", 7), ("12", 12), ("1" + 18 * "0" + "1", 10**19 + 1)])
def test_a_limit_is_the_number_typed(text, number):
    assert request(limit_train=text, limit_eval=text) == Request(("squad",), limit_train=number, limit_eval=number)


@pytest.mark.parametrize("text", ["1e5", "en,is", "007", "None", "True", "my runs, second", "[1]"])
def test_a_folder_is_the_very_text_typed(text):
    assert request(runs=text).runs == Path(text)


def test_texts_that_look_like_python_are_names():
    assert request(languages="en,is", targets="None,1e5", recipes="squad,none") == Request(
        ("squad", "none"), languages=("en", "is"), targets=("None", "1e5"))
    assert request(scale=" mini ").scale == "mini" and request(scale="007").scale == "007"


@given(items=st.lists(st.text(st.characters(exclude_characters=",", exclude_categories=["Z", "C"]), min_size=1),
                      min_size=1, unique=True), spaces=st.integers(0, 2))
def test_a_comma_list_keeps_its_names_in_order_and_drops_spaces(items, spaces):
    assert names((" " * spaces + ",").join(items) + " " * spaces, "targets") == tuple(items)


@pytest.mark.parametrize("text", ["", " ", "en,", ",en", "en,,is", "en, ,is"])
def test_an_empty_name_is_refused(text):
    with pytest.raises(UsageError, match="--languages is .* names with commas between"):
        names(text, "languages")


def test_a_repeated_name_or_seed_is_refused():
    with pytest.raises(UsageError, match="each name may stand once"):
        names("en,is, en", "languages")
    assert request(seeds="3, 1").seeds == (3, 1)
    assert len(problems(seeds="1,01")) == 1, "the same seed under two spellings"


@given(number=st.integers(1, 10**30))
def test_whole_numbers_of_any_size_are_exact(number):
    assert whole(str(number), "limit_train") == number
    assert whole(f"00{number}", "limit_train") == number


@pytest.mark.parametrize("text", ["", "1.5", "many", "0", "-5", "nan", "inf", "1e999", "0x10", "en,is"])
def test_what_is_no_positive_whole_number_is_refused(text):
    with pytest.raises(UsageError, match=f"--limit_train is .*{text}"):
        whole(text, "limit_train")


def test_every_mistake_is_collected(tmp_path):
    file = tmp_path / "a file"
    file.write_text("x")
    told = problems("squad,,none", methods="ful,lora", targets="xquad,", languages="en,en", seeds="1,x", layers="x",
                    precision="bf61", data_root=str(tmp_path / "nowhere"), limit_train="0", limit_eval="a few",
                    plan_only="maybe", keep="2", runs=str(file))
    parts = ["--recipe is 'squad,,none'", "'ful'. Did you mean 'full'", "--targets is 'xquad,'",
             "--languages is 'en,en'", "--seeds is 'x'", "--layers is 'x'", "'bf61'. Did you mean 'bf16'",
             "nowhere' is no folder",
             "--limit_train is 0", "--limit_eval is 'a few'", "--plan_only is 'maybe'", "--keep is '2'", "a file"]
    assert len(told) == len(parts)
    assert [part for part in parts if not any(part in message for message in told)] == []


def test_a_mistaken_flag_leaves_the_others_as_typed():
    found = Problems()
    read = parse_request("squad", {"seeds": "x", "limit_eval": "3", "methods": "lora,ful"}, found)
    assert read == Request(("squad",), methods=("lora",), limit_eval=3)


def test_the_data_folder_must_be_there(tmp_path):
    assert request(data_root=str(tmp_path)).data_root == tmp_path.resolve()


@pytest.mark.parametrize("value, kind, expected", [
    ("1e-5", float, 1e-5), (1, float, 1.0), ("1e5", int, 100_000), (3.0, int, 3), (None, float | None, None),
    ("2e-4", float | None, 2e-4), (["0.9", 1e-3], tuple[float, float], (0.9, 1e-3)), ("best", str, "best"),
    (True, bool, True), (False, bool, False), ("true", bool, True), ("False", bool, False)])
def test_yaml_values_become_the_type_wanted(value, kind, expected):
    got = typed(value, kind, "lr")
    assert got == expected and type(got) is type(expected)


@pytest.mark.parametrize("value, kind, told", [
    ("fast", float, "a number"), (True, float, "a number"), (True, int, "a whole number"), (2.5, int, "a whole number"),
    ("nan", float, "a number"), (math.inf, float, "a number"), (math.inf, int, "a whole number"),
    (None, float, "a number"), ("x", int | None, "a whole number, or null"), (3, str, "text"), ([1], float, "a number"),
    ("0.9", tuple[float, float], "a list of two numbers"), ([0.9], tuple[float, float], "a list of two numbers"),
    (0.9, tuple[float, float], "a list of two numbers"), ({"a": 1}, float, "a number"),
    ("yes", bool, "true or false"), (1, bool, "true or false"), (None, bool, "true or false")])
def test_another_type_is_refused_by_name_value_and_expectation(value, kind, told):
    with pytest.raises(UsageError) as caught:
        typed(value, kind, "squad.lr")
    assert str(caught.value) == f"squad.lr is {value!r}; it must be {told}"


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_and_its_text_are_the_same_setting(value):
    assert typed(repr(value), float, "lr") == typed(value, float, "lr") == value


def test_all_wrong_types_of_one_block_are_told_at_once():
    with pytest.raises(UsageError) as caught:
        build(TrainingSettings, {"lr": "x", "epochs": [], "patience": 1.5, "n_best": 3}, "squad")
    assert [problem.split(" ")[0] for problem in caught.value.problems] == [
        "squad.lr", "squad.epochs", "squad.patience"]


def test_all_impossible_values_of_one_block_are_told_at_once():
    values = {"lr": 0, "warmup_ratio": 1.5, "head_lr": -1, "keep": "bets", "adam_betas": [0.9, 1],
              "max_query_length": 380}
    with pytest.raises(UsageError) as caught:
        build(TrainingSettings, values, "squad")
    told = str(caught.value)
    for part in ("lr is 0.0", "warmup_ratio is 1.5", "head_lr is -1.0", "'best'", "adam_betas are (0.9, 1.0)",
                 "leaves no room"):
        assert part in told
    assert len(caught.value.problems) == 6 and all(problem.startswith("squad: ") for problem in caught.value.problems)


@pytest.mark.parametrize("values", [{"rank": 0}, {"rank": -4}, {"dropout": 1.5}, {"dropout": -0.1}])
def test_an_impossible_adapter_is_refused(values):
    with pytest.raises(UsageError, match=next(iter(values))):
        build(LoraSettings, values, "squad")


@pytest.mark.parametrize("text, told", [("", "must be a path"), ("a" * 5000, "File name too long"),
                                        ("~no_such_user/x", "home"), ("circle", "leads nowhere")])
@pytest.mark.parametrize("read", [writable_folder, existing_folder])
def test_what_can_be_no_folder_is_refused(tmp_path, monkeypatch, read, text, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(UsageError, match=told if read is writable_folder or text != "circle" else "is no folder"):
        read(text, "runs")


def test_settings_that_overflow_are_refused():
    for values in ({"epochs": 1e300}, {"features_per_step": 10**30}):
        with pytest.raises(UsageError, match="at most 1000000000"):
            TrainingSettings(**values)
    with pytest.raises(UsageError, match="at most 1000000000"):
        LoraSettings(rank=10**30)


def test_settings_of_memory_are_told_only_where_they_are_not_the_default():
    usual = TrainingSettings().told()
    assert len(usual) == len(SETTINGS) - 2 and not {"gradient_checkpointing", "optimizer"} & usual.keys()
    asked = TrainingSettings(gradient_checkpointing=True, optimizer="adamw_8bit").told()
    assert asked == usual | {"gradient_checkpointing": True, "optimizer": "adamw_8bit"}
    with pytest.raises(UsageError, match="Did you mean .adamw_8bit"):
        TrainingSettings(optimizer="adamw_8bits")
