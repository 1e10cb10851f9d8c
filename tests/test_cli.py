"""The command line as typed by a person: help, mistakes, and every verb, in a folder whose name has spaces."""

import errno
import inspect
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from peft_stilts import cli
from peft_stilts.grid.base import miniature_folder

GROUPS = {(): cli.VERBS} | {(word,): verb for word, verb in cli.VERBS.items() if isinstance(verb, dict)}
LEAVES = [((*path, word), verb) for path, verbs in GROUPS.items() for word, verb in verbs.items() if callable(verb)]


def run(folder, *words, timeout=120):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    return subprocess.run([sys.executable, "-m", "peft_stilts", *words], cwd=folder, env=environment, timeout=timeout,
                          capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a folder of mine").mkdir()
    return tmp_path / "a folder of mine"


@pytest.fixture
def main(monkeypatch, capsys):
    """Runs a command in this process, which has the libraries loaded; returns exit code, output and errors."""

    def call(folder, *words):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(os, "environ", os.environ.copy())
        code = 0
        try:
            cli.main(list(words))
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def mistake(folder):
    """Runs a mistaken command: exit code 2, no traceback, nothing written. Returns what it said."""

    def check(*words):
        before = sorted(folder.rglob("*"))
        done = run(folder, *words)
        assert done.returncode == 2, done.stderr
        assert done.stdout == "" and "Traceback" not in done.stderr and sorted(folder.rglob("*")) == before
        return done.stderr

    return check


@pytest.mark.parametrize("path, verb", LEAVES, ids=[" ".join(path) for path, _ in LEAVES])
def test_help_names_every_flag(folder, path, verb):
    done = run(folder, *path, "--help")
    told = done.stdout + done.stderr
    assert done.returncode == 0 and "Traceback" not in told
    assert inspect.getdoc(verb).splitlines()[0] in told
    assert [name for name in inspect.signature(verb).parameters
            if f"--{name}" not in told and name.upper() not in told] == []


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("miniature", "--help")])
def test_help_of_the_whole_names_every_verb(folder, words):
    done = run(folder, *words)
    verbs = cli.VERBS["miniature"] if "miniature" in words else cli.VERBS
    assert done.returncode == 0 and [verb for verb in verbs if verb not in done.stdout + done.stderr] == []


WITHOUT_WORK = """
import sys
from peft_stilts.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    heavy = [name for name in ("torch", "transformers", "pandas", "datasets", "fire") if name in sys.modules]
    print("ended with", end.code, "after loading", heavy)
"""


@pytest.mark.parametrize("words, told", [
    (("recipe", "squad", "--metod", "lora"), "unknown flag of `recipe` '--metod'. Did you mean '--method'"),
    (("recipe", "squad", "--limit-trian=5"), "'--limit_trian'. Did you mean '--limit_train'"),
    (("recpe", "squad"), "unknown command 'recpe'. Did you mean 'recipe'"),
    (("miniature", "biuld"), "unknown miniature command 'biuld'. Did you mean 'build'"),
    (("miniature",), "`miniature` needs one of: build, show"),
    (("recipe",), "`recipe` needs NAME"),
    (("recipe", "squad", "--runs"), "--runs needs a value"),
    (("recipe", "squad", "--runs", "--keep"), "--runs needs a value"),
    (("recipe", "squad", "none"), "'none' is one argument too many for `recipe`; names go with commas between"),
    (("recipe", "squad", "--keep", "yes"), "'yes' is one argument too many"),
    (("recipe", "squad", "--runs", "a", "--runs=b"), "--runs is given 2 times"),
    (("evaluate", "runs"), "`evaluate` needs --targets"),
    (("copy", "squad"), "`copy` needs PATH"),
    (("recipes", "--verbose"), "unknown flag of `recipes` '--verbose'"),
])
def test_a_mistyped_command_stops_before_anything_is_loaded(folder, words, told):
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", WITHOUT_WORK, *words], cwd=folder, env=environment, timeout=60,
                          capture_output=True, text=True)
    assert told in done.stderr and done.stdout == "ended with 2 after loading []\n"
    assert os.listdir(folder) == []


def test_all_mistyped_flags_are_told_at_once(mistake):
    told = mistake("recipe", "--metod", "lora", "--scael=mini", "--keep", "--keep", "squad", "none")
    assert told.startswith("4 mistakes, nothing was started:\n  - ")
    for part in ("'--metod'", "'--scael'", "--keep is given 2 times", "'none' is one argument too many"):
        assert part in told


