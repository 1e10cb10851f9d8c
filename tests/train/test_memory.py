"""What saves memory in training: exact vocabulary trimming, recomputed layers, optimizers with smaller moments."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import XLMRobertaConfig

from peft_stilts.data.pack import make_pack
from peft_stilts.errors import TrainingError
from peft_stilts.model import vocabulary
from peft_stilts.model.encoder import random_encoder
from peft_stilts.model.heads import new_head
from peft_stilts.model.learner import Learner
from peft_stilts.model.stack import full
from peft_stilts.spec import TrainingSettings
from peft_stilts.train import loop, optim
from peft_stilts.train.checkpoint import Checkpoints
from peft_stilts.train.loop import train

WORDS, WIDTH = 2048, 64  # above 32,768 numbers, from where torch's CPU kernels divide a tensor among threads
EMBEDDINGS = "stack.model.embeddings.word_embeddings.weight"
SETTINGS = TrainingSettings(
    lr=3e-3, epochs=2, features_per_step=6, tokens_per_pack=60, weight_decay=0.1, max_grad_norm=0.2,
    select_every_steps=2, patience=9, warmup_ratio=0.3,
)  # fmt: skip


class Ended(Exception):
    """Stands for anything that ends a training from outside."""


def shape():
    return XLMRobertaConfig(
        vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=80,
        max_position_embeddings=40, type_vocab_size=1, pad_token_id=1, initializer_range=0.2,
        hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
    )  # fmt: skip


def make_learner():
    return Learner(full(random_encoder(shape(), 1)), {"toy": new_head("classification", shape(), 3, seed=3)})


def make_features(count=24, first=5, last=WORDS // 2):
    rng = np.random.default_rng(first)
    ids = [rng.integers(first, last, rng.integers(1, 30)).astype(np.int32) for _ in range(count)]
    return SimpleNamespace(input_ids=ids, labels={"class": np.array([int(x[0]) % 3 for x in ids])})


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(name, trimmed, ...) -> what a training computed, and its optimizer; `end_at` ends it after that many steps,
    a second run of that name goes on. Scores are of words that training lacks, best in the middle."""

    def run(name, trimmed, end_at=None, select=True, last=WORDS // 2, **settings):
        learner, told = make_learner(), SimpleNamespace(losses=[], norms=[], scores=[], said=[])
        pack = make_pack(make_features(8, WORDS // 2, WORDS), range(8), 1)

        def score():
            with torch.no_grad():
                told.scores.append(learner(pack, "toy").item())
            return -abs(told.scores[-1] - 16)  # it grows through 16

        def clip(*given):
            told.norms.append(optim.clip(*given))
            return told.norms[-1].clone()

        def make_optimizer(*given):
            told.optimizer = optim.make_optimizer(*given)
            return told.optimizer

        def progress(done, total, tokens, loss):
            told.losses.append(loss)
            if done == end_at:
                raise Ended

        with monkeypatch.context() as patch:
            patch.setattr(vocabulary, "SAVED", 1)
            patch.setattr(loop, "clip", clip)
            patch.setattr(loop, "make_optimizer", make_optimizer)
            patch.setattr(Checkpoints, "due", lambda self: True)
            if not trimmed:
                patch.setattr(vocabulary, "saved", lambda rows, count, width: 0)
            told.record = train(
                learner, {"toy": make_features(last=last)}, replace(SETTINGS, **settings), seed=4,
                folder=tmp_path / name,
                select=score if select else None, progress=progress, say=told.said.append,
            )  # fmt: skip
        told.weights = {name: value.detach() for name, value in learner.named_parameters()}
        told.learner = learner
        return told

    return run


def same(one, other):
    """Whether two trainings left the same bits, and say the same of themselves."""
    for name in ("steps", "tokens", "best_score", "best_step", "first_loss", "last_loss", "trainable_parameters"):
        assert getattr(one.record, name) == getattr(other.record, name), name
    assert one.weights.keys() == other.weights.keys()
    return all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


USED = vocabulary._rows(make_features().input_ids, WORDS, 1)
UNUSED = np.setdiff1d(np.arange(WORDS), USED)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_trimmed_is_untrimmed(run, optimizer):
    trimmed, plain = (run(str(cut), cut, optimizer=optimizer) for cut in (True, False))
    assert plain.record.steps == 8 and plain.record.best_step == 4  # in the middle
    assert same(trimmed, plain)
    assert trimmed.losses == plain.losses and torch.equal(torch.stack(trimmed.norms), torch.stack(plain.norms))
    assert min(plain.norms) > SETTINGS.max_grad_norm, "clipping was at work"
    assert trimmed.scores == plain.scores and len(set(plain.scores)) == 4
    start = make_learner().get_parameter(EMBEDDINGS).detach()[UNUSED]
    moved = (plain.weights[EMBEDDINGS][UNUSED] / start - 1).abs().max().item()
    assert 1e-4 < moved < 2e-3, "words that do not occur were decayed, and only that"
    assert f"training {len(USED)} of 2,048 word embeddings" in trimmed.said[0] and not plain.said
    trimmed.learner.stack.check()


def test_trimmed_is_untrimmed_where_threads_divide_the_matrix(run, two_threads):
    trimmed, plain = (run(str(cut), cut, select=False, last=WORDS) for cut in (True, False))
    assert same(trimmed, plain) and torch.equal(torch.stack(trimmed.norms), torch.stack(plain.norms))


def test_last_weights_moments_and_norms(run):
    trimmed, plain = (run(str(cut), cut, select=False) for cut in (True, False))
    assert same(trimmed, plain)
    [(cut, _)] = [(state, p) for p, state in trimmed.optimizer.state.items() if p.shape == (len(USED), WIDTH)]
    whole = plain.optimizer.state[plain.learner.get_parameter(EMBEDDINGS)]
    for moment in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(cut[moment], whole[moment][USED]) and whole[moment].abs().sum() > 0
        assert not whole[moment][UNUSED].any()
    assert torch.equal(cut["step"], whole["step"])
    found, expected = ([state["exp_avg"] for p, state in one.optimizer.state.items()
                        if len(p) not in (len(USED), WORDS)]
                       for one in (trimmed, plain))  # fmt: skip
    assert len(found) == len(expected) > 10 and all(map(torch.equal, found, expected))


def test_the_norm_is_taken_of_the_same_tensors_and_is_right(run, monkeypatch):
    """A sum is divided by the size of what is summed, on a GPU at least: equal norms must not be luck."""
    inner, norm_of, exact, normed = optim.clip, torch.nn.utils.get_total_norm, [], []

    def clip(accelerator, parameters, *more):
        exact.append(sum((p.grad.double() ** 2).sum() for p in parameters).sqrt().item())
        return inner(accelerator, parameters, *more)

    monkeypatch.setattr(optim, "clip", clip)
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda t: normed.append([g.clone() for g in t]) or norm_of(t))
    found = [norm.item() for cut in (True, False) for norm in run(str(cut), cut).norms]
    assert found == pytest.approx(exact, rel=1e-6)
    trimmed, plain = normed[:8], normed[8:]
    assert all(len(one) == len(other) for one, other in zip(trimmed, plain))
    assert all(torch.equal(one, other) for step in zip(trimmed, plain) for one, other in zip(*step))


@pytest.mark.parametrize("end_at", [1, 3, 6])
def test_an_ended_trimmed_training_goes_on_bit_for_bit(run, end_at):
    for select in (True, False):
        undisturbed = run(f"whole {select}", False, select=select)
        with pytest.raises(Ended):
            run(f"cut {select}", True, end_at, select=select)
        resumed = run(f"cut {select}", True, select=select)
        assert len(resumed.losses) == 8 - end_at + 1 and same(resumed, undisturbed)


def test_a_checkpoint_holds_the_trained_rows_and_the_best_weights_all(run, tmp_path):
    from safetensors.torch import load_file

    with pytest.raises(Ended):
        run("cut", True, 6)
    [folder] = (tmp_path / "cut").glob("checkpoint-*")
    assert load_file(folder / "tensors.safetensors")[f"weight/{EMBEDDINGS}"].shape == (len(USED), WIDTH)
    [best] = (tmp_path / "cut").glob("best-*.safetensors")
    assert load_file(best)[EMBEDDINGS].shape == (WORDS, WIDTH)


def test_small_models_are_clipped_by_accelerate_and_not_trimmed(tiny, tmp_path, monkeypatch):
    calls = []
    inner = loop.Accelerator.clip_grad_norm_
    monkeypatch.setattr(loop.Accelerator, "clip_grad_norm_", lambda *given: calls.append(1) or inner(*given))
    said = []
    train(make_learner(), {"toy": make_features()}, SETTINGS, seed=4, folder=tmp_path, say=said.append)
    assert len(calls) == 8 and not said


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_decay_is_what_the_optimizer_does_without_gradient(optimizer, monkeypatch):
    monkeypatch.setattr(optim, "BLOCK", 96)
    settings = replace(SETTINGS, optimizer=optimizer)
    rates = [3e-3, 1e-3, 0.0, 1e-9, 2.1e-4, 1.7e-5]
    start = torch.randn(31, WIDTH, generator=torch.manual_seed(0))
    decayed, stepped = start.clone(), start.clone()
    optim.decay_(decayed, rates, settings)
    optim._steps_without_gradient(stepped.view(-1), rates, settings)
    assert torch.equal(decayed, stepped) and not torch.equal(decayed, start)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_recomputed_layers_change_no_bit(tiny, tmp_path, method):
    results = []
    for on in (False, True):
        learner, losses, calls = tiny.make_learner(method, dropout=0.3), [], []
        layer = learner.stack.encoder.encoder.layer[0]
        layer.intermediate.register_forward_hook(lambda *given: calls.append(1))  # noqa: B023
        train(
            learner, {"toy": tiny.make_features()}, replace(tiny.SETTINGS, gradient_checkpointing=on), seed=4,
            folder=tmp_path / str(on), progress=lambda *told: losses.append(told[3]),  # noqa: B023
        )  # fmt: skip
        results.append((losses, tiny.weights(learner), len(calls)))
        assert not any(layer.gradient_checkpointing for layer in learner.stack.encoder.encoder.layer)
    plain, recomputed = results
    assert recomputed[2] == 2 * plain[2]
    assert recomputed[0] == plain[0]
    assert all(torch.equal(plain[1][name], recomputed[1][name]) for name in plain[1])


def test_8_bit_moments(run):
    plain, eight = run("32", True), run("8", True, optimizer="adamw_8bit")
    assert eight.record.last_loss < eight.record.first_loss
    kinds = {tuple(p.shape): state["state1"].dtype for p, state in eight.optimizer.state.items()}
    assert kinds[80, WIDTH] == torch.uint8
    assert kinds[len(USED), WIDTH] == torch.float32, "embeddings"
    assert kinds[80,] == torch.float32, "small tensors"
    name = "stack.model.encoder.layer.0.intermediate.dense.weight"
    assert not torch.equal(plain.weights[name], eight.weights[name])


def test_8_bit_training_goes_on_bit_for_bit(run):
    undisturbed = run("whole", True, select=False, optimizer="adamw_8bit")
    for end_at in (2, 5):
        with pytest.raises(Ended):
            run(f"cut {end_at}", True, end_at, select=False, optimizer="adamw_8bit")
        resumed = run(f"cut {end_at}", True, select=False, optimizer="adamw_8bit")
        assert len(resumed.losses) == 8 - end_at + 1 and same(resumed, undisturbed)
        assert "resumed" in resumed.said[1]


@pytest.mark.parametrize("optimizer", ["adamw_paged", "adamw_paged_8bit"])
def test_paged_moments_need_a_device(tiny, optimizer):
    with pytest.raises(TrainingError, match="choose adamw, or adamw_8bit"):
        optim.make_optimizer(tiny.make_learner(), replace(tiny.SETTINGS, optimizer=optimizer))
