"""Every shell block of README and docs runs as written (long ones: their commands and flags exist)."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from run_readme import documents, run_document  # noqa: E402


@pytest.mark.parametrize("document", documents(ROOT), ids=lambda path: path.name)
def test_commands_of(document):
    assert run_document(document, ROOT) == []


def test_the_readme_is_among_them():
    assert "README.md" in [path.name for path in documents(ROOT)]
