"""The 4-bit base of QLoRA: the linear maps of the encoder's layers in nf4, everything else as it was."""

from __future__ import annotations

import copy

import torch
from torch import nn

from peft_stilts.errors import UsageError
from peft_stilts.spec import NF4

SMALLEST_BLOCK = 64
"""bitsandbytes quantises blocks of 64 weights, so a map must have a multiple of it."""


def quantize(encoder: nn.Module, compute_dtype: torch.dtype) -> nn.Module:
    """Replace, in place, the six linear maps of every layer of an XLMRobertaModel by nf4 ones of bitsandbytes.

    Their products are computed in `compute_dtype`; the frozen embeddings and LayerNorms are held in it, too (biases
    as well). Nothing else is quantised: there is no head inside, and adapters are added afterwards, in float32. The
    weights are those of the encoder's device. Raises UsageError when a map does not divide into blocks.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    device = next(encoder.parameters()).device
    for layer in encoder.encoder.layer:
        for name, plain in [item for item in layer.named_modules() if isinstance(item[1], nn.Linear)]:
            if plain.weight.numel() % SMALLEST_BLOCK:
                raise UsageError(f"qlora needs maps of a multiple of {SMALLEST_BLOCK} weights; {name} has "
                                 f"{tuple(plain.weight.shape)}. Use --method lora with this encoder")
            made = Linear4bit(plain.in_features, plain.out_features, bias=plain.bias is not None, device="meta",
                              compute_dtype=compute_dtype, quant_type=NF4, compress_statistics=True)
            made.weight = Params4bit(plain.weight.detach(), requires_grad=False, quant_type=NF4,
                                     compress_statistics=True, module=made)
            made.bias = plain.bias
            # bitsandbytes would repack the weights at the first evaluation on some CPUs, with constants rounded to
            # bfloat16: another model than was trained, and another one than on other machines.
            made.support_avx512bf16_for_cpu = False
            layer.set_submodule(name, made.to(device))      # `to` is what quantises
    for module in encoder.modules():
        if not isinstance(module, Linear4bit):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(compute_dtype)
    check(encoder, compute_dtype)
    return encoder


def check(encoder: nn.Module, compute_dtype: torch.dtype) -> None:
    """Raises AssertionError unless exactly the layers' linear maps are nf4 and all else is in `compute_dtype`."""
    from bitsandbytes.nn import Linear4bit

    for name, module in encoder.named_modules():
        if isinstance(module, nn.Linear) != isinstance(module, Linear4bit):
            raise AssertionError(f"{name} is not quantised")
        if isinstance(module, Linear4bit):
            if not name.startswith("encoder.layer.") or module.weight.quant_state.quant_type != NF4:
                raise AssertionError(f"{name} should not be quantised so")
        elif any(parameter.dtype != compute_dtype for parameter in module.parameters(recurse=False)):
            raise AssertionError(f"{name} is not in {compute_dtype}")


@torch.no_grad()
def dequantize(encoder: nn.Module) -> nn.Module:
    """A copy of a quantised encoder with plain float32 linear maps of the very weights that it computes with: not those
    it was quantised from."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    plain = copy.deepcopy(encoder)
    for name, module in [item for item in plain.named_modules() if isinstance(item[1], Linear4bit)]:
        made = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
        made.weight.copy_(dequantize_4bit(module.weight.data, module.weight.quant_state))
        if module.bias is not None:
            made.bias.copy_(module.bias)
        plain.set_submodule(name, made)
    return plain.float()
