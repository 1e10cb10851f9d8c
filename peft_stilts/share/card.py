"""The model card of a bundle: README.md with the hub's metadata, how to load it, its limits, scores and picture."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import ModelCard

from peft_stilts.analysis import labels
from peft_stilts.analysis.figure import write as write_figure
from peft_stilts.grid.base import MINIATURE
from peft_stilts.model.bundle import Bundle
from peft_stilts.share.card_code import ENCODER, stock_code
from peft_stilts.share.card_facts import Facts, language_name, markdown, pathless, plain, read_facts, task_of
from peft_stilts.share.card_metadata import LICENCES, check_licence, metadata
from peft_stilts.spec import SCALES
from peft_stilts.store import write_atomic
from peft_stilts.tasks import NOT_COMPARABLE, TARGETS, TASKS

__all__ = ["LICENCES", "card", "check_licence", "write_card"]

CARD, PICTURE = "README.md", "gains.png"
METHODS = {"lora": "Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models (arXiv 2106.09685)",
           "rslora": "Kalajdzievski 2023, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA (arXiv "
                     "2312.03732)",
           "dora": "Liu et al. 2024, DoRA: Weight-Decomposed Low-Rank Adaptation (arXiv 2402.09353)",
           "qlora": "Dettmers et al. 2023, QLoRA: Efficient Finetuning of Quantized LLMs (arXiv 2305.14314)"}
STILTS = ("Phang et al. 2020, English Intermediate-Task Training Improves Zero-Shot Cross-Lingual Transfer Too (arXiv "
          "2005.13013)")
XLMR = "Conneau et al. 2020, Unsupervised Cross-lingual Representation Learning at Scale (arXiv 1911.02116)"
XTREME = ("Hu et al. 2020, XTREME: A Massively Multilingual Multi-task Benchmark for Evaluating Cross-lingual "
          "Generalization (arXiv 2003.11080)")
MINIATURE_WORLD = (
    "> **This is not XLM-R.** The encoder is the *miniature world's*, with a million parameters, and the data are "
    "generated: a toy English and invented languages, under the names and in the columns of the real data sets. It "
    "shows how peft_stilts works. No score here says anything about XLM-R, about a real language or about a real data "
    "set, and none may be compared with theirs.")


def write_card(bundle: Bundle, repo: str | None = None) -> list[Path]:
    """Write README.md into the bundle's folder, and gains.png where its scores hold gains, each replaced at once; an
    older picture without gains to show is removed. Returns the files written. `repo`, errors: see `card`."""
    facts = read_facts(bundle, repo)
    text = _card(facts)
    picture = bundle.folder / PICTURE
    if not write_figure(facts.scores, picture):
        picture.unlink(missing_ok=True)
    write_atomic(bundle.folder / CARD, text)
    return [bundle.folder / CARD, *[picture] * picture.exists()]


def card(bundle: Bundle, repo: str | None = None) -> str:
    """The text of the card. `repo`: the hub id (`user/name`) that it is for; without, the card speaks of the folder
    that it lies in.

    Raises UsageError for a `repo` that no hub accepts or an unknown licence, CheckpointError for adapters that do not
    fit, DataError for scores that are no rows of the results table.
    """
    return _card(read_facts(bundle, repo))


def _card(facts: Facts) -> str:
    sections = [f"# {markdown(facts.name)}", *[MINIATURE_WORLD] * facts.miniature, *_what(facts), *_loading(facts),
                *_limits(facts), *_scores(facts), *_training(facts), *_sources(facts)]
    body = "\n\n".join(sections)
    return str(ModelCard(f"---\n{metadata(facts).to_yaml()}\n---\n\n{body}\n"))


def _what(facts: Facts) -> list[str]:
    """What it is: the stack in words, its adapters and its heads."""
    base, several = facts.bundle.base, len(facts.adapters) > 1
    where = f"[{markdown(facts.base_model)}](https://huggingface.co/{facts.base_model}), revision " \
            f"`{plain(base['revision'])}`" if facts.base_model else markdown(facts.base_told)
    told = (f"{len(facts.adapters)} adapters, each trained on top of the one before it" if several else "One adapter") \
        + f", for {where}, trained {markdown(facts.read)} with peft_stilts and PEFT."
    order = ", ".join(f"{markdown(entry.name)}{f' ({what})' * several}"
                      for entry, what in zip(facts.bundle.adapters, _states(facts)))
    parts = [told, f"Stack{', lowest first' * several}: {order}. The base's `model.safetensors` has the SHA-256 "
                   f"`{plain(base['sha256'])}`; on other weights the adapters do not work."]
    if base["quantization"]:
        parts.append(f"The base is quantised: the six linear maps of each layer are in {plain(base['quantization'])} "
                     "(4 bits, doubly quantised constants); embeddings, LayerNorms and heads are not.")
    parts.append(_table(
        ["adapter", "trained on", "method", "rank", "alpha", "maps", "parameters", "MB"],
        ([entry.name, adapter.task, adapter.method, adapter.shape.rank, f"{adapter.shape.alpha:g}",
          _maps(adapter.shape.target_maps), f"{sum(tensor.numel() for tensor in adapter.tensors.values()):,}",
          _megabytes(adapter.folder)] for entry, adapter in zip(facts.bundle.adapters, facts.adapters))))
    if facts.heads:
        parts.append("Heads, each for the stack up to the adapter that it was trained with:")
        parts.append(_table(["head", "form", "outputs", "on the stack up to", "MB"],
                            ([task, head["form"], _outputs(head), facts.bundle.heads[task].adapter,
                              _megabytes(facts.bundle.head_folder(task))] for task, head in facts.heads.items())))
    else:
        parts.append("There is no head: the stack gives sentence and word vectors.")
    return parts


def _states(facts: Facts) -> list[str]:
    """What is done with each adapter while the last one acts."""
    folded = max((place for place, adapter in enumerate(facts.adapters) if adapter.policy == "merge"), default=0)
    last = len(facts.adapters) - 1
    return ["trained last" if place == last else "folded into the base" if place < folded else "frozen"
            for place in range(last + 1)]


def _loading(facts: Facts) -> list[str]:
    source, task = facts.source, _first_head(facts)
    scale = shlex.quote(_scale(facts))
    elsewhere = scale == ENCODER
    argument = (f", task={ascii(task)}" if task else "") + f", base={ascii(ENCODER)}" * elsewhere
    target, further = _targets(facts)
    method = facts.adapters[-1].method
    name = shlex.quote(source)
    lines = ["## How to load it", "With peft_stilts, which checks base, adapters and heads against their digests:",
             f"```python\nimport peft_stilts\n\nmodel, tokenizer = peft_stilts.load({ascii(source)}{argument})\n```",
             f"```bash\npython -m peft_stilts evaluate {name} --targets {target}{f' --scale {scale}' * elsewhere}\n"
             f"python -m peft_stilts recipe none --stack {name} --method {method} --targets {further} --scale {scale}"
             "\n```"]
    lines.append("With transformers and PEFT alone" + (f", the head of {markdown(task)}" if task else "")
                 + (" (bitsandbytes quantises the base; on some CPUs it then computes in bfloat16)"
                    if facts.bundle.base["quantization"] else "")
                 + ". PEFT does not check that the base is the right one; that transformers finds the head's weights "
                   "missing in the base, and newly makes them, is as it should be: they come from the bundle.")
    if not facts.base_model:
        lines.append("(The encoder comes with the package peft_stilts.)" if facts.bundle.base["id"] == MINIATURE else
                     f"(`{ENCODER}` stands for a folder that you must have: the base is not on the hub.)")
    lines.append(f"```python\n{stock_code(facts, task)}\n```")
    for other in facts.heads:
        if other != task:
            lines.append(f"<details><summary>The head of {markdown(other)}</summary>\n\n```python\n"
                         f"{stock_code(facts, other)}\n```\n\n</details>")
    return lines


def _scale(facts: Facts) -> str:
    """What `--scale` must be given for the base of the bundle."""
    if facts.bundle.base["id"] == MINIATURE:
        return "mini"
    return next((scale for scale, name in SCALES.items() if name == facts.base_model), facts.base_model or ENCODER)


def _first_head(facts: Facts) -> str | None:
    """The head that stands highest in the stack."""
    return max(facts.heads, key=facts.bundle.depth_of, default=None)


def _targets(facts: Facts) -> tuple[str, str]:
    """A target that the bundle can be evaluated on as it is, and one that it can be trained on further."""
    fit = [name for name in TARGETS if TASKS[name].trained_on in (None, *facts.heads)]
    scored = [name for name in facts.targets if name in fit]
    target = (scored or sorted(fit, key=lambda name: TASKS[name].trained_on is None))[0]
    return target, "xnli" if "tydiqa" in facts.heads else "tydiqa"


def _limits(facts: Facts) -> list[str]:
    languages = [language_name(code) for code in facts.scored_languages]
    scored = f"It was scored in {len(languages)}: {markdown(', '.join(languages))}." if languages else \
        "No scores come with it, in any language."
    points = [
        "For research on cross-lingual transfer: to be scored as it is in other languages, or trained further on an "
        "English task (intermediate-task training).",
        f"Trained {markdown(facts.read)}. {scored} Nothing is claimed of any other language, and English scores do not "
        "foretell those of others.",
        "What it learned it has from its base and from the data sets below, with their errors and biases; it was not "
        "examined for either. Not for decisions about people.",
    ]
    if facts.miniature:
        points[0] = "For trying out peft_stilts, and for nothing else: the languages and the data are invented."
    unlike = [name for name in facts.targets if name in NOT_COMPARABLE]
    if unlike:
        points.append(f"{', '.join(unlike)} is an easier task than XTREME's, and its score not comparable with "
                      "published ones.")
    return ["## Intended use and limits", "\n".join(f"- {point}" for point in points)]


def _scores(facts: Facts) -> list[str]:
    """A column a target, a line a language; means over seeds, with their spread, and the gains."""
    means = facts.means
    if not len(means):
        return []
    parts = list(labels.targets(means))
    cells = {label: {row.language: _cell(row) for row in rows.itertuples()} for label, rows in parts}
    names = {"avg": "**average**"} | {code: markdown(language_name(code)) for code in facts.scored_languages}
    table = _table(["language", *cells], ([name, *(of.get(code, "") for of in cells.values())]
                                          for code, name in names.items()), raw=True)
    seeds = sorted(facts.scores["seed"].unique())
    counted = f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else \
        f"seed {seeds[0]} alone: no spread, and a difference of a few points may be chance"
    own = [str(stage["seed"]) for stage in facts.stages if "seed" in stage]
    told = f"Points of 100; {counted}. In brackets: the gain, the score less that of the same training without the " \
           "intermediate task, where that was measured. Average: over the languages of a column, English included."
    if own and len(seeds) > 1:
        told += f" The weights here are those of seed {markdown(own[-1])}."
    further = list(dict.fromkeys(plain(target) for target, variant in zip(means["target"], means["target_variant"])
                                 if facts.further(target, variant)))
    if further:
        told = f"**{markdown(', '.join(further))}: after further training on the task, on top of this stack**, as an " \
               f"intermediate one is meant to be used; these weights alone do not have those scores. {told}"
    if facts.miniature:
        told = f"**Scores in the miniature world, not XLM-R's.** {told}"
    picture = [f"![Gain of each language]({PICTURE})"] * bool(means["gain"].notna().any())
    return ["## Scores", told, table, *picture]


def _cell(row: Any) -> str:
    """'41.3 ± 0.5 (+3.0 ± 0.4)': score and gain, each with its standard deviation where there are several seeds."""
    def number(value: float, spread: float, form: str) -> str:
        told = format(round(value, 1) + 0.0, form)      # no "-0.0"
        return told if pd.isna(spread) else f"{told} ± {spread:.1f}"

    score = number(row.score, row.score_sd, ".1f")
    return score if pd.isna(row.gain) else f"{score} ({number(row.gain, row.gain_sd, '+.1f')})"


def _training(facts: Facts) -> list[str]:
    """The settings of every stage and the splits they read."""
    parts = ["## Training"]
    if facts.stages:
        flat = [_flat(stage) for stage in facts.stages]
        keys = dict.fromkeys(key for stage in flat for key, value in stage.items() if value)
        parts.append(_table(["setting", *(stage.get("name", place) for place, stage in enumerate(flat, 1))],
                            ([key, *(stage.get(key, "") for stage in flat)] for key in keys if key != "name")))
    if facts.data:
        fields = ["repo", "config", "split", "revision", "rows"]
        rows = [[entry.get(field) for field in fields] for entry in facts.data]
        parts += ["Training data" + (" (generated, under the names of the real ones)" if facts.miniature else "") + ":",
                  _table(fields, ([_short(value) for value in row] for row in rows))]
    return parts


def _flat(stage: Mapping[str, Any]) -> dict[str, str]:
    """A stage of the recipe as setting -> words: its own fields, then those of `settings` and `lora`."""
    inner = [stage[name] for name in ("lora", "settings") if isinstance(stage.get(name), Mapping)]
    fields = {key: value for key, value in stage.items() if not isinstance(value, Mapping)}
    for block in inner:
        fields |= {key: value for key, value in block.items() if not isinstance(value, Mapping)}
    return {plain(key): _short(value) for key, value in fields.items()}


def _short(value: Any) -> str:
    """A value for a table: a list with commas, nothing for null, no folder of anyone's machine."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_short, value))
    return "" if value is None else pathless(value)


