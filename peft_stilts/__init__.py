"""How much an English intermediate task helps zero-shot cross-lingual transfer: full fine-tuning and stacked LoRA."""

import logging

from peft_stilts.version import __version__

# bitsandbytes, which PEFT imports where it is installed, says aloud that an optional package for the CPU is missing.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__all__ = ["__version__", "load"]


def load(source: str, task: str | None = None, base: str | None = None) -> tuple:
    """A shared stack of adapters as a stock transformers model, with its tokenizer; see `share.load.load`.

    `source`: a bundle (a folder, or `user/name[@revision]` on the hub), a stages/KEY folder of a run, or an adapter
    folder; `task`: whose head the model has, where there are several; `base`: the folder or id of the base encoder,
    where it is not where the adapters name it. Raises UsageError and CheckpointError, both sides named.
    """
    from peft_stilts.share.load import load as from_source

    return from_source(source, task, base)
