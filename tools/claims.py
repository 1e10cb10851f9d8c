"""What a run says of each of the paper's claims: mean and spread over seeds, agreement and disagreement alike.

    python tools/claims.py runs_grid                               # prints a table; several folders are joined
    python tools/claims.py runs_grid --write docs/claims.md        # and fills in the marked cells of that file

Every entry is a number of points in which the claim says something of its sign, with its mean ± standard deviation over
n seeds. The verdict is by the 95 % t interval over seeds: the run agrees or disagrees where zero is outside of it, and
all is open otherwise, or with one seed. Nothing is left out: what a folder has not run is said.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peft_stilts import results  # noqa: E402
from peft_stilts.analysis import labels, overview  # noqa: E402
from peft_stilts.errors import StiltsError, UsageError  # noqa: E402
from peft_stilts.store import write_atomic  # noqa: E402
from peft_stilts.tasks import INTERMEDIATE, TARGETS  # noqa: E402

RETRIEVAL, QA = ("bucc2018", "tatoeba"), ("xquad", "mlqa", "tydiqa")
NAMED = ("mnli", "squad", "hellaswag")
"""The three intermediate tasks that the paper calls best overall."""
MARK = re.compile(r"(<!-- fill ([\w-]+) -->)(.*?)(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Seen:
    """What a run shows of a claim: `values` points by seed ((n,) float64), `words` more to know.

    `sign`: what the claim says of them: +1 above zero, 0 not consistently above zero. `whole`: whether the rest of the
    claim holds, which the values alone do not tell.
    """

    values: np.ndarray
    sign: int
    words: str = ""
    whole: bool = True

    def __str__(self) -> str:
        spread = f" ± {self.values.std(ddof=1):.1f}" if len(self.values) > 1 else ""
        more = f"; {self.words}" if self.words else ""
        return f"{points(self.values.mean())}{spread} (n {len(self.values)}), {self.verdict}{more}"

    @property
    def verdict(self) -> str:
        """`agrees` (or `agrees in part`), `disagrees` or `open`, by the 95 % t interval over seeds."""
        if len(self.values) < 2:
            return "open: one seed"
        half = stats.t.ppf(0.975, len(self.values) - 1) * self.values.std(ddof=1) / len(self.values) ** 0.5
        low, high = self.values.mean() - half, self.values.mean() + half
        if self.sign == 0:
            return "disagrees" if low > 0 else "agrees"
        agrees = "agrees" if self.whole else "agrees in part"
        return agrees if low > 0 else "disagrees" if high < 0 else "open: zero is within the interval"


@dataclass(frozen=True)
class Claim:
    """`key` names its cell in docs/claims.md; `look(gains)` gives what the gains of one method (`wide`) show, or in
    words what has not been run."""

    key: str
    text: str
    look: Callable[[pd.DataFrame], Seen | str]


def points(gain: float) -> str:
    """A gain as people read it: +1.2, never -0.0."""
    return f"{round(gain, 1) + 0.0:+.1f}"


def wide(cells: pd.DataFrame) -> pd.DataFrame:
    """`overview.averages` of one method as a table of gains: a row a seed, a column a (task, variant, target)."""
    return cells.pivot_table(index="seed", columns=["task", "variant", "target_task"], values="gain", aggfunc="mean")


def by_seed(gains: pd.DataFrame, tasks: Iterable[str], targets: Iterable[str], variant: str = "") -> pd.Series:
    """seed -> mean gain over those of the `tasks` and `targets` in `gains` (`wide`); only seeds that have them all."""
    tasks, targets = set(tasks), set(targets)
    chosen = [column for column in gains.columns
              if column[0] in tasks and column[1] == variant and column[2] in targets]
    return gains[chosen].dropna().mean(axis=1) if chosen else pd.Series(dtype=float)


def ranking(gains: pd.DataFrame) -> pd.Series:
    """Intermediate task -> mean gain over the nine targets that were run and over seeds, the best first."""
    found = {task: by_seed(gains, [task], TARGETS).mean() for task in _tasks(gains)}
    return pd.Series(found, dtype=float).dropna().sort_values(ascending=False)


def _tasks(gains: pd.DataFrame) -> list[str]:
    """The single intermediate tasks that were run in the plain way."""
    plain = {task for task, variant, _ in gains.columns if not variant}
    return [name for name in INTERMEDIATE if name in plain]


def _mean_gain(targets: tuple[str, ...], sign: int = 1) -> Callable[[pd.DataFrame], Seen | str]:
    """The mean gain over all single intermediate tasks on `targets`, with the best and worst of them."""

    def look(gains: pd.DataFrame) -> Seen | str:
        values = by_seed(gains, _tasks(gains), targets)
        if not len(values):
            return f"not run: an intermediate task on {', '.join(targets)}"
        each = {task: by_seed(gains, [task], targets).mean() for task in _tasks(gains)}
        above = sum(gain > 0 for gain in each.values())
        best, worst = (f"{name} {points(each[name])}" for name in (max(each, key=each.get), min(each, key=each.get)))
        lacking = [target for target in targets if target not in gains.columns.get_level_values("target_task")]
        words = f"above zero after {above} of {len(each)} tasks, from {worst} to {best}"
        return Seen(values.to_numpy(), sign, words + f"; without {', '.join(lacking)}" * bool(lacking))

    return look


def retrieval_above_qa(gains: pd.DataFrame) -> Seen | str:
    """Mean gain on retrieval less mean gain on question answering."""
    both = by_seed(gains, _tasks(gains), RETRIEVAL) - by_seed(gains, _tasks(gains), QA)
    return Seen(both.dropna().to_numpy(), 1) if len(both.dropna()) else "not run: retrieval and question answering"


def best_overall(gains: pd.DataFrame) -> Seen | str:
    """Mean gain of the three named tasks less that of the others, and who is where."""
    others = [task for task in _tasks(gains) if task not in NAMED]
    if not set(NAMED) <= set(_tasks(gains)) or not others:
        return f"not run: {', '.join(NAMED)} and others"
    values = (by_seed(gains, NAMED, TARGETS) - by_seed(gains, others, TARGETS)).dropna()
    if not len(values):
        return "not run: no seed has all of them"
    order = ranking(gains)
    told = ", ".join(f"{name} {points(gain)}" for name, gain in order.items())
    return Seen(values.to_numpy(), 1, f"the three less the {len(others)} others; in order: {told}",
                whole=set(order.index[:len(NAMED)]) == set(NAMED))


def multi_task(gains: pd.DataFrame) -> Seen | str:
    """Mean gain of `all` less that of the best single task by its mean over seeds."""
    order = ranking(gains)
    alone = by_seed(gains, ["all"], TARGETS)
    if not len(order) or not len(alone):
        return "not run: all and a single task"
    best = order.index[0]
    values = (alone - by_seed(gains, [best], TARGETS)).dropna()
    if not len(values):
        return "not run: no seed has both"
    return Seen(values.to_numpy(), 1, f"all {points(alone.mean())} less {best} {points(order.iloc[0])}")


def _best_task(targets: tuple[str, ...]) -> Callable[[pd.DataFrame], Seen | str]:
    """Mean over `targets` of the gain after each target's best task, `all` among them, chosen on the same scores."""

    def look(gains: pd.DataFrame) -> Seen | str:
        found = {}
        for target in targets:
            each = {task: by_seed(gains, [task], [target]) for task in [*_tasks(gains), "all"]}
            each = {task: values for task, values in each.items() if len(values)}
            if each:
                best = max(each, key=lambda task: each[task].mean())
                found[f"{target} after {best}"] = each[best]
        values = pd.DataFrame(found).dropna().mean(axis=1)
        if not len(values):
            return f"not run: an intermediate task on {', '.join(targets)}"
        return Seen(values.to_numpy(), 1, f"chosen on these very scores, so too high: {', '.join(found)}")

    return look


