"""Representations: linear CKA against its definition by kernels and its invariances, and the tool's CSV."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_stilts.analysis.similarity import similarities
from peft_stilts.errors import UsageError
from peft_stilts.model.encoder import load_encoder

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import representations as module  # noqa: E402

WEIGHTS = ROOT / "peft_stilts" / "miniature" / "weights"
LINES = ["the dog sees a house", "a man gives the book", "where is the river", "two birds", "the old king sleeps well"]


def by_kernels(x, y):
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) of linear kernels, centred by H = I - 1/n: the definition of CKA."""
    n = len(x)
    centre = np.eye(n) - 1 / n
    k, l = (centre @ side @ side.T @ centre for side in (x.astype(np.float64), y.astype(np.float64)))  # noqa: E741
    return np.trace(k @ l) / np.sqrt(np.trace(k @ k) * np.trace(l @ l))


@settings(deadline=None, max_examples=40)
@given(n=st.integers(3, 12), wide=st.integers(1, 6), other=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_cka_is_its_definition_and_has_its_invariances(n, wide, other, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, wide)) + 3, rng.normal(size=(n, other)) @ np.diag(rng.uniform(0.5, 2, other))
    value = module.linear_cka(x, y)
    assert value == pytest.approx(by_kernels(x, y), abs=1e-9) and -1e-9 <= value <= 1 + 1e-9
    assert value == pytest.approx(module.linear_cka(y, x), abs=1e-9)
    turn, _ = np.linalg.qr(rng.normal(size=(wide, wide)))
    order = rng.permutation(n)
    assert module.linear_cka(5 * x @ turn - 7, y) == pytest.approx(value, abs=1e-9)     # rotation, scale, shift
    assert module.linear_cka(x[order], y[order]) == pytest.approx(value, abs=1e-9)
    assert module.linear_cka(x, x @ turn) == pytest.approx(1, abs=1e-9)


def test_cka_of_equal_rows_is_not_known():
    x = np.random.default_rng(1).normal(size=(5, 3))
    assert np.isnan(module.linear_cka(x, np.full((5, 2), 0.1))) and np.isnan(module.linear_cka(x[:1], x[:1]))


def test_cosine_by_hand():
    assert module.cosine(np.array([[1.0, 0], [0, 2]]), np.array([[3.0, 0], [1, 1]])) == pytest.approx(
        (1 + np.sqrt(0.5)) / 2)


@pytest.fixture
def text(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "en.txt").write_text("\n".join(LINES), encoding="utf-8")
    (folder / "qa.txt").write_text("\n".join(LINES), encoding="utf-8")
    (folder / "qb.txt").write_text("\n".join(reversed(LINES)), encoding="utf-8")
    return folder


@pytest.mark.parametrize("layer", [0, 2])
def test_vectors_are_means_of_the_hidden_states_of_the_plain_model(layer):
    encoder = load_encoder(WEIGHTS)
    found = module.vectors(encoder, LINES, layer, "cpu")
    from transformers import XLMRobertaModel

    plain = XLMRobertaModel.from_pretrained(WEIGHTS, add_pooling_layer=False, attn_implementation="eager").eval()
    for line, vector in zip(LINES, found):
        with torch.no_grad():
            states = plain(**encoder.tokenizer(line, return_tensors="pt"), output_hidden_states=True).hidden_states
        assert np.allclose(vector, states[layer][0].double().mean(dim=0), atol=2e-5)


def test_the_csv_is_a_measure_of_similarity(text, tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "alike.csv"
    monkeypatch.setattr(sys, "argv", ["representations.py", "--model", str(WEIGHTS), "--parallel", str(text),
                                      "--layer", "3", "--out", str(out)])
    assert module.main() == 0 and "cka_layer_3" in capsys.readouterr().out
    told = similarities(["qa", "qb"], csv=out).values
    assert told.loc["qa", "cka_layer_3"] == pytest.approx(1) and told.loc["qa", "cosine_layer_3"] == pytest.approx(1)
    assert told.loc["qb", "cka_layer_3"] < 0.99 and told.loc["qb", "cosine_layer_3"] < 0.99
    monkeypatch.setattr(sys, "argv", [*sys.argv[:5], "--layer", "9", "--out", str(out)])
    assert module.main() == 2 and "0 (embeddings) to 4" in capsys.readouterr().err


def test_every_language_is_compared_with_its_own_english_text(tmp_path):
    for code, lines in (("deu", LINES), ("fra", LINES[::-1])):
        for side in (code, "eng"):
            (tmp_path / f"tatoeba.{code}-eng.{side}").write_text("\n".join(lines), encoding="utf-8")
    told = module.alike(load_encoder(WEIGHTS), tmp_path, "en", 2).set_index("language")
    assert list(told.index) == ["de", "fr"] and np.allclose(told, 1)


def test_a_source_that_is_no_language_is_refused(text):
    with pytest.raises(UsageError, match="--source xx"):
        module.alike(load_encoder(WEIGHTS), text, "xx", 1)
