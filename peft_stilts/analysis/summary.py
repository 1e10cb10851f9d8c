"""The study in tables for people: as Markdown, as HTML and, its correlations, as LaTeX."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from peft_stilts.analysis import drawing, words
from peft_stilts.analysis.words import interval, number, p_value

if TYPE_CHECKING:
    from peft_stilts.analysis.study import Study

MOST = 400
"""rows of the table of correlations; with more, the headline measure's alone"""
LATEX_ROWS = 38
"""rows of a LaTeX table: what a page holds"""
UNRELIABLE = "too few families"


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs and at most one table: `columns` its titles, `rows` its cells as text."""

    title: str
    lines: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default_factory=list)


def sections(study: Study) -> list[Section]:
    """Everything there is to say, in the order of the report; parts without content are left out."""
    makers: list[Callable[[Study], Section]] = [
        _analysed, _correlations, _left_out, _partial, _pooled, _methods, _contrasts, _alignment, _flips, _shared,
        _calibration, _sources, _notes]
    told = [make(study) for make in makers]
    return [section for section in told if section.rows or section.lines]


def _analysed(study: Study) -> Section:
    means, similar = study.responses.means, study.similarities
    codes = list(means["language"].unique())
    cells = words.named(study, means)[["label", "intermediate", "task"]].drop_duplicates()
    families = {similar.families.get(code, code) for code in codes}
    unit = "gain: score with the intermediate task less the score without it, same method and seed; in points" \
        if study.responses.response == "gain" else "score: 0 to 100"
    lines = [drawing.heading(study), unit,
             f"{words.count(len(cells), 'cell')}: methods {_listed(cells['label'])}; intermediate tasks "
             f"{_listed(cells['intermediate'])}; targets {_listed(cells['task'])}",
             f"{len(codes)} languages of {len(families)} families: {', '.join(codes)}"]
    if study.excluded:
        lines.append(f"Left out of everything: {', '.join(study.excluded)}.")
    return Section("What was analysed", [line for line in lines if line])


def _listed(values: pd.Series) -> str:
    names = [name or "(not named)" for name in values.unique()]
    return ", ".join(names)


def _correlations(study: Study) -> Section:
    tests = study.correlations
    tests = tests[tests["coefficient"] == words.RANKS]
    lines = [f"Spearman's rank correlation of {words.response(study)} with the similarity of languages to "
             f"{words.source(study)}: positive means more similar, more {words.response(study)[:-1]}. Intervals (95 %) "
             "and p count languages of one family as dependent. q: Benjamini and Hochberg's, over all cells and "
             f"measures of the coefficient that get a verdict. '{UNRELIABLE}': in simulations with such families "
             "interval or test did not keep its promise, or found nothing, so there is no verdict."]
    if len(tests) > MOST:
        lines.append(f"Of {len(tests)} rows those of one measure are shown, {words.headline(study)}; all are in "
                     "correlations.csv and in report.html.")
        tests = tests[tests["measure"] == words.headline(study)]
    return Section("Correlations", lines, [*CELL_TITLES, "measure", *TEST_TITLES], _tested(study, tests))


CELL_TITLES = ["method", "intermediate", "target"]
TEST_TITLES = ["estimate", "95 % interval", "p", "q", "languages", "families", "verdict"]


def _cell(row) -> list[str]:
    return [row.label, row.intermediate, row.task]


def _tested(study: Study, tests: pd.DataFrame) -> list[list[str]]:
    tests = words.named(study, tests)
    return [[*_cell(row), row.measure, number(row.estimate, sign=True), interval(row.ci_low, row.ci_high, sign=True),
             p_value(row.p_permutation), p_value(row.q_bh), str(row.n), str(row.families), verdict(row)]
            for row in tests.itertuples()]


def verdict(row) -> str:
    """'passes', 'does not pass', 'too few families', or 'not defined' for a row of correlations."""
    if pd.isna(row.estimate):
        return "not defined"
    if not row.reliable:
        return UNRELIABLE
    return "passes" if row.q_bh < words.LEVEL else "does not pass"


def _left_out(study: Study) -> Section:
    measure = words.headline(study)
    rows = study.left_out
    rows = rows[(rows["coefficient"] == words.RANKS) & (rows["measure"] == measure)].dropna(subset=["estimate"])
    told = []
    for _, some in words.named(study, rows).groupby(["label", "intermediate", "task"], sort=False):
        low, high = some.loc[some["estimate"].idxmin()], some.loc[some["estimate"].idxmax()]
        told.append([*_cell(low), number(low["estimate"], sign=True), low["family"],
                     number(high["estimate"], sign=True), high["family"], str(len(some))])
    return Section("Without one family", [f"The rank correlation with {measure}, each family left out in turn: its "
                                          "lowest and highest value, and without which."] * bool(told),
                   [*CELL_TITLES, "lowest", "without", "highest", "without", "families"], told)


def _partial(study: Study) -> Section:
    tests = study.correlations
    tests = tests[(tests["coefficient"] == "partial_spearman") & (tests["measure"] == words.headline(study))]
    given = " and ".join(getattr(study, "covariates", ()))
    return Section("Partial correlations", [f"The rank correlation with {words.headline(study)}, given {given}."
                                            ] * bool(len(tests)),
                   [*CELL_TITLES, "measure", *TEST_TITLES], _tested(study, tests))


def _pooled(study: Study) -> Section:
    rows = [[row.method, row.intermediate, row.measure, number(row.slope, sign=True),
             interval(row.ci_low, row.ci_high, sign=True), p_value(row.p), str(row.n), str(row.languages),
             str(row.targets), row.note] for row in study.pooled.itertuples()]
    return Section("All targets together", ["A linear mixed model with random parts for target, language and, where "
                                            "there are enough, family. Slope: points per standard deviation of the "
                                            "measure. p is not corrected for the number of rows."] * bool(rows),
                   ["method", "intermediate", "measure", "slope", "95 % interval", "p", "values", "languages",
                    "targets", "note"], rows)


def _methods(study: Study) -> Section:
    if not len(study.methods):
        return Section("Adapters against full fine-tuning")
    costs = [name for name in ("trainable_parameters", "bytes", "seconds", "tokens") if
             study.methods[name].notna().any()]
    rows = [[*_cell(row), number(row.gain, 1, True), number(row.gain_reference, 1, True),
             number(row.difference, sign=True), interval(row.ci_low, row.ci_high, sign=True), p_value(row.p_wilcoxon),
             p_value(row.p_tost), "equivalent" if row.equivalent else "not shown", str(row.n), str(row.seeds),
             *(_ratio(getattr(row, name), getattr(row, f"{name}_reference")) for name in costs)]
            for row in words.named(study, study.methods).itertuples()]
    lines = [f"The mean difference of {words.response(study)} over languages, adapter less "
             f"{study.methods['reference'].iloc[0]}, paired by language and seed; its interval counts languages, "
             "families and (from two on) seeds as samples. "
             f"Equivalent: two one-sided tests at 5 % put the difference within ±{words.points(study.margin)}. 'Not "
             "shown' is no proof of a difference. Wilcoxon's test takes languages for independent."]
    lines += ["Costs are shares of full fine-tuning's: trained parameters, bytes of the artefacts, seconds and tokens "
              "of all stages behind a score."] * bool(costs)
    titles = {"trainable_parameters": "parameters"}
    return Section("Adapters against full fine-tuning", lines,
                   [*CELL_TITLES, "adapter", "full", "difference", "95 % interval", "Wilcoxon p", "equivalence p",
                    "verdict", "languages", "seeds", *(titles.get(name, name) for name in costs)], rows)


def _ratio(value: float, reference: float) -> str:
    if pd.isna(value) or pd.isna(reference) or reference == 0:
        return words.MISSING
    share = 100 * value / reference
    return f"{share:.0f} %" if share >= 9.5 else f"{share:.2g} %"


def _contrasts(study: Study) -> Section:
    rows = study.contrasts
    rows = rows[(rows["measure"] == words.headline(study)) & (rows["coefficient"] == words.RANKS)]
    told = [[*_cell(row), number(row.estimate, sign=True), number(row.estimate_reference, sign=True),
             number(row.difference, sign=True), interval(row.ci_low, row.ci_high, sign=True), p_value(row.p_swap),
             str(row.n), str(row.families)] for row in words.named(study, rows).itertuples()]
    return Section("Does the correlation differ between methods?", [
        f"Rank correlations with {words.headline(study)} of the adapter and of full fine-tuning on the same languages. "
        "p: the two methods' values swapped family by family. The interval counts languages of one family as "
        "dependent."] * bool(told), [*CELL_TITLES, "adapter", "full", "difference", "95 % interval", "p",
                                        "languages", "families"], told)


def _alignment(study: Study) -> Section:
    rows = study.alignment
    rows = rows[rows["coefficient"] == words.RANKS] if len(rows) else rows
    told = [[*_cell(row), row.retrieval, number(row.retrieval_gain, 1, True), number(row.task_gain, 1, True),
             number(row.estimate, sign=True), interval(row.ci_low, row.ci_high, sign=True), p_value(row.p_permutation),
             str(row.n), str(row.families), "" if row.reliable else UNRELIABLE]
            for row in words.named(study, rows).itertuples()] if len(rows) else []
    return Section("Alignment against transfer", [
        "Do languages that gain in sentence retrieval also gain in the task? Means over languages of both, and their "
        "rank correlation over languages. p is not corrected for the number of rows."] * bool(told),
        [*CELL_TITLES, "retrieval", "retrieval gain", "task gain", "correlation", "95 % interval", "p", "languages",
         "families", "verdict"], told)


def _flips(study: Study) -> Section:
    if study.weak is None or not len(study.weak.flips):
        return Section("Weak spots")
    values = ["rate", "independent", "floor", "opposite_rate", "baseline", "change"]
    rows = words.named(study, study.weak.flips.assign(metric=""))
    told = rows.groupby(["label", "intermediate", "task"], sort=False).agg(
        languages=("language", "nunique"), **{name: (name, "mean") for name in values}).reset_index()
    return Section("Weak spots", [
        "Items right in the source language and wrong in another, in per cent, mean over languages and seeds. If "
        "languages were independent: what the rate would be. Other seeds: what training by chance alone changes in the "
        "source language. Opposite: of the items wrong in the source language, those right in the other. Change: "
        "points against the rate without intermediate task, over items that both have right.", *study.weak.notes],
        [*CELL_TITLES, "languages", "flip rate", "if independent", "other seeds", "opposite", "without intermediate",
         "change"],
        [[*_cell(row), str(row.languages), *(number(getattr(row, name), 1) for name in values)]
         for row in told.itertuples()])


def _shared(study: Study) -> Section:
    if study.weak is None or not len(study.weak.tests):
        return Section("Do similar languages share their weak spots?")
    return Section("Do similar languages share their weak spots?", [
        "Agreement (phi) of two languages on which items they have wrong: related less unrelated pairs, and its rank "
        "correlation with the similarity of the pair; adjusted: for how far the two flip rates differ. p permutes "
        "languages, and is not corrected for the number of rows."],
        [*CELL_TITLES, "measure", "statistic", "estimate", "p", "adjusted", "p", "languages", "pairs"],
        [[*_cell(row), row.measure, row.statistic, number(row.estimate, sign=True), p_value(row.p_permutation),
          number(row.estimate_adjusted, sign=True), p_value(row.p_adjusted), str(row.languages), str(row.pairs)]
         for row in words.named(study, study.weak.tests.assign(metric="")).itertuples()])


def _calibration(study: Study) -> Section:
    rows = study.calibration[study.calibration["coefficient"] == words.RANKS]
    rhos = sorted(rho for rho in rows["rho"].unique() if rho > 0)
    told = []
    for (sizes, icc, bounds, test), some in rows.groupby(["layout", "icc", "interval", "test"], sort=False):
        rejected = some.set_index("rho")["rejected"]
        told.append([sizes, str(some["languages"].iloc[0]), str(some["families"].iloc[0]), f"{icc:g}",
                     _procedure(bounds, test), _percent(rejected.get(0.0)), _percent(some["coverage"].min()),
                     *(_percent(rejected.get(rho)) for rho in rhos), str(some["simulations"].min())])
    return Section("Can the tests be trusted?", [
        "Simulated data whose languages resemble each other within families, as many of each as here (rank "
        "correlation). False positives should be 5 %, coverage 95 % (the least over the simulated correlations). With "
        "more than 7 %, less than 90 %, or less than 50 % power at a correlation of 0.9 this report says "
        f"'{UNRELIABLE}'. 'Independent languages' is the usual procedure, which does not know of families. The "
        "simulated measures are normal; --simulate --results says how often the test rejects with the very measures, "
        "by 7.6 % at most with URIEL's and XTREME's languages."] * bool(told),
        ["family sizes", "languages", "families", "resemblance", "procedure", "false positives", "coverage",
         *(f"power at {rho:g}" for rho in rhos), "simulations"], told)


def _procedure(bounds: str, test: str) -> str:
    return bounds if bounds == test else f"{bounds}, {test}"


def _percent(share: float | None) -> str:
    return words.MISSING if share is None or pd.isna(share) else f"{100 * share:.1f} %"


def _sources(study: Study) -> Section:
    origins = study.similarities.origins
    return Section("Where the measures are from", [], ["measure", "source"],
                   [[name, origins.get(name, "")] for name in study.similarities.values.columns])


def _notes(study: Study) -> Section:
    return Section("Notes", [*study.notes, f"{study.draws} permutations a test; random numbers: seed {study.seed}."])


def markdown(study: Study, told: Sequence[Section], pictures: Sequence[tuple[str, str]]) -> str:
    """summary.md: the answer, the `pictures` (title, path) and the sections `told`."""
    parts = ["# Do gains follow language similarity?" if study.responses.response == "gain" else
             "# Do scores follow language similarity?", *map(_marked, words.answer(study))]
    for section in told:
        parts += [f"## {_marked(section.title)}", *map(_marked, section.lines)]
        if section.rows:
            lines = [section.columns, ["---"] * len(section.columns), *section.rows]
            parts.append("\n".join("| " + " | ".join(cell if cell == "---" else _marked(cell) for cell in line) + " |"
                                   for line in lines))
    parts += ["## Figures"] * bool(pictures)
    parts += [f"![{_marked(title)}]({path})" for title, path in pictures]
    return "\n\n".join(parts) + "\n"


def _marked(text: str) -> str:
    """Text from data as text in Markdown: no markup, no HTML, no cell's end."""
    text = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)


