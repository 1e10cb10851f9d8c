"""The error family: problems are collected, told once each, and raised together."""

import pytest

from peft_stilts.errors import (
    CheckpointError,
    DataError,
    Problems,
    StiltsError,
    StoreError,
    TrainingError,
    UsageError,
)


def test_every_problem_is_raised_at_once_and_each_only_once():
    with pytest.raises(UsageError) as caught, Problems() as found:
        found.add("first")
        with found.collect():
            raise UsageError("second", "third")
        with found.collect():
            raise DataError("fourth")
        found.add("first")
    assert caught.value.problems == ["first", "second", "third", "fourth"]
    assert str(caught.value) == "first\nsecond\nthird\nfourth"


def test_nothing_is_raised_without_a_problem():
    with Problems() as found, found.collect():
        pass
    assert found.messages == []


def test_a_programming_error_is_not_collected_and_hides_behind_no_problem():
    with pytest.raises(ZeroDivisionError), Problems() as found:
        found.add("a problem")
        with found.collect():
            _ = 1 / 0


@pytest.mark.parametrize("kind", [DataError, StoreError, CheckpointError, TrainingError])
def test_a_mistake_in_the_request_ends_with_2_and_any_other_with_1(kind):
    assert issubclass(kind, StiltsError) and kind.exit_code == 1
    assert UsageError.exit_code == 2
