"""Code for a model card that loads a bundle's stack with transformers and PEFT alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from peft_stilts.grid.base import MINIATURE
from peft_stilts.model.adapter_io import HEAD
from peft_stilts.share.card_facts import Facts, plain
from peft_stilts.share.load import STOCK

MODELS = {form: kind.__name__ for form, (kind, _) in STOCK.items()} | {"mlm": "XLMRobertaForMaskedLM"}
"""Form of a head -> the class of transformers that computes the same from the same tensors."""
EXAMPLES = {"span": '"Where is the tower?", "The tower is in Paris."', "mlm": '"Paris is a <mask>."',
            "classification": '"The tower is in Paris.", "The tower is in France."', "tagging": '"Paris is a city ."'}
ENCODER = "path/to/the/encoder"
"""What a reader must replace where the base is not on the hub."""


def stock_code(facts: Facts, task: str | None) -> str:
    """Python that ends with `model` and `tokenizer`: the stack up to the adapter that the head of `task` was trained
    with, and that head; or, for None, the whole stack and no head.

    What is folded into the base, and what acts on top of it, is as in model/stack.py; a quantised base as in
    model/quantize.py. Without a hub id in `facts` the code reads the folder it runs in.
    """
    depth = len(facts.adapters) if task is None else facts.bundle.depth_of(task)
    head = None if task is None else facts.heads[task]
    kind = MODELS[head["form"]] if head else "XLMRobertaModel"
    lines = [*_imports(facts, kind), "", *_sources(facts), *_model(facts, kind, head), ""]
    lines += _adapters(facts, depth, "model.roberta" if head else "model")
    if head:
        lines += ["model.roberta = encoder", "",
                  f"head = load_file(f{_text('{folder}/' + facts.bundle.heads[task].path + '/' + HEAD)})",
                  "unexpected = model.load_state_dict(head, strict=False).unexpected_keys",
                  "assert not unexpected, unexpected"]
    else:
        lines += ["model = encoder"]
    return "\n".join([*lines, "model.eval()", "", *_example(head)])


def _imports(facts: Facts, kind: str) -> list[str]:
    wanted = ["AutoTokenizer", *["BitsAndBytesConfig"] * _quantized(facts), kind]
    return [*["from importlib.resources import files", ""] * (facts.bundle.base["id"] == MINIATURE),
            "import torch",
            *["from huggingface_hub import snapshot_download"] * bool(facts.repo),
            "from peft import PeftModel",
            *["from safetensors.torch import load_file"] * (kind != "XLMRobertaModel"),
            f"from transformers import {', '.join(wanted)}"]


def _sources(facts: Facts) -> list[str]:
    base = facts.bundle.base
    lines = [f"folder = snapshot_download({_text(facts.repo)})" if facts.repo else 'folder = "."  # this folder']
    if facts.base_model:
        return [*lines, f"base, revision = {_text(base['id'])}, {_text(base['revision'])}"]
    if base["id"] == MINIATURE:
        return [*lines, 'base, revision = str(files("peft_stilts") / "miniature" / "weights"), None']
    return [*lines, f'base, revision = "{ENCODER}", None  # see the SHA-256 of its model.safetensors above']


def _model(facts: Facts, kind: str, head: Mapping[str, Any] | None) -> list[str]:
    """`tokenizer` and `model`: the class with the head's number of outputs over the plain or the 4-bit base."""
    lines, more = ["tokenizer = AutoTokenizer.from_pretrained(base, revision=revision)"], ""
    if _quantized(facts):
        lines += ['quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",',
                  "    bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32,",
                  '    llm_int8_skip_modules=["classifier", "qa_outputs", "lm_head"])  # a head is not quantised']
        more += ", quantization_config=quantization"
    if head is None:
        more += ", add_pooling_layer=False"
    elif head["form"] in ("classification", "tagging", "choice"):
        more += f", num_labels={1 if head['form'] == 'choice' else int(head['num_labels'])}"
    lines += [f"model = {kind}.from_pretrained(", f"    base, revision=revision, dtype=torch.float32{more})"]
    if head and head["labels"] and head["form"] in ("classification", "tagging"):
        lines += [f"model.config.id2label = dict(enumerate({_text([plain(label) for label in head['labels']])}))"]
    return lines


def _adapters(facts: Facts, depth: int, place: str) -> list[str]:
    """`encoder`: the lowest `depth` adapters on `place`, folded into it where the next was trained on top of that."""
    lines, acting, where = [], [], place
    for entry, adapter in list(zip(facts.bundle.adapters, facts.adapters))[:depth]:
        folder = f"f{_text('{folder}/' + entry.path)}"
        if adapter.policy == "merge" and acting:
            lines += [f"encoder = encoder.merge_and_unload(safe_merge=True, adapter_names={_text(acting)})"]
            acting, where = [], "encoder"
        if acting:
            lines += [f"encoder.load_adapter({folder}, {_text(entry.name)})"]
        else:
            lines += [f"encoder = PeftModel.from_pretrained({where}, {folder}, adapter_name={_text(entry.name)})"]
        acting = [*acting, entry.name]
    if len(acting) > 1:
        lines += ["# Without the next line only the first of them acts, and PEFT says nothing.",
                  f"encoder.base_model.set_adapter({_text(acting)}, inference_mode=True)"]
    return lines


def _example(head: Mapping[str, Any] | None) -> list[str]:
    """A first forward pass."""
    form = head["form"] if head else "tagging"
    if form == "choice":
        return ["# A row a choice (of any number); that with the highest logit is the answer.",
                'rows = tokenizer(["The tower is in"] * 2, ["Paris.", "water."], return_tensors="pt", padding=True)',
                "with torch.no_grad():", "    print(model(**rows).logits.view(1, -1))"]
    outcome = "last_hidden_state.shape" if head is None else "start_logits" if form == "span" else "logits"
    return [f'words = tokenizer({EXAMPLES[form]}, return_tensors="pt")', "with torch.no_grad():",
            f"    print(model(**words).{outcome})"]


def _quantized(facts: Facts) -> bool:
    return facts.bundle.base["quantization"] is not None


def _text(value: object) -> str:
    """A string, or a list of them, as Python with double quotes."""
    return json.dumps(value, ensure_ascii=False)
