"""What is asked for, as frozen typed values: training settings, adapter shapes, and the flags of a run."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from peft_stilts.errors import Problems, UsageError
from peft_stilts.paths import existing_folder, writable_folder
from peft_stilts.registry import unknown

ADAPTERS = ("lora", "rslora", "dora", "qlora")
"""Methods that train an adapter: LoRA, rank-stabilised LoRA, DoRA, and LoRA over a 4-bit base."""
METHODS = ("full", *ADAPTERS)
POLICIES = ("stack", "continue", "merge")
"""What a training does with the adapters before it: keeps them frozen below its own, goes on training the last one, or
folds them into the base (float32) and starts a new one."""
NF4 = "nf4"
"""The base of qlora: 4-bit NormalFloat with doubly quantised constants (arXiv 2305.14314, sections 3.1 and 3.2)."""
MAPS = {"query": r"attention\.self\.query", "key": r"attention\.self\.key", "value": r"attention\.self\.value",
        "attention_output": r"attention\.output\.dense", "intermediate": r"intermediate\.dense",
        "output": r"output\.dense"}
"""The six linear maps of an XLM-R layer -> where they are in it, as a regular expression."""
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
OPTIMIZERS = ("adamw", "adamw_8bit", "adamw_paged", "adamw_paged_8bit")
"""torch's fused AdamW; bitsandbytes' with moments of 8 bits, in memory that pages to the host's (CUDA), or both."""
KERNELS = ("auto", "triton", "compile", "eager")
"""What computes an encoder: this project's CUDA kernels; elementwise work compiled by torch, for CPUs; transformers'
and PEFT's own modules."""
POOLINGS = ("mean", "cls")
LARGEST = 10**9
"""No setting is meant to be above this; larger ones overflow the estimates."""
SCALES = {"base": "FacebookAI/xlm-roberta-base", "large": "FacebookAI/xlm-roberta-large"}
"""Short names of `--scale` and the model ids they stand for; `mini` is the shipped miniature encoder."""