def _variant(word: str) -> Callable[[pd.DataFrame], Seen | str]:
    """Mean gain of the variants that begin with `word` less that of the plain training of the same task."""

    def look(gains: pd.DataFrame) -> Seen | str:
        kinds = list(dict.fromkeys((task, variant) for task, variant, _ in gains.columns if variant.startswith(word)))
        parts, above, count = [], 0, 0
        for task, variant in kinds:
            for target in TARGETS:
                less = (by_seed(gains, [task], [target], variant) - by_seed(gains, [task], [target])).dropna()
                if len(less):
                    parts.append(less)
                    above, count = above + (less.mean() > 0), count + 1
        values = pd.concat(parts, axis=1).dropna().mean(axis=1) if parts else pd.Series(dtype=float)
        if not len(values):
            return f"not run: the same intermediate task with and without {word}"
        names = [f"{task} {variant}" for task, variant in kinds]
        told = ", ".join(names) if len(names) <= 3 else f"{len(names)} such trainings"
        return Seen(values.to_numpy(), 0, f"better than plain in {above} of {count} pairs of training and target, "
                                          f"with {told}")

    return look


CLAIMS = (
    Claim("retrieval", "large gains on BUCC and Tatoeba", _mean_gain(RETRIEVAL)),
    Claim("qa", "moderate gains on question answering", _mean_gain(QA)),
    Claim("retrieval-qa", "the gains on retrieval are the larger ones", retrieval_above_qa),
    Claim("best", "MNLI, SQuAD and HellaSwag are best overall", best_overall),
    Claim("multi-task", "multi-task training brings a small extra gain", multi_task),
    Claim("per-target", "the best task for each target gains (+5.4 reported, test)", _best_task(TARGETS)),
    Claim("mlm", "continued MLM does not consistently beat plain training", _variant("mlm")),
    Claim("translated", "translated data do not consistently beat plain English", _variant("translated")),
    Claim("tydiqa", "TyDiQA gains with many tasks (reported, not re-read)", _mean_gain(("tydiqa",))),
    Claim("xnli", "XNLI does not benefit (reported, not re-read)", _mean_gain(("xnli",), sign=0)),
    Claim("xnli-best", "XNLI gains after its best task (+1.2 in the published averages)", _best_task(("xnli",))),
)


