"""The answer in two sentences, and the words and numbers in which a study is told."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from peft_stilts.analysis import labels
from peft_stilts.analysis.responses import CELL
from peft_stilts.languages import LANGUAGES

if TYPE_CHECKING:
    from peft_stilts.analysis.study import Study

LEVEL = 0.05
"""of false discoveries among the tests, and of the tests of single cells"""
SIZES = ("cc100", "text")
"""Measures that are amounts of pretraining text, no similarity: told with the others, but not counted as such."""
FIRST = ("syntactic", "closeness")
"""The measure that stands for all where there is room for one: the first of these that the study has."""
RANKS = "spearman"
"""the coefficient of the sentences and of what has room for one"""
MISSING = "–"
MADE_UP = "In the miniature world (made-up languages and a tiny model, not XLM-R) "


def answer(study: Study) -> list[str]:
    """Two sentences: whether gains (or scores) follow similarity, and whether adapters match full fine-tuning.

    Counted are the rank correlations whose layout of families allows a verdict, but those with SIZES; 'cannot tell'
    is said where an interval holds both nothing and something that matters (`study.margin` points).
    """
    told = [_similarity(study), _adapters(study)]
    return [MADE_UP + text if study.responses.miniature else text[0].upper() + text[1:] for text in told]


def response(study: Study) -> str:
    """'gains' or 'scores'."""
    return {"gain": "gains", "score": "scores"}[study.responses.response]


def source(study: Study) -> str:
    """The English name of the language that similarity is to."""
    code = study.similarities.source
    return study.similarities.names.get(code) or (LANGUAGES[code].name if code in LANGUAGES else code)


def headline(study: Study) -> str:
    """The measure that stands for all: of FIRST, else the first that was tested; '' without any."""
    tested = list(study.correlations["measure"].unique()) or list(study.similarities.values.columns)
    return next((name for name in (*FIRST, *tested) if name in tested), "")


def setting(intermediate: str) -> str:
    """'after squad', for headings; '' where the table does not name intermediate tasks."""
    return {"": "", "none": "no intermediate task"}.get(intermediate, f"after {intermediate}")


def named(study: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` (columns of CELL) with columns `label`, the method and what tells its configurations apart, and `task`,
    the target with its metric."""
    cells = study.responses.means[CELL].drop_duplicates().reset_index(drop=True)
    key = ["method", "method_config", "policy", "target"]
    known = dict(zip(cells[key].itertuples(index=False, name=None), labels.column(cells, labels.methods(cells))))
    tasks = [f"{target} ({labels.METRIC.get(metric, metric)})" if metric else target
             for target, metric in zip(frame["target"], frame["metric"])]
    found = [known.get(place, place[0]) for place in frame[key].itertuples(index=False, name=None)]
    return frame.assign(label=pd.Series(found, frame.index, dtype=object),
                        task=pd.Series(tasks, frame.index, dtype=object))


def passes(tests: pd.DataFrame) -> pd.Series:
    """bool: the test gets a verdict and holds at a false discovery rate of LEVEL."""
    return tests["reliable"].astype(bool) & (tests["q_bh"] < LEVEL)


def number(value: float, digits: int = 2, sign: bool = False) -> str:
    """A number for people; MISSING for NaN, and never '-0.00'."""
    if value is None or math.isnan(value):
        return MISSING
    return format(round(float(value), digits) + 0.0, f"{'+' if sign else ''}.{digits}f")


def interval(low: float, high: float, digits: int = 2, sign: bool = False) -> str:
    """'[0.10, 0.62]'; MISSING where there is none."""
    if math.isnan(low) or math.isnan(high):
        return MISSING
    return f"[{number(low, digits, sign)}, {number(high, digits, sign)}]"


def p_value(value: float) -> str:
    """Three decimals; '<0.001' below."""
    return "<0.001" if value < 0.001 else number(value, 3)


def points(count: float) -> str:
    """'1 point', '2.5 points'."""
    return f"{count:g} point{'' if count == 1 else 's'}"


def _similarity(study: Study) -> str:
    """The first sentence."""
    what = response(study)
    follow = f"whether {what} follow similarity to {source(study)}"
    tests = study.correlations
    tests = tests[(tests["coefficient"] == RANKS) & tests["estimate"].notna() & ~tests["measure"].isin(SIZES)]
    if not len(tests):
        return (f"these data cannot tell {follow}: no cell has four languages or more over which {what} and a measure "
                "of similarity vary.")
    sure = tests[tests["reliable"].astype(bool)]
    slopes, states = _slopes(study)
    if not len(sure):
        most = tests.loc[tests["n"].idxmax()]
        told = (f"these data cannot tell {follow}: with at most {most['n']:.0f} languages of "
                f"{most['families']:.0f} families there are too few families for a verdict on any of the "
                f"{count(len(tests), 'rank correlation')}")
        return told + (f"; {slopes}, which rests on as few" if slopes else "") + "."
    parts = [_verdict(study, sure, states, follow)]
    if len(sure) < len(tests):
        parts.append(f"{len(tests) - len(sure)} more get no verdict (too few families)")
    if slopes:
        parts.append(slopes)
    if not math.isnan(study.detectable):
        parts.append("the smallest correlation that one test of such data would find in 4 of 5 cases is "
                     f"{number(study.detectable)}")
    elif len(study.calibration):
        parts.append("no correlation that was simulated would be found by one test of such data in 4 of 5 cases")
    return "; ".join(parts) + "."


