"""The verbs of `share`: bundles of adapters to and from a folder, a zip or the hub."""

from __future__ import annotations

from peft_stilts.errors import Problems

Text = str | None
"""A flag as typed, None where it was not given; spec.py gives it its meaning."""


def share_export(source: str, *, out: str, stage: Text = None, licence: str = "unknown", base: Text = None,
                 scale: str = "auto") -> None:
    """Write the adapters of a run, their heads, scores and a card as a bundle: a folder, or a zip.

    Args:
        source: a --runs folder, one of its stages/KEY folders, or an adapter folder.
        out: the new folder, or a new file ending in .zip.
        stage: key of the training stage whose stack is wanted, where a --runs folder has several.
        licence: the hub's name of a licence, such as mit or cc-by-sa-4.0.
        base: the hub id of the base encoder, where the run had it from a folder.
        scale: the folder or id of the base encoder, where it is not where the run had it.
    """
    from peft_stilts.paths import typed_path
    from peft_stilts.share.export import export
    from peft_stilts.share.pull import described

    with Problems() as found:
        with found.collect():
            typed_path(source, "SOURCE")
        with found.collect():
            path = typed_path(out, "--out")
    bundle = export(source, path, stage=stage, licence=licence, base_id=base, scale=scale)
    print(described(bundle))


def share_push(source: str, repo: str, *, private: bool = False) -> None:
    """Upload a bundle to the hub, in one commit; an interrupted push is finished by the same command.

    The token is the one of `hf auth login` or HF_TOKEN.

    Args:
        source: a bundle: a folder or a zip.
        repo: its id on the hub, user/name; made where it is not there.
        private: make a new repository private.
    """
    from peft_stilts.share.hub import push
    from peft_stilts.share.pull import opened
    from peft_stilts.spec import switch

    with opened(source) as bundle:
        print(push(bundle.folder, repo, switch(str(private), "private")))


def share_pull(source: str, *, out: Text = None) -> None:
    """Bring a bundle here and check it; what is refused leaves nothing.

    Args:
        source: user/name or user/name@revision on the hub, a zip, or a folder.
        out: the new folder. Without it a zip goes into a folder of its name, and a bundle of the hub into the hub's
            cache, where `recipe --stack user/name` and `evaluate user/name` find it.
    """
    from peft_stilts.paths import typed_path
    from peft_stilts.share.pull import described, pull

    bundle = pull(source, None if out is None else typed_path(out, "--out"))
    print(described(bundle))


def share_verify(source: str, *, scale: Text = None) -> None:
    """Check a bundle: every file against its digest, every tensor, the chain of adapters, and its base if asked for.

    Args:
        source: a bundle: a folder, a zip, or user/name on the hub.
        scale: the encoder (base, large, an id or a folder) that it must be for.
    """
    from peft_stilts.share.pull import described, opened, verify_base

    with opened(source) as bundle:
        told = described(bundle)
        if scale is not None:
            verify_base(bundle, scale)
    print(f"{told}\nverified: every file is as it was written" + (f", and its base is {scale}" if scale else ""))


def share_card(source: str, *, repo: Text = None) -> None:
    """Write the model card of a bundle, README.md with the hub's metadata, and the picture of its gains.

    Args:
        source: a bundle folder.
        repo: the id it will have on the hub, user/name, for the examples in the card.
    """
    from peft_stilts.model.bundle import read_bundle
    from peft_stilts.paths import typed_path
    from peft_stilts.share.card import write_card

    for path in write_card(read_bundle(typed_path(source, "SOURCE")), repo):
        print(path)


SHARE = {"export": share_export, "push": share_push, "pull": share_pull, "verify": share_verify, "card": share_card}
