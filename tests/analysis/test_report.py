"""The report's files: all there, all numbers in them, no text from data taken for markup."""

import html.parser
import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from peft_stilts.analysis import page, report, summary, words
from peft_stilts.analysis.alignment import COLUMNS as ALIGNMENT
from tests.analysis.studies import CODES, MEASURES, study_of

HOSTILE = ("<img src=x onerror=alert(1)>", "</script><b>", "a|b*c_d`[x](y)", r"100 % \end{table} & # $ ~ ^ { }",
           "<!--DATA-->")


class Tags(html.parser.HTMLParser):
    """Every tag and attribute of a page, and the text of its first data script."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script" and self.scripts:
            self.scripts[-1] += data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "new"
    study = study_of(targets=("xquad", "xnli"))
    return study, folder, report.write(study, folder)


def test_every_file_is_there_and_the_list_of_paths_is_what_is_there(written):
    _, folder, paths = written
    assert sorted(paths) == sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix() for path in paths}
    assert names >= {"summary.md", "table.tex", "report.html"}
    for name in ("scatter_1_full_squad", "scatter_2_lora_squad", "estimates", "diagonal", "forest"):
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "</svg>" in (folder / "figures" / f"{name}.svg").read_text(encoding="utf-8")


def test_the_same_study_gives_the_same_bytes(written, tmp_path):
    study, folder, paths = written
    for path in report.write(study, tmp_path):
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes(), path.name


def test_the_summary_begins_with_the_answer_and_has_every_test(written):
    study, folder, _ = written
    text = (folder / "summary.md").read_text(encoding="utf-8")
    plain = text.replace("\\", "")
    assert all(sentence in plain for sentence in words.answer(study))
    for row in study.correlations.query("coefficient == 'spearman'").itertuples():
        ends = words.interval(row.ci_low, row.ci_high, sign=True)
        assert f"| {row.measure} | {words.number(row.estimate, sign=True)} | {ends} |" in plain
    for title in ("What was analysed", "Without one family", "Partial correlations", "All targets together",
                  "Adapters against full fine-tuning", "Can the tests be trusted?", "Where the measures are from"):
        assert f"## {title}" in plain
    assert "independent languages" in plain and "14.2 %" in plain and "4.8 %" in plain     # the naive test beside ours
    assert "(figures/forest.png)" in text and "where syntactic is from" in text and "a note" in text


def test_very_many_tests_are_shortened_to_one_measure_and_that_is_said():
    study = study_of(targets=tuple(f"t{place}" for place in range(60)), measures=MEASURES)
    told = next(section for section in summary.sections(study) if section.title == "Correlations")
    assert len(told.rows) == 120 and {row[3] for row in told.rows} == {"syntactic"}
    assert "Of 1080 rows" in told.lines[-1] and "correlations.csv" in told.lines[-1]


def test_every_row_is_as_long_as_its_heading_also_with_alignment_and_weak_spots():
    study = study_of(seeds=1, miniature=True)
    cell = study.responses.means.iloc[0]
    line = {name: cell[name] for name in ("method", "method_config", "policy", "intermediate", "target", "metric")}
    study.alignment = pd.DataFrame([line | dict(
        coefficient="spearman", retrieval="tatoeba", estimate=0.4, n=9, families=5, ci_low=-0.2, ci_high=0.8,
        p_permutation=0.2, retrieval_gain=3.0, task_gain=1.0, reliable=False)])[ALIGNMENT]
    study.weak = weak(line)
    told = {section.title: section for section in summary.sections(study)}
    for section in told.values():
        assert all(len(row) == len(section.columns) for row in section.rows), section.title
    assert told["Alignment against transfer"].rows[0][-1] == summary.UNRELIABLE
    assert told["Weak spots"].rows[0][4] == "30.0" and "a weak note" in told["Weak spots"].lines


def weak(line):
    from types import SimpleNamespace

    flips = pd.DataFrame([line | dict(language=code, seed=1, rate=rate, independent=50.0, floor=math.nan,
                                      opposite_rate=10.0, baseline=35.0, change=-1.0)
                          for code, rate in (("de", 20.0), ("fr", 40.0))])
    tests = pd.DataFrame([line | dict(measure="family", statistic="difference", estimate=0.1, p_permutation=0.3,
                                      estimate_adjusted=0.05, p_adjusted=0.5, languages=2, pairs=1)])
    return SimpleNamespace(flips=flips, tests=tests, notes=("a weak note",))


def test_hostile_names_are_text_in_every_file(tmp_path):
    study = study_of(targets=HOSTILE[:2], intermediates=HOSTILE[2:], methods=("full", "<svg onload=x>"),
                     measures=("syntactic", "<i>&"))
    study.similarities.names["de"] = HOSTILE[0]
    study.notes = list(HOSTILE)
    report.write(study, tmp_path)
    told = Tags((tmp_path / "report.html").read_text(encoding="utf-8"))
    clean = Tags(page.build(study_of(), summary.sections(study_of())))
    assert {tag for tag, _ in told.tags} <= {tag for tag, _ in clean.tags} | {"details", "summary"}
    assert not [name for _, attributes in told.tags for name in attributes if name.startswith("on")]
    data = json.loads(told.scripts[0])
    assert data["intermediates"] == list(HOSTILE[2:]) and HOSTILE[0] in data["names"]
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "<img" not in text and "</script>" not in text and r"a\|b\*c\_d\`\[x\](y)" in text
    assert_latex((tmp_path / "table.tex").read_text(encoding="utf-8"))
    assert all(path.parent.name in ("figures", tmp_path.name) for path in tmp_path.rglob("*.*"))


def assert_latex(text):
    """Braces and environments close, no letter with a meaning stands free, and every row has every column."""
    assert re.findall(r"\\begin\{(\w+)\}", text) == ["table", "tabular"] * text.count(r"\begin{table}")
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    bare = re.sub(r"\\[{}$&#_%]|\\\\", "", body)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert not re.search(r"[#%~]", bare) and not re.search(r"[_^](?!\{)", bare)
    for part in text.split(r"\begin{tabular}")[1:]:
        columns = len(re.match(r"\{([lr]+)\}", part)[1])
        rows = [line for line in part.split(r"\end{tabular}")[0].splitlines() if line.endswith(r"\\")]
        assert len(rows) > 1 and {re.sub(r"\\&", "", row).count("&") for row in rows} == {columns - 1}


def test_the_latex_table_has_every_cell_and_breaks_into_pages(written):
    study, folder, _ = written
    text = (folder / "table.tex").read_text(encoding="utf-8")
    assert_latex(text)
    for row in study.correlations.query("coefficient == 'spearman'").itertuples():
        assert f"${words.number(row.estimate, sign=True)}" in text
    many = summary.latex(study_of(targets=tuple(f"t{place}" for place in range(30)), reliable=False))
    assert_latex(many)
    assert many.count(r"\begin{table}") == math.ceil(60 / summary.LATEX_ROWS) and r"^{\dagger}$ &" in many


def test_the_page_allows_nothing_to_be_fetched_and_names_nothing_outside(written):
    _, folder, _ = written
    text = (folder / "report.html").read_text(encoding="utf-8")
    told = Tags(text)
    policy = next(attributes["content"] for tag, attributes in told.tags if attributes.get("http-equiv"))
    assert "default-src 'none'" in policy and "connect-src" not in policy and "*" not in policy
    links = [value for _, attributes in told.tags for name, value in attributes.items()
             if name in ("src", "href", "srcset", "action", "poster", "data")]
    assert links == ["data:,"]
    assert set(re.findall(r"https?://[^\"'\s)]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert "url(" not in text and "@import" not in text and "innerHTML" not in text
    assert "<!--" not in text


def test_the_page_holds_the_study(written):
    study, folder, _ = written
    data = json.loads(Tags((folder / "report.html").read_text(encoding="utf-8")).scripts[0])
    means = study.responses.means
    method, intermediate, task, codes, values, spreads, seeds = data["cells"][1]
    assert (data["methods"][method], data["intermediates"][intermediate], data["tasks"][task]) == (
        "full", "squad", "xnli (accuracy)")
    rows = means.query("method == 'full' and target == 'xnli'").set_index("language")
    assert np.allclose(values, rows.loc[[data["codes"][code] for code in codes], "value"], atol=1e-4)
    assert seeds == [3] * 12 and spreads == [0.7] * 12
    assert len(data["tests"]) == len(study.correlations)
    row = study.correlations.iloc[6]
    test = data["tests"][6]
    assert test[3:6] == pytest.approx([row.estimate, row.ci_low, row.ci_high], abs=1e-4)
    assert data["coefficients"][test[2]] == page.NAMES[row.coefficient] and test[11] < test[3] < test[12]


def test_462_cells_of_40_languages_stay_small_and_numbers_without_a_value_are_null():
    study = study_of(codes=CODES, targets=tuple(f"t{place}" for place in range(21)), measures=MEASURES, seeds=1,
                     intermediates=tuple(f"i{place}" for place in range(11)))
    study.similarities.values.loc["de", "inventory"] = math.nan
    text = page.build(study, summary.sections(study))
    assert len(study.responses.means) == 462 * len(CODES) and len(text.encode()) < 15e6
    data = json.loads(Tags(text).scripts[0])
    assert data["similarity"][4].count(None) == 1 and set(data["cells"][0][5]) == {None}
