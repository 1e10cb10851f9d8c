"""Rows and folders in the real data sets' layout, small."""

import json
from pathlib import Path

import pytest
from datasets import Dataset


@pytest.fixture
def span_rows():
    """Builds n span rows with a prefix to their ids."""

    def build(count=4, prefix="q"):
        return {
            "id": [f"{prefix}{n}" for n in range(count)],
            "title": ["t"] * count,
            "context": [f"Fact {n}: the river {n} is {n} km long." for n in range(count)],
            "question": [f"How long is river {n}?" for n in range(count)],
            "answers": [
                {"text": [f"{n} km"], "answer_start": [f"Fact {n}: the river {n} is ".__len__()]} for n in range(count)
            ],
        }

    return build


@pytest.fixture
def folder(tmp_path, span_rows):
    """A data root with XQuAD.de of 4 rows; `write(config, split, rows)` adds to it."""

    class Folder:
        root: Path = tmp_path / "data root"
        repo: Path = root / "google" / "xtreme"

        def write(self, config, split, rows):
            path = self.repo / config / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            Dataset.from_dict(rows).to_parquet(path)
            return path

        def readme(self, configs):
            self.repo.mkdir(parents=True, exist_ok=True)
            entries = [
                {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in files.items()]}
                for name, files in configs.items()
            ]
            (self.repo / "README.md").write_text(f"---\nlicense: mit\nconfigs: {json.dumps(entries)}\n---\n# A card\n")

    made = Folder()
    made.path = made.write("XQuAD.de", "validation", span_rows())
    made.readme({"XQuAD.de": {"validation": "XQuAD.de/validation-*"}})
    return made
