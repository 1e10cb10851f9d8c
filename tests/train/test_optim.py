"""The order of features, the learning rate, the optimizer's groups."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import get_linear_schedule_with_warmup

from peft_stilts.digest import derived_seed
from peft_stilts.train.optim import Order, is_out_of_memory, make_optimizer, rate


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


def test_rate_is_the_usual_linear_schedule():
    for total, ratio in ((20, 0.1), (7, 0.0), (10, 0.35), (1, 0.1), (5, 1.0)):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        usual = get_linear_schedule_with_warmup(optimizer, -(-total * ratio // 1), total)
        for step in range(total):
            assert abs(rate(step, total, ratio) - usual.get_last_lr()[0]) < 1e-12
            optimizer.step()
            usual.step()


def test_groups(tiny):
    from dataclasses import replace

    learner = tiny.make_learner()
    optimizer = make_optimizer(learner, replace(tiny.SETTINGS, head_lr=0.5))
    names = {id(parameter): name for name, parameter in learner.named_parameters()}
    seen = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.append(name)
            assert group["peak"] == (0.5 if name.startswith("head.") else 3e-3)
            assert group["weight_decay"] == (0.0 if "bias" in name or "LayerNorm" in name else 0.1)
    assert sorted(seen) == sorted(names.values())
    lora = make_optimizer(tiny.make_learner("lora"), tiny.SETTINGS)
    assert sum(len(group["params"]) for group in lora.param_groups) == 2 * 6 * 2 + 4


def test_what_out_of_memory_is():
    assert is_out_of_memory(torch.OutOfMemoryError("x")) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes"))
    assert not is_out_of_memory(RuntimeError("shapes differ")) and not is_out_of_memory(OSError("out of memory"))