def _sources(facts: Facts) -> list[str]:
    """Licences, digests, versions and what to cite."""
    names = dict.fromkeys([*facts.trained_on, *facts.targets])
    tasks = {name: task_of(name) for name in names}
    parts = ["## Licences", f"These adapters and heads: {markdown(facts.bundle.licence)}."]
    if facts.miniature:
        parts[-1] += " Encoder and data are peft_stilts' own (Apache 2.0)."
    elif tasks:
        parts += ["Base and data have licences of their own, and some forbid commercial use:",
                  _table(["task", "trained on", "scored", "licence of its data"],
                         ([name, "yes" * (name in facts.trained_on), "yes" * (name in facts.targets),
                           task.licence if task else "not known here: a task of the author's own"]
                          for name, task in tasks.items()))]
    digests = [(part.path, part.sha256) for part in (*facts.bundle.adapters, *facts.bundle.heads.values())]
    parts += ["## Digests and versions", _table(["weights in", "SHA-256"], digests)]
    if facts.bundle.versions:
        parts.append("Trained with " + ", ".join(f"{markdown(name)} {markdown(version)}"
                                                 for name, version in facts.bundle.versions.items()) + ".")
    cited = [STILTS, *(METHODS[name] for name in METHODS if name in ("lora", *facts.methods))]
    if not facts.miniature:
        cited += [XLMR, *[XTREME] * any(name in TARGETS for name in facts.targets)]
        cited += [task.citation for task in tasks.values() if task]
    return [*parts, "## Please cite", "\n".join(f"- {markdown(work)}" for work in dict.fromkeys(cited))]


def _outputs(head: Mapping[str, Any]) -> str:
    shown = ", ".join(map(plain, head["labels"][:8])) + ", …" * (len(head["labels"]) > 8)
    return f"{head['num_labels']}" + (f" ({shown})" if shown else "")


def _maps(names: Sequence[str]) -> str:
    return "all six" if len(names) == 6 else ", ".join(names)


def _megabytes(folder: Path) -> str:
    """Size of the files in a folder, in 10^6 bytes, with two figures or more."""
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    return f"{size:.{2 if size >= 0.1 else 4}f}"


def _table(head: Sequence[Any], rows: Iterable[Sequence[Any]], raw: bool = False) -> str:
    """A Markdown table; the cells are plain text, or with `raw` Markdown already (but for the head)."""
    lines = [[markdown(cell) for cell in head], ["---"] * len(head),
             *([str(cell) if raw else markdown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
