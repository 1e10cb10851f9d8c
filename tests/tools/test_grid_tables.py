"""The tables of a grid: every number is recomputed by hand on a small frame."""

import sys
from pathlib import Path

import pandas as pd
import pytest

from peft_stilts.results import RESULTS, STAGES

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import grid_tables as module  # noqa: E402


def row(intermediate, target, language, seed, score, **changed):
    return dict(recipe=intermediate, scale="mini", base_model="m", base_revision="r", data_source="miniature",
                protocol="jiant", method="full", method_config="{}", policy="continue", intermediate=intermediate,
                intermediate_variant="", target=target, target_variant="", language=language, split="test",
                metric="f1", primary=True, seed=seed, score=score, examples=10, stage_key="k") | changed


@pytest.fixture
def frame():
    rows = []
    for seed, shift in ((1, 0.0), (2, 2.0)):
        for language, score in (("en", 50.0), ("qa", 40.0), ("qb", 20.0)):
            rows.append(row("none", "xquad", language, seed, score))
            rows.append(row("mnli", "xquad", language, seed, score + 10 + shift if language != "en" else score - 30))
    rows.append(row("mnli", "xquad", "qa", 1, 99.0, intermediate_variant="mlm 0.2"))
    rows.append(row("none", "xquad", "qa", 1, 1.0, metric="exact_match", primary=False))
    return RESULTS.frame(rows)


def stage(key, kind, seconds, tokens):
    return dict(stage_key=key, parent_key="", kind=kind, trainable_parameters=1, bytes=2**20, tokens=tokens,
                seconds=seconds, peak_memory_bytes=512 * 2**20, device="cpu")


def test_numbers_are_means_over_other_languages_with_their_spread_over_seeds(frame):
    stages = STAGES.frame([stage("a", "train", 30.0, 10**6), stage("b", "train", 90.0, 2 * 10**6),
                           stage("c", "evaluate", 5.0, 10**5)])
    text = module.tables(frame, stages)
    assert "| full | 50.0 ± 0.0 / 30.0 ± 0.0 |" in text
    assert "| mnli | +11.0 ± 1.4 | **+11.0 ± 1.4** |" in text, "gains 10 and 12; neither English nor a variant counts"
    assert "| train | 2 | 3.0 | 2:00 | 90 s | 512 | 2 |" in text and "| evaluate | 1 | 0.1 |" in text


def test_a_page_without_marks_is_refused(frame, tmp_path, monkeypatch, capsys):
    page, runs = tmp_path / "grid.md", tmp_path / "runs"
    RESULTS.write(frame, runs)
    STAGES.write(STAGES.frame([stage("a", "train", 30.0, 10**6)]), runs)
    page.write_text("nothing here")
    monkeypatch.setattr("sys.argv", ["grid_tables.py", str(runs), "--write", str(page)])
    assert module.main() == 2 and "has no marks" in capsys.readouterr().err
    page.write_text("before\n<!-- tables -->\nold\n<!-- end of tables -->\nafter\n")
    assert module.main() == 0
    text = page.read_text()
    assert "old" not in text and text.startswith("before\n") and text.endswith("after\n") and "+11.0" in text


def test_tasks_and_targets_stand_in_the_papers_order(frame):
    more = pd.concat([frame, RESULTS.frame([row(name, target, "qa", 1, 10.0) for name in ("none", "squad", "anli_plus")
                                            for target in ("tatoeba", "xnli")])])
    lines = module.gains(more, "full").splitlines()
    assert lines[2] == "| after | xnli | xquad | tatoeba | mean |"
    assert [line.split("|")[1].strip() for line in lines[4:]] == ["anli_plus", "mnli", "squad"]
