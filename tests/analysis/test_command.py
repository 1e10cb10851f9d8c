"""The command: from a results file to a report, the same from any order of rows, and bad input named before work."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from peft_stilts.analysis.__main__ import main
from peft_stilts.languages import LANGUAGES

CODES = ("de", "fr", "es", "ru", "el", "bg", "hi", "ur", "zh", "ar", "tr", "vi", "th", "sw")
FILES = {"gains.csv", "correlations.csv", "leave_one_family_out.csv", "pooled.csv", "methods.csv", "contrasts.csv",
         "alignment.csv", "calibration.csv", "summary.md", "table.tex", "report.html"}


def table(codes=CODES, **columns):
    """Others' table: a baseline and MNLI by two methods, on XNLI."""
    random = np.random.default_rng(4)
    rows = [{"method": method, "intermediate": name, "target": "xnli", "language": code, "seed": seed,
             "score": round(60 + (name == "mnli") * random.normal(3, 1), 2)}
            for method in ("full", "lora") for seed in (1, 2) for name in ("none", "mnli") for code in codes]
    return pd.DataFrame(rows).assign(**columns)


def written(folder, frame, name="a.csv"):
    frame.to_csv(folder / name, index=False)
    return str(folder / name)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder of a report, and what was printed."""
    folder = tmp_path_factory.mktemp("a study")
    told = subprocess.run(
        [sys.executable, "-c", "import sys\nfrom peft_stilts.analysis.__main__ import main\n"
         "code = main(sys.argv[1:])\n"
         "sys.exit(code or {'torch', 'transformers', 'peft', 'datasets'} & {*sys.modules} or 0)",
         "--results", written(folder, table()), "--out", str(folder / "report"), "--draws", "99"],
        capture_output=True, text=True, timeout=200)
    assert told.returncode == 0, told.stderr
    return folder, told.stdout


def test_a_report_is_made_without_torch_and_says_the_answer(report):
    folder, printed = report
    assert {path.name for path in (folder / "report").iterdir()} == FILES | {"figures"}
    figures = {path.name for path in (folder / "report" / "figures").iterdir()}
    assert figures >= {f"{name}.{end}" for name in ("estimates", "diagonal", "forest") for end in ("png", "svg")}
    assert len([name for name in figures if name.startswith("scatter_")]) == 4      # two methods, PNG and SVG
    similarity, adapters, _, last = printed.splitlines()
    assert "rank correlations" in similarity and "full fine-tuning" in adapters and "report.html" in last
    assert similarity in (folder / "report" / "report.html").read_text(encoding="utf-8")


def test_columns_of_the_files_are_those_documented(report):
    folder, _ = report
    columns = {path.stem: list(pd.read_csv(path).columns) for path in (folder / "report").glob("*.csv")}
    assert columns["correlations"] == [
        "method", "method_config", "policy", "intermediate", "target", "metric", "measure", "coefficient", "estimate",
        "n", "families", "ci_low", "ci_high", "p_permutation", "q_bh", "excluded"]
    assert {"baseline", "score", "gain", "headroom"} <= set(columns["gains"])


def test_rows_in_another_order_codes_of_another_kind_and_a_file_twice_change_nothing(report, tmp_path, capsys):
    folder, _ = report
    frame = table().sample(frac=1, random_state=5)
    frame["language"] = [LANGUAGES[code].iso639_3 for code in frame["language"]]
    path = written(tmp_path, frame[frame.columns[::-1]])
    assert main(["--results", f"{path},{path}", "--out", str(tmp_path / "report"), "--draws", "99"]) == 0
    for name in ("correlations", "methods", "pooled", "contrasts", "leave_one_family_out"):
        first, again = ((place / "report" / f"{name}.csv").read_bytes() for place in (folder, tmp_path))
        assert first == again, name
    capsys.readouterr()


@pytest.mark.parametrize(("arguments", "change", "says"), [
    (["--respons", "score"], None, "--response"),
    (["--similarity", "syntactical"], None, "syntactic"),
    (["--source", "xx"], None, "unknown language 'xx'"),
    (["--exclude", "en,xx"], None, "unknown language 'xx'"),
    (["--only", "scale=large"], None, "that value is not there"),
    (["--metric", "f1"], None, "no row has the metric 'f1'"),
    (["--covariates", "wealth"], None, "'wealth'"),
    (["--tokenizer", "x"], None, "--tokenizer and --parallel go together"),
    ([], lambda frame: frame.assign(language=frame["language"].replace("th", "xx")), "unknown language 'xx'"),
    ([], lambda frame: frame.assign(language=frame["language"].replace("fr", "deu")), "are the same language"),
    ([], lambda frame: frame.assign(language=frame["language"].replace("fr", "fra")), "codes of several kinds"),
    ([], lambda frame: frame.assign(language=frame["language"].replace("fr", "qa")), "of the miniature world"),
    ([], lambda frame: frame[frame["language"].isin(CODES[:3])], "no cell has 4 languages"),
    ([], lambda frame: frame[frame["intermediate"] == "mnli"], "no score has a baseline"),
    ([], lambda frame: frame[(frame["intermediate"] == "none") == (frame["seed"] == 1)], "no score has a baseline"),
    ([], lambda frame: pd.concat([frame, frame.assign(score=50.0)]), "measured twice"),
    ([], lambda frame: frame.assign(score=frame["score"].where(frame["language"] != "fr")), "missing or no finite"),
    ([], lambda frame: frame.assign(score=frame["score"] / 100), "multiply them by 100"),
    ([], lambda frame: frame.assign(score=frame["score"] + 80), "outside 0 to 100"),
    ([], lambda frame: pd.concat([frame.assign(metric="f1"), frame.assign(metric="em", score=50.0)]),
     "xnli has several metrics"),
    ([], lambda frame: pd.concat([frame.assign(scale="base"), frame.assign(scale="large")]), "never mixed"),
    ([], lambda frame: frame.iloc[:0], "no rows"),
    ([], lambda frame: frame.assign(intermediate=frame["intermediate"].replace("none", "None")), "is written none"),
    ([], lambda frame: frame.assign(score=frame["score"].where(frame["method"] == "full", frame["score"] / 100)),
     "xnli lora are at most 1"),
    ([], lambda frame: frame.assign(score=frame["score"].astype(str) + "%"), "Write numbers as 71.2"),
    ([], lambda frame: pd.DataFrame({";".join(frame): [1]}), "semicolons"),
    (["--exclude", ",".join(CODES)], None, "nothing is left"),
])
def test_bad_input_is_one_sentence_before_any_work(tmp_path, capsys, arguments, change, says):
    path = written(tmp_path, (change or (lambda frame: frame))(table()))
    assert main(["--results", path, "--out", str(tmp_path / "report"), *arguments]) == 2
    told = capsys.readouterr()
    assert says in told.err and "Traceback" not in told.err and told.out == ""
    assert not (tmp_path / "report").exists()


def test_a_missing_and_an_empty_file(tmp_path, capsys):
    assert main(["--results", str(tmp_path / "none.csv"), "--out", str(tmp_path / "report")]) == 2
    (tmp_path / "empty.csv").write_text("")
    assert main(["--results", str(tmp_path / "empty.csv"), "--out", str(tmp_path / "report")]) == 2
    assert main(["--out", str(tmp_path / "report")]) == 2
    told = capsys.readouterr().err
    assert all(part in told for part in ("is not there", "is empty", "nothing to read"))


def test_rows_that_are_no_language_can_be_excluded_and_seeds_be_floats(report, tmp_path, capsys):
    folder, _ = report
    frame = table()
    frame = pd.concat([frame, frame[frame["language"] == "de"].assign(language="avg")])
    path = written(tmp_path, frame.assign(seed=frame["seed"].astype(float)))
    assert main(["--results", path, "--out", str(tmp_path / "report"), "--draws", "99", "--exclude", "en,avg"]) == 0
    first, again = (pd.read_csv(place / "report" / "correlations.csv") for place in (folder, tmp_path))
    pd.testing.assert_frame_equal(first.drop(columns="excluded"), again.drop(columns="excluded"))
    assert set(again["excluded"]) == {"en avg"}
    capsys.readouterr()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, capsys):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "figures").write_text("a file")
    arguments = ["--results", written(tmp_path, table()), "--out", str(tmp_path / "report"), "--draws", "99"]
    assert main(arguments) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_codes_of_own_measures_that_are_nearly_right_are_named(tmp_path, capsys):
    (tmp_path / "mine.csv").write_text("language,mine\nde,1\nfr,2\nzh-CN,3\nTH,4\n")
    arguments = ["--results", written(tmp_path, table()), "--out", str(tmp_path / "report"), "--similarity_csv"]
    assert main([*arguments, str(tmp_path / "mine.csv")]) == 2
    assert "'zh-CN'" in capsys.readouterr().err
    (tmp_path / "mine.csv").write_text("language,baseline\nde,1\n")
    assert main([*arguments, str(tmp_path / "mine.csv")]) == 2
    assert "built-in measure or covariate" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--draws", "0"], ["--draws", "19"], ["--seed", "-1"], ["--margin", "-1"],
                                       ["--only", "scale"], ["--simulations", "x"]])
def test_values_that_cannot_be_are_refused_by_the_parser(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["--results", "a.csv", "--out", "report", *arguments])
    assert stopped.value.code == 2 and arguments[0] in capsys.readouterr().err


def test_simulation_of_the_languages_of_a_table(tmp_path, capsys):
    path = written(tmp_path, table())
    arguments = ["--simulate", "--simulations", "20", "--results", path, "--out", str(tmp_path / "calibration")]
    assert main(arguments) == 0
    told = pd.read_csv(tmp_path / "calibration" / "calibration.csv")
    assert set(told["languages"]) == {len(CODES)} and set(told["simulations"]) == {20}
    measures = pd.read_csv(tmp_path / "calibration" / "calibration_measures.csv")
    assert {"genetic", "syntactic"} <= set(measures["measure"]) and measures["rejected"].between(0, 0.4).all()
    assert "calibration.csv written" in capsys.readouterr().out
