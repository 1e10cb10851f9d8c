"""Bundles with weights of chance and invented scores for the tests of model cards, and cards as readers see them."""

import dataclasses
import re

import torch
from markdown_it import MarkdownIt
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig

from peft_stilts.digest import canonical_json
from peft_stilts.model.adapter_io import save_encoder, save_head
from peft_stilts.model.bundle import write_bundle
from peft_stilts.model.encoder import load_encoder, random_encoder
from peft_stilts.model.heads import new_head
from peft_stilts.model.quantize import NF4, quantize
from peft_stilts.model.stack import lora
from peft_stilts.spec import LoraSettings

SHAPE = dict(vocab_size=60, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
             max_position_embeddings=40, type_vocab_size=1, pad_token_id=1)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = {"id": "FacebookAI/xlm-roberta-base", "revision": COMMIT}
SQUAD = {"repo": "rajpurkar/squad", "config": "plain_text", "split": "train", "revision": COMMIT, "rows": None}
STAGE = {"name": "squad", "tasks": ["squad"], "method": "lora", "policy": "stack", "seed": 1, "limit_train": None,
         "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0}, "settings": {"lr": 0.001, "epochs": 2.0}}
FORMS = {"squad": ("span", 2, ()), "mnli": ("classification", 3, ("yes", "perhaps", 'no"')),
         "panx": ("tagging", 7, ("O", *"ABCDEF")), "hellaswag": ("choice", 4, ())}


def make_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(f"w{i}" for i in range(50))]
    whole = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    whole.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=whole, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
                                   unk_token="<unk>", mask_token="<mask>")


def make_encoder(folder):
    config = XLMRobertaConfig(**SHAPE, initializer_range=0.3)
    save_encoder(random_encoder(config, 3).model, make_tokenizer(), folder)
    return folder


def encoder_of(folder, quantized=False):
    found = load_encoder(folder)
    if not quantized:
        return found
    return dataclasses.replace(found, model=quantize(found.model, torch.float32),
                               identity=found.identity | {"quantization": NF4})


def make_bundle(folder, out, stages, scores=(), base=(), method="lora", recipe=(STAGE,), data=(SQUAD,), licence="mit",
                rank=4):
    """A bundle with an adapter and a head for each of `stages` (task, policy), with any values in its weights."""
    adapters, heads = [], {}
    for depth, (task, policy) in enumerate(stages, 1):
        encoder = encoder_of(folder, method == "qlora")
        maps = ("query", "value") if depth == 2 else LoraSettings().target_maps
        shape = LoraSettings(rank, 8.0, 0.0, target_maps=maps)
        made = lora(encoder, adapters, shape, task, seed=depth, policy=policy,
                    method="lora" if method == "qlora" else method)
        generator = torch.Generator().manual_seed(depth)
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
        place = out.parent / f"{out.name}-parts" / str(depth)
        made.save_adapter(place / "adapter")
        adapters.append(place / "adapter")
        if task in FORMS:
            form, count, labels = FORMS[task]
            save_head(new_head(form, encoder.config, count, seed=depth), place / "head", task, labels)
            heads[task] = (place / "head", depth)
    return write_bundle(out, made.identity | {"shape": {name: getattr(encoder.config, name) for name in SHAPE}}
                        | dict(base), adapters, heads, recipe=list(recipe), data=list(data),
                        versions={"torch": "2.13.0", "peft": "0.21.2"}, licence=licence, scores=list(scores))


def score_rows(values, **more):
    """Rows of the results table: {(intermediate, target, language, seed): score}."""
    metric = {"xquad": "f1", "xnli": "accuracy", "tatoeba": "accuracy", "tydiqa": "f1"}
    return [{"recipe": "squad" if name != "none" else "none", "scale": "base", "base_model": HUB["id"],
             "base_revision": COMMIT, "data_source": "hub", "protocol": "jiant", "method": "lora",
             "method_config": canonical_json({"precision": "fp32"}), "policy": "stack", "intermediate": name,
             "intermediate_variant": "", "target": target, "target_variant": "", "language": language,
             "split": "validation" if target != "xnli" else "test", "metric": metric[target], "primary": True,
             "seed": seed, "score": score, "examples": 100, "stage_key": f"key-{name}-{seed}"} | more
            for (name, target, language, seed), score in values.items()]


SCORES = score_rows({
    (name, target, code, seed): 40.0 + 3 * seed * (name == "squad") + seed + 7 * (code == "en") + (target == "xnli")
    for name in ("none", "squad") for target in ("xquad", "xnli") for code in ("en", "de", "el") for seed in (1, 2, 3)})


def body(text):
    return text.split("\n---\n", 1)[1]


def tables(text):
    """The tables of a card as a Markdown renderer sees them: lists of rows of cells, each as the text shown."""
    found, cell = [], False
    for token in MarkdownIt("commonmark").enable("table").parse(body(text)):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and cell:
            found[-1][-1].append("".join(part.content for part in token.children))
        cell = token.type in ("td_open", "th_open")
    return found


def table_with(text, first):
    return next(table for table in tables(text) if table[0][0] == first)


def blocks(text):
    """The pieces of Python for PEFT alone (the first piece of a card is for peft_stilts)."""
    return re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)[1:]
