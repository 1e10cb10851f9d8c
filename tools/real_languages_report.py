"""Controls, scores and tables of tools/real_languages.py: treebanks tagged without an encoder, and what is told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    import pyarrow as pa

Texts = Mapping[str, str]
"""One text in several languages, by language code."""
Tags = tuple[str, ...]
"""The tags of a sentence, one a word."""
RANDOM = "random encoder"
CONTROLS = ("most frequent tag", "word forms", RANDOM)
PRETRAINED = "pretrained"


@dataclass(frozen=True)
class Treebank:
    """A test treebank: its name, its language's code, and its rows (tokens, pos_tags) in their order."""

    name: str
    code: str
    rows: pa.Table

    @property
    def words(self) -> list[list[str]]:
        return self.rows["tokens"].to_pylist()

    @property
    def tags(self) -> list[Tags]:
        return tags_of(self.rows)


def tags_of(rows: pa.Table) -> list[Tags]:
    """The parts of speech of each sentence, as words."""
    from peft_stilts.tasks.xtreme import UPOS

    return [tuple(UPOS[number] for number in numbers) for numbers in rows["pos_tags"].to_pylist()]


def lines_by_language(bundles: Sequence[Texts]) -> dict[str, list[Texts]]:
    """The texts that each language has, languages sorted."""
    return {code: [bundle for bundle in bundles if code in bundle] for code in sorted(set().union(*bundles))}


def most_frequent(tags: Iterable[Tags]) -> str:
    """The tag that most words have; the first one seen among equals."""
    return Counter(tag for sentence in tags for tag in sentence).most_common(1)[0][0]


def form_tags(words: Iterable[Sequence[str]], tags: Iterable[Tags]) -> dict[str, str]:
    """Word form -> the tag it has most often; the first one seen among equals."""
    counts: dict[str, Counter[str]] = {}
    for sentence, found in zip(words, tags, strict=True):
        for word, tag in zip(sentence, found, strict=True):
            counts.setdefault(word, Counter())[tag] += 1
    return {word: count.most_common(1)[0][0] for word, count in counts.items()}


def control_tags(words: Iterable[Sequence[str]], forms: Mapping[str, str], usual: str) -> list[Tags]:
    """The tag of each word's form, `usual` for a form not seen; with no forms, `usual` everywhere."""
    return [tuple(forms.get(word, usual) for word in sentence) for sentence in words]


def score(predicted: Sequence[Tags], bank: Treebank) -> dict[str, float]:
    """{'f1', 'accuracy'} in 0..100 of a treebank (metrics/tagging.py)."""
    from peft_stilts.tasks.metrics.tagging import pos

    sides = ({str(row): tags for row, tags in enumerate(side)} for side in (predicted, bank.tags))
    return pos(*sides, bank.code)


def verdict(scores: pd.DataFrame, controls: Sequence[str] = CONTROLS) -> str:
    """How the pretrained encoder stands on one treebank and metric beside `controls`: `wins` when each of its seeds is
    above each of their scores, `loses` when its mean is below some control's mean, `open` otherwise."""
    best = scores[scores["model"] == PRETRAINED]["score"]
    others = scores[scores["model"].isin(controls)]
    if best.min() > others["score"].max():
        return "wins"
    return "loses" if best.mean() < others.groupby("model")["score"].mean().max() else "open"


def table(scores: pd.DataFrame, texts: Mapping[str, int]) -> list[str]:
    """Lines of a Markdown table of the scores of one metric: a treebank a line; means over seeds with their standard
    deviation, and the gaps of the pretrained encoder with the verdicts on them."""
    models = [*CONTROLS, PRETRAINED]
    lines = [f"| treebank | texts for pretraining | words | {' | '.join(models)} | beside the random encoder | beside "
             "the best control |", "|---" * (5 + len(models)) + "|"]
    for (name, code, words), some in scores.groupby(["treebank", "language", "words"], sort=False):
        told = some.groupby("model")["score"].agg(["mean", "std", "size"])
        cells = [f"{told['mean'][model]:.1f}" + (f" ± {told['std'][model]:.1f}" if told["size"][model] > 1 else "")
                 for model in models]
        for controls in ([RANDOM], list(CONTROLS)):
            gap = told["mean"][PRETRAINED] - told["mean"][controls].max()
            cells.append(f"{gap:+.1f} {verdict(some, controls)}")
        lines.append(f"| {name.removeprefix('UD_')} ({code}) | {texts.get(code, 0):,} | {words:,} | "
                     f"{' | '.join(cells)} |")
    return lines


def summary(scores: pd.DataFrame, controls: Sequence[str], told: str) -> str:
    """How often the pretrained encoder wins and loses beside `controls`, in words."""
    counts = Counter(verdict(some, controls) for _, some in scores.groupby("treebank"))
    return (f"Beside {told} the pretrained encoder wins on {counts['wins']} of {counts.total()} treebanks, loses on "
            f"{counts['loses']}, and {counts['open']} are open.")


def report(scores: pd.DataFrame, out: Path, encoder: Path, bundles: Sequence[Texts], sizes: Mapping[str, int]) -> str:
    """The report as Markdown: how small it is, accuracy and XTREME's F1 of every treebank, and the cost."""
    from peft_stilts import results
    from peft_stilts.grid.base import find_base
    from peft_stilts.grid.estimate import encoder_parameters
    from peft_stilts.progress import clock

    cost, config = json.loads((encoder / "cost.json").read_text()), find_base(str(encoder)).config
    stages = results.STAGES.read(out / "runs")
    texts = {code: len(lines) for code, lines in lines_by_language(bundles).items()}
    seeds_told = ", ".join(map(str, sorted(set(scores["seed"]) - {0} or {0})))
    lines = [
        "# Real languages, in the small", "",
        f"An encoder of {sum(encoder_parameters(config)) / 1e6:.2f} million parameters, {config.num_hidden_layers} "
        f"layers x {config.hidden_size}, {config.vocab_size:,} pieces (XLM-R Base: 12 x 768, 250,002), pretrained on "
        f"{cost['tokens']:,} tokens: {cost['features']:,} texts drawn from {len(bundles):,}. Loss "
        f"{cost['first_loss']:.2f} over the first tenth, {cost['last_loss']:.2f} over the last. Tagger: trained on "
        f"{sizes['train']:,} English sentences ({sizes['words']:,} words), selected on {sizes['select']:,}. Seeds "
        f"{seeds_told}: they change the tagger and the random encoder; the pretraining ran once."]
    for metric, title in (("accuracy", "Accuracy over words"), ("f1", "XTREME's F1")):
        mine = scores[scores["metric"] == metric]
        lines += ["", f"## {title}", "", *table(mine, texts), "", summary(mine, [RANDOM], "the random encoder") + " "
                  + summary(mine, CONTROLS, "the best control of each") + " (Wins: every seed above all of theirs; "
                  "loses: its mean below theirs.)"]
    lines += ["", "## Cost", "",
              f"Pretraining {clock(cost['seconds'])}, {cost['tokens'] / cost['seconds']:,.0f} tokens a second; "
              f"training and scoring, {len(stages)} stages, {clock(stages['seconds'].sum())}; peak memory "
              f"{max(cost['peak_memory_bytes'], stages['peak_memory_bytes'].max()) / 2**30:.2f} GiB; "
              f"{', '.join(sorted(set(stages['device'])))}."]
    return "\n".join(lines) + "\n"
