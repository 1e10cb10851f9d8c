"""Make the miniature encoder again from nothing: generated text, a tokenizer, and the one training loop."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

from peft_stilts.data.encode import Features
from peft_stilts.digest import sha256_file
from peft_stilts.errors import UsageError
from peft_stilts.grid.base import miniature_folder
from peft_stilts.miniature.pretraining import SETTINGS, Pretraining, pretraining_examples
from peft_stilts.miniature.tokenizer import build_tokenizer
from peft_stilts.model import stack as stacks
from peft_stilts.model.encoder import random_encoder
from peft_stilts.model.heads import new_head
from peft_stilts.model.learner import Learner
from peft_stilts.progress import clock, of_training, progress
from peft_stilts.spec import TrainingSettings
from peft_stilts.store import new_folder
from peft_stilts.tasks.controls import MLM
from peft_stilts.train.loop import train

THREADS = 2
"""The number of threads is part of what is computed: another number gives other last bits, and so another file."""


def training_settings(settings: Pretraining) -> TrainingSettings:
    """The loop's settings for a pretraining run: one pass over the corpus, the last weights kept."""
    return TrainingSettings(
        lr=settings.lr, epochs=1.0, features_per_step=settings.sequences_per_step, tokens_per_pack=4096,
        warmup_ratio=settings.warmup, weight_decay=settings.weight_decay, adam_betas=settings.betas,
        max_grad_norm=settings.clip, keep="last")


def build(out: Path, settings: Pretraining = SETTINGS) -> None:
    """Write encoder, MLM head and tokenizer to the new folder `out`, as XLMRobertaForMaskedLM's files.

    On the same type of CPU the file has the same SHA-256 every time; an interrupted build goes on where it stopped.
    Raises UsageError when `out` holds something already.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} holds something already; give a new folder with --out")
    work = out.with_name(f".{out.name}.work")
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        tokenizer = build_tokenizer()
        print(f"tokenizer of {len(tokenizer):,} pieces; generating {settings.tokens:,} tokens of text", flush=True)
        inputs, labels = pretraining_examples(tokenizer, settings)
        features = Features(inputs, {"words": labels}, np.arange(len(inputs), dtype=np.int64))
        config = XLMRobertaConfig(**settings.model)
        encoder = random_encoder(config, settings.seed, tokenizer)
        head = new_head("mlm", config, config.vocab_size, settings.seed)
        head.tie(encoder.model.get_input_embeddings())
        learner = Learner(stacks.full(encoder), {MLM: head})
        with progress("pretraining", int(features.lengths.sum()), "tokens") as step:
            record = train(learner, {MLM: features}, training_settings(settings), seed=settings.seed, folder=work,
                           progress=of_training(step), say=print)
    finally:
        torch.set_num_threads(threads)
    save(learner, config, tokenizer, out)
    shutil.rmtree(work, ignore_errors=True)
    made, shipped = (sha256_file(folder / "model.safetensors") for folder in (out, miniature_folder()))
    print(f"wrote {out} in {clock(record.seconds)}, loss {record.first_loss:.2f} to {record.last_loss:.2f}")
    print(f"SHA-256 {made}, " + ("as the shipped encoder's" if made == shipped else
                                 f"the shipped encoder's is {shipped} (made on another CPU type or library version)"))


def save(learner: Learner, config: XLMRobertaConfig, tokenizer, out: Path) -> None:
    """Write the folder in one step: whoever sees it sees all of it."""
    model = XLMRobertaForMaskedLM(config)
    weights = {f"roberta.{name}": value for name, value in learner.stack.encoder.state_dict().items()}
    weights |= {f"lm_head.{name}": value for name, value in learner.heads[MLM].lm_head.state_dict().items()}
    model.load_state_dict(weights, strict=True)
    with new_folder(out) as draft:
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
