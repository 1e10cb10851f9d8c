"""The shipped encoder: its size, that it belongs to the world in this tree, and that it has learnt something."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaForMaskedLM

import peft_stilts.miniature
from peft_stilts.miniature.generators import rows_of
from peft_stilts.miniature.pretraining import IGNORED, SETTINGS, pretraining_examples
from peft_stilts.miniature.tokenizer import build_tokenizer
from peft_stilts.miniature.world import TONGUES

WEIGHTS = Path(peft_stilts.miniature.__file__).with_name("weights")
REMOTE = ("qae", "qaf", "qag", "qah", "qai")


@pytest.fixture(scope="module")
def pretrained():
    return XLMRobertaForMaskedLM.from_pretrained(WEIGHTS).eval()


@pytest.fixture(scope="module")
def untrained():
    torch.manual_seed(0)
    return XLMRobertaForMaskedLM(XLMRobertaConfig(**SETTINGS.model)).eval()


def test_it_is_small_and_holds_no_pickle():
    assert {path.name for path in WEIGHTS.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= 8_000_000
    assert not [path for path in WEIGHTS.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


def test_it_belongs_to_this_world(pretrained):
    shipped, built = AutoTokenizer.from_pretrained(WEIGHTS), build_tokenizer()
    assert shipped.get_vocab() == built.get_vocab()
    texts = [row["context"] for code in TONGUES for row in rows_of("google/xtreme", f"XQuAD.{code}", "validation")[:20]]
    assert shipped(texts)["input_ids"] == built(texts)["input_ids"]
    for name, value in SETTINGS.model.items():
        assert getattr(pretrained.config, name) == value
    assert pretrained.lm_head.decoder.weight is pretrained.roberta.embeddings.word_embeddings.weight


@torch.no_grad()
def retrieved(model: XLMRobertaForMaskedLM, iso: str) -> float:
    """Share of the foreign sentences whose nearest English one (cosine, mean of layer 3) is the translation."""
    tokenizer = build_tokenizer()
    rows = rows_of("google/xtreme", f"tatoeba.{iso}", "validation")
    means = []
    for column in ("source_sentence", "target_sentence"):
        batch = tokenizer([row[column] for row in rows], padding=True, return_tensors="pt")
        hidden = model.roberta(**batch, output_hidden_states=True).hidden_states[3]
        weights = batch["attention_mask"][..., None]
        means.append(torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1))
    return ((means[0] @ means[1].T).argmax(1) == torch.arange(len(rows))).double().mean().item()


def test_it_aligns_the_remote_languages_as_an_untrained_one_does_not(pretrained, untrained):
    learnt, by_chance = (sum(retrieved(model, iso) for iso in REMOTE) / 5 for model in (pretrained, untrained))
    assert learnt > 2 * by_chance and learnt > 0.2


@torch.no_grad()
def test_it_predicts_masked_words(pretrained, untrained):
    inputs, labels = pretraining_examples(build_tokenizer(), tokens=10_000)
    right = {"pretrained": 0, "untrained": 0}
    for shown, label in zip(inputs, labels, strict=True):
        for name, model in (("pretrained", pretrained), ("untrained", untrained)):
            predicted = model(torch.from_numpy(shown).long()[None]).logits[0].argmax(-1).numpy()
            right[name] += int((predicted == label)[label != IGNORED].sum())
    total = sum(int((label != IGNORED).sum()) for label in labels)
    assert right["pretrained"] > 0.5 * total > 10 * right["untrained"]