def test_all_mistaken_values_are_told_at_once(mistake, folder):
    (folder / "file").write_text("x")
    told = mistake("recipe", "sqaud", "--scale", "no such folder", "--method", "lroa", "--targets", "xqaud",
                   "--languages", "en,xx", "--seeds", "1.5", "--precision", "fp16", "--data_root", "nowhere", "--runs",
                   "file", "--limit_train", "none", "--limit_eval", "0")
    parts = ["'sqaud'. Did you mean 'squad'", "--scale 'no such folder' is no folder", "'lroa'. Did you mean 'lora'",
             "'xqaud'. Did you mean 'xquad'", "unknown language 'xx'", "--seeds is '1.5'", "fp16 needs a CUDA device",
             "--data_root 'nowhere' is no folder", "is a file, not a folder", "--limit_train is 'none'",
             "--limit_eval is 0"]
    assert [part for part in parts if part not in told] == [] and told.startswith(f"{len(parts)} mistakes")


@pytest.mark.parametrize("words, typed", [
    (["--limit_train", "1e5"], {"limit_train": "1e5"}), (["--languages=en,is"], {"languages": "en,is"}),
    (["--runs", "007"], {"runs": "007"}), (["--runs", "1e5"], {"runs": "1e5"}), (["--runs=None"], {"runs": "None"}),
    (["--runs", "it's \"mine\""], {"runs": "it's \"mine\""}), (["--limit-eval", "5"], {"limit_eval": "5"}),
    (["--seeds", "(1,2)"], {"seeds": "(1,2)"}), (["--runs=a=b"], {"runs": "a=b"}),
    (["--runs", "a - b"], {"runs": "a - b"}),
    (["--keep"], {"keep": "True"}), (["--limit_train", "-5"], {"limit_train": "-5"})])
def test_the_verb_hears_every_value_as_the_text_typed(monkeypatch, words, typed):
    heard = {}

    def recipe(name: str, *, scale: str = "auto", runs: str = "runs", seeds=None, languages=None, limit_train=None,
               limit_eval=None, keep: bool = False) -> None:
        heard.update(name=name, runs=runs, seeds=seeds, languages=languages, limit_train=limit_train,
                     limit_eval=limit_eval, keep=keep)

    monkeypatch.setitem(cli.VERBS, "recipe", recipe)
    cli.main(["recipe", "[1e5", *words])
    assert heard["name"] == "[1e5"
    assert {name: str(heard[name]) for name in typed} == typed
    assert all(isinstance(heard[name], str | bool) for name in typed)


def test_recipes_are_listed_one_a_line(folder):
    done = run(folder, "recipes")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and [line.split()[0] for line in lines] == [
        "all", "anli_plus", "ccg", "commonsenseqa", "cosmosqa", "hellaswag", "mnli", "none", "qqp", "squad", "squad_v2"]
    assert "squad first, then xnli, pawsx, udpos, panx, xquad, mlqa, tydiqa, bucc2018, tatoeba" in lines[9]


def test_a_recipe_is_copied_and_never_overwritten(folder):
    done = run(folder, "copy", "squad", "my own.yaml")
    assert done.returncode == 0 and done.stdout.startswith("wrote my own.yaml")
    text = (folder / "my own.yaml").read_text()
    again = run(folder, "copy", "squad", "my own.yaml")
    assert again.returncode == 2 and "exists and is not overwritten" in again.stderr
    assert (folder / "my own.yaml").read_text() == text


def test_miniature_show_prints_the_languages(folder):
    done = run(folder, "miniature", "show")
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert all(code in done.stdout for code in ("en", "qa", "qi"))


def test_miniature_build_does_not_write_over_a_folder(mistake, folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "file").write_text("precious")
    assert "holds something already" in mistake("miniature", "build", "--out", "mine")


def test_results_of_nothing_are_one_line(folder, main):
    (folder / "empty").mkdir()
    code, out, told = main(folder, "results", "--runs", "empty")
    assert (code, out) == (1, "") and told.startswith("error: no results table at ") and len(told.splitlines()) == 1
    code, out, told = main(folder, "results", "--runs", "empty,nowhere,elsewhere")
    assert (code, out) == (2, "") and told.startswith("2 mistakes") and "'elsewhere' is no folder" in told


