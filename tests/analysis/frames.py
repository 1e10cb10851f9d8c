"""Results tables with known gains, for tests of what is said of many tasks, layers and scales."""

import itertools

from peft_stilts.results import RESULTS
from peft_stilts.tasks import TASKS


def frame_of(gain, intermediates=("squad",), targets=("xnli",), methods=("full",), seeds=(1,), languages=("en", "de"),
             variants=("",), readings=("",), **changed):
    """A results table in which `gain(cell)` gives the points that a score has over its baseline of 40.

    `cell` is the dict of the row; `variants` are of the intermediate setting, `readings` of the target.
    """
    rows = []
    for target, method, seed, language, reading in itertools.product(targets, methods, seeds, languages, readings):
        for name, variant in [("none", ""), *itertools.product(intermediates, variants)]:
            row = dict(
                recipe=name, scale="mini", base_model="miniature", base_revision="a", data_source="miniature",
                protocol="jiant", method=method, method_config="{}", policy="continue", intermediate=name,
                intermediate_variant=variant, target=target, target_variant=reading, language=language, split="test",
                metric=TASKS[target].primary, primary=True, seed=seed, examples=100,
                stage_key=f"{name}-{variant}-{target}-{method}-{seed}-{reading}") | changed
            rows.append(row | {"score": 40.0 + (0 if name == "none" else gain(row))})
    return RESULTS.frame(rows)
