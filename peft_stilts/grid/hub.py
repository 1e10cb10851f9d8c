"""The hub, read: whether it answers, the files of a model, and bundles, which are checked before anyone sees them."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from peft_stilts.digest import COMMIT
from peft_stilts.errors import CheckpointError, UsageError
from peft_stilts.store import write_atomic
from peft_stilts.tasks.files import first_line

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

    from peft_stilts.model.bundle import Bundle

T = TypeVar("T")
Say = Callable[[str], object]

HUB_TIMEOUT = 5.0
"""seconds until a hub that does not answer counts as unreachable"""
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
REVISION = re.compile(r"(?!.*\.\.)\w[\w./+-]{0,200}", re.ASCII)
"""Names of branches and tags, and commits; no path out of the cache's folder refs/."""
log = logging.getLogger(__name__)


class Unreachable(Exception):
    """The hub does not answer, or is overloaded, or may not be asked; says why."""


def split_id(text: str) -> tuple[str, str | None]:
    """`user/name` -> ('user/name', None), `user/name@revision` -> ('user/name', 'revision').

    Raises UsageError where the name is none that the hub accepts, or the revision none of git's.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    repo, at, revision = text.partition("@")
    try:
        if repo.count("/") != 1:
            raise HFValidationError("it has one '/', between the user's (or organisation's) name and the model's")
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(f"{repo!r} is no name of a model on the hub (user/name): "
                         f"{' '.join(str(error).split())}") from error
    if at and not REVISION.fullmatch(revision):
        raise UsageError(f"{revision!r} is no revision of {repo}: after '@' comes a branch, a tag or a commit")
    return repo, revision if at else None


def is_hub_id(text: str) -> bool:
    """Whether `text` has the form of `user/name` or `user/name@revision` on the hub; it may be a path all the same."""
    try:
        split_id(text)
    except UsageError:
        return False
    return True


def within(seconds: float, ask: Callable[[], T]) -> T:
    """What `ask()` returns or raises; TimeoutError after `seconds`.

    It runs in a thread of its own, because a name that does not resolve may take longer than any timeout of a request.
    """
    answer: list[tuple[T | None, BaseException | None]] = []

    def work() -> None:
        try:
            answer.append((ask(), None))
        except BaseException as error:
            answer.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answer:
        raise TimeoutError(f"no answer in {seconds:.0f} seconds")
    value, error = answer[0]
    if error is not None:
        raise error
    return value    # type: ignore[return-value]


def reach_hub(url: str) -> str:
    """'' when `url` answers a HEAD request within HUB_TIMEOUT (any status counts), else why not."""
    try:
        return within(HUB_TIMEOUT, lambda: _head(url))
    except TimeoutError as error:
        return str(error)


def _head(url: str) -> str:
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=HUB_TIMEOUT).close()
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__
    return ""


def hub_token() -> str | None:
    """The token of HF_TOKEN or of `hf auth login`; None without one. It never stands in a message.

    Raises UsageError for one that no request can carry (the libraries would show it in their error).
    """
    from huggingface_hub import get_token

    try:
        token = get_token()
    except Exception as error:      # a token that is fetched from elsewhere (OIDC), or a file that cannot be read
        raise UsageError(f"the hub's token cannot be read ({type(error).__name__}); {LOG_IN}") from None
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise UsageError(f"the hub's token has characters that no token has; {LOG_IN}")
    return token


def ask_hub(repo: str, revision: str | None = None) -> ModelInfo:
    """What the hub tells of a model at `revision` (None: main): `sha`, the full commit, `private`, and `siblings`, its
    files with their sizes. Raises UsageError when it is refused, Unreachable within seconds."""
    from huggingface_hub import HfApi

    hub_token()
    try:
        return within(HUB_TIMEOUT + 1, lambda: HfApi().model_info(repo, revision=revision, files_metadata=True,
                                                                  timeout=HUB_TIMEOUT))
    except Exception as error:      # which HTTP library's errors these are depends on huggingface_hub's version
        raise refusal(repo, error, revision) or Unreachable(reason(error)) from error


def refusal(repo: str, error: BaseException, revision: str | None = None) -> UsageError | None:
    """The message for what the hub refuses and asking again would not change; None where the hub was not reached."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", 0)
    if isinstance(error, RevisionNotFoundError):
        return UsageError(f"the hub's {repo} has no revision {revision!r}; without '@' it is taken at main")
    if isinstance(error, RepositoryNotFoundError):
        return UsageError(f"the hub has no model {repo!r} that this account may read; check the name, or, for a "
                          f"private one, {LOG_IN}")
    if status == 401:
        return UsageError(f"the hub refuses the token that is set here; {LOG_IN} (HF_TOKEN goes before the login)")
    if status == 403:
        return UsageError(f"the hub does not let this account do that with {repo!r}; {LOG_IN} with a token that may")
    if 400 <= status < 500 and status not in (408, 429):
        return UsageError(f"the hub refuses {repo!r}: {reason(error)}")
    return None


