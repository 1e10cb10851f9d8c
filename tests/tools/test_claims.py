"""What is seen of the claims: the numbers behind each entry, verdicts both ways, and the commands of docs/claims.md."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from peft_stilts import cli
from peft_stilts.analysis import overview
from peft_stilts.errors import UsageError
from peft_stilts.results import write
from peft_stilts.tasks import INTERMEDIATE, TARGETS
from tests.analysis.frames import frame_of

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import claims  # noqa: E402

PAPER = {"mnli": 7.5, "squad": 8.2, "hellaswag": 7.0, "all": 8.7}
OF_TARGET = {"bucc2018": 6.0, "tatoeba": 8.0, "xnli": -8.0}


def as_reported(row):
    """Gains as the paper tells them: retrieval most, the three best, `all` above them, the controls below plain."""
    plain = PAPER.get(row["intermediate"], 4.0) + OF_TARGET.get(row["target"], 0.0)
    return plain - (1.0 if row["intermediate_variant"] else 0.0) + row["seed"] / 10


def opposite(row):
    """The other way about."""
    return row["seed"] / 5 - as_reported(row)


def grid(gain, seeds=(1, 2, 3), **arguments):
    everything = frame_of(gain, (*INTERMEDIATE, "all"), TARGETS, seeds=seeds, **arguments)
    controls = frame_of(gain, ("squad", "mnli"), TARGETS, seeds=seeds, variants=("mlm 0.2 de,en", "translated de,en"),
                        **arguments)
    return pd.concat([everything, controls[controls["intermediate"] != "none"]], ignore_index=True)


def seen(frame, key, method="full"):
    return claims.entries(frame)[key][method]


def test_a_run_as_the_paper_tells_it_agrees_with_every_claim():
    for key, by_method in claims.entries(grid(as_reported)).items():
        assert re.search(r"\(n 3\), agrees(;|$)", by_method["full"]), (key, by_method)


def test_the_opposite_disagrees_with_every_claim_and_is_told_in_the_same_way():
    found = claims.entries(grid(opposite))
    assert ", agrees" in found.pop("xnli-best")["full"]         # which says nearly the opposite of `xnli`
    for key, by_method in found.items():
        assert re.search(r"\(n 3\), disagrees(;|$)", by_method["full"]), (key, by_method)


def test_entries_are_the_means_over_tasks_and_targets_with_their_spread():
    found = {key: by_method["full"] for key, by_method in claims.entries(grid(as_reported)).items()}
    assert found["tydiqa"].startswith(f"{(7.5 + 8.2 + 7.0 + 6 * 4.0) / 9 + 0.2:+.1f} ± 0.1 (n 3)")
    assert "above zero after 9 of 9 tasks, from anli_plus +4.2 to squad +8.4" in found["tydiqa"]
    assert found["retrieval-qa"].startswith("+7.0 ± 0.0")
    assert found["best"].startswith(f"{(7.5 + 8.2 + 7.0) / 3 - 4.0:+.1f} ± 0.0") and "in order: squad" in found["best"]
    assert found["multi-task"].startswith("+0.5 ± 0.0") and "less squad" in found["multi-task"]
    assert found["mlm"].startswith("-1.0 ± 0.0") and "in 0 of 18 pairs" in found["mlm"]
    assert "mnli translated de,en, squad translated de,en" in found["translated"]
    assert "xnli after all" in found["per-target"] and "so too high" in found["per-target"]


def test_three_that_win_together_but_not_each_agree_in_part():
    gains = dict.fromkeys(INTERMEDIATE, 1.0) | PAPER | {"ccg": 9.0}
    frame = grid(lambda row: gains[row["intermediate"]] + row["seed"] / 10)
    assert "agrees in part" in seen(frame, "best") and "in order: ccg +9.2" in seen(frame, "best")


@pytest.mark.parametrize("values, sign, verdict", [
    ([1.0, 1.2, 0.9], 1, "agrees"), ([-1.0, -1.2, -0.9], 1, "disagrees"), ([1.0, -1.2, 0.9], 1, "open"),
    ([1.0], 1, "open: one seed"), ([-1.0], 0, "open: one seed"), ([1.0, 1.2, 0.9], 0, "disagrees"),
    ([1.0, -1.2, 0.9], 0, "agrees"), ([-1.0, -1.2, -0.9], 0, "agrees")])
def test_verdicts_are_by_students_interval(values, sign, verdict):
    assert claims.Seen(np.array(values), sign).verdict.startswith(verdict)
    if len(values) > 1:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
        expected = ("disagrees" if low > 0 else "agrees") if sign == 0 else \
            "agrees" if low > 0 else "disagrees" if high < 0 else "open"
        assert verdict == expected


def test_what_was_not_run_is_said_and_not_guessed():
    frame = frame_of(as_reported, ("squad",), ("tatoeba",), seeds=(1, 2))
    found = {key: by_method["full"] for key, by_method in claims.entries(frame).items()}
    assert found["retrieval"].endswith("without bucc2018") and "(n 2)" in found["retrieval"]
    not_run = {key for key, told in found.items() if told.startswith("not run")}
    assert not_run == set(found) - {"retrieval", "per-target"}


def test_only_seeds_with_every_score_count():
    frame = grid(as_reported)
    lacking = (frame["seed"] == 3) & (frame["intermediate"] == "qqp") & (frame["target"] == "tydiqa")
    gains = claims.wide(overview.averages(frame[~lacking]))
    assert list(claims.by_seed(gains, INTERMEDIATE, ["tydiqa"]).index) == [1, 2]
    assert list(claims.by_seed(gains, ["squad"], ["tydiqa"]).index) == [1, 2, 3]


def test_scales_are_not_mixed_and_a_table_without_gains_is_refused():
    with pytest.raises(UsageError, match="one scale, model and protocol; these rows are of 2"):
        claims.entries(pd.concat([grid(as_reported), grid(as_reported, scale="large", base_model="x")]))
    with pytest.raises(UsageError, match="no gain"):
        claims.entries(frame_of(as_reported).query("intermediate == 'none'"))


def test_the_tool_prints_and_fills_in_the_marks_and_only_them(tmp_path, monkeypatch, capsys):
    write(grid(as_reported, methods=("full", "lora")), tmp_path / "runs")
    document = tmp_path / "claims.md"
    text = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    for _ in range(2):                                          # what was filled in is filled in anew
        document.write_text(text, encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["claims.py", str(tmp_path / "runs"), "--write", str(document)])
        assert claims.main() == 0
        printed, text = capsys.readouterr().out, document.read_text(encoding="utf-8")
    assert "miniature world - not XLM-R" in printed and "| lora |" in printed
    assert text.count("full: +") + text.count("full: -") == len(claims.CLAIMS) and "not yet filled in" not in text
    assert claims.MARK.sub("", text) == claims.MARK.sub("", (ROOT / "docs" / "claims.md").read_text(encoding="utf-8"))
    document.write_text("no marks", encoding="utf-8")
    assert claims.main() == 2 and "marks and claims differ" in capsys.readouterr().err


def test_every_claim_has_its_line_and_every_command_its_flags():
    text = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    assert [match[2] for match in claims.MARK.finditer(text)] == [claim.key for claim in claims.CLAIMS]
    rows = [line for line in text.splitlines() if "<!-- fill" in line]
    assert len(rows) == len(claims.CLAIMS) and all(row.endswith("| open |") for row in rows)
    for row in rows:
        commands = re.findall(r"`python -m peft_stilts ([^`]+)`", row)
        assert commands and "--scale large" in commands[0]
        for command in commands:
            cli.check_arguments(shlex.split(command))
