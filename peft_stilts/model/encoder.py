"""XLM-R encoders from the hub or a folder, loaded strictly, and run on packs."""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from peft import PeftModel
from transformers import AutoTokenizer, PreTrainedTokenizerBase, XLMRobertaConfig, XLMRobertaModel
from transformers.utils import logging as transformers_logging

from peft_stilts.data.pack import Pack
from peft_stilts.digest import key_of, sha256_file
from peft_stilts.errors import CheckpointError
from peft_stilts.kernels.attention import PACKED

WEIGHTS = "model.safetensors"
FILES = ("config.json", WEIGHTS, "tokenizer.json")
EXTRA_FILES = ["tokenizer_config.json", "special_tokens_map.json"]
HEAD_PREFIXES = ("pooler.", "lm_head.", "classifier.", "qa_outputs.", "embeddings.position_ids")
"""Tensors that a folder may hold beyond the encoder's own: heads, the pooler, and old releases' position numbers."""

transformers_logging.disable_progress_bar()  # its bars for loading and writing; the command line has its own


@dataclass(frozen=True)
class Encoder:
    """An XLM-R encoder without pooler, its tokenizer, and which weights these are.

    `identity`: `id` (hub id or folder), `revision` (commit, or 'local'), `sha256` of model.safetensors.
    """

    model: XLMRobertaModel
    tokenizer: PreTrainedTokenizerBase | None
    identity: dict[str, str]

    @property
    def config(self) -> XLMRobertaConfig:
        return self.model.config


def encode_pack(model: torch.nn.Module, pack: Pack, layer: int | None = None) -> torch.Tensor:
    """The states (T, H) of a pack: the last layer's, or `hidden_states[layer]` (0: the embeddings' output).

    `model`: an XLMRobertaModel made here, or its PEFT wrapper; `pack` lies on the model's device. Layers above `layer`
    are not computed.
    """
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    layers = inner.encoder.layer
    try:
        if layer is not None:
            inner.encoder.layer = layers[:layer]
        output = model(
            input_ids=pack.input_ids[None],
            position_ids=pack.position_ids[None],
            cu_seqlens=pack.cu_seqlens,
            max_seqlen=pack.max_seqlen,
        )
    finally:
        inner.encoder.layer = layers
    return output.last_hidden_state[0]


def load_encoder(source: str | Path, revision: str | None = None) -> Encoder:
    """Load an encoder with float32 weights and its tokenizer.

    `source`: a folder laid out like a hub repository, or a hub id at `revision` (a branch, or a full commit). The
    weights may be those of XLMRobertaModel, XLMRobertaForMaskedLM or another head's model; only model.safetensors is
    read. Raises CheckpointError when something is missing, is no XLM-R, or a tensor is missing, unexpected, misshapen
    or not finite.
    """
    folder = _folder(source, revision)
    config = _read_config(source, folder / "config.json")
    model = _load_weights(source, config, folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the tokenizer libraries raise every kind at a damaged file
        raise CheckpointError(f"{source}: the tokenizer cannot be read ({_first_line(error)}).") from error
    if len(tokenizer) > config.vocab_size or tokenizer.pad_token_id != config.pad_token_id:
        raise CheckpointError(
            f"{source}: the tokenizer has {len(tokenizer)} words and padding id {tokenizer.pad_token_id}, "
            f"the model {config.vocab_size} and {config.pad_token_id}: they do not belong together."
        )
    # The hub's cache keeps a repository's files under snapshots/<commit>/.
    found = (revision or "local") if folder == Path(source) else folder.name
    return Encoder(model, tokenizer, {"id": str(source), "revision": found, "sha256": sha256_file(folder / WEIGHTS)})


def random_encoder(config: XLMRobertaConfig, seed: int, tokenizer: PreTrainedTokenizerBase | None = None) -> Encoder:
    """An encoder of this shape with fresh weights from `seed`: the control for pretrained ones.

    `config` is copied; the caller's random state is left as it was. The identity's sha256 is that of the recipe for
    these weights (config and seed).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = XLMRobertaModel._from_config(
            copy.deepcopy(config), add_pooling_layer=False, attn_implementation=PACKED, dtype=torch.float32
        )
    made_of = {key: value for key, value in config.to_dict().items() if isinstance(value, int | float | str | None)}
    identity = {"id": "random", "revision": f"seed-{seed}", "sha256": key_of([made_of, seed])}
    return Encoder(model, tokenizer, identity)


def pickles_refused(folder: Path) -> str:
    """Words for an error where safetensors are missing: which pickled files lie there instead, and why not; or ''."""
    found = sorted(path.name for pattern in ("*.bin", "*.pt") for path in folder.glob(pattern))
    return f" ({', '.join(found)} is not read: pickled files can run code)" if found else ""


def faults(wrong: dict[str, list[str]]) -> str:
    """Words for an error: what is wrong with which tensors, five named of each kind."""
    return "; ".join(f"{what}: {', '.join(names[:5])} ({len(names)})" for what, names in wrong.items() if names)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _folder(source: str | Path, revision: str | None) -> Path:
    """The folder with the files of `source`: itself, or where the hub's files were downloaded to."""
    folder = Path(source)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(str(source), revision=revision, allow_patterns=list(FILES) + EXTRA_FILES))
        except Exception as error:  # huggingface_hub raises many kinds: no such repository, revision, network, cache
            raise CheckpointError(
                f"{source} is not a folder here, and cannot be had from the hub: {_first_line(error)}"
            ) from error
    for name in FILES:
        if not (folder / name).is_file():
            told = f"{source} has no {name}{pickles_refused(folder)}"
            raise CheckpointError(f"{told}. An encoder has {', '.join(FILES)}.")
    return folder


def _read_config(source: str | Path, path: Path) -> XLMRobertaConfig:
    try:
        values = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind != "xlm-roberta":
        raise CheckpointError(
            f"{source} is a model of type {kind!r}; only 'xlm-roberta' is accepted "
            "(FacebookAI/xlm-roberta-base, FacebookAI/xlm-roberta-large, or a folder with such a model)."
        )
    return XLMRobertaConfig.from_dict(values)


def _load_weights(source: str | Path, config: XLMRobertaConfig, folder: Path) -> XLMRobertaModel:
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)  # its load report; what matters of it is raised below
    try:
        model, report = XLMRobertaModel.from_pretrained(
            folder,
            config=config,
            add_pooling_layer=False,
            attn_implementation=PACKED,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # a truncated file raises safetensors' own errors, a bad value torch's
        raise CheckpointError(f"{source}: {WEIGHTS} cannot be read: {_first_line(error)}") from error
    finally:
        transformers_logging.set_verbosity(before)
    unexpected = [
        name for name in report["unexpected_keys"] if not name.removeprefix("roberta.").startswith(HEAD_PREFIXES)
    ]
    wrong = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(unexpected),
        "of another shape": sorted(str(entry[0]) for entry in report["mismatched_keys"]),
        "not finite": [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()],
    }
    if any(wrong.values()):
        raise CheckpointError(
            f"{source}: the tensors are not those of an XLM-R with {config.num_hidden_layers} layers of width "
            f"{config.hidden_size} and {config.vocab_size} words. {faults(wrong)}"
        )
    return model.train(False)
