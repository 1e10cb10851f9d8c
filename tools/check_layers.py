"""Check that the code keeps to its layers and lengths, and write docs/map.md and the layer table of docs/design.md.

`python tools/check_layers.py` fails (exit status 1) on an import from a higher layer, a circular import, a module that
has no layer, a file or function that is too long, a module without a docstring, and documents that are out of date.
`python tools/check_layers.py --write` writes those documents first.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "peft_stilts"
FILE_LINES, FUNCTION_LINES = 400, 60
LONGER_FUNCTIONS = {"peft_stilts/train/loop.py": 100}
"""Files whose functions may have more lines."""

# The one place where the order is written: (layer, modules or folders in their order, duty). A module imports only from
# a lower layer, from what stands before it in its own layer, or from its own folder; never in a circle.
LAYERS: list[tuple[int, tuple[str, ...], str]] = [
    (0, ("errors", "version", "digest", "registry", "languages"),
     "error family; version; canonical JSON → key; named tables with did-you-mean; the language table"),
    (1, ("machine", "paths", "store", "spec", "recipe", "results", "progress"),
     "what this machine can do; the artefact store; frozen, typed values for recipe and run, unknown keys refused; "
     "the results table; progress of long work"),
    (2, ("tasks",), "what is learned and measured: the `Task` value, the tasks, their sources and their metrics"),
    (2, ("miniature",), "the built-in miniature world, with the very columns of the real data sets"),
    (3, ("data",), "tokenise, align, window; padding-free packs"),
    (3, ("kernels",), "one file per op, beside its plain reference"),
    (4, ("model",), "encoder on packs, heads, ordered adapters, 4-bit base, bundles; strict loading and saving"),
    (5, ("train",), "*the* loop, on one screen; optimizer; checkpoints"),
    (5, ("evaluate",), "predictions, retrieval, scores"),
    (6, ("analysis",), "what the results table says: gains, similarity of languages, adapters against full, reports"),
    (7, ("grid",), "recipe → stages, what is cached, what it will cost; running them on this machine"),
    (7, ("share",), "bundles of adapters: export, hub, card, loading and merging"),
    (7, ("doctor",), "what this machine has, and what that means"),
    (8, ("__init__", "verbs_share", "verbs", "cli", "__main__"), "`peft_stilts.load`; the command line: "
     "verbs of a few lines, heavy imports inside the verb"),
]


@dataclass(frozen=True)
class Module:
    """One Python file: its path below the root, dotted name, first docstring line and the modules it imports."""

    path: str
    name: str
    sentence: str
    imports: dict[str, int]        # dotted name -> line


def modules(root: Path) -> dict[str, Module]:
    """Every module of the package by its dotted name; imports inside functions count like all others."""
    files = sorted((root / PACKAGE).rglob("*.py"))
    names = {_dotted(root, file) for file in files}
    found = {}
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
        sentence = (ast.get_docstring(tree) or "").partition("\n")[0]
        name = _dotted(root, file)
        found[name] = Module(file.relative_to(root).as_posix(), name, sentence, dict(_imports(tree, file, root, names)))
    return found


def _dotted(root: Path, file: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.AST, file: Path, root: Path, names: set[str]) -> Iterator[tuple[str, int]]:
    """(dotted name of a module of the package, line) of every import of it in a file."""
    folder = list(file.relative_to(root).parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE:
                    yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = folder[:len(folder) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module.split(".")[0] == PACKAGE:
                for alias in node.names:        # `from package import module` imports the module
                    inner = f"{module}.{alias.name}"
                    yield (inner if inner in names else module), node.lineno


def unit(name: str) -> str:
    """The layer table's entry of a dotted name: 'peft_stilts.tasks.base' -> 'tasks'."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def check_imports(found: dict[str, Module]) -> list[str]:
    """Problems: modules without a layer, imports of what is not there, upward imports, circles."""
    entries = [(layer, name) for layer, names, _ in LAYERS for name in names]
    place = {name: (layer, index) for index, (layer, name) in enumerate(entries)}
    problems = [f"{module.path}: {unit(module.name)!r} has no layer: add it to LAYERS in tools/check_layers.py"
                for module in found.values() if unit(module.name) not in place]
    for module in found.values():
        here = place.get(unit(module.name))
        for target, line in module.imports.items():
            there = place.get(unit(target))
            if target not in found:
                problems.append(f"{module.path}:{line}: imports {target}, which does not exist")
            elif here and there and there[1] > here[1]:
                problems.append(f"{module.path}:{line}: layer {here[0]} ({unit(module.name)}) imports {target} of "
                                f"layer {there[0]} ({unit(target)}), which stands above it")
    return problems + [f"circular import: {' -> '.join(circle)}" for circle in circles(found)]


