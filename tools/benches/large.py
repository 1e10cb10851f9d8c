"""Time and memory of training steps of an XLM-R Large with random weights, and of a SQuAD adapter as a bundle.

`large`: one optimizer step of 24 x 1024, 250,002 words, on SQuAD-length packs; prints seconds, peak memory beside the
estimate of `--plan_only`, and the share of the machine's matrix-product rate. `bundle`: its size, and the seconds to
export, verify and load it.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import XLMRobertaConfig

from benches.contestant import TOOL
from benches.report import GIB, resolved
from peft_stilts.data.encode import Features
from peft_stilts.digest import sha256_file
from peft_stilts.grid.base import find_base, load_tokenizer
from peft_stilts.grid.estimate import product_rate
from peft_stilts.grid.memory import Load, encoder_parameters, training_memory
from peft_stilts.kernels.choose import fuse
from peft_stilts.machine import device
from peft_stilts.model import stack as stacks
from peft_stilts.model.adapter_io import save_encoder, save_head
from peft_stilts.model.bundle import SHAPE, read_bundle, write_bundle
from peft_stilts.model.encoder import load_encoder, random_encoder
from peft_stilts.model.heads import new_head
from peft_stilts.model.learner import Learner
from peft_stilts.model.quantize import quantize
from peft_stilts.share.load import load
from peft_stilts.spec import LoraSettings, TrainingSettings
from peft_stilts.train.loop import train


def shape_of(layers: int) -> XLMRobertaConfig:
    """XLM-R Large of `layers` layers; it has 24."""
    return XLMRobertaConfig(vocab_size=250002, hidden_size=1024, num_hidden_layers=layers, num_attention_heads=16,
                            intermediate_size=4096, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)


def large(arguments: argparse.Namespace) -> None:
    """The steps of each method of `--method`, in a process of its own, so that its peak memory is its own."""
    flags = [f"--{flag}={getattr(arguments, flag)}"
             for flag in ("features", "length", "tokens_per_pack", "precision", "kernels", "layers", "steps")]
    flags += ["--gradient_checkpointing"] if arguments.gradient_checkpointing else []
    for name in arguments.method:
        subprocess.run([sys.executable, str(TOOL), "step", f"--method={name}", *flags], check=True)


def step(arguments: argparse.Namespace) -> None:
    """The measured steps of one method (what `large` runs in a process of its own)."""
    config, (method,) = shape_of(arguments.layers), arguments.method
    features, steps, precision = arguments.features, arguments.steps, arguments.precision
    settings = TrainingSettings(epochs=1.0, features_per_step=features, tokens_per_pack=arguments.tokens_per_pack,
                                keep="last", gradient_checkpointing=arguments.gradient_checkpointing)
    lora = None if method == "full" else LoraSettings()
    generator = np.random.default_rng(1)
    lengths = np.clip(generator.normal(arguments.length, 60, features * steps).astype(int), 32, 384)
    ids = [generator.integers(4, config.vocab_size, size).astype(np.int32) for size in lengths]
    spans = generator.integers(1, 32, (2, len(ids)))
    data = Features(ids, {"start": spans[0], "end": spans[1]}, np.arange(len(ids), dtype=np.int64))
    fullest = max(lengths.reshape(steps, features), key=sum).astype(float)
    load = Load(min(int(fullest.sum()), settings.tokens_per_pack), float((fullest**2).sum() / fullest.sum()),
                len(np.unique(np.concatenate(ids))))
    kernels, = resolved([arguments.kernels])
    estimate = training_memory(config, settings, lora, precision=precision, method=method, kernels=kernels, load=load)
    encoder = random_encoder(config, seed=1)
    if method == "qlora":
        quantize(encoder.model.to(device()), torch.bfloat16 if precision == "bf16" else torch.float32)
    stack = stacks.lora(encoder, [], lora, "squad", 1) if lora else stacks.full(encoder)
    learner = Learner(stack, {"squad": new_head("span", config, 2, 1)})
    fuse(learner, kernels)
    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        ticks = [time.perf_counter()]
        record = train(learner, {"squad": data}, settings, seed=1, folder=Path(folder), precision=precision,
                       progress=lambda *told: ticks.append(time.perf_counter()))
    times = [after - before for before, after in zip(ticks, ticks[1:])]
    seconds, tokens = statistics.median(times[1:] or times), record.tokens / steps
    rate = product_rate(config.hidden_size, config.intermediate_size, 1024, precision)
    products = (4 if lora else 6) * encoder_parameters(config)[1] * tokens
    peak = record.peak_memory_bytes
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{method}, {precision}, {kernels}, {where}: a step of {features} features, {tokens:,.0f} tokens in packs of "
          f"{settings.tokens_per_pack:,}: {seconds:.3g} s, {tokens / seconds:,.0f} tokens/s; peak memory "
          f"{peak / GIB:.1f} GiB (estimate {estimate / GIB:.1f}); {record.trainable_parameters:,} parameters trained; "
          f"{products / seconds / rate:.2f} of the measured product rate ({rate / 1e9:.0f} GFLOP/s)", flush=True)


def bundle(arguments: argparse.Namespace) -> None:
    """Export, verify and load a SQuAD adapter (rank 16, random weights) of an XLM-R Large of `--layers` layers (random
    weights, saved as a folder): size of the bundle, and seconds of each; `read base` is the base's loading alone."""
    config, seconds = shape_of(arguments.layers), {}

    def timed(name: str, work):
        begin = time.perf_counter()
        found = work()
        seconds[name] = time.perf_counter() - begin
        return found

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tokenizer = load_tokenizer(find_base("mini"))
        save_encoder(random_encoder(config, 1, tokenizer).model, tokenizer, folder / "base")
        encoder = timed("read base", lambda: load_encoder(folder / "base"))
        identity = encoder.identity | {"revision": sha256_file(folder / "base" / "model.safetensors")}
        stack = stacks.lora(type(encoder)(encoder.model, tokenizer, identity), [], LoraSettings(), "squad", 1)
        stack.save_adapter(folder / "adapter")
        save_head(new_head("span", config, 2, 1), folder / "head", "squad")
        shape = {name: getattr(config, name) for name in SHAPE}
        timed("export", lambda: write_bundle(
            folder / "bundle", identity | {"shape": shape}, [folder / "adapter"], {"squad": (folder / "head", 1)},
            recipe=[], data=[], versions={}, licence="unknown", scores=[]))
        timed("verify", lambda: read_bundle(folder / "bundle"))
        timed("load", lambda: load(str(folder / "bundle"), base=str(folder / "base")))
        sizes = [sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file())
                 for name in ("bundle", "base")]
    print(f"XLM-R Large, {arguments.layers} layers, random weights: bundle {sizes[0] / 1e6:.1f} MB, base "
          f"{sizes[1] / 1e6:,.0f} MB ({sizes[0] / sizes[1]:.1%})")
    print(", ".join(f"{name} {value:.1f} s" for name, value in seconds.items()))
