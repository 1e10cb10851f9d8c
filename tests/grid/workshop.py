"""Tiny encoders, data folders and requests for the tests of grid/, evaluate/ and the command line."""

import json
import signal
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch
import yaml
from datasets import Dataset
from transformers import XLMRobertaConfig, XLMRobertaModel

from peft_stilts.errors import Problems
from peft_stilts.grid.plan import make_plan
from peft_stilts.miniature.generators import rows_of
from peft_stilts.miniature.provider import MiniatureWorld
from peft_stilts.miniature.tokenizer import build_tokenizer
from peft_stilts.spec import Request

XTREME, SQUAD = "google/xtreme", "rajpurkar/squad"
FAST = {"squad": {"epochs": 2, "features_per_step": 8}, "tydiqa": {"epochs": 2, "features_per_step": 8},
        "intermediate": {"epochs": 3, "features_per_step": 8},
        "default": {"max_length": 96, "max_query_length": 24, "doc_stride": 32, "tokens_per_pack": 512,
                    "select_every_steps": 3, "full": {"lr": 1e-3}, "lora": {"lr": 1e-2, "head_lr": 1e-2, "rank": 4}}}
"""Training settings of a recipe that a tiny encoder is through with in a second; looks and windows included."""


def make_encoder(folder, layers=2, positions=514, seed=0):
    """Write a random XLM-R of width 32 with the miniature tokenizer; returns the folder."""
    torch.manual_seed(seed)
    config = XLMRobertaConfig(vocab_size=3000, hidden_size=32, num_hidden_layers=layers, num_attention_heads=2,
                              intermediate_size=48, max_position_embeddings=positions, type_vocab_size=1,
                              pad_token_id=1, bos_token_id=0, eos_token_id=2, initializer_range=0.1)
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def make_data(root):
    """Write a --data_root folder in the hub's layout: SQuAD, and all four targets in en, de and fi as far as they are
    scored there; its text is the miniature world's. Returns the folder."""
    def rows(repo, config, split, count, prefix=None):
        found = [row for row in rows_of(repo, config, split) if prefix is None or row["id"].startswith(prefix)]
        return found[:count]

    vestan = rows(XTREME, "tydiqa", "validation", 8, "vestan-")
    finnish = [row | {"id": row["id"].replace("vestan", "finnish")} for row in vestan]
    pairs = {code: rows(XTREME, "tatoeba.qaa", "validation", 12) for code in ("deu", "fin")}
    content = {
        SQUAD: {"plain_text": {"train": rows(SQUAD, "plain_text", "train", 40),
                               "validation": rows(SQUAD, "plain_text", "validation", 12)}},
        XTREME: {"XQuAD.en": {"validation": rows(XTREME, "XQuAD.en", "validation", 10)},
                 "XQuAD.de": {"validation": rows(XTREME, "XQuAD.qa", "validation", 10)},
                 "MLQA.en.en": {"test": rows(XTREME, "MLQA.en.en", "test", 8)},
                 "MLQA.de.de": {"test": rows(XTREME, "MLQA.qa.qa", "test", 8)},
                 "tydiqa": {"train": rows(XTREME, "tydiqa", "train", 40, "english-"),
                            "validation": rows(XTREME, "tydiqa", "validation", 8, "english-") + finnish},
                 **{f"tatoeba.{code}": {"validation": [row | {"source_lang": code} for row in found]}
                    for code, found in pairs.items()}}}
    for repo, configs in content.items():
        entries = []
        for config, splits in configs.items():
            for split, found in splits.items():
                path = root / repo / config / f"{split}-00000-of-00001.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(Dataset.from_list(found).data.table, path)
            entries.append({"config_name": config, "data_files": [
                {"split": split, "path": f"{config}/{split}-*"} for split in splits]})
        (root / repo / "README.md").write_text(f"---\nconfigs: {json.dumps(entries)}\n---\n")
    return root


def make_recipe(path, **changed):
    """Write a recipe file of SQuAD with the FAST settings; returns its path."""
    content = {"intermediate": "squad", "targets": ["xquad", "tydiqa", "tatoeba"], "training": FAST} | changed
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def request(encoder, folder, **changed):
    """A request for the recipe squad on four targets of the miniature world: one seed, few rows, three languages."""
    own = any(name.endswith(".yaml") for name in changed.get("recipes", ()))
    targets = changed.pop("targets", None if own else ("xquad", "mlqa", "tydiqa", "tatoeba"))
    layers = (1,) if targets is None or "tatoeba" in targets else None
    return Request(**{"recipes": ("squad",), "scale": str(encoder), "languages": ("en", "qa", "qb"), "seeds": (1,),
                      "limit_train": 16, "limit_eval": 5, "layers": layers, "precision": "fp32", "targets": targets,
                      "runs": Path(folder)} | changed)


def plan(wanted, provider=None):
    """The plan of a request, on the miniature world unless another provider is given."""
    with Problems() as found:
        return make_plan(wanted, found, provider or MiniatureWorld())


def command(folder, arguments, delay=0.0, checkpoints=True, unchecked=False):
    """For another process: run the command line with a checkpoint at every step (or without `checkpoints`) and `delay`
    seconds after each; its output goes into `folder`/out.txt and it ends with the command's exit code. `unchecked`:
    without asking first whether memory and disk suffice."""
    out = open(Path(folder) / "out.txt", "a", buffering=1, encoding="utf-8")
    sys.stdout = sys.stderr = out
    signal.signal(signal.SIGINT, signal.default_int_handler)    # a test run in the background inherits "ignored"
    from peft_stilts import cli
    from peft_stilts.grid import run, show
    from peft_stilts.train.checkpoint import Checkpoints

    torch.set_num_threads(1)
    Checkpoints.due = lambda self: checkpoints
    if unchecked:
        show.check_machine = lambda *args: None
    plain = run.train

    def slow(*args, progress, **options):
        def waiting(*told):
            time.sleep(delay)
            progress(*told)

        return plain(*args, progress=waiting, **options)

    run.train = slow
    cli.main(arguments)
