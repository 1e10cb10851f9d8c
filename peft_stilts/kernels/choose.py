"""Which kernels compute an encoder: chosen explicitly, recorded in the stage key, put into a model by `fuse`."""

from __future__ import annotations

import os
import shutil
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaEmbeddings, XLMRobertaSelfAttention

from peft_stilts.errors import UsageError
from peft_stilts.kernels.attention import flash_or
from peft_stilts.kernels.layers import FUSED, FusedDropout, FusedIntermediate, FusedOutput
from peft_stilts.machine import keep_memory

COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True)
class Ops:
    """The ops that fused modules call; shapes and meaning as in kernels/reference.py. `dropout` None: torch's own."""

    residual_norm: Callable
    bias_gelu: Callable
    add_lora_: Callable
    packed_attention: Callable
    dropout: Callable | None = None
    linear_cross_entropy: Callable | None = None


def resolve(asked: str, miniature: bool, device: str) -> str:
    """`auto` made definite for encoders on `device` (cuda or cpu), any other choice checked.

    auto: eager for the miniature encoder, which is too small to gain (and whose scores stay comparable between
    machines); triton on a CUDA device of compute capability 8.0 or more; compile on a CPU with a C++ compiler, where a
    step of XLM-R takes seconds and the compilation, half a minute once a machine, is soon repaid; else eager.
    Raises UsageError for a choice that cannot work here.
    """
    if asked == "auto":
        here = (name for name in ("triton", "compile", "eager") if not lacking(name, device))
        return "eager" if miniature else next(here)
    if why := lacking(asked, device):
        raise UsageError(f"--kernels {asked} needs {why}; use --kernels auto or eager here")
    return asked


def lacking(kernels: str, device: str) -> str:
    """What a choice (spec.KERNELS) needs and is not here, in words; '' when nothing is lacking."""
    if kernels == "triton":
        if device != "cuda":
            return "a CUDA device"
        if torch.cuda.get_device_capability() < (8, 0):
            return "a CUDA device of compute capability 8.0 or more"
        return "" if find_spec("triton") else "the package triton (pip install triton)"
    if kernels == "compile":
        if device != "cpu":
            return "a CPU (on a CUDA device there is triton)"
        if not any(map(shutil.which, COMPILERS)):
            return f"a C++ compiler ({', '.join(COMPILERS)}; Debian: apt-get install g++)"
        if not has_headers():
            return "Python's headers, which torch compiles with (Debian: apt-get install python3-dev)"
        if spaced := [folder for folder in compiled_from() if " " in folder]:
            return f"folders without spaces, which torch's compiler cannot name to the C++ compiler ({spaced[0]!r})"
    return ""


def has_headers() -> bool:
    """Whether this Python's C headers are here."""
    return Path(sysconfig.get_path("include"), "Python.h").is_file()


def compiled_from() -> tuple[str, ...]:
    """The folders that torch's compiler writes into the C++ compiler's command, without quotes in torch 2.13."""
    cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir()
    return str(Path(torch.__file__).parent), sysconfig.get_path("include"), cache


def load(kernels: str) -> Ops | None:
    """The ops of a choice; None for eager. Imports what they need."""
    if kernels == "triton":
        from peft_stilts.kernels.fused import attention, cross_entropy, gelu, lora, norm

        return Ops(norm.residual_norm, gelu.bias_gelu, lora.add_lora_, flash_or(attention.packed_attention), None,
                   cross_entropy.linear_cross_entropy)
    if kernels == "compile":
        from peft_stilts.kernels import compiled

        keep_memory()
        return Ops(compiled.residual_norm, compiled.bias_gelu, compiled.add_lora_, compiled.packed_attention,
                   compiled.dropout)
    return None


def fuse(model: nn.Module, kernels: str) -> None:
    """Make the modules of an encoder, with or without adapters, and of its heads compute by `kernels` from now on.

    Weights, names and state dicts stay as they are: a module's class is changed, not the module (as
    torch.nn.utils.parametrize does). Nothing is done for eager.
    """
    ops = load(kernels)
    if ops is None:
        return
    for module in list(model.modules()):
        if (kind := FUSED.get(type(module))) is not None:
            if kind is FusedIntermediate and not _is_gelu(module.intermediate_act_fn):
                continue
            module.__class__ = kind
        elif isinstance(module, XLMRobertaEmbeddings) and ops.dropout is not None:
            module.dropout.__class__ = FusedDropout
            module.dropout.ops = ops
        if isinstance(module, (*FUSED.values(), FusedOutput, XLMRobertaSelfAttention)) or hasattr(module, "ops"):
            module.ops = ops


def _is_gelu(activation: nn.Module) -> bool:
    """Whether an activation is GELU by the error function, the only one that is fused."""
    at = torch.tensor([-1.5, 0.5])
    return torch.equal(activation(at), nn.functional.gelu(at))
