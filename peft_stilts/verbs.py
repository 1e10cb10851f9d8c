"""The verbs of the command line: one short function each, every flag taken as typed, heavy imports inside."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from peft_stilts.errors import Problems, UsageError
from peft_stilts.verbs_share import SHARE, Text

if TYPE_CHECKING:
    from peft_stilts.grid.stages import Plan

BANNER = """No CUDA device here, so this is the miniature world: ten invented languages and an encoder of a million
parameters; everything runs in minutes and nothing is downloaded. Its scores are never XLM-R's. For the real thing:
    python -m peft_stilts recipe {name} --scale large      (a machine with a CUDA device chooses it by itself)
"""


def recipe(name: str, *, scale: str = "auto", method: str = "full", policy: Text = None, stack: Text = None,
           targets: Text = None, languages: Text = None, seeds: Text = None, protocol: Text = None,
           precision: str = "auto", kernels: str = "auto", data_root: Text = None, runs: str = "runs",
           limit_train: Text = None, limit_eval: Text = None, layers: Text = None, centre: bool = False,
           mlm_ratio: Text = None, mlm_text: Text = None, mlm_languages: Text = None, mlm_temperature: Text = None,
           translated: Text = None, translated_languages: Text = None, tasks: Text = None, plan_only: bool = False,
           keep: bool = False) -> None:
    """Train and score a recipe and its baseline, and show the gains. The same command resumes an interrupted run.

    Args:
        name: an intermediate setting (squad, all, none; see `recipes`), a YAML file, or several with commas between.
        scale: auto, mini, base, large, or the id or folder of an XLM-R encoder. auto: large on CUDA, else mini.
        method: full, lora, rslora, dora, qlora, or several with commas between: which weights are trained, and how.
        policy: stack, continue or merge, or several: a new adapter over the frozen ones before it (stack, when not
            given), the same adapter trained on, or a new one after those before were folded into the base.
        stack: what is trained or taken first, lowest first, with commas between: recipes (squad,mnli), the key or
            folder of a stage, an adapter folder, a bundle, or the hub id of one (user/name).
        targets: target tasks with commas between; the recipe's own when not given.
        languages: two-letter codes with commas between; all of a target's when not given.
        seeds: whole numbers with commas between; 1,2,3 when not given, and 1 in the miniature world.
        protocol: jiant (the authors' replication) or xtreme (its scripts); the recipe's own when not given.
        precision: auto, fp32, bf16 or fp16. auto: bf16 where the hardware has it, fp16 on older CUDA, else fp32.
        kernels: auto, triton (CUDA), compile (CPU) or eager: what computes XLM-R; the mathematics is the same. auto:
            the fastest that works here, and eager in the miniature world.
        data_root: folder laid out like the hub's repositories, read instead of the hub (see tools/mirror.py).
        runs: folder of results and finished stages.
        limit_train: only the first N training rows.
        limit_eval: only the first N rows of each test set, per language (pools of mining stay whole).
        layers: indices into hidden_states that retrieval pools, with commas between, or all: a score and a curve.
        centre: retrieval takes each language's mean vector away first.
        mlm_ratio: share of the intermediate training's steps that predict masked words of many languages.
        mlm_text: folder of LL.txt, one example a line, for those; the hub's Wikipedia when not given.
        mlm_languages: codes with commas between; all there are when not given.
        mlm_temperature: languages are drawn in proportion to lines^(1/T); 3.33 when not given (XLM-R's 0.3).
        translated: folder of machine-translated training data of the intermediate task, as XTREME publishes it.
        translated_languages: codes with commas between, en for the original; en and all there are when not given.
        tasks: your own tasks, a Python file (see docs/own_tasks.md).
        plan_only: show the stages, what is cached and what they would cost, and stop.
        keep: keep the target models after scoring (they are removed to bound disk use).
    """
    from peft_stilts.grid.plan import make_plan
    from peft_stilts.spec import parse_request

    _own_tasks(tasks)
    with Problems() as found:
        request = parse_request(name, {
            "scale": scale, "methods": method, "policies": policy, "stack": stack, "targets": targets,
            "languages": languages, "seeds": seeds, "protocol": protocol, "precision": precision,
            "kernels": kernels, "data_root": data_root, "runs": runs, "limit_train": limit_train,
            "limit_eval": limit_eval, "layers": layers, "centre": str(centre), "mlm_ratio": mlm_ratio,
            "mlm_text": mlm_text, "mlm_languages": mlm_languages, "mlm_temperature": mlm_temperature,
            "translated": translated, "translated_languages": translated_languages, "plan_only": str(plan_only),
            "keep": str(keep)}, found)
        plan = make_plan(request, found)
    _carry_out(plan, name)


def _carry_out(plan: Plan, name: str) -> None:
    """Show the plan, or make everything in it and show the gains."""
    from peft_stilts.grid.run import Incomplete, run
    from peft_stilts.grid.show import begin, finish, show_plan

    if plan.base.miniature and plan.request.scale == "auto":
        print(BANNER.format(name=name))
    if plan.request.plan_only:
        return show_plan(plan)
    begin(plan)
    try:
        run(plan)
    except Incomplete:          # what was made is shown all the same
        finish(plan)
        raise
    finish(plan)


def _own_tasks(text: Text) -> None:
    """Load the file named by --tasks, if one is."""
    if text is not None:
        from peft_stilts.paths import typed_path
        from peft_stilts.tasks.user import load_tasks

        load_tasks(typed_path(text, "--tasks"))


def recipes() -> None:
    """List the recipes, one line each."""
    from peft_stilts.recipe import read_recipe, recipe_names

    for name in recipe_names():
        found = read_recipe(name)
        first = f"{found.intermediate} first, then " if found.intermediate != "none" else "no intermediate task: "
        print(f"{name:<14}{first}{', '.join(found.targets)} ({found.protocol} protocol)")


def copy(name: str, path: str) -> None:
    """Write a recipe with all its settings to a file, to edit and run.

    Args:
        name: the recipe to copy (see `recipes`).
        path: the new file, ending in .yaml; an existing one is not overwritten.
    """
    from peft_stilts.paths import typed_path
    from peft_stilts.recipe import copy_recipe

    copy_recipe(name, typed_path(path, "PATH"))
    print(f"wrote {path}; edit it, then: python -m peft_stilts recipe {path}")


def results(*, runs: str = "runs") -> None:
    """Show the table of gains again.

    Args:
        runs: one or more folders of results with commas between; several are joined.
    """
    from peft_stilts.paths import existing_folder
    from peft_stilts.spec import names

    with Problems() as found:
        folders = []
        for text in names(runs, "runs"):
            with found.collect():
                folders.append(existing_folder(text, "runs"))
    from rich.console import Console

    from peft_stilts import results as tables
    from peft_stilts.analysis import table

    table.show(tables.read(folders), Console(highlight=False))


def evaluate(source: str, *, targets: str, scale: str = "auto", data_root: Text = None, languages: Text = None,
             out: str = "evaluation", limit_eval: Text = None, layers: Text = None, centre: bool = False,
             tasks: Text = None, precision: str = "auto", kernels: str = "auto") -> None:
    """Score a finished run, an encoder, an adapter or a bundle; nothing is trained.

    Args:
        source: a --runs folder, one of its stages/KEY folders, the folder or hub id of a bundle (user/name), an XLM-R
            folder or id, or an adapter folder. The last two have no head and serve targets that need none.
        targets: target tasks with commas between.
        scale: the folder or id of the encoder under adapters, where it is not where they name it.
        data_root: folder laid out like the hub's repositories, read instead of the hub.
        languages: two-letter codes with commas between; all of a target's when not given.
        out: folder for predictions/TARGET/test-LL.json or .tsv and results.csv.
        limit_eval: only the first N rows of each test set, per language (pools of mining stay whole).
        layers: indices into hidden_states that retrieval pools, with commas between, or all: a score and a curve.
        centre: retrieval takes each language's mean vector away first.
        tasks: your own tasks, a Python file (see docs/own_tasks.md).
        precision: auto, fp32, bf16 or fp16.
        kernels: auto, triton, compile or eager (see `recipe`).
    """
    from peft_stilts.grid.evaluate import evaluate_source
    from peft_stilts.paths import typed_path, writable_folder
    from peft_stilts.spec import parse_request

    _own_tasks(tasks)
    with Problems() as found:
        request = parse_request("none", {
            "scale": scale, "targets": targets, "languages": languages, "data_root": data_root,
            "limit_eval": limit_eval, "layers": layers, "centre": str(centre), "precision": precision,
            "kernels": kernels}, found)
        with found.collect():
            folder = writable_folder(out, "out")
            if (folder / "stages").exists():
                raise UsageError(f"--out {out!r} is a --runs folder, whose results.csv would be lost; choose another")
        with found.collect():
            typed_path(source, "SOURCE")
    evaluate_source(source, request, folder)


def download(name: str, *, data_root: str, targets: Text = None, languages: Text = None, protocol: Text = None,
             mlm_languages: Text = None, tasks: Text = None) -> None:
    """Fetch everything that a recipe reads from the hub into a folder, for machines without a network.

    What is there already is left alone; an interrupted download goes on where it stopped.

    Args:
        name: a recipe (see `recipes`), a YAML file, or several with commas between.
        data_root: the folder to fill; give it to `recipe --data_root` later.
        targets: target tasks with commas between; the recipe's own when not given.
        languages: two-letter codes with commas between; all of a target's when not given.
        protocol: jiant or xtreme; the recipe's own when not given.
        mlm_languages: codes whose Wikipedia text is fetched too, for `recipe --mlm_ratio`.
        tasks: your own tasks, a Python file (see docs/own_tasks.md).
    """
    from peft_stilts.grid.download import download as fetch
    from peft_stilts.grid.download import recipe_splits
    from peft_stilts.paths import writable_folder
    from peft_stilts.spec import parse_request

    _own_tasks(tasks)
    with Problems() as found:
        request = parse_request(name, {"targets": targets, "languages": languages, "protocol": protocol}, found)
        with found.collect():
            folder = writable_folder(data_root, "data_root")
        with found.collect():
            splits = recipe_splits(request, _codes(mlm_languages))
    fetch(splits, folder)


def merge(source: str, *, out: str, task: Text = None, scale: Text = None) -> None:
    """Fold a stack of adapters into its base and write a plain transformers checkpoint; says how far logits change.

    Args:
        source: a bundle (folder or user/name), a stages/KEY folder or an adapter folder.
        out: the new folder.
        task: whose head is written with it, where there are several.
        scale: the folder or id of the encoder under the adapters, where it is not where they name it.
    """
    from peft_stilts.paths import typed_path, writable_folder
    from peft_stilts.share.merge import merge as fold

    with Problems() as found:
        with found.collect():
            typed_path(source, "SOURCE")
        with found.collect():
            folder = writable_folder(out, "out")
    fold(source, folder, task, scale)


def _codes(text: Text) -> tuple[str, ...]:
    from peft_stilts.spec import names

    return () if text is None else names(text, "mlm_languages")


def score(*, predictions: str, labels: str, output: Text = None) -> None:
    """Score prediction files in XTREME's folder format and print the numbers of its own scorer, as JSON.

    Args:
        predictions: folder with TASK/test-LL.tsv or .json for each task and language.
        labels: folder with the gold files, laid out alike.
        output: also write the scores to this JSON file.
    """
    import json

    from peft_stilts.evaluate.submission import score_folders
    from peft_stilts.paths import existing_folder, typed_path
    from peft_stilts.store import write_atomic

    with Problems() as found:
        folders = []
        for name, text in (("predictions", predictions), ("labels", labels)):
            with found.collect():
                folders.append(existing_folder(text, name))
        with found.collect():
            path = typed_path(output, "--output") if output is not None else None
            if path is not None and path.is_dir():
                raise UsageError(f"--output {output!r} is a folder; it must be a file")
    scores = json.dumps(score_folders(*folders, say=lambda told: print(told, file=sys.stderr)), indent=2) + "\n"
    if path is not None:
        write_atomic(path, scores)
    print(scores, end="")


def submission(*, runs: str, out: str, method: Text = None, intermediate: Text = None, seed: Text = None,
               stage: Text = None) -> None:
    """Write XTREME's submission folder from the predictions of a finished run: one file a task and language.

    Args:
        runs: a --runs folder, or the --out folder of `evaluate`.
        out: the new folder for TASK/test-LL.tsv and .json.
        method: full or lora; needed where both scored a target.
        intermediate: none, a task, all ...; needed where several scored a target.
        seed: needed where several scored a target.
        stage: keys of evaluations with commas between, where the labels above do not tell two of a target apart.
    """
    from peft_stilts.grid.submit import submit
    from peft_stilts.paths import existing_folder, writable_folder

    with Problems() as found:
        with found.collect():
            source = existing_folder(runs, "runs")
        with found.collect():
            folder = writable_folder(out, "out")
    missing = submit(source, folder, {"method": method, "intermediate": intermediate, "seed": seed, "stage": stage})
    for task, codes in missing.items():
        print(f"{task}: no predictions in {', '.join(codes)}")
    print(f"wrote {folder}" + (", which is not complete: XTREME's scorer asks for every language of a task" if missing
                               else ", complete"))


def doctor(*, runs: str = "runs") -> None:
    """Say what this machine has (device, precisions, hub, disk, versions) and what that means.

    Args:
        runs: the folder whose disk is looked at.
    """
    from peft_stilts.doctor import show
    from peft_stilts.paths import typed_path

    show(typed_path(runs, "--runs"))


def miniature_build(*, out: str = "miniature_weights") -> None:
    """Make the miniature encoder, its MLM head and tokenizer again from nothing (see docs/miniature.md for the time).

    Args:
        out: the new folder to write.
    """
    from peft_stilts.grid.pretrain import build
    from peft_stilts.paths import writable_folder

    build(writable_folder(out, "out").absolute())


def miniature_text(*, out: str, languages: Text = None, lines: str = "2000") -> None:
    """Write text of the miniature languages as LL.txt, one example a line, for `recipe --mlm_text`.

    Args:
        out: the folder to write.
        languages: codes with commas between; all ten when not given.
        lines: examples in each file.
    """
    from peft_stilts.miniature.translated import write_text
    from peft_stilts.spec import whole

    folder, codes = _miniature_request(out, languages, everything=True)
    for path in write_text(folder, codes, whole(lines, "lines")):
        print(path)


def miniature_translate(*, out: str, languages: Text = None) -> None:
    """Write the miniature world's training data in other languages, translated exactly, for `recipe --translated`.

    Args:
        out: the folder to write.
        languages: codes with commas between; the nine but English when not given.
    """
    from peft_stilts.miniature.translated import write_translated

    folder, codes = _miniature_request(out, languages, everything=False)
    for path in write_translated(folder, codes):
        print(path)


def _miniature_request(out: str, languages: Text, everything: bool) -> tuple[Path, tuple[str, ...]]:
    """The folder and the codes of a `miniature` command that writes files; `everything`: English too."""
    from peft_stilts.miniature.world import TONGUES
    from peft_stilts.paths import writable_folder
    from peft_stilts.spec import choices, names

    known = tuple(code for code in TONGUES if everything or code != "en")
    with Problems() as found:
        with found.collect():
            folder = writable_folder(out, "out")
        with found.collect():
            codes = known if languages is None else choices(names(languages, "languages"), known, "language", found)
    return folder, codes


def miniature_show() -> None:
    """Show the miniature world: its languages with their parameters, and sentences with glosses."""
    from rich.console import Console

    from peft_stilts.miniature.show import show

    Console(highlight=False).print(show())


VERBS: dict[str, Callable | dict[str, Callable]] = {
    "recipe": recipe, "recipes": recipes, "copy": copy, "results": results, "evaluate": evaluate, "score": score,
    "submission": submission, "download": download, "share": SHARE, "merge": merge, "doctor": doctor,
    "miniature": {"build": miniature_build, "show": miniature_show, "text": miniature_text,
                  "translate": miniature_translate},
}
