"""Paths and folders as they are typed, checked before anything is done with them."""

from __future__ import annotations

import os
from pathlib import Path

from peft_stilts.errors import UsageError


def typed_path(text: str, what: str) -> Path:
    """The path typed for `what`, `~` expanded; raises UsageError for an empty one and one no system call takes."""
    if not text.strip():
        raise UsageError(f"{what} is {text!r}; it must be a path")
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        told = text if len(text) <= 80 else f"{text[:80]}..."
        raise UsageError(f"{what} {told!r} is no usable path: {getattr(error, 'strerror', None) or error}") from error
    return path


def existing_folder(text: str, flag: str) -> Path:
    """The folder typed; raises UsageError when it is not there or cannot be read."""
    folder = typed_path(text, f"--{flag}")
    if not folder.is_dir():
        hint = "; `python tools/mirror.py --help` shows how to make one" if flag == "data_root" else ""
        raise UsageError(f"--{flag} {text!r} is no folder{hint}")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UsageError(f"--{flag} {text!r} cannot be read; check its permissions")
    return folder.resolve()


def writable_folder(text: str, flag: str) -> Path:
    """The folder typed, which need not be there yet. Raises UsageError for a link that leads nowhere, and where the
    nearest place that is there is a file; whether it may be written to shows only when it is."""
    folder = typed_path(text, f"--{flag}")
    if folder.is_symlink() and not folder.exists():
        raise UsageError(f"--{flag} {text!r} is a link that leads nowhere; remove it or choose another")
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise UsageError(f"--{flag} {text!r}: {there} is a file, not a folder; choose another")
    return folder
