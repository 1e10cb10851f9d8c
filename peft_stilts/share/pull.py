"""Bring a bundle here: from the hub, a zip or a folder, checked before anyone sees it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from peft_stilts.errors import UsageError
from peft_stilts.grid.base import find_base, weights_sha256
from peft_stilts.grid.hub import fetch_bundle, is_hub_id, split_id
from peft_stilts.model.bundle import MANIFEST, Bundle, check_base, listing, read_bundle
from peft_stilts.share.archive import unpack
from peft_stilts.store import new_folder


def pull(source: str, out: Path | None = None, say: Callable[[str], None] = print) -> Bundle:
    """The checked bundle of `source`: a zip, a folder, or `user/name[@revision]` on the hub.

    Written to the new folder `out`; without it a zip goes into a folder of its name, and a bundle of the hub stays in
    the hub's cache, where `--stack user/name` and `evaluate user/name` find it. What is refused (see `read_bundle` and
    `unpack`) leaves nothing. Raises UsageError for a source that is none of these, or a folder without `out`.
    """
    path = Path(source).expanduser()
    if path.is_file():
        target = out or Path(path.name).with_suffix("")
        with new_folder(target) as draft:
            inside = draft / "zip"
            unpack(path, inside)
            bundle = read_bundle(inside)
            for part in list(inside.iterdir()):
                os.replace(part, draft / part.name)
            inside.rmdir()
        return dataclasses.replace(bundle, folder=target)
    if path.is_dir():
        if out is None:
            raise UsageError(f"{source} is a folder already; name a new one with --out, or use it as it is")
        return copy(read_bundle(path), out)
    if not is_hub_id(source):
        raise UsageError(f"{source!r} is no zip, no folder and no hub id (user/name, or user/name@revision)")
    bundle = fetch_bundle(*split_id(source), say=say)
    return bundle if out is None else copy(bundle, out)


@contextlib.contextmanager
def opened(source: str) -> Iterator[Bundle]:
    """The checked bundle of `source` for the time of the block: a folder and the hub's cache as they are, a zip
    unpacked in a temporary folder."""
    path = Path(source).expanduser()
    if path.is_dir():
        yield read_bundle(path)
    elif path.is_file():
        with tempfile.TemporaryDirectory() as folder:
            yield pull(source, Path(folder) / path.stem)
    else:
        yield pull(source)


def verify_base(bundle: Bundle, scale: str) -> None:
    """Raises CheckpointError, both sides named, unless the encoder that `scale` names is the bundle's base."""
    base = find_base(scale)
    quantization = {"quantization": bundle.base["quantization"]} if bundle.base["quantization"] else {}
    check_base(bundle, {"id": base.id, "revision": base.revision, "sha256": weights_sha256(base)} | quantization)


def copy(bundle: Bundle, out: Path) -> Bundle:
    """A copy of a bundle, its card and pictures among it, in the new folder `out`."""
    with new_folder(out) as draft:
        for name, path in listing(bundle.folder).items():
            target = draft / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        made = read_bundle(draft)
    return dataclasses.replace(made, folder=out)


def described(bundle: Bundle) -> str:
    """A bundle in a few lines: base, adapters with their digests, heads, licence."""
    base = bundle.base
    kind = " in 4 bits" if base["quantization"] else ""
    lines = [f"{bundle.folder}: {len(bundle.adapters)} adapters over {base['id']}{kind} at {base['revision']} "
             f"(sha256 {base['sha256'][:12]}…)"]
    lines += [f"  {adapter.name}: {adapter.path}, sha256 {adapter.sha256[:12]}…" for adapter in bundle.adapters]
    lines += [f"  head of {task}, used over the adapters up to {head.adapter}" for task, head in bundle.heads.items()]
    return "\n".join([*lines, f"  licence {bundle.licence}, {len(bundle.scores)} scores in {MANIFEST}"])
