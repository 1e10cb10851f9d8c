"""Made-up studies of any size, for tests of what is said and drawn of them: no number in them is a result."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy import stats

from peft_stilts.analysis.alignment import COLUMNS as ALIGNMENT
from peft_stilts.analysis.calibration import COLUMNS as CALIBRATION
from peft_stilts.analysis.contrasts import CONTRASTS
from peft_stilts.analysis.correlation import COEFFICIENTS
from peft_stilts.analysis.equivalence import METHODS
from peft_stilts.analysis.pooled import COLUMNS as POOLED
from peft_stilts.analysis.responses import CELL
from peft_stilts.analysis.study import LEFT_OUT
from peft_stilts.languages import LANGUAGES

CODES = [code for code in LANGUAGES if code != "en"]
MEASURES = ("genetic", "geographic", "syntactic", "phonological", "inventory", "featural", "script", "family", "cc100")
METRICS = {"udpos": "f1", "panx": "f1", "xquad": "f1", "mlqa": "f1", "tydiqa": "f1", "bucc2018": "f1"}


def study_of(codes=CODES[:12], targets=("xquad",), intermediates=("squad",), methods=("full", "lora"),
             measures=MEASURES[:3], response="gain", miniature=False, slope=6.0, seeds=3, reliable=True, **changed):
    """A study in which the value of a language is `slope` times its first similarity, and noise.

    `changed`: attributes of the study that are put in their place.
    """
    random = np.random.default_rng(5)
    families = {code: (LANGUAGES[code].family if code in LANGUAGES and not miniature else code) for code in codes}
    names = {code: LANGUAGES[code].name if code in LANGUAGES else code for code in codes}
    values = pd.DataFrame(random.uniform(0, 1, (len(codes), len(measures))).round(3), pd.Index(codes, name="language"),
                          list(measures))
    means = _means(values, targets, intermediates, methods, slope, seeds, random)
    heading = "miniature world - not XLM-R · scale mini" if miniature else "scale large · xlm-roberta-large"
    responses = SimpleNamespace(response=response, means=means, heading=heading, miniature=miniature, notes=[])
    similarities = SimpleNamespace(source="en", values=values, families=families, names=names,
                                   origins={name: f"where {name} is from" for name in measures})
    correlations = _correlations(means, values, families, reliable)
    made = dict(
        responses=responses, similarities=similarities, excluded=("en",), covariates=("baseline", "cc100"),
        correlations=correlations, left_out=_left_out(correlations, families), pooled=_pooled(methods, measures),
        methods=_methods(means, methods), contrasts=pd.DataFrame(columns=CONTRASTS),
        alignment=pd.DataFrame(columns=ALIGNMENT), weak=None, calibration=_calibration(), detectable=0.61, margin=1.0,
        seed=1, draws=1999, notes=["a note"])
    return SimpleNamespace(**(made | changed))


def _means(values, targets, intermediates, methods, slope, seeds, random):
    rows = []
    for method, intermediate, target in itertools.product(methods, intermediates, targets):
        noise = random.normal(0, 1.2, len(values))
        for place, code in enumerate(values.index):
            rows.append((method, "{}", "continue" if method == "full" else "stack", intermediate, target,
                         METRICS.get(target, "accuracy"), code, slope * (values.iloc[place, 0] - 0.4) + noise[place],
                         seeds))
    frame = pd.DataFrame(rows, columns=[*CELL, "language", "value", "seeds"])
    return frame.assign(median=frame["value"], sd=0.7 if seeds > 1 else math.nan, baseline=60.0, headroom=40.0)


def _correlations(means, values, families, reliable):
    rows = []
    for cell, some in means.groupby(CELL, sort=False):
        codes = list(some["language"])
        estimates = np.corrcoef(values.loc[codes].rank().T, some["value"].rank())[-1, :-1]
        for measure, estimate in zip(values, estimates):
            p = 2 * stats.t.sf(abs(estimate) * math.sqrt((len(codes) - 2) / (1 - estimate**2)), len(codes) - 2)
            away = 1.96 / math.sqrt(max(1, len(codes) - 3))
            ends = np.tanh(np.arctanh(np.clip(estimate, -0.999, 0.999)) + np.array([-away, away]))
            rows += [(*cell, measure, coefficient, estimate, len(codes), len({families[code] for code in codes}),
                      *ends, p, p, "en", reliable) for coefficient in COEFFICIENTS]
    columns = [*CELL, "measure", "coefficient", "estimate", "n", "families", "ci_low", "ci_high", "p_permutation",
               "q_bh", "excluded", "reliable"]
    return pd.DataFrame(rows, columns=columns)


def _left_out(correlations, families):
    rows = [(*row[:8], family, row[8] + move, row[9] - 1) for row in correlations.itertuples(index=False, name=None)
            if row[7] in ("pearson", "spearman")
            for family, move in zip(sorted(set(families.values()))[:2], (-0.03, 0.02))]
    return pd.DataFrame(rows, columns=LEFT_OUT)


def _pooled(methods, measures):
    rows = [(method, "all", measure, 0.8, 0.1, 1.5, 0.03, 100, 12, 2, 5, "")
            for method, measure in itertools.product(methods, measures)]
    return pd.DataFrame(rows, columns=POOLED)


def _methods(means, methods):
    rows = []
    for (intermediate, target, metric), some in means.groupby(["intermediate", "target", "metric"], sort=False):
        sides = {method: part["value"].mean() for method, part in some.groupby("method")}
        for method in methods[1:] if "full" in methods else ():
            rows.append((intermediate, target, metric, method, "full", "{}", "stack", some["language"].nunique(), 3,
                         sides[method], sides["full"], sides[method] - sides["full"], -0.6, 0.5, 0.4, 1.0, 0.02, True,
                         1e6, 4e6, 50.0, 1e7, 1e8, 4e8, 100.0, 1e7))
    return pd.DataFrame(rows, columns=METHODS)


def _calibration():
    rows = [("5+4+1", 10, 3, icc, rho, "spearman", interval, test, coverage, rejected if rho == 0 else 0.4, 0.9, 2000)
            for icc in (0.3, 0.6) for rho in (0.0, 0.5)
            for interval, test, coverage, rejected in (
                ("effective number", "permutation by family", 0.95, 0.048),
                ("independent languages", "independent languages", 0.85, 0.142))]
    return pd.DataFrame(rows, columns=CALIBRATION)


def methods_of(*kinds, method="lora", seeds=3):
    """Rows of `methods`: (difference, low, high, equivalent) each, for one target task after another."""
    rows = [("squad", f"target{place}", "accuracy", method, "full", "{}", "stack", 10, seeds, 1 + difference, 1.0,
             difference, low, high, 0.5, 1.0, 0.01 if equivalent else 0.6, equivalent, *[math.nan] * 8)
            for place, (difference, low, high, equivalent) in enumerate(kinds)]
    return pd.DataFrame(rows, columns=METHODS)
