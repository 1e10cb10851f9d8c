"""What this machine has (device, precisions, hub, disk, versions) and what that means for the user."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from peft_stilts.grid.hub import reach_hub
from peft_stilts.machine import BF16_FLAGS, cpu_flags, cpu_info, device, memory, resolve_precision

GIB = 2**30
LARGE_GIB = 16 * 560e6 / GIB
"""XLM-R Large, 560 million parameters (Conneau et al., 2020, table 12), 16 bytes each: float32 weight, gradient and
AdamW's two moments; activations come on top."""
FP32 = "The miniature world is always computed in fp32."
EAGER = "The miniature world is always computed by transformers' own modules (eager)."
LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "bitsandbytes", "accelerate", "datasets",
             "huggingface_hub", "safetensors", "numpy", "pandas", "pyarrow")


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what was found, and what it means. `level`: 'ok', 'note' or 'warning'."""

    topic: str
    value: str
    meaning: str = ""
    level: str = "ok"


def doctor(runs: Path, hub: bool = True) -> list[Finding]:
    """Everything a run depends on, in the order of its importance; `hub=False` does not touch the network."""
    return [*_cuda(), _precision(), _kernels(), _cpu(), _memory(), _disk(Path(runs)), *_hub(hub),
            _versions(tested_versions())]


def show(runs: Path, hub: bool = True) -> None:
    """Print the findings as a table: topic, what was found, what it means."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    mark = {"ok": "[green]ok[/green]", "note": "[yellow]note[/yellow]", "warning": "[bold red]warning[/bold red]"}
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column(overflow="fold")
    for finding in doctor(runs, hub):
        told = escape(finding.value) + (f"\n[dim]{escape(finding.meaning)}[/dim]" if finding.meaning else "")
        table.add_row(mark[finding.level], escape(finding.topic), told)
    Console().print(table, highlight=False)


def _cuda() -> list[Finding]:
    import torch

    if not torch.cuda.is_available():
        why = "" if torch.version.cuda else " (and this torch was built without CUDA)"
        return [Finding("device", f"no CUDA device{why}",
                        "--scale auto means mini, the miniature world, which is not XLM-R. For the real thing run on a "
                        "machine with a CUDA device, or ask for --scale base or large and wait.", "note")]
    found = []
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        memory = about.total_memory / GIB
        enough = memory > 1.5 * LARGE_GIB
        meaning = "--scale auto means large." if enough else (
            f"--scale auto means large, whose full fine-tuning needs {LARGE_GIB:.0f} GiB before activations; "
            "--method lora or --scale base needs less.")
        found.append(Finding(f"device cuda:{index}", f"{about.name}, {memory:.0f} GiB, compute capability "
                             f"{about.major}.{about.minor}", meaning, "ok" if enough else "note"))
    return found


def _precision() -> Finding:
    import torch

    chosen = resolve_precision("auto", miniature=False)
    if torch.cuda.is_available():
        major, _ = torch.cuda.get_device_capability()
        has = ["fp32", "fp16"] + ["bf16"] * (major >= 8)
        return Finding("precision", f"{', '.join(has)} in hardware; --precision auto means {chosen}", FP32)
    flags = cpu_flags()
    has = [flag for flag in BF16_FLAGS if flag in flags]
    value = f"fp32{', ' + ', '.join(has) if has else ''}; --precision auto means {chosen}"
    meaning = FP32 if has else "No bf16 in this CPU: --precision bf16 works, and is much slower than fp32."
    return Finding("precision", value, meaning)


def _kernels() -> Finding:
    from peft_stilts.kernels import choose

    here = device()
    chosen = choose.resolve("auto", miniature=False, device=here)
    fastest = "triton" if here == "cuda" else "compile"
    lacks = choose.lacking(fastest, here)
    meaning = f"--kernels {fastest} would be faster; it needs {lacks}." if lacks else EAGER
    return Finding("kernels", f"--kernels auto means {chosen} for XLM-R", meaning, "note" if lacks else "ok")