def test_a_closed_pipe_is_no_error(folder):
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
    done = subprocess.run(f"{shlex.quote(sys.executable)} -m peft_stilts miniature show | head -1", shell=True,
                          cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr and len(done.stdout.splitlines()) == 1


def test_doctor_says_what_this_machine_has(folder):
    done = run(folder, "doctor", "--runs", "my runs")
    assert done.returncode == 0 and "Traceback" not in done.stderr and "torch" in done.stdout
    assert os.listdir(folder) == []


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A small run of the demonstration in a folder with spaces."""
    if not (miniature_folder() / "model.safetensors").is_file():
        pytest.skip("the miniature encoder is not built")
    folder = tmp_path_factory.mktemp("demo") / "a folder of mine"
    folder.mkdir()
    command = ["recipe", "squad", "--limit_train", "64", "--limit_eval", "10", "--targets", "tydiqa", "--scale", "mini",
               "--runs", "my runs"]
    return folder, command, run(folder, *command)


def test_the_demonstration_ends_with_table_picture_and_files(demo):
    folder, _, done = demo
    assert done.returncode == 0, done.stderr
    assert "scale mini (miniature world: not XLM-R)" in done.stdout
    assert "5 stages, 0 of them done before, in my runs" in done.stdout
    assert "tydiqa (F1)" in done.stdout and "gain" in done.stdout
    assert sorted(path.name for path in (folder / "my runs").glob("*.*")) == [
        "gains.png", "results.csv", "results.parquet", "sources.json", "stages.csv", "stages.parquet"]
    frame = pd.read_csv(folder / "my runs" / "results.csv", keep_default_na=False)
    assert set(frame["language"]) == {"en", "qb", "qd", "qf", "qg", "qi"} and frame["scale"].eq("mini").all()
    assert "\r" not in done.stderr, "plain lines where the output is no terminal"


def test_results_show_the_table_again(demo, main):
    folder, _, first = demo
    code, out, _ = main(folder, "results", "--runs", "my runs")
    assert code == 0
    rows = [line for line in first.stdout.splitlines() if line.strip().startswith(("none ", "+squad", "gain"))]
    assert rows and [line for line in rows if line not in out] == []


def test_plan_only_tells_the_stages_and_writes_nothing(demo, folder, main):
    code, told, _ = main(folder, *demo[1][:-1], "new runs", "--plan_only", "--method", "full,lora")
    assert code == 0 and "to do: 10 of 10 stages" in told and os.listdir(folder) == []


def test_a_finished_run_is_scored_again_by_evaluate(demo, main):
    folder, _, _ = demo
    code, out, _ = main(folder, "evaluate", "my runs", "--targets", "tatoeba", "--limit_eval", "5", "--languages", "qa",
                        "--out", "my scores")
    assert code == 0 and "tatoeba: accuracy" in out
    frame = pd.read_csv(folder / "my scores" / "results.csv", keep_default_na=False)
    assert sorted(frame["intermediate"]) == ["none", "squad"] and frame["target"].eq("tatoeba").all()


@pytest.mark.parametrize("error, told", [
    (OSError(errno.EIO, "Input/output error", "a.bin"), "OSError: [Errno 5] Input/output error: 'a.bin'. Finished"),
    (OSError(errno.ENOSPC, "x", 3), "No space left on device: the folder of results. Finished stages are kept"),
    (ConnectionResetError("peer\nwent away"), "ConnectionResetError: peer went away. Finished"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nmore"), "memory ran out outside training (CUDA out of"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"), "a smaller tokens_per_pack"),
    (MemoryError(), "memory ran out outside training (MemoryError)"),
])
def test_errors_of_the_machine_are_one_line(folder, main, monkeypatch, error, told):
    def fail():
        raise error

    monkeypatch.setitem(cli.VERBS, "recipes", fail)
    code, out, said = main(folder, "recipes")
    assert code == 1 and out == "" and told in said and said.startswith("error: ") and said.count("\n") == 1


def test_an_error_of_the_program_is_not_hidden(folder, main, monkeypatch):
    def fail():
        raise RuntimeError("a mistake in the code")

    monkeypatch.setitem(cli.VERBS, "recipes", fail)
    with pytest.raises(RuntimeError, match="a mistake in the code"):
        main(folder, "recipes")
