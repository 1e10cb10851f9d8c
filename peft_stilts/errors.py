"""The error family: every mistake a user can make, as one readable message without a traceback."""

from __future__ import annotations

import reprlib
from typing import Any

_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 100


def brief(value: Any) -> str:
    """A value from a file as a message shows it: a line or two, however long it is."""
    return _BRIEF.repr(value)


class StiltsError(Exception):
    """Base of every error that is a message to the user; the command line prints it and exits with `exit_code`."""

    exit_code = 1


class UsageError(StiltsError):
    """A mistake in what was asked for. Carries every problem found, so that all can be mended at once.

    `problems`: list of str, one message each.
    """

    exit_code = 2

    def __init__(self, *problems: str):
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class DataError(StiltsError):
    """Data that cannot be read or does not mean what its columns say; names the file or split and the row."""


class StoreError(StiltsError):
    """An artefact that is missing, corrupted or does not belong; names the file and both checksums."""


class CheckpointError(StiltsError):
    """Weights that do not fit: another base, a missing, unexpected or misshapen tensor; names both sides."""


class TrainingError(StiltsError):
    """Training that cannot go on (NaN, collapse, a text larger than memory); names the cause and the checkpoint."""


class Problems:
    """Collects messages, and raises them as one UsageError: `with Problems() as found: found.add("...")`.

    A UsageError or DataError raised inside `found.collect()` is added to the others instead of ending the checks.
    """

    def __init__(self) -> None:
        self.messages: list[str] = []

    def add(self, message: str) -> None:
        if message not in self.messages:
            self.messages.append(message)

    def collect(self) -> _Collect:
        return _Collect(self)

    def __enter__(self) -> Problems:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if error is None and self.messages:
            raise UsageError(*self.messages)


class _Collect:
    def __init__(self, problems: Problems):
        self.problems = problems

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> bool:
        if isinstance(error, UsageError):
            for message in error.problems:
                self.problems.add(message)
        elif isinstance(error, StiltsError):
            self.problems.add(str(error))
        return isinstance(error, StiltsError)
