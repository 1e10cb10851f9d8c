"""The report's numbers: intervals over seeds, rank correlation with distance, and the table they stand in."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from peft_stilts import results

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import miniature_report  # noqa: E402

LANGUAGES = ("en", "qa", "qb", "qc", "qd", "qe", "qf", "qg", "qh", "qi")


def rows(intermediate: str, scores: dict[int, list[float]]) -> pd.DataFrame:
    """Results of one target, by seed one score a language."""
    fixed = {"recipe": "squad", "scale": "mini", "base_model": "m", "base_revision": "r", "data_source": "miniature",
             "protocol": "jiant", "method": "full", "method_config": "{}", "policy": "continue",
             "intermediate_variant": "", "target": "xquad", "target_variant": "", "split": "validation",
             "metric": "f1", "primary": True, "examples": 300}
    return results.RESULTS.frame([
        fixed | {"intermediate": intermediate, "language": code, "seed": seed, "score": score,
                 "stage_key": f"{intermediate}{seed}"}
        for seed, of_seed in scores.items() for code, score in zip(LANGUAGES, of_seed)])


def test_the_interval_is_students():
    mean, half = miniature_report.interval(np.array([1.0, 2.0, 6.0]))
    low, high = stats.t.interval(0.95, 2, loc=3.0, scale=stats.sem([1.0, 2.0, 6.0]))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert np.isnan(miniature_report.interval(np.array([1.0]))[1])


def test_the_correlation_leaves_english_out_and_has_spearmans_sign():
    distances = {code: place / 9 for place, code in enumerate(LANGUAGES)}
    falling = pd.Series([90.0, 50, 45, 40, 42, 30, 20, 21, 10, 5], index=LANGUAGES)
    told = miniature_report.correlation(falling, distances)
    expected = stats.spearmanr(falling.drop("en"), [distances[code] for code in LANGUAGES[1:]]).statistic
    assert told.startswith(f"{expected:+.2f} (p 0.0") and "n 9" in told
    assert miniature_report.correlation(pd.Series(1.0, index=LANGUAGES), distances) == "-"


def test_the_report_holds_scores_control_gains_and_says_what_it_is():
    base = {1: [60.0] + [30.0] * 9, 2: [62.0] + [32.0] * 9}
    after = {1: [70.0] + [33.0] * 9, 2: [74.0] + [31.0] * 9}
    random = {1: [20.0] + [5.0] * 9, 2: [22.0] + [5.0] * 9}
    frame = pd.concat([rows("none", base), rows("squad", after)], ignore_index=True)
    text = miniature_report.compose(frame, rows("none", random), "seeds 1, 2")
    assert "Not XLM-R" in text and "At least 300 items" in text
    line = next(line for line in text.splitlines() if line.startswith("| xquad | full | 61.0"))
    assert "31.0" in line and "21.0" in line and "| 5.0" in line and "+11.0" in line and "+1.0" in line
