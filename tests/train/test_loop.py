"""The loop is a plain transformers/PEFT loop, whatever the packs; and it stops with its cause."""

import gc
import math
import weakref
from dataclasses import replace

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel

from peft_stilts.data.sample import Mixing, Order, Schedule
from peft_stilts.errors import TrainingError
from peft_stilts.model.adapter_io import TARGETS
from peft_stilts.model.heads import new_head
from peft_stilts.model.learner import Learner
from peft_stilts.train import loop
from peft_stilts.train.loop import train

TWENTY = {"epochs": 4, "keep": "last", "warmup_ratio": 0.2}  # 22 features, 5 a step: 20 steps


# Parameters whose true gradient is 0, as a softmax does not see a shift: AdamW makes steps of their rounding errors.
ZERO_GRADIENT = {
    "classification": ("key.bias",),
    "span": ("key.bias", "layer.1.output.LayerNorm.bias", "qa_outputs.bias"),
}


def distance(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


def plain_loop(tiny, method, settings, seed):
    """Padded batches through the Hugging Face model, as a transformers example would train it."""
    config = tiny.shape()
    config.num_labels = 3
    model = transformers.XLMRobertaForSequenceClassification._from_config(config, attn_implementation="sdpa")
    ours = tiny.make_learner(method)
    if method == "lora":
        peft_config = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS)
        model.requires_grad_(False)
        model.classifier.requires_grad_(True)
        model.roberta = PeftModel(model.roberta, peft_config, "1-toy")
    names = {n: n.replace("stack.model.", "roberta.").replace("heads.toy.", "") for n, _ in ours.named_parameters()}
    for name, theirs in names.items():
        model.get_parameter(theirs).data.copy_(ours.get_parameter(name))
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    decay = [p for n, p in trained.items() if not any(part in n for part in ("bias", "LayerNorm"))]
    rest = [p for n, p in trained.items() if any(part in n for part in ("bias", "LayerNorm"))]
    groups = [{"params": decay, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, eps=settings.adam_epsilon, betas=settings.adam_betas)
    features, losses = tiny.make_features(), []
    order = Order(22, settings.features_per_step, settings.epochs, seed)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 4, order.total)
    model.train()
    for step in range(order.total):
        chosen = order.indices(step)
        longest = max(len(features.input_ids[i]) for i in chosen)
        ids = torch.ones(len(chosen), longest, dtype=torch.long)
        for row, i in enumerate(chosen):
            ids[row, : len(features.input_ids[i])] = torch.from_numpy(features.input_ids[i])
        labels = torch.from_numpy(features.labels["class"][chosen])
        loss = model(ids, attention_mask=ids != 1, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return {name: model.get_parameter(theirs).data for name, theirs in names.items()}, losses


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("method", ["full", "lora"])
def test_twenty_steps_equal_a_plain_loop(tiny, method, tmp_path):
    settings = replace(tiny.SETTINGS, **TWENTY)
    expected, expected_losses = plain_loop(tiny, method, settings, seed=4)
    learner, losses = tiny.make_learner(method), []
    start = tiny.weights(learner)
    record = train(
        learner, {"toy": tiny.make_features()}, settings, seed=4, folder=tmp_path,
        progress=lambda *told: losses.append(told[3]),
    )
    assert record.steps == 20 and record.features == 88
    assert losses == pytest.approx(expected_losses, abs=2e-5)
    found = {name: value for name, value in tiny.weights(learner).items() if not name.endswith("key.bias")}
    assert distance(found, start) > 0.02
    assert distance(found, expected) < 2e-5
    learner.stack.check()


@pytest.mark.parametrize("form", ["classification", "span"])
def test_pack_size_does_not_change_the_result(tiny, form, tmp_path):
    results = []
    for budget in (1, 30, 10_000):
        learner = tiny.make_learner(form=form)
        settings = replace(tiny.SETTINGS, **TWENTY, tokens_per_pack=budget)
        record = train(learner, {"toy": tiny.make_features()}, settings, seed=4, folder=tmp_path / str(budget))
        assert record.token_budget == budget
        results.append({n: v for n, v in tiny.weights(learner).items() if not n.endswith(ZERO_GRADIENT[form])})
    assert distance(results[0], results[1]) < 2e-5 and distance(results[0], results[2]) < 2e-5


def test_bf16_trains_with_float32_weights(tiny, tmp_path):
    learner = tiny.make_learner()
    settings = replace(tiny.SETTINGS, **TWENTY)
    record = train(learner, {"toy": tiny.make_features()}, settings, seed=4, folder=tmp_path, precision="bf16")
    assert record.last_loss < record.first_loss
    assert all(value.dtype == torch.float32 for value in learner.parameters())
    plain = tiny.make_learner()
    train(plain, {"toy": tiny.make_features()}, settings, seed=4, folder=tmp_path / "2")
    assert 0 < distance(tiny.weights(learner), tiny.weights(plain)) < 0.05
    if not torch.cuda.is_available():
        with pytest.raises(TrainingError, match="fp16 needs a CUDA device"):
            train(learner, {"toy": tiny.make_features()}, settings, seed=4, folder=tmp_path, precision="fp16")


def test_selection_keeps_the_best_and_stops(tiny, tmp_path):
    learner, seen = tiny.make_learner(), []
    scores = iter([1.0, 3.0, 2.0, 3.0, 1.0, 9.0])

    def select():
        seen.append(tiny.weights(learner))
        return next(scores)

    record = train(learner, {"toy": tiny.make_features()}, tiny.SETTINGS, seed=4, folder=tmp_path, select=select)
    # A look each 2 steps; the best is the second; three without a gain end it.
    assert (record.best_score, record.best_step, record.steps) == (3.0, 4, 10)
    assert distance(tiny.weights(learner), seen[1]) == 0 < distance(tiny.weights(learner), seen[4])
    assert not learner.training
    last = replace(tiny.SETTINGS, keep="last")
    again = train(
        tiny.make_learner(), {"toy": tiny.make_features()}, last, seed=4, folder=tmp_path / "2", select=select
    )
    assert again.best_step is None and again.steps == 12 and len(seen) == 5


def test_looks_fall_at_epoch_ends_and_at_the_end(tiny, tmp_path):
    learner, steps, at = tiny.make_learner(), [0], []
    settings = replace(tiny.SETTINGS, select_every_steps=None, patience=99)

    def progress(done, total, tokens, loss):
        steps.append(done)

    train(
        learner, {"toy": tiny.make_features()}, settings, seed=4, folder=tmp_path, progress=progress,
        select=lambda: at.append(steps[-1]) or 1.0,
    )  # fmt: skip
    assert at == [5, 10, 12]


def test_every_step_trains_with_dropout_however_the_learner_came(tiny, tmp_path):
    learner, modes = tiny.make_learner(), []
    learner.stack.eval()        # as a loaded encoder and a look leave it, while the learner itself says `training`
    train(
        learner, {"toy": tiny.make_features()}, tiny.SETTINGS, seed=4, folder=tmp_path,
        progress=lambda *told: modes.append({module.training for module in learner.modules()}),
        select=lambda: learner.eval() and 1.0,
    )  # fmt: skip
    assert len(modes) >= 8 and all(mode == {True} for mode in modes)


class OutOfMemory:
    """Makes the learner's forward fail for packs of more than `most` tokens."""

    def __init__(self, learner, most, error):
        self.inner, self.most, self.error = learner.forward, most, error
        learner.forward = self

    def __call__(self, pack, task):
        loss = self.inner(pack, task)
        if len(pack.input_ids) > self.most:
            raise self.error
        return loss


ERRORS = [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("not enough memory: you tried")]


@pytest.mark.parametrize("error", ERRORS)
def test_out_of_memory_halves_the_budget_and_changes_nothing(tiny, error, tmp_path):
    settings = replace(tiny.SETTINGS, **TWENTY, tokens_per_pack=1000)
    learner, said = tiny.make_learner(), []
    OutOfMemory(learner, 25, error)
    record = train(learner, {"toy": tiny.make_features()}, settings, seed=4, folder=tmp_path, say=said.append)
    assert record.token_budget <= 25 and said and "out of memory at step 1" in said[0]
    small = tiny.make_learner()
    train(small, {"toy": tiny.make_features()}, settings, seed=4, folder=tmp_path / "2")
    found, expected = tiny.weights(learner), tiny.weights(small)
    assert distance(*({n: v for n, v in w.items() if "key.bias" not in n} for w in (found, expected))) < 2e-5


def test_dropout_after_out_of_memory_is_that_of_the_smaller_budget(tiny, tmp_path):
    results = []
    for budget, most in ((1000, 25), (20, 1000)):
        learner = tiny.make_learner(dropout=0.3)
        OutOfMemory(learner, most, MemoryError())
        settings = replace(tiny.SETTINGS, **TWENTY, tokens_per_pack=budget)
        record = train(learner, {"toy": tiny.make_features()}, settings, seed=4, folder=tmp_path / str(budget))
        results.append((record.token_budget, tiny.weights(learner)))
    if results[0][0] == results[1][0]:
        assert distance(results[0][1], results[1][1]) == 0


def test_a_feature_that_does_not_fit(tiny, tmp_path):
    learner = tiny.make_learner()
    OutOfMemory(learner, 3, MemoryError())
    with pytest.raises(TrainingError, match="one feature of 1[0-9] tokens does not fit in memory"):
        train(learner, {"toy": tiny.make_features()}, tiny.SETTINGS, seed=4, folder=tmp_path)


def test_memory_that_runs_out_in_the_optimizer(tiny, tmp_path, monkeypatch):
    def step(self, closure=None):
        raise MemoryError

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(TrainingError, match="optimizer's moments do not fit"):
        train(tiny.make_learner(), {"toy": tiny.make_features()}, tiny.SETTINGS, seed=4, folder=tmp_path)


def test_other_errors_pass_through(tiny, tmp_path):
    learner = tiny.make_learner()
    OutOfMemory(learner, 0, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        train(learner, {"toy": tiny.make_features()}, tiny.SETTINGS, seed=4, folder=tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_finite_stops_with_its_cause(tiny, value, tmp_path):
    learner = tiny.make_learner()
    inner, calls = learner.forward, []
    learner.forward = lambda pack, task: calls.append(1) or inner(pack, task) * (value if len(calls) > 8 else 1.0)
    with pytest.raises(
        TrainingError, match=r"loss (nan|inf), .* at step \d of 12, learning rate .*; no checkpoint yet"
    ):
        train(learner, {"toy": tiny.make_features()}, tiny.SETTINGS, seed=4, folder=tmp_path)
    assert all(torch.isfinite(parameter).all() for parameter in learner.parameters())


def test_collapse_is_told(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SHORTEST_JUDGED", 10)
    learner = tiny.make_learner()
    inner = learner.forward
    learner.forward = lambda pack, task: inner(pack, task) * 0 + len(pack.features)
    with pytest.raises(
        TrainingError, match="training collapsed: the loss was 1 over the first tenth of 12 steps and 1 "
    ):
        train(learner, {"toy": tiny.make_features()}, tiny.SETTINGS, seed=4, folder=tmp_path)


def test_several_processes_are_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Accelerator, "num_processes", property(lambda self: 2))
    with pytest.raises(TrainingError, match="launched as 2 processes; one process trains one stage"):
        train(tiny.make_learner(), {"toy": tiny.make_features()}, tiny.SETTINGS, seed=4, folder=tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_learner_goes_when_its_last_name_goes(tiny, tmp_path, precision):
    learner = tiny.make_learner()
    settings = replace(tiny.SETTINGS, epochs=1, keep="last")
    train(learner, {"toy": tiny.make_features()}, settings, seed=1, folder=tmp_path, precision=precision)
    assert "forward" not in vars(learner), "accelerate's own forward is gone"
    known = weakref.ref(learner.heads["toy"])
    gc.collect()
    gc.disable()
    try:
        del learner
        assert known() is None, "no reference cycle keeps the weights"
    finally:
        gc.enable()


def two_tasks(tiny, seed=3):
    """A learner with two heads, and features of two sizes."""
    one = tiny.make_learner(dropout=0.1)
    heads = {"toy": one.heads["toy"], "spans": new_head("span", tiny.shape(), 2, seed)}
    return Learner(one.stack, heads), {"toy": tiny.make_features(), "spans": tiny.make_features(40, seed=1)}


def test_a_mixture_trains_one_task_a_step_and_resumes_with_the_same_bits(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Checkpoints, "due", lambda self: True)
    settings = replace(tiny.SETTINGS, epochs=2, keep="last")
    learner, features = two_tasks(tiny)
    seen = []
    inner = learner.forward
    learner.forward = lambda pack, task: seen.append((task, len(pack.features))) or inner(pack, task)
    record = train(learner, features, settings, seed=4, folder=tmp_path / "whole")
    plan = Schedule({"toy": 22, "spans": 40}, 5, 2, 4)
    assert record.steps == plan.total == 10 + 16
    steps = {task: plan.steps_of(task) for task in features}
    counted = {task: sum(size for name, size in seen if name == task) for task in features}
    assert counted["spans"] == 5 * steps["spans"] and 5 * steps["toy"] - 9 <= counted["toy"] <= 5 * steps["toy"]

    class Killed(Exception):
        pass

    def stop(step, total, tokens, loss):
        if step == 11:
            raise Killed

    again, same = two_tasks(tiny)
    with pytest.raises(Killed):
        train(again, same, settings, seed=4, folder=tmp_path / "part", progress=stop)
    again, same = two_tasks(tiny)
    train(again, same, settings, seed=4, folder=tmp_path / "part")
    assert distance(tiny.weights(again), tiny.weights(learner)) == 0


def test_the_head_of_another_task_does_not_move(tiny, tmp_path):
    learner, features = two_tasks(tiny)
    before = tiny.weights(learner)
    train(learner, features, replace(tiny.SETTINGS, keep="last"), seed=4, folder=tmp_path,
          mixing=Mixing(extra="spans", extra_ratio=1e-9))
    moved = {name for name, value in tiny.weights(learner).items() if not torch.equal(value, before[name])}
    assert any(name.startswith("heads.toy.") for name in moved)
    assert not any(name.startswith("heads.spans.") for name in moved)
