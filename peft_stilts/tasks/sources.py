"""Where rows come from: the Hugging Face hub or a local folder laid out like it, behind one protocol."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from peft_stilts.digest import COMMIT, sha256_file, sha256_folder
from peft_stilts.errors import DataError, StiltsError
from peft_stilts.languages import LANGUAGES, Language
from peft_stilts.registry import unknown
from peft_stilts.tasks.base import Split, Task
from peft_stilts.tasks.check import check_rows, table_to_dataset
from peft_stilts.tasks.files import first_line, narrow, read_files

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

HUB_TIMEOUT = 10.0
"""Seconds to wait for the hub to answer one question."""

OFF_HUB = {
    "ldc/ccgbank": "CCGbank is licensed (LDC2005T13) and not on the hub. With your files train.tsv and dev.tsv, one "
    "sentence a line as words<TAB>supertags: `python tools/mirror.py ccg --source DIR --data_root DATA`, then "
    "`--data_root DATA` (`python -m peft_stilts download RECIPE --data_root DATA` fetches the rest of a recipe). Or "
    "leave ccg out: a YAML recipe with `intermediate: [...]` mixes the tasks it names",
    "bucc/bucc2018": "BUCC's pools of sentences are not on the hub (google/xtreme bucc18.* holds the gold pairs only, "
    "a much easier task: that is `bucc_gold`, not comparable). Take the files of comparable.limsi.fr/bucc2018: `python "
    "tools/mirror.py bucc2018 --source DIR --data_root DATA`, then `--data_root DATA`",
}
"""Repositories of this program's own naming that no hub has, and how their rows are had."""



class Provider(Protocol):
    """Answers where rows come from. `name` is the results column `data_source`: 'hub', 'local' or 'miniature'."""

    name: str

    def languages(self, task: Task) -> tuple[str, ...]:
        """Codes of the languages in which `task` can be scored here, in the task's order."""

    def language(self, code: str) -> Language:
        """The language of a code; raises UsageError with the nearest codes."""

    def load(self, split: Split, limit: int | None = None) -> Dataset:
        """The rows of `split` after its row filter, the first `limit` of them; raises DataError. Not yet checked."""

    def identify(self, split: Split) -> dict[str, Any]:
        """What goes into a stage key: repo, config, split, revision, rows (the filter's name or None), and `digest`
        (SHA-256) where the rows lie in a local folder."""


def load_checked(provider: Provider, form: str, split: Split, limit: int | None = None, labels: tuple[str, ...] = ()) \
        -> Dataset:
    """The rows of `split` from any provider in the columns of `form`, checked by `check_rows` (with `labels`): what
    everything above tasks/ should call. Raises DataError."""
    where = f"{split} ({'files' if split.files else provider.name})"
    rows = read_files(split, limit) if split.files else provider.load(split, limit)
    if split.columns is not None:
        rows = split.columns(rows, where)
    return check_rows(form, rows, where, split.labelled, labels)


def scored_languages(provider: Provider, task: Task) -> tuple[str, ...]:
    """Codes of the languages in which `task` can be scored: the provider's, or those whose own files are there."""
    if not _has_files(task):
        return provider.languages(task)
    files = {code: task.test(LANGUAGES[code]).files for code in task.languages}
    return tuple(code for code, names in files.items() if all(Path(name).is_file() for name in names))


def scored_split(provider: Provider, task: Task, code: str) -> Split:
    """The scored split of a language; raises UsageError for a code that the provider does not know."""
    return task.test(LANGUAGES[code] if _has_files(task) else provider.language(code))


def dev_split(provider: Provider, task: Task, code: str) -> Split | None:
    """The split of a language that mining takes its threshold from; None for other tasks."""
    if task.dev is None:
        return None
    return task.dev(LANGUAGES[code] if _has_files(task) else provider.language(code))


def _has_files(task: Task) -> bool:
    return task.test is not None and bool(task.test(LANGUAGES[task.languages[0]]).files)