def entries(frame: pd.DataFrame) -> dict[str, dict[str, str]]:
    """{claim: {method: what is seen}} of results rows of one scale and model. Raises UsageError for several."""
    contexts = list(labels.contexts(frame))
    if len(contexts) != 1:
        raise UsageError("claims are read from one scale, model and protocol; these rows are of "
                         f"{len(contexts)}: {'; '.join(heading for heading, _ in contexts) or 'none'}")
    cells = overview.averages(contexts[0][1])
    by_method = {method: wide(some) for method, some in cells.groupby("method", sort=False)}
    if not by_method:
        raise UsageError("no score here has a baseline, so there is no gain to judge a claim by")
    return {claim.key: {method: str(claim.look(gains)) for method, gains in by_method.items()} for claim in CLAIMS}


def report(frame: pd.DataFrame, found: dict[str, dict[str, str]]) -> str:
    """The entries `found` in `frame` as a Markdown table, under what they are of."""
    (heading, _), = labels.contexts(frame)
    seeds = ", ".join(map(str, sorted(frame["seed"].unique())))
    lines = [f"{heading}; seeds {seeds}; mean ± standard deviation over n seeds, in points", "",
             "| claim | method | seen |", "|---|---|---|"]
    lines += [f"| {claim.text} | {method} | {seen} |" for claim in CLAIMS for method, seen in found[claim.key].items()]
    return "\n".join(lines) + "\n"


def filled(text: str, found: dict[str, dict[str, str]]) -> str:
    """`text` with what is seen between its marks `<!-- fill KEY -->` and `<!-- end -->`. Raises UsageError for an
    unknown mark, and for a claim that has none."""
    marks = [match[2] for match in MARK.finditer(text)]
    wrong = sorted(set(marks) ^ set(found))
    if wrong:
        raise UsageError(f"marks and claims differ in {', '.join(wrong)}; the claims are {', '.join(found)}")
    return MARK.sub(lambda match: match[1] + "<br>".join(
        f"{method}: {seen}" for method, seen in found[match[2]].items()) + match[4], text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of results, joined")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also fill in the marked cells of FILE")
    arguments = parser.parse_args()
    try:
        frame = results.read(arguments.runs)
        found = entries(frame)
        print(report(frame, found), end="")
        if arguments.write:
            write_atomic(arguments.write, filled(arguments.write.read_text(encoding="utf-8"), found))
    except StiltsError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
