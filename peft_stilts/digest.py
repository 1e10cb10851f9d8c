"""Canonical JSON and SHA-256: how a specification becomes a key and how a file is known again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

COMMIT = re.compile(r"[0-9a-f]{40}")
"""How the full name of a commit of the hub looks."""


def canonical_json(value: Any) -> str:
    """`value` as JSON with sorted keys and no spaces: equal values give equal text on every machine.

    Raises ValueError for NaN and infinity, TypeError for anything JSON does not know.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def key_of(specification: Any) -> str:
    """The key of a specification: the first 16 hexadecimal digits of the SHA-256 of its canonical JSON."""
    return hashlib.sha256(canonical_json(specification).encode()).hexdigest()[:16]


def derived_seed(*parts: object) -> int:
    """A 63-bit seed from a purpose, a seed and a number: unrelated streams that need no state to go on."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits; read in blocks, so that size does not matter."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_folder(folder: Path, files: Iterable[Path] | None = None) -> str:
    """SHA-256 over the sorted relative names and digests of the files below `folder` (or of `files` only)."""
    folder = Path(folder)
    chosen = [path for path in folder.rglob("*") if path.is_file()] if files is None else list(files)
    names = sorted(path.relative_to(folder).as_posix() for path in chosen)
    lines = [f"{sha256_file(folder / name)}  {name}\n" for name in names]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