def hypertext(section: Section) -> str:
    """The section as HTML, its text escaped; a long table is folded."""
    parts = [f"<h2>{html.escape(section.title)}</h2>", *(f"<p>{html.escape(line)}</p>" for line in section.lines)]
    if section.rows:
        head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in section.columns)
        body = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
                         for row in section.rows)
        table = (f'<div class="wide" tabindex="0" role="region" aria-label="{html.escape(section.title)}"><table>'
                 f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>")
        parts.append(table if len(section.rows) <= 30 else
                     f"<details><summary>{len(section.rows)} rows</summary>{table}</details>")
    return "<section>" + "\n".join(parts) + "</section>"


def latex(study: Study) -> str:
    r"""table.tex: rank correlations, a row a cell, a column a measure; needs \usepackage{booktabs}.

    A star: passes at a false discovery rate of 5 %; a dagger: too few families for a verdict.
    """
    tests = study.correlations
    tests = words.named(study, tests[tests["coefficient"] == words.RANKS])
    measures = list(tests["measure"].unique())
    rows = []
    for (label, name, task), some in tests.groupby(["label", "intermediate", "task"], sort=False):
        found = {row.measure: _starred(row) for row in some.itertuples()}
        rows.append([*map(_escaped, (label, name, task)), str(some["n"].max()),
                     *(found.get(measure, "") for measure in measures)])
    about = (f"Spearman rank correlation of {words.response(study)} with similarity to {words.source(study)}"
             + f" ({drawing.heading(study)})" * bool(drawing.heading(study)))
    caption = _escaped(about) + (r". $^{*}$: false discovery rate below 5\,\%; $^{\dagger}$: too few families for a "
                                 r"verdict; $n$: languages.")
    head = " & ".join([*CELL_TITLES, "$n$", *map(_escaped, measures)])
    tables = []
    for start in range(0, max(1, len(rows)), LATEX_ROWS):
        body = [" & ".join(row) + r" \\" for row in rows[start:start + LATEX_ROWS]]
        tables += [r"\begin{table}[htbp]", r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
                   rf"\caption{{{caption}{' (continued)' * (start > 0)}}}",
                   rf"\begin{{tabular}}{{lllr{'r' * len(measures)}}}", r"\toprule", head + r" \\", r"\midrule", *body,
                   r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(["% needs \\usepackage{booktabs}", *tables])


def _starred(row) -> str:
    if pd.isna(row.estimate):
        return "--"
    mark = "" if row.reliable and row.q_bh >= words.LEVEL else r"^{*}" if row.reliable else r"^{\dagger}"
    return f"${number(row.estimate, sign=True)}{mark}$"


_LATEX = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_",
          "%": r"\%", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
          ">": r"\textgreater{}",
          "|": r"\textbar{}", "*": "{*}", "·": r"\textperiodcentered{}", "[": "{[}", "]": "{]}"}


def _escaped(text: str) -> str:
    """Text from data as text in LaTeX."""
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))
