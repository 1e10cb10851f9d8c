"""The encoder a run starts from: what `--scale` names, its configuration and its identity, without loading weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_stilts.digest import sha256_file, sha256_folder
from peft_stilts.errors import Problems, UsageError
from peft_stilts.grid.hub import hub_folder
from peft_stilts.paths import typed_path
from peft_stilts.spec import SCALES, Request

if TYPE_CHECKING:
    from transformers import XLMRobertaConfig

MINIATURE = "peft_stilts/miniature"
"""How the shipped miniature encoder is named in tables and adapter files; it is no id of a hub."""
SMALL_FILES = ("config.json", "tokenizer*", "special_tokens_map.json", "sentencepiece*")
"""What is fetched of a hub model to plan a run; the weights come when they are needed."""
SHAPE = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
         "max_position_embeddings", "pad_token_id")
"""Fields of config.json that must be whole numbers, from 1 (padding: 0) to LARGEST_SHAPE."""
LARGEST_SHAPE = 2**24
DEFAULT_LAYERS = {24: 14, 12: 8, 4: 3}
"""Depth of the encoder -> index into hidden_states (0: the embeddings) that retrieval pools: 14 of 24 as in XTREME
and jiant, 8 of 12 as XTREME's mBERT (protocol: third_party/evaluate_retrieval.py), 3 of 4 for the miniature encoder."""


@dataclass(frozen=True)
class Base:
    """`scale` as it stands in tables; `folder` with config.json and the tokenizer's files; `id` and `revision` its
    identity: the hub's id and full commit, or a folder's name and the SHA-256 of its weights; `files` the digest of a
    folder's configuration and tokenizer."""

    scale: str
    folder: Path
    id: str
    revision: str
    config: XLMRobertaConfig
    from_hub: bool = False
    files: str = ""

    @property
    def miniature(self) -> bool:
        """Whether this is the shipped miniature encoder, whose scores are never XLM-R's."""
        return self.scale == "mini"

    @property
    def identity(self) -> dict[str, str]:
        """What stands in a stage key: the id and commit of a hub model; of a folder what is in it, not where it is."""
        if self.from_hub:
            return {"id": self.id, "revision": self.revision}
        return {"sha256": self.revision, "files": self.files}

    def retrieval_layers(self, asked: tuple[int, ...] | None, usual: int | None) -> tuple[int, ...]:
        """Indices into hidden_states (0: the embeddings) for retrieval: those `asked` for with --layers, else the
        recipe's `usual`, else that of the encoder's depth; negative ones count from the top, -1 the last.

        Raises UsageError where nothing says it, and for a layer that the encoder does not have.
        """
        depth = self.config.num_hidden_layers
        if asked == Request.ALL_LAYERS:
            return tuple(range(depth + 1))
        if asked is None and usual is None and depth not in DEFAULT_LAYERS:
            raise UsageError(f"{self.id} has {depth} layers, and no layer for retrieval is known for that depth; "
                             f"say --layers 0 to {depth}, or all (known: {DEFAULT_LAYERS})")
        layers = asked or ((DEFAULT_LAYERS[depth] if usual is None else usual),)
        for layer in layers:
            if not -depth - 1 <= layer <= depth:
                raise UsageError(f"the layer for retrieval is {layer}; {self.id} has the layers 0 (embeddings) to "
                                 f"{depth}")
        return tuple(dict.fromkeys(layer % (depth + 1) for layer in layers))


def miniature_folder() -> Path:
    """The folder of the shipped miniature encoder, tokenizer and MLM head."""
    return Path(__file__).parent.parent / "miniature" / "weights"


def resolve_scale(scale: str) -> str:
    """`auto` made definite: `large` where there is a CUDA device, else `mini`."""
    if scale != "auto":
        return scale
    import torch

    return "large" if torch.cuda.is_available() else "mini"


