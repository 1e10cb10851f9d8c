"""Progress of long work: bars with rate and time left on a terminal, plain lines every ten seconds elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

EVERY_SECONDS = 10.0
"""Plain lines come this far apart."""


class Step(Protocol):
    """What `progress` gives: `step(n, note)` says that `n` more units are done, and what is being done or seen now."""

    def __call__(self, n: float = 1, note: str = "") -> None: ...


@contextmanager
def progress(title: str, total: float | None = None, unit: str = "steps", done: float = 0,
             stream: TextIO | None = None) -> Iterator[Step]:
    """Show work of `total` units (None: unknown) while the block runs: `with progress("train", 90) as step: step(1)`.

    Blocks may be nested: inner bars stand below outer ones and vanish when they end; every finished block leaves one
    line with its time and rate. `done` units were done before (a run that goes on); they do not count in the rate.
    `stream` is stderr unless given, so that results on stdout stay clean. When the block raises, its line says at
    which unit it stopped, and the terminal is left as it was.
    """
    stream = sys.stderr if stream is None else stream
    task = _Task(title, total, unit, done)
    show = _bar if is_terminal(stream) else _lines
    with show(task, stream) as (step, say):
        try:
            yield step
        except BaseException:
            say(task.stopped())
            raise
        say(task.finished())


def of_training(step: Step) -> Callable[[int, int, int, float], None]:
    """What train/loop.py reports to: (optimizer steps done, in all, tokens so far, loss) -> the tokens added."""
    done = 0

    def shown(number: int, total: int, tokens: int, loss: float) -> None:
        nonlocal done
        step(tokens - done, f"step {number}/{total}, loss {loss:.3f}")
        done = tokens

    return shown


def is_terminal(stream: Any) -> bool:
    """Whether `stream` is a terminal on which a line may be drawn over (TERM=dumb and NO_COLOR ask for plain lines)."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


class _Task:
    """Counts units and tells the time they took."""

    def __init__(self, title: str, total: float | None, unit: str, done: float):
        self.title, self.total, self.unit, self.done, self.before = title, total, unit, done, done
        self.note = ""
        self.start = time.monotonic()

    def add(self, n: float, note: str) -> None:
        self.done += n
        self.note = note or self.note

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    @property
    def rate(self) -> float:
        """Units a second since the start."""
        return (self.done - self.before) / self.seconds if self.seconds > 0 else 0.0

    def measures(self) -> str:
        """'35.1 features/s, 0:25 left'; without the parts that are not known yet."""
        if not self.rate:
            return ""
        left = f", {clock((self.total - self.done) / self.rate)} left" if self.total and self.done < self.total else ""
        return f"{_number(self.rate)} {self.unit}/s{left}"

    def counted(self) -> str:
        total = "" if self.total is None else f"/{_count(self.total)}"
        return f"{self.title}: {_count(self.done)}{total} {self.unit}"

    def running(self) -> str:
        return ", ".join(filter(None, [self.counted(), self.measures(), self.note]))

    def finished(self) -> str:
        amount = f"{_count(self.done)} {self.unit} in " if self.done else ""
        rate = f", {_number(self.rate)} {self.unit}/s" if self.rate else ""
        return f"{self.title}: {amount}{clock(self.seconds)}{rate}" + (f", {self.note}" if self.note else "")

    def stopped(self) -> str:
        return f"{self.counted()}: stopped after {clock(self.seconds)}"


@contextmanager
def _lines(task: _Task, stream: TextIO) -> Iterator[tuple[Step, Callable[[str], None]]]:
    last = task.start

    def say(line: str) -> None:
        print(line, file=stream, flush=True)

    def step(n: float = 1, note: str = "") -> None:
        nonlocal last
        task.add(n, note)
        if time.monotonic() - last >= EVERY_SECONDS:
            last = time.monotonic()
            say(task.running())

    yield step, say


_live: list[Any] = []
"""The one rich display of this process while any bar is shown; nested blocks add their bar to it."""


@contextmanager
def _bar(task: _Task, stream: TextIO) -> Iterator[tuple[Step, Callable[[str], None]]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    outermost = not _live
    if outermost:
        columns = [TextColumn("{task.description}", markup=False), BarColumn(bar_width=24),
                   TextColumn("{task.fields[told]}", markup=False)]
        # transient: the bars go when the block ends, and the lines said remain.
        _live.append(Progress(*columns, console=Console(file=stream), transient=True))
        _live[0].start()
    display = _live[0]
    bar = display.add_task(task.title, total=task.total, completed=task.done, told="")

    def step(n: float = 1, note: str = "") -> None:
        task.add(n, note)
        counted = task.counted().removeprefix(f"{task.title}: ")
        told = ", ".join(filter(None, [counted, task.measures(), task.note]))
        display.update(bar, completed=task.done, told=told)

    def say(line: str) -> None:
        display.console.print(line, markup=False, highlight=False)

    try:
        yield step, say
    finally:
        display.remove_task(bar)
        if outermost:
            _live.clear()
            display.stop()


def clock(seconds: float) -> str:
    """A time as '8.3 s', '4:05' (minutes) or '2:04:05' (hours)."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _number(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
