"""Push a bundle to the hub: checked first, in one commit, so that a push that breaks off leaves what was there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from peft_stilts.errors import UsageError
from peft_stilts.grid.hub import HUB_TIMEOUT, LOG_IN, Unreachable, ask_hub, hub_token, reason, refusal, split_id, within
from peft_stilts.model.bundle import MANIFEST, allowed_file, listing, read_bundle
from peft_stilts.share.card import PICTURE

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo
    from huggingface_hub.hf_api import CommitOperationAdd, CommitOperationDelete

OF_THE_HUB = ".gitattributes"
"""Which files are large: the hub writes it when it makes a repository, and it stays as it is."""
BESIDE = (OF_THE_HUB, "README.md", "LICENSE")
"""What may lie in a repository before its first bundle."""


def push(folder: Path, repo: str, private: bool = False, say: Callable[[str], object] = print) -> str:
    """Make the bundle in `folder` the state of the model `repo` (`user/name`) on the hub, which is made where it is not
    there; returns the address of the commit.

    The files under adapters/ and heads/ of an earlier bundle go away in the same commit. A push that breaks off leaves
    the hub's earlier state, and the same command completes it; what arrived is not sent again. The token (HF_TOKEN or
    `hf auth login`) is neither shown nor stored. Raises CheckpointError for a folder that `read_bundle` refuses, before
    anything is sent, and UsageError for everything that the user can mend: no token, a name that is not the user's or
    is another model's, a public repository where a private one was asked for, a hub that does not answer.
    """
    from huggingface_hub import HfApi

    repo, revision = split_id(repo)
    if revision:
        raise UsageError(f"a push goes to main; leave out '@{revision}'")
    bundle = read_bundle(Path(folder))
    token = hub_token()
    if not token:
        raise UsageError(f"pushing to {repo} needs a token that may write: {LOG_IN} (made at "
                         "https://huggingface.co/settings/tokens); nothing was sent")
    api = HfApi(token=token)
    try:
        _check_owner(api, repo)
        info = _repository(api, repo, private, say)
        files = {name: path for name, path in listing(bundle.folder).items() if name != OF_THE_HUB}
        size = sum(path.stat().st_size for path in files.values())
        say(f"{repo}: {len(files)} files, {size / 1e6:.1f} MB")
        heads = ", ".join(bundle.heads) or "adapters"
        done = api.create_commit(repo, _changes(files, info), commit_message=f"Bundle of {heads}",
                                 parent_commit=info.sha)
    except UsageError:
        raise
    except Exception as error:      # huggingface_hub's, the HTTP library's, OSError, and what wraps them
        raise _broken(repo, error) from error
    say(f"{repo} is at commit {done.oid}")
    return str(done.commit_url)


def _check_owner(api: HfApi, repo: str) -> None:
    """UsageError unless the token is known to the hub, and belongs to the owner of `repo` or a member of it."""
    told = within(HUB_TIMEOUT + 1, api.whoami)
    mine = [str(told.get("name")), *(str(group.get("name")) for group in told.get("orgs") or ())]
    owner = repo.split("/")[0]
    if owner.lower() not in (name.lower() for name in mine):
        raise UsageError(f"this account writes below {', '.join(mine)}, not below {owner!r}: push to {mine[0]}/"
                         f"{repo.split('/')[1]}, or {LOG_IN} of {owner}")


def _repository(api: HfApi, repo: str, private: bool, say: Callable[[str], object]) -> ModelInfo:
    """The repository as it is, made where it is not there; UsageError where a bundle cannot take its place."""
    try:
        info = ask_hub(repo)
    except UsageError as missing:
        try:
            within(6 * HUB_TIMEOUT, lambda: api.create_repo(repo, private=private, exist_ok=True))
        except Exception as error:
            raise (refusal(repo, error) or error) from missing
        info = ask_hub(repo)
        say(f"{repo}: made, {'private' if private else 'public'}")
    names = sorted(file.rfilename for file in info.siblings or ())
    other = [name for name in names if name not in BESIDE and (MANIFEST not in names or allowed_file(name))]
    if other:
        raise UsageError(f"{repo} is another model on the hub (it has {', '.join(other[:5])}); a bundle goes into a "
                         "repository of its own: give it another name; nothing was sent")
    if private and not info.private:
        raise UsageError(f"{repo} is public on the hub already; make it private in its settings there, or give another "
                         "name; nothing was sent")
    return info


def _changes(files: Mapping[str, Path], info: ModelInfo) -> list[CommitOperationAdd | CommitOperationDelete]:
    """The one commit (HfApi.upload_folder may make several): `files` come, old parts that are not among them go."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    gone = [file.rfilename for file in info.siblings or ()
            if ("/" in file.rfilename or file.rfilename == PICTURE) and file.rfilename not in files]
    return [*(CommitOperationDelete(name) for name in sorted(gone)),
            *(CommitOperationAdd(name, str(path)) for name, path in files.items())]


def _broken(repo: str, error: Exception) -> UsageError:
    """The message for a push that did not end: what the hub refuses, or where to go on."""
    if isinstance(error, ValueError) and "README.md" in str(error):
        return UsageError(f"the hub refuses the metadata of README.md: {' '.join(str(error).split())}")
    causes: list[BaseException] = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in causes:
        if getattr(getattr(cause, "response", None), "status_code", 0) in (409, 412):
            return UsageError(f"{repo} was changed on the hub meanwhile; look at it, and give the same command again")
        if told := refusal(repo, cause):
            return told
    why = str(error) if isinstance(error, Unreachable) else reason(causes[-1] if len(causes) > 1 else error)
    return UsageError(f"pushing to {repo} broke off ({why}); the hub has what it had before, and the same command "
                      "completes it")
