"""The encoder a run starts from: what `--scale` names, its configuration and its identity, without loading weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_stilts.digest import sha256_file
from peft_stilts.errors import UsageError
from peft_stilts.spec import SCALES

if TYPE_CHECKING:
    from transformers import XLMRobertaConfig

MINIATURE = "peft_stilts/miniature"
"""How the shipped miniature encoder is named in tables and adapter files; it is no id of a hub."""
HUB_TIMEOUT = 5.0
"""seconds until a hub that does not answer counts as unreachable"""
SMALL_FILES = ("config.json", "tokenizer*", "special_tokens_map.json", "sentencepiece*")
"""What is fetched of a hub model to plan a run; the weights come when they are needed."""
DEFAULT_LAYERS = {24: 14, 12: 8, 4: 3}
"""Depth of the encoder -> index into hidden_states (0: the embeddings) that retrieval pools: 14 of 24 as in XTREME
and jiant, 8 of 12 as XTREME's mBERT (protocol: third_party/evaluate_retrieval.py), 3 of 4 for the miniature encoder."""


@dataclass(frozen=True)
class Base:
    """`scale` as it stands in tables; `folder` with config.json and the tokenizer's files; `id` and `revision` its
    identity: the hub's id and full commit, or a folder's name and the SHA-256 of its weights."""

    scale: str
    folder: Path
    id: str
    revision: str
    config: XLMRobertaConfig
    from_hub: bool = False

    @property
    def miniature(self) -> bool:
        """Whether this is the shipped miniature encoder, whose scores are never XLM-R's."""
        return self.scale == "mini"

    @property
    def identity(self) -> dict[str, str]:
        """What stands in a stage key: the id and commit of a hub model, the digest alone of a folder."""
        return {"id": self.id, "revision": self.revision} if self.from_hub else {"sha256": self.revision}

    def retrieval_layer(self, asked: int | None) -> int:
        """Index into hidden_states for retrieval; raises UsageError where neither `--layer` nor the depth says it."""
        depth = self.config.num_hidden_layers
        if asked is None and depth not in DEFAULT_LAYERS:
            raise UsageError(f"{self.id} has {depth} layers, and no layer for retrieval is known for that depth; "
                             f"say --layer 0 to {depth} (known: {DEFAULT_LAYERS})")
        if asked is not None and asked > depth:
            raise UsageError(f"--layer is {asked}; {self.id} has the layers 0 (embeddings) to {depth}")
        return DEFAULT_LAYERS[depth] if asked is None else asked


def miniature_folder() -> Path:
    """The folder of the shipped miniature encoder, tokenizer and MLM head."""
    return Path(__file__).parent.parent / "miniature" / "weights"


def resolve_scale(scale: str) -> str:
    """`auto` made definite: `large` where there is a CUDA device, else `mini`."""
    if scale != "auto":
        return scale
    import torch

    return "large" if torch.cuda.is_available() else "mini"


def find_base(scale: str) -> Base:
    """The encoder that a definite `scale` names: mini, base, large, a folder, or a hub id.

    Raises UsageError for a folder without the files, an encoder that is not XLM-R, or an unreachable hub.
    """
    source = str(miniature_folder()) if scale in ("mini", MINIATURE) else SCALES.get(scale, scale)
    if from_hub := _is_hub_id(source):
        folder = _hub_folder(source, SMALL_FILES)
        revision, name = folder.name, source
    else:
        folder, name = Path(source).expanduser().resolve(), MINIATURE if scale in ("mini", MINIATURE) else source
        weights = folder / "model.safetensors"
        if not folder.is_dir():
            raise UsageError(f"--scale {scale!r} is no folder; known: auto, mini, base, large, the folder of an XLM-R "
                             "encoder, or a hub id such as FacebookAI/xlm-roberta-base")
        if not (folder / "config.json").is_file():
            raise UsageError(f"{folder} has no config.json; a model folder has config.json, model.safetensors and "
                             "the tokenizer's files")
        if not weights.is_file():
            found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
            raise UsageError(f"{folder} has no model.safetensors (found: {found}); only safetensors in one file are "
                             "loaded")
        revision = sha256_file(weights)
    return Base("mini" if scale == MINIATURE else scale, folder, name, revision, _xlmr_config(folder, scale), from_hub)


def encoder_folder(base: Base) -> Path:
    """The base's folder with its weights in it, downloaded at the base's commit where they are not cached yet."""
    if base.from_hub and not (base.folder / "model.safetensors").exists():
        return _hub_folder(base.id, (*SMALL_FILES, "model.safetensors"), base.revision)
    return base.folder


def load_tokenizer(base: Base) -> Any:
    """The base's fast tokenizer, from the folder of its configuration."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base.folder)


def _is_hub_id(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((".", "/", "~")) and not Path(source).is_dir()


def _xlmr_config(folder: Path, scale: str) -> XLMRobertaConfig:
    from transformers import XLMRobertaConfig

    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = content.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{folder / 'config.json'} cannot be read: {error}") from error
    if kind != "xlm-roberta":
        raise UsageError(f"--scale {scale!r} is a {kind!r} model; only XLM-R encoders (model_type 'xlm-roberta') are "
                         "known here: mini, base, large, or another XLM-R folder or id")
    return XLMRobertaConfig.from_dict(content)


def _hub_folder(repo: str, files: tuple[str, ...], revision: str | None = None) -> Path:
    """The cached snapshot folder of a hub model, named by its full commit, with `files` (patterns) in it.

    Everything is then read from that folder, so nothing asks the hub again."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(files), etag_timeout=HUB_TIMEOUT))
    except RepositoryNotFoundError as error:
        raise UsageError(f"the hub has no model {repo!r} that this account may read; check the name, or log in with "
                         "`hf auth login` for a private one") from error
    except (LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UsageError(f"the hub cannot be reached for {repo!r}, and nothing of it is cached; on a machine with "
                         f"network run the same command once, or give a local folder with --scale DIR; --scale mini "
                         f"runs the miniature world without a network ({type(error).__name__})") from error
