"""Estimates: parameters and features as they are, and a refusal that says what would fit."""

import dataclasses

import psutil
import pytest
import torch
from transformers import XLMRobertaConfig

from peft_stilts import store as stores
from peft_stilts.data.encode import encode_span
from peft_stilts.errors import Problems, UsageError
from peft_stilts.grid import estimate
from peft_stilts.grid.estimate import (
    GIB,
    Estimator,
    artefact_bytes,
    check_machine,
)
from peft_stilts.grid.memory import adapter_parameters, encoder_parameters, training_memory
from peft_stilts.grid.show import begin
from peft_stilts.model.encoder import random_encoder
from peft_stilts.model.stack import lora
from peft_stilts.results import STAGES
from peft_stilts.spec import LoraSettings, TrainingSettings

LARGE = XLMRobertaConfig(vocab_size=250002, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16,
                         intermediate_size=4096, max_position_embeddings=514, type_vocab_size=1)


@pytest.fixture
def plan(workshop, encoder, tmp_path):
    return workshop.plan(workshop.request(encoder, tmp_path / "runs", methods=("full", "lora")))


@pytest.fixture
def costs(monkeypatch):
    """How much memory and disk there is, in bytes."""

    def have(memory=10**15, disk=10**15):
        monkeypatch.setattr(estimate, "available_memory", lambda: memory)
        monkeypatch.setattr(psutil, "disk_usage", lambda place: type("Usage", (), {"free": disk}))

    return have


def problems(plan, stages=None):
    found = Problems()
    check_machine(plan, Estimator(plan), list(plan.stages.values()) if stages is None else stages, found)
    return found.messages


def test_parameters_are_those_of_the_real_model():
    config = XLMRobertaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
                              intermediate_size=80, max_position_embeddings=50, type_vocab_size=1)
    encoder = random_encoder(config, 1)
    assert sum(encoder_parameters(config)) == sum(value.numel() for value in encoder.model.parameters())
    stack = lora(encoder, [], LoraSettings(rank=5), "toy", seed=1)
    trained = sum(value.numel() for value in stack.parameters() if value.requires_grad)
    assert adapter_parameters(config, LoraSettings(rank=5)) == trained


def test_xlmr_large_has_the_known_size():
    assert sum(encoder_parameters(LARGE)) == pytest.approx(558.8e6, rel=0.002)      # 559.9 M with the pooler
    weights, adam = 4 * sum(encoder_parameters(LARGE)), 12 * sum(encoder_parameters(LARGE))
    few = TrainingSettings(tokens_per_pack=512)
    full, one = training_memory(LARGE, few, None), training_memory(LARGE, few, LoraSettings())
    assert weights + adam < full < weights + adam + 8 * GIB and weights < one < full
    assert training_memory(LARGE, TrainingSettings(tokens_per_pack=1024), None) > full
    usual = TrainingSettings()          # autocast's copies of the weights cost more than few activations save
    assert training_memory(LARGE, usual, None, precision="bf16") < training_memory(LARGE, usual, None)
    assert training_memory(LARGE, few, LoraSettings(), depth=2) > one
    assert artefact_bytes(LARGE, None) == weights and artefact_bytes(LARGE, LoraSettings()) < weights / 50


def test_features_and_tokens_are_counted_as_the_training_will_read_them(finished):
    """The stages table of a finished run says what was really read."""
    estimator, told = Estimator(finished.plan), STAGES.read(finished.runs).set_index("stage_key")
    for key, stage in finished.plan.stages.items():
        cost = estimator.cost(stage)
        passes = stage.settings.epochs if stage.kind == "train" else 1
        assert cost.exact and cost.tokens * passes == told.loc[key, "tokens"], stage.label
        assert cost.seconds > 0 and cost.memory > 0


