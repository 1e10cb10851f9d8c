"""How similar languages are to a source language: URIEL, script, family, size, the miniature world's own parameters.

What each measure is, where its numbers are from and what is missing: docs/similarity.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from peft_stilts.errors import DataError, UsageError, brief
from peft_stilts.languages import LANGUAGES
from peft_stilts.miniature.world import ENGLISH, TONGUES, Tongue, distance
from peft_stilts.registry import unknown

URIEL = ("genetic", "geographic", "syntactic", "phonological", "inventory", "featural")
"""The measures that are 1 - a distance between URIEL's vectors, in the order of uriel_distances.csv."""
DATABASES = {
    "lang2vec_knn": "lang2vec 1.1.2, gaps filled from the nearest languages (kNN), cosine distance",
    "urielplus_angular": "URIEL+ (urielplus 1.3.2), as known, nothing filled in, angular distance",
}
"""Where URIEL's distances come from; one study uses one of them, because their numbers are not on one scale."""
OVERLAP, BASELINE = "overlap", "baseline"
MINIATURE = "miniature"
TABLE = Path(__file__).with_name("uriel_distances.csv")

_VECTORS = {
    "genetic": "family tree (not known for Basque in lang2vec_knn, meaningless for it in urielplus_angular)",
    "geographic": "distances to 299 points of the globe",
    "syntactic": "word order, case and other grammar",
    "phonological": "kinds of sounds (urielplus_angular: Kazakh rests on two features)",
    "inventory": "the sounds themselves",
    "featural": "syntactic, phonological and inventory together",
}
_OTHER_ORIGINS = {
    "script": "1 where both are written in the same script (ISO 15924), else 0",
    "family": "1 where both are of one top-level family, else 0",
    "cc100": "log10(1 + GiB of the language in XLM-R's pretraining text); a size, not a similarity",
}
_ORDER = {"SVO": 1.0, "VSO": 0.5, "SOV": 0.0}
_PARAMETERS: dict[str, tuple[Callable[[Tongue], float], str]] = {
    "closeness": (lambda tongue: 1 - distance(tongue), "1 - distance from English, of all parameters but the text"),
    "lexicon": (lambda tongue: tongue.loans + tongue.cognates, "share of the words that are loans or cognates"),
    "loans": (lambda tongue: tongue.loans, "share of the words taken over from English"),
    "cognates": (lambda tongue: tongue.cognates, "share of the words made from English ones by a sound change"),
    "script": (lambda tongue: float(tongue.script == ENGLISH.script), "1 where written in Latin script, else 0"),
    "names": (lambda tongue: tongue.names, "share of proper names written as in English"),
    "order": (lambda tongue: _ORDER[tongue.order], "word order: SVO 1, VSO 0.5, SOV 0"),
    "adposition": (lambda tongue: float(tongue.adposition == ENGLISH.adposition), "1 where before the noun, else 0"),
    "adjective": (lambda tongue: float(tongue.adjective == ENGLISH.adjective), "1 where before the noun, else 0"),
    "articles": (lambda tongue: float(tongue.articles == ENGLISH.articles), "1 where there are articles, else 0"),
    "cases": (lambda tongue: 1 - tongue.cases / 3, "1 - number of case suffixes / 3"),
    "text": (lambda tongue: tongue.text, "share of the pretraining text; a size, not a similarity"),
}

_COLUMNS: dict[str, dict[str, str]] = {
    **{column: {getattr(language, field): code for code, language in LANGUAGES.items()}
       for column, field in (("iso639_1", "code"), ("iso639_3", "iso639_3"), ("uriel_code", "uriel_code"))},
    "name": {name: code for code, language in LANGUAGES.items() for name in (language.name, language.name.lower())},
}
_KNOWN = {given: code for table in _COLUMNS.values() for given, code in table.items()}
_FAMILIES = {language.family.lower(): language.family for language in LANGUAGES.values()}
_MISSING = ("", "nan", "na", "n/a")


@dataclass(frozen=True)
class Similarities:
    """How similar languages are to `source`.

    `values`: index `language` (XTREME's code, or the code of a language outside it), a float64 column for each
    measure, larger = more similar, NaN = missing. `families`: code -> family name; an isolate, and every language of
    the miniature world, is a family of its own. `names`: code -> English name. `origins`: measure -> where its numbers
    are from. `column`: the column of the language table that the codes were given in, see `column_of`.
    """

    source: str
    values: pd.DataFrame
    families: dict[str, str]
    names: dict[str, str]
    origins: dict[str, str]
    column: str


