"""Where rows come from: the Hugging Face hub or a local folder laid out like it, behind one protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from peft_stilts.languages import Language
from peft_stilts.tasks.base import Split, Task

if TYPE_CHECKING:
    from datasets import Dataset


class Provider(Protocol):
    """Answers where rows come from. `name` is the results column `data_source`: 'hub', 'local' or 'miniature'."""

    name: str

    def languages(self, task: Task) -> tuple[str, ...]:
        """Codes of the languages in which `task` can be scored here, in the task's order."""

    def language(self, code: str) -> Language:
        """The language of a code; raises UsageError with the nearest codes."""

    def load(self, split: Split, limit: int | None = None) -> Dataset:
        """The rows of `split`, checked, its row filter applied, then the first `limit`; raises DataError."""

    def identify(self, split: Split) -> dict[str, Any]:
        """What goes into a stage key: repo, config, split, revision, rows (the filter's name or None), and `digest`
        (SHA-256) where the rows lie in a local folder."""
