"""Orders and mixtures: every item in its turn, shares as asked for, and everything from the seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_stilts.data.sample import Mixing, Order, Schedule, draw_texts
from peft_stilts.digest import derived_seed


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 50), st.integers(1, 12), st.floats(0.1, 4), st.integers(0, 9))
def test_each_epoch_sees_every_feature_once(count, per_step, epochs, seed):
    order = Order(count, per_step, epochs, seed)
    assert order.total == max(1, round(epochs * order.steps_per_epoch))
    steps = [order.indices(step) for step in range(order.steps_per_epoch)]
    assert sorted(i for step in steps for i in step) == list(range(count))
    assert all(0 < len(step) <= per_step for step in steps)
    # Any step can be asked for alone: a resume needs nothing but its number.
    assert Order(count, per_step, epochs, seed).indices(order.total - 1) == order.indices(order.total - 1)


def test_orders_differ_between_epochs_and_seeds():
    order = Order(40, 40, 2, 1)
    assert order.indices(0) != order.indices(1) != Order(40, 40, 2, 2).indices(1)
    assert derived_seed("order", 1, 2) != derived_seed("dropout", 1, 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 50), st.integers(1, 12), st.floats(0.1, 4), st.integers(0, 9))
def test_one_task_alone_is_its_order(count, per_step, epochs, seed):
    order, schedule = Order(count, per_step, epochs, seed), Schedule({"a": count}, per_step, epochs, seed)
    assert schedule.total == order.total
    assert all(schedule.at(step) == ("a", order.indices(step)) for step in range(order.total))


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 90), min_size=2), st.integers(1, 9), st.integers(0, 5),
       st.one_of(st.none(), st.integers(1, 50)), st.floats(0.5, 5))
def test_a_mixture_goes_through_each_task_in_its_own_order(counts, per_step, seed, cap, temperature):
    schedule = Schedule(counts, per_step, 2.0, seed, Mixing(cap, temperature))
    assert schedule.total == sum(2 * -(-min(count, cap or count) // per_step) for count in counts.values())
    places = dict.fromkeys(counts, 0)
    for step in range(schedule.total):
        task, items = schedule.at(step)
        assert items == Order(counts[task], per_step, 2.0, seed).indices(places[task])
        places[task] += 1
    assert places == {task: schedule.steps_of(task) for task in counts}


@pytest.mark.parametrize(("mixing", "shares"), [
    (Mixing(), (0.1, 0.9)), (Mixing(cap=30_000), (0.25, 0.75)), (Mixing(temperature=2), (0.25, 0.75)),
    (Mixing(extra="mlm", extra_ratio=0.4), (0.06, 0.54, 0.4))])
def test_shares_are_those_asked_for(mixing, shares):
    schedule = Schedule({"small": 10_000, "large": 90_000, "mlm": 7}, 1, 1.0, 3, mixing) if mixing.extra else \
        Schedule({"small": 10_000, "large": 90_000}, 1, 1.0, 3, mixing)
    found = [schedule.steps_of(name) / schedule.total for name in schedule.names]
    assert np.allclose(found, shares, atol=4 * np.sqrt(0.25 / schedule.total))
    usual = Schedule({"small": 10_000, "large": 90_000}, 1, 1.0, 3, Mixing(mixing.cap, mixing.temperature)).total
    assert schedule.total == round(usual / (1 - mixing.extra_ratio)), "masked words come on top of the tasks' steps"


def test_texts_come_by_temperature_and_no_line_twice_before_all_came_once():
    drawn = draw_texts({"en": 8000, "sw": 500}, 6000, 1.0, seed=1)
    assert abs(sum(code == "en" for code, _ in drawn) / 6000 - 8000 / 8500) < 0.02
    flat = draw_texts({"en": 8000, "sw": 500}, 6000, 1 / 0.3, seed=1)
    share = 8000**0.3 / (8000**0.3 + 500**0.3)
    assert abs(sum(code == "en" for code, _ in flat) / 6000 - share) < 4 * np.sqrt(0.25 / 6000)
    lines = [line for code, line in flat if code == "sw"]
    for start in range(0, len(lines), 500):
        part = lines[start : start + 500]
        assert len(set(part)) == len(part) and set(part) <= set(range(500))
    assert flat == draw_texts({"en": 8000, "sw": 500}, 6000, 1 / 0.3, seed=1) != draw_texts(
        {"en": 8000, "sw": 500}, 6000, 1 / 0.3, seed=2)
