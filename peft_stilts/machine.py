"""What this machine can do: instruction sets, memory that is really free, and the precision to compute in."""

from __future__ import annotations

import contextlib
import ctypes
import resource
from pathlib import Path

import psutil

from peft_stilts.errors import UsageError

BF16_FLAGS = ("amx_bf16", "avx512_bf16")
"""Instruction sets in which a CPU multiplies bf16 matrices; without one bf16 is hundreds of times slower than fp32."""
KEPT_BLOCK = 2**27
"""Bytes of a block of memory up to which glibc keeps it for the next tensor, rather than give it back to the system."""
MOST_CREPT = 1.1
"""times the resident set after the first step at which what glibc keeps is given back"""


def cpu_info() -> dict[str, str]:
    """What Linux says of the first CPU, by name; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def cpu_flags() -> set[str]:
    """Instruction set names of the first CPU as Linux gives them; empty elsewhere."""
    return set(cpu_info().get("flags", "").split())


def memory() -> tuple[int, int]:
    """Bytes of RAM that are free for this process, and in all; a container's limit counts."""
    told = psutil.virtual_memory()
    total, free = told.total, told.available
    for limit, used, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file")):
        group = Path("/sys/fs/cgroup")
        try:
            most, now = (int((group / name).read_text(encoding="ascii")) for name in (limit, used))
            told = dict(line.split() for line in (group / limit).with_name("memory.stat").read_text().splitlines())
        except (OSError, ValueError):       # no such group, or no limit ("max")
            continue
        if most < total:                    # cached files give way to a program that needs the memory
            total, free = most, min(free, most - now + int(told.get(cache, 0)))
    return free, total


def available_memory() -> int:
    """Bytes a training can have: what is free of the CUDA device's memory, else of the RAM."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return memory()[0]


def reset_peak_memory() -> None:
    """Begin a new measurement of `peak_memory`, so that a stage's peak is its own and not an earlier one's."""
    import torch

    give_back_memory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):      # Linux: 5 resets the high-water mark of this process
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory() -> int:
    """Bytes at the most since `reset_peak_memory`: the device's with CUDA, else this process's resident set."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):        # not Linux: the whole process's maximum, in bytes on macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def keep_memory() -> None:
    """Have glibc keep blocks that were freed: by default large ones go back to the system at once, and every tensor of
    the next step is made of new pages, which takes longer than the elementwise work on it. Nothing elsewhere."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        m_trim_threshold, m_mmap_threshold = -1, -3
        mallopt(m_mmap_threshold, KEPT_BLOCK)
        mallopt(m_trim_threshold, 2**31 - 1)


def give_back_memory() -> None:
    """Have glibc give back to the system all that it keeps of freed memory. Nothing elsewhere."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class KeptMemory:
    """What glibc keeps between the steps of one piece of work, held to what one step needs.

    Steps differ in their tensors' sizes, so freed blocks that none of the next fits pile up, a few a step. When the
    resident set has grown to MOST_CREPT times what it was, all of them go back to the system. Nothing elsewhere.
    """

    def __init__(self):
        self.process, self.usual = psutil.Process(), None

    def stepped(self) -> None:
        """A step is over, and its tensors are freed."""
        now = self.process.memory_info().rss
        if self.usual is None:
            self.usual = now
        elif now > MOST_CREPT * self.usual:
            give_back_memory()
            self.usual = None


def device() -> str:
    """`cuda` where there is such a device, else `cpu`: where models are trained and scored."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_precision(asked: str, miniature: bool) -> str:
    """`auto` made definite: bf16 where the hardware computes in it, fp16 on older CUDA devices, else fp32.

    The miniature world is always fp32: a model of a million parameters gains nothing from less, and its scores stay
    comparable between machines. Raises UsageError for fp16 without a CUDA device.
    """
    import torch

    cuda = torch.cuda.is_available()
    if asked == "fp16" and not cuda:
        raise UsageError("--precision fp16 needs a CUDA device; use fp32 here (or auto)")
    if asked != "auto":
        return asked
    if miniature:
        return "fp32"
    if cuda:
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
    return "bf16" if cpu_flags() & set(BF16_FLAGS) else "fp32"
