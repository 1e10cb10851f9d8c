"""The command line: one short function a verb, every flag taken as typed and checked before any work."""

from __future__ import annotations

import errno
import inspect
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from peft_stilts.errors import Problems, StiltsError, UsageError
from peft_stilts.registry import unknown

BANNER = """No CUDA device here, so this is the miniature world: ten invented languages and an encoder of a million
parameters; everything runs in minutes and nothing is downloaded. Its scores are never XLM-R's. For the real thing:
    python -m peft_stilts recipe {name} --scale large      (a machine with a CUDA device chooses it by itself)
"""


Text = str | None
"""A flag as typed, None where it was not given; spec.py gives it its meaning."""


def recipe(name: str, *, scale: str = "auto", method: str = "full", targets: Text = None, languages: Text = None,
           seeds: Text = None, precision: str = "auto", data_root: Text = None, runs: str = "runs",
           limit_train: Text = None, limit_eval: Text = None, layer: Text = None, plan_only: bool = False,
           keep: bool = False) -> None:
    """Train and score a recipe and its baseline, and show the gains.

    An interrupted run goes on where it stopped when the same command is given again.

    Args:
        name: an intermediate setting (squad, none; see `recipes`), a YAML file, or several with commas between.
        scale: auto, mini, base, large, or the id or folder of an XLM-R encoder. auto: large on CUDA, else mini.
        method: full, lora or full,lora: which weights are trained.
        targets: target tasks with commas between; the recipe's own when not given.
        languages: two-letter codes with commas between; all of a target's when not given.
        seeds: whole numbers with commas between; 1,2,3 when not given, and 1 in the miniature world.
        precision: auto, fp32, bf16 or fp16. auto: bf16 where the hardware has it, fp16 on older CUDA, else fp32.
        data_root: folder laid out like the hub's repositories, read instead of the hub (see tools/mirror.py).
        runs: folder of results and finished stages.
        limit_train: only the first N training rows.
        limit_eval: only the first N rows of each test set, per language.
        layer: index into hidden_states that retrieval pools; needed where the encoder's depth is not 4, 12 or 24.
        plan_only: show the stages, what is cached and what they would cost, and stop.
        keep: keep the target models after scoring (they are removed to bound disk use).
    """
    from peft_stilts.grid.plan import make_plan
    from peft_stilts.grid.run import run
    from peft_stilts.grid.show import begin, finish, show_plan
    from peft_stilts.spec import parse_request

    with Problems() as found:
        request = parse_request(name, {
            "scale": scale, "methods": method, "targets": targets, "languages": languages, "seeds": seeds,
            "precision": precision, "data_root": data_root, "runs": runs, "limit_train": limit_train,
            "limit_eval": limit_eval, "layer": layer, "plan_only": str(plan_only), "keep": str(keep)}, found)
        plan = make_plan(request, found)
    if plan.base.miniature and request.scale == "auto":
        print(BANNER.format(name=name))
    if request.plan_only:
        show_plan(plan)
        return
    begin(plan)
    run(plan)
    finish(plan)


def recipes() -> None:
    """List the recipes, one line each."""
    from peft_stilts.recipe import read_recipe, recipe_names

    for name in recipe_names():
        found = read_recipe(name)
        first = f"{found.intermediate} first, then " if found.intermediate != "none" else "no intermediate task: "
        print(f"{name:<10}{first}{', '.join(found.targets)} ({found.protocol} protocol)")


def copy(name: str, path: str) -> None:
    """Write a recipe with all its settings to a file, to edit and run.

    Args:
        name: the recipe to copy (see `recipes`).
        path: the new file, ending in .yaml; an existing one is not overwritten.
    """
    from peft_stilts.recipe import copy_recipe
    from peft_stilts.spec import typed_path

    copy_recipe(name, typed_path(path, "PATH"))
    print(f"wrote {path}; edit it, then: python -m peft_stilts recipe {path}")


