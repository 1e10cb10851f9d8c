"""Which card XLM-R Large would fit: the arithmetic of grid/memory.py for a CUDA device. Nothing is measured here."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benches.large import shape_of
from peft_stilts.grid.memory import Load, training_memory
from peft_stilts.spec import LoraSettings, TrainingSettings

GB = 1e9
PACKS = (1024, 4096)
WORDS, CONTEXT, A_STEP = 50000, 190.0, 2960
"""Different words of SQuAD's training data (an assumption), tokens that one attends to, and tokens of a step of 16."""
CASES = {
    "full": ("full", {}), "full, gradient_checkpointing": ("full", {"gradient_checkpointing": True}),
    "full, gradient_checkpointing, adamw_8bit": ("full", {"gradient_checkpointing": True, "optimizer": "adamw_8bit"}),
    "lora, rank 16": ("lora", {}), "qlora, rank 16": ("qlora", {}),
    "qlora, rank 16, gradient_checkpointing": ("qlora", {"gradient_checkpointing": True})}


def bytes_of(method: str, changes: dict, pack: int) -> int:
    """Bytes at the peak of a step of XLM-R Large in bf16 on CUDA with the Triton kernels."""
    lora = None if method == "full" else LoraSettings()
    settings = TrainingSettings(tokens_per_pack=pack, **changes)
    load = Load(min(pack, A_STEP), CONTEXT, WORDS)
    return training_memory(shape_of(24), settings, lora, precision="bf16", method=method, kernels="triton", load=load,
                           device="cuda")


def rows() -> Sequence[tuple[str, list[int]]]:
    """Every case, and its bytes for each of PACKS."""
    return [(name, [bytes_of(method, changes, pack) for pack in PACKS]) for name, (method, changes) in CASES.items()]


def run(arguments: argparse.Namespace) -> dict:
    """Print the table; the CUDA context (about 0.5 GB) and the allocator's rounding come on top."""
    found = dict(rows())
    print("| XLM-R Large, bf16 | " + " | ".join(f"packs of {pack:,}: GB" for pack in PACKS) + " |\n|---|" +
          "---|" * len(PACKS))
    for name, sizes in found.items():
        print(f"| {name} | " + " | ".join(f"{size / GB:.1f}" for size in sizes) + " |")
    return {"bytes": found, "packs": PACKS, "words": WORDS}