@dataclass(frozen=True)
class LoraSettings:
    """Shape of one adapter (Hu et al. 2021, arXiv 2106.09685; rsLoRA: Kalajdzievski 2023, arXiv 2312.03732; DoRA: Liu
    et al. 2024, arXiv 2402.09353; QLoRA: Dettmers et al. 2023, arXiv 2305.14314)."""

    rank: int = 16
    """rows of A and columns of B"""
    alpha: float = 32.0
    """the update is scaled by alpha / rank (rslora: alpha / sqrt(rank))"""
    dropout: float = 0.05
    """probability on the adapter's input"""
    target_maps: tuple[str, ...] = tuple(MAPS)
    """the linear maps of each layer that have an adapter"""

    def __post_init__(self) -> None:
        with Problems() as found:
            for name in ("rank", "alpha"):
                if not getattr(self, name) > 0:
                    found.add(f"{name} is {getattr(self, name)}; it must be greater than 0")
                if getattr(self, name) > LARGEST:
                    found.add(f"{name} is {getattr(self, name)}; it must be at most {LARGEST}")
            if not 0 <= self.dropout < 1:
                found.add(f"dropout is {self.dropout}; it must be at least 0 and below 1")
            choices(self.target_maps, MAPS, "map in target_maps", found)
            if not self.target_maps or len(set(self.target_maps)) < len(self.target_maps):
                found.add(f"target_maps is {self.target_maps}; it must name one map or more, each once")
        object.__setattr__(self, "target_maps", tuple(name for name in MAPS if name in self.target_maps))

    def told(self) -> dict[str, Any]:
        """The fields for stage keys and tables; `target_maps` only where they are not all six, so that what was made
        before there was a choice keeps its key."""
        fields = dataclasses.asdict(self) | {"target_maps": list(self.target_maps)}
        if self.target_maps == tuple(MAPS):
            del fields["target_maps"]
        return fields

    def fixed(self) -> dict[str, Any]:
        """The fields that training on cannot change: all but dropout."""
        return {name: value for name, value in self.told().items() if name != "dropout"}


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides how one stage is trained. Defaults: the authors' published replication, jiant
    `guides/projects/xstilts.md` and `scripts/benchmarks/xtreme/subscripts` (see docs/paper_deviations.md)."""

    lr: float = 1e-5
    """peak learning rate of encoder or adapter, per optimizer step"""
    head_lr: float | None = None
    """peak learning rate of the head; none means `lr`"""
    epochs: float = 2.0
    """passes over the training features"""
    features_per_step: int = 16
    """features (windows of examples) in one optimizer step, whatever the memory"""
    tokens_per_pack: int = 4096
    """tokens in one forward pass; halved when memory runs out, without changing the mathematics"""
    warmup_ratio: float = 0.1
    """share of the optimizer steps in which the learning rate rises from zero"""
    warmup_steps: int | None = None
    """optimizer steps of that rise, however many there are in all; null: by warmup_ratio"""
    weight_decay: float = 0.01
    """AdamW's decoupled decay, not on biases and LayerNorm"""
    adam_epsilon: float = 1e-8
    """added to the denominator of AdamW"""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """decay rates of AdamW's two moments"""
    max_grad_norm: float = 1.0
    """gradients are clipped to this L2 norm once an optimizer step"""
    max_length: int = 384
    """tokens in one feature, special tokens included"""
    doc_stride: int = 128
    """tokens from the start of one window of a long text to the next (a step, not an overlap)"""
    max_query_length: int = 64
    """tokens kept of a question"""
    max_answer_length: int = 30
    """tokens in the longest answer considered"""
    n_best: int = 20
    """start and end positions considered per window"""
    select_every_steps: int | None = 1000
    """optimizer steps between two looks at English development data; none means after each epoch"""
    select_examples: int = 500
    """English development examples (the first ones) looked at"""
    patience: int = 30
    """looks without a gain after which training stops"""
    keep: str = "best"
    """`best`: the weights of the best look; `last`: the last weights, and no look at all"""
    examples_cap: int | None = None
    """rows of a task that count for its share and its steps in a mixture of tasks; null: all (jiant's
    train_examples_cap)"""
    temperature: float = 1.0
    """a task of a mixture is drawn with probability proportional to rows^(1/temperature); 1: proportional"""
    pooling: str = "mean"
    """sentence vector of retrieval: `mean` over the tokens, or `cls`, the state of <s>"""
    layer: int | None = None
    """index into hidden_states that retrieval pools, negative from the top (-1 the last); null: the usual one of the
    encoder's depth"""
    gradient_checkpointing: bool = False
    """memory: keep only each layer's input, and compute the rest again backward; the same numbers, a third slower"""
    optimizer: str = "adamw"
    """memory: `adamw`; `adamw_8bit`, approximate: moments rounded to 8 bits (arXiv 2110.02861) but for embeddings and
    tensors below 4096 numbers; `adamw_paged` and `adamw_paged_8bit`, CUDA only: what does not fit goes to the host"""

    def __post_init__(self) -> None:
        with Problems() as found:
            for name in ("lr", "epochs", "features_per_step", "tokens_per_pack", "max_grad_norm", "adam_epsilon",
                         "max_length", "doc_stride", "max_query_length", "max_answer_length", "n_best",
                         "select_examples", "patience", "temperature"):
                if not getattr(self, name) > 0:
                    found.add(f"{name} is {getattr(self, name)}; it must be greater than 0")
                if getattr(self, name) > LARGEST:
                    found.add(f"{name} is {getattr(self, name)}; it must be at most {LARGEST}")
            for name in ("head_lr", "select_every_steps", "examples_cap", "warmup_steps"):
                if getattr(self, name) is not None and not getattr(self, name) > 0:
                    found.add(f"{name} is {getattr(self, name)}; it must be greater than 0, or null")
            for name in ("warmup_ratio", "weight_decay"):
                if not 0 <= getattr(self, name) <= 1:
                    found.add(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
            if not all(0 <= beta < 1 for beta in self.adam_betas):
                found.add(f"adam_betas are {self.adam_betas}; each must be at least 0 and below 1")
            if self.keep not in ("best", "last"):
                found.add(unknown("value of keep", self.keep, ("best", "last")))
            if self.pooling not in POOLINGS:
                found.add(unknown("pooling", self.pooling, POOLINGS))
            if self.optimizer not in OPTIMIZERS:
                found.add(unknown("optimizer", self.optimizer, OPTIMIZERS))
            if self.max_query_length + 5 > self.max_length:
                found.add(f"max_query_length {self.max_query_length} leaves no room for a text in max_length "
                          f"{self.max_length}; a pair needs 4 special tokens")

    def told(self) -> dict[str, Any]:
        """The fields for stage keys and tables; those of memory only where they are not the default, so that what was
        made before there was a choice keeps its key."""
        usual = {"gradient_checkpointing": False, "optimizer": "adamw"}
        return {name: value for name, value in dataclasses.asdict(self).items()
                if name not in usual or value != usual[name]}


SETTINGS = {field.name for field in dataclasses.fields(TrainingSettings)}
LORA = {field.name for field in dataclasses.fields(LoraSettings)}


def typed(value: Any, kind: Any, where: str) -> Any:
    """`value` as `kind` (int, float, str, bool, a union with None or a tuple of floats); text such as `1e-5` is read as
    a number, since YAML calls it a string. Raises UsageError naming `where`, the value and what is expected."""
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and type(None) in options:
        return None
    target = next(option for option in options if option is not type(None))
    try:
        if typing.get_origin(target) is tuple:
            kinds = typing.get_args(target)
            if isinstance(value, (str, Mapping)):
                raise ValueError
            kinds = [kinds[0]] * len(value) if kinds[-1] is ... else kinds
            if len(value) != len(kinds):
                raise ValueError
            return tuple(typed(item, of, where) for item, of in zip(value, kinds))
        if target is bool:
            words = {"true": True, "false": False}
            return value if isinstance(value, bool) else words[str(value).strip().lower()]
        if isinstance(value, bool) or (target is str and not isinstance(value, str)):
            raise ValueError
        if target is int:
            number = float(value)
            if number != int(number):
                raise ValueError
            return int(str(value)) if str(value).lstrip("+-").isdigit() else int(number)
        if target is float and not math.isfinite(float(value)):
            raise ValueError
        return target(value)
    except (ValueError, TypeError, OverflowError, KeyError):
        name = {int: "a whole number", float: "a number", str: "text", bool: "true or false",
                tuple[str, ...]: "a list of names"}.get(target, "a list of two numbers")
        orelse = ", or null" if type(None) in options else ""
        raise UsageError(f"{where} is {value!r}; it must be {name}{orelse}") from None


def build(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """A settings value of `cls` from texts or numbers; raises UsageError with every wrong one, named after `where`."""
    hints = typing.get_type_hints(cls)
    with Problems() as found:
        kept = {}
        for name, value in values.items():
            with found.collect():
                kept[name] = typed(value, hints[name], f"{where}.{name}")
        try:
            return cls(**kept)
        except UsageError as error:
            for problem in error.problems:
                found.add(f"{where}: {problem}")


@dataclass(frozen=True)
class Request:
    """The flags of one `recipe` command, parsed; `None` means the recipe's or the scale's own value."""

    recipes: tuple[str, ...]
    scale: str = "auto"
    methods: tuple[str, ...] = ("full",)
    policies: tuple[str, ...] = POLICIES[:1]
    stack: tuple[str, ...] = ()
    targets: tuple[str, ...] | None = None
    languages: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    protocol: str | None = None
    precision: str = "auto"
    kernels: str = "auto"
    data_root: Path | None = None
    runs: Path = Path("runs")
    limit_train: int | None = None
    limit_eval: int | None = None
    layers: tuple[int, ...] | None = None
    centre: bool = False
    mlm_ratio: float | None = None
    mlm_text: Path | None = None
    mlm_languages: tuple[str, ...] | None = None
    mlm_temperature: float = 1 / 0.3
    translated: Path | None = None
    translated_languages: tuple[str, ...] | None = None
    plan_only: bool = False
    keep: bool = False

    ALL_LAYERS: ClassVar[tuple[int, ...]] = (-(10**6),)
    """`layers` of `--layers all`: every layer the encoder has."""


def names(text: str, flag: str) -> tuple[str, ...]:
    """A comma list as typed, spaces around the names dropped; raises UsageError for empty or repeated names."""
    items = tuple(item.strip() for item in text.split(","))
    if not all(items):
        raise UsageError(f"--{flag} is {text!r}; it must be names with commas between, such as a,b")
    if len(set(items)) < len(items):
        raise UsageError(f"--{flag} is {text!r}; each name may stand once")
    return items


def whole(text: str, flag: str, least: int = 1) -> int:
    """A whole number as typed (`007`, `1e5`); raises UsageError below `least`."""
    number = typed(text, int, f"--{flag}")
    if number < least:
        raise UsageError(f"--{flag} is {text}; it must be at least {least}")
    return number


def layers(text: str) -> tuple[int, ...]:
    """Layers as typed: indices into hidden_states with commas between (negative from the top), or `all`."""
    if text.strip() == "all":
        return Request.ALL_LAYERS
    return tuple(typed(item, int, "--layers") for item in names(text, "layers"))


def share(text: str, flag: str) -> float:
    """A share as typed, above 0 and below 1."""
    number = typed(text, float, f"--{flag}")
    if not 0 < number < 1:
        raise UsageError(f"--{flag} is {text}; it must be above 0 and below 1")
    return number


def above_zero(text: str, flag: str) -> float:
    """A number as typed, above 0."""
    number = typed(text, float, f"--{flag}")
    if not 0 < number <= LARGEST:
        raise UsageError(f"--{flag} is {text}; it must be above 0 and at most {LARGEST}")
    return number


def seeds(text: str) -> tuple[int, ...]:
    """Seeds as typed, whole numbers from 0; raises UsageError for one that stands twice, `1,01` included."""
    found = tuple(whole(item, "seeds", 0) for item in names(text, "seeds"))
    if max(found) >= 2**63:
        raise UsageError(f"--seeds is {text!r}; a seed must be below 2^63")
    if len(set(found)) < len(found):
        raise UsageError(f"--seeds is {text!r}; each seed may stand once")
    return found


def choices(items: Iterable[str], known: Iterable[str], kind: str, found: Problems) -> tuple[str, ...]:
    """The `items` that are among `known`; each other one is added to `found` with the nearest names."""
    items, known = tuple(items), tuple(known)
    for item in items:
        if item not in known:
            found.add(unknown(kind, item, known))
    return tuple(item for item in items if item in known)


def switch(text: str, flag: str) -> bool:
    """`True` for a flag that stands alone, or the word typed after it."""
    if text.lower() not in ("true", "false"):
        raise UsageError(f"--{flag} is {text!r}; it takes no value")
    return text.lower() == "true"


def parse_request(recipes: str, flags: Mapping[str, str | None], found: Problems) -> Request:
    """The request that the typed texts make; every mistake goes into `found` and its flag keeps the default.

    `flags` maps the fields of Request but `recipes` to the text typed, or None where the flag was not given.
    """
    readers = {
        "scale": lambda text: text.strip() or "auto",
        "methods": lambda text: choices(names(text, "method"), METHODS, "method", found) or METHODS[:1],
        "policies": lambda text: choices(names(text, "policy"), POLICIES, "policy", found) or POLICIES[:1],
        "stack": lambda text: names(text, "stack"),
        "targets": lambda text: names(text, "targets"),
        "languages": lambda text: names(text, "languages"),
        "seeds": seeds,
        "protocol": lambda text: text.strip() or None,
        "precision": lambda text: (choices([text], PRECISIONS, "precision", found) or ("auto",))[0],
        "kernels": lambda text: (choices([text], KERNELS, "value of --kernels", found) or ("auto",))[0],
        "data_root": lambda text: existing_folder(text, "data_root"),
        "runs": lambda text: writable_folder(text, "runs"),
        "limit_train": lambda text: whole(text, "limit_train"),
        "limit_eval": lambda text: whole(text, "limit_eval"),
        "layers": layers,
        "centre": lambda text: switch(text, "centre"),
        "mlm_ratio": lambda text: share(text, "mlm_ratio"),
        "mlm_text": lambda text: existing_folder(text, "mlm_text"),
        "mlm_languages": lambda text: names(text, "mlm_languages"),
        "mlm_temperature": lambda text: above_zero(text, "mlm_temperature"),
        "translated": lambda text: existing_folder(text, "translated"),
        "translated_languages": lambda text: names(text, "translated_languages"),
        "plan_only": lambda text: switch(text, "plan_only"),
        "keep": lambda text: switch(text, "keep"),
    }
    values: dict[str, Any] = {"recipes": ()}
    with found.collect():
        values["recipes"] = names(recipes, "recipe")
    for name, text in flags.items():
        if text is not None:
            with found.collect():
                values[name] = readers[name](text)
    for flag in ("mlm_text", "mlm_languages", "mlm_temperature"):
        if values.get(flag) is not None and values.get("mlm_ratio") is None:
            found.add(f"--{flag} has no effect without --mlm_ratio, the share of steps on masked words")
    if "policies" in values and values.get("methods", METHODS[:1]) == ("full",):
        found.add(f"--policy says what becomes of adapters; it needs --method {', '.join(ADAPTERS)}, not full alone")
    if values.get("translated_languages") and values.get("translated") is None:
        found.add("--translated_languages has no effect without --translated, the folder of translated data")
    return Request(**values)
