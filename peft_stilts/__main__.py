"""`python -m peft_stilts`: the command line."""

from peft_stilts.cli import main

main()
