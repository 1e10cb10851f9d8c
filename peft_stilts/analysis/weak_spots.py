"""Weak spots: items that a model has right in English and wrong in a language, and which languages share them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from peft_stilts import results
from peft_stilts.analysis import labels
from peft_stilts.analysis.correlation import DRAWS, FEWEST, ROUNDING
from peft_stilts.analysis.similarity import DATABASES, MINIATURE, URIEL, Similarities, similarities
from peft_stilts.errors import DataError, UsageError
from peft_stilts.evaluate.items import PARALLEL, read_items
from peft_stilts.languages import LANGUAGES
from peft_stilts.store import Store

MODEL = ["method", "method_config", "policy", "intermediate", "target"]
"""What tells models apart, and the target: labels as everywhere in the analysis."""
METRIC = "flip rate"
"""What `WeakSpots.rates` calls its values where a metric is asked for."""
FLIPS = [*MODEL, "language", "seed", "items", "right_in_source", "flipped", "rate", "opposite", "opposite_rate",
         "independent", "floor", "baseline", "change"]
SHARED = [*MODEL, "seed", "language_a", "language_b", "items", "phi", "rate_gap", "related"]
TESTS = [*MODEL, "measure", "statistic", "estimate", "p_permutation", "estimate_adjusted", "p_adjusted", "languages",
         "pairs", "related_pairs"]
FAMILY, DIFFERENCE, MANTEL = "family", "related less unrelated", "Mantel rank correlation"
PAIRWISE = (*URIEL, "script")
"""Measures of similarity that are known for every two languages."""
OTHER_GOLDS = 0.01
"""With another right label than English in a larger share of its rows, a language's rows are not English's."""


@dataclass(frozen=True)
class WeakSpots:
    """What `weak_spots` found: frames with the columns FLIPS, SHARED and TESTS, and what a reader must know.

    flips: a row a model, target, seed and language. `items` that English and the language both have; of these
    `right_in_source`, and of them `flipped`: wrong in the language; `opposite`: wrong in English and right in the
    language. In per cent: `rate` of right_in_source that flipped; `opposite_rate` of those wrong in English that are
    right in the language; `independent`: all items wrong in the language, which the rate would be if English said
    nothing about it; `floor`: of the items right in English those that the same model of another seed has wrong in
    English, a mean over the other seeds, NaN with one; `baseline`: the rate without intermediate task, over its own
    items right in English. `change` (points): rate less the baseline's, both over the items that both models have
    right in English. NaN where there is nothing to divide by.

    shared: a row a model, target, seed and pair of languages. `phi` over the `items` right in English that both have:
    how far they flip the same ones; NaN where one flips none or all. `rate_gap`: |difference of the two rates|,
    points. `related`: of one family.

    tests: a row a model and target, and a measure: FAMILY, or one that is known for pairs of languages. See `_tests`.
    """

    flips: pd.DataFrame
    shared: pd.DataFrame
    tests: pd.DataFrame
    notes: tuple[str, ...] = ()

    def rates(self) -> pd.DataFrame:
        """The flip rate as a response: MODEL, `metric` (METRIC), `language`, `value` (per cent, mean over seeds)."""
        told = self.flips.dropna(subset="rate").groupby([*MODEL, "language"], sort=False)["rate"].mean()
        return told.rename("value").reset_index().assign(metric=METRIC)[[*MODEL, "metric", "language", "value"]]


def weak_spots(
    runs: Path, known: Similarities, excluded: Collection[str] = (), frame: pd.DataFrame | None = None,
    draws: int = DRAWS, seed: int = 1,
) -> WeakSpots:
    """The weak spots of every model that a --runs folder has scored on a target of PARALLEL.

    `known`: the source language, the families, and the measures to look for among pairs of languages. `excluded`:
    languages left out, the source in any case. `frame`: the rows of the results table to look at, None for all of the
    folder's. Raises UsageError where there is nothing to look at, DataError where items are missing or are other ones
    in a language than in the source; each names the next step.
    """
    runs, source = Path(runs), known.source
    scored, store, notes = _scored(runs, frame), Store(runs), []
    found: dict[tuple, dict[int, pd.DataFrame]] = {}
    for row in scored.itertuples(index=False):
        if not store.finished(row.stage_key):
            raise DataError(f"{store.folder(row.stage_key)} is missing, but results.csv has scores of it. Name the "
                            "--runs folder in which they were made: a table alone has no items")
        items = read_items(store.open(row.stage_key), row.task)
        if source not in set(items["language"]):
            notes.append(f"{row.task} was not scored in {source}, so it has no weak spots: give {source} among the "
                         "--languages of the run")
            continue
        cell = tuple(getattr(row, name) for name in MODEL)
        found.setdefault(cell, {})[row.seed] = _aligned(items, source, excluded, row.task, row.stage_key, notes)
    if not found:
        raise UsageError(*dict.fromkeys(notes))
    flips = _frame([line for cell in found for line in _flips(cell, found, source)], FLIPS)
    shared = _frame([line for cell, seeds in found.items() for number, right in seeds.items()
                     for line in _shared(cell, number, right, source, known.families)], SHARED)
    pairwise = _pairwise(known, list(dict.fromkeys([*shared["language_a"], *shared["language_b"]])))
    tests = _frame([line for cell, rows in shared.groupby(MODEL, sort=False)
                    for line in _tests(cell, rows, pairwise, draws, seed)], TESTS)
    if not shared["related"].any():
        notes.append("no two languages are of one family: whether related languages share weak spots cannot be asked")
    return WeakSpots(flips, shared, tests, tuple(dict.fromkeys(notes)))


def _frame(lines: list[dict], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(lines, columns=columns)


def _scored(runs: Path, frame: pd.DataFrame | None) -> pd.DataFrame:
    """MODEL (labels), `task` (the target's name), `seed`, `stage_key` of every evaluation on a target of PARALLEL."""
    names = ",".join(PARALLEL)
    if not (runs / "stages").is_dir():
        raise UsageError(f"{runs} has no stages/, so it is no --runs folder of `python -m peft_stilts recipe`; weak "
                         "spots need one, for they are looked up item by item")
    frame = results.read(runs) if frame is None else frame.reset_index(drop=True)
    told = frame.assign(task=frame["target"], intermediate=labels.column(frame, labels.intermediates(frame)),
                        target=(frame["target"] + " " + frame["target_variant"]).str.strip())
    told = told[told["task"].isin(PARALLEL)]
    if not len(told):
        raise UsageError(f"{runs} has no scores of {names}, whose items are the same in every language; make some: "
                         f"`python -m peft_stilts recipe ... --targets {names}`")
    contexts = [heading for heading, _ in labels.contexts(told)]
    if len(contexts) > 1:
        raise UsageError(f"{runs} holds {'; '.join(contexts)}, which are never mixed: choose one with --only")
    told = told[[*MODEL, "task", "seed", "stage_key"]].drop_duplicates(ignore_index=True)
    twice = told[told.duplicated([*MODEL, "seed"])]
    if len(twice):
        row = twice.iloc[0]
        raise DataError(f"{runs}: {row['target']} was scored by several stages as {row['method']}, intermediate "
                        f"{row['intermediate']}, seed {row['seed']} (one is {row['stage_key']}); choose with --only")
    return told


def _aligned(items: pd.DataFrame, source: str, excluded: Collection[str], target: str, key: str, notes: list[str]
             ) -> pd.DataFrame:
    """Whether items are right (1 or 0, NaN where a language has not the item): the source's ids by languages, the
    source first; DataError where a language shares no item with the source."""
    parts = dict(iter(items.set_index("id").groupby("language", sort=False)))
    english = parts.pop(source)
    by_row = bool((items["gold"] != "").any())
    columns = {source: english["right"].astype(float)}
    for code, part in parts.items():
        if code in excluded:
            continue
        if by_row and len(part) != len(english):
            notes.append(f"{target} {code} is left out: it has {len(part)} rows and {source} {len(english)}, so they "
                         "are not the same pairs row by row")
            continue
        same = part.index.intersection(english.index)
        if not len(same):
            raise DataError(f"{target} {code} (stage {key}): none of its {len(part)} items is among {source}'s "
                            f"{len(english)}; the first are {part.index[0]!r} and {english.index[0]!r}. Score whole "
                            f"test sets (no --limit_eval) of the release, or leave {code} out with --exclude")
        other = part.loc[same, "gold"] != english.loc[same, "gold"]
        if by_row and other.mean() > OTHER_GOLDS:
            notes.append(f"{target} {code} is left out: {other.sum()} of its {len(same)} rows have another right label "
                         f"than in {source}, so they are not the same pairs row by row")
            continue
        columns[code] = part.loc[same[~other.to_numpy()], "right"].astype(float)
    return pd.DataFrame(columns, index=english.index)


def _flips(cell: tuple, found: Mapping[tuple, Mapping[int, pd.DataFrame]], source: str) -> list[dict]:
    """The rows of FLIPS of a model and target."""
    place = MODEL.index("intermediate")
    without = found.get((*cell[:place], "none", *cell[place + 1:]), {}) if cell[place] != "none" else {}
    lines = []
    for seed, right in found[cell].items():
        others = [other[source] for number, other in found[cell].items() if number != seed]
        before = without.get(seed)
        for code in right.columns.drop(source):
            part = right[right[code].notna()]
            first, second = part[source] == 1, part[code] == 1
            line = dict(zip(MODEL, cell), language=code, seed=seed, items=len(part), right_in_source=int(first.sum()),
                        flipped=int((first & ~second).sum()), rate=_share(~second, first),
                        opposite=int((~first & second).sum()), opposite_rate=_share(second, ~first),
                        independent=100.0 * (1 - second.mean()))
            line["floor"] = float(np.mean([_share(other.reindex(part.index) == 0, first) for other in others])) \
                if others else np.nan
            line |= {"baseline": np.nan, "change": np.nan}
            if before is not None and code in before:
                line |= _changed(part, before[before[code].notna()], source, code)
            lines.append(line)
    return lines


def _changed(part: pd.DataFrame, before: pd.DataFrame, source: str, code: str) -> dict[str, float]:
    """The baseline's flip rate over its own items right in English, and the change over those right with both."""
    own = _share(before[code] == 0, before[source] == 1)
    same = part.index.intersection(before.index)
    part, before = part.loc[same], before.loc[same]
    both = (part[source] == 1) & (before[source] == 1)
    return {"baseline": own, "change": _share(part[code] == 0, both) - _share(before[code] == 0, both)}


def _share(what: pd.Series, among: pd.Series) -> float:
    """Per cent of `among` that are also `what`; NaN where there are none."""
    return 100.0 * float(what[among].mean()) if among.any() else float("nan")


def _shared(cell: tuple, seed: int, right: pd.DataFrame, source: str, families: Mapping[str, str]) -> list[dict]:
    """The rows of SHARED of a model, target and seed.

    phi = (n11 n00 - n10 n01) / sqrt(n1. n0. n.1 n.0), Pearson's correlation of two yes-no variables (Yule 1912, Journal
    of the Royal Statistical Society 75): 0 where two languages flip the same items as often as chance makes them, given
    both rates. Cohen's kappa, the error consistency of Geirhos et al. 2020 (NeurIPS 33), is equal to it where both flip
    equally often, but falls faster where they do not, and rates differ much between near and far languages.
    """
    known = right[right[source] == 1].drop(columns=source).sort_index(axis=1)
    flipped = 1 - known
    phi, rate = flipped.corr(), 100.0 * flipped.mean()
    lines = []
    for place, a in enumerate(known.columns):
        for b in known.columns[place + 1:]:
            lines.append(dict(zip(MODEL, cell), seed=seed, language_a=a, language_b=b,
                              items=int((known[a].notna() & known[b].notna()).sum()), phi=phi.at[a, b],
                              rate_gap=abs(rate[a] - rate[b]), related=_related(families, a, b)))
    return lines


def _related(families: Mapping[str, str], a: str, b: str) -> bool:
    """Whether two languages are of one known family; two isolates are not."""
    return a in families and families[a] == families.get(b) and families[a] != "Isolate"


def _tests(cell: tuple, rows: pd.DataFrame, pairwise: Mapping[str, pd.DataFrame], draws: int, seed: int) -> list[dict]:
    """The rows of TESTS of a model and target: do similar languages share more weak spots?

    FAMILY: mean phi of related less that of unrelated pairs. Other measures: the rank correlation of phi and
    similarity. phi is the mean over seeds. Similar languages also flip about equally often, and that alone can raise
    phi: `*_adjusted` are the same of what a straight line over `rate_gap` leaves of phi. p: see `_mantel`. NaN with
    fewer than FEWEST languages, or no related (or no unrelated) pair.
    """
    means = rows.groupby(["language_a", "language_b"], sort=False)[["phi", "rate_gap", "related"]].mean()
    lines = []
    for measure in (FAMILY, *pairwise):
        other = means["related"] if measure == FAMILY else [pairwise[measure].at[pair] for pair in means.index]
        codes, phi, gap, similar = _squares(means.assign(other=other))
        above = np.triu_indices(len(codes), 1)
        line = dict(zip(MODEL, cell), measure=measure, statistic=DIFFERENCE if measure == FAMILY else MANTEL,
                    languages=len(codes), pairs=len(above[0]), related_pairs=sum(
                        means.at[pair, "related"] > 0 for pair in means.index if set(pair) <= set(codes)))
        line["estimate"], line["p_permutation"] = _mantel(phi, similar, measure != FAMILY, draws, seed)
        if len(codes) >= FEWEST:
            design = np.column_stack([np.ones(len(above[0])), gap[above]])
            left = phi[above] - design @ np.linalg.lstsq(design, phi[above], rcond=None)[0]
            phi[above] = np.where(np.abs(left) < ROUNDING, 0, left)
        line["estimate_adjusted"], line["p_adjusted"] = _mantel(phi, similar, measure != FAMILY, draws, seed)
        lines.append(line)
    return lines


def _squares(pairs: pd.DataFrame) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """The languages, and phi, rate_gap and other (n, n) above the diagonal, without the languages (those that lack most
    first) by which a pair of them is missing."""
    codes = list(dict.fromkeys(code for pair in pairs.index for code in pair))
    while codes:
        inside = pairs[[set(pair) <= set(codes) for pair in pairs.index]]
        missing = [code for pair in inside.index[inside.isna().any(axis=1)] for code in pair]
        if not missing:
            break
        codes.remove(max(codes, key=missing.count))
    place = {code: number for number, code in enumerate(codes)}
    squares = np.zeros((3, len(codes), len(codes)))
    for (a, b), *values in inside[["phi", "rate_gap", "other"]].itertuples() if len(codes) > 1 else ():
        squares[:, min(place[a], place[b]), max(place[a], place[b])] = values
    return codes, *squares


def _mantel(phi: np.ndarray, other: np.ndarray, ranks: bool, draws: int, seed: int) -> tuple[float, float]:
    """(estimate, p) from what is above the diagonal of (n, n): with `ranks` Spearman's correlation of both, else mean
    phi where `other` is 1 less that where it is 0.

    p (two-sided): the languages of `other` permuted, so that pairs of one language stay together (Mantel 1967, Cancer
    Research 27); every permutation where there are no more than `draws`, else `draws` drawn ones and the data's own.
    """
    n, above = len(phi), np.triu_indices(len(phi), 1)
    x, y = (stats.rankdata(side[above]) if ranks else side[above] for side in (phi, other))
    if n < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan, math.nan
    count, linked = len(y), y.sum()
    x, y = x - x.mean(), y - y.mean()
    scale = 1 / (np.linalg.norm(x) * np.linalg.norm(y)) if ranks else count / (linked * (count - linked))
    square = np.zeros((n, n))
    square[above] = y
    square += square.T
    exact = math.factorial(n) <= draws
    orders = np.array(list(permutations(range(n)))) if exact else np.random.default_rng(seed).permuted(
        np.tile(np.arange(n), (draws, 1)), axis=1)
    found = scale * (square[orders[:, above[0]], orders[:, above[1]]] @ x)
    estimate = float(scale * (y @ x))
    more = np.abs(found) >= abs(estimate) - ROUNDING
    return estimate, float(more.mean() if exact else (1 + more.sum()) / (1 + draws))


def _pairwise(known: Similarities, codes: list[str]) -> dict[str, pd.DataFrame]:
    """{measure: similarities of languages, codes in index and columns}, from the same database as `known`; none in the
    miniature world, whose parameters say how far a language is from English, not from another."""
    measures = [name for name in PAIRWISE if name in known.values]
    if known.column == MINIATURE or not measures:
        return {}
    told = [known.origins[name] for name in measures if name in URIEL]
    database = next((name for name, words in DATABASES.items() if any(words in origin for origin in told)),
                    next(iter(DATABASES)))
    real = [code for code in codes if code in LANGUAGES]
    found = {code: similarities(real, code, measures, database).values for code in real}
    return {name: pd.DataFrame({code: found[code][name] for code in real}).reindex(index=codes, columns=codes)
            for name in measures}
