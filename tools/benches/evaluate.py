"""Evaluation beside Trainer.predict: the same logits from all contestants, then tokens a second."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benches import report
from benches.contestant import started
from benches.train import base_job, best, contestants, job_of, sweep_sizes, take_turns
from benches.workload import Job, matrix_operations, passage

SWEPT = (4, 8, 16, 32)
"""Features a batch that each peer is tried with."""
SWEPT_FEATURES = 32
TOLERANCE = 1e-4
"""Largest difference of a logit, as a share of the largest logit: rounding in fp32."""


def sweep(base: Job, names: Sequence[str], arguments: argparse.Namespace) -> dict[str, dict[int, float]]:
    """Contestant -> {size: seconds of a pass over SWEPT_FEATURES features}."""
    peers = arguments.micro_batch or SWEPT[1:3 if arguments.quick else None]
    given = {who: tuple(arguments.tokens_per_pack) if who.startswith("ours") else peers for who in names}
    return sweep_sizes(dataclasses.replace(base, per_step=SWEPT_FEATURES), given)


def same_logits(files: dict[str, Path]) -> dict[str, float]:
    """Largest difference of a logit of each contestant from the first one's, as a share of the largest logit;
    SystemExit above TOLERANCE."""
    names = list(files)
    logits = {}
    for who, path in files.items():
        with np.load(path) as stored:
            logits[who] = np.concatenate([stored[f"arr_{i}"].ravel() for i in range(len(stored.files))])
    first = logits.pop(names[0])
    worst = {who: float(np.abs(found - first).max() / np.abs(first).max()) for who, found in logits.items()}
    print(f"  parity: {first.size:,} logits; largest difference, as a share of the largest logit: "
          + ", ".join(f"{value:.1e} ({who})" for who, value in worst.items()), flush=True)
    if any(not value <= TOLERANCE for value in worst.values()):
        raise SystemExit(f"the contestants do not predict the same: a difference above {TOLERANCE:g}")
    return worst


def timing(base: Job, sizes: dict[str, int]) -> tuple[dict, list[float], dict]:
    """Contestant -> its turns and what it came to; the rate of matrix products before each round; the differences of
    the logits of the pass that warms up."""
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        files = {who: Path(folder) / f"{place}.npz" for place, who in enumerate(sizes)}
        jobs = [job_of(base, who, size=size, out=str(files[who])) for who, size in sizes.items()]
        with started(jobs) as all_of_them:
            for round_ in range(-1, base.rounds):
                if round_ >= 0:
                    rates.append(report.product_rate(base.shape.width, base.shape.inner, base.threads, base.precision))
                take_turns(all_of_them, round_)
                if round_ < 0:
                    difference = same_logits(files)
            found = {one.job.who: {"turns": one.turns[1:], **one.end()} for one in all_of_them}
    return found, rates, difference


def case(arguments: argparse.Namespace, task: str, method: str) -> dict:
    """One kind of lengths: logits, sweep, timing, and what follows from them."""
    begin = time.monotonic()
    base = dataclasses.replace(base_job(arguments, task, method), purpose="predict", warm=1, dropout=0.0,
                               per_step=32 if arguments.quick else arguments.features)
    names = contestants(arguments)
    sizes = passage(base)
    print(f"{report.title(task, method)}: passes over {len(sizes)} features of {sizes.mean():.0f} tokens; XLM-R with "
          f"{base.shape.layers} layers of width {base.shape.width}", flush=True)
    swept = sweep(base, names, arguments)
    found = {"title": report.title(task, method), "task": task, "method": method, "job": dataclasses.asdict(base),
             "sweep": swept, "size": {who: best(seconds) for who, seconds in swept.items()}}
    found["contestants"], found["product_rates"], found["logits_difference"] = timing(base, found["size"])
    operations = [matrix_operations(base, sizes, backward=False)] * base.rounds
    found["summary"] = report.summary(found["contestants"], operations, found["product_rates"])
    report.show(found["contestants"], found["summary"], found["size"])
    found["seconds"] = time.monotonic() - begin
    print(f"  ({found['seconds']:.0f} s in all)\n", flush=True)
    return found


def run(arguments: argparse.Namespace) -> dict:
    """Every case of `--task` and `--method`."""
    return {"cases": [case(arguments, task, method) for task in arguments.task for method in arguments.method]}


draw = report.draw_ratios
