"""Which kernels are chosen, what a choice needs, and that fused models compute what the plain ones do."""

import copy
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as LoraLinear
from transformers import XLMRobertaConfig

from peft_stilts.data.pack import make_pack
from peft_stilts.errors import UsageError
from peft_stilts.kernels import choose, layers
from peft_stilts.model import stack as stacks
from peft_stilts.model.encoder import random_encoder
from peft_stilts.model.heads import new_head
from peft_stilts.model.learner import Learner
from peft_stilts.spec import LoraSettings, TrainingSettings
from peft_stilts.train.loop import train

TINY = XLMRobertaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
                        max_position_embeddings=12, type_vocab_size=1, pad_token_id=1, initializer_range=0.4)
"""Triton's interpreter takes seconds for what is larger."""
COMPILER = not choose.lacking("compile", "cpu")
CHOICES = [pytest.param("compile", marks=pytest.mark.skipif(not COMPILER, reason="no C++ compiler here")),
           pytest.param("triton", marks=pytest.mark.skipif(not choose.find_spec("triton"), reason="no triton here"))]


@pytest.fixture
def config():
    return copy.deepcopy(TINY)


@pytest.fixture
def pack():
    ids = [np.array(words, dtype=np.int32) for words in ([5, 9, 11, 7], [6], [8, 13, 12])]
    labels = {"start": np.array([1, 0, 2]), "end": np.array([3, 0, 2]),
              "words": [np.array(words) for words in ([-100, 4, -100, 6], [-100], [9, -100, -100])]}
    return make_pack(SimpleNamespace(input_ids=ids, labels=labels), range(3), 1)


def learner(config, method, tmp_path, dropout=0.0):
    """A learner with a span and a masked-word head; with `lora`, on a frozen adapter, all B's away from 0."""
    config = copy.deepcopy(config)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    if method == "full":
        stack = stacks.full(random_encoder(config, 3))
    else:
        below = stacks.lora(random_encoder(config, 3), [], LoraSettings(rank=3, dropout=dropout), "a", 1)
        spread(below)
        below.save_adapter(tmp_path / "below")
        new = LoraSettings(rank=2, dropout=dropout)
        stack = stacks.lora(random_encoder(config, 3), [tmp_path / "below"], new, "b", 2)
        spread(stack)
    heads = {"qa": new_head("span", config, 2, 1), "mlm": new_head("mlm", config, 2, 1)}
    return Learner(stack, heads).train()


@torch.no_grad()
def spread(stack):
    generator = torch.Generator().manual_seed(8)
    for name, parameter in stack.named_parameters():
        if "lora_B" in name and parameter.requires_grad:
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def gradients(model, pack, task, seed=0):
    torch.manual_seed(seed)
    model.zero_grad(set_to_none=True)
    loss = model(pack, task)
    loss.backward()
    return loss.detach(), {name: value.grad for name, value in model.trainable().items() if value.grad is not None}


