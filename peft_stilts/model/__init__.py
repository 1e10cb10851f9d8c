"""Encoders, heads, stacks of adapters, and their files."""

import logging

# bitsandbytes, which PEFT imports where it is installed, misses an optional package for speed on the CPU aloud.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
