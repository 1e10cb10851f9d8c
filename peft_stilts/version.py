"""Versions: of the program, and of the numbers it computes."""

__version__ = "0.1.0"

NUMERICS_VERSION = 1
"""Raised by hand when a change makes the same recipe give other numbers; part of every stage key (design, rule 7)."""
