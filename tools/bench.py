"""Time and memory of training steps, as ratios measured in the same run: `python tools/bench.py large`.

Every figure is of the machine at hand and of this run; nothing here is a test.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from pathlib import Path

GIB = 2**30


def large(*, method: tuple[str, ...] = ("full", "lora"), features: int = 8, length: int = 185,
          tokens_per_pack: int = 1536, precision: str = "fp32", layers: int = 24, steps: int = 1) -> None:
    """One optimizer step of a randomly initialised XLM-R Large (24 x 1024, 250,002 words) on SQuAD-length packs.

    Prints seconds, peak memory beside the estimate of `--plan_only`, and the share of the machine's matrix-product
    rate. Each method runs in a process of its own, so that its peak is its own.

    Args:
        method: full, lora or full,lora.
        features: features in the optimizer step.
        length: mean tokens of a feature; lengths are drawn around it, at most 384 (SQuAD v1.1 windows: mean 185).
        tokens_per_pack: tokens in one forward pass.
        precision: fp32 or bf16.
        layers: 24 is XLM-R Large; fewer for a quick try.
        steps: optimizer steps; with several, the median of all but the first is told (the first one warms up).
    """
    shape = {"features": features, "length": length, "tokens_per_pack": tokens_per_pack, "precision": precision,
             "layers": layers, "steps": steps}
    for name in [method] if isinstance(method, str) and "," not in method else list(method):
        flags = [f"--{flag}={value}" for flag, value in {"method": name, **shape}.items()]
        subprocess.run([sys.executable, str(Path(__file__).resolve()), "step", *flags], check=True)


def step(*, method: str, features: int, length: int, tokens_per_pack: int, precision: str, layers: int,
         steps: int) -> None:
    """The measured steps of one method (what `large` runs in a process of its own)."""
    import statistics
    import tempfile

    import numpy as np
    import torch
    from transformers import XLMRobertaConfig

    from peft_stilts.data.encode import Features
    from peft_stilts.grid.estimate import encoder_parameters, product_rate, training_memory
    from peft_stilts.model import stack as stacks
    from peft_stilts.model.encoder import random_encoder
    from peft_stilts.model.heads import new_head
    from peft_stilts.model.learner import Learner
    from peft_stilts.spec import LoraSettings, TrainingSettings
    from peft_stilts.train.loop import train

    config = XLMRobertaConfig(vocab_size=250002, hidden_size=1024, num_hidden_layers=layers,
                              num_attention_heads=16, intermediate_size=4096, max_position_embeddings=514,
                              type_vocab_size=1, layer_norm_eps=1e-5)
    settings = TrainingSettings(epochs=1.0, features_per_step=features, tokens_per_pack=tokens_per_pack,
                                keep="last")
    lora = LoraSettings() if method == "lora" else None
    estimate = training_memory(config, settings, lora, precision=precision)
    encoder = random_encoder(config, seed=1)
    stack = stacks.lora(encoder, [], lora, "squad", 1) if lora else stacks.full(encoder)
    learner = Learner(stack, new_head("span", config, 2, 1))
    generator = np.random.default_rng(1)
    lengths = np.clip(generator.normal(length, 60, features * steps).astype(int), 32, 384)
    ids = [generator.integers(4, config.vocab_size, size).astype(np.int32) for size in lengths]
    spans = generator.integers(1, 32, (2, len(ids)))
    data = Features(ids, {"start": spans[0], "end": spans[1]}, np.arange(len(ids), dtype=np.int64))
    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        ticks = [time.perf_counter()]
        record = train(learner, data, settings, seed=1, folder=Path(folder), precision=precision,
                       progress=lambda *told: ticks.append(time.perf_counter()))
    times = [after - before for before, after in zip(ticks, ticks[1:])]
    seconds, tokens = statistics.median(times[1:] or times), record.tokens / steps
    rate = product_rate(config.hidden_size, config.intermediate_size, 1024, precision)
    products = (4 if lora else 6) * encoder_parameters(config)[1] * tokens
    peak = record.peak_memory_bytes
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{method}, {precision}, {device}: a step of {features} features, {tokens:,.0f} tokens in packs of "
          f"{settings.tokens_per_pack:,}: {seconds:.3g} s, {tokens / seconds:,.0f} tokens/s; peak memory "
          f"{peak / GIB:.1f} GiB (estimate {estimate / GIB:.1f}); {record.trainable_parameters:,} parameters trained; "
          f"{products / seconds / rate:.2f} of the measured product rate ({rate / 1e9:.0f} GFLOP/s)", flush=True)


if __name__ == "__main__":
    import fire

    fire.Fire({"large": large, "step": step})
