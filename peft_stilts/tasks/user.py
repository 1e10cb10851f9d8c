"""A user's own tasks: a Python file that enters them in TASKS, run because it was named on the command line."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

from peft_stilts.digest import sha256_file
from peft_stilts.errors import Problems, UsageError
from peft_stilts.languages import LANGUAGES
from peft_stilts.registry import unknown
from peft_stilts.tasks import TASKS, Task


def load_tasks(path: Path) -> tuple[str, ...]:
    """Run the file `path` and give the names of the tasks that it added; each gets the file's SHA-256 as `origin`,
    which stands in the keys of its stages.

    Raises UsageError for a file that fails or adds none, and for tasks that could not be scored: a language that is
    not in LANGUAGES, or a training task that is unknown or has another form or other labels.
    """
    if not path.is_file() or path.suffix != ".py":
        raise UsageError(f"--tasks {str(path)!r} is no Python file; docs/own_tasks.md has an example")
    before = set(TASKS)
    spec = importlib.util.spec_from_file_location(f"peft_stilts_tasks_{path.stem}", path)
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except Exception as error:      # whatever a user's file may raise
        raise UsageError(f"--tasks {path}: {type(error).__name__}: {error}") from error
    added = tuple(name for name in TASKS if name not in before)
    if not added:
        raise UsageError(f"--tasks {path} adds no task; it must call TASKS.add(name, Task(...)) (docs/own_tasks.md)")
    with Problems() as found:
        for name in added:
            for mistake in _mistakes(name, TASKS[name]):
                found.add(f"--tasks {path}: {name}: {mistake}")
    for name in added:
        TASKS.replace(name, dataclasses.replace(TASKS[name], origin=sha256_file(path)))
    return added


def _mistakes(entry: str, task: Task) -> list[str]:
    """What would go wrong with a task later on, or be wrong without a word."""
    found = [] if task.name == entry else [f"it is entered as {entry!r}, but its name is {task.name!r}"]
    strangers = [code for code in task.languages if code not in LANGUAGES]
    if strangers:
        found.append(f"the languages {', '.join(strangers)} are not known here: add them first, by "
                     "LANGUAGES.add(code, Language(...)) (docs/own_tasks.md)")
    if task.trained_on in (None, task.name):
        return found
    if task.trained_on not in TASKS:
        return [*found, unknown("training task", task.trained_on, [name for name in TASKS if TASKS[name].train])]
    trained = TASKS[task.trained_on]
    if not trained.train:
        found.append(f"{trained.name} has no training rows; it is itself trained on {trained.trained_on}")
    if trained.form != task.form:
        found.append(f"its form is {task.form}, but that of {trained.name}, which it is trained on, is {trained.form}")
    elif task.form == "choice" and len(trained.labels) != len(task.labels):
        found.append(f"it has {len(task.labels)} choices, but {trained.name}, which it is trained on, has "
                     f"{len(trained.labels)}")
    elif task.form != "choice" and trained.labels != task.labels:
        found.append(f"its labels are {task.labels}, but the head of {trained.name}, which it is trained on, answers "
                     f"{trained.labels}, in this order")
    return found
