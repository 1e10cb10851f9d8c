"""Progress: plain lines at their interval, bars on a terminal, nesting, and a clean end after an error."""

import io
import os
import pty
import subprocess
import sys

import pytest

from peft_stilts import progress as module
from peft_stilts.progress import clock, is_terminal, progress


def test_plain_lines_come_at_the_interval_with_rate_and_time_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with progress("train full", total=100, unit="features", stream=out) as step:
        for _ in range(8):
            now[0] += 3
            step(10, "loss 1.25")
    lines = out.getvalue().splitlines()
    assert lines == [
        "train full: 40/100 features, 3.33 features/s, 18.0 s left, loss 1.25",
        "train full: 80/100 features, 3.33 features/s, 6.0 s left, loss 1.25",
        "train full: 80 features in 24.0 s, 3.33 features/s, loss 1.25",
    ]


def test_work_done_before_is_not_in_the_rate(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with progress("train", total=100, done=50, stream=out) as step:
        now[0] = 10.0
        step(10)
    assert out.getvalue().splitlines()[0] == "train: 60/100 steps, 1 steps/s, 40.0 s left"


def test_unknown_total_and_no_steps():
    out = io.StringIO()
    with progress("download", stream=out):
        pass
    assert out.getvalue() == "download: 0.0 s\n"


def test_an_error_ends_with_one_line_and_goes_on():
    out = io.StringIO()
    with pytest.raises(ZeroDivisionError), progress("train", 10, stream=out) as step:
        step(3)
        raise ZeroDivisionError
    assert out.getvalue() == "train: 3/10 steps: stopped after 0.0 s\n"


@pytest.mark.parametrize("variable, value", [("TERM", "dumb"), ("NO_COLOR", "1")])
def test_plain_when_asked(monkeypatch, variable, value):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert is_terminal(Terminal())
    monkeypatch.setenv(variable, value)
    assert not is_terminal(Terminal())
    assert not is_terminal(io.StringIO())


def test_nested_bars_on_a_terminal_leave_lines_and_the_cursor():
    code = (
        "from peft_stilts.progress import progress\n"
        "try:\n"
        "    with progress('grid [a]', 2, 'stages') as outer:\n"
        "        with progress('train [b]', 3, 'steps') as inner:\n"
        "            [inner(1, 'loss [red]1.0') for _ in range(3)]\n"
        "        outer()\n"
        "        print('said inside', flush=True)\n"
        "        raise KeyError\n"
        "except KeyError:\n"
        "    print('after')\n"
    )
    parent, child = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run([sys.executable, "-c", code], stdout=child, stderr=child, env=environment, timeout=60)
    os.close(child)
    text = b""
    try:
        while part := os.read(parent, 65536):
            text += part
    except OSError:                       # the other end is closed: everything was read
        pass
    os.close(parent)
    text = text.decode()
    assert done.returncode == 0, text
    assert "train [b]: 3 steps in" in text and "loss [red]1.0" in text      # nothing is taken for markup
    assert "grid [a]: 1/2 stages: stopped after" in text
    assert "said inside" in text and text.rstrip().endswith("after")
    assert text.count("\x1b[?25h") == 1                                     # the cursor is shown again
    assert "Traceback" not in text


@pytest.mark.parametrize("seconds, text", [(0.04, "0.0 s"), (59.9, "59.9 s"), (245, "4:05"), (7445.2, "2:04:05")])
def test_clock(seconds, text):
    assert clock(seconds) == text
