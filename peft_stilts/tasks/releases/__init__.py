"""Readers of original release files: from the formats that data sets are published in to the hub's columns."""

from peft_stilts.tasks.releases import choices, pairs, sentences, spans, tagged  # noqa: F401  (they fill READERS)
from peft_stilts.tasks.releases.base import READERS

__all__ = ["READERS"]
