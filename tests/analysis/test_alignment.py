"""Alignment against transfer: which gains are paired, and the very correlation of the study on them."""

import json

import numpy as np
import pandas as pd
import pytest

from peft_stilts.analysis import alignment as module
from peft_stilts.analysis.alignment import COLUMNS, USED, alignment
from peft_stilts.analysis.correlation import correlate
from peft_stilts.analysis.responses import responses
from tests.analysis.frames import frame_of

CODES = ("ar", "bg", "de", "el", "es", "fr", "hi", "ru")
FAMILIES = {"ar": "Afro-Asiatic"} | dict.fromkeys(CODES[1:], "Indo-European")
RANDOM = np.random.default_rng(7)
GAINS = {target: dict(zip(CODES, RANDOM.uniform(-9, 9, len(CODES))))
         for target in ("tatoeba", "xnli", "bucc2018", "mlqa")}


@pytest.fixture(autouse=True)
def calibrated(monkeypatch):
    """A calibration in which Kendall's coefficient alone is not to be trusted; of which layouts is noted."""
    asked = []

    def of_layouts(layouts, seed):
        asked.extend(layouts)
        return pd.DataFrame([dict(layout=sizes, coefficient=name, test=module.calibration.REPORTED[1], rho=0.0,
                                  rejected=0.2 if name == "kendall" else 0.05, coverage=0.95)
                             for sizes in layouts for name in USED])

    monkeypatch.setattr(module.calibration, "of_layouts", of_layouts)
    return asked


def gain(row):
    return GAINS[row["target"]][row["language"]] + {"squad": 0, "mnli": 3}.get(row["intermediate"], 0) + row["seed"]


def told(frame, **options):
    return alignment(responses(frame, **options), FAMILIES, draws=99, seed=3)


def test_it_is_the_study_s_correlation_of_the_gains_of_the_languages_of_both(calibrated):
    frame = frame_of(gain, ("squad", "mnli"), ("tatoeba", "xnli"), ("full", "lora"), (1, 2), CODES)
    frame = frame[~((frame["target"] == "tatoeba") & (frame["language"] == "fr"))]
    found = told(frame)
    assert list(found) == COLUMNS and len(found) == 2 * 2 * 3 and set(found["target"]) == {"xnli"}
    paired = [code for code in CODES if code != "fr"]
    x, y = (np.array([GAINS[target][code] for code in paired]) for target in ("tatoeba", "xnli"))
    for row in found.itertuples():
        more = 1.5 + {"squad": 0, "mnli": 3}[row.intermediate]
        expected = correlate(x[None] + more, y + more, [FAMILIES[code] for code in paired], row.coefficient,
                             draws=99, seed=3)
        assert (row.estimate, row.ci_low, row.ci_high) == pytest.approx(
            (expected.estimate[0], expected.low[0], expected.high[0]))
        assert row.p_permutation == pytest.approx(expected.p[0]) and (row.n, row.families) == (7, 2)
        assert (row.retrieval_gain, row.task_gain) == pytest.approx((x.mean() + more, y.mean() + more))
        assert row.retrieval == "tatoeba" and not row.reliable     # four languages find nothing
    assert calibrated == ["6+1"]


def test_english_is_in_no_pair():
    frame = frame_of(lambda row: 50.0 if row["language"] == "en" else gain(row), targets=("tatoeba", "xnli"),
                     languages=("en", *CODES))
    assert set(told(frame)["n"]) == {len(CODES)}


def test_bucc_stands_in_where_there_is_no_tatoeba():
    found = told(frame_of(gain, targets=("bucc2018", "xnli"), languages=CODES))
    assert set(found["retrieval"]) == {"bucc2018"}
    both = told(frame_of(gain, targets=("bucc2018", "tatoeba", "xnli", "mlqa"), languages=CODES))
    assert set(both["retrieval"]) == {"tatoeba"} and set(both["target"]) == {"xnli", "mlqa"}


def test_the_usual_layer_is_taken_and_another_one_where_it_was_not_scored():
    def layered(row):
        return gain(row) + {"": 0, "layer 1": 10, "layer 2": 20}[row["target_variant"]]

    retrieval = frame_of(layered, targets=("tatoeba",), languages=CODES, readings=("layer 1", "", "layer 2"))
    frame = pd.concat([frame_of(gain, targets=("xnli",), languages=CODES), retrieval])
    assert set(told(frame)["retrieval"]) == {"tatoeba"}
    assert set(told(frame[frame["target_variant"] != ""].pipe(
        lambda rest: pd.concat([rest, frame[frame["target"] == "xnli"]])))["retrieval"]) == {"tatoeba layer 1"}


def test_scores_are_paired_that_agree_in_all_but_the_training_of_the_target():
    def configured(target, **config):
        return frame_of(gain, targets=(target,), languages=CODES, method_config=json.dumps(config))

    trained = configured("xnli", precision="fp32", limit_eval=60, lr=1e-3, epochs=3, settings="ab", lora={"rank": 8})
    same = configured("tatoeba", limit_eval=60, precision="fp32")
    assert len(told(pd.concat([trained, same]))) == 3
    for config in ({"precision": "bf16", "limit_eval": 60}, {"precision": "fp32"}):
        assert not len(told(pd.concat([trained, configured("tatoeba", **config)])))
    assert not len(told(pd.concat([trained, same.assign(method="lora")])))


def test_fewer_than_four_languages_have_means_and_no_correlation():
    found = told(frame_of(gain, targets=("tatoeba", "xnli"), languages=CODES[:3]))
    assert found["estimate"].isna().all() and found["task_gain"].notna().all() and set(found["n"]) == {3}


def test_nothing_to_pair_gives_no_rows(calibrated):
    for frame, options in ((frame_of(gain, targets=("xnli",), languages=CODES), {}),
                           (frame_of(gain, targets=("tatoeba",), languages=CODES), {}),
                           (frame_of(gain, targets=("tatoeba", "xnli"), languages=CODES), {"response": "score"})):
        found = told(frame, **options)
        assert list(found) == COLUMNS and not len(found)
    assert not calibrated


def test_the_order_of_rows_changes_nothing():
    frame = frame_of(gain, ("squad", "mnli"), ("tatoeba", "xnli"), languages=CODES)
    pd.testing.assert_frame_equal(told(frame), told(frame.sample(frac=1, random_state=1)))
