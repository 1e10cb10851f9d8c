"""Named tables: a name is given once, and a mistyped one is answered with the nearest."""

import pytest

from peft_stilts.errors import UsageError
from peft_stilts.registry import Registry, unknown


@pytest.fixture
def tasks():
    table = Registry("task")
    for name in ("squad", "xquad", "mlqa"):
        table.add(name, name.upper())
    return table


def test_values_come_back_in_the_order_given(tasks):
    assert dict(tasks) == {"squad": "SQUAD", "xquad": "XQUAD", "mlqa": "MLQA"} and len(tasks) == 3
    assert "squad" in tasks and "sqaud" not in tasks and None not in tasks


def test_an_unknown_name_is_told_the_nearest_and_all(tasks):
    with pytest.raises(UsageError) as caught:
        tasks["sqaud"]
    assert str(caught.value) == "unknown task 'sqaud'. Did you mean 'squad' or 'xquad'? Known: mlqa, squad, xquad."


def test_a_name_like_no_other_gets_no_guess():
    assert unknown("task", 12345, ["squad"]) == "unknown task '12345'. Known: squad."


def test_a_name_is_not_given_twice(tasks):
    with pytest.raises(ValueError, match="'squad' is defined twice"):
        tasks.add("squad", "other")
    assert tasks["squad"] == "SQUAD"