def circles(found: dict[str, Module]) -> list[list[str]]:
    """Every module that can reach itself, as one shortest circle of names each; a circle is told once."""
    told: list[list[str]] = []
    for start in found:
        before: dict[str, str] = {}
        queue = [start]
        while queue and start not in before:
            name = queue.pop(0)
            for target in found[name].imports:
                if target in found and target not in before:
                    before[target] = name
                    queue.append(target)
        if start in before:
            circle = [start]
            while (previous := before[circle[-1]]) != start:
                circle.append(previous)
            circle = [start, *reversed(circle[1:]), start]
            if not any(set(circle) == set(other) for other in told):
                told.append(circle)
    return told


def check_lengths(root: Path) -> list[str]:
    """Problems: files and functions that are too long (package, tools and tests)."""
    problems = []
    for file in sorted(path for folder in (PACKAGE, "tools", "tests") for path in (root / folder).rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        path = file.relative_to(root).as_posix()
        if (lines := text.count("\n")) > FILE_LINES:
            problems.append(f"{path}: {lines} lines, more than {FILE_LINES}")
        limit = LONGER_FUNCTIONS.get(path, FUNCTION_LINES)
        for node in ast.walk(ast.parse(text, path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno + 1
                if lines > limit:
                    problems.append(f"{path}:{node.lineno}: function {node.name} has {lines} lines, more than {limit}")
    return problems


def check_sentences(root: Path, found: dict[str, Module]) -> list[str]:
    """Problems: modules and tools whose docstring does not begin with one sentence on its first line."""
    told = {module.path: module.sentence for module in found.values()} | _tools(root)
    return [f"{path}: begin the docstring with one plain sentence on its first line"
            for path, sentence in told.items() if not sentence.strip().endswith(".")]


def _tools(root: Path) -> dict[str, str]:
    return {file.relative_to(root).as_posix():
            (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
            for file in sorted((root / "tools").glob("*.py"))}


def layer_table() -> str:
    """The table of docs/design.md."""
    lines = [f"| {layer} | {' '.join(f'`{name}`' for name in names if name != '__init__')} | {duty} |"
             for layer, names, duty in LAYERS]
    return "\n".join([f"| layer | place in `{PACKAGE}/` | duty |", "|---|---|---|", *lines]) + "\n"


def module_map(root: Path, found: dict[str, Module]) -> str:
    """The text of docs/map.md: every module and tool with the first line of its docstring, lowest layer first."""
    lines = ["# Map of the code", "",
             "Written by `python tools/check_layers.py --write` from the first docstring line of each module; "
             "the layers are explained in [design.md](design.md).", ""]
    for layer in sorted({layer for layer, _, _ in LAYERS}):
        names = [name for number, entries, _ in LAYERS if number == layer for name in entries]
        inside = sorted((m for m in found.values() if unit(m.name) in names),
                        key=lambda m: (names.index(unit(m.name)), m.path))
        if inside:
            lines += [f"## Layer {layer}", "", "| module | what it is |", "|---|---|"]
            lines += [f"| [`{m.path}`](../{m.path}) | {m.sentence} |" for m in inside] + [""]
    lines += ["## Tools", "", "| tool | what it is |", "|---|---|"]
    lines += [f"| [`{path}`](../{path}) | {sentence} |" for path, sentence in _tools(root).items()]
    return "\n".join(lines) + "\n"


BEGIN, END = "<!-- layers: written by tools/check_layers.py -->\n", "<!-- end of layers -->"


def documents(root: Path, found: dict[str, Module]) -> dict[Path, str]:
    """What docs/map.md and docs/design.md must hold now; the latter is left alone but for its layer table."""
    wanted = {root / "docs/map.md": module_map(root, found)}
    design = root / "docs/design.md"
    if design.is_file():
        before, begin, rest = design.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if begin and end:
            wanted[design] = before + begin + "\n" + layer_table() + "\n" + end + after
    return wanted


def check(root: Path, write: bool = False) -> list[str]:
    """Every problem of the tree at `root`; with `write` the documents are brought up to date first."""
    found = modules(root)
    problems = check_imports(found) + check_lengths(root) + check_sentences(root, found)
    for path, text in documents(root, found).items():
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            problems.append(f"{path.relative_to(root)} is out of date: run `python tools/check_layers.py --write`")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write docs/map.md and the table of docs/design.md")
    root = Path(__file__).resolve().parents[1]
    problems = check(root, parser.parse_args().write)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(modules(root))} modules, {len(problems)} problems")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
