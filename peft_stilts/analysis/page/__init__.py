"""The report as one HTML file that fetches nothing: the answer, pictures to choose from, and every table."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import pandas as pd

from peft_stilts.analysis import drawing, summary, words
from peft_stilts.analysis.responses import CELL

if TYPE_CHECKING:
    from peft_stilts.analysis.study import Study

DIGITS = 4
"""of the numbers in the page, which people read; the CSV files have all"""
NAMES = {"spearman": "Spearman's rho", "pearson": "Pearson's r", "kendall": "Kendall's tau",
         "partial_pearson": "Pearson's r, partial", "partial_spearman": "Spearman's rho, partial"}


def build(study: Study, told: Sequence[summary.Section]) -> str:
    """The page's HTML; every text from data is escaped, and numbers for the pictures lie in it as JSON."""
    parts = {
        "TITLE": html.escape(question(study)),
        "HEADING": html.escape(drawing.heading(study)),
        "ANSWER": "\n".join(f"<p>{html.escape(sentence)}</p>" for sentence in words.answer(study)),
        "SECTIONS": "\n".join(map(summary.hypertext, told)),
        "DATA": inert(payload(study)),
        "STYLE": _file("style.css"),
        "SCRIPT": _file("script.js"),
    }
    return re.sub(r"<!--([A-Z]+)-->", lambda found: parts[found[1]], _file("template.html"))


def question(study: Study) -> str:
    """The page's title."""
    where = " (miniature world)" if study.responses.miniature else ""
    return f"Do {words.response(study)} follow similarity to {words.source(study)}?{where}"


def inert(value: Any) -> str:
    """JSON that no HTML parser takes for markup: no <, > or & in it, and ASCII only."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def payload(study: Study) -> dict[str, Any]:
    """What the pictures are drawn from; things are told once, and meant by their places in lists.

    `cells`: [method, intermediate, task, languages, values, spreads over seeds, seeds] with the last four lists
    parallel. `tests`: [cell, measure, coefficient, estimate, low, high, p, q, n, families, verdict given (0, 1), lowest
    and highest estimate without one family]. null: not known.
    """
    means = words.named(study, study.responses.means)
    similar = study.similarities
    codes = list(means["language"].unique())
    families = [similar.families.get(code, code) for code in codes]
    coloured = drawing.groups(families)
    measures = list(similar.values.columns)
    lists = {name: list(means[column].unique())
             for name, column in (("methods", "label"), ("intermediates", "intermediate"), ("tasks", "task"))}
    tests = words.named(study, study.correlations)
    coefficients = list(tests["coefficient"].unique())
    keys = means[CELL].drop_duplicates()
    place = {key: number for number, key in enumerate(keys.itertuples(index=False, name=None))}
    return {
        "response": study.responses.response, "source": words.source(study), "margin": study.margin,
        "codes": codes, "names": [similar.names.get(code, code) for code in codes], "families": families,
        "colours": [coloured.index(family) if family in coloured else -1 for family in families],
        "groups": coloured, "measures": measures, "headline": words.headline(study), "sizes": list(words.SIZES),
        "similarity": [_numbers(similar.values[name].reindex(codes)) for name in measures],
        **lists, "reference": lists["methods"].index(_reference(means)) if _reference(means) else -1,
        "coefficients": [NAMES.get(name, name) for name in coefficients],
        "first": coefficients.index(words.RANKS) if words.RANKS in coefficients else 0,
        "cells": _cells(means, codes, lists), "tests": _tests(study, tests, place, measures, coefficients),
    }


def _reference(means: pd.DataFrame) -> str:
    """The label of full fine-tuning, '' where there is none."""
    return next(iter(means.loc[means["method"] == "full", "label"]), "")


def _cells(means: pd.DataFrame, codes: list[str], lists: dict[str, list[str]]) -> list[list]:
    at = {code: place for place, code in enumerate(codes)}
    found = []
    for _, some in means.groupby(CELL, sort=False):
        first = some.iloc[0]
        found.append([lists["methods"].index(first["label"]), lists["intermediates"].index(first["intermediate"]),
                      lists["tasks"].index(first["task"]), [at[code] for code in some["language"]],
                      _numbers(some["value"]), _numbers(some["sd"]), [int(count) for count in some["seeds"]]])
    return found


def _tests(study: Study, tests: pd.DataFrame, place: dict[tuple, int], measures: list[str], coefficients: list[str]
           ) -> list[list]:
    key = [*CELL, "measure", "coefficient"]
    ends = study.left_out.groupby(key, sort=False)["estimate"].agg(["min", "max"]) if len(study.left_out) else None
    ends = {} if ends is None else dict(zip(ends.index, ends.itertuples(index=False, name=None)))
    columns = ["estimate", "ci_low", "ci_high", "p_permutation", "q_bh"]
    found = []
    for name, values, row in zip(tests[key].itertuples(index=False, name=None),
                                 tests[columns].itertuples(index=False, name=None), tests.itertuples()):
        found.append([place[name[:-2]], measures.index(row.measure), coefficients.index(row.coefficient),
                      *_numbers(values), int(row.n), int(row.families), int(bool(row.reliable)),
                      *_numbers(ends.get(name, (math.nan, math.nan)))])
    return found


def _numbers(values) -> list[float | None]:
    return [None if math.isnan(value) else round(float(value), DIGITS) for value in values]


def _file(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
