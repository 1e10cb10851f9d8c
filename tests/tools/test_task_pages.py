"""The pages of docs/tasks: one for every task, up to date, and without a line of another data set."""

import sys
from pathlib import Path

import pytest

from peft_stilts.tasks import INTERMEDIATE, NOT_COMPARABLE, TARGETS, TASKS

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import task_pages  # noqa: E402


@pytest.fixture(scope="module")
def pages():
    return task_pages.pages()


def test_every_task_has_a_page_and_every_page_is_up_to_date(pages):
    assert len(pages) == len(INTERMEDIATE) + len(TARGETS) + len(NOT_COMPARABLE) + 1 == 20
    there = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "tasks").glob("*.md")}
    assert set(there) == set(pages)
    stale = [name for name in pages if pages[name] != there[name]]
    assert not stale, f"out of date: {stale}; run python tools/task_pages.py"


def test_a_page_says_where_the_rows_are_how_they_are_scored_and_how_many_there_are(pages):
    page = pages["udpos.md"]
    assert "`google/xtreme` `udpos.English` `train`" in page and "**f1** is the headline; also accuracy" in page
    assert "F1 is not accuracy" in page and "| yo | Yoruba | `udpos.Yoruba` |" in page
    page = pages["tydiqa.md"]
    assert "rows `english-held-out-500`" in page and "| en | English | `tydiqa` | 440 |" in page
    assert "not on the hub" in pages["ccg.md"] and "not on the hub" in pages["bucc2018.md"]
    assert "Not comparable" in pages["bucc_gold.md"]


def test_settings_are_those_of_the_recipes_under_both_protocols(pages):
    assert "| lr | 1e-05 | 3e-05 | 0.0002 | 0.0002 |" in pages["xnli.md"]
    assert "| epochs | 2 | 5 | 2 | 5 |" in pages["xnli.md"]
    assert "| keep | best | last | best | last |" in pages["xquad.md"]
    assert "| layer | 14 of 24, 8 of 12 | 20 of 24, 8 of 12 |" in pages["bucc2018.md"]
    assert "`intermediate` of the recipe `hellaswag`" in pages["hellaswag.md"]


def test_every_example_is_of_the_miniature_world_and_shows_what_the_encoder_reads(pages):
    for name, task in TASKS.items():
        example = pages[f"{name}.md"].partition("## An example from the miniature world")[2]
        assert "An invented row" in example and "<s> " in example, name
        if task.form == "choice":
            assert example.count("</s></s>") == len(task.labels), name


def test_check_fails_for_a_page_that_is_stale_or_missing_or_of_no_task(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(task_pages, "FOLDER", tmp_path / "tasks")
    monkeypatch.setattr(task_pages, "pages", lambda: {"a.md": "one\n", "b.md": "two\n"})
    monkeypatch.setattr(sys, "argv", ["task_pages.py", "--check"])
    assert task_pages.main() == 1 and "a.md, b.md" in capsys.readouterr().err
    assert not (tmp_path / "tasks").exists()                            # checking writes nothing
    monkeypatch.setattr(sys, "argv", ["task_pages.py"])
    assert task_pages.main() == 0
    (tmp_path / "tasks" / "a.md").write_text("other\n")
    (tmp_path / "tasks" / "c.md").write_text("of no task\n")
    monkeypatch.setattr(sys, "argv", ["task_pages.py", "--check"])
    assert task_pages.main() == 1 and "a.md, c.md" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["task_pages.py"])
    assert task_pages.main() == 0
    assert {path.name: path.read_text() for path in (tmp_path / "tasks").iterdir()} == task_pages.pages()
    monkeypatch.setattr(sys, "argv", ["task_pages.py", "--check"])
    assert task_pages.main() == 0
