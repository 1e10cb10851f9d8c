"""The miniature world as a provider of rows: one more source beside the hub and local folders."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from peft_stilts.errors import DataError
from peft_stilts.languages import Language
from peft_stilts.miniature.generators import GENERATORS, rows_of
from peft_stilts.miniature.mining import BUCC_LANGUAGES
from peft_stilts.miniature.pairs import PAWSX_LANGUAGES
from peft_stilts.miniature.spans import MLQA_LANGUAGES, TYDIQA_LANGUAGES
from peft_stilts.miniature.world import TONGUES, WORLD_VERSION
from peft_stilts.registry import Registry
from peft_stilts.tasks.sources import identity, narrow

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
    "pawsx": PAWSX_LANGUAGES,
    "bucc2018": BUCC_LANGUAGES,
    "bucc_gold": BUCC_LANGUAGES,
    "mlqa": MLQA_LANGUAGES,
    "tydiqa": TYDIQA_LANGUAGES,
    "tatoeba": tuple(code for code in TONGUES if code != "en"),
}
"""Tasks that are not scored in all ten languages, as the real ones are not."""

_INT32 = {"nyu-mll/glue": ("idx",), "Rowan/hellaswag": ("ind",), "allenai/cosmos_qa": ("label",)}
"""Repository -> its columns of 32-bit integers; all others have 64 bits, but for the positions of answers."""


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
        return narrow(_dataset(split.repo, split.config, split.split), split, limit, f"the miniature world's {split}")

    def identify(self, split: Split) -> dict[str, Any]:
        """What goes into a stage key; the revision is the world's version, for the rows follow from code alone."""
        return identity(split, f"world-{WORLD_VERSION}")

    @staticmethod
    def _has(split: Split) -> bool:
        return any(repo == split.repo and re.fullmatch(config, split.config or "") for repo, config, _ in GENERATORS)


@cache
def _dataset(repo: str, config: str | None, split: str) -> Dataset:
    import pyarrow as pa
    from datasets import Dataset

    rows = rows_of(repo, config, split)
    if not rows:
        raise DataError(f"the miniature world's {repo} {config or ''} {split} has no rows")
    table = pa.Table.from_pylist(rows)
    narrowed = dict.fromkeys(_INT32.get(repo, ()), pa.int32()) | {
        "answers": pa.struct({"text": pa.list_(pa.string()), "answer_start": pa.list_(pa.int32())})
    }
    return Dataset(table.cast(pa.schema([pa.field(f.name, narrowed.get(f.name, f.type)) for f in table.schema])))
