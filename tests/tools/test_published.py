"""Published scores of two layouts become tables that the analysis reads."""

import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from peft_stilts.analysis.responses import read, responses
from tools.published import convert, main

LOGS = pd.DataFrame({"dataset": ["XNLI", "XNLI", "AmericasNLI"], "lang": ["de", "sw", "aym"], "model": "m", "seed": 1,
                     "test_acc": [80.0, 70.0, 40.0]})
README = pd.DataFrame({"model": "m", "metric": ["F1", "EM", "F1", "F1"], "lang": ["de", "de", "ro", "avg"],
                       "score": [80.0, 60.0, 81.0, 80.5]})


def test_both_layouts():
    told = convert(LOGS)
    assert told[["method", "target", "language", "seed", "score"]].to_numpy().tolist() == [
        ["m", "xnli", "de", 1, 80.0], ["m", "xnli", "sw", 1, 70.0]]
    told = convert(README)
    assert set(told["language"]) == {"de"} and dict(zip(told["metric"], told["primary"])) == {"f1": True, "em": False}
    with pytest.raises(ValueError, match="neither layout"):
        convert(pd.DataFrame({"a": [1]}))


def test_the_published_files_are_read(shared, tmp_path):
    for name, languages in (("xlmr_xnli_americasnli_zero_shot_logs.csv", 15), ("xquad_readme.csv", 11)):
        main(str(shared / "published" / name), str(tmp_path / name))
        told = responses(read([tmp_path / name], {})[0], "score", exclude=())
        assert told.means["language"].nunique() == languages and told.means["value"].between(20, 100).all()
