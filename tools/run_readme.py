"""Run the shell blocks of README.md and docs/*.md as written, so that no command in them can go stale.

Blocks fenced ```bash are run; blocks fenced ```bash long (long, or in need of a network or a GPU) are only checked:
every `python -m peft_stilts …`, `python tools/….py …` and `make …` in them must have flags and targets that exist.
`python tools/run_readme.py` does that; `--long` runs the long blocks, and logs command, time and output to `--log`.

The blocks of one document run in order in one new folder that shows the clone's files (as links), so that what they
write does not land in the clone. Each block is a bash of its own (`set -euo pipefail`); `python` is this interpreter.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HIDDEN = {".git", ".venv", "runs", "build", "dist"}
"""What a document's folder does not show of the clone."""
SECONDS = 900
"""A block that is not long may take this much time."""


@dataclass(frozen=True)
class Block:
    """The text of one shell block, where its first line is, and whether it is fenced `long`."""

    file: Path
    line: int
    text: str
    long: bool

    def __str__(self) -> str:
        return f"{self.file.name}:{self.line}\n" + "".join(f"    {line}\n" for line in self.text.splitlines())


def documents(root: Path) -> list[Path]:
    """README.md and docs/*.md, those that exist."""
    return [path for path in [root / "README.md", *sorted((root / "docs").glob("*.md"))] if path.is_file()]


def blocks(file: Path) -> list[Block]:
    """The ```bash blocks of a document in order. Raises ValueError for a fence of another shell or an unclosed one."""
    found: list[Block] = []
    fence, info, start, body = "", "", 0, []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        opened = re.match(r"\s*(`{3,}|~{3,})\s*([^`]*)$", line)
        if fence:
            if opened and opened[1].startswith(fence) and not opened[2].strip():
                words = info.split()
                if words[:1] == ["bash"]:
                    if words[1:] not in ([], ["long"]):
                        raise ValueError(f"{file.name}:{start}: write ```bash or ```bash long, not ```{info}")
                    found.append(Block(file, start + 1, "\n".join(body), "long" in words))
                fence = ""
            else:
                body.append(line)
        elif opened:
            fence, info, start, body = opened[1], opened[2].strip(), number, []
            if info.split()[:1] in (["sh"], ["shell"], ["console"], ["zsh"]):
                raise ValueError(f"{file.name}:{number}: shell blocks are fenced ```bash, so that they are run")
    if fence:
        raise ValueError(f"{file.name}:{start}: this block is not closed")
    return found


def commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a block as words, without comments, variables set in front, and redirections."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;()"):
                while words and re.fullmatch(r"\w+=.*", words[0], re.DOTALL):
                    words.pop(0)
                if words:
                    yield words[:next((i for i, w in enumerate(words) if set(w) <= set("<>")), len(words))]
                words = []
            else:
                words.append(word)


def check(block: Block, root: Path) -> list[str]:
    """What is wrong in a block that is not run: its syntax, and the flags and targets of the commands known here."""
    syntax = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
    if syntax.returncode:
        return [f"{block}{syntax.stderr}"]
    problems = []
    for words in commands(block.text):
        problem = ""
        name = Path(words[0]).name
        if name in ("python", "python3") and words[1:3] == ["-m", "peft_stilts"]:
            problem = _check_program(words[3:])
        elif name == "peft_stilts":
            problem = _check_program(words[1:])
        elif name in ("python", "python3") and words[1:] and words[1].endswith(".py"):
            problem = _check_tool(root, words[1], words[2:])
        elif name == "make":
            done = subprocess.run([*words, "--dry-run"], cwd=root, capture_output=True, text=True)
            problem = done.stderr if done.returncode else ""
        if problem:
            problems.append(f"{block}`{shlex.join(words)}`: {problem}")
    return problems


def _check_program(argv: list[str]) -> str:
    from peft_stilts.cli import check_arguments
    from peft_stilts.errors import UsageError

    try:
        check_arguments(argv)
    except UsageError as error:
        return str(error)
    return ""


def _check_tool(root: Path, tool: str, argv: list[str]) -> str:
    """Every --flag must stand in the help of the tool, and of its part that a first word names."""
    part = argv[:1] if argv and not argv[0].startswith("-") else []
    done = subprocess.run([sys.executable, str(root / tool), *part, "--help"], cwd=root, capture_output=True, text=True,
                          env=_environment(root))
    if done.returncode:
        return f"`{tool} --help` failed: {done.stderr}"
    known = set(re.findall(r"--[\w-]+", done.stdout))
    flags = [word.partition("=")[0] for word in argv if word.startswith("--")]
    unknown = [flag for flag in flags if flag not in known]
    return f"unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}" if unknown else ""


def view(root: Path, folder: Path) -> None:
    """Fill a new folder with links to everything in the clone but HIDDEN."""
    for path in root.iterdir():
        if path.name not in HIDDEN:
            (folder / path.name).symlink_to(path, target_is_directory=path.is_dir())


def _environment(root: Path) -> dict[str, str]:
    """This environment, with `python` this interpreter and the package importable."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join(
        filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))}


def run(block: Block, folder: Path, root: Path, seconds: float | None, log: Path | None = None) -> str:
    """Run a block in `folder`; '' or what went wrong. With `log`, append command, time and output to it."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(["bash", "-euo", "pipefail", "-c", block.text], cwd=folder, env=_environment(root),
                                   stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                   start_new_session=True)
        try:
            code: int | str = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)          # the block and what it started
            process.wait()
            code = f"none: it took more than {seconds:.0f} s"
        output.seek(0)
        text = output.read()
    if log is not None:
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{'=' * 100}\n{block}[{time.monotonic() - start:.1f} s, exit status {code}]\n{text}\n")
    return "" if code == 0 else f"{block}exit status {code}\n{text[-6000:]}"


def run_document(file: Path, root: Path, long: bool = False, log: Path | None = None) -> list[str]:
    """Run or check every block of a document; the problems. A block that fails ends the document's run."""
    with tempfile.TemporaryDirectory(prefix="readme ") as name:
        folder = Path(name)
        view(root, folder)
        for block in blocks(file):
            if block.long and not long:
                if problems := check(block, root):
                    return problems
            elif problem := run(block, folder, root, None if long else SECONDS, log):
                return [problem]
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="documents (default: README.md and docs/*.md)")
    parser.add_argument("--long", action="store_true", help="also run the blocks fenced `bash long`")
    parser.add_argument("--log", type=Path, help="write commands, times and output here (default with --long: "
                                                 "readme_long.log)")
    arguments = parser.parse_args()
    log = arguments.log or (Path("readme_long.log") if arguments.long else None)
    if log is not None:
        log.write_text("", encoding="utf-8")
        log = log.absolute()
    failed = False
    for file in arguments.files or documents(ROOT):
        start = time.monotonic()
        problems = run_document(file, ROOT, arguments.long, log)
        failed |= bool(problems)
        print("\n".join([f"{file}: {'FAILED' if problems else 'ok'}, {time.monotonic() - start:.0f} s", *problems]),
              flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
