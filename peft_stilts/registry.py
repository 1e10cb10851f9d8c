"""Named tables: one pattern for tasks, heads and recipes, with the nearest names when one is mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from peft_stilts.errors import UsageError

T = TypeVar("T")


def unknown(kind: str, name: object, choices: Iterable[str]) -> str:
    """The message for a name that is not among `choices`: the nearest ones first, then all of them."""
    known = sorted(choices)
    return f"unknown {kind} {str(name)!r}.{nearest(name, known)} Known: {', '.join(known)}."


def nearest(name: object, choices: Iterable[str], cutoff: float = 0.5) -> str:
    """' Did you mean X?', or '' when nothing among `choices` resembles `name` (difflib's ratio from `cutoff`)."""
    near = difflib.get_close_matches(str(name), sorted(map(str, choices)), n=3, cutoff=cutoff)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


class Registry(Mapping[str, T], Generic[T]):
    """A table of named values; a name is given once, and an unknown one raises UsageError with the nearest names."""

    def __init__(self, kind: str):
        self.kind = kind
        self._values: dict[str, T] = {}

    def add(self, name: str, value: T) -> T:
        """Enter `value` under `name`; raises ValueError when the name is taken."""
        if name in self._values:
            raise ValueError(f"{self.kind} {name!r} is defined twice")
        self._values[name] = value
        return value

    def replace(self, name: str, value: T) -> None:
        """Put `value` in the place of the entry `name`; raises UsageError when there is none."""
        self[name]
        self._values[name] = value

    def __getitem__(self, name: str) -> T:
        if name not in self._values:
            raise UsageError(unknown(self.kind, name, self._values))
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
