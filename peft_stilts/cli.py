"""The command line: every argument is checked against its verb before any work, every error is one message."""

from __future__ import annotations

import errno
import inspect
import os
import shutil
import sys
from pathlib import Path

from peft_stilts.errors import Problems, StiltsError, UsageError
from peft_stilts.registry import unknown
from peft_stilts.verbs import VERBS

MENDABLE = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EPERM, errno.ENOTDIR, errno.EISDIR,
            errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors of a disk, and of files and links that stand where folders belong."""
HELP = ("-h", "--help", "help")


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