@dataclass(frozen=True)
class _Own:
    """A user's own measures: `values`, index = languages as given there, float64; `families`: language -> family, of
    those outside the language table; `origin`: the file."""

    values: pd.DataFrame
    families: Mapping[str, str]
    origin: str


def similarities(
    codes: Iterable[str], source: str = "en", measures: Sequence[str] | None = None, database: str = "lang2vec_knn",
    csv: str | Path | pd.DataFrame | None = None, overlap: pd.Series | None = None,
) -> Similarities:
    """The similarity of every language in `codes` to `source`, in the order of `codes` (see `resolve` for codes).

    `measures`: those wanted, in this order; None: all. `database`: of DATABASES. `csv`: a file or frame with a column
    `language`, numeric columns, each one more measure (an empty cell is missing), and `family` for languages that
    XTREME has not. `overlap`: what `overlap.overlaps` gives for the resolved codes. Real languages have URIEL's
    measures, script, family and cc100; those of the miniature world its true parameters, from English only.
    Raises UsageError for what is not known here, DataError for a CSV that cannot be used.
    """
    if database not in DATABASES:
        raise UsageError(unknown("similarity database", database, DATABASES))
    own = _own(csv)
    given = list(dict.fromkeys(codes))
    column = _column(given, own.families)
    chosen = list(_resolved(given, column, own.families).values())
    if column == MINIATURE:
        start, values, origins = _miniature(chosen, source)
        families = {code: TONGUES[code].name for code in chosen}
        names = dict(families)
    else:
        families = {code: _family(code, own.families) for code in chosen}
        names = {code: LANGUAGES[code].name if code in LANGUAGES else code for code in chosen}
        (start,) = _resolved([source], _column([source], own.families), own.families).values()
        values, origins = _real(chosen, start, families | {start: _family(start, own.families)}, database)
    if overlap is not None:
        values[OVERLAP] = overlap.reindex(chosen).astype(float)
        origins[OVERLAP] = overlap.attrs.get("origin", "given")
    taken = [name for name in own.values if name in (*values, OVERLAP, BASELINE)]
    if taken:
        raise UsageError(f"{own.origin}: column {taken[0]!r} has the name of a built-in measure or covariate; name it "
                         "otherwise")
    values = values.join(_of(own, chosen, column))
    origins |= {name: own.origin for name in own.values}
    wanted = list(values) if measures is None else list(dict.fromkeys(measures))
    if not wanted or not set(wanted) <= set(values):
        raise _no_measures(wanted, list(values))
    return Similarities(start, values[wanted].rename_axis(index="language"), families, names,
                        {name: origins[name] for name in wanted}, column)


def resolve(codes: Iterable[str], csv: str | Path | pd.DataFrame | None = None) -> dict[str, str]:
    """Language as given -> XTREME's two-letter code (the miniature world's own in its case).

    All are of one column of the language table: iso639_1, iso639_3, uriel_code or the English name. A language that is
    in none stays as it is where `csv` (see `similarities`) gives its family. Raises UsageError for unknown ones, for a
    list of several columns, for two names of one language, and for real languages beside the miniature world's.
    """
    given, outside = list(dict.fromkeys(codes)), _own(csv).families
    return _resolved(given, _column(given, outside), outside)


def column_of(codes: Iterable[str], csv: str | Path | pd.DataFrame | None = None) -> str:
    """The column of the language table in which `resolve` finds all of `codes`: iso639_1, iso639_3, uriel_code or name
    (the first where several would do), or 'miniature'. Raises as `resolve` does."""
    return _column(list(dict.fromkeys(codes)), _own(csv).families)


