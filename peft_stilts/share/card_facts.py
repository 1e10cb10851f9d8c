"""What a model card tells, read once from a bundle: adapters, heads, mean scores, and how words are made safe."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from peft_stilts.analysis import labels
from peft_stilts.digest import COMMIT
from peft_stilts.errors import UsageError
from peft_stilts.grid.base import MINIATURE
from peft_stilts.languages import LANGUAGES
from peft_stilts.miniature.provider import LANGUAGES as INVENTED
from peft_stilts.model.adapter_io import Adapter, read_adapter, read_head_config
from peft_stilts.model.bundle import Bundle, base_identity
from peft_stilts.results import RESULTS, summary
from peft_stilts.tasks import TASKS
from peft_stilts.tasks.base import Task

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
# What Markdown, HTML, GitHub's tables and autolinks, and the hub's formulas would take for more than a letter.
_SPECIAL = re.compile(r"[\\`*\[\]<>|&~$@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|w(?=ww\.)", re.IGNORECASE)
# The folders of an absolute path, here or on Windows.
_FOLDERS = re.compile(r"(?<![\w/\\:.])(?:(?:[A-Za-z]:|~\w*)?[/\\])(?:[^/\\,]+[/\\])+")


def plain(value: Any) -> str:
    """`value` as one line of printable text: control characters and line ends become spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())


def pathless(value: Any) -> str:
    """`plain`, absolute paths shortened to their last part: nobody needs to know the folders of another's machine."""
    return _FOLDERS.sub("", plain(value))


def markdown(value: Any) -> str:
    """`plain`, and what would be markup in Markdown or HTML as character references: it shows as it is anywhere, in a
    cell of a table too."""
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", plain(value))


@dataclass(frozen=True)
class Facts:
    """A bundle as its card tells of it; make one by `read_facts`.

    `repo`: the hub id it is meant for, or None. `adapters`: lowest first. `heads`: task -> head.json. `scores`: its
    rows of the results table. `means`: means over seeds of this model's primary metrics, in the columns of
    `results.summary`, with `score` filled in where the model is itself a baseline; other layers than the usual left
    out.
    """

    bundle: Bundle
    repo: str | None
    adapters: tuple[Adapter, ...]
    heads: Mapping[str, Mapping[str, Any]]
    scores: pd.DataFrame
    means: pd.DataFrame

    @property
    def source(self) -> str:
        """What `peft_stilts.load` takes: the hub id, else words for the folder."""
        return self.repo or "path/to/this/folder"

    @property
    def name(self) -> str:
        """Its hub name without the user's, else its adapters, lowest first."""
        return self.repo.rpartition("/")[2] if self.repo else " > ".join(plain(a.task) for a in self.adapters)

    @cached_property
    def miniature(self) -> bool:
        """Whether its base is the miniature encoder, or its data are the miniature world's: no number is XLM-R's."""
        revisions = [str(entry.get("revision")) for entry in self.data]
        return self.bundle.base["id"] == MINIATURE or any(name.startswith("world-") for name in revisions) \
            or "miniature" in set(self.scores["data_source"])

    @property
    def base_model(self) -> str | None:
        """The hub id of the base; None for a folder, whose name would be nothing to others."""
        name, revision = str(self.bundle.base["id"]), str(self.bundle.base["revision"])
        on_hub = name != MINIATURE and _HUB_ID.fullmatch(name) and COMMIT.fullmatch(revision)
        return name if on_hub else None

    @property
    def base_told(self) -> str:
        """The base for people, without the path of anyone's machine; plain text."""
        if self.bundle.base["id"] == MINIATURE:
            return "the miniature encoder that comes with peft_stilts"
        last = re.split(r"[/\\]", plain(self.bundle.base["id"]))[-1]
        return self.base_model or f"the encoder {last}, which is not on the hub"

    @property
    def data(self) -> list[Mapping[str, Any]]:
        """Identities of the training splits, such as sources.identity gives."""
        return [entry for entry in self.bundle.data if isinstance(entry, Mapping)]

    @property
    def stages(self) -> list[Mapping[str, Any]]:
        """The recipe's stages, lowest first."""
        return [stage for stage in self.bundle.recipe if isinstance(stage, Mapping)]

    @property
    def trained_on(self) -> list[str]:
        """The tasks of all stages, in order, each once."""
        return _once(task for stage in self.stages for task in stage.get("tasks") or ())

    @property
    def read(self) -> str:
        """What language its training read, for people: the paper's controls (masked words, translated data) are of
        other languages, too."""
        controls = [name for stage in self.stages for name in re.split(r";\s*", plain(stage.get("variant") or ""))
                    if name.startswith(("mlm", "translated"))]
        if controls:
            return f"on English tasks and other languages ({'; '.join(_once(controls))})"
        return "on English data only" if self.stages else "on data that are not recorded here"

    @property
    def targets(self) -> list[str]:
        """The tasks scored, each once."""
        return _once(self.means["target"])

    def further(self, target: str, variant: str = "") -> bool:
        """Whether a score is of models that were trained on `target` on top of this stack, and not of the stack as it
        is: the last stage is an intermediate one, and its own head (which a target's variant tells) was not used."""
        if not self.stages or self.stages[-1].get("role") != "intermediate" or variant.startswith("head of "):
            return False
        task = task_of(target)
        return task is None or task.trained_on is not None

    @property
    def scored_languages(self) -> list[str]:
        """Codes of the languages with a score, English first."""
        return labels.languages(self.means)

    @property
    def methods(self) -> list[str]:
        return _once(adapter.method for adapter in self.adapters)


def read_facts(bundle: Bundle, repo: str | None) -> Facts:
    """What the card of `bundle` tells. Raises UsageError for a `repo` that no hub accepts, CheckpointError for
    adapters that do not fit, DataError for scores that are no rows of the results table."""
    if repo is not None:
        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            raise UsageError(f"{repo!r} is no name for a repository: {error}") from error
        if "/" not in repo:
            raise UsageError(f"{repo!r} names no user; a repository is called user/name")
    adapters = tuple(read_adapter(folder, base_identity(bundle.base)) for folder in bundle.adapter_folders)
    heads = {task: read_head_config(bundle.head_folder(task)) for task in bundle.heads}
    scores = RESULTS.frame(bundle.scores)
    return Facts(bundle, repo, adapters, heads, scores, _own_means(scores))


def task_of(name: str) -> Task | None:
    """The task of that name; None for one of a user's own file, which is not read here."""
    return TASKS[name] if name in TASKS else None


def language_name(code: str) -> str:
    """'German (de)'; the code alone where it is unknown."""
    found = next((table[code].name for table in (LANGUAGES, INVENTED) if code in table), None)
    return f"{found} ({code})" if found else plain(code)


def _own_means(scores: pd.DataFrame) -> pd.DataFrame:
    """Of `results.summary`, the rows of the model itself: baselines of targets that have other scores left out."""
    usual = [labels.by_layer(some)[0] for _, some in labels.contexts(scores[scores["primary"]])]
    means = summary(pd.concat(usual) if usual else scores)
    scored = means["score"].notna()
    itself = ~means["target"].isin(means.loc[scored, "target"])
    for name in ("score", "score_sd"):
        means[name] = means[name].where(scored, means[name.replace("score", "baseline")])
    return means[scored | itself].reset_index(drop=True)


def _once(names: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(plain(name) for name in names))