def results(*, runs: str = "runs") -> None:
    """Show the table of gains again.

    Args:
        runs: one or more folders of results with commas between; several are joined.
    """
    from peft_stilts.spec import existing_folder, names

    with Problems() as found:
        folders = []
        for text in names(runs, "runs"):
            with found.collect():
                folders.append(existing_folder(text, "runs"))
    from rich.console import Console

    from peft_stilts import results as tables
    from peft_stilts.analysis import table

    table.show(tables.read(folders), Console(highlight=False))


def evaluate(source: str, *, targets: str, data_root: Text = None, languages: Text = None, out: str = "evaluation",
             limit_eval: Text = None, layer: Text = None, precision: str = "auto") -> None:
    """Score a finished run, an encoder folder or an adapter folder; nothing is trained.

    Args:
        source: a --runs folder, one of its stages/KEY folders, an XLM-R folder, or a PEFT adapter folder. The last two
            have no head and serve targets that need none.
        targets: target tasks with commas between.
        data_root: folder laid out like the hub's repositories, read instead of the hub.
        languages: two-letter codes with commas between; all of a target's when not given.
        out: folder for predictions/TARGET/test-LL.json or .tsv and results.csv.
        limit_eval: only the first N rows of each test set, per language.
        layer: index into hidden_states that retrieval pools; needed where the encoder's depth is not 4, 12 or 24.
        precision: auto, fp32, bf16 or fp16.
    """
    from peft_stilts.grid.evaluate import evaluate_source
    from peft_stilts.spec import parse_request, typed_path, writable_folder

    with Problems() as found:
        request = parse_request("none", {
            "targets": targets, "languages": languages, "data_root": data_root, "limit_eval": limit_eval,
            "layer": layer, "precision": precision}, found)
        with found.collect():
            folder = writable_folder(out, "out")
            if (folder / "stages").exists():
                raise UsageError(f"--out {out!r} is a --runs folder, whose results.csv would be lost; choose another")
        with found.collect():
            place = typed_path(source, "SOURCE")
    evaluate_source(place, request, folder)


def doctor(*, runs: str = "runs") -> None:
    """Say what this machine has (device, precisions, hub, disk, versions) and what that means.

    Args:
        runs: the folder whose disk is looked at.
    """
    from peft_stilts.doctor import show
    from peft_stilts.spec import typed_path

    show(typed_path(runs, "--runs"))


def miniature_build(*, out: str = "miniature_weights") -> None:
    """Make the miniature encoder, its MLM head and tokenizer again from nothing (see docs/miniature.md for the time).

    Args:
        out: the new folder to write.
    """
    from peft_stilts.grid.pretrain import build
    from peft_stilts.spec import writable_folder

    build(writable_folder(out, "out").absolute())


def miniature_show() -> None:
    """Show the miniature world: its languages with their parameters, and sentences with glosses."""
    from rich.console import Console

    from peft_stilts.miniature.show import show

    Console(highlight=False).print(show())


