"""The miniature world as a provider of rows: one more source beside the hub and local folders."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from peft_stilts.errors import DataError
from peft_stilts.languages import Language
from peft_stilts.miniature.generators import GENERATORS, MLQA_LANGUAGES, TYDIQA_LANGUAGES, rows_of
from peft_stilts.miniature.world import TONGUES, WORLD_VERSION
from peft_stilts.registry import Registry

if TYPE_CHECKING:
    from datasets import Dataset

    from peft_stilts.tasks.base import Split, Task

_ISO_15924 = {"Latin": "Latn", "Cyrillic": "Cyrl", "Greek": "Grek", "Devanagari": "Deva", "Georgian": "Geor"}

LANGUAGES: Registry[Language] = Registry("miniature language")
"""The ten miniature languages as Language values; their family is 'miniature' and no database has their codes."""

for _tongue in TONGUES.values():
    LANGUAGES.add(
        _tongue.code,
        Language(
            code=_tongue.code,
            iso639_3=_tongue.iso639_3,
            name=_tongue.name,
            script=_ISO_15924[_tongue.script],
            family="miniature",
            uriel_code="",
        ),
    )

_SCORED_IN = {
    "mlqa": MLQA_LANGUAGES,
    "tydiqa": TYDIQA_LANGUAGES,
    "tatoeba": tuple(code for code in TONGUES if code != "en"),
}
"""Tasks that are not scored in all ten languages, as the real ones are not."""


class MiniatureWorld:
    """Provider of generated rows (see tasks/sources.py); needs no network, disk or download."""

    name = "miniature"

    def languages(self, task: Task) -> tuple[str, ...]:
        """Codes in which `task` is scored here, the nearest to English first; () for a task that the world has not."""
        if task.test is None:
            return ("en",)
        codes = _SCORED_IN.get(task.name, tuple(TONGUES))
        return tuple(code for code in codes if self._has(task.test(self.language(code))))

    def language(self, code: str) -> Language:
        """The language of a code; raises UsageError with the nearest codes."""
        return LANGUAGES[code]

    def load(self, split: Split, limit: int | None = None) -> Dataset:
        """The rows of `split`, filtered, then the first `limit`; raises DataError for what the world has not."""
        dataset = _dataset(split.repo, split.config, split.split)
        if split.rows is not None:
            dataset = split.rows.apply(dataset)
        return dataset if limit is None else dataset.select(range(min(limit, len(dataset))))

    def identify(self, split: Split) -> dict[str, Any]:
        """What goes into a stage key; the revision is the world's version, for the rows follow from code alone."""
        return {
            "repo": split.repo,
            "config": split.config,
            "split": split.split,
            "revision": f"world-{WORLD_VERSION}",
            "rows": split.rows.name if split.rows else None,
        }

    @staticmethod
    def _has(split: Split) -> bool:
        return any(repo == split.repo and re.fullmatch(config, split.config or "") for repo, config, _ in GENERATORS)


@cache
def _dataset(repo: str, config: str | None, split: str) -> Dataset:
    from datasets import Dataset

    rows = rows_of(repo, config, split)
    if not rows:
        raise DataError(f"the miniature world's {repo} {config or ''} {split} has no rows")
    return Dataset.from_list(rows)