@pytest.mark.parametrize("task", ["qa", "mlm"])
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("kernels", CHOICES)
def test_a_fused_model_computes_what_the_plain_one_does(config, pack, tmp_path, kernels, method, task):
    plain, fused = (learner(config, method, tmp_path) for _ in range(2))
    names = list(fused.state_dict())
    choose.fuse(fused, kernels)
    assert list(fused.state_dict()) == names
    (loss, expected), (found, ours) = gradients(plain, pack, task), gradients(fused, pack, task)
    torch.testing.assert_close(found, loss, rtol=1e-5, atol=0)
    scale = max(value.norm().item() for value in expected.values())
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert (ours[name] - value).norm().item() < 1e-5 * scale, name
    plain.eval(), fused.eval()
    with torch.no_grad():
        torch.testing.assert_close(fused.stack(pack), plain.stack(pack), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernels", CHOICES)
@pytest.mark.slow
def test_dropout_acts_follows_the_seed_and_is_recomputed_alike(config, pack, tmp_path, kernels):
    model = learner(config, "lora", tmp_path, dropout=0.2)
    choose.fuse(model, kernels)
    first, grads = gradients(model, pack, "qa", seed=1)
    again, same = gradients(model, pack, "qa", seed=1)
    other, _ = gradients(model, pack, "qa", seed=2)
    assert first == again != other
    assert all(torch.equal(grads[name], same[name]) for name in grads)
    model.stack.encoder.gradient_checkpointing_enable({"use_reentrant": False})
    saved, checkpointed = gradients(model, pack, "qa", seed=1)
    assert saved == first and all(torch.equal(grads[name], checkpointed[name]) for name in grads)
    model.eval()
    assert gradients(model, pack, "qa", seed=1)[0] == gradients(model, pack, "qa", seed=2)[0]


def test_the_masks_of_both_implementations_are_the_same(config, pack, tmp_path):
    if not (COMPILER and choose.find_spec("triton")):
        pytest.skip("needs a C++ compiler and triton")
    losses = []
    for kernels in ("compile", "triton"):
        model = learner(config, "full", tmp_path, dropout=0.2)
        model.stack.encoder.embeddings.dropout.p = 0.0      # torch's own under triton
        choose.fuse(model, kernels)
        losses.append(gradients(model, pack, "qa", seed=5)[0])
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("kernels", CHOICES)
def test_two_steps_of_training_with_kernels_end_as_without(config, tmp_path, kernels, method):
    """adam_epsilon is far above the rounding of gradients that are 0, which AdamW would blow up to whole steps."""
    ids = [np.array(words, dtype=np.int32) for words in ([5, 9, 11, 7], [6, 10], [8, 13, 12], [14, 6])]
    features = SimpleNamespace(input_ids=ids, labels={"start": np.array([1, 0, 2, 1]), "end": np.array([3, 1, 2, 1])})
    settings = TrainingSettings(lr=1e-2, epochs=1, features_per_step=2, tokens_per_pack=16, keep="last",
                                warmup_ratio=0.0, adam_epsilon=1e-3, weight_decay=0.1)
    ends, records = [], []
    for name in ("eager", kernels):
        model = learner(config, method, tmp_path)
        del model.heads["mlm"]
        before = {key: value.clone() for key, value in model.trainable().items()}
        choose.fuse(model, name)
        records.append(train(model, {"qa": features}, settings, seed=3, folder=tmp_path / name))
        ends.append({key: value.detach() - before[key] for key, value in model.trainable().items()})
    assert records[0].steps == records[1].steps == 2
    assert records[1].first_loss == pytest.approx(records[0].first_loss, rel=1e-5)
    for key, moved in ends[0].items():
        assert (ends[1][key] - moved).abs().max() < 1e-3 * max(moved.abs().max(), 1e-2), key
    assert max(moved.abs().max() for moved in ends[0].values()) > 1e-2


def test_eager_changes_nothing(config, tmp_path):
    model = learner(config, "lora", tmp_path)
    before = [type(module) for module in model.modules()]
    choose.fuse(model, "eager")
    assert [type(module) for module in model.modules()] == before


def test_another_activation_stays_its_own(config, tmp_path):
    config.hidden_act = "relu"
    model = learner(config, "full", tmp_path)
    choose.fuse(model, "compile" if COMPILER else "triton")
    assert not any(isinstance(module, layers.FusedIntermediate) for module in model.modules())


def test_two_trained_adapters_are_refused():
    map_ = LoraLinear(torch.nn.Linear(4, 4), "a", LoraConfig(r=2), r=2, lora_alpha=2)
    map_.update_layer("b", r=2, lora_alpha=2, config=LoraConfig(r=2))
    map_.set_adapter(["a", "b"])
    map_.__class__ = layers.FusedLora
    with pytest.raises(AssertionError, match="a, b are trained at once"):
        map_(torch.zeros(1, 4))


def test_auto(monkeypatch):
    monkeypatch.setattr(choose, "has_headers", lambda: True)
    monkeypatch.setattr(choose, "compiled_from", lambda: ())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert choose.resolve("auto", miniature=False, device="cpu") == "eager"
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/c++" if name == "c++" else None)
    assert choose.resolve("auto", miniature=False, device="cpu") == "compile"
    assert choose.resolve("auto", miniature=True, device="cpu") == "eager"
    assert choose.resolve("compile", miniature=True, device="cpu") == "compile"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(choose, "find_spec", lambda name: object())
    assert choose.resolve("auto", miniature=False, device="cuda") == "triton"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert choose.resolve("auto", miniature=False, device="cuda") == "eager"


def test_compiling_needs_pythons_headers(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(choose, "has_headers", lambda: False)
    assert choose.resolve("auto", miniature=False, device="cpu") == "eager"
    with pytest.raises(UsageError, match="needs Python's headers.*python3-dev"):
        choose.resolve("compile", miniature=False, device="cpu")


def test_compiling_needs_folders_without_spaces(monkeypatch):
    """In them torch's compiler fails in mid-training: a path with spaces gets the plain encoder."""
    monkeypatch.setattr(choose, "has_headers", lambda: True)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(choose, "compiled_from", lambda: ("/home/ada/my clone/torch", "/usr/include", "/tmp"))
    assert choose.resolve("auto", miniature=False, device="cpu") == "eager"
    with pytest.raises(UsageError, match="folders without spaces.*'/home/ada/my clone/torch'"):
        choose.resolve("compile", miniature=False, device="cpu")


@pytest.mark.parametrize(("asked", "device", "told"), [
    ("triton", "cpu", "--kernels triton needs a CUDA device; use --kernels auto or eager here"),
    ("compile", "cuda", "on a CUDA device there is triton"),
    ("compile", "cpu", "a C\\+\\+ compiler"),
])
def test_a_choice_that_cannot_work_is_refused(monkeypatch, asked, device, told):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match=told):
        choose.resolve(asked, miniature=False, device=device)
