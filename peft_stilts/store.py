"""The artefact store: every finished stage under its own key, locked while made, checked when read."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from peft_stilts.digest import sha256_file
from peft_stilts.errors import StiltsError, StoreError, UsageError

RECORD = "stage.json"


def sync(path: Path) -> None:
    """Have the operating system put a file or folder on the disk now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk and put it in `path`'s place at once: a
    reader sees the old file or the whole new one, whatever happens."""
    draft = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(draft)
        sync(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A draft beside `target` to be filled, which takes its place in one step when the block ends well; after an error
    nothing of it stays, nor of the folders made above it. Errors name `target`.

    Raises UsageError where something is there already, StoreError when the disk does not take it.
    """
    target = Path(os.path.abspath(target))
    if os.path.lexists(target) and (target.is_symlink() or not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is there already; name a folder that is new, or remove it")
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    above = [folder for folder in target.parents if not folder.exists()]
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        yield draft
        for path in [draft, *draft.rglob("*")]:
            sync(path)
        os.replace(draft, target)
        sync(target.parent)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        for folder in above:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise StoreError(f"{target} cannot be written: {error}") from error
        if isinstance(error, StiltsError):
            told = getattr(error, "problems", [str(error)])
            raise type(error)(*(message.replace(str(draft), str(target)) for message in told)) from error
        raise


def write_atomic(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, and the folders above it, as `replace_file` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda draft: draft.write_bytes(text.encode()))


class Store:
    """Artefacts of stages below one `--runs` folder:

    `stages/KEY/` finished artefact with `stage.json` (specification, cost, SHA-256 of every file), never changed but
    for `drop`; `work/KEY/` checkpoints of a stage not yet finished; `locks/KEY.lock` held by the process that makes it.
    """

    def __init__(self, root: Path):
        self.root = Path(root)

    @staticmethod
    def locate(folder: Path) -> tuple[Store, str]:
        """The store in which a stages/KEY folder lies, and its key."""
        place = folder.resolve()
        return Store(place.parent.parent), place.name

    def folder(self, key: str) -> Path:
        """Where the finished artefact of `key` lies or will lie."""
        return self.root / "stages" / key

    def work(self, key: str) -> Path:
        """The folder of checkpoints and drafts of `key`, made when needed; use it only inside `claim`."""
        folder = self.root / "work" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finished(self, key: str) -> bool:
        """Whether the stage was completed; its weights may have been dropped since (`dropped`)."""
        return (self.folder(key) / RECORD).is_file()

    def dropped(self, key: str) -> bool:
        """Whether the stage was completed and its weights removed afterwards to bound disk use."""
        return self.finished(key) and self.record(key)["dropped"]

    def ready(self, key: str) -> bool:
        """Whether the stage was completed and its weights are there."""
        return self.finished(key) and not self.record(key)["dropped"]

    def record(self, key: str) -> dict[str, Any]:
        """The content of `stage.json`; raises StoreError when it is not there or cannot be read."""
        path = self.folder(key) / RECORD
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(record, dict) or not {"kind", "spec", "dropped", "files"} <= record.keys():
                raise ValueError("it lacks kind, spec, dropped or files")
            if not isinstance(record["dropped"], bool) or not isinstance(record["files"], dict) \
                    or record.get("key") != key:
                raise ValueError(f"it is not the record of {key}")
            return record
        except (OSError, ValueError, RecursionError) as error:
            raise StoreError(f"{path} cannot be read ({error}); remove {path.parent} to have the stage made again") \
                from error

    def keys(self) -> list[str]:
        """Keys of all finished stages, sorted."""
        return sorted(path.parent.name for path in self.root.glob(f"stages/*/{RECORD}"))

    @contextlib.contextmanager
    def claim(self, name: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the lock `name` (a stage key, or `results`): a second process waits here, after calling `waiting`.

        The lock ends with the process, however it ends.
        """
        lock = FileLock(self.root / "locks" / f"{name}.lock")
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def commit(self, key: str, draft: Path, record: dict[str, Any]) -> Path:
        """Make the folder `draft` the finished artefact of `key` in one step, and remove its checkpoints.

        `record` needs the keys kind, spec and parent. Returns the artefact's folder.
        """
        files = sorted(path for path in draft.rglob("*") if path.is_file() and path.name != RECORD)
        for path in files:
            sync(path)
        digests = {path.relative_to(draft).as_posix(): sha256_file(path) for path in files}
        content = {"key": key, "dropped": False} | record | {"files": digests}
        write_atomic(draft / RECORD, json.dumps(content, indent=1, ensure_ascii=False))
        target = self.folder(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():                     # weights dropped earlier and made again, or a folder without a record
            shutil.rmtree(target)
        os.replace(draft, target)
        sync(target.parent)
        self.clear_work(key)
        return target

    def clear_work(self, key: str) -> None:
        """Remove what an unfinished or just finished stage left in `work/`."""
        shutil.rmtree(self.root / "work" / key, ignore_errors=True)

    def open(self, key: str) -> Path:
        """The artefact's folder after checking every file against its checksum.

        Raises StoreError naming the file and both checksums, or that the weights were dropped.
        """
        folder, record = self.folder(key), self.record(key)
        again = f"remove {folder} to have the stage made again by the same command"
        if record["dropped"]:
            raise StoreError(f"the weights of stage {key} were dropped after scoring (keep them with --keep); {again}")
        for name, expected in record["files"].items():
            path = folder / name
            if not path.is_file():
                raise StoreError(f"{path} is missing; {again}")
            found = sha256_file(path)
            if found != expected:
                raise StoreError(f"{path} is corrupted: its SHA-256 is {found}, recorded was {expected}; {again}")
        unknown = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        unknown -= {RECORD, *record["files"]}
        if unknown:
            raise StoreError(f"{folder} holds what its record does not name: {', '.join(sorted(unknown))}; {again}")
        return folder

    def drop(self, key: str) -> None:
        """Remove the weights of a finished stage and keep its record (specification and cost).

        A drop that was killed half-way is finished when it is asked for again.
        """
        record = self.record(key)
        if not record["dropped"]:
            record["dropped"] = True
            write_atomic(self.folder(key) / RECORD, json.dumps(record, indent=1, ensure_ascii=False))
        for name in record["files"]:
            (self.folder(key) / name).unlink(missing_ok=True)
        for path in sorted(self.folder(key).rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
