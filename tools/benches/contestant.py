"""A contestant: a process of its own that does a few steps when told to, so that runs interleave and peaks are its own.

The process gets its job (JSON) on the first line of its stdin, then `go` for each turn; it answers with one JSON line
a turn on stdout: the first says that it is ready, the last what it has come to.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benches.workload import Job

TOOL = Path(__file__).resolve().parents[1] / "bench.py"
SHOWN = 30
"""Last lines of a failed contestant's stderr that are shown."""


class Turns:
    """The contestant's side: `wait` for each turn of so many steps, count them by `step`, and tell the seconds.

    `sizes`: steps of each turn; `measured`: called around the last turn when it is given, to profile it.
    """

    def __init__(self, sizes: Sequence[int], profiler=None):
        self.sizes = [size for size in sizes if size]
        self.turn, self.done, self.before, self.begin = 0, 0, 0, 0.0
        self.profiler = profiler

    def wait(self) -> None:
        """Wait for the next `go` and start the clock."""
        hear()
        finish()
        if self.profiler and self.turn == len(self.sizes) - 1:
            self.profiler.start()
        self.begin = time.perf_counter()

    def step(self, tokens) -> None:
        """One step more is done; `tokens` so far in all, a number or a tensor. At a turn's end the seconds and tokens
        of it are told, and the next turn is waited for."""
        self.done += 1
        if self.done < self.sizes[self.turn]:
            return
        finish()
        tokens = int(tokens)
        seconds = time.perf_counter() - self.begin
        if self.profiler and self.turn == len(self.sizes) - 1:
            self.profiler.stop()
        tell({"seconds": seconds, "tokens": tokens - self.before})
        self.turn, self.done, self.before = self.turn + 1, 0, tokens
        if self.turn < len(self.sizes):
            self.wait()


_out = sys.stdout


def finish() -> None:
    """Wait until the GPU, where there is one, has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def hear() -> str:
    """The next line of the driver; SystemExit when there is no driver any more."""
    line = sys.stdin.readline()
    if not line:
        raise SystemExit("the benchmark that started this contestant has ended")
    return line.strip()


def tell(found: dict) -> None:
    """Say one thing to the driver."""
    print(json.dumps(found), file=_out, flush=True)


def serve() -> None:
    """Be the contestant of the job on stdin. Whatever libraries print goes to stderr."""
    global _out
    _out, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    os.dup2(2, 1)
    first = sys.stdin.readline()

    import torch

    from benches import ours, peers
    from benches.workload import Job

    job = Job.read(first)
    torch.set_num_threads(job.threads)
    side = ours if job.who.startswith("ours") else peers
    action: Callable[[Job], dict] = {"train": side.train, "sweep": side.sweep, "predict": side.predict}[job.purpose]
    tell({"end": action(job)})


class Contestant:
    """The driver's side of the process of one job; use it as a context manager."""

    def __init__(self, job: Job):
        self.job = job
        self.turns: list[dict] = []
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        threads = str(job.threads)
        self.process = subprocess.Popen(
            [sys.executable, str(TOOL), "contestant"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.errors, text=True, encoding="utf-8",
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONWARNINGS": "ignore"})
        self._say(job.text())

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """End its process, whatever it is doing; once is enough."""
        if self.errors.closed:
            return
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()

    def ready(self) -> dict:
        """What it tells when its model is built: such as `{"ready": ...}`."""
        return self._hear()

    def go(self) -> dict:
        """Let it take one turn; what it tells of it: `seconds` and `tokens`, kept in `turns`."""
        self._say("go")
        told = self._hear()
        self.turns.append(told)
        return told

    def end(self) -> dict:
        """What it has come to."""
        return self._hear()["end"]

    def _say(self, line: str) -> None:
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def _hear(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self._fail()
        return json.loads(line)

    def _fail(self) -> None:
        code = self.process.wait()
        self.errors.seek(0)
        told = "".join(self.errors.readlines()[-SHOWN:])
        memory = " (killed, perhaps for memory)" if code == -9 else ""
        raise SystemExit(f"{told}{self.job.who}, {self.job.task}, {self.job.method}: the contestant ended with "
                         f"{code}{memory}; its last words are above.")


@contextmanager
def started(jobs: Sequence[Job]):
    """The contestants of `jobs`, all started and ready; ended when the block is left."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        contestants = [stack.enter_context(Contestant(job)) for job in jobs]
        for contestant in contestants:
            contestant.ready()
        yield contestants
