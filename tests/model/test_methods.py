"""LoRA, rsLoRA, DoRA and QLoRA in stacks: what is trained, kept, folded, continued, and refused."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from peft_stilts.digest import sha256_folder
from peft_stilts.errors import CheckpointError, UsageError
from peft_stilts.model.adapter_io import read_adapter, read_identity, save_head
from peft_stilts.model.encoder import load_encoder, random_encoder
from peft_stilts.model.heads import new_head
from peft_stilts.model.learner import Learner
from peft_stilts.model.quantize import check, dequantize, quantize
from peft_stilts.model.stack import lora
from peft_stilts.spec import ADAPTERS, NF4, LoraSettings, TrainingSettings
from peft_stilts.train.optim import make_optimizer

SHAPE = LoraSettings(rank=4, alpha=8.0, dropout=0.0)


def is_quantized(encoder):
    return any(type(parameter).__name__ == "Params4bit" for parameter in encoder.parameters())


def encoder_for(base, method):
    """The encoder as a run loads it for `method`."""
    encoder = load_encoder(base)
    if method != "qlora":
        return encoder
    quantize(encoder.model, torch.float32)
    return dataclasses.replace(encoder, identity=encoder.identity | {"quantization": NF4})


def trained(stack, pack, seed):
    """The stack after three steps of AdamW under a head, in evaluation mode."""
    head = new_head("span", stack.encoder.config, 2, seed)
    learner = Learner(stack, {"squad": head}).train()
    optimizer = make_optimizer(learner, TrainingSettings(lr=0.05))
    for _ in range(3):
        learner(pack, "squad").backward()
        optimizer.step()
        optimizer.zero_grad()
    return stack.eval()


def make(base, pack, folder, method, depth, policies=()):
    """Folders of `depth` adapters, each trained on those before by its policy (stack where none is given)."""
    folders = []
    for level in range(1, depth + 1):
        policy = policies[level - 1] if policies else "stack"
        stack = lora(encoder_for(base, method), folders, SHAPE, f"task{level}", level, method, policy)
        place = folder / f"{method}-{level}"
        trained(stack, pack, level).save_adapter(place)
        folders = [*(folders[:-1] if policy == "continue" else folders), place]
    return folders, stack


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("method", ADAPTERS)
def test_a_saved_stack_is_read_back_bit_for_bit(base, pack, tmp_path, method, depth):
    folders, stack = make(base, pack, tmp_path, method, depth)
    again = lora(encoder_for(base, method), folders, None)
    assert torch.equal(again(pack), stack(pack))
    assert again.describe() == f"stack: [{', '.join(f'{n}-task{n} (frozen)' for n in range(1, depth + 1))}]"
    adapter = read_adapter(folders[-1], stack.identity)
    assert (adapter.method, adapter.shape) == (method, SHAPE)
    assert len(adapter.parents) == depth - 1


@pytest.mark.parametrize("method", ADAPTERS)
def test_training_changes_the_last_adapter_alone(base, pack, tmp_path, method):
    folders, _ = make(base, pack, tmp_path, method, 1)
    before = sha256_folder(folders[0])
    stack = lora(encoder_for(base, method), folders, SHAPE, "task2", 2, method)
    names = {name for name, parameter in stack.named_parameters() if parameter.requires_grad}
    assert names and all(".2-task2." in name for name in names)
    assert len(names) == 2 * 6 * (3 if method == "dora" else 2)
    kept = {name: value.detach().clone() for name, value in stack.named_parameters() if name not in names}
    trained(stack, pack, 2)
    assert all(torch.equal(value, kept[name]) for name, value in stack.named_parameters() if name in kept)
    trained(stack, pack, 3).save_adapter(tmp_path / "above")
    assert sha256_folder(folders[0]) == before
    assert stack.describe() == "stack: [1-task1 (frozen), 2-task2 (train)]"


@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
def test_merged_parents_are_folded_in_again_when_it_is_loaded(base, pack, tmp_path, method):
    folders, stack = make(base, pack, tmp_path, method, 3, ("stack", "stack", "merge"))
    assert stack.describe() == ("stack: [1-task1 (folded into the base), 2-task2 (folded into the base), "
                                "3-task3 (train)]")
    assert read_identity(folders[2])["policy"] == "merge" and len(read_identity(folders[2])["parents"]) == 2
    again = lora(encoder_for(base, method), folders, None)
    assert torch.equal(again(pack), stack(pack)) and again.release() is None
    # What was folded computes what it computed before, up to rounding.
    below = lora(encoder_for(base, method), folders[:2], None)
    fresh = lora(encoder_for(base, method), folders[:2], SHAPE, "task3", 9, method, "merge")
    assert (fresh.eval()(pack) - below.eval()(pack)).abs().max() < 1e-5


@pytest.mark.parametrize("method", ADAPTERS)
def test_a_continued_adapter_starts_where_it_was_and_leaves_the_first_file_alone(base, pack, tmp_path, method):
    folders, first = make(base, pack, tmp_path, method, 1)
    before = sha256_folder(folders[0])
    stack = lora(encoder_for(base, method), folders, dataclasses.replace(SHAPE, dropout=0.2), "task2", 2, method,
                 "continue").eval()
    assert torch.equal(stack(pack), first(pack)) and stack.describe() == "stack: [1-task2 (train)]"
    assert not torch.equal(trained(stack, pack, 2)(pack), first(pack))
    stack.save_adapter(tmp_path / "on")
    assert read_identity(tmp_path / "on")["parents"] == [] and sha256_folder(folders[0]) == before
    assert torch.equal(lora(encoder_for(base, method), [tmp_path / "on"], None)(pack), stack.eval()(pack))
    other = dataclasses.replace(SHAPE, rank=2)
    with pytest.raises(CheckpointError, match=r"cannot continue .*'rank': 4.* asked for is .*'rank': 2"):
        lora(encoder_for(base, method), folders, other, "task2", 2, method, "continue")


def test_the_order_of_a_dora_stack_matters_and_merging_keeps_it(base, pack, tmp_path):
    folders, stack = make(base, pack, tmp_path, "dora", 2)
    states = stack(pack)
    names = [*stack.frozen, stack.trained]
    stack.model.base_model.set_adapter(names[::-1], inference_mode=True)
    assert (stack(pack) - states).abs().max() > 1e-3
    for order, equal in ((names, True), (names[::-1], False)):
        loaded = lora(encoder_for(base, "dora"), folders, None)
        loaded.model = loaded.model.merge_and_unload(safe_merge=True, adapter_names=[
            name for wanted in order for name in loaded.frozen if name == wanted])
        assert ((loaded(pack) - states).abs().max() < 1e-5) == equal


def test_dora_with_dropout_over_frozen_adapters_is_refused_for_what_peft_makes_of_it(base, pack, tmp_path):
    folders, _ = make(base, pack, tmp_path, "dora", 1)
    dropping = dataclasses.replace(SHAPE, dropout=1e-9)
    with pytest.raises(CheckpointError, match="DoRA with dropout 1e-09 over 1-task1 would be trained as if"):
        lora(encoder_for(base, "dora"), folders, dropping, "task2", 2, "dora")
    lora(encoder_for(base, "dora"), folders, dropping, "task2", 2, "dora", "merge")
    # The reason: a dropout that drops nothing changes what is computed, in training only.
    stack = lora(encoder_for(base, "dora"), folders, SHAPE, "task2", 2, "dora")
    trained(stack, pack, 2)
    for module in stack.encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    exact = stack.train()(pack)
    for module in stack.modules():
        if "2-task2" in getattr(module, "lora_dropout", {}):
            module.lora_dropout["2-task2"] = nn.Dropout(1e-9)
    assert (stack.train()(pack) - exact).abs().max() > 1e-3
    assert (stack.eval()(pack) - exact).abs().max() < 1e-5


def test_a_quantised_base_is_quantised_in_its_linear_maps_and_nowhere_else(base, pack):
    plain, made = load_encoder(base).model, quantize(load_encoder(base).model, torch.float32)
    check(made, torch.float32)
    assert is_quantized(made) and not is_quantized(plain)
    quantised = [name for name, parameter in made.named_parameters() if parameter.dtype == torch.uint8]
    assert len(quantised) == 2 * 6 and all(name.endswith("weight") for name in quantised)
    for name, parameter in made.named_parameters():
        if name not in quantised:
            assert parameter.dtype == torch.float32 and torch.equal(parameter, plain.get_parameter(name))
    stack = lora(encoder_for(base, "qlora"), [], SHAPE, "squad")
    adapter = [parameter for parameter in stack.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in adapter} == {torch.float32}
    bare = dequantize(made)
    assert not is_quantized(bare) and not torch.equal(bare.encoder.layer[0].output.dense.weight,
                                                      plain.encoder.layer[0].output.dense.weight)
    here = dataclasses.replace(load_encoder(base), model=bare)
    assert (lora(here, [], None)(pack) - lora(encoder_for(base, "qlora"), [], None)(pack)).abs().max() < 1e-5
    half = quantize(load_encoder(base).model, torch.bfloat16)
    check(half, torch.bfloat16)
    with pytest.raises(AssertionError, match="is not in torch.float32"):
        check(half, torch.float32)


def test_what_cannot_be_exact_is_refused(base, pack, tmp_path, config):
    plain, _ = make(base, pack, tmp_path, "lora", 1)
    four, _ = make(base, pack, tmp_path, "qlora", 1)
    with pytest.raises(CheckpointError, match="encoder here is .* quantised to nf4"):
        lora(encoder_for(base, "qlora"), plain, None)
    with pytest.raises(CheckpointError, match="trained on .* quantised to nf4.*; the encoder here is"):
        lora(encoder_for(base, "lora"), four, None)
    with pytest.raises(CheckpointError, match="cannot be folded exactly into a base of 4 bits"):
        lora(encoder_for(base, "qlora"), four, SHAPE, "task2", 2, "qlora", "merge")
    config.hidden_size, config.num_attention_heads = 12, 2
    with pytest.raises(UsageError, match="multiple of 64 weights.*--method lora"):
        quantize(random_encoder(config, 1).model, torch.float32)


def test_some_maps_only(base, pack, tmp_path):
    shape = LoraSettings(rank=2, alpha=4, dropout=0, target_maps=("value", "query", "output"))
    stack = lora(load_encoder(base), [], shape, "squad")
    names = {name.split(".lora_")[0].rpartition("layer.")[2] for name, p in stack.named_parameters() if p.requires_grad}
    assert names == {f"{layer}.{place}" for layer in (0, 1) for place in (
        "attention.self.query", "attention.self.value", "output.dense")}
    trained(stack, pack, 1).save_adapter(tmp_path / "some")
    assert read_adapter(tmp_path / "some", stack.identity).shape == shape
    assert torch.equal(lora(load_encoder(base), [tmp_path / "some"], None)(pack), stack(pack))


def test_a_changed_configuration_is_another_adapter(base, pack, tmp_path):
    (folder,), _ = make(base, pack, tmp_path, "lora", 1)
    path = folder / "adapter_config.json"
    plain = json.loads(path.read_text())
    for field, value in (("lora_alpha", 16), ("use_rslora", True), ("lora_dropout", 0.5)):
        path.write_text(json.dumps(plain | {field: value}))
        with pytest.raises(CheckpointError, match="adapter_config.json was changed: it says .*, identity.json says"):
            lora(load_encoder(base), [folder], None)


@pytest.mark.parametrize("method", ADAPTERS)
def test_a_released_base_serves_the_next_stack_as_a_fresh_one_would(base, pack, tmp_path, method):
    folders, stack = make(base, pack, tmp_path, method, 2)
    fresh = encoder_for(base, method)
    used = dataclasses.replace(fresh, model=stack.release())
    again = lora(used, folders[:1], None)
    assert torch.equal(again(pack), lora(fresh, folders[:1], None)(pack))
    assert again.describe() == "stack: [1-task1 (frozen)]"


def test_decay_does_not_touch_doras_magnitudes(base):
    stack = lora(load_encoder(base), [], SHAPE, "squad", 1, "dora")
    learner = Learner(stack, {"squad": new_head("span", stack.encoder.config, 2, 0)})
    groups = make_optimizer(learner, TrainingSettings(weight_decay=0.5)).param_groups
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    for name, parameter in learner.trainable().items():
        assert decay[id(parameter)] == (0.0 if "magnitude" in name or name.endswith("bias") else 0.5)
    save_head(learner.heads["squad"], base / "head", "squad", ["start", "end"])
    assert json.loads((base / "head" / "head.json").read_text())["labels"] == ["start", "end"]
