"""Published scores per language as tables that tools/correlate.py reads: `published.py FILE.csv OUT.csv`.

Understood are two layouts: dataset, lang, model, seed, test_acc (shares or per cent of XNLI), and model, metric, lang,
score (XQuAD's README, whose `avg` is no language and whose `ro` XTREME has not).
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

LEFT_OUT = ("avg", "ro")


def convert(frame: pd.DataFrame) -> pd.DataFrame:
    """method (the model), target, metric, language, seed, score (per cent) and primary. Raises ValueError for a table
    of another layout."""
    if {"dataset", "lang", "model", "seed", "test_acc"} <= set(frame):
        told = pd.DataFrame({"method": frame["model"], "target": frame["dataset"].str.lower(), "metric": "accuracy",
                             "language": frame["lang"], "seed": frame["seed"], "score": frame["test_acc"],
                             "primary": True})
        return told[told["target"] == "xnli"]
    if {"model", "metric", "lang", "score"} <= set(frame):
        told = pd.DataFrame({"method": frame["model"], "target": "xquad", "metric": frame["metric"].str.lower(),
                             "language": frame["lang"], "seed": 1, "score": frame["score"]})
        told["primary"] = told["metric"] == "f1"
        return told[~told["language"].isin(LEFT_OUT)]
    raise ValueError(f"columns {', '.join(frame)}: neither layout is this")


def main(source: str, target: str) -> None:
    """Write the table."""
    convert(pd.read_csv(source)).to_csv(Path(target), index=False, lineterminator="\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
