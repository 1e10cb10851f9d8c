"""Text that a tool writes into a document, between two marks that stay."""

from __future__ import annotations

import re
from pathlib import Path

from peft_stilts.errors import UsageError
from peft_stilts.store import write_atomic


def fill(page: Path, name: str, text: str) -> None:
    """Put `text` between `<!-- NAME -->` and `<!-- end of NAME -->` of a Markdown file, in one step; UsageError where
    it has no such marks."""
    content = page.read_text(encoding="utf-8")
    between = re.compile(rf"(<!-- {name} -->\n)(.*?)(<!-- end of {name} -->)", re.DOTALL)
    if not between.search(content):
        raise UsageError(f"{page} has no marks <!-- {name} --> and <!-- end of {name} -->")
    write_atomic(page, between.sub(lambda found: f"{found[1]}{text}\n{found[3]}", content))
