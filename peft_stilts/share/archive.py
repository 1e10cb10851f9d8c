"""A bundle as one zip file: the same bytes on every machine, and unpacked with suspicion."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from peft_stilts.errors import CheckpointError, StoreError, UsageError
from peft_stilts.model.bundle import MANIFEST, allowed_file, listing, read_bundle
from peft_stilts.model.bundle_check import MOST_FILES, allowed_folder, refuse_twins, shown, too_large
from peft_stilts.store import new_folder, replace_file

LARGEST = 2**31 - 2**20
"""Bytes of a zip and of what it holds: above 2 GiB zips need a second format (zip64), which is not read here."""
MOST_TIMES = 100
"""How many times the zip's own bytes its content may have."""
BLOCK = 2**20
END, END_BYTES = b"PK\5\6", 22
"""The record that ends a zip (APPNOTE.TXT 4.3.16, PKWARE), and its bytes where there is no comment."""
LOCATOR, LOCATOR_BYTES = b"PK\6\7", 20
"""What stands before it in a zip64 (APPNOTE.TXT 4.3.15)."""
DIRECTORY_LIMIT = MOST_FILES * 1024
KNOWN_FLAGS = 0x800 | 0x8 | 0x6
"""Names in UTF-8, sizes behind the data, the two bits that say how hard was compressed (APPNOTE.TXT 4.4.4)."""
UNREADABLE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, OverflowError, RuntimeError)
"""What zipfile raises for bytes that are no sound zip; RuntimeError covers NotImplementedError and passwords."""
TIME = (1980, 1, 1, 0, 0, 0)


def pack(folder: Path, file: Path) -> Path:
    """Write the bundle in `folder`, checked before, as the new zip `file`, at once; returns `file`.

    The zip depends on the content alone: names sorted, one fixed time and mode, nothing compressed (weights hardly can
    be, and compressors differ between machines). Raises UsageError where `file` is there already or the bundle is
    larger than a zip of 2 GiB, CheckpointError for a folder that is no sound bundle, StoreError when the disk does not
    take it.
    """
    file = Path(file)
    if os.path.lexists(file):
        raise UsageError(f"{file} is there already; name a file that is new, or remove it")
    read_bundle(folder)
    files = listing(folder)
    total = sum(path.stat().st_size for path in files.values())
    if total > LARGEST:
        raise UsageError(f"{folder} has {total} bytes, a zip takes {LARGEST} here; share it as a folder or on the hub")

    def write(draft: Path) -> None:
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
            for name, path in files.items():
                entry = zipfile.ZipInfo(name, TIME)
                entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
                entry.file_size = path.stat().st_size
                with open(path, "rb") as source, archive.open(entry, "w") as target:
                    shutil.copyfileobj(source, target, BLOCK)

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, write)
    except OSError as error:
        raise StoreError(f"{file} cannot be written: {error}") from error
    return file


def unpack(file: Path, target: Path) -> None:
    """Unpack the zip `file` into the new folder `target`, in one step: nothing is written elsewhere, and after an error
    nothing stays. What is in the bundle is for `read_bundle` to check.

    Raises UsageError where there is no such file or `target` is there already, StoreError when the disk does not take
    it, and CheckpointError, naming the entry, for a zip that is damaged, encrypted or larger than `LARGEST`,
    `MOST_FILES` or `MOST_TIMES` allow (counted while it is unpacked, too), and for entries whose name leads outside or
    may not lie in a bundle (`allowed_file`), stands twice or differs from another only by case, or that are links.
    """
    file = Path(file)
    if not file.is_file():
        raise UsageError(f"{file} is no file; name the zip of a bundle")
    with new_folder(target) as draft:
        _check_end(file)
        try:
            archive = zipfile.ZipFile(file)
        except UNREADABLE as error:
            raise _unreadable(file, error) from error
        with archive:
            entries = archive.infolist()
            _check_entries(file, entries)
            for entry in entries:
                path = draft / entry.filename
                if entry.is_dir():
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "xb") as out:
                    for block in _blocks(file, archive, entry):
                        out.write(block)


