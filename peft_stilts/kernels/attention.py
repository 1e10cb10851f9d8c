"""Attention over packs, registered with transformers so that unmodified XLM-R modules run on packs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from peft_stilts.kernels.dropout import draw_seed
from peft_stilts.kernels.padding import pad, unpad

PACKED = "stilts_packed"  # the value of `attn_implementation`
BACKENDS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Not cuDNN's, which plans anew for every shape: seconds in all on an H100 where each pack has another longest one."""


def sequence_loop(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens: torch.Tensor,
    dropout: float,
    scaling: float,
) -> torch.Tensor:
    """One scaled_dot_product_attention a sequence: no padded work; the fastest tried on a CPU.

    `query`, `key`, `value` (1, heads, T, d) -> (1, T, heads, d). Reads `cu_seqlens` on the host.
    """
    lengths = cu_seqlens.diff().tolist()
    sequences = zip(query.split(lengths, dim=2), key.split(lengths, dim=2), value.split(lengths, dim=2), strict=True)
    parts = [scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling) for q, k, v in sequences]
    return torch.cat(parts, dim=2).transpose(1, 2)


def padded_batch(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    dropout: float,
    scaling: float,
) -> torch.Tensor:
    """Pad to (B, S), one masked scaled_dot_product_attention, unpad: few launches and no synchronisation, for CUDA.

    Shapes as in `sequence_loop`; only attention is computed on padding, the rest of the model is not.
    """
    total, width = query.shape[2], max_seqlen
    places = torch.arange(width, device=query.device)
    mask = places < cu_seqlens.diff()[:, None]
    q, k, v = (pad(x[0].transpose(0, 1), cu_seqlens, width, 0.0).transpose(1, 2) for x in (query, key, value))
    with sdpa_kernel(BACKENDS):
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None], dropout_p=dropout, scale=scaling)
    return unpad(out.transpose(1, 2), cu_seqlens, total)[None]


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seqlens: torch.Tensor | None = None,
    max_seqlen: int = 0,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function. With `cu_seqlens`, the one row is a pack; without, a usual padded batch.

    A pack's attention is that of the kernels which `choose.fuse` gave the module, or torch's own. Returns ((batch,
    tokens, heads, d), None).
    """
    if cu_seqlens is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if (ops := getattr(module, "ops", None)) is not None:
        parts = (x[0].transpose(0, 1) for x in (query, key, value))
        seed = draw_seed() if dropout else 0
        return ops.packed_attention(*parts, cu_seqlens, max_seqlen, scaling, dropout, seed)[None], None
    if query.device.type == "cpu":
        return sequence_loop(query, key, value, cu_seqlens, dropout, scaling), None
    return padded_batch(query, key, value, cu_seqlens, max_seqlen, dropout, scaling), None


def flash_or(own: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Packed attention of a CUDA device: torch's FlashAttention where it serves (16 bits, no dropout, head widths that
    it takes), else `own`, which has the same arguments: reference.packed_attention's, in (T, heads, d).

    The package flash-attn has dropout too, but a result must not depend on whether it happens to be installed.
    """

    def packed(query, key, value, cu_seqlens, max_seqlen, scaling, p, seed):
        served = query.dtype in (torch.bfloat16, torch.float16) and query.shape[-1] % 8 == 0 and len(query)
        if p or not served or query.device.type != "cuda":
            return own(query, key, value, cu_seqlens, max_seqlen, scaling, p, seed)
        from torch.nn.attention.varlen import varlen_attn  # there since torch 2.10

        return varlen_attn(query, key, value, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, scale=scaling)

    return packed


AttentionInterface.register(PACKED, attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
