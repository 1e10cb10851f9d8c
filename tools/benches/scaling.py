"""How time grows with tokens, and memory with steps, examples and languages: each point a process of its own."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benches import report
from benches.contestant import started
from benches.report import GIB, Spread
from benches.train import base_job, contestants, job_of
from benches.workload import Job

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FACTORS = (1, 2, 4, 8)
STEPS, EXAMPLES, PER_LANGUAGE = 1, 4000, {"qa": 32, "pairs": 128}
"""Of the first point: optimizer steps a turn, features in the training data, features to predict in a language (more
than a pack holds)."""
WHAT = {"steps": "training steps", "examples": "examples in the training data", "languages": "languages to predict"}


def jobs_of(base: Job, who: str, size: int) -> dict[str, list[Job]]:
    """What varies -> a job for each of FACTORS."""
    made = {
        "steps": [{"steps": STEPS * factor, "warm": STEPS * factor} for factor in FACTORS],
        "examples": [{"steps": STEPS, "pool": EXAMPLES * factor} for factor in FACTORS],
        "languages": [{"purpose": "predict", "dropout": 0.0, "per_step": PER_LANGUAGE[base.task] * factor}
                      for factor in FACTORS],
    }
    return {what: [job_of(base, who, size=size, **changes) for changes in points] for what, points in made.items()}


def measure(job: Job) -> dict:
    """Tokens of a turn, its seconds, and the peak memory of the job's process."""
    with started([job]) as (contestant,):
        for _ in range(1 + job.rounds):     # the first turn warms up
            contestant.go()
        turns, end = contestant.turns[1:], contestant.end()
    return {"tokens": [turn["tokens"] for turn in turns], "seconds": [turn["seconds"] for turn in turns],
            "peak_bytes": end["peak_bytes"]}


def line(points: Sequence[dict]) -> dict:
    """The straight line of least squares through the median seconds: seconds at 0 tokens, seconds a token, and how far
    the points lie from it at most, as a share of their seconds."""
    tokens = np.array([np.median(point["tokens"]) for point in points])
    seconds = np.array([np.median(point["seconds"]) for point in points])
    slope, start = np.polyfit(tokens, seconds, 1)
    apart = np.abs(start + slope * tokens - seconds) / seconds
    return {"start": float(start), "slope": float(slope), "apart": float(apart.max())}


def case(arguments: argparse.Namespace, task: str, method: str) -> dict:
    """The points of one kind of lengths by one method."""
    base = dataclasses.replace(base_job(arguments, task, method), rounds=arguments.repeats, per_step=8)
    who = contestants(arguments)[0]
    title = f"{report.TITLES[task]}, {report.METHODS[method].partition(' (')[0]}"
    print(f"{title}: {who}, {base.shape.layers} layers of width {base.shape.width}", flush=True)
    points: dict[str, list[dict]] = {}
    for what, jobs in jobs_of(base, who, arguments.tokens_per_pack[0]).items():
        points[what] = []
        for factor, job in zip(FACTORS, jobs):
            counted = {"steps": job.total, "examples": job.pool, "languages": factor}[what]
            point = {"count": counted, **measure(job)}
            points[what].append(point)
            print(f"  {counted} {WHAT[what]}: {np.median(point['tokens']):,.0f} tokens a turn in "
                  f"{Spread.of(point['seconds']).text('.2f')} s, peak {point['peak_bytes'] / GIB:.2f} GiB", flush=True)
    lines = {"training": line(points["steps"]), "prediction": line(points["languages"])}
    grown = {what: some[-1]["peak_bytes"] / some[0]["peak_bytes"] - 1 for what, some in points.items()}
    for name, told in lines.items():
        print(f"  {name}: {told['slope'] * 1e3:.3g} s per 1,000 tokens; the points lie within {told['apart']:.1%} of a "
              "straight line")
    print(f"  memory with {FACTORS[-1]} times as much: " + ", ".join(
        f"{value:+.1%} ({WHAT[what]})" for what, value in grown.items()) + "\n", flush=True)
    return {"title": title, "task": task, "method": method, "who": who, "job": dataclasses.asdict(base),
            "points": points, "lines": lines, "memory_growth": grown}


def run(arguments: argparse.Namespace) -> dict:
    """Every case of `--task` and `--method`, with the first of `--kernels` and of `--tokens_per_pack`."""
    arguments.peers, arguments.rounds = (), arguments.repeats
    return {"cases": [case(arguments, task, method) for task in arguments.task for method in arguments.method]}


def draw(found: dict) -> Figure:
    """A row a case: seconds against tokens with the straight lines, and peak memory against how much there is."""
    from matplotlib.figure import Figure

    cases = found["cases"]
    figure = Figure(figsize=(8.2, 2.9 * len(cases) + 0.2), layout="constrained")
    for row, one in zip(figure.subplots(len(cases), 2, squeeze=False), cases):
        _times(row[0], one)
        _memory(row[1], one)
        for panel in row:
            panel.tick_params(length=0, labelsize=8.5)
            panel.grid(color="#e3e3e3", linewidth=0.7)
            panel.set_axisbelow(True)
            panel.set_ylim(bottom=0)
            for side in ("top", "right"):
                panel.spines[side].set_visible(False)
        row[0].set_title(one["title"], fontsize=9.5, fontweight="bold", loc="left")
    return figure


def _times(panel: Axes, one: dict) -> None:
    """Seconds of a turn against its tokens, training and prediction."""
    from peft_stilts.analysis.figure import COLOURS, MARKERS

    for place, (name, what) in enumerate((("training", "steps"), ("prediction", "languages"))):
        points, told = one["points"][what], one["lines"][name]
        tokens = [float(np.median(point["tokens"])) for point in points]
        spreads = [Spread.of(point["seconds"]) for point in points]
        panel.plot([0, max(tokens)], [told["start"], told["start"] + told["slope"] * max(tokens)], linewidth=1,
                   color=COLOURS[place], alpha=0.6)
        panel.errorbar(tokens, [spread.median for spread in spreads], fmt=MARKERS[place], color=COLOURS[place],
                       markersize=4.6, linewidth=1.1, capsize=2.5, label=name,
                       yerr=[[spread.median - spread.low for spread in spreads],
                             [spread.high - spread.median for spread in spreads]])
    panel.set_xlim(left=0)
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.set_xlabel("tokens", fontsize=9)
    panel.set_ylabel("seconds", fontsize=9)
    panel.legend(frameon=False, fontsize=8.5, loc="upper left")


def _memory(panel: Axes, one: dict) -> None:
    """Peak memory against the number of steps, examples and languages, each in units of its smallest."""
    from peft_stilts.analysis.figure import COLOURS, MARKERS

    for place, (what, points) in enumerate(one["points"].items()):
        panel.plot(FACTORS, [point["peak_bytes"] / GIB for point in points], marker=MARKERS[place], markersize=4.6,
                   color=COLOURS[place], linewidth=1.1, label=f"{WHAT[what]}, from {points[0]['count']:,}")
    panel.set_xscale("log", base=2)
    panel.set_xticks(FACTORS, [f"{factor}×" for factor in FACTORS])
    panel.set_xlabel("how much there is, against the least", fontsize=9)
    panel.set_ylabel("peak memory, GiB", fontsize=9)
    panel.set_ylim(0, 1.15 * panel.get_ylim()[1])
    panel.legend(frameon=False, fontsize=8.5, loc="lower center")
