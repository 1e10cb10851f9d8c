"""Memory at the peak of a training step, added up from what it holds: arithmetic, compared with measurements."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch
from transformers import XLMRobertaConfig

from peft_stilts.machine import MOST_CREPT
from peft_stilts.spec import LoraSettings, TrainingSettings

NF4_BYTES = 0.5 + (8 + 32 / 256) / 64 / 8
"""bytes a weight: 4 bits, and for 64 weights a constant of 8 bits, for 256 of those one of 32 (arXiv 2305.14314)"""
KEPT = {
    ("eager", "full"): ((72.25, 12), (50.25, 12)), ("eager", "lora"): ((116.25, 12), (86.25, 12)),
    ("eager", "dora"): ((188.25, 12), (122.25, 12)), ("compile", "full"): ((64.25, 4), (48.25, 2)),
    ("compile", "lora"): ((64.25, 4), (40.25, 2)), ("compile", "dora"): ((180.25, 4), (112.25, 2)),
    ("triton", "full"): ((64.25, 0), (48.25, 0)), ("triton", "lora"): ((64.25, 0), (40.25, 0)),
    ("triton", "dora"): ((180.25, 0), (112.25, 0))}
"""(kernels, method) -> in fp32 and in 16 bits, bytes that a layer keeps for the backward pass, per token and unit of
width, and per token, head and token that it attends to. Counted on the CPU from the tensors that autograd saves
(tests/grid/test_memory.py); triton's are those of compile less the attention's, which its kernel makes again."""
KEPT_ON_CUDA = {"full": ((94.5, 0), (57.5, 0)), "lora": ((114, 0), (68.6, 0)), "dora": ((188, 0), (122, 0))}
"""The same for eager on CUDA, where attention is another: what docs/measured.md has of packs of 5,746 tokens on an
H100, less all else that is added up here; DoRA's is a guess."""
BACKWARD = 40
"""bytes per token and unit of width that the backward pass of the highest layer holds besides: the gradients of its
result, of the wide map's result and input, and a copy of each where two are added"""
FORWARD = 64
"""the same of the forward pass with `compile`, whose freed temporaries (the wide map's input and result, and a copy)
stay with the process, and which few blocks of the backward pass fit: measured at 4 layers of 1024 (docs/speed.md)"""
STATE_BYTES = {"adamw": 8, "adamw_paged": 8, "adamw_8bit": 2, "adamw_paged_8bit": 2}
"""optimizer -> bytes a trained weight of its two moments"""


@dataclass(frozen=True)
class Load:
    """What a step of a training puts into memory: `pack`, tokens of its fullest pack; `context`, how many tokens one
    attends to, the mean over tokens; `words`, different words in the data (None: not known, and all word embeddings
    are taken to be trained)."""

    pack: int
    context: float
    words: int | None = None

    @classmethod
    def largest(cls, settings: TrainingSettings) -> Load:
        """Full packs of features half as long as they may be, when the data are not known."""
        return cls(settings.tokens_per_pack, settings.max_length / 2)


def encoder_parameters(config: XLMRobertaConfig) -> tuple[int, int]:
    """Parameters of the embeddings and of all layers together (no pooler)."""
    h, f = config.hidden_size, config.intermediate_size
    embeddings = (config.vocab_size + config.max_position_embeddings + config.type_vocab_size + 2) * h
    return embeddings, config.num_hidden_layers * (4 * (h * h + h) + 2 * h * f + f + h + 4 * h)


def adapter_parameters(config: XLMRobertaConfig, lora: LoraSettings, method: str = "lora") -> int:
    """Parameters of one adapter: A and B of every map it is on, and DoRA's magnitudes, one an output."""
    h, f = config.hidden_size, config.intermediate_size
    sizes = {"intermediate": (h, f), "output": (f, h)}
    maps = [sizes.get(name, (h, h)) for name in lora.target_maps]
    magnitudes = sum(out for _, out in maps) if method == "dora" else 0
    return config.num_hidden_layers * (lora.rank * sum(map(sum, maps)) + magnitudes)


def training_memory(config: XLMRobertaConfig, settings: TrainingSettings, lora: LoraSettings | None, depth: int = 1,
                    precision: str = "fp32", method: str = "lora", kernels: str = "eager", load: Load | None = None,
                    device: str | None = None) -> int:
    """Bytes at the peak of a training step: weights, moments, gradients, and the activations of a pack. In a step of
    one pack gradients come as activations go, but measured peaks (docs/speed.md) are those of both: blocks that one
    leaves seldom fit the other.

    Weights are float32 (4-bit those of qlora's layers), `depth` adapters among them. `device`: `cpu` or `cuda`, where
    it is not this machine's; the runtime's own memory counts where it is this machine's CPU. `compile` has what the C
    library keeps besides (see KeptMemory).
    """
    load = load or Load.largest(settings)
    embeddings, layers = encoder_parameters(config)
    adapter = adapter_parameters(config, lora, method) if lora else 0
    weights = 4 * embeddings + (NF4_BYTES if method == "qlora" else 4) * layers + 4 * depth * adapter
    trained = adapter
    if lora is None:
        words = min(load.words or config.vocab_size, config.vocab_size)
        trained = layers + embeddings - (config.vocab_size - words) * config.hidden_size
        weights += 4 * words * config.hidden_size if words < config.vocab_size else 0
    if precision != "fp32" and method != "qlora":
        weights += 2 * layers       # autocast's copies, which the backward pass needs as well
    gradients, moments = 4 * trained, STATE_BYTES[settings.optimizer] * trained
    kept = activations(config, settings, lora, precision, method, kernels, load, device)
    held = weights + moments + gradients + kept + (runtime_memory() if device is None else 0)
    return int(held * (MOST_CREPT if kernels == "compile" else 1))


def activations(config: XLMRobertaConfig, settings: TrainingSettings, lora: LoraSettings | None, precision: str,
                method: str, kernels: str, load: Load, device: str | None = None) -> float:
    """Bytes of a pack's activations when its backward pass begins."""
    kind = "full" if lora is None else "dora" if method == "dora" else "lora"
    cuda = torch.cuda.is_available() if device is None else device == "cuda"
    table = KEPT_ON_CUDA[kind] if cuda and kernels == "eager" else KEPT[kernels, kind]
    width, context = table[precision != "fp32"]
    rank = (4 if precision == "fp32" else 2) * lora.rank * len(lora.target_maps) if lora else 0
    a_layer = width * config.hidden_size + context * config.num_attention_heads * load.context + rank
    deep = config.num_hidden_layers
    if settings.gradient_checkpointing:         # each layer's input, and one layer whole, made again
        a_layer, deep = a_layer + deep * 4 * config.hidden_size, 1
    passing = BACKWARD + (FORWARD if kernels == "compile" else 0)
    return load.pack * (deep * a_layer + passing * config.hidden_size)


def runtime_memory() -> int:
    """Bytes that Python and the libraries hold already where the model will be; none of a CUDA device's."""
    return 0 if torch.cuda.is_available() else psutil.Process().memory_info().rss
