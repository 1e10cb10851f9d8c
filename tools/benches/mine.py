"""Mining beside faiss's flat index searched both ways and sentence-transformers' semantic_search: the same pairs.

sentence-transformers has no mining of translations in the library, only an example that searches both ways (with faiss,
or with `util.semantic_search`) and scores by margin; that search is taken here, and for all contestants the margins and
the greedy choice of `evaluate/retrieval.py`. Each contestant is a process of its own, and they take turns.

faiss-cpu's wheels bring an OpenBLAS of 2021, which takes a newer CPU for one without AVX. So faiss runs as installed
and, where it helps, again with OPENBLAS_CORETYPE set to what a sweep finds fastest.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

import numpy as np
import torch

from benches.report import GIB, Spread, spread
from peft_stilts.evaluate import search
from peft_stilts.evaluate.retrieval import by_margin, mine
from peft_stilts.machine import cpu_flags, peak_memory

K = 4
SHAPE, QUICK = (20_000, 20_000, 1024), (2_000, 2_000, 256)
SCALING, QUICK_SCALING = (25_000, 50_000, 100_000), (1_000, 2_000, 4_000)
SCALING_WIDTH, PLANNED = 256, (1_000_000, 1_000_000, 1024)
CORES = {"HASWELL": {"avx2", "fma"}, "SKYLAKEX": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
"""OPENBLAS_CORETYPE -> the CPU's flags that it needs."""
CHUNKS = (100, 1000, 4000)
"""query_chunk_size of semantic_search that the sweep tries; 100 is its default."""
PACKAGES = {"faiss": "faiss-cpu", "sentence_transformers": "sentence-transformers"}

Mined = list[tuple[int, int, float]]


@dataclass(frozen=True)
class Job:
    """What a contestant's process does: `who` of CONTESTANTS on `shape` (Nx, Ny, H), with the sizes of a sweep."""

    who: str
    shape: tuple[int, int, int]
    threads: int
    seed: int = 1
    core: str = ""
    chunk: int = 0


