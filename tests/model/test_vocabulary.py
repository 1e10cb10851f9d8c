"""A trimmed vocabulary looks words up, and comes back whole; it trims only where that is exact and pays."""

import numpy as np
import pytest
import torch

from peft_stilts.model import vocabulary
from peft_stilts.model.encoder import random_encoder
from peft_stilts.model.heads import new_head
from peft_stilts.model.learner import Learner
from peft_stilts.model.stack import full, lora
from peft_stilts.model.vocabulary import TrimmedEmbedding, Vocabulary, saved, whole_weights
from peft_stilts.spec import LoraSettings

WORDS = [np.array([7, 9, 30]), np.array([9, 45], dtype=np.int32)]


def halve(whole, rates):
    for rate in rates:
        whole.mul_(1 - rate)


@pytest.fixture
def learner(config):
    return Learner(full(random_encoder(config, 3)), {"toy": new_head("classification", config, 3, seed=1)})


@pytest.fixture
def small(monkeypatch):
    """Trimming pays from one byte on, and rows are not made more."""
    monkeypatch.setattr(vocabulary, "SAVED", 1)
    monkeypatch.setattr(vocabulary, "ROWS", 1)


def test_training_looks_up_the_trained_rows_and_evaluation_the_whole_matrix(learner, small):
    plain = learner.stack.encoder.embeddings.word_embeddings
    start = plain.weight.detach().clone()
    words = Vocabulary(learner, WORDS, halve, True)
    trimmed, ids = words.trimmed, torch.tensor([[45, 7, 1, 9]])
    assert trimmed.rows.tolist() == [1, 7, 9, 30, 45] and words.weight.shape == (5, 32)
    learner.train()
    assert torch.equal(trimmed(ids), start[ids])
    with pytest.raises(IndexError):
        trimmed(torch.tensor([8]))
    trimmed(ids).sum().backward()
    assert trimmed.weight.grad.sum(1).tolist() == [0, 32, 32, 0, 32], "the padding word has no gradient"
    assert words.gradients([np.array([45, 9]), np.array([9])]).tolist() == [[1.0] * 32] * 2
    with torch.no_grad():
        trimmed.weight += 1
    for _ in range(2):
        words.stepped(0.5)
    learner.eval()
    expected = start / 4
    expected[[1, 7, 9, 30, 45]] = start[[1, 7, 9, 30, 45]] + 1
    assert torch.equal(trimmed(torch.arange(60)), expected)
    assert torch.equal(trimmed(torch.arange(60)), expected), "what was pending is done once"
    words.stepped(0.5)
    expected[[8, 59]] /= 2
    assert torch.equal(trimmed(torch.tensor([8, 59])), expected[[8, 59]])


def test_the_plain_embeddings_come_back(learner, small):
    plain, names = learner.stack.encoder.embeddings.word_embeddings, list(learner.state_dict())
    memory, start = plain.weight.data_ptr(), plain.weight.detach().clone()
    words = Vocabulary(learner, WORDS, halve, True)
    name = "stack.model.embeddings.word_embeddings.weight"
    assert learner.trainable()[name].shape == (5, 32) and whole_weights(learner)[name].shape == (60, 32)
    assert whole_weights(learner).keys() == learner.trainable().keys()
    words.stepped(0.5)
    words.restore()
    assert learner.stack.encoder.embeddings.word_embeddings is plain and plain.weight.data_ptr() == memory
    assert list(learner.state_dict()) == names
    learner.stack.check()
    assert torch.equal(plain.weight[7:10], torch.stack([start[7], start[8] / 2, start[9]]))
    words.restore()
    words.stepped(0.5)
    assert learner.stack.encoder.embeddings.word_embeddings is plain, "nothing more happens"


def test_where_a_row_has_gradient_from_elsewhere_nothing_is_trimmed(config, learner, small):
    head = new_head("mlm", config, 60, seed=1)
    head.tie(learner.stack.encoder.get_input_embeddings())
    masked = Learner(learner.stack, {"toy": learner.heads["toy"], "mlm": head})
    adapter = Learner(lora(random_encoder(config, 3), [], LoraSettings(rank=2), "toy"), {})
    for one, exact in ((masked, True), (adapter, True), (learner, False)):
        words = Vocabulary(one, WORDS, halve, exact)
        assert words.trimmed is None and not words.apart
    assert Vocabulary(learner, WORDS, halve, True).apart


def test_trimming_must_pay(learner, monkeypatch):
    assert not Vocabulary(learner, WORDS, halve, True).apart, "60 words are few"
    assert saved(40_000, 250_002, 1024) == (12 * 210_002 - 4 * 40_000) * 1024
    assert saved(250_002, 250_002, 1024) < 0
    monkeypatch.setattr(vocabulary, "SAVED", 1)  # all 60 words are made the first multiple of 192
    words = Vocabulary(learner, WORDS, halve, True)
    assert words.apart and words.trimmed is None


def test_trained_rows_are_a_multiple(monkeypatch):
    rows = vocabulary._rows(WORDS, 1000, 1)
    assert len(rows) == 192 and {1, 7, 9, 30, 45} <= set(rows.tolist()) and rows.tolist() == sorted(rows)
    assert len(vocabulary._rows([np.arange(500, 700)], 1000, None)) == 384


@pytest.mark.parametrize("threads, passes", [(1, True), (2, True), (3, True), (5, False), (12, True), (7, False)])
def test_each_thread_must_have_whole_vectors(monkeypatch, threads, passes):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    weight = torch.empty(250_002, 1024, device="meta")
    assert vocabulary._whole_vectors(weight, 192), "other devices do not divide like this"
    cpu = torch.empty(1).expand(250_002, 1024)
    assert vocabulary._whole_vectors(cpu, 39_936) == passes
    assert not vocabulary._whole_vectors(torch.empty(7, 3), 5)


def test_it_is_no_second_copy(learner, small):
    weight = learner.stack.encoder.embeddings.word_embeddings.weight
    words = Vocabulary(learner, WORDS, halve, True)
    assert isinstance(words.trimmed, TrimmedEmbedding) and words.trimmed.whole is weight
    assert not weight.requires_grad
