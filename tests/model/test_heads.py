"""Packed equals padded: for every head, logits, loss and gradients are those of the Hugging Face model."""

import copy

import numpy as np
import pytest
import torch
import transformers

from peft_stilts.data.pack import make_pack
from peft_stilts.errors import UsageError
from peft_stilts.kernels.padding import pad
from peft_stilts.model.encoder import encode_pack, random_encoder
from peft_stilts.model.heads import HEADS, new_head
from peft_stilts.model.learner import Learner
from peft_stilts.model.stack import full

CASES = {
    "span": ("XLMRobertaForQuestionAnswering", {"qa_outputs": "qa_outputs"}, 2),
    "classification": ("XLMRobertaForSequenceClassification", {"classifier": "classifier"}, 3),
    "tagging": ("XLMRobertaForTokenClassification", {"classifier": "classifier"}, 5),
    "choice": ("XLMRobertaForMultipleChoice", {"classifier.out_proj": "classifier"}, 3),
    "mlm": ("XLMRobertaForMaskedLM", {"lm_head": "lm_head"}, 60),
}


def learner_for(form, config, num_labels, dtype=torch.float32):
    encoder = random_encoder(config, 0)
    head = new_head(form, config, num_labels, seed=1)
    if form == "mlm":
        head.tie(encoder.model.get_input_embeddings())
    return Learner(full(encoder), {"toy": head}).to(dtype).eval()


def padded_model(form, config, learner, dtype):
    """The Hugging Face model with the learner's weights, and its parameters' names in the learner's order."""
    kind, heads, num_labels = CASES[form]
    config = copy.deepcopy(config)
    config.num_labels = num_labels
    model = getattr(transformers, kind)._from_config(config, attn_implementation="eager").to(dtype).eval()
    pairs = {f"stack.model.{n}": f"roberta.{n}" for n, _ in learner.stack.model.named_parameters()}
    for ours, theirs in heads.items():
        module = learner.get_submodule(f"heads.toy.{ours}")
        pairs |= {f"heads.toy.{ours}.{n}": f"{theirs}.{n}" for n, _ in module.named_parameters()}
    if form == "choice":  # there the pooler does what the classification head's dense layer does
        pairs |= {f"heads.toy.classifier.dense.{n}": f"roberta.pooler.dense.{n}" for n in ("weight", "bias")}
    for ours, theirs in pairs.items():
        model.get_parameter(theirs).data.copy_(learner.get_parameter(ours).data)
    return model, pairs


def padded_batch(features, pack):
    lengths = pack.cu_seqlens.diff()
    labels = {
        name: value if len(value) == len(lengths) else pad(value, pack.cu_seqlens, pack.max_seqlen, -100)
        for name, value in pack.labels.items()
    }
    ids = pad(pack.input_ids, pack.cu_seqlens, pack.max_seqlen, 1)
    return ids, torch.arange(pack.max_seqlen) < lengths[:, None], labels


