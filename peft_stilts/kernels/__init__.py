"""One file per kernel beside its specification in plain torch."""
