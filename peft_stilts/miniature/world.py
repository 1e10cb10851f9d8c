"""The miniature world's ten languages as one table of parameters, and their distance from English."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

WORLD_VERSION = 1
"""Raised by hand whenever any generated text or row changes; it is the `revision` of every miniature split."""

WORLD_SEED = 20240412
"""The root of every seed: lexicons, preferences and texts all derive from it (see `dice.seed_of`)."""


@dataclass(frozen=True)
class Tongue:
    """One language of the world, as parameters; shares lie in 0..1, and digits are identical everywhere.

    `order`: 'SVO', 'SOV' or 'VSO'. `adposition`: 'pre' or 'post'. `adjective`: 'before' or 'after' its noun.
    `articles`: whether definite nouns carry one. `cases`: number of case suffixes, 0 to 3 (object, place, time, in this
    order). `loans`: share of the words taken over unchanged from English (in the language's script); `cognates`: share
    made from the English word by the language's regular sound change. `script`: 'Latin' or a Unicode block of its own.
    `names`: share of proper names written exactly as in English. `text`: share of the pretraining text.
    """

    code: str
    iso639_3: str
    name: str
    order: str
    adposition: str
    adjective: str
    articles: bool
    cases: int
    loans: float
    cognates: float
    script: str
    names: float
    text: float

    @property
    def fronts_questions(self) -> bool:
        """Question words stand first, except in verb-final languages, where they stay in place."""
        return self.order != "SOV"


_TABLE = (
    # code  iso    name        order  adpos   adjective articles cases loans cogn. script        names text
    ("en", "eng", "English", "SVO", "pre", "before", True, 0, 1.00, 0.00, "Latin", 1.00, 0.22),
    ("qa", "qaa", "Norlish", "SVO", "pre", "before", True, 0, 0.25, 0.50, "Latin", 1.00, 0.12),
    ("qb", "qab", "Vestan", "SVO", "pre", "after", True, 0, 0.20, 0.40, "Latin", 1.00, 0.11),
    ("qc", "qac", "Borlish", "SVO", "pre", "before", False, 2, 0.15, 0.30, "Latin", 0.95, 0.10),
    ("qd", "qad", "Kelvian", "VSO", "pre", "after", False, 0, 0.15, 0.20, "Latin", 0.95, 0.09),
    ("qe", "qae", "Tarkian", "SOV", "post", "before", False, 2, 0.10, 0.10, "Latin", 0.90, 0.08),
    ("qf", "qaf", "Mordvar", "SVO", "pre", "before", False, 3, 0.15, 0.20, "Cyrillic", 0.30, 0.08),
    ("qg", "qag", "Arvani", "VSO", "pre", "after", False, 1, 0.10, 0.10, "Greek", 0.30, 0.07),
    ("qh", "qah", "Hindar", "SOV", "post", "before", False, 2, 0.05, 0.05, "Devanagari", 0.30, 0.07),
    ("qi", "qai", "Zolani", "SOV", "post", "after", False, 3, 0.00, 0.00, "Georgian", 0.00, 0.06),
)

TONGUES: MappingProxyType[str, Tongue] = MappingProxyType({row[0]: Tongue(*row) for row in _TABLE})
"""Code -> Tongue, nearest to English first; read-only."""

ENGLISH = TONGUES["en"]

_ORDER_DISTANCE = {"SVO": 0.0, "VSO": 0.5, "SOV": 1.0}


def distance(tongue: Tongue) -> float:
    """Distance from English, 0 (English) to 1, known exactly because the world is made of it:

    0.4 · (1 − loans − cognates)  +  0.2 · [own script]  +  0.2 · (1 − names)
    + 0.2 · mean(order, adposition, adjective, cases / 3)

    with order 0 for SVO, 0.5 for VSO, 1 for SOV, and adposition and adjective 1 where they differ from English.
    The weights are this project's own choice; the amount of pretraining text, no property of a language, stays out.
    """
    grammar = (
        _ORDER_DISTANCE[tongue.order]
        + (tongue.adposition != ENGLISH.adposition)
        + (tongue.adjective != ENGLISH.adjective)
        + tongue.cases / 3
    ) / 4
    lexicon = 1 - tongue.loans - tongue.cognates
    return 0.4 * lexicon + 0.2 * (tongue.script != ENGLISH.script) + 0.2 * (1 - tongue.names) + 0.2 * grammar
