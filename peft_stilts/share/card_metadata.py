"""The hub's metadata of a model card: base, licence, languages, data and scores, as huggingface_hub writes them."""

from __future__ import annotations

import re
from os.path import commonprefix
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from peft_stilts.analysis import labels
from peft_stilts.errors import UsageError
from peft_stilts.languages import LANGUAGES
from peft_stilts.registry import unknown
from peft_stilts.share.card_facts import Facts, language_name, plain, task_of
from peft_stilts.tasks.sources import OFF_HUB

LICENCES = frozenset(
    "afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0 "
    "bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 "
    "cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 "
    "cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 "
    "cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 "
    "etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 h-research "
    "intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit "
    "mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown "
    "unlicense wtfpl zlib".split())
"""Identifiers that the hub knows for `license:` (huggingface.co/docs/hub/repositories-licenses, as of 2026)."""

_OTHER = re.compile(r"other:([a-z0-9][a-z0-9.-]{0,63})")
FORMS = {"span": "question-answering", "nullable_span": "question-answering", "classification": "text-classification",
         "choice": "multiple-choice", "tagging": "token-classification", "retrieval": "sentence-similarity",
         "mining": "sentence-similarity", "mlm": "fill-mask"}
"""Form of a task or head -> the hub's name for such tasks (huggingface.co/tasks)."""


def check_licence(text: str) -> str:
    """`text` itself, if it is one of LICENCES, or `other:NAME` for terms that the hub has no identifier for (NAME in
    small letters, digits, `.` and `-`); raises UsageError with the nearest identifiers."""
    if text in LICENCES or _OTHER.fullmatch(text):
        return text
    raise UsageError(f"{unknown('licence', text, LICENCES)} Terms of your own: other:NAME, with small letters, digits, "
                     ". and - in the name, and a file LICENSE in the bundle")


def metadata(facts: Facts) -> ModelCardData:
    """The card's YAML block. Without a hub id of the base there is no `base_model`; in the miniature world there are
    no data sets or languages: none of the hub's was used. Raises UsageError for an unknown licence."""
    results = eval_results(facts)
    known = [code for code in facts.scored_languages if code in LANGUAGES] or ["en"]
    tags = ["peft_stilts", "adapter", "lora", *facts.methods, "cross-lingual", "zero-shot", "intermediate-task"]
    tags += ["miniature-world"] if facts.miniature else ["xlm-roberta", "xtreme"]
    return ModelCardData(
        base_model=facts.base_model,
        base_model_relation="adapter" if facts.base_model else None,
        library_name="peft",
        pipeline_tag=_pipeline(facts),
        language=None if facts.miniature else known,
        datasets=_datasets(facts) or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        tags=tags,
        model_name=facts.repo or facts.name,
        eval_results=results or None,
        **_licence(facts),
    )


def eval_results(facts: Facts) -> list[EvalResult]:
    """Of every target its primary metric averaged over languages, then that of each language; means over seeds,
    rounded to hundredths.

    The hub groups results by data set, configuration and split; the configuration of an average is what its languages'
    have in common, and a `*`.
    """
    found = []
    for (target, variant, metric, split), rows in facts.means.groupby(
            ["target", "target_variant", "metric", "split"], sort=False):
        task = task_of(target)
        told = " ".join(filter(None, (plain(target), plain(variant))))
        after = f", after further training on {plain(task.trained_on if task else target)}" \
            if facts.further(target, variant) else ""
        splits = {code: task.test(LANGUAGES[code]) for code in rows["language"] if code in LANGUAGES} \
            if task and task.is_target and not facts.miniature else {}
        configs = {code: of.config for code, of in splits.items() if of.config}
        common = commonprefix(list(configs.values()))
        if len(set(configs.values())) > 1:
            common += "*"
        values = zip(rows["language"], rows["score"], rows["seeds"])
        for code, score, seeds in sorted(values, key=lambda value: value[0] != "avg"):
            where = "average over languages" if code == "avg" else language_name(code)
            found.append(EvalResult(
                task_type=FORMS[task.form] if task else "other",
                dataset_type=_dataset_type(facts, target, [of.repo for of in splits.values()]),
                dataset_name=f"{told} of the miniature world (not XLM-R)" if facts.miniature else told,
                dataset_config=configs.get(code) or common or None,
                dataset_split=plain(split),
                metric_type=plain(metric),
                metric_name=f"{told} {labels.METRIC.get(metric, plain(metric))}, {where}, mean over "
                            f"{seeds} seed{'s' * (seeds != 1)}{after}",
                metric_value=round(float(score), 2),
            ))
    return found


def _dataset_type(facts: Facts, target: str, repos: list[str]) -> str:
    """The hub id of a target's data; a name that is none of the hub's where they are of another kind."""
    if facts.miniature:
        return f"peft_stilts-miniature-{plain(target)}"
    return repos[0] if repos else plain(target)


def _datasets(facts: Facts) -> list[str]:
    """Hub ids of the training data, each once: not the miniature world's, users' own files, or OFF_HUB's."""
    if facts.miniature:
        return []
    repos = [str(entry.get("repo")) for entry in facts.data if entry.get("revision") != "files"]
    return [repo for repo in dict.fromkeys(repos) if repo not in OFF_HUB and re.fullmatch(r"[\w.-]+/[\w.-]+", repo)]


def _pipeline(facts: Facts) -> str | None:
    """The hub's task that all heads agree on."""
    found = {FORMS.get(head["form"]) for head in facts.heads.values()}
    return found.pop() if len(found) == 1 else None


def _licence(facts: Facts) -> dict[str, Any]:
    """`license`, and for terms of one's own their name and the file with them."""
    licence = check_licence(facts.bundle.licence)
    kind, _, name = licence.partition(":")
    if kind != "other":
        return {"license": licence}
    files = [path for path in ("LICENSE", "LICENSE.md", "LICENSE.txt") if (facts.bundle.folder / path).is_file()]
    return {"license": "other", "license_name": name or "see-the-model-card",
            "license_link": files[0] if files else None}