@pytest.mark.parametrize("form", CASES)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-11), (torch.float32, 2e-5)])
def test_packed_is_padded(form, config, features, dtype, close):
    learner = learner_for(form, config, CASES[form][2], dtype)
    model, pairs = padded_model(form, config, learner, dtype)
    pack = make_pack(features, range(12), padding_idx=1)
    ids, mask, labels = padded_batch(features, pack)
    loss = learner(pack, "toy") / learner.heads["toy"].count(pack)
    loss.backward()
    logits = learner.logits(pack, "toy")

    name = {"classification": "class", "tagging": "tags", "mlm": "words"}.get(form)
    if form == "span":
        out = model(ids, attention_mask=mask, start_positions=labels["start"], end_positions=labels["end"])
        # Hugging Face lets the softmax run over padding too: a sum over the real tokens is the definition here.
        theirs = torch.stack([out.start_logits, out.end_logits], -1)
        real = theirs.masked_fill(~mask[..., None], float("-inf"))
        answers = [labels["start"], labels["end"]]
        theirs_loss = sum(torch.nn.functional.cross_entropy(real[:, :, i], answers[i]) for i in range(2)) / 2
        theirs = theirs[mask]
    elif form == "choice":
        shaped = (4, 3, pack.max_seqlen)
        out = model(ids.view(shaped), attention_mask=mask.view(shaped), labels=labels["choice"][::3])
        theirs, theirs_loss = out.logits, out.loss
    else:
        out = model(ids, attention_mask=mask, labels=labels[name])
        theirs, theirs_loss = out.logits if form == "classification" else out.logits[mask], out.loss
    theirs_loss.backward()
    torch.testing.assert_close(logits, theirs, atol=close, rtol=close)
    torch.testing.assert_close(loss, theirs_loss, atol=close, rtol=close)
    for ours, other in pairs.items():
        if not ours.endswith("key.bias"):  # its true gradient is 0: softmax does not see a shift
            mine, yours = learner.get_parameter(ours).grad, model.get_parameter(other).grad
            assert (mine - yours).norm() <= close * (yours.norm() + 0.01), ours


def test_span_loss_of_equal_lengths_is_hugging_face_s(config, features):
    learner = learner_for("span", config, 2)
    model, _ = padded_model("span", config, learner, torch.float32)
    features.input_ids = [np.arange(5 + i, 11 + i, dtype=np.int32) for i in range(12)]
    features.labels = {"start": features.labels["start"] % 6, "end": features.labels["end"] % 6}
    pack = make_pack(features, range(12), 1)
    ids, mask, labels = padded_batch(features, pack)
    out = model(ids, attention_mask=mask, start_positions=labels["start"], end_positions=labels["end"])
    torch.testing.assert_close(learner(pack, "toy") / 12, out.loss)


@pytest.mark.parametrize("form", CASES)
def test_losses_add_up_over_packs(form, config, features):
    learner = learner_for(form, config, CASES[form][2])
    whole = make_pack(features, range(12), 1)
    parts = [make_pack(features, part, 1) for part in (range(6), range(6, 9), range(9, 12))]
    assert learner.heads["toy"].count(whole) == sum(learner.heads["toy"].count(part) for part in parts)
    torch.testing.assert_close(learner(whole, "toy"), sum(learner(part, "toy") for part in parts))


def test_masked_language_loss_needs_no_other_logits(config, features):
    learner = learner_for("mlm", config, 60)
    pack = make_pack(features, range(12), 1)
    torch.testing.assert_close(learner(pack, "toy"), learner.heads["toy"].loss_sum(learner.logits(pack, "toy"), pack))
    names = [name for name, _ in learner.named_parameters()]
    assert len(names) == len(set(names)) and "heads.toy.lm_head.decoder.weight" not in names


def test_hidden_layers(config, features):
    encoder = random_encoder(config, 0)
    encoder.model.eval()
    pack = make_pack(features, range(12), 1)
    ids, mask, _ = padded_batch(features, pack)
    # Without cu_seqlens the same module runs a usual padded batch.
    padded = encoder.model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    for layer in (0, 1, 2):
        torch.testing.assert_close(encode_pack(encoder.model, pack, layer), padded[layer][mask], atol=2e-5, rtol=1e-4)
    assert torch.equal(encode_pack(encoder.model, pack), encode_pack(encoder.model, pack, 2))


def test_fresh_weights_come_from_the_seed(config):
    state = torch.get_rng_state()
    for form, (_, _, labels) in CASES.items():
        one, same, other = (new_head(form, config, labels, seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(one[name], same[name]) for name in one)
        assert any(not torch.equal(one[name], other[name]) for name in one)
        assert all((value == 0).all() for name, value in one.items() if name.endswith("bias"))
    assert torch.equal(state, torch.get_rng_state())
    assert config.num_labels == 2
    with pytest.raises(UsageError, match="tagging"):
        HEADS["taging"]
