"""Training beside transformers' Trainer: one loss curve for all contestants, then tokens a second and peak memory."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Mapping, Sequence

from benches import report
from benches.contestant import Contestant, started
from benches.workload import FEATURES_PER_STEP, SMALL, Job, Shape, matrix_operations, plan

SWEPT = {"qa": (2, 4, 8, 16), "pairs": (4, 8, 16, 32)}
"""Features a micro-batch that each peer is tried with."""
SLOWER = 1.15
"""A sweep goes on to larger sizes until one takes so many times as long as the best so far."""
PARITY_STEPS, QUICK_PARITY_STEPS = 20, 6
PARITY_LR = 1e-4
TOLERANCE = 1e-3
"""Largest relative difference of the losses of a step: rounding in fp32, which training makes larger step by step."""


def base_job(arguments: argparse.Namespace, task: str, method: str) -> Job:
    """What the jobs of one case have in common."""
    shape = SMALL if arguments.quick else Shape(arguments.layers)
    return Job(who="ours", purpose="train", task=task, method=method, shape=shape, per_step=FEATURES_PER_STEP[task],
               steps=getattr(arguments, "steps", 1), rounds=arguments.rounds, seed=arguments.seed,
               threads=arguments.threads, precision=arguments.precision, lr=2e-4 if method == "lora" else 1e-5,
               pool=2000 if arguments.quick else 20000,
               in_use=arguments.words_in_use, lengths_from=arguments.lengths_from and str(arguments.lengths_from))


def contestants(arguments: argparse.Namespace) -> list[str]:
    """`ours` by each of the chosen kernels, then the peers."""
    return [*(f"ours ({kernels})" for kernels in report.resolved(arguments.kernels)), *arguments.peers]


def job_of(base: Job, who: str, **changes) -> Job:
    """The base job for one contestant."""
    kernels = who.partition("(")[2].rstrip(")") or "eager"
    return dataclasses.replace(base, who=who, kernels=kernels, **changes)


def parity(base: Job, names: Sequence[str], quick: bool, full_shape: bool) -> dict:
    """Train every contestant without dropout in one order; SystemExit when their losses differ by more than TOLERANCE.

    Peers accumulate gradients over micro-batches of a quarter of the step, ours over packs of 1,024 tokens.
    """
    steps = QUICK_PARITY_STEPS if quick else PARITY_STEPS
    common = {"shape": base.shape if full_shape else SMALL, "dropout": 0.0, "lora_dropout": 0.0, "lr": PARITY_LR,
              "warm": 0, "steps": steps, "rounds": 1, "same_order": True, "pool": 2000, "precision": "fp32"}
    jobs = [job_of(base, who, size=1024 if who.startswith("ours") else base.per_step // 4, **common) for who in names]
    losses = {}
    with started(jobs) as all_of_them:
        for contestant in all_of_them:
            contestant.go()
            losses[contestant.job.who] = contestant.end()["losses"]
    first = losses[names[0]]
    worst = {who: max(abs(a - b) / abs(b) for a, b in zip(first, found, strict=True))
             for who, found in losses.items() if who != names[0]}
    print(f"  parity: {steps} steps without dropout, loss {first[0]:.4f} to {first[-1]:.4f}; largest relative "
          "difference " + ", ".join(f"{value:.1e} ({who})" for who, value in worst.items()), flush=True)
    if any(not value <= TOLERANCE for value in worst.values()):
        raise SystemExit(f"the contestants do not train the same: a difference above {TOLERANCE:g}; losses: {losses}")
    return {"losses": losses, "difference": worst, "tolerance": TOLERANCE}


def sweep(base: Job, names: Sequence[str], arguments: argparse.Namespace) -> dict[str, dict[int, float]]:
    """Contestant -> {size: seconds of a step}."""
    peers = arguments.micro_batch or SWEPT[base.task][1:3 if arguments.quick else None]
    given = {who: tuple(arguments.tokens_per_pack) if who.startswith("ours") else peers for who in names}
    return sweep_sizes(dataclasses.replace(base, purpose="sweep", warm=0, rounds=1, steps=1), given)


def sweep_sizes(base: Job, given: Mapping[str, Sequence[int]]) -> dict[str, dict[int, float]]:
    """Contestant -> {size: seconds of a turn} for the sizes `given`, ascending, until one is SLOWER than the best.
    A contestant with one size only is not swept."""
    found = {who: {sizes[0]: 0.0} if len(sizes) == 1 else {} for who, sizes in given.items()}
    jobs = [job_of(base, who, sizes=tuple(sorted(given[who])), size=given[who][0]) for who in given if not found[who]]
    with started(jobs) as all_of_them:
        for contestant in all_of_them:
            who = contestant.job.who
            contestant.go()
            for size in contestant.job.sizes:
                found[who][size] = contestant.go()["seconds"]
                if found[who][size] > SLOWER * min(found[who].values()):
                    break
            contestant.close()
            unit = "tokens a pack" if who.startswith("ours") else "features a batch"
            print(f"  sweep, {who}: " + ", ".join(f"{size} {unit} {seconds:.2f} s"
                                                  for size, seconds in found[who].items()), flush=True)
    return found


def best(swept: dict[int, float]) -> int:
    """The size of the fastest step."""
    return min(swept, key=swept.get)


def timing(base: Job, sizes: dict[str, int], profile: bool) -> tuple[dict, list[float]]:
    """Contestant -> its turns and what it came to; and the rate of matrix products measured before each round.

    A round is one turn of every contestant, a different one first each time; the turn before the first round warms up.
    """
    jobs = [job_of(base, who, size=size, profile=profile and who.startswith("ours")) for who, size in sizes.items()]
    rates = []
    with started(jobs) as all_of_them:
        for round_ in range(-1, base.rounds):
            if round_ >= 0:
                rates.append(report.product_rate(base.shape.width, base.shape.inner, base.threads, base.precision))
            take_turns(all_of_them, round_)
        found = {}
        for contestant in all_of_them:
            if contestant.job.profile:
                contestant.go()
            turns = contestant.turns[1:1 + base.rounds]
            found[contestant.job.who] = {"turns": turns, **contestant.end()}
    return found, rates


def take_turns(contestants: list[Contestant], round_: int) -> None:
    """A turn of each, another one first in each round; round -1 warms up and is not shown."""
    first = max(0, round_) % len(contestants)
    for contestant in contestants[first:] + contestants[:first]:
        contestant.go()
    if round_ >= 0:
        speeds = {one.job.who: one.turns[-1]["tokens"] / one.turns[-1]["seconds"] for one in contestants}
        told = ", ".join(f"{who} {speed:,.0f}" for who, speed in speeds.items())
        print(f"  round {round_ + 1}, tokens/s: {told}", flush=True)


def case(arguments: argparse.Namespace, task: str, method: str) -> dict:
    """One kind of lengths by one method: parity, sweep, timing, and what follows from them."""
    begin = time.monotonic()
    base, names = base_job(arguments, task, method), contestants(arguments)
    steps = plan(base)
    title = report.title(task, method)
    print(f"{title}: {base.per_step} features a step, {steps.lengths.mean():.0f} tokens a feature; XLM-R with "
          f"{base.shape.layers} layers of width {base.shape.width}", flush=True)
    found: dict = {"title": title, "task": task, "method": method, "job": dataclasses.asdict(base)}
    if arguments.parity != "none":
        found["parity"] = parity(base, names, arguments.quick, arguments.parity == "full")
    found["sweep"] = sweep(base, names, arguments)
    found["size"] = {who: best(swept) for who, swept in found["sweep"].items()}
    found["contestants"], found["product_rates"] = timing(base, found["size"], arguments.profile)
    operations = [matrix_operations(base, steps.lengths[[i for step in part for i in step]])
                  for part in rounds_of(base, steps.plain)]
    found["summary"] = report.summary(found["contestants"], operations, found["product_rates"])
    report.show(found["contestants"], found["summary"], found["size"])
    for who, told in found["contestants"].items():
        if told.get("profile"):
            report.show_profile(who, told["profile"])
    found["seconds"] = time.monotonic() - begin
    print(f"  ({found['seconds']:.0f} s in all)\n", flush=True)
    return found


def rounds_of(job: Job, steps: list[list[int]]) -> list[list[list[int]]]:
    """The timed steps, round by round."""
    return [steps[job.warm + turn * job.steps:job.warm + (turn + 1) * job.steps] for turn in range(job.rounds)]


def run(arguments: argparse.Namespace) -> dict:
    """Every case of `--task` and `--method`."""
    cases = [case(arguments, task, method) for task in arguments.task for method in arguments.method]
    medians = {f"{one['task']} {one['method']}": {peer: told["speed"]["median"] for peer, told in
                                                  one["summary"]["ratios"].items()} for one in cases}
    return {"cases": cases, "medians": medians}


draw = report.draw_ratios