def _column(codes: Sequence[str], outside: Collection[str]) -> str:
    if set(codes) & (set(TONGUES) - {ENGLISH.code}):
        strange = [code for code in codes if code not in TONGUES]
        if strange:
            raise UsageError(f"{_listed(strange)} beside languages of the miniature world ({', '.join(TONGUES)}): "
                             "real and made languages are never in one study")
        return MINIATURE
    given = [code for code in codes if code not in outside]
    nowhere = [code for code in given if code not in _KNOWN]
    if nowhere:
        raise UsageError(f"unknown language{'s' * (len(nowhere) > 1)} {', '.join(map(_with_hint, nowhere))}. Known are "
                         f"XTREME's 40 as {', '.join(_COLUMNS)} (iso639_1: {', '.join(LANGUAGES)}). Leave out others "
                         f"with --exclude {','.join(nowhere)}, or give their `family` in --similarity_csv")
    for code in dict.fromkeys(_KNOWN[one] for one in given):
        same = [one for one in given if _KNOWN[one] == code]
        if len(same) > 1:
            raise UsageError(f"{_listed(same)} are the same language, {LANGUAGES[code].name}; give it once")
    for column, table in _COLUMNS.items():
        if all(code in table for code in given):
            return column
    homes = {code: [column for column, table in _COLUMNS.items() if code in table] for code in given}
    told = {column: [code for code in given if homes[code] == [column]] for column in _COLUMNS}
    parts = [f"{column}: {_listed(some[:3])}" for column, some in told.items() if some]
    raise UsageError(f"language codes of several kinds ({'; '.join(parts)}); give all of them in one of "
                     f"{', '.join(_COLUMNS)}")


def _resolved(given: Sequence[str], column: str, outside: Collection[str]) -> dict[str, str]:
    return {code: code if column == MINIATURE or code in outside else _KNOWN[code] for code in given}


def _with_hint(code: str) -> str:
    names = get_close_matches(code.lower(), _KNOWN, cutoff=0.5)
    near = [f"{name!r} ({LANGUAGES[_KNOWN[name]].name})" for name in names]
    return brief(code) + (f" (did you mean {' or '.join(near)}?)" if near else "")


