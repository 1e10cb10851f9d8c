"""AdamW, its learning rate, and what counts as running out of memory."""

from __future__ import annotations

import gc
import math

import torch
from torch import nn

from peft_stilts.model.learner import Learner
from peft_stilts.spec import TrainingSettings


def rate(step: int, total: int, settings: TrainingSettings) -> float:
    """Share of the peak learning rate at step `step` (from 0): linear from 0 up, then linear down to 0 at `total`.

    As transformers' get_linear_schedule_with_warmup, with `warmup_steps`, or as its Trainer has it
    ceil(total * warmup_ratio) steps.
    """
    warmup = settings.warmup_steps or math.ceil(total * settings.warmup_ratio)
    return step / warmup if step < warmup else (total - step) / max(1, total - warmup)


def make_optimizer(learner: Learner, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW over the trainable parameters: no decay on biases, LayerNorm and DoRA's magnitudes (decay would pull them
    and with them the base's weights to 0), heads at `head_lr` where one is given.

    Each group keeps its peak learning rate as `peak`.
    """
    normed = {id(p) for m in learner.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in learner.trainable().items():
        plain = name.endswith("bias") or id(parameter) in normed or "lora_magnitude_vector" in name
        groups.setdefault((name.startswith("heads."), plain), []).append(parameter)
    options = []
    for (head, plain), parameters in groups.items():
        peak = settings.head_lr if head and settings.head_lr is not None else settings.lr
        decay = 0.0 if plain else settings.weight_decay
        options.append({"params": parameters, "lr": peak, "peak": peak, "weight_decay": decay})
    return torch.optim.AdamW(options, betas=settings.adam_betas, eps=settings.adam_epsilon, fused=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on a device or in the CPU's allocator."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    told = str(error)
    return isinstance(error, RuntimeError) and any(
        words in told for words in ("not enough memory", "can't allocate memory", "out of memory")
    )


def free_memory() -> None:
    """Give back what nothing refers to any more, models in reference cycles and the device's cache included."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