def split_identity(provider: Provider, split: Split) -> dict[str, Any]:
    """What goes into a stage key of a split: the provider's answer, or the digest of the split's own files."""
    if not split.files:
        return provider.identify(split)
    missing = [name for name in split.files if not Path(name).is_file()]
    if missing:
        raise DataError(f"there is no file {', '.join(missing)}.")
    return identity(split, "files", digest=[sha256_file(Path(name)) for name in split.files])


def identity(split: Split, revision: str, **more: Any) -> dict[str, Any]:
    """The dict that `identify` gives: what was asked for, and the revision that answered."""
    rows = split.rows.name if split.rows else None
    more |= {"first": split.first} if split.first is not None else {}
    return {"repo": split.repo, "config": split.config, "split": split.split, "revision": revision, "rows": rows} | more


class Hub:
    """The Hugging Face hub, through datasets: `namespace/name` repositories without scripts, at a full commit.

    `commits` maps `repository@revision` to full commits that were resolved before; others are resolved once. When the
    hub cannot be reached, the newest commit in the local cache is used and a warning says so; without one, DataError
    after seconds.
    """

    name = "hub"

    def __init__(self, commits: Mapping[str, str] | None = None) -> None:
        self.commits = dict(commits or {})
        self._reachable = True

    def languages(self, task: Task) -> tuple[str, ...]:
        """All languages of the task."""
        return task.languages

    def language(self, code: str) -> Language:
        """One of XTREME's 40."""
        return LANGUAGES[code]

    def load(self, split: Split, limit: int | None = None) -> Dataset:
        """See Provider. Raises DataError when the hub, the repository, the configuration or the split cannot be had."""
        from datasets import load_dataset

        commit = self.resolve(split)
        where = f"{split} at {commit[:12]}"
        if split.first is not None:
            return narrow(self._beginning(split, commit, where), split, limit, where)
        try:
            dataset = _cached_rows(split, commit)
            if dataset is None and not self._reachable:
                raise DataError(f"cannot load {where}: the hub cannot be reached, the cache has no copy. {_INSTEAD}")
            if dataset is None:
                load_dataset(split.repo, split.config, split=split.split, revision=commit)
                dataset = _cached_rows(split, commit)  # load_dataset itself falls back to any commit in the cache
        except StiltsError:
            raise
        except Exception as error:  # datasets raises its own, the HTTP library's, pyarrow's and builtin errors here
            raise DataError(f"cannot load {where}: {first_line(error)}. {_INSTEAD}") from error
        if dataset is None:
            raise DataError(f"cannot load {where}: only another version of it is in the cache. {_INSTEAD}")
        return narrow(dataset, split, limit, where)

    def _beginning(self, split: Split, commit: str, where: str) -> Dataset:
        """The first `split.first` rows, streamed: the repository is too large to download whole."""
        from datasets import Dataset, load_dataset

        try:
            stream = load_dataset(split.repo, split.config, split=split.split, revision=commit, streaming=True)
            if "text" in (stream.column_names or ()):      # of a corpus nothing else is used
                stream = stream.select_columns("text")
            return Dataset.from_list(list(stream.take(split.first)))
        except Exception as error:      # as in `load`
            raise DataError(f"cannot load {where}: {first_line(error)}. {_INSTEAD}") from error

    def identify(self, split: Split) -> dict[str, Any]:
        """See Provider; `revision` is the full commit."""
        return identity(split, self.resolve(split))

    def resolve(self, split: Split) -> str:
        """The full commit (40 hexadecimal digits) of the split's repository and revision; raises DataError."""
        if split.repo in OFF_HUB:
            raise DataError(f"{split} cannot be loaded: {OFF_HUB[split.repo]}.")
        if COMMIT.fullmatch(split.revision):
            return split.revision
        asked = f"{split.repo}@{split.revision}"
        if asked not in self.commits:
            self.commits[asked] = self._ask(split.repo, split.revision)
        return self.commits[asked]

    def _ask(self, repo: str, revision: str) -> str:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        try:
            return HfApi().dataset_info(repo, revision=revision, timeout=HUB_TIMEOUT).sha
        except Exception as error:  # which HTTP library's errors these are depends on huggingface_hub's version
            reason = first_line(error)
            answer = getattr(getattr(error, "response", None), "status_code", 0)
            if isinstance(error, HfHubHTTPError) and 400 <= answer < 500 and answer != 429:
                raise DataError(f"the hub refuses {repo} at {revision!r}: {reason}. {_INSTEAD}") from error
        self._reachable = False
        commit = _cached_commit(repo)
        if commit is None:
            raise DataError(f"the hub cannot be reached for {repo} ({reason}) and the cache has no copy. {_INSTEAD}")
        log.warning("the hub cannot be reached (%s): using the cached commit %s of %s.", reason, commit, repo)
        return commit


