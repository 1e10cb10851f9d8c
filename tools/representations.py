"""How alike an encoder represents the two sides of parallel text: linear CKA and the cosine of translations.

    python tools/representations.py --model FOLDER|ID --parallel FOLDER --layer 7 --out alike.csv

The CSV has the columns `language`, `cka_layer_7` and `cosine_layer_7`, for `--similarity_csv`. --parallel holds
tatoeba.LLL-eng.LLL with .eng, or XX.txt line by line (docs/similarity.md). A sentence is the mean of its tokens' states
in that layer, as in retrieval. --layer counts as hidden_states does: 0 is the embeddings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402

from peft_stilts.analysis.overlap import parallel  # noqa: E402
from peft_stilts.data.encode import encode_sentences  # noqa: E402
from peft_stilts.data.pack import make_pack, plan_packs  # noqa: E402
from peft_stilts.errors import StiltsError, UsageError  # noqa: E402
from peft_stilts.evaluate.retrieval import mean_pool  # noqa: E402
from peft_stilts.languages import LANGUAGES  # noqa: E402
from peft_stilts.miniature.world import TONGUES  # noqa: E402
from peft_stilts.model.encoder import Encoder, encode_pack, load_encoder  # noqa: E402
from peft_stilts.store import write_atomic  # noqa: E402

TOKENS = 4096
"""tokens that go through the encoder at once: what bounds memory"""
LONGEST = 512
"""tokens of a sentence, special ones included (XTREME's retrieval)"""


def alike(encoder: Encoder, folder: Path, source: str, layer: int) -> pd.DataFrame:
    """One row for every language with text in `folder`: `language`, `cka_layer_N`, `cosine_layer_N` (float64).

    Every language has the same number of pairs, because CKA grows as their number falls. Raises UsageError for a layer
    that the encoder has not, and as `parallel` does.
    """
    depth = encoder.config.num_hidden_layers
    if not 0 <= layer <= depth:
        raise UsageError(f"--layer {layer}: the encoder has the layers 0 (embeddings) to {depth}")
    known = {**TONGUES, **LANGUAGES}
    if source not in known:
        raise UsageError(f"--source {source} is no code of XTREME's languages or the miniature world's")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder.model.to(device)
    rows, english = [], ("", np.empty(0))
    for code, pairs in parallel(folder, source, list(known)).items():
        one, other = (list(side) for side in zip(*pairs))
        if english[0] != one:           # files XX.txt have one source text for all
            english = one, vectors(encoder, one, layer, device)
        x, y = english[1], vectors(encoder, other, layer, device)
        rows.append({"language": code, f"cka_layer_{layer}": linear_cka(x, y), f"cosine_layer_{layer}": cosine(x, y)})
    return pd.DataFrame(rows)


def vectors(encoder: Encoder, texts: Sequence[str], layer: int, device: str) -> np.ndarray:
    """(N, H) float64: every sentence's mean state of `hidden_states[layer]`."""
    positions = encoder.config.max_position_embeddings - encoder.config.pad_token_id - 1
    features = encode_sentences(texts, encoder.tokenizer, min(LONGEST, positions))
    found = np.empty((len(features), encoder.config.hidden_size))
    for indices in plan_packs(features.lengths, range(len(features)), TOKENS):
        pack = make_pack(features, indices, encoder.config.pad_token_id).to(device)
        with torch.no_grad():
            found[indices] = mean_pool(encode_pack(encoder.model, pack, layer), pack.cu_seqlens).cpu().numpy()
    return found


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centred kernel alignment of (N, Hx) and (N, Hy), 0..1, NaN where all rows of one are equal.

    ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) of columns less their means (Kornblith et al. 2019, arXiv 1905.00414).
    """
    if (x == x[0]).all() or (y == y[0]).all():
        return float("nan")
    x, y = (side.astype(np.float64) - side.mean(axis=0, dtype=np.float64) for side in (x, y))
    return float(np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    """The mean cosine of the rows of (N, H) and (N, H) that are translations."""
    scale = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return float(np.mean((x * y).sum(axis=1) / scale))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("--model", required=True, metavar="FOLDER|ID", help="an XLM-R encoder")
    parser.add_argument("--parallel", required=True, type=Path, metavar="FOLDER", help="parallel text")
    parser.add_argument("--layer", required=True, type=int, metavar="N", help="0 (embeddings) to the last layer")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the CSV to write")
    parser.add_argument("--source", default="en", metavar="XX", help="the language to compare with (default: en)")
    arguments = parser.parse_args()
    try:
        told = alike(load_encoder(arguments.model), arguments.parallel, arguments.source, arguments.layer)
        write_atomic(arguments.out, told.to_csv(index=False, lineterminator="\n"))
    except StiltsError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(told.to_string(index=False, float_format="%.3f"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