def find_base(scale: str, commits: Mapping[str, str] | None = None, revision: str | None = None) -> Base:
    """The encoder that a definite `scale` names: mini, base, large, a folder, or a hub id.

    A hub id is taken at `revision`, else at the commit that `commits` holds for its `main` (as seen before), else at
    `main`. Raises UsageError for a folder without the files, an encoder that is not XLM-R, or an unreachable hub.
    """
    source = str(miniature_folder()) if scale in ("mini", MINIATURE) else SCALES.get(scale, scale)
    if from_hub := _is_hub_id(source):
        folder = hub_folder(source, SMALL_FILES, revision or (commits or {}).get(f"{source}@main"))
        revision, name, files = folder.name, source, ""
    else:
        folder = _model_folder(source, scale)
        scale = "mini" if folder == miniature_folder().resolve() else scale
        name = MINIATURE if scale == "mini" else source
        revision = sha256_file(folder / "model.safetensors")
        files = sha256_folder(folder, [folder / "config.json", folder / "tokenizer.json"])
    config = _xlmr_config(folder, scale)
    return Base(scale, folder, name, revision, config, from_hub, files)


def _model_folder(source: str, scale: str) -> Path:
    """The folder `source`, with everything an encoder needs in it; raises UsageError naming what is missing."""
    folder = typed_path(source, "--scale")
    if not folder.is_dir():     # before `resolve`, which a circle of links stops
        raise UsageError(f"--scale {scale!r} is no folder; known: auto, mini, base, large, the folder of an XLM-R "
                         "encoder, or a hub id such as FacebookAI/xlm-roberta-base")
    folder = folder.resolve()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            found = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"
            raise UsageError(f"{folder} has no {name} (found: {found}); a model folder has config.json, tokenizer.json "
                             "and model.safetensors in one file, and nothing else is loaded")
    return folder


def encoder_folder(base: Base) -> Path:
    """The base's folder with its weights in it, downloaded at the base's commit where they are not cached yet."""
    if base.from_hub and not (base.folder / "model.safetensors").exists():
        return hub_folder(base.id, (*SMALL_FILES, "model.safetensors"), base.revision)
    return base.folder


def weights_sha256(base: Base) -> str:
    """SHA-256 of the base's model.safetensors, downloaded where it is not cached yet; a folder's is known already."""
    return sha256_file(encoder_folder(base) / "model.safetensors") if base.from_hub else base.revision


def load_tokenizer(base: Base) -> Any:
    """The base's fast tokenizer, from the folder of its configuration."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base.folder)
    except Exception as error:      # the tokenizer libraries raise every kind at a damaged file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{base.folder}: the tokenizer cannot be read ({reason})") from error
    if len(tokenizer) > base.config.vocab_size or tokenizer.pad_token_id != base.config.pad_token_id:
        raise UsageError(f"the tokenizer of {base.folder} has {len(tokenizer)} pieces and padding id "
                         f"{tokenizer.pad_token_id}, its encoder {base.config.vocab_size} and "
                         f"{base.config.pad_token_id}: they do not belong together")
    return tokenizer


def _is_hub_id(source: str) -> bool:
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        return False
    return not typed_path(source, "--scale").is_dir()


def _xlmr_config(folder: Path, scale: str) -> XLMRobertaConfig:
    from transformers import XLMRobertaConfig

    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = content.get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UsageError(f"{folder / 'config.json'} cannot be read: {error}") from error
    if kind != "xlm-roberta":
        raise UsageError(f"--scale {scale!r} is a {kind!r} model; only XLM-R encoders (model_type 'xlm-roberta') are "
                         "known here: mini, base, large, or another XLM-R folder or id")
    try:
        config = XLMRobertaConfig.from_dict(content)
    except Exception as error:      # transformers' and huggingface_hub's own kinds, builtin ones too
        raise UsageError(f"{folder / 'config.json'} is no XLM-R configuration: "
                         f"{' '.join(str(error).split()) or type(error).__name__}") from error
    with Problems() as found:
        for name in SHAPE:
            value = getattr(config, name, None)
            if not isinstance(value, int) or not (name != "pad_token_id") <= value <= LARGEST_SHAPE:
                found.add(f"{folder / 'config.json'}: {name} is {value!r}; it must be a whole number, at most "
                          f"{LARGEST_SHAPE}")
        if not found.messages and config.hidden_size % config.num_attention_heads:
            found.add(f"{folder / 'config.json'}: hidden_size {config.hidden_size} is no multiple of "
                      f"num_attention_heads {config.num_attention_heads}")
    return config

