"""A tiny training: a module for the tests, and a process to be killed (python tiny_training.py FOLDER STEP)."""

import dataclasses
import math
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from transformers import XLMRobertaConfig

from peft_stilts.digest import key_of
from peft_stilts.model.encoder import random_encoder
from peft_stilts.model.heads import new_head
from peft_stilts.model.learner import Learner
from peft_stilts.model.stack import full, lora
from peft_stilts.spec import LoraSettings, TrainingSettings
from peft_stilts.train.checkpoint import Checkpoints
from peft_stilts.train.loop import train

SETTINGS = TrainingSettings(
    lr=3e-3, epochs=2.5, features_per_step=5, tokens_per_pack=40, select_every_steps=2, patience=3, weight_decay=0.1
)


def shape(dropout=0.0):
    return XLMRobertaConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=40,
        type_vocab_size=1,
        pad_token_id=1,
        initializer_range=0.2,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )


def make_features(count=22, seed=0):
    rng = np.random.default_rng(seed)
    ids = [rng.integers(5, 40, rng.integers(1, 20)).astype(np.int32) for _ in range(count)]
    return SimpleNamespace(
        input_ids=ids,
        labels={
            "start": np.array([rng.integers(0, len(x)) for x in ids]),
            "end": np.array([rng.integers(0, len(x)) for x in ids]),
            "class": np.array([int(x[0]) % 3 for x in ids]),
        },
    )


def make_learner(method="full", dropout=0.0, form="classification"):
    encoder = random_encoder(shape(dropout), 1)
    new = LoraSettings(rank=4, alpha=8.0, dropout=dropout)
    stack = full(encoder) if method == "full" else lora(encoder, [], new, "toy", seed=2)
    return Learner(stack, {"toy": new_head(form, shape(dropout), 3, seed=3)})


def weights(learner):
    return {name: value.detach().clone() for name, value in learner.named_parameters()}


def selector(learner, features):
    """A score that the weights decide and that goes up and down: a sine of the loss on the first features."""
    from peft_stilts.data.pack import make_pack

    pack = make_pack(features, range(6), 1)

    def select():
        assert not learner.training
        with torch.no_grad():
            return math.sin(40 * learner(pack, "toy").item())

    return select


def main(folder, step):
    """Train with dropout and early stopping, die after `step` steps; a digest of record and weights."""
    learner, features = make_learner(dropout=0.2), make_features()

    def progress(done, total, tokens, loss):
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    record = train(
        learner, {"toy": features}, SETTINGS, seed=7, folder=Path(folder), select=selector(learner, features),
        progress=progress,
    )
    told = dataclasses.asdict(record) | {"seconds": 0, "peak_memory_bytes": 0}
    return key_of([told, {name: value.tolist() for name, value in weights(learner).items()}])


if __name__ == "__main__":
    Checkpoints.due = lambda self: True
    print(main(sys.argv[1], int(sys.argv[2])))
