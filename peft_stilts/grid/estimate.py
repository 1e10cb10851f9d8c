"""What a stage will cost before it runs: features, tokens, memory and time, all of them estimates and labelled so."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch
from transformers import XLMRobertaConfig

from peft_stilts.errors import Problems
from peft_stilts.evaluate.predict import FORMS
from peft_stilts.grid.base import load_tokenizer
from peft_stilts.grid.memory import Load, adapter_parameters, encoder_parameters, runtime_memory, training_memory
from peft_stilts.grid.stages import Evaluate, Given, Plan, Train, adapters, dev_rows, scored_rows, tag_set
from peft_stilts.machine import available_memory
from peft_stilts.spec import LoraSettings, TrainingSettings

if TYPE_CHECKING:
    from datasets import Dataset

    from peft_stilts.tasks.base import Task

SAMPLE = 1000
"""rows of a split that are tokenised for an estimate; a larger split is scaled up from them"""
EFFICIENCY = 0.5
"""share of the measured matrix-product rate that a training step reaches (tools/bench.py)"""
HEAPS = 1 / 3
"""Different words grow with the tokens to this power beyond a sample (Heaps' law): an assumption for English data"""
GIB = 2**30


@dataclass(frozen=True)
class Counted:
    """Of some rows: features, tokens, whether these are `exact` or scaled up from a sample; `context`, how many tokens
    one attends to, the mean over tokens; `words`, how many different ones (scaled by Heaps' law)."""

    features: int
    tokens: int
    exact: bool
    context: float
    words: int


@dataclass(frozen=True)
class Cost:
    """`features` and `tokens` of one pass over the data (`exact` or scaled up from a sample); `memory` and `disk` in
    bytes; `seconds` on this machine."""

    features: int
    tokens: int
    exact: bool
    memory: int
    disk: int
    seconds: float


def artefact_bytes(config: XLMRobertaConfig, lora: LoraSettings | None, method: str = "lora") -> int:
    """Bytes of a finished training stage."""
    return 4 * (adapter_parameters(config, lora, method) if lora else sum(encoder_parameters(config)))


@functools.cache
def product_rate(width: int, inner: int, tokens: int, precision: str) -> float:
    """Floating-point operations a second of (tokens, width) @ (width, inner) on this machine, measured now (~0.2 s)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    a = torch.randn(tokens, width, device=device, dtype=dtype)
    b = torch.randn(width, inner, device=device, dtype=dtype)
    count, begin = 0, time.perf_counter()
    while (seconds := time.perf_counter() - begin) < 0.2 or count < 2:
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        count += 1
    return 2 * tokens * width * inner * count / seconds


def training_seconds(config: XLMRobertaConfig, tokens: float, lora: LoraSettings | None, settings: TrainingSettings,
                     precision: str) -> float:
    """Seconds to train on `tokens`: 6 operations a parameter and token in full, 4 with frozen weights."""
    return tokens * (4 if lora else 6) * encoder_parameters(config)[1] / _speed(config, settings, precision)


def _speed(config: XLMRobertaConfig, settings: TrainingSettings, precision: str) -> float:
    tokens = min(settings.tokens_per_pack, 4096)
    return EFFICIENCY * product_rate(config.hidden_size, config.intermediate_size, tokens, precision)


class Estimator:
    """Costs of the stages of one plan; rows are tokenised once however many stages use them."""

    def __init__(self, plan: Plan):
        self.plan, self.config = plan, plan.base.config
        self.tokenizer = load_tokenizer(plan.base)
        self._counted: dict = {}

    def cost(self, stage: Train | Given | Evaluate, method: str | None = None) -> Cost:
        """The estimate for one stage, or for the same training by another `method`."""
        if stage.kind == "given":
            return Cost(0, 0, True, 0, sum(file.stat().st_size for file in stage.folder.rglob("*")), 0.0)
        if stage.kind == "train":
            method = method or stage.method
            lora = None if method == "full" else stage.lora or LoraSettings()
            features, tokens, exact = self.training(stage)
            memory = training_memory(self.config, stage.settings, lora, len(adapters(stage)), self.plan.precision,
                                     method, self.plan.kernels, self.load(stage))
            seconds = training_seconds(self.config, tokens * stage.settings.epochs, lora, stage.settings,
                                       self.plan.precision)
            return Cost(features, tokens, exact, memory, artefact_bytes(self.config, lora, method), seconds)
        counts = [self.scoring(stage, code) for code in stage.languages]
        features, tokens = (sum(count[place] for count in counts) for place in (0, 1))
        embeddings, layers = encoder_parameters(self.config)
        width = 8 * self.config.hidden_size + 2 * self.config.intermediate_size
        memory = 4 * (embeddings + layers + stage.settings.tokens_per_pack * width) + runtime_memory()
        seconds = 2 * tokens * layers / _speed(self.config, stage.settings, self.plan.precision)
        return Cost(features, tokens, all(count[2] for count in counts), memory, 100 * features, seconds)

    def training(self, stage: Train) -> tuple[int, int, bool]:
        """Features and tokens of one pass over a training's rows; masked words make it longer by their share."""
        counts = self.training_rows(stage)
        more = 1 / (1 - stage.masked.ratio) if stage.masked else 1
        features, tokens = (round(more * sum(count)) for count in zip(*((one.features, one.tokens) for one in counts)))
        return features, tokens, stage.masked is None and all(one.exact for one in counts)

    def training_rows(self, stage: Train) -> list[Counted]:
        """What was counted of the rows of each task of a training."""
        found = []
        for task in stage.tasks:
            rows = self.plan.data.joined(task, stage.splits[task.name], stage.limit)
            found.append(self.count(("train", task.name, stage.splits[task.name], stage.limit), task, stage, rows,
                                    tag_set(task, rows)))
        return found

    def load(self, stage: Train) -> Load:
        """What a training's fullest step puts into memory, three standard deviations above a usual one. With masked
        words all word embeddings are trained."""
        counts, settings = self.training_rows(stage), stage.settings
        steps = []
        for one in counts:
            mean, many = one.tokens / max(1, one.features), settings.features_per_step
            spread = max(0.0, mean * (one.context - mean)) ** 0.5
            steps.append(many * mean + 3 * many**0.5 * spread)
        pack = round(min(settings.tokens_per_pack, max(steps)))
        words = None if stage.masked else sum(one.words for one in counts)
        return Load(pack, max(one.context for one in counts), words)

    def scoring(self, stage: Evaluate, code: str) -> tuple[int, int, bool]:
        """Features and tokens of a target in one language, those of mining's development pool included."""
        found = []
        for name, rows in (("test", scored_rows(self.plan, stage, code)), ("dev", dev_rows(self.plan, stage, code))):
            if rows is not None:
                found.append(self.count((name, stage.task.name, code, stage.limit), stage.task, stage, rows,
                                        stage.task.labels))
        return (sum(one.features for one in found), sum(one.tokens for one in found),
                all(one.exact for one in found))

    def count(self, name: tuple, task: Task, stage: Train | Given | Evaluate, rows: Dataset,
              labels: tuple[str, ...]) -> Counted:
        """What rows come to as this stage reads them."""
        settings = stage.settings
        key = (name, settings.max_length, settings.doc_stride, settings.max_query_length)
        if key not in self._counted:
            size = len(rows)
            chosen = np.linspace(0, size - 1, min(size, SAMPLE)).astype(int)
            made = FORMS[task.form].encode(rows.select(chosen), self.tokenizer, settings, labels)
            lengths, scale = made.lengths.astype(np.float64), size / len(chosen)
            words = len(np.unique(np.concatenate(made.input_ids))) if len(lengths) else 0
            self._counted[key] = Counted(round(len(lengths) * scale), round(lengths.sum() * scale), scale == 1,
                                         float((lengths**2).sum() / max(1.0, lengths.sum())),
                                         round(words * scale**HEAPS))
        return self._counted[key]


def check_machine(plan: Plan, estimator: Estimator, todo: list[Train | Given | Evaluate], found: Problems) -> None:
    """Note a stage too large for the memory (and what would fit), and artefacts too large for the disk."""
    if not todo:
        return
    free = available_memory()
    costs = {stage.key: estimator.cost(stage) for stage in todo}
    worst = max(todo, key=lambda stage: costs[stage.key].memory)
    needed = costs[worst.key].memory
    if needed > free:
        found.add(f"`{worst.label}` needs about {needed / GIB:.1f} GiB of memory and {free / GIB:.1f} GiB are free. "
                  f"{_what_fits(plan, worst, free)}")
    runs = plan.request.runs
    place = next(folder for folder in (runs.resolve(), *runs.resolve().parents) if folder.is_dir())
    disk = psutil.disk_usage(str(place)).free
    trained = [stage for stage in todo if stage.kind == "train"]
    kept = sum(costs[stage.key].disk for stage in todo
               if stage.kind == "evaluate" or stage.role == "intermediate" or plan.request.keep)
    # While one stage trains: its artefact, the best weights, and two checkpoints of weights and two moments.
    working = max((8 * costs[stage.key].disk for stage in trained), default=0)
    if kept + working > disk:
        found.add(f"the run needs about {(kept + working) / GIB:.1f} GiB of disk at {place} and {disk / GIB:.1f} GiB "
                  "are free; give another folder with --runs, fewer --seeds, or --method lora")


def _what_fits(plan: Plan, stage: Train | Given | Evaluate, free: int) -> str:
    """What would fit instead, in words."""
    if stage.kind == "evaluate":
        return "A smaller --scale would fit."
    config, settings, fitting = plan.base.config, stage.settings, []
    needed = functools.partial(training_memory, depth=len(adapters(stage)), precision=plan.precision,
                               method=stage.method, kernels=plan.kernels)
    for tokens in (2048, 1024, settings.max_length):
        smaller = type(settings)(**{**vars(settings), "tokens_per_pack": tokens})
        if tokens < settings.tokens_per_pack and needed(config, smaller, stage.lora) <= free:
            fitting.append(f"tokens_per_pack: {tokens} in a copied recipe")
            break
    if not settings.gradient_checkpointing:
        smaller = type(settings)(**{**vars(settings), "gradient_checkpointing": True})
        if needed(config, smaller, stage.lora) <= free:
            fitting.append("gradient_checkpointing: true in a copied recipe")
    for method in ("lora", "qlora") if stage.lora is None else ():
        if needed(config, settings, LoraSettings(), method=method) <= free:
            fitting.append(f"--method {method}")
            break
    base = XLMRobertaConfig(vocab_size=250002, hidden_size=768, num_hidden_layers=12, intermediate_size=3072,
                            max_position_embeddings=514, type_vocab_size=1)
    if config.hidden_size > 768 and needed(base, settings, stage.lora) <= free:
        fitting.append("--scale base")
    return f"What would fit here: {', '.join([*fitting, '--scale mini'])}."
