"""Bytes that each fused op and its eager version move, counted; on a CUDA machine their times too.

Both versions run forward and backward on fake tensors, which have shapes and no memory, so that the counts are of the
shapes of XLM-R Large on any machine. An operation of torch that is no view counts each tensor it reads or writes once;
a launch of a Triton kernel counts each tensor it is given, as often as `TIMES` says. What a cache serves a second
time (a bias for each row, a sequence's keys for each block of its queries) counts once in either version.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy, gelu, layer_norm, linear
from torch.utils._python_dispatch import TorchDispatchMode

LENGTHS = (64, 128, 185, 256, 384) * 4
"""Of a pack's sequences: 4,068 tokens; 185 is the mean of SQuAD's windows, 384 their longest."""
WIDTH, INNER, HEADS, WORDS, MASKED = 1024, 4096, 16, 250002, 610
"""XLM-R Large; the masked tokens are 15 % of the pack's."""
DROPOUT, LORA_DROPOUT, RANK, SCALE, EPS, SEED = 0.1, 0.05, 16, 2.0, 1e-5, 1

AHEAD = 10
"""Fills of 1 GiB before a run that is timed on a GPU: some 3 ms of an H100's"""
TIMES = {("cross_entropy_kernel", "logits"): ("GRADIENT", 3), ("up_grad_kernel", "dx"): ("ADD", 2)}
"""(kernel, argument) -> (flag, how often a launch with that flag reads or writes the tensor); all others: once."""
WRITES_ONLY = {"fill_", "zero_", "copy_", "zeros_like", "ones_like", "full_like"}
MOVES_NOTHING = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh"}