_INSTEAD = "A local copy can be used instead: --data_root DIR (tools/mirror.py builds one from original release files)."


def _cached_copies(repo: str, config: str, commit: str) -> list[Path]:
    """Folders that datasets has prepared, CACHE/owner___name/config/version/commit; `*` stands for any."""
    from datasets import config as settings
    from datasets.naming import camelcase_to_snakecase

    owner, name = repo.split("/")
    root = Path(settings.HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(name)}"
    return [info.parent for info in root.glob(f"{config}/*/{commit}/dataset_info.json")]


def _cached_commit(repo: str) -> str | None:
    """The commit of the newest prepared copy of any configuration of `repo`."""
    copies = [copy for copy in _cached_copies(repo, "*", "*") if COMMIT.fullmatch(copy.name)]
    return max(copies, key=lambda copy: copy.stat().st_mtime).name if copies else None


def _cached_rows(split: Split, commit: str) -> Dataset | None:
    """The split as prepared from exactly this commit, without asking the hub; None when there is none."""
    from datasets import Dataset, concatenate_datasets

    for folder in _cached_copies(split.repo, split.config or "default", commit):
        files = sorted(folder.glob(f"*-{split.split}.arrow")) or sorted(folder.glob(f"*-{split.split}-*-of-*.arrow"))
        if files:
            return concatenate_datasets([Dataset.from_file(str(file)) for file in files])
    return None