def vectors(shape: tuple[int, int, int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x (Nx, H), y (Ny, H) float32: half of the shorter side are noisy translations, in no order, the others random."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(count, shape[2], generator=generator) for count in shape[:2])
    pairs = min(shape[:2]) // 2
    left, right = (torch.randperm(count, generator=generator)[:pairs] for count in shape[:2])
    x[left] = y[right] + 0.8 * x[left]
    return x, y


def ours(x: torch.Tensor, y: torch.Tensor, job: Job) -> Mined:
    """`evaluate/retrieval.py`'s mine."""
    return mine(x, y, K)


def with_faiss(x: torch.Tensor, y: torch.Tensor, job: Job) -> Mined:
    """A flat inner-product index of each side, searched with the other."""
    import faiss

    faiss.omp_set_num_threads(job.threads)
    sides = [side.numpy().copy() for side in (x, y)]
    found = []
    for side in sides:
        faiss.normalize_L2(side)
    for queries, candidates in (sides, sides[::-1]):
        index = faiss.IndexFlatIP(candidates.shape[1])
        index.add(candidates)
        found += map(torch.from_numpy, index.search(queries, K))
    return by_margin(*found)


def with_sentence_transformers(x: torch.Tensor, y: torch.Tensor, job: Job) -> Mined:
    """semantic_search of each side in the other."""
    from sentence_transformers.util import semantic_search

    found = []
    for queries, candidates in ((x, y), (y, x)):
        hits = semantic_search(queries, candidates, query_chunk_size=job.chunk, top_k=K)
        for name, kind in (("score", np.float32), ("corpus_id", np.int64)):
            found.append(torch.from_numpy(np.array([[hit[name] for hit in row] for row in hits], dtype=kind)))
    return by_margin(*found)


def product(x: torch.Tensor, y: torch.Tensor, job: Job) -> Mined:
    """Nothing but the one matrix product, in tiles of the same size."""
    tile = torch.empty(min(search.BLOCK, len(x)), min(search.BLOCK, len(y)))
    for rows in x.split(search.BLOCK):
        for columns in y.split(search.BLOCK):
            torch.mm(rows, columns.T, out=tile[:len(rows), :len(columns)])
    return []


CONTESTANTS: dict[str, Callable[[torch.Tensor, torch.Tensor, Job], Mined]] = {
    "ours": ours, "faiss": with_faiss, "sentence-transformers": with_sentence_transformers, "product": product}


def serve(connection: Connection, job: Job) -> None:
    """A contestant's process: it has warmed up when it says "ready", and mines once for each "go"."""
    torch.set_num_threads(job.threads)
    action = CONTESTANTS[job.who]
    few = vectors((256, 256, job.shape[2]), job.seed)
    action(*few, job)
    x, y = vectors(job.shape, job.seed)
    connection.send("ready")
    while connection.recv() == "go":
        begin = time.perf_counter()
        pairs = action(x, y, job)
        connection.send({"seconds": time.perf_counter() - begin, "peak_bytes": peak_memory(),
                         "pairs": [pair[:2] for pair in pairs]})


@contextmanager
def started(job: Job) -> Iterator[Callable[[], dict]]:
    """The process of a contestant; a call of what is given is a turn of it."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    before = os.environ.get("OPENBLAS_CORETYPE")
    if job.core:
        os.environ["OPENBLAS_CORETYPE"] = job.core          # read when the process loads the library
    process = context.Process(target=serve, args=(there, job), daemon=True)
    process.start()
    if job.core:
        os.environ.pop("OPENBLAS_CORETYPE")
        os.environ.update({} if before is None else {"OPENBLAS_CORETYPE": before})
    there.close()

    def answer():
        try:
            return here.recv()
        except EOFError:
            raise SystemExit(f"the contestant {job.who} has ended before its time; what it said is above") from None

    def turn() -> dict:
        here.send("go")
        return answer()

    try:
        answer()
        yield turn
        here.send("end")
        process.join()
    finally:
        process.terminate()


def fastest(job: Job, options: dict[str, Job]) -> str:
    """The option that takes the fewest seconds on a quarter of both sides, the better of two turns; a line says all."""
    few = (*(count // 4 for count in job.shape[:2]), job.shape[2])
    seconds = {}
    for name, option in options.items():
        with started(replace(option, shape=few)) as turn:
            seconds[name] = min(turn()["seconds"] for _ in range(2))
    print(f"  {job.who}, on a quarter of both sides: "
          + ", ".join(f"{name} {taken:.2f} s" for name, taken in seconds.items()), flush=True)
    return min(seconds, key=seconds.get)


def contestants(arguments: argparse.Namespace, shape: tuple[int, int, int]) -> dict[str, Job]:
    """The job of each contestant by its name in the tables; those whose package is missing are named and left out."""
    plain = Job("ours", shape, arguments.threads)
    jobs = {"ours": plain}
    missing = [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]
    for name in missing:
        print(f"  {name} is not installed, so it does not take part: python -m pip install {name}", flush=True)
    if "faiss-cpu" not in missing:
        jobs["faiss"] = faiss = replace(plain, who="faiss")
        cores = {core: replace(faiss, core=core) for core, flags in CORES.items() if flags <= cpu_flags()}
        best = fastest(faiss, {"as installed": faiss} | cores)
        if best in cores:
            jobs[f"faiss, OPENBLAS_CORETYPE={best}"] = cores[best]
    if "sentence-transformers" not in missing:
        other = replace(plain, who="sentence-transformers")
        chunks = {f"query_chunk_size={size}": replace(other, chunk=size) for size in CHUNKS}
        best = fastest(other, chunks)
        jobs[f"sentence-transformers, {best}"] = chunks[best]
    return jobs


def compare(arguments: argparse.Namespace, shape: tuple[int, int, int]) -> dict:
    """Turns of all contestants; SystemExit where pairs differ."""
    jobs = contestants(arguments, shape) | {"product": Job("product", shape, arguments.threads)}
    turns: dict[str, list[dict]] = {name: [] for name in jobs}
    with ExitStack() as stack:
        running = {name: stack.enter_context(started(job)) for name, job in jobs.items()}
        for _ in range(arguments.repeats):
            for name, turn in running.items():
                turns[name].append(turn())
    products = [told["seconds"] for told in turns.pop("product")]
    found = {name: {"seconds": [told["seconds"] for told in taken], "peak_bytes": max(t["peak_bytes"] for t in taken),
                    "pairs": len(taken[0]["pairs"]),
                    "differing_pairs": max(len(set(told["pairs"]) ^ set(turns["ours"][0]["pairs"])) for told in taken)}
             for name, taken in turns.items()}
    seconds = found["ours"]["seconds"]
    ratios = {f"ours / {name}": spread([b / a for a, b in zip(seconds, told["seconds"], strict=True)])
              for name, told in found.items() if name != "ours"}
    result = {"contestants": found, "ratios": ratios, "ceiling_seconds": spread(products),
              "fraction": spread([a / b for a, b in zip(products, seconds, strict=True)])}
    show(result, shape)
    if any(told["differing_pairs"] for told in found.values()):
        raise SystemExit("the contestants do not mine the same pairs")
    return result


def show(result: dict, shape: tuple[int, int, int]) -> None:
    """Print the table of a comparison."""
    for name, told in result["contestants"].items():
        print(f"  {name}: {Spread.of(told['seconds']).text('.2f')} s, peak {told['peak_bytes'] / GIB:.2f} GiB, "
              f"{told['pairs']:,} pairs, {told['differing_pairs']} of them differ from ours'")
    for name, told in result["ratios"].items():
        print(f"  {name}: {Spread(**told).text('.2f')} times the speed")
    ceiling = Spread(**result["ceiling_seconds"])
    rate = 2 * shape[0] * shape[1] * shape[2] / ceiling.median / 1e9
    print(f"  ceiling: {ceiling.text('.2f')} s for the one matrix product, at {rate:.0f} GFLOP/s; of it ours reaches "
          f"{Spread(**result['fraction']).text('.2f')}", flush=True)


def scaling(arguments: argparse.Namespace) -> dict:
    """Seconds and peak memory of ours for growing sides of width 256, each in a process of its own.

    What they mean for PLANNED is arithmetic, not measured: a straight line through the memory beside the vectors, and
    the rate of the largest size, where a greater width would be quicker.
    """
    points = []
    for size in QUICK_SCALING if arguments.quick else SCALING:
        with started(Job("ours", (size, size, SCALING_WIDTH), arguments.threads)) as turn:
            told = turn()
        given = 2 * size * SCALING_WIDTH * 4
        points.append({"size": size, "seconds": told["seconds"], "peak_bytes": told["peak_bytes"],
                       "vector_bytes": given})
        print(f"  {size:,} x {size:,} x {SCALING_WIDTH}: {told['seconds']:.1f} s, peak "
              f"{told['peak_bytes'] / GIB:.2f} GiB, of it vectors {given / GIB:.2f}", flush=True)
    sizes = np.array([point["size"] for point in points], dtype=float)
    slope, start = np.polyfit(sizes, [point["peak_bytes"] - point["vector_bytes"] for point in points], 1)
    planned = start + slope * PLANNED[0] + 4 * PLANNED[2] * (PLANNED[0] + PLANNED[1])
    seconds = points[-1]["seconds"] * np.prod(PLANNED, dtype=float) / (sizes[-1] ** 2 * SCALING_WIDTH)
    print(f"  beside the vectors {start / GIB:.2f} GiB and {slope:,.0f} bytes for each two; so {PLANNED[0]:,} x "
          f"{PLANNED[1]:,} x {PLANNED[2]} would need {planned / GIB:.1f} GiB and {seconds / 3600:.2g} hours "
          "(arithmetic)", flush=True)
    return {"points": points, "start_bytes": start, "bytes_a_row": slope, "planned": PLANNED,
            "planned_bytes": planned, "planned_seconds": seconds}


def run(arguments: argparse.Namespace) -> dict:
    """`quick`, `repeats`, `threads` -> seconds of each contestant, ratios, the ceiling, and how ours scales."""
    shape = QUICK if arguments.quick else SHAPE
    title = f"mining {shape[0]:,} x {shape[1]:,} x {shape[2]}"
    print(title, flush=True)
    found = compare(arguments, shape)
    print("growing sides", flush=True)
    return {"title": title, "shape": shape, "k": K, **found, "scaling": scaling(arguments)}
