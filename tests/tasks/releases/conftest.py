"""A bench for release files: write some, have them mirrored, look at what came out."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from peft_stilts.errors import DataError
from peft_stilts.tasks import TASKS
from peft_stilts.tasks.mirror import mirror
from peft_stilts.tasks.sources import LocalMirror, load_checked


class Bench:
    def __init__(self, folder: Path):
        self.source, self.root, self.said = folder / "release files", folder / "data root", []
        self.source.mkdir()

    def write(self, files):
        """Text, bytes, or a list of objects (JSON lines) by file name."""
        for name, content in files.items():
            path = self.source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, list):
                content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def mirror(self, task, files=None):
        """The mirrored pieces as 'repo config split', sorted."""
        self.write(files or {})
        written = mirror(task, self.source, self.root, self.said.append)
        return sorted(
            " ".join([*path.relative_to(self.root).parts[:-1], path.name.split("-00000")[0]]) for path in written
        )

    def table(self, repo, config, split):
        return pq.read_table(self.root / repo / config / f"{split}-00000-of-00001.parquet")

    def rows(self, repo, config, split):
        """The rows as tuples of their columns."""
        return [tuple(row.values()) for row in self.table(repo, config, split).to_pylist()]

    def checked(self, task, split):
        """The rows of a task's split as a run would get them: in the form's columns, checked."""
        task = TASKS[task]
        return load_checked(LocalMirror(self.root), task.form, split, labels=task.labels)

    def refuses(self, task, files, *parts):
        """Mirroring `files` is refused with a message that holds every one of `parts`; nothing is written."""
        self.write(files)
        with pytest.raises(DataError) as error:
            mirror(task, self.source, self.root, self.said.append)
        for part in parts:
            assert part in str(error.value), str(error.value)
        assert not self.root.exists()

    def told(self, *parts):
        return any(all(part in line for part in parts) for line in self.said)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)
