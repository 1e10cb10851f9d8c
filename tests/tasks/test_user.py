"""A user's own tasks: the examples of docs/own_tasks.md as they stand there, also on released files, and mistakes."""

import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

from peft_stilts import cli
from peft_stilts.errors import UsageError
from peft_stilts.languages import LANGUAGES
from peft_stilts.tasks import TASKS
from peft_stilts.tasks.user import load_tasks

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "own_tasks.md"
sys.path.insert(0, str(ROOT / "tools"))
import run_readme  # noqa: E402


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """What a test adds to the tables of tasks and languages is gone after it."""
    monkeypatch.setattr(TASKS, "_values", dict(TASKS.items()))
    monkeypatch.setattr(LANGUAGES, "_values", dict(LANGUAGES.items()))


def example(name: str) -> str:
    """The Python file `name` as it stands in the document: between the marks of a heredoc, or in a fence of its own."""
    text = DOCUMENT.read_text(encoding="utf-8")
    found = re.search(rf"cat > {name} <<'END'\n(.*?)^END$", text, re.DOTALL | re.MULTILINE) \
        or re.search(rf"```python\n# {name}\n(.*?)```", text, re.DOTALL)
    return found[1]


def written(folder: Path, text: str, name: str = "tasks.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def scores(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "results.csv", keep_default_na=False)


def test_the_example_is_twelve_lines_and_is_run():
    """By tests/test_readme.py, with the rows and the command that stand below it."""
    assert len([line for line in example("my_tasks.py").splitlines() if line.strip()]) == 12
    writing, running = run_readme.blocks(DOCUMENT)
    assert DOCUMENT in run_readme.documents(ROOT) and not writing.long and not running.long
    assert "my_tasks.py" in writing.text and "recipe squad --scale mini --tasks my_tasks.py" in running.text


def test_a_task_is_known_by_its_file(tmp_path):
    path = written(tmp_path, example("my_tasks.py"))
    assert load_tasks(path) == ("rumours",)
    task = TASKS["rumours"]
    assert task.is_target and len(task.origin) == 64
    assert Path(task.test(LANGUAGES["sw"]).files[0]) == tmp_path / "rumours" / "test.sw.jsonl"


def test_americasnli_and_xcopa_are_tasks_on_their_released_files(tmp_path, monkeypatch, shared):
    for name in ("americasnli", "xcopa"):
        (tmp_path / name).symlink_to(shared / "data" / name)
    (tmp_path / "copa").mkdir()
    rows = [{"premise": f"The lamp {n} went out.", "question": "cause", "choice1": "Someone pressed the switch.",
             "choice2": "The table is round.", "label": n % 2} for n in range(8)]
    for name in ("train", "val"):
        written(tmp_path / "copa", "".join(json.dumps(row) + "\n" for row in rows), f"{name}.en.jsonl")
    text = example("americasnli_tasks.py") + example("xcopa_tasks.py").replace("def test(", "def test_(")
    own = written(tmp_path, text.replace("def rows(", "def copa_rows(").replace("=rows(", "=copa_rows(")
                  .replace("language: rows(", "language: copa_rows("))
    monkeypatch.chdir(tmp_path)
    cli.main(["recipe", "none", "--scale", "mini", "--tasks", str(own), "--targets", "americasnli,xcopa",
              "--limit_train", "16", "--limit_eval", "5", "--runs", "runs"])
    found = scores(tmp_path / "runs")
    assert set(found[found["target"] == "americasnli"]["language"]) == set(TASKS["americasnli"].languages)
    assert set(found[found["target"] == "xcopa"]["language"]) == set(TASKS["xcopa"].languages)
    assert len(found) == 10 + 11 and set(found["examples"]) == {5} and found["score"].between(0, 100).all()
    files = sorted((tmp_path / "runs").rglob("predictions/americasnli/test-quy.tsv"))
    assert len(files) == 1 and set(files[0].read_text().split()) <= set(TASKS["americasnli"].labels)


def test_whole_released_splits_are_read_and_checked(tmp_path, monkeypatch, shared):
    from peft_stilts.miniature.provider import MiniatureWorld
    from peft_stilts.tasks.sources import load_checked, scored_split

    for name in ("americasnli", "xcopa"):
        (tmp_path / name).symlink_to(shared / "data" / name)
    monkeypatch.chdir(tmp_path)
    for name in ("americasnli_tasks.py", "xcopa_tasks.py"):
        load_tasks(written(tmp_path, example(name), name))
    world = MiniatureWorld()
    counts = {name: {code: len(load_checked(world, TASKS[name].form, scored_split(world, TASKS[name], code), None,
                                            TASKS[name].labels)) for code in TASKS[name].languages}
              for name in ("americasnli", "xcopa")}
    assert counts["americasnli"] == dict.fromkeys(TASKS["americasnli"].languages, 750) | {"nah": 738, "oto": 748}
    assert counts["xcopa"] == dict.fromkeys(TASKS["xcopa"].languages, 500)
    (first,) = load_checked(world, "choice", scored_split(world, TASKS["xcopa"], "it"), 1, ("0", "1"))
    assert first["prompt"].endswith("What was the cause?") or first["prompt"].endswith("What happened as a result?")


ELSEWHERE = {'trained_on="rumours"': 'trained_on="{}"', 'rows("en", "train"), rows("en", "dev")': "(), ()"}
MISTAKES = {
    "the languages xx are not known here": {'("en", "sw")': '("en", "xx")'},
    "it is entered as 'other', but its name is 'rumours'": {'TASKS.add("rumours"': 'TASKS.add("other"'},
    "its labels are ('yes', 'no'), but the head of mnli": {old: new.format("mnli") for old, new in ELSEWHERE.items()},
    "its form is classification, but that of squad": {old: new.format("squad") for old, new in ELSEWHERE.items()},
    "Did you mean 'mnli'": {old: new.format("mnlli") for old, new in ELSEWHERE.items()},
    "xnli has no training rows; it is itself trained on mnli": {old: new.format("xnli")
                                                                for old, new in ELSEWHERE.items()},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_tasks_that_could_not_be_scored_are_refused(tmp_path, message):
    text = example("my_tasks.py")
    for old, new in MISTAKES[message].items():
        assert old in text
        text = text.replace(old, new)
    with pytest.raises(UsageError, match=re.escape(message)):
        load_tasks(written(tmp_path, text))


def test_choices_must_be_as_many_as_those_of_the_training_task(tmp_path):
    text = example("xcopa_tasks.py").replace('trained_on="xcopa"', 'trained_on="cosmosqa"')
    with pytest.raises(UsageError, match="it has 2 choices, but cosmosqa, which it is trained on, has 4"):
        load_tasks(written(tmp_path, text))


@pytest.mark.parametrize("text, message", [
    ("", "adds no task"), ("1 / 0", "ZeroDivisionError"), ("def (", "SyntaxError"), ("import not_here", "not_here"),
    ("from peft_stilts.tasks import TASKS\nTASKS.add('xnli', TASKS['xnli'])", "defined twice")])
def test_a_file_that_fails_or_adds_nothing_says_so(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as raised:
        load_tasks(written(tmp_path, text))
    assert str(tmp_path / "tasks.py") in str(raised.value)


@pytest.mark.parametrize("name", ["missing.py", "tasks.txt", "."])
def test_what_is_no_python_file_is_refused(tmp_path, name):
    (tmp_path / "tasks.txt").write_text("")
    with pytest.raises(UsageError, match="is no Python file; docs/own_tasks.md"):
        load_tasks(tmp_path / name)