def test_a_large_split_is_scaled_up_from_a_sample(plan, monkeypatch):
    stage = next(stage for stage in plan.stages.values() if stage.kind == "train")
    exact = Estimator(plan).cost(stage)
    monkeypatch.setattr(estimate, "SAMPLE", 8)
    about = Estimator(plan).cost(stage)
    assert exact.exact and not about.exact
    assert about.features == exact.features == 16 and about.tokens == pytest.approx(exact.tokens, rel=0.25)


def test_rows_shared_by_stages_are_counted_once(plan, monkeypatch):
    calls = []
    monkeypatch.setattr("peft_stilts.evaluate.predict.encode_span", lambda *args: calls.append(1) or encode_span(*args))
    estimator = Estimator(plan)
    for stage in plan.stages.values():
        estimator.cost(stage)
    # squad and tydiqa to train on; xquad in 3 languages, mlqa and tydiqa in 2 to score
    assert len(calls) == 2 + 3 + 2 + 2


def test_enough_memory_and_disk_is_no_problem(plan, costs):
    costs()
    assert problems(plan) == []


def test_too_little_memory_names_the_stage_the_sizes_and_what_would_fit(plan, costs):
    costs(memory=int(0.25 * GIB))
    told = problems(plan)
    assert len(told) == 1 and "GiB of memory and 0.2 GiB are free" in told[0] and told[0].startswith("`")
    assert "--scale mini" in told[0] or "A smaller --scale would fit" in told[0]


def test_lora_and_smaller_packs_and_base_are_offered_where_they_fit(plan, costs, monkeypatch):
    monkeypatch.setattr(estimate, "runtime_memory", lambda: 0)
    large = dataclasses.replace(plan, base=dataclasses.replace(plan.base, config=LARGE))
    stage = next(stage for stage in plan.stages.values() if stage.kind == "train" and stage.method == "full")
    settings = TrainingSettings(tokens_per_pack=1500)
    stage = dataclasses.replace(stage, settings=settings)
    base = XLMRobertaConfig(vocab_size=250002, hidden_size=768, num_hidden_layers=12, intermediate_size=3072,
                            max_position_embeddings=514, type_vocab_size=1)
    sizes = {"tokens_per_pack: 1024 in a copied recipe":
             training_memory(LARGE, dataclasses.replace(settings, tokens_per_pack=1024), None),
             "gradient_checkpointing: true in a copied recipe":
             training_memory(LARGE, dataclasses.replace(settings, gradient_checkpointing=True), None),
             "--method lora": training_memory(LARGE, settings, LoraSettings()),
             "--scale base": training_memory(base, settings, None), "--scale mini": 0}
    for memory in (GIB, *sizes.values()):
        told = estimate._what_fits(large, stage, memory).removeprefix("What would fit here: ").removesuffix(".")
        offered = [offer for offer in told.split(", ") if "384" not in offer]
        assert offered == [offer for offer, size in sizes.items() if size <= memory]


def test_too_little_disk_is_told_with_the_place(plan, costs, tmp_path):
    costs(disk=10**6)
    told = problems(plan)
    assert len(told) == 1 and f"of disk at {tmp_path} and 0.0 GiB are free; give another folder with --runs" in told[0]


def test_what_is_done_needs_neither_memory_nor_disk(finished, costs):
    costs(memory=0, disk=0)
    assert problems(finished.plan, []) == []
    begin(finished.plan)


def test_too_small_a_machine_stops_before_anything_is_written(plan, costs):
    costs(memory=10**6, disk=10**5)
    with pytest.raises(UsageError) as caught:
        begin(plan)
    assert len(caught.value.problems) == 2 and not stores.Store(plan.request.runs).root.exists()


def test_the_speed_of_this_machine_is_measured(monkeypatch):
    estimate.product_rate.cache_clear()
    rate = estimate.product_rate(64, 64, 128, "fp32")
    assert 1e7 < rate < 1e15
    monkeypatch.setattr(torch, "randn", lambda *args, **options: pytest.fail("measured twice"))
    assert estimate.product_rate(64, 64, 128, "fp32") == rate
