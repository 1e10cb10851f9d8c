"""Push a bundle to the hub: one commit, so that an interrupted push changes nothing and the same command finishes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from peft_stilts.errors import UsageError
from peft_stilts.grid.hub import LOG_IN, hub_token, reach_hub, reason, refusal, split_id
from peft_stilts.model.bundle import read_bundle


def push(folder: Path, repo: str, private: bool = False, say: Callable[[str], None] = print) -> str:
    """Upload the bundle in `folder` to the hub's model `repo` (made where it is not there); returns the commit's address.

    The bundle is checked first. Files of an older bundle there are removed in the same commit; files that the hub has
    already are not sent again. The token is that of HF_TOKEN or `hf auth login`; it is never shown. Raises UsageError
    for a wrong name, without a token, or where the hub refuses or does not answer (within seconds).
    """
    from huggingface_hub import HfApi, constants

    bundle = read_bundle(folder)
    repo, revision = split_id(repo)
    if revision:
        raise UsageError(f"a push goes to main of {repo}; leave out '@{revision}'")
    if constants.HF_HUB_OFFLINE:
        raise UsageError("nothing can be pushed while HF_HUB_OFFLINE is set")
    if not hub_token():
        raise UsageError(f"pushing {repo} needs a token that may write; {LOG_IN}")
    if why := reach_hub(constants.ENDPOINT):
        raise UsageError(f"the hub cannot be reached at {constants.ENDPOINT} ({why}); nothing was sent")
    say(f"pushing {bundle.folder} to {repo}")
    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo, folder_path=bundle.folder, commit_message="Bundle of peft_stilts",
                                   delete_patterns=["adapters/*", "heads/*", "gains.png"])
    except Exception as error:      # which HTTP library's errors these are depends on huggingface_hub's version
        raise refusal(repo, error) or UsageError(
            f"pushing {repo} broke off ({reason(error)}); the repository is as it was, and the same command finishes "
            "it") from error
    return str(commit.commit_url)
