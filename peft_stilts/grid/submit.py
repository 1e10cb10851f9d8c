"""XTREME's submission folder from the stored predictions of a finished run: one model a target, chosen by labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_stilts import results
from peft_stilts.errors import Problems, UsageError
from peft_stilts.evaluate.submission import write_submission
from peft_stilts.grid.run import ROWS
from peft_stilts.store import Store
from peft_stilts.tasks import TARGETS, TASKS


@dataclass(frozen=True)
class Candidate:
    """One finished evaluation of one of XTREME's targets: what scored it, in the words of the results table."""

    target: str
    method: str
    intermediate: str
    seed: str
    stage: str
    reading: str
    folder: Path

    def fits(self, chosen: Mapping[str, str | None]) -> bool:
        """Whether it agrees with every choice that was made; the base encoder has no method and no seed, and fits."""
        return all(getattr(self, name) in (value, "") for name, value in chosen.items() if value is not None)

    def __str__(self) -> str:
        told = [f"--{name} {value}" for name in ("method", "intermediate", "seed") if (value := getattr(self, name))]
        return " ".join([*told, *([self.reading] if self.reading else []), f"(--stage {self.stage})"])


def submit(runs: Path, out: Path, chosen: Mapping[str, str | None]) -> dict[str, tuple[str, ...]]:
    """Write OUT/TASK/test-LL.* from the evaluations in the folder `runs` (or from an `evaluate` folder's predictions).

    `chosen`: method, intermediate (with its variant in brackets), seed and stage, None where any will do. Returns, by
    task, the languages without a file. Raises UsageError where several models fit a target, where none fits any, and
    for scores of the first rows only (--limit_eval); DataError as `write_submission`.
    """
    if not (runs / "stages").is_dir():
        if not (runs / "predictions").is_dir():
            raise UsageError(f"{runs} holds neither stages/ (a --runs folder) nor predictions/ (--out of `evaluate`)")
        sources = {target: runs / "predictions" / target for target in TARGETS
                   if (runs / "predictions" / target).is_dir()}
        return write_submission(sources, out)
    found, everything = Problems(), candidates(Store(runs))
    keys = (chosen.get("stage") or "").split(",")
    labels = {name: value for name, value in chosen.items() if name != "stage"}
    with found:
        sources, items = {}, {}
        for target in TARGETS:
            mine = [one for one in everything if one.target == target]
            named = [one for one in mine if one.stage in keys]      # a stage is named for its own target only
            fitting = named or [one for one in mine if one.fits(labels)]
            if len(fitting) > 1:
                found.add(f"{target} was scored by {len(fitting)} models; choose one: " + "; ".join(map(str, fitting)))
            elif fitting:
                sources[target] = fitting[0].folder / "predictions" / target
                items[target] = _items(fitting[0])
        if not sources and not found.messages:
            there = "; ".join(f"{one.target} by {one}" for one in everything) or "none"
            found.add(f"no finished evaluation in {runs} fits; there are: {there}")
    return write_submission(sources, out, items)


def candidates(store: Store) -> list[Candidate]:
    """Every finished evaluation of whole test sets. Raises UsageError where only parts of test sets were scored."""
    found, partial = [], 0
    for key in store.keys():
        record = store.record(key)
        spec = record["spec"]
        if record["kind"] != "evaluate" or spec["target"] not in TARGETS:
            continue
        task = TASKS[spec["target"]]
        if spec["limit_eval"] is not None and task.form != "mining":      # pools of mining are always whole
            partial += 1
            continue
        chain = _chain(store, spec["parent"])
        before = chain[:-1] if task.trained_on else chain
        name = ">".join(one["name"] for one in before) or "none"
        variant = before[0].get("variant") if before else None
        reading = f"layer {spec['layer']}{' centred' * spec['centred']}" if spec["layer"] is not None else ""
        method, seed = (chain[-1]["method"], str(chain[-1]["seed"])) if chain else ("", "")
        found.append(Candidate(spec["target"], method, f"{name} ({variant})" if variant else name, seed, key, reading,
                               store.open(key)))
    if partial and not found:
        raise UsageError(f"all {partial} evaluations in {store.root} scored the first rows only (--limit_eval); a "
                         "submission needs whole test sets")
    return found


def _chain(store: Store, key: str | None) -> list[dict[str, Any]]:
    """The specifications of a model's trainings, the first one first; its tasks need not be known here."""
    if not key:
        return []
    spec = store.record(key)["spec"]
    return [*_chain(store, spec["parent"]), spec]


def _items(candidate: Candidate) -> dict[str, int]:
    """Language -> items that were predicted, where the stage's own rows tell it."""
    task = TASKS[candidate.target]
    if task.form == "mining":
        return {}
    rows = results.RESULTS.read(candidate.folder / ROWS)
    return dict(zip(rows["language"], rows["examples"].map(int)))