def _cpu() -> Finding:
    import torch

    name = cpu_info().get("model name") or platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("processor", f"{name}, {cores} cores, torch uses {torch.get_num_threads()} threads",
                   "A run that goes on elsewhere ends with the same bits only on the same CPU type and thread count "
                   "(set OMP_NUM_THREADS).")


def _memory() -> Finding:
    free, total = memory()
    enough = free > 1.5 * LARGE_GIB * GIB
    meaning = "" if enough else (f"Full fine-tuning of XLM-R Large on the CPU needs {LARGE_GIB:.0f} GiB before "
                                 "activations; the miniature world needs 2.")
    return Finding("memory", f"{free / GIB:.1f} of {total / GIB:.1f} GiB free", meaning,
                   "ok" if enough else "note" if free > 2 * GIB else "warning")


def _disk(runs: Path) -> Finding:
    import psutil

    place = runs.absolute()
    while not place.exists():
        place = place.parent
    free = psutil.disk_usage(str(place)).free / GIB
    if not os.access(place, os.W_OK):
        return Finding("disk", f"{place} cannot be written to", "Give --runs another folder.", "warning")
    # A checkpoint of XLM-R Large is weights and two moments (12 bytes a parameter); two of them while one is replaced.
    enough = free > 2 * 0.75 * LARGE_GIB
    meaning = "" if enough else f"Training XLM-R Large keeps checkpoints of {0.75 * LARGE_GIB:.0f} GiB."
    return Finding("disk", f"{free:.1f} GiB free at {place} (--runs {runs})", meaning,
                   "ok" if enough else "note" if free > 1 else "warning")


def _hub(ask: bool) -> list[Finding]:
    from huggingface_hub import constants, get_token

    endpoint = urlsplit(constants.ENDPOINT)
    place = endpoint.hostname or constants.ENDPOINT
    offline = "The miniature world works without it; for XLM-R give --scale a model folder and --data_root the data."
    if constants.HF_HUB_OFFLINE:
        reach = Finding("hub", "offline mode (HF_HUB_OFFLINE is set)", "Only what is in the cache is used. " + offline,
                        "note")
    elif not ask:
        reach = Finding("hub", "not asked")
    else:
        error = reach_hub(constants.ENDPOINT)
        reach = Finding("hub", f"{place} cannot be reached: {error}", offline, "note") if error else Finding(
            "hub", f"{place} answers")
    cache = Path(constants.HF_HUB_CACHE)
    return [reach, Finding("hub cache", f"{cache}{'' if cache.exists() else ' (not there yet)'}; HF_HOME moves it"),
            Finding("hub token", "present" if get_token() else "none",
                    "" if get_token() else "None is needed: every model and data set used here is public.")]


def tested_versions() -> dict[str, str]:
    """Library -> the version this program is tested with, from constraints.txt (in the wheel or beside the package)."""
    package = Path(__file__).resolve().parent
    for file in (package / "constraints.txt", package.parent / "constraints.txt"):
        if file.is_file():
            pairs = (line.split("==") for line in file.read_text(encoding="utf-8").splitlines() if "==" in line)
            return {name.strip(): version.strip() for name, version in pairs}
    return {}


def _versions(tested: Mapping[str, str]) -> Finding:
    other = []
    for name in LIBRARIES:
        installed = metadata.version(name)
        if name in tested and installed.partition("+")[0] != tested[name]:
            other.append(f"{name} {installed} (tested: {tested[name]})")
    told = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES[:4])
    python = f"Python {platform.python_version()}"
    if not tested:
        return Finding("versions", f"{python}, {told}", "The list of tested versions is missing.", "note")
    if not other:
        return Finding("versions", f"{python}, {told}: as tested")
    return Finding("versions", f"{python}; not as tested: {', '.join(other)}",
                   "Results may differ in the last digits, and stages made with other versions are made again. "
                   "`pip install -c constraints.txt` gives the tested ones.", "note")