def size(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's distinct elements: an expanded dimension holds one."""
    distinct = [length for length, stride in zip(tensor.shape, tensor.stride()) if stride or not length]
    return torch.Size(distinct).numel() * tensor.element_size()


class Traffic(TorchDispatchMode):
    """Counts in `bytes` what the operations of torch under it move, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        library, _, name = operation._schema.name.partition("::")
        if library != "prim" and not operation.is_view and name not in MOVES_NOTHING:
            outputs = {argument.name for argument in operation._schema.arguments if argument.is_out}
            read = list(tensors((args, {key: value for key, value in (kwargs or {}).items() if key not in outputs})))
            if name in WRITES_ONLY:
                read = read[1:]
            distinct = {id(tensor): tensor for tensor in read}
            self.bytes += sum(map(size, distinct.values())) + sum(map(size, tensors(result)))
        return result

    def launch(self, kernel: str, arguments: dict[str, object]) -> None:
        """Count a kernel's launch; a tensor under two names (`dx` and `dresidual` that are one) is one tensor."""
        distinct = {}
        for name, value in arguments.items():
            if isinstance(value, torch.Tensor):
                flag, times = TIMES.get((kernel, name), (None, 1))
                distinct.setdefault(id(value), size(value) * (times if flag is None or arguments[flag] else 1))
        self.bytes += sum(distinct.values())


def tensors(value: object) -> Iterator[torch.Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors(part)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


@contextmanager
def launches(counted: Callable[[str, dict[str, object]], None], execute: bool = False) -> Iterator[None]:
    """Tell every launch of a Triton kernel to `counted`, as the kernel's name and its arguments by name; without
    `execute` nothing else happens at a launch."""
    from peft_stilts.kernels.fused import norm

    kind = type(norm.forward_kernel)        # compiled or interpreted
    original = kind.run

    def run(kernel, *args, grid, warmup, **kwargs):
        names = dict(zip(kernel.arg_names, args)) | {name: kwargs[name] for name in kernel.arg_names if name in kwargs}
        counted(kernel.__name__, names)
        return original(kernel, *args, grid=grid, warmup=warmup, **kwargs) if execute else None

    with mock.patch.object(kind, "run", run):
        yield


@dataclass(frozen=True)
class Case:
    """An op at a shape: `make(dtype, device)` gives the tensors that both versions take; some ask for a gradient."""

    name: str
    shape: str
    make: Callable[[torch.dtype, str], list[torch.Tensor]]
    eager: Callable[..., torch.Tensor]
    fused: Callable[..., torch.Tensor]


def both_ways(function: Callable[..., torch.Tensor], given: list[torch.Tensor], grad: torch.Tensor) -> None:
    """Forward and backward from `grad`, the result's; every tensor that asks for a gradient gets one."""
    torch.autograd.grad(function(*given), [tensor for tensor in given if tensor.requires_grad], grad)


def count(function: Callable[..., torch.Tensor], case: Case, dtype: torch.dtype) -> int:
    """Bytes that a version of an op moves forward and backward; nothing is computed."""
    traffic = Traffic()
    with FakeTensorMode(), launches(traffic.launch):
        given = case.make(dtype, "cpu")
        grad = torch.ones_like(function(*given))
        traffic.bytes = 0
        with traffic:
            both_ways(function, given, grad)
    return traffic.bytes


def dropout(x: torch.Tensor, p: float) -> torch.Tensor:
    """What torch's dropout runs on CUDA: one kernel that stores a mask. (On other devices it takes several.)"""
    return torch.native_dropout(x, p, True)[0]


class BiasInProduct(torch.autograd.Function):
    """A bias that a matrix product adds as it writes its result, at no cost; its gradient is a sum of its own."""

    @staticmethod
    def forward(ctx, x, bias):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad, grad.sum(0)


def eager_gelu(x, bias):
    return gelu(BiasInProduct.apply(x, bias))


def eager_norm(x, residual, weight, bias):
    return layer_norm(dropout(x, DROPOUT) + residual, weight.shape, weight, bias, EPS)


def eager_lora(result, x, frozen_a, frozen_b, a, b):
    """PEFT's: each adapter in turn."""
    result = result + linear(linear(x, frozen_a), frozen_b) * SCALE
    return result + linear(linear(dropout(x, LORA_DROPOUT), a), b) * SCALE


def eager_attention(query, key, value, cu_seqlens):
    """The pack padded to its longest sequence, then what torch's scaled_dot_product_attention runs on CUDA with a mask
    in float32: the memory-efficient kernel."""
    from peft_stilts.kernels.padding import pad, unpad

    longest = max(LENGTHS)
    padded = (pad(x, cu_seqlens, longest, 0.0).transpose(1, 2) for x in (query, key, value))
    inside = torch.arange(longest, device=query.device) < cu_seqlens.diff()[:, None]
    bias = torch.where(inside, 0.0, float("-inf")).to(query.dtype)[:, None, None]
    bias = bias.expand(len(cu_seqlens) - 1, query.shape[1], longest, longest)
    out = torch.ops.aten._scaled_dot_product_efficient_attention(*padded, bias, True, DROPOUT)[0]
    return unpad(out.transpose(1, 2), cu_seqlens, len(query))


def eager_cross_entropy(states, weight, bias, labels):
    return cross_entropy(linear(states, weight, bias).float(), labels, reduction="sum")


def fused_norm(x, residual, weight, bias):
    from peft_stilts.kernels.fused.norm import residual_norm

    return residual_norm(x, residual, weight, bias, EPS, DROPOUT, SEED)


def fused_gelu(x, bias):
    from peft_stilts.kernels.fused.gelu import bias_gelu

    return bias_gelu(x, bias)


def fused_lora(result, x, frozen_a, frozen_b, a, b):
    """The frozen adapters' B comes scaled, as kernels/layers.py gives it. Each call adds to the same memory."""
    from peft_stilts.kernels.fused.lora import add_lora_

    return add_lora_(result.detach(), x, frozen_a, frozen_b, a, b, SCALE, LORA_DROPOUT, SEED)


def fused_attention(query, key, value, cu_seqlens):
    from peft_stilts.kernels.fused.attention import packed_attention

    return packed_attention(query, key, value, cu_seqlens, max(LENGTHS), query.shape[-1] ** -0.5, DROPOUT, SEED)


def fused_cross_entropy(states, weight, bias, labels):
    from peft_stilts.kernels.fused.cross_entropy import linear_cross_entropy

    return linear_cross_entropy(states, weight, bias, labels)


def floats(dtype: torch.dtype, device: str, *shapes: tuple[int, ...], frozen: tuple[int, ...] = ()) -> list:
    """Small random tensors; all but those with the numbers `frozen` ask for their gradient."""
    return [(torch.randn(shape, dtype=dtype, device=device) * 0.1).requires_grad_(number not in frozen)
            for number, shape in enumerate(shapes)]


def cases() -> list[Case]:
    """The ops of one layer and of the MLM head over a pack."""
    tokens = sum(LENGTHS)

    def lora(dtype, device):
        shapes = (tokens, WIDTH), (tokens, WIDTH), (RANK, WIDTH), (WIDTH, RANK), (RANK, WIDTH), (WIDTH, RANK)
        result, *others = floats(dtype, device, *shapes, frozen=(0, 2, 3))
        return [result, *others]

    def attention(dtype, device):
        cu_seqlens = torch.tensor([0, *LENGTHS]).cumsum(0).int().to(device)
        return [*floats(dtype, device, *[(tokens, HEADS, WIDTH // HEADS)] * 3), cu_seqlens]

    def masked(dtype, device):
        labels = torch.randint(WORDS, (MASKED,)).to(device)
        return [*floats(dtype, device, (MASKED, WIDTH), (WORDS, WIDTH), (WORDS,)), labels]

    def norm(dtype, device):
        return floats(dtype, device, (tokens, WIDTH), (tokens, WIDTH), (WIDTH,), (WIDTH,))

    def wide(dtype, device):
        return floats(dtype, device, (tokens, INNER), (INNER,))

    return [
        Case("residual + dropout + LayerNorm", f"{tokens:,} x {WIDTH:,}", norm, eager_norm, fused_norm),
        Case("bias + GELU", f"{tokens:,} x {INNER:,}", wide, eager_gelu, fused_gelu),
        Case("LoRA map, one adapter frozen, one trained", f"{tokens:,} x {WIDTH:,} to {WIDTH:,}, rank {RANK}",
             lora, eager_lora, fused_lora),
        Case("attention of a pack", f"{len(LENGTHS)} sequences, {tokens:,} tokens, {HEADS} heads of {WIDTH // HEADS}",
             attention, eager_attention, fused_attention),
        Case("MLM head and cross-entropy", f"{MASKED:,} x {WIDTH:,} to {WORDS:,} words", masked,
             eager_cross_entropy, fused_cross_entropy),
    ]


def seconds(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of a piece of work: on the GPU, and of the processor that launches it.

    The GPU fills its cache with something else before each run, for so long that all launches are queued ahead and
    the processor's time is not part of its own.
    """
    other = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    on_gpu, launching = [], []
    for _ in range(3 + repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(AHEAD):
            other.zero_()
        begin.record()
        start = time.perf_counter()
        work()
        launching.append(time.perf_counter() - start)
        end.record()
        torch.cuda.synchronize()
        on_gpu.append(begin.elapsed_time(end) / 1000)
    return statistics.median(on_gpu[3:]), statistics.median(launching[3:])


def bandwidth(repeats: int) -> float:
    """Bytes a second that a copy of 1 GiB reads and writes."""
    source = torch.zeros(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2**31 / seconds(lambda: target.copy_(source), repeats)[0]


def measure(case: Case, dtype: torch.dtype, repeats: int, rate: float | None) -> dict[str, object]:
    """An op's row: bytes of both versions and their ratio; with `rate`, the memory's bytes a second, times too."""
    row = {"op": case.name, "shape": case.shape, "dtype": str(dtype).removeprefix("torch.")}
    versions = {"eager": case.eager, "fused": case.fused}
    for name, function in versions.items():
        row[f"{name}_bytes"] = count(function, case, dtype)
    row["ratio"] = row["eager_bytes"] / row["fused_bytes"]
    if rate is not None:
        for name, function in versions.items():
            given = case.make(dtype, "cuda")
            grad = torch.ones_like(function(*given))
            taken, launching = seconds(partial(both_ways, function, given, grad), 10 * repeats)
            row |= {f"{name}_seconds": taken, f"{name}_bandwidth": row[f"{name}_bytes"] / taken / rate,
                    f"{name}_launching_seconds": launching}
            del given, grad
    return row


def table(rows: list[dict[str, object]]) -> str:
    """The rows as text; where they were measured, times on the GPU, the fraction of the memory's bandwidth and the
    processor's time to launch."""
    lines = [f"{'op, forward and backward':<44} {'dtype':<8} {'eager MB':>9} {'fused MB':>9} {'ratio':>6}"]
    timed = "eager_seconds" in rows[0]
    if timed:
        lines[0] += f" {'eager ms (bandwidth) launch':>28} {'fused ms (bandwidth) launch':>28}"
    for row in rows:
        line = (f"{row['op']:<44} {row['dtype']:<8} {row['eager_bytes'] / 1e6:>9,.1f} "
                f"{row['fused_bytes'] / 1e6:>9,.1f} {row['ratio']:>6.2f}")
        if timed:
            line += "".join(f" {row[f'{name}_seconds'] * 1e3:>13.3f} ({row[f'{name}_bandwidth']:>4.0%}) "
                            f"{row[f'{name}_launching_seconds'] * 1e3:>7.3f}" for name in ("eager", "fused"))
        lines.append(line)
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Print the table and return it; `quick`: float32 alone; `repeats`: runs of a time are ten times as many.

    SystemExit where Triton is not installed.
    """
    if importlib.util.find_spec("triton") is None:
        raise SystemExit("The fused kernels need Triton: pip install triton")
    on_gpu = torch.cuda.is_available()
    rate = bandwidth(10 * arguments.repeats) if on_gpu else None
    dtypes = (torch.float32,) if arguments.quick else (torch.float32, torch.bfloat16)
    rows = [measure(case, dtype, arguments.repeats, rate) for dtype in dtypes for case in cases()]
    print(table(rows))
    for case in cases():
        print(f"{case.name}: {case.shape}")
    device = torch.cuda.get_device_name() if on_gpu else None
    print(f"{device}: a copy moves {rate / 1e9:,.0f} GB/s; bandwidth is the fraction of it that the counted bytes reach"
          if on_gpu else "No GPU here: bytes are counted, nothing is timed.")
    return {"ops": rows, "device": device, "copy_bytes_per_second": rate}
