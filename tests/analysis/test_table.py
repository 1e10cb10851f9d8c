"""The table at the end of a run: every number is there, at any width, and what it is of is said."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

from peft_stilts.analysis import labels
from peft_stilts.analysis.table import render, show
from peft_stilts.results import RESULTS

MINI = ("en", "qa", "qb", "qc", "qd", "qe", "qf", "qg", "qh", "qi")


def scores(seeds=(1,), languages=MINI, targets=("xquad", "tatoeba"), methods=("full", "lora"),
           intermediates=("none", "squad"), scale="mini", **changed):
    """A results table of random scores, the same for the same arguments."""
    draw = np.random.default_rng(0)
    rows = []
    for target in targets:
        for method in methods:
            for language in languages:
                for seed in seeds:
                    for name in intermediates:
                        rows.append(dict(
                            recipe="squad", scale=scale, base_model="miniature", base_revision="a",
                            data_source="miniature", protocol="stilts", method=method, method_config="{}",
                            policy="fp32", intermediate=name, intermediate_variant="", target=target,
                            target_variant="", language=language, split="validation",
                            metric="accuracy" if target == "tatoeba" else "f1", primary=True, seed=seed,
                            score=draw.uniform(0, 100), examples=300, stage_key=f"{name}-{seed}") | changed)
    return RESULTS.frame(rows)


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)])
@pytest.mark.parametrize("languages", [MINI, tuple(f"{a}{b}" for a in "abcd" for b in "qrstuvwxyz")])
def test_every_number_is_there_and_no_line_is_wider_than_the_terminal(width, seeds, languages):
    frame = scores(seeds, languages, intermediates=("none", "squad", "mnli"))
    text = render(frame, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    mean = frame.groupby(["target", "method", "intermediate", "language"])["score"].mean()
    numbers = re.findall(r"(?<![\d.±+-])\d+\.\d", text)
    for value in mean:
        assert f"{value:.1f}" in numbers
    for language in languages:
        assert re.search(rf"\b{language}\b", text)


def test_gain_spread_and_average_are_computed_over_seeds():
    frame = scores(seeds=(1, 2), languages=("en", "de"), targets=("xquad",), methods=("full",))
    table = frame.pivot_table(index=["seed", "language"], columns="intermediate", values="score")
    gain = (table["squad"] - table["none"]).groupby("seed").mean()
    text = render(frame, 100)
    assert f"gain {gain.mean():+.1f}±{gain.std(ddof=1):.1f}" in re.sub(" +", " ", text)
    assert "mean±standard deviation over 2 seeds (1, 2)" in text


def test_the_miniature_world_is_never_taken_for_xlmr():
    assert "miniature world - not XLM-R" in render(scores()) and "1 seed (1): no spread" in render(scores())
    large = render(scores(scale="large", base_model="FacebookAI/xlm-roberta-large"))
    assert "scale large · xlm-roberta-large" in large and "miniature" not in large


def test_scales_stand_apart_and_policies_are_compared_in_one_table():
    import pandas as pd

    text = render(pd.concat([scores(targets=("xquad",)), scores(targets=("xquad",), policy="merge"),
                             scores(targets=("xquad",), scale="base", base_model="x/base")]), 120)
    assert text.count("Zero-shot transfer") == 2 and "scale base · base" in text
    assert text.count("xquad (F1)") == 2 and "policy=merge" in text


def test_targets_trained_with_their_own_settings_are_no_difference_between_methods():
    import pandas as pd

    text = render(pd.concat([scores(targets=("xquad",), method_config='{"epochs":2}'),
                             scores(targets=("tydiqa",), method_config='{"epochs":5}')]))
    assert "epochs" not in text
    ranks = render(pd.concat([scores(targets=("xquad",), method_config=f'{{"lora":{{"rank":{rank}}}}}')
                              for rank in (4, 8)]))
    assert "lora.rank=4" in ranks and "lora.rank=8" in ranks


def test_a_baseline_alone_a_missing_baseline_and_nothing():
    text = render(scores(intermediates=("none",)))
    assert "none" in text and "+squad" not in text
    text = render(scores(intermediates=("squad",)))
    assert "+squad" in text and "40 scores have no baseline" in text and "tatoeba/full/squad" in text
    assert render(RESULTS.frame()) == "No scores yet.\n"


def test_order_of_languages():
    frame = scores(languages=("qb", "en", "qa"))
    assert re.search(r"avg +en +qb +qa", render(frame))
    assert re.search(r"avg +qa +qb +en", render(frame, order=["qa", "qb"]))


def test_methods_of_several_configurations_are_told_apart():
    import pandas as pd

    frame = pd.concat([scores(methods=("lora",), method_config=f'{{"alpha":32,"rank":{rank}}}') for rank in (8, 16)])
    text = render(frame, 160)
    assert "lora rank=8" in text and "lora rank=16" in text and "alpha" not in text
    assert labels.differing([{"a": 1}]) == [""]


def test_markup_in_names_is_shown_as_it_is():
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    show(scores(scale="x/[red]model", base_model="[bold]", intermediates=("none", "squad[/]")), console)
    text = re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue())
    assert "[red]model" in text and "+squad[/]" in text
