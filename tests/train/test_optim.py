"""The learning rate, and the optimizer's groups."""

import torch
from transformers import get_linear_schedule_with_warmup

from peft_stilts.spec import TrainingSettings
from peft_stilts.train.optim import is_out_of_memory, make_optimizer, rate


def test_rate_is_the_usual_linear_schedule():
    for total, ratio in ((20, 0.1), (7, 0.0), (10, 0.35), (1, 0.1), (5, 1.0)):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        usual = get_linear_schedule_with_warmup(optimizer, -(-total * ratio // 1), total)
        for step in range(total):
            assert abs(rate(step, total, TrainingSettings(warmup_ratio=ratio)) - usual.get_last_lr()[0]) < 1e-12
            optimizer.step()
            usual.step()


def test_a_fixed_warm_up_may_be_longer_than_the_training():
    settings = TrainingSettings(warmup_ratio=0.1, warmup_steps=500)
    assert [rate(step, 346, settings) for step in (0, 250, 345)] == [0.0, 0.5, 0.69]
    assert rate(500, 600, settings) == 1.0


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
            assert group["peak"] == (0.5 if name.startswith("heads.") else 3e-3)
            assert group["weight_decay"] == (0.0 if "bias" in name or "LayerNorm" in name else 0.1)
    assert sorted(seen) == sorted(names.values())
    lora = make_optimizer(tiny.make_learner("lora"), tiny.SETTINGS)
    assert sum(len(group["params"]) for group in lora.param_groups) == 2 * 6 * 2 + 4


def test_what_out_of_memory_is():
    assert is_out_of_memory(torch.OutOfMemoryError("x")) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes"))
    assert not is_out_of_memory(RuntimeError("shapes differ")) and not is_out_of_memory(OSError("out of memory"))
