"""What a benchmark says: medians with minimum and maximum, ratios, the ceiling, a JSON file and a figure."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
TITLES = {"qa": "question-answering lengths", "pairs": "sentence-pair lengths"}
METHODS = {"full": "full fine-tuning", "lora": "LoRA (the peers with PEFT)"}
LABELS = {"padded": "Trainer, padded to the maximum", "grouped": "Trainer, lengths grouped, fused AdamW",
          "dynamic": "Trainer, padded to the batch's longest", "sorted": "Trainer, sorted by length"}
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "numpy", "faiss-cpu", "sentence-transformers", "triton")
RATE_SECONDS, RATE_ROWS = 1.0, 2048


@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum of a measurement's repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def text(self, form: str = ",.0f") -> str:
        return f"{self.median:{form}} [{self.low:{form}}, {self.high:{form}}]"


def title(task: str, method: str) -> str:
    """The heading of a case."""
    return f"{TITLES[task]}, {METHODS[method]}"


def machine(threads: int) -> dict:
    """The machine and the versions that a result was measured with."""
    import torch

    from peft_stilts.machine import cpu_info, memory
    from peft_stilts.version import __version__

    found = {"peft_stilts": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"cpu": cpu_info().get("model name", platform.processor()), "cores": os.cpu_count(), "threads": threads,
            "memory_gib": round(memory()[1] / GIB, 1), "system": platform.platform(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None, "versions": found}


def resolved(asked: Sequence[str]) -> list[str]:
    """Each choice of --kernels made definite for this machine; SystemExit for one that cannot work here."""
    import torch

    from peft_stilts.errors import UsageError
    from peft_stilts.kernels.choose import resolve

    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return list(dict.fromkeys(resolve(kernels, False, device) for kernels in asked))
    except UsageError as error:
        raise SystemExit(str(error)) from None


def product_rate(width: int, inner: int, threads: int, precision: str = "fp32") -> float:
    """Floating-point operations a second of (2048, width) @ (width, inner), measured now for a second, on the CUDA
    device where there is one."""
    import torch

    torch.set_num_threads(threads)
    dtype, on_gpu = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision], torch.cuda.is_available()
    a, b = (torch.randn(shape, dtype=dtype, device="cuda" if on_gpu else "cpu")
            for shape in ((RATE_ROWS, width), (width, inner)))
    out, at_once = torch.mm(a, b), 200 if on_gpu else 1
    count, begin = 0, time.perf_counter()
    while (seconds := time.perf_counter() - begin) < RATE_SECONDS:
        for _ in range(at_once):
            torch.mm(a, b, out=out)
        if on_gpu:
            torch.cuda.synchronize()
        count += at_once
    return 2 * RATE_ROWS * width * inner * count / seconds


def summary(contestants: Mapping[str, dict], operations: Sequence[float], rates: Sequence[float]) -> dict:
    """What follows from the turns of all contestants, round by round.

    `contestants`: name -> `turns`, each with `seconds` and `tokens`, and `peak_bytes`; `operations` those of the matrix
    products in each round of ours, `rates` a second. Ratios are above 1 where ours is faster, below where it needs less
    memory.
    """
    speeds = {who: [turn["tokens"] / turn["seconds"] for turn in found["turns"]] for who, found in contestants.items()}
    ours = [who for who in contestants if who.startswith("ours")]
    ratios = {}
    for mine in ours:
        for peer in [who for who in contestants if who not in ours]:
            ratios[f"{mine} / {peer}"] = {
                "ours": mine, "peer": peer,
                "speed": spread([a / b for a, b in zip(speeds[mine], speeds[peer], strict=True)]),
                "memory": contestants[mine]["peak_bytes"] / contestants[peer]["peak_bytes"]}
    floors = [work / rate for work, rate in zip(operations, rates, strict=True)]
    return {"speed": {who: spread(values) for who, values in speeds.items()}, "ratios": ratios,
            "product_rate": spread(rates), "ceiling_seconds": spread(floors),
            "fraction": {mine: spread([floor / turn["seconds"] for floor, turn in
                                       zip(floors, contestants[mine]["turns"], strict=True)]) for mine in ours}}


def spread(values: Sequence[float]) -> dict:
    """{median, low, high}."""
    return dataclasses.asdict(Spread.of(values))


def show(contestants: Mapping[str, dict], found: Mapping[str, dict], sizes: Mapping[str, int]) -> None:
    """Print the tables of one case."""
    for who, told in contestants.items():
        speed = Spread(**found["speed"][who]).text()
        peak, unit = told["peak_bytes"], "tokens a pack" if who.startswith("ours") else "features a batch"
        estimate = ""
        if "estimate_bytes" in told:
            said = told["estimate_bytes"]
            estimate = f" (--plan_only says {said / GIB:.2f}: {said / peak:.2f} of it)"
        print(f"  {LABELS.get(who, who)}, {sizes[who]} {unit}: {speed} tokens/s, peak {peak / GIB:.2f} GiB{estimate}")
        for sentence in told.get("said", []):
            print(f"    it says: {sentence}")
    for name, told in found["ratios"].items():
        print(f"  {name}: {Spread(**told['speed']).text('.2f')} times the speed, {told['memory']:.2f} of the memory")
    rate = Spread(**found["product_rate"])
    print(f"  ceiling: {Spread(**found['ceiling_seconds']).text('.2f')} s a round for the matrix products alone, at "
          f"{rate.median / 1e9:.0f} [{rate.low / 1e9:.0f}, {rate.high / 1e9:.0f}] GFLOP/s; of it "
          + ", ".join(f"{who} reaches {Spread(**told).text('.2f')}" for who, told in found["fraction"].items()),
          flush=True)


def show_profile(who: str, found: dict) -> None:
    """Print where the time of a profiled step went."""
    total = found["seconds"]
    print(f"  profile of a step of {who}: {total:.2f} s in operations, matrix products {found['products'] / total:.0%}")
    for name, seconds in found["operations"].items():
        print(f"    {seconds:7.3f} s {seconds / total:4.0%}  {name[:90]}")


def write(bench: str, arguments: argparse.Namespace, found: dict, drawn=None) -> None:
    """Write `--output` FILE.json, replaced in one step, and FILE.png beside it where `drawn(found)` gives a figure."""
    from peft_stilts.store import write_atomic

    told = {"bench": bench, "command": ["tools/bench.py", *sys.argv[1:]],
            "machine": machine(getattr(arguments, "threads", 0)), **found}
    write_atomic(arguments.output, json.dumps(told, indent=1) + "\n")
    print(f"{arguments.output} written")
    figure = drawn(found) if drawn else None
    if figure is not None:
        from peft_stilts.analysis.figure import save

        picture = Path(arguments.output).with_suffix(".png")
        save(figure, picture)
        print(f"{picture} written")


def write_plain(path: Path, found: dict) -> None:
    """Write a JSON file as it is, each histogram on a line."""
    from peft_stilts.store import write_atomic

    text = json.dumps(found, indent=1)
    for part in found.values():
        text = text.replace(json.dumps(part["counts"], indent=1).replace("\n", "\n  "), json.dumps(part["counts"]))
    write_atomic(path, text + "\n")
    print(f"{path} written")


def draw_seconds(found: dict):
    """The same figure from `found["contestants"]`, name -> `seconds` of repeats that were taken in turn."""
    seconds = {who: told["seconds"] for who, told in found.get("contestants", {}).items()}
    mine = next((who for who in seconds if who.startswith("ours")), None)
    if mine is None or not all(len(values) == len(seconds[mine]) for values in seconds.values()):
        return None
    ratios = {who: {"ours": mine, "peer": who, "speed": spread([b / a for a, b in zip(seconds[mine], values)])}
              for who, values in seconds.items() if who != mine}
    return draw_ratios({"cases": [{"title": found.get("title", ""), "summary": {"ratios": ratios}}]})


def draw_ratios(found: dict):
    """A bar for each ratio of speed in `found["cases"]`, with whiskers from the lowest to the highest round; the line
    at 1 is the peer's speed. A bar below 1 is a loss."""
    from matplotlib.figure import Figure

    from peft_stilts.analysis.figure import COLOURS, GREY

    cases = [one for one in found["cases"] if one["summary"]["ratios"]]
    if not cases:
        return None
    peers = list(dict.fromkeys(told["peer"] for one in cases for told in one["summary"]["ratios"].values()))
    heights = [len(one["summary"]["ratios"]) + 0.4 for one in cases]
    figure = Figure(figsize=(7.2, 0.36 * sum(heights) + 0.5 * len(cases) + 0.7), layout="constrained")
    panels = figure.subplots(len(cases), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for panel, one in zip(panels, cases):
        ratios = list(one["summary"]["ratios"].values())
        many = len({told["ours"] for told in ratios}) > 1
        for place, told in enumerate(ratios):
            speed, colour = Spread(**told["speed"]), COLOURS[peers.index(told["peer"]) % len(COLOURS)]
            panel.barh(place, speed.median, height=0.62, color=colour, zorder=2)
            panel.hlines(place, speed.low, speed.high, color="black", linewidth=1.1, zorder=3)
            panel.plot([speed.low, speed.high], [place, place], linestyle="", marker="|", color="black", markersize=7,
                       zorder=3)
            panel.annotate(f"{speed.median:.2f}", (speed.high, place), xytext=(5, 0), textcoords="offset points",
                           va="center", fontsize=8.5)
        panel.set_yticks(range(len(ratios)), [
            "\n".join(textwrap.wrap(LABELS.get(told["peer"], told["peer"]), 30)) + (f"\n{told['ours']}" if many else "")
            for told in ratios], fontsize=8.5)
        panel.set_ylim(len(ratios) - 0.5, -0.5)
        panel.axvline(1, color="black", linewidth=0.9, zorder=4)
        panel.set_title(one["title"], fontsize=9.5, fontweight="bold", loc="left")
        panel.tick_params(length=0, labelsize=8.5)
        panel.grid(axis="x", color="#e3e3e3", linewidth=0.7, zorder=0)
        for side in ("top", "right", "left"):
            panel.spines[side].set_visible(False)
        panel.spines["bottom"].set_color(GREY)
    highest = max(told["speed"]["high"] for one in cases for told in one["summary"]["ratios"].values())
    panels[0].set_xlim(0, 1.12 * highest)
    panels[-1].set_xlabel("speed of ours ÷ speed of the peer (whiskers: lowest and highest round)", fontsize=9)
    return figure
