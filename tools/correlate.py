"""Do gains follow a language's similarity to English, and do adapters match full fine-tuning? `--help` says more."""

import sys

from peft_stilts.analysis.__main__ import main

if __name__ == "__main__":
    sys.exit(main(name="python tools/correlate.py"))
