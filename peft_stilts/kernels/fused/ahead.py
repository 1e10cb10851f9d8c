"""Ahead-of-time compilation of the Triton kernels, without a GPU, and the resources that each one takes."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = (80, 90)
"""Compute capabilities compiled for: sm_80 (A100; a 3090's sm_86 runs its code), sm_90 (H100)."""


@dataclass(frozen=True)
class Variant:
    """A kernel as one of its launches compiles it, at the shapes of XLM-R Large."""

    name: str                                   # 'norm forward fp32': unique among all files
    kernel: triton.JITFunction
    signature: Mapping[str, str]                # of each argument: '*fp32', 'i32', 'fp32' or 'constexpr'
    constexprs: Mapping[str, object] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3

    def source(self) -> ASTSource:
        """What a launch would compile: pointers, and whole numbers it may specialise on, are multiples of 16."""
        aligned = {(number,): [["tt.divisibility", 16]] for number, param in enumerate(self.kernel.params)
                   if self.signature[param.name].startswith("*")
                   or self.signature[param.name] in ("i32", "i64") and not param.do_not_specialize}
        signature = {param.name: self.signature[param.name] for param in self.kernel.params}
        return ASTSource(self.kernel, signature, dict(self.constexprs), aligned)


@dataclass(frozen=True)
class Resources:
    """What a compiled variant takes: 32-bit registers of a thread, bytes of shared memory of a block, bytes of local
    memory of a thread, which is where the compiler spills registers to."""

    kernel: str
    target: str
    registers: int
    shared: int
    spills: int


def variants() -> Iterator[Variant]:
    """The `VARIANTS` of every module of this package that has them."""
    for found in pkgutil.iter_modules([str(Path(__file__).parent)]):
        yield from getattr(importlib.import_module(f"{__package__}.{found.name}"), "VARIANTS", ())


def compile_variant(variant: Variant, capability: int) -> Resources:
    """Compile a variant for a compute capability (80: sm_80) and read its resources from the cubin.

    Raises what Triton raises where it does not compile, or has no cuobjdump (its wheels bring one).
    """
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    compiled = triton.compile(variant.source(), target=GPUTarget("cuda", capability, 32), options=options)
    usage = _usage(compiled.asm["cubin"])
    # Shared memory is asked for at the launch, so the cubin's own figure leaves it out.
    return Resources(variant.name, f"sm_{capability}", usage["REG"], compiled.metadata.shared + usage["SHARED"],
                     usage["STACK"] + usage["LOCAL"])


def _usage(cubin: bytes) -> dict[str, int]:
    """The figures of `cuobjdump --dump-resource-usage`: REG, STACK, SHARED, LOCAL and others."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        told = subprocess.run([triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(file)], check=True,
                              capture_output=True, text=True).stdout
    return {name: int(number) for name, number in re.findall(r"(\w+):(\d+)", told)}
