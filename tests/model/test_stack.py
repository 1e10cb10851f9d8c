"""Stacks and adapter folders: what is trained, what is frozen, what is refused, and what stock PEFT makes of them."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import XLMRobertaModel

from peft_stilts.digest import sha256_file
from peft_stilts.errors import CheckpointError, StoreError
from peft_stilts.model.adapter_io import load_head, save_encoder, save_head
from peft_stilts.model.encoder import load_encoder, random_encoder
from peft_stilts.model.heads import new_head
from peft_stilts.model.learner import Learner
from peft_stilts.model.stack import full, lora
from peft_stilts.spec import LoraSettings

SETTINGS = LoraSettings(rank=4, alpha=8.0, dropout=0.3)


def stir(stack, seed):
    """Stands for training: any values in the trained adapter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in stack.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return stack.eval()


@pytest.fixture
def adapters(base, tmp_path):
    """Two adapters, the second trained on the first."""
    first = stir(lora(load_encoder(base), [], SETTINGS, "squad", seed=1), 1)
    first.save_adapter(tmp_path / "squad")
    second = stir(lora(load_encoder(base), [tmp_path / "squad"], SETTINGS, "tydiqa", seed=2), 2)
    second.save_adapter(tmp_path / "tydiqa")
    return [tmp_path / "squad", tmp_path / "tydiqa"]


def test_describe_and_trainable_sets(base, adapters):
    stack = lora(load_encoder(base), adapters[:1], SETTINGS, "tydiqa")
    assert stack.describe() == "stack: [1-squad (frozen), 2-tydiqa (train)]"
    names = [name for name, parameter in stack.named_parameters() if parameter.requires_grad]
    assert len(names) == 2 * 6 * 2 and all(".2-tydiqa." in name for name in names)
    assert not any("pooler" in name for name, _ in stack.named_parameters())
    only = lora(load_encoder(base), adapters, None)
    assert only.describe() == "stack: [1-squad (frozen), 2-tydiqa (frozen)]"
    assert not any(parameter.requires_grad for parameter in only.parameters())
    whole = full(load_encoder(base))
    assert all(parameter.requires_grad for parameter in whole.parameters())
    assert whole.describe() == "the whole encoder (train)"
    # PEFT's own switching makes every acting adapter trainable: the check sees it.
    stack.model.base_model.set_adapter(["1-squad", "2-tydiqa"])
    with pytest.raises(AssertionError, match="1-squad.* is trainable"):
        stack.check()
    stack.switch()
    stack.check()


def test_a_fresh_adapter_changes_no_bit(base, adapters, pack):
    plain = full(load_encoder(base)).eval()(pack)
    assert torch.equal(lora(load_encoder(base), [], SETTINGS, "squad").eval()(pack), plain)
    below = lora(load_encoder(base), adapters[:1], None).eval()(pack)
    assert not torch.equal(below, plain)
    assert torch.equal(lora(load_encoder(base), adapters[:1], SETTINGS, "tydiqa").eval()(pack), below)


def test_no_adapter_begins_in_the_rows_of_the_one_below(base, tmp_path):
    def rows(stack):
        return {name.replace(f".{stack.trained}.", "."): value.clone() for name, value in stack.named_parameters()
                if "lora_A" in name and f".{stack.trained}." in name}

    first = lora(load_encoder(base), [], SETTINGS, "squad", seed=7)
    first.save_adapter(tmp_path / "first")
    second = lora(load_encoder(base), [tmp_path / "first"], SETTINGS, "squad", seed=7)
    assert len(rows(first)) == 12 and rows(first).keys() == rows(second).keys()
    assert not any(torch.equal(value, rows(second)[name]) for name, value in rows(first).items())
    again = rows(lora(load_encoder(base), [tmp_path / "first"], SETTINGS, "squad", seed=7))
    assert all(torch.equal(value, again[name]) for name, value in rows(second).items())