class LocalMirror:
    """A folder laid out like the hub's repositories: ROOT/google/xtreme/README.md with `configs:`, and parquet files.

    The parquet files that the README names are read as they are, so no cache can be stale and nothing is written.
    """

    name = "local"

    def __init__(self, root: Path | str):
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"the data folder {self.root} does not exist (--data_root).")

    def languages(self, task: Task) -> tuple[str, ...]:
        """Those languages of the task whose configuration and split the folder has; () when it has none."""
        if task.test is None:
            return task.languages
        splits = {code: task.test(LANGUAGES[code]) for code in task.languages}
        repos = {split.repo for split in splits.values()}
        present = {repo: read_configs(self.root / repo) for repo in repos if (self.root / repo / "README.md").is_file()}
        return tuple(
            code
            for code, split in splits.items()
            if split.split in present.get(split.repo, {}).get(split.config or "default", {})
        )

    def language(self, code: str) -> Language:
        """One of XTREME's 40."""
        return LANGUAGES[code]

    def load(self, split: Split, limit: int | None = None) -> Dataset:
        """See Provider. Raises DataError naming the file that is missing, unreadable or unlike the others."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables = []
        for path in self.files(split):
            try:
                table = pq.ParquetFile(path).read().replace_schema_metadata(None)
                table.validate(full=True)
                if len(set(table.column_names)) < table.num_columns:
                    raise ValueError(f"a column stands twice among {', '.join(table.column_names)}")
                tables.append(table)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise DataError(f"{path} is no readable parquet file: {first_line(error)}.") from error
        where = f"{split} in {self.root / split.repo}"
        try:
            table = pa.concat_tables(tables)
        except pa.ArrowException as error:
            raise DataError(f"the files of {where} have different columns: {first_line(error)}.") from error
        return narrow(table_to_dataset(table), split, limit, where)

    def identify(self, split: Split) -> dict[str, Any]:
        """See Provider; `revision` is 'local', `digest` covers names and bytes of the files of this split."""
        digest = sha256_folder(self.root / split.repo, self.files(split))
        return identity(split, "local", digest=digest)

    def files(self, split: Split) -> list[Path]:
        """The parquet files of a split as its README names them, sorted within a pattern; raises DataError."""
        folder = self.root / split.repo
        if not folder.is_dir():
            how = OFF_HUB.get(split.repo, "tools/mirror.py builds such a folder from original release files, and "
                              "`python -m peft_stilts download` from the hub")
            raise DataError(f"there is no {folder} to take {split} from: {how}.")
        configs = read_configs(folder)
        config = split.config or "default"
        if config not in configs:
            raise DataError(f"{folder / 'README.md'}: {unknown('configuration', config, configs)}")
        if split.split not in configs[config]:
            raise DataError(f"{folder / 'README.md'}, {config}: {unknown('split', split.split, configs[config])}")
        files = [path for pattern in configs[config][split.split] for path in _inside(folder, pattern)]
        return list(dict.fromkeys(files))


def read_front(readme: Path) -> tuple[dict[str, Any], str]:
    """The YAML front matter of a README.md and the text after it; raises DataError."""
    import yaml

    try:
        text = readme.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {readme}: {first_line(error)}.") from error
    parts = re.match(r"---\r?\n(.*?\r?\n)---[ \t]*(?:\r?\n|$)(.*)", text, re.DOTALL)
    try:
        front = yaml.safe_load(parts[1]) if parts else {}
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as error:  # PyYAML lets some through
        raise DataError(f"{readme}: its YAML header cannot be read: {first_line(error)}.") from error
    if not isinstance(front, dict):
        raise DataError(f"{readme}: its YAML header is no mapping.")
    return front, parts[2] if parts else text


def read_configs(folder: Path) -> dict[str, dict[str, list[str]]]:
    """{config: {split: file patterns}} from `configs:` in the README.md of `folder`; raises DataError."""
    readme = folder / "README.md"
    if not readme.is_file():
        raise DataError(f"{readme} is missing; its YAML header must list `configs:` with `data_files:`.")
    entries = read_front(readme)[0].get("configs")
    try:
        return {entry["config_name"]: _patterns(entry["data_files"]) for entry in entries}
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise DataError(
            f"{readme}: `configs:` must be a list of {{config_name, data_files: [{{split, path}}]}}."
        ) from error


def _patterns(data_files: Any) -> dict[str, list[str]]:
    """`data_files:` as {split: patterns}, from the hub's forms: a list of {split, path}, a mapping, bare paths."""
    if isinstance(data_files, str):
        data_files = {"train": data_files}
    if isinstance(data_files, Sequence):
        if all(isinstance(entry, str) for entry in data_files):
            data_files = {"train": list(data_files)}
        else:
            data_files = {entry["split"]: entry["path"] for entry in data_files}
    found = {split: [paths] if isinstance(paths, str) else list(paths) for split, paths in data_files.items()}
    if not all(isinstance(path, str) and path for paths in found.values() for path in paths):
        raise ValueError("a path is no text")
    return found


def _inside(folder: Path, pattern: str) -> list[Path]:
    """The files of `folder` that match; a pattern or link that leads out of the folder raises DataError."""
    parts = Path(pattern).parts
    if Path(pattern).is_absolute() or ".." in parts or "\\" in pattern or ":" in pattern or "\0" in pattern:
        raise DataError(f"{folder / 'README.md'} names {pattern!r}, which is outside of its folder.")
    try:
        found = sorted(path for path in folder.glob(pattern) if path.is_file() or path.is_symlink())
    except (ValueError, IndexError, OSError, NotImplementedError) as error:
        raise DataError(f"{folder / 'README.md'} names {pattern[:80]!r}, which is no pattern of files.") from error
    if not found:
        raise DataError(f"{folder / 'README.md'} names {pattern!r}, but there is no such file in {folder}.")
    for path in found:
        within = path.relative_to(folder).parts
        steps = [folder.joinpath(*within[: n + 1]) for n in range(len(within))]
        if any(step.is_symlink() for step in steps) or not path.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{path} is a link or outside of its folder; copy the file itself there.")
    return found
