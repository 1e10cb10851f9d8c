"""Rows of the miniature data sets: one generator per (repository, configuration), in the columns of the real ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from peft_stilts.errors import DataError
from peft_stilts.miniature import choices, mining, pairs, spans, tagging, texts
from peft_stilts.miniature.texts import Generator, Rows
from peft_stilts.miniature.world import TONGUES


def _codes(codes: Sequence[str]) -> str:
    return "(" + "|".join(codes) + ")"


_ALL = _codes(tuple(TONGUES))
_NAMES = _codes([tongue.name for tongue in TONGUES.values()])
_FOREIGN = [tongue for tongue in TONGUES.values() if tongue.code != "en"]
GENERATORS: tuple[tuple[str, str, Generator], ...] = (
    ("google/xtreme", "SQuAD", spans.squad),
    ("rajpurkar/squad", ".*", spans.squad),
    ("rajpurkar/squad_v2", "squad_v2", spans.squad_v2),
    ("google/xtreme", rf"XQuAD\.{_ALL}", spans.xquad),
    ("google/xtreme", rf"MLQA\.{_codes(spans.MLQA_LANGUAGES)}\.{_codes(spans.MLQA_LANGUAGES)}", spans.mlqa),
    ("google/xtreme", "tydiqa", spans.tydiqa),
    ("google/xtreme", r"tatoeba\." + _codes([tongue.iso639_3 for tongue in _FOREIGN]), mining.tatoeba),
    ("google/xtreme", rf"bucc18\.{_codes(mining.BUCC_LANGUAGES)}", mining.bucc18),
    ("bucc/bucc2018", _codes(mining.BUCC_LANGUAGES), mining.bucc2018),
    ("nyu-mll/glue", "mnli", pairs.mnli),
    ("nyu-mll/glue", "qqp", pairs.qqp),
    ("stanfordnlp/snli", "plain_text", pairs.snli),
    ("facebook/anli", "plain_text", pairs.anli),
    ("google/xtreme", "XNLI", pairs.xnli),
    ("google/xtreme", rf"PAWS-X\.{_codes(pairs.PAWSX_LANGUAGES)}", pairs.pawsx),
    ("google/xtreme", rf"PAN-X\.{_ALL}", tagging.panx),
    ("google/xtreme", rf"udpos\.{_NAMES}", tagging.udpos),
    ("ldc/ccgbank", "default", tagging.ccg),
    ("Rowan/hellaswag", "default", choices.hellaswag),
    ("allenai/cosmos_qa", "default", choices.cosmos_qa),
    ("tau/commonsense_qa", "default", choices.commonsense_qa),
    ("wikimedia/wikipedia", rf"20231101\.{_ALL}", texts.wikipedia),
)
"""(repository, pattern of the configuration, generator). A new miniature data set is one more line."""


@cache
def rows_of(repo: str, config: str | None, split: str) -> Rows:
    """All rows of one split, made once a process; raises DataError for what the world has not."""
    for name, pattern, generator in GENERATORS:
        if name == repo and re.fullmatch(pattern, config or ""):
            rows = generator(config or "", split)
            if rows is not None:
                return rows
            raise DataError(f"the miniature world's {repo} {config or ''} has no split {split!r}")
    known = "; ".join(f"{name} {pattern}" for name, pattern, _ in GENERATORS)
    raise DataError(f"the miniature world has no {repo} {config or ''}. It has (as patterns): {known}.")