def test_training_leaves_frozen_bytes(base, adapters, pack, config):
    stack = lora(load_encoder(base), adapters[:1], SETTINGS, "tydiqa")
    learner = Learner(stack, {"toy": new_head("span", config, 2, 1)}).train()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    optimizer = torch.optim.AdamW(learner.trainable().values(), lr=0.01)
    for _ in range(10):
        optimizer.zero_grad()
        learner(pack, "toy").backward()
        optimizer.step()
    stack.check()
    changed = {name for name, value in learner.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(learner.trainable())


def test_dropout_of_a_frozen_adapter_is_off(base, adapters, pack):
    stack = lora(load_encoder(base), adapters, None).train()
    for module in stack.model.modules():
        if type(module) is torch.nn.Dropout:
            module.p = 0.0
    assert torch.equal(stack(pack), lora(load_encoder(base), adapters, None).eval()(pack))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_stock_peft_reads_the_folders(base, adapters, pack, tmp_path):
    ours = lora(load_encoder(base), adapters, None).eval()(pack)
    model = XLMRobertaModel.from_pretrained(base, add_pooling_layer=False)
    assert model.config._attn_implementation == "sdpa"  # our name for packed attention is not left in the folder
    stock = PeftModel.from_pretrained(model, adapters[0], adapter_name="one")
    stock.load_adapter(adapters[1], "two")
    stock.base_model.set_adapter(["one", "two"], inference_mode=True)
    stock.eval()
    for place in range(12):
        part = slice(pack.cu_seqlens[place], pack.cu_seqlens[place + 1])
        alone = stock(input_ids=pack.input_ids[None, part]).last_hidden_state[0]
        torch.testing.assert_close(ours[part], alone, atol=2e-5, rtol=1e-4)
    values = json.loads((adapters[1] / "adapter_config.json").read_text())
    assert values["base_model_name_or_path"] == str(base) and values["revision"] == "local"
    told = json.loads((adapters[1] / "identity.json").read_text())
    assert told["base"]["sha256"] == sha256_file(base / "model.safetensors")
    first = sha256_file(adapters[0] / "adapter_model.safetensors")
    assert told["parents"] == [{"name": "1-squad", "task": "squad", "sha256": first}]


def test_adapter_of_another_base_names_both(base, adapters, config, tokenizer, tmp_path):
    save_encoder(random_encoder(config, 4).model, tokenizer, tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"base.*the encoder here is .*other"):
        lora(load_encoder(tmp_path / "other"), adapters[:1], None)


def test_adapter_of_another_stack_is_refused(base, adapters):
    with pytest.raises(CheckpointError, match="was trained on top of 1-squad .*not of the bare encoder"):
        lora(load_encoder(base), adapters[1:], None)
    with pytest.raises(CheckpointError, match="on top of the bare encoder, not of 1-squad"):
        lora(load_encoder(base), [adapters[0], adapters[0]], None)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (lambda t: t.pop(sorted(t)[0]), "missing: base_model"),
        (lambda t: t.update({"base_model.model.pooler.dense.lora_A.weight": torch.zeros(2)}), "unexpected: .*pooler"),
        (lambda t: t.update({sorted(t)[0]: torch.zeros(3, 3)}), r"misshapen: .*\(3, 3\) for \(4, "),
        (lambda t: t[sorted(t)[0]].fill_(float("inf")), "not finite: "),
    ],
)
def test_wrong_adapter_tensors_are_named(base, adapters, how, told):
    path = adapters[0] / "adapter_model.safetensors"
    tensors = load_file(path)
    how(tensors)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="is damaged: its sha256 is"):
        lora(load_encoder(base), adapters[:1], None)
    identity = json.loads((adapters[0] / "identity.json").read_text()) | {"sha256": sha256_file(path)}
    (adapters[0] / "identity.json").write_text(json.dumps(identity))
    with pytest.raises(CheckpointError, match=told):
        lora(load_encoder(base), adapters[:1], None)


def test_pickled_or_foreign_adapters_are_refused(base, adapters):
    path = adapters[0] / "adapter_model.safetensors"
    path.rename(adapters[0] / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="adapter_model.bin is not read"):
        lora(load_encoder(base), adapters[:1], None)
    (adapters[0] / "identity.json").unlink()
    with pytest.raises(CheckpointError, match="has no identity.json"):
        lora(load_encoder(base), adapters[:1], None)


@pytest.mark.parametrize(
    ("field", "value"),
    [("init_lora_weights", "olora"), ("target_modules", ["query"]), ("use_dora", True), ("use_rslora", True),
     ("modules_to_save", ["pooler"]), ("rank_pattern", {"query": 2}), ("alpha_pattern", {"query": 2}), ("bias", "all"),
     ("fan_in_fan_out", True), ("layers_to_transform", [0]), ("lora_bias", True), ("of_a_later_peft", 1),
     ("lora_dropout", 1.5), ("r", 0), ("r", "4"), ("init_lora_weights", None)],
)  # fmt: skip
def test_an_adapter_that_asks_for_more_than_plain_lora_is_refused(base, adapters, field, value):
    path = adapters[0] / "adapter_config.json"
    plain = json.loads(path.read_text())
    path.write_text(json.dumps(plain | {"a_new_switch": False, "task_type": "FEATURE_EXTRACTION"}))
    lora(load_encoder(base), adapters[:1], None)
    path.write_text(json.dumps(plain | {field: value}))
    with pytest.raises(CheckpointError, match=f"adapter_config.json.*({field}|dropout|rank|dora)"):
        lora(load_encoder(base), adapters[:1], None)


def test_an_encoder_that_cannot_be_written_names_its_folder(config, tokenizer, tmp_path, monkeypatch):
    def full(folder):
        raise Exception("No space left on device (os error 28)")

    monkeypatch.setattr(tokenizer, "save_pretrained", full)
    with pytest.raises(StoreError, match="an encoder cannot be written: No space left on device"):
        save_encoder(random_encoder(config, 3).model, tokenizer, tmp_path / "an encoder")


def test_heads_on_disk(tmp_path, config):
    for form, labels in (("span", 2), ("classification", 3), ("mlm", 60)):
        head = new_head(form, config, labels, seed=5)
        if form == "mlm":
            head.tie(random_encoder(config, 0).model.get_input_embeddings())
        save_head(head, tmp_path / form, task="anli")
        back = load_head(tmp_path / form, config, "anli", form)
        assert back.num_labels == head.num_labels
        tied = "lm_head.decoder.weight"
        assert all(torch.equal(v, back.state_dict()[n]) for n, v in head.state_dict().items() if n != tied)
    with pytest.raises(CheckpointError, match="holds the span head of 'anli'; asked for was the span head of 'squad'"):
        load_head(tmp_path / "span", config, "squad", "span")
    path = tmp_path / "span/head.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_head(tmp_path / "span", config, "anli", "span")