def _real(
    codes: Sequence[str], source: str, families: Mapping[str, str], database: str,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Values (codes x measures) and origins; what is not known of a language outside XTREME is NaN."""
    table = _distances()
    rows = table[(table["database"] == database) & ((table["a"] == source) | (table["b"] == source))]
    other = rows["a"].where(rows["a"] != source, rows["b"])
    near = (1 - rows[list(URIEL)]).set_axis(other.to_numpy(), axis=0)
    near.loc[source] = 1.0
    values = near.reindex(codes)
    known = [code in LANGUAGES and source in LANGUAGES for code in codes]
    values["script"] = [float(LANGUAGES[code].script == LANGUAGES[source].script) if both else math.nan
                        for code, both in zip(codes, known)]
    values["family"] = [float(families[code] == families[source]) for code in codes]
    values["cc100"] = [_size(code) for code in codes]
    origins = {name: f"URIEL, {told}; {DATABASES[database]}" for name, told in _VECTORS.items()}
    return values.astype(float), origins | _OTHER_ORIGINS


def _miniature(codes: Sequence[str], source: str) -> tuple[str, pd.DataFrame, dict[str, str]]:
    if source != ENGLISH.code:
        raise UsageError(f"the miniature world is made from English: its source is {ENGLISH.code!r}, not {source!r}")
    values = pd.DataFrame({name: [measure(TONGUES[code]) for code in codes]
                           for name, (measure, _) in _PARAMETERS.items()}, index=list(codes), dtype=float)
    return source, values, {name: f"true parameter of the miniature world: {told}"
                            for name, (_, told) in _PARAMETERS.items()}


def _size(code: str) -> float:
    gib = LANGUAGES[code].cc100_gib if code in LANGUAGES else None
    return math.nan if gib is None else math.log10(1 + gib)


def _family(code: str, outside: Mapping[str, str]) -> str:
    """The family's name; isolates are told apart, since they are nobody's relatives."""
    name, family = (LANGUAGES[code].name, LANGUAGES[code].family) if code in LANGUAGES else (code, outside[code])
    return f"Isolate ({name})" if family.lower() == "isolate" else family


@cache
def _distances() -> pd.DataFrame:
    """uriel_distances.csv: database, a, b (two-letter codes, each pair once), distances (0..1, NaN: missing)."""
    return pd.read_csv(TABLE, dtype={"database": str, "a": str, "b": str}, keep_default_na=False, na_values=[""])


def _own(csv: str | Path | pd.DataFrame | None) -> _Own:
    """The CSV's measures, checked; an empty one where there is none."""
    if csv is None:
        return _Own(pd.DataFrame(), {}, "")
    origin, frame = ("the frame of similarities", csv) if isinstance(csv, pd.DataFrame) else (str(csv), _read(csv))
    names = [str(name).strip() for name in frame.columns]
    if "language" not in names or len(set(names)) < len(names) or any(
            not name or name.startswith("Unnamed:") for name in names):
        raise DataError(f"{origin}: needs a column 'language', and a different name for each column; it has "
                        f"{', '.join(map(repr, names))}")
    frame = frame.set_axis(names, axis=1)
    languages = [_text(value) for value in frame["language"]]
    twice = [code for code in dict.fromkeys(languages) if languages.count(code) > 1]
    if not languages or "" in languages or twice:
        fault = "has no rows" if not languages else f"has two rows for {twice[0]!r}" if twice and twice[0] else (
            f"row {languages.index('') + 1} names no language")
        raise DataError(f"{origin}: {fault}; it needs one row a language")
    values = {name: [_number(value, f"{origin}: {code}, column {name!r}")
                     for code, value in zip(languages, frame[name])]
              for name in names if name not in ("language", "family")}
    families = [_text(value) for value in frame["family"]] if "family" in names else [""] * len(languages)
    families = [_FAMILIES.get(family.lower(), family) for family in families]
    return _Own(pd.DataFrame(values, index=languages, dtype=float),
                _outside(dict(zip(languages, families)), origin), origin)


def _outside(families: Mapping[str, str], origin: str) -> dict[str, str]:
    """The families of languages that are not in the language table; one of a known language must agree with it."""
    for code, family in families.items():
        known = TONGUES[code].name if code in TONGUES and code not in _KNOWN else (
            LANGUAGES[_KNOWN[code]].family if code in _KNOWN else family)
        if family and family != known:
            raise DataError(f"{origin}: {code} is of the family {family!r} there and {known!r} here; `family` is for "
                            "languages that are not XTREME's, leave it empty for the others")
    return {code: family for code, family in families.items()
            if family and code not in _KNOWN and code not in TONGUES}


def _of(own: _Own, codes: Sequence[str], column: str) -> pd.DataFrame:
    """The own measures of `codes`; rows of languages that nobody asked for are left out."""
    if not own.origin:
        return own.values.reindex(codes)
    here = TONGUES if column == MINIATURE else _KNOWN
    given = [code for code in own.values.index if code in here or code in own.families]
    renamed = _resolved(given, column if column == MINIATURE else _column(given, own.families), own.families)
    found = own.values.loc[given].set_axis(list(renamed.values()), axis=0)
    missing = set(codes) - set(found.index)
    meant = [code for code in own.values.index if code not in given and _KNOWN.get(re.split("[-_]", code.lower())[0])
             in missing]
    if meant:
        raise UsageError(f"{own.origin}: {', '.join(map(_with_hint, meant))} are no codes of languages here, and "
                         f"{', '.join(sorted(missing))} of the study would be without a value")
    if not set(found.index) & set(codes):
        raise UsageError(f"{own.origin}: has none of the languages of the study ({', '.join(codes)})")
    return found.reindex(codes)


def _no_measures(wanted: Sequence[str], there: Sequence[str]) -> UsageError:
    if not wanted:
        return UsageError(f"no measure of similarity is chosen; there are {', '.join(there)}")
    told = [unknown("measure of similarity", name, there) for name in wanted if name not in there]
    hint = " It needs --tokenizer and --parallel."
    return UsageError(*(text + hint * (f"measure of similarity {OVERLAP!r}" in text) for text in told))


def _read(path: str | Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:      # pandas' own errors and Unicode's are ValueErrors
        raise DataError(f"{path} cannot be read as a table of similarities: {error}") from error


def _text(value: Any) -> str:
    return "" if pd.isna(value) else str(value).strip()


def _number(value: Any, where: str) -> float:
    text = _text(value)
    if text.lower() in _MISSING:
        return math.nan
    try:
        number = float(text)
    except ValueError:
        raise DataError(f"{where}: {brief(value)} is no number; leave the cell empty where it is not known, or the "
                        "column out") from None
    if math.isinf(number):
        raise DataError(f"{where}: the value is infinite; leave the cell empty where it is not known")
    return number


def _listed(codes: Sequence[str]) -> str:
    return " and ".join(map(repr, codes)) if len(codes) < 3 else ", ".join(map(repr, codes))