MENDABLE = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EPERM, errno.ENOTDIR, errno.EISDIR,
            errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors of a disk, and of files and links that stand where folders belong."""
HELP = ("-h", "--help", "help")
VERBS: dict[str, Callable | dict[str, Callable]] = {
    "recipe": recipe, "recipes": recipes, "copy": copy, "results": results, "evaluate": evaluate, "doctor": doctor,
    "miniature": {"build": miniature_build, "show": miniature_show},
}


def check_arguments(argv: list[str]) -> list[str]:
    """Typed arguments as Fire shall see them: compared with the verb's signature, each value as a text literal.

    Fire itself would run the verb first and complain of an unknown flag afterwards, and read `1e5` or `en,is` as
    Python values. Raises UsageError with every mistake.
    """
    verb, path, words = VERBS, [], list(argv)
    while isinstance(verb, dict):
        if not words or words[0] in HELP:
            if path and not words:
                raise UsageError(f"`{' '.join(path)}` needs one of: {', '.join(verb)}")
            return [*path, "--help"]
        word = words.pop(0)
        if word not in verb:
            raise UsageError(unknown("command" if not path else f"{path[-1]} command", word, verb))
        verb, path = verb[word], [*path, word]
    if any(word in HELP for word in words):
        return [*path, "--help"]
    places, flags = [], {}
    for item in inspect.signature(verb).parameters.values():
        if item.kind is item.KEYWORD_ONLY:
            flags[item.name] = item
        else:
            places.append(item.name)
    given, typed = _split(words, flags)
    command, seen = " ".join(path), [name for name, _ in typed]
    with Problems() as found:
        for name, value in typed:
            if name not in flags:
                found.add(unknown(f"flag of `{command}`", f"--{name}", [f"--{flag}" for flag in flags]))
            elif value is None:
                found.add(f"--{name} needs a value; `python -m peft_stilts {command} --help` says which")
            if seen.count(name) > 1:
                found.add(f"--{name} is given {seen.count(name)} times")
        for name in places[len(given):]:
            found.add(f"`{command}` needs {name.upper()}; see `python -m peft_stilts {command} --help`")
        for extra in given[len(places):]:
            found.add(f"{extra!r} is one argument too many for `{command}`; names go with commas between")
        for name, item in flags.items():
            if item.default is item.empty and name not in seen:
                found.add(f"`{command}` needs --{name}; see `python -m peft_stilts {command} --help`")
    return [*path, *map(repr, given), *(f"--{name}={value!r}" for name, value in typed)]


def _split(words: list[str], flags: dict[str, inspect.Parameter]) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Positional words, and (flag, value) pairs; the value is None where one is missing."""
    given, typed, rest = [], [], list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            given.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        meant = [flag for flag in flags if flag[0] == name]     # Fire's single letters, where only one flag has it
        name = meant[0] if len(meant) == 1 else name
        if equals:
            typed.append((name, value))
        elif name in flags and flags[name].default is False:
            typed.append((name, "True"))
        elif not rest or rest[0].startswith("--"):
            typed.append((name, None))
        else:
            typed.append((name, rest.pop(0)))
    return given, typed


def main(argv: list[str] | None = None) -> None:
    """Run one command; a mistake is printed without a traceback and ends with exit code 1 or 2."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):     # a terminal of ASCII, or a name of other bytes, must not end a run
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if sys.flags.optimize > 1:
        sys.exit(_fail("error: PYTHONOPTIMIZE=2 (-OO) takes away docstrings that transformers needs; use 1 or none", 2))
    os.environ.setdefault("PAGER", "cat")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")     # threads that spin halve the speed of a shared machine
    try:
        command = check_arguments(argv)
        import fire

        fire.Fire(VERBS, command=command, name="peft_stilts")
    except UsageError as error:
        count = len(error.problems)
        lead = "error: " if count == 1 else f"{count} mistakes, nothing was started:\n  - "
        sys.exit(_fail(lead + "\n  - ".join(error.problems), error.exit_code))
    except StiltsError as error:
        sys.exit(_fail(f"error: {error}", error.exit_code))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted; nothing is lost: the same command goes on from here", 130))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        sys.exit(_fail(f"error: {_told(error)}", 1))
    except (MemoryError, RuntimeError) as error:
        from peft_stilts.train.optim import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        why = " ".join(str(error).split("\n")[0].split())[:200]
        sys.exit(_fail(f"error: memory ran out outside training ({why or type(error).__name__}). Finished stages are "
                       "kept; end other programs, or choose a smaller tokens_per_pack or max_length in the recipe, "
                       "or a smaller --scale, and give the same command", 1))


def _told(error: OSError) -> str:
    """One line for an error of the operating system: what, where, and what to do."""
    if error.errno not in MENDABLE:     # of the network, or of a library that calls its errors so
        return (f"{type(error).__name__}: {' '.join(str(error).split())}. Finished stages are kept; mend this and give "
                "the same command")
    where = "the folder of results"
    if isinstance(error.filename, str) and Path(error.filename).parent.is_dir():
        where = f"{error.filename} ({shutil.disk_usage(Path(error.filename).parent).free / 2**30:.1f} GiB free)"
    return (f"{os.strerror(error.errno)}: {where}. Finished stages are kept; mend this, or choose another --runs, and "
            "give the same command")


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code