def _verdict(study: Study, sure: pd.DataFrame, states: set[str], follow: str) -> str:
    what, to = response(study), source(study)
    found = sure[passes(sure)]
    up, down = int((found["estimate"] > 0).sum()), int((found["estimate"] < 0).sum())
    tests = count(len(sure), "rank correlation")
    rate = f"at a false discovery rate of {100 * LEVEL:g} %"
    only = "only " if len(found) < 0.1 * len(sure) else ""
    if up and down:
        return (f"{what} follow similarity to {to} in no single direction: {rate} they rise with it in {up} and fall "
                f"in {down} of {tests}")
    if up or down:
        way = "higher" if up else "lower"
        return f"{what} are {way} in languages more similar to {to} in {only}{up + down} of {tests} ({rate})"
    none = f"none of {tests} passes {rate}"
    if states & {"up", "down"}:
        way = {("up",): "rise", ("down",): "fall"}.get(tuple(states & {"up", "down"}), "go")
        return f"the evidence that {what} {way} with similarity to {to} is weak, as {none}"
    if states == {"small"}:
        return f"no relation of {what} with similarity to {to} was found, and a large one is unlikely: {none}"
    return f"these data cannot tell {follow}: {none}"


def _slopes(study: Study) -> tuple[str, set[str]]:
    """The pooled slopes on the headline measure in words ('' without any), and what they say: up, down, small (their
    interval is within the margin) or open."""
    measure = headline(study)
    rows = study.pooled[(study.pooled["measure"] == measure)].dropna(subset=["slope", "ci_low", "ci_high"])
    every = rows[rows["intermediate"] == "all"]
    rows = every if len(every) else rows[[rows["intermediate"].nunique() == 1] * len(rows)]
    if not len(rows):
        return "", set()
    states, told = set(), []
    for row in rows.itertuples():
        small = max(abs(row.ci_low), abs(row.ci_high)) <= study.margin
        state = "small" if small else "up" if row.ci_low > 0 else "down" if row.ci_high < 0 else "open"
        states.add(state)
        ends = interval(row.ci_low, row.ci_high, sign=True)
        told.append(f"{row.method} {number(row.slope, sign=True)} {ends}".strip()
                    + (" (which may be nothing or much)" if state == "open" else "")
                    + (" (a doubtful fit)" if row.note else ""))
    name = measure if measure.endswith(("ness", "ity")) else f"{measure} similarity"
    return f"pooled slope per standard deviation of {name}, in points: {', '.join(told)}", states


def _adapters(study: Study) -> str:
    """The second sentence."""
    rows = named(study, study.methods) if len(study.methods) else study.methods
    if not len(rows):
        methods = [name for name in study.responses.means["method"].unique() if name]
        if len(methods) > 1:
            why = f"no method is called full (there are {', '.join(methods)})" if "full" not in methods else (
                "no cell could be compared: " + " ".join(note for note in study.notes if "not compared" in note))
            return f"whether adapters match full fine-tuning cannot be told: {why.rstrip(': .')}."
        return (f"whether adapters match full fine-tuning is not in these data: there is "
                f"{'one method only, ' + methods[0] if methods else 'one method only'}.")
    reference = {"full": "full fine-tuning"}.get(rows["reference"].iloc[0], rows["reference"].iloc[0])
    kinds = pd.Series([_kind(row) for row in rows.itertuples()], rows.index)
    told = [_of_method(label, some, kinds[some.index]) for label, some in rows.groupby("label", sort=False)]
    within = f"within ±{points(study.margin)}"
    present = set(kinds)
    if present == {"same"}:
        lead = f"adapters match {reference} {within} in every cell"
    elif present == {"open"}:
        lead = f"these data cannot tell whether adapters match {reference} {within}"
    elif present == {"same", "open"}:
        lead = f"adapters match {reference} {within} in some cells, and of the others these data cannot tell"
    elif "same" not in present and "better" not in present:
        lead = f"adapters fall short of {reference}" + " where these data can tell" * ("open" in present)
    elif "same" not in present and "worse" not in present:
        lead = f"adapters exceed {reference}" + " where these data can tell" * ("open" in present)
    else:
        lead = f"whether adapters match {reference} {within} depends on the cell"
    one = "; with one seed, so that chance in training is not in the intervals" if rows["seeds"].max() <= 1 else ""
    return f"{lead}: {'; '.join(told)} ({100 * LEVEL:g} % a cell, not corrected for their number{one})."


def _kind(row) -> str:
    """What one comparison says: same (equivalent), worse, better, or open."""
    return "same" if row.equivalent else "worse" if row.ci_high < 0 else "better" if row.ci_low > 0 else "open"


def _of_method(label: str, rows: pd.DataFrame, kinds: pd.Series) -> str:
    counts = [f"{name} in {(kinds == kind).sum()}" for kind, name in
              (("same", "equivalent"), ("worse", "worse"), ("better", "better"), ("open", "undecided"))
              if (kinds == kind).any()]
    low, high = (number(end, 1, sign=True) for end in (rows["difference"].min(), rows["difference"].max()))
    span = f"{low} points" if low == high else f"{low} to {high} points"
    return f"{label} is {', '.join(counts)} of {count(len(rows), 'cell')}, mean difference {span}"


def count(number_of: int, thing: str) -> str:
    """'1 cell', '3 cells'."""
    return f"{number_of} {thing}{'' if number_of == 1 else 's'}"
