"""AdamW in its kinds, its learning rate, gradient clipping, and what counts as running out of memory."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from peft_stilts.errors import TrainingError
from peft_stilts.model.learner import Learner
from peft_stilts.model.vocabulary import TrimmedEmbedding, Vocabulary
from peft_stilts.spec import TrainingSettings

BLOCK = 2**18
"""Numbers that are decayed at a time through all steps on the CPU: 1 MiB, which its caches hold."""


def rate(step: int, total: int, settings: TrainingSettings) -> float:
    """Share of the peak learning rate at step `step` (from 0): linear from 0 up, then linear down to 0 at `total`.

    As transformers' get_linear_schedule_with_warmup, with `warmup_steps`, or as its Trainer has it
    ceil(total * warmup_ratio) steps.
    """
    warmup = settings.warmup_steps or math.ceil(total * settings.warmup_ratio)
    return step / warmup if step < warmup else (total - step) / max(1, total - warmup)


def check_optimizer(name: str) -> None:
    """Raises TrainingError for a paged kind without a CUDA device."""
    if "paged" in name and not torch.cuda.is_available():
        raise TrainingError(f"optimizer {name} pages to a CUDA device's host, and there is none here; choose adamw, or "
                            "adamw_8bit for less memory.")  # fmt: skip


def make_optimizer(learner: Learner, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters: no decay on biases, LayerNorm and DoRA's magnitudes (decay would pull them
    and with them the base's weights to 0), heads at `head_lr` where one is given.

    Each group keeps its peak learning rate as `peak`. Of the 8-bit kinds, embeddings have 32-bit moments: the words of
    a batch get few and large gradients (Dettmers et al. 2022, arXiv 2110.02861, section 2.3). TrainingError for a paged
    kind without a CUDA device.
    """
    check_optimizer(settings.optimizer)
    normed = {id(p) for m in learner.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    looked_up = {id(p) for m in learner.modules() if isinstance(m, nn.Embedding | TrimmedEmbedding)
                 for p in m.parameters()}  # fmt: skip
    bits = 8 if settings.optimizer.endswith("8bit") else 32
    groups: dict[tuple[bool, bool, int], list[nn.Parameter]] = {}
    for name, parameter in learner.trainable().items():
        plain = name.endswith("bias") or id(parameter) in normed or "lora_magnitude_vector" in name
        kind = name.startswith("heads."), plain, 32 if id(parameter) in looked_up else bits
        groups.setdefault(kind, []).append(parameter)
    options = []
    for (head, plain, wide), parameters in groups.items():
        peak = settings.head_lr if head and settings.head_lr is not None else settings.lr
        decay = 0.0 if plain else settings.weight_decay
        options.append({"params": parameters, "lr": peak, "peak": peak, "weight_decay": decay, "optim_bits": wide})
    return _adamw(options, settings, "paged" in settings.optimizer)


def _adamw(options: list[dict], settings: TrainingSettings, paged: bool = False) -> torch.optim.Optimizer:
    """torch's fused AdamW or bitsandbytes' over these groups."""
    shape = {"betas": settings.adam_betas, "eps": settings.adam_epsilon}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(options, **shape, fused=True)
    import bitsandbytes  # seconds to import, and asked for rarely

    class AdamW(bitsandbytes.optim.AdamW):
        """`optim_bits` by group; bitsandbytes' own way is one table for the process, by id, which outlives a model."""

        def get_config(self, gindex: int, pindex: int, group: dict) -> dict:
            return super().get_config(gindex, pindex, group) | {"optim_bits": group["optim_bits"]}

    return AdamW(options, **shape, is_paged=paged)


@torch.no_grad()
def decay_(matrix: torch.Tensor, rates: Sequence[float], settings: TrainingSettings) -> None:
    """Do to a float32 `matrix`, in place, what steps at these learning rates do to parameters that have no gradient.

    Bit for bit: on the CPU every kind of AdamW here multiplies them by 1 - rate * weight_decay in float32 (a test
    compares). A CUDA kernel's order of operations and contractions are the compiler's, so there the optimizer itself
    makes the steps, with gradients and moments of zero; no one has compared that on a GPU yet.
    """
    if settings.weight_decay == 0:
        return
    flat = matrix.view(-1)
    if matrix.device.type != "cpu":
        for begin in range(0, len(flat), 64 * BLOCK):
            _steps_without_gradient(flat[begin : begin + 64 * BLOCK], rates, settings)
        return
    factors = [1 - rate * settings.weight_decay for rate in rates]
    factors = [factor for factor in factors if np.float32(factor) != 1]
    for begin in range(0, len(flat), BLOCK):
        block = flat[begin : begin + BLOCK]
        for factor in factors:
            block.mul_(factor)


def _steps_without_gradient(block: torch.Tensor, rates: Sequence[float], settings: TrainingSettings) -> None:
    """The optimizer's steps at these learning rates on `block`, a part of the parameters, with gradients of zero."""
    part = nn.Parameter(block)
    part.grad = torch.zeros_like(block)
    optimizer = _adamw([{"params": [part], "weight_decay": settings.weight_decay, "optim_bits": 32}], settings)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()


def clip(accelerator: Accelerator, parameters: Sequence[nn.Parameter], most: float, vocabulary: Vocabulary,
         words: Iterable[np.ndarray]) -> torch.Tensor:
    """Scale the gradients to an L2 norm of at most `most`, and return what it was, a scalar.

    `words`: arrays of the word numbers in the step. Of large word embeddings the norm is taken over the rows of these
    words, the others being zero: how a sum over a matrix is divided depends on its size, and the norm must not depend
    on whether the vocabulary is trimmed.
    """
    if not vocabulary.apart:
        return accelerator.clip_grad_norm_(parameters, most)
    others = [p.grad for p in parameters if p.grad is not None and p is not vocabulary.weight]
    norm = torch.nn.utils.get_total_norm([*others, vocabulary.gradients(words)])
    torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return norm


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