def reason(error: BaseException) -> str:
    """The first line of an error, for a message."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    return "HF_HUB_OFFLINE is set" if isinstance(error, OfflineModeIsEnabled) else first_line(error)


def hub_folder(repo: str, files: Iterable[str], revision: str | None = None) -> Path:
    """The cached snapshot folder of a hub model, named by its full commit, with `files` (patterns) in it; everything is
    then read from that folder, so nothing asks the hub again. Without the hub what is cached is used, and that is
    logged. Raises UsageError."""
    from huggingface_hub import snapshot_download

    missing = None
    try:
        ask_hub(repo, revision)
    except Unreachable as error:
        missing = str(error)
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=list(files), etag_timeout=HUB_TIMEOUT,
                                        local_files_only=missing is not None))
    except Exception as error:      # the HTTP library's own, OSError and ValueError
        raise refusal(repo, error, revision) or UsageError(
            f"the hub cannot be reached for {repo!r}, and nothing of it is cached; on a machine with network run the "
            "same command once, or give a local folder with --scale DIR; --scale mini runs the miniature world without "
            f"a network ({missing or reason(error)})") from error
    if missing:
        log.warning("the hub cannot be reached (%s): using the cached commit %s of %s.", missing, folder.name, repo)
    return folder


def fetch_bundle(repo: str, revision: str | None = None, say: Say = print) -> Bundle:
    """The bundle `repo` at `revision` (None: main), checked by `read_bundle`; its folder is the snapshot in
    huggingface_hub's cache, named by its full commit.

    Names and sizes of all files are checked before anything is fetched, and stack.json before the rest. Without the hub
    a bundle that was fetched before is used, at the same commit, and `say` says so; main is then main as last seen.
    Raises UsageError when it cannot be had or is no bundle, CheckpointError when it is refused: then nothing of it
    stays in the cache.
    """
    from peft_stilts.model.bundle import MANIFEST, read_bundle, read_manifest

    repo, revision = split_id(f"{repo}@{revision}" if revision else repo)
    if revision and COMMIT.fullmatch(revision) and (kept := _cached(repo, revision)):
        with contextlib.suppress(CheckpointError):      # not whole: the hub has the rest
            return read_bundle(kept)
    try:
        info = ask_hub(repo, revision)
    except Unreachable as error:
        return _from_cache(repo, revision, str(error), say)
    commit, where = str(info.sha), f"{repo}@{str(info.sha)[:12]}"
    try:
        sizes = _sizes(repo, info)
        snapshot = _download(repo, commit, [MANIFEST])
        manifest = read_manifest((snapshot / MANIFEST).read_bytes(), f"{where}/{MANIFEST}")
        parts = {name for name in sizes if "/" in name}
        for name in sorted(parts ^ manifest.files.keys()):
            raise CheckpointError(f"{where}/{name} is {'not listed in' if name in parts else 'missing, but listed in'} "
                                  f"{MANIFEST}")
        say(f"{repo}: {len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB, at commit {commit}")
        _download(repo, commit, sizes)
        bundle = read_bundle(snapshot)
    except CheckpointError as error:
        _forget(repo, commit)
        raise CheckpointError(f"{repo} at commit {commit} is refused, and nothing of it is kept: {error}") from error
    if revision != commit:      # only now: what the cache knows as main has been checked
        write_atomic(snapshot.parents[1] / "refs" / (revision or "main"), commit)
    return bundle


def _from_cache(repo: str, revision: str | None, why: str, say: Say) -> Bundle:
    from peft_stilts.model.bundle import read_bundle

    kept = _cached(repo, revision)
    if kept is None:
        raise UsageError(f"the hub cannot be reached for {repo!r} ({why}), and the cache has no bundle of it at "
                         f"{revision or 'main'}; on a machine with network give `python -m peft_stilts share pull "
                         f"{repo} --out DIR`, and use that folder here")
    try:
        bundle = read_bundle(kept)
    except CheckpointError as error:
        raise CheckpointError(f"the hub cannot be reached for {repo!r} ({why}), and what the cache has of it is not as "
                              f"it was: {error}") from error
    say(f"the hub cannot be reached ({why}): using the cached commit {kept.name} of {repo}")
    return bundle


def _cached(repo: str, revision: str | None) -> Path | None:
    """The snapshot folder with a stack.json that the cache has of `repo` at `revision` (None: main as last seen)."""
    from huggingface_hub import try_to_load_from_cache

    from peft_stilts.model.bundle import MANIFEST

    found = try_to_load_from_cache(repo, MANIFEST, revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _sizes(repo: str, info: ModelInfo) -> dict[str, int]:
    """Every file of a bundle on the hub and its size in bytes. Raises UsageError for a repository that is no bundle,
    CheckpointError naming each file that may not lie in one, or is too large."""
    from peft_stilts.model.bundle import MANIFEST, allowed_file
    from peft_stilts.model.bundle_check import MOST_FILES, refuse_twins, shown, too_large

    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    if MANIFEST not in sizes:
        raise UsageError(_no_bundle(repo, sorted(sizes)))
    if len(sizes) > MOST_FILES:
        raise CheckpointError(f"it has {len(sizes)} files, at most {MOST_FILES} are read")
    wrong = [f"{shown(name)}: {why}" for name, size in sizes.items()
             if (why := allowed_file(name) or too_large(name, size))]
    if wrong:
        raise CheckpointError("; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""))
    refuse_twins(sizes, repo)
    return sizes


def _no_bundle(repo: str, names: list[str]) -> str:
    configs = [name for name in names if name.rpartition("/")[2] == "adapter_config.json"]
    if configs:
        folder = configs[0].rpartition("/")[0]
        inside = f", subfolder={folder!r}" if folder else ""
        return (f"{repo} is a plain PEFT adapter without stack.json: nothing in it tells which weights it was trained "
                f"on, so it is not used here. PEFT alone loads it: PeftModel.from_pretrained(base, {repo!r}{inside})")
    if "config.json" in names:
        return f"{repo} is a whole model, no bundle of adapters: it has no stack.json. As an encoder: --scale {repo}"
    found = ", ".join(repr(name) for name in names[:10]) or "nothing"
    return f"{repo} is no bundle of adapters: it has no stack.json (found: {found})"


def _download(repo: str, commit: str, names: Iterable[str]) -> Path:
    """The snapshot folder at `commit` with the files `names` in it; those that are cached are not fetched again."""
    from huggingface_hub import hf_hub_download

    folder = Path()
    for name in names:
        try:
            path = Path(hf_hub_download(repo, name, revision=commit, etag_timeout=HUB_TIMEOUT))
        except Exception as error:      # the HTTP library's own, OSError and ValueError
            raise refusal(repo, error, commit) or UsageError(
                f"fetching {repo} broke off at {name} ({reason(error)}); the same command goes on where it "
                "stopped") from error
        folder = path.parents[name.count("/")]
    return folder


def _forget(repo: str, commit: str) -> None:
    """Remove one commit of a model from the cache, and the files that no other commit has."""
    from dataclasses import replace

    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    with contextlib.suppress(CacheNotFound):
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
        own = [repository for repository in cache.repos if (repository.repo_type, repository.repo_id) == ("model", repo)
               and any(revision.commit_hash == commit for revision in repository.revisions)]
        if own:
            replace(cache, repos=frozenset(own)).delete_revisions(commit).execute()