def _check_end(file: Path) -> None:
    """CheckpointError unless the file ends as a zip does whose directory can be read without harm: zipfile takes in a
    directory of any size, and believes a zip64's second, hidden end more than this one."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        stream.seek(max(size - END_BYTES - LOCATOR_BYTES, 0))
        tail = stream.read(END_BYTES + LOCATOR_BYTES)
    end = tail[-END_BYTES:]
    if len(end) < END_BYTES or not end.startswith(END) or end[-2:] != b"\0\0":
        raise CheckpointError(f"{file} is no zip file, was cut off, or has a comment at its end.")
    if tail[:-END_BYTES].startswith(LOCATOR):
        raise CheckpointError(f"{file} is a zip64; a bundle's zip has less than 2 GiB and is none.")
    if size > LARGEST + DIRECTORY_LIMIT:
        raise CheckpointError(f"{file} has {size} bytes; at most {LARGEST} are unpacked.")
    count, directory = struct.unpack_from("<HI", end, 10)
    if count > MOST_FILES or directory > DIRECTORY_LIMIT:
        raise CheckpointError(f"{file} has {count} entries in a directory of {directory} bytes; at most {MOST_FILES} "
                              f"in {DIRECTORY_LIMIT} are unpacked.")


def _check_entries(file: Path, entries: list[zipfile.ZipInfo]) -> None:
    """CheckpointError naming the first entry that may not be unpacked."""
    if len(entries) > MOST_FILES:
        raise CheckpointError(f"{file} has {len(entries)} entries; at most {MOST_FILES} are unpacked.")
    seen = set()
    for entry in entries:
        name = entry.orig_filename
        reason = "it stands twice" if name in seen else _refused(entry)
        if reason:
            raise CheckpointError(f"{file}: {shown(name)} is refused: {reason}.")
        seen.add(name)
    refuse_twins((entry.filename for entry in entries), str(file))
    total, packed = sum(entry.file_size for entry in entries), file.stat().st_size
    if total > min(LARGEST, MOST_TIMES * packed):
        raise CheckpointError(f"{file} says that it holds {total} bytes; of a zip of {packed} bytes at most "
                              f"{min(LARGEST, MOST_TIMES * packed)} are unpacked.")
    if MANIFEST not in seen:
        raise CheckpointError(f"{file} has no {MANIFEST}: it is no bundle of peft_stilts, or its files lie in a folder "
                              "inside the zip.")


def _refused(entry: zipfile.ZipInfo) -> str:
    """'' or why this entry is not unpacked. `orig_filename` is the name as it stands there, which zipfile cuts at NUL
    and on Windows changes."""
    name, mode = entry.orig_filename, entry.external_attr >> 16
    folder = name.endswith("/")
    if folder and not allowed_folder(name[:-1]):
        return allowed_file(name[:-1]) or "it is a folder of that name"
    if not folder and (reason := allowed_file(name)):
        return reason
    if name != entry.filename:
        return "its name reads differently"
    if stat.S_ISLNK(mode):
        return "it is a link"
    if stat.S_IFMT(mode) not in ((0, stat.S_IFDIR) if folder else (0, stat.S_IFREG)):
        return "it is no ordinary file" if not folder else "it is no ordinary folder"
    if entry.flag_bits & ~KNOWN_FLAGS:
        return "it is encrypted or of a kind that is not read here"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "it is compressed in a way that is not read here (stored and deflated are)"
    if folder and (entry.file_size or entry.compress_size):
        return "it is a folder with content"
    return too_large(name, entry.file_size)


def _blocks(file: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """The content of an entry; CheckpointError where it is damaged or not of the size that the directory says."""
    count = 0
    try:
        with archive.open(entry) as source:
            while block := source.read(BLOCK):
                count += len(block)
                if count > entry.file_size:
                    break
                yield block
    except UNREADABLE as error:
        raise _unreadable(file, error, entry.filename) from error
    if count != entry.file_size:
        raise CheckpointError(f"{file}: {entry.filename} is damaged: it has not the {entry.file_size} bytes that the "
                              "zip's directory says.")


def _unreadable(file: Path, error: Exception, name: str = "") -> CheckpointError:
    return CheckpointError(f"{file}{f': {name}' if name else ''} is damaged: {str(error) or type(error).__name__}.")
