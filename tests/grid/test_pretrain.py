"""The miniature encoder is made again from nothing, to the same bytes, and reads as any XLM-R folder."""

import dataclasses

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from peft_stilts.digest import sha256_file
from peft_stilts.errors import UsageError
from peft_stilts.grid import pretrain
from peft_stilts.grid.base import find_base
from peft_stilts.grid.pretrain import build, training_settings
from peft_stilts.miniature.pretraining import SETTINGS
from peft_stilts.model.encoder import load_encoder
from peft_stilts.model.heads import new_head

SMALL = dataclasses.replace(SETTINGS, tokens=4000, sequences_per_step=8, model=SETTINGS.model | {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32})


@pytest.fixture(autouse=True)
def few_texts(monkeypatch):
    """One thread, and a shipped folder to compare with, whether the real one is there or not."""
    monkeypatch.setattr(pretrain, "THREADS", 1)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "THREADS", 1)
        folder = tmp_path_factory.mktemp("built") / "my weights"
        build(folder, SMALL)
    return folder


def test_the_folder_is_an_encoder_with_head_and_tokenizer(built):
    assert sorted(path.name for path in built.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert [path for path in built.parent.iterdir() if path != built] == [], "no work is left behind"
    base = find_base(str(built))
    assert base.config.num_hidden_layers == 1
    encoder, tokenizer = load_encoder(built), AutoTokenizer.from_pretrained(built)
    assert len(tokenizer) == encoder.config.vocab_size == 3000
    model = AutoModelForMaskedLM.from_pretrained(built).eval()
    ids = tokenizer("Anna", return_tensors="pt")
    with torch.no_grad():
        logits = model(**ids).logits
    assert logits.shape[-1] == 3000 and torch.isfinite(logits).all()
    embeddings = encoder.model.get_input_embeddings().weight
    assert torch.equal(model.lm_head.decoder.weight, embeddings), "the head is tied to the encoder"
    assert not torch.equal(model.lm_head.dense.weight, new_head("mlm", encoder.config, 3000, 1).lm_head.dense.weight)


def test_again_it_has_the_same_bytes_after_an_interruption_too(built, tmp_path, monkeypatch, capsys):
    plain, steps = pretrain.train, []

    def cut(*args, progress, **options):
        def shown(*told):
            progress(*told)
            steps.append(told[0])
            if len(steps) == 5:
                raise KeyboardInterrupt

        return plain(*args, progress=shown, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pretrain, "train", cut)
        build(tmp_path / "again", SMALL)
    assert not (tmp_path / "again").exists(), "no half folder"
    build(tmp_path / "again", SMALL)
    assert "resumed after step 5" in capsys.readouterr().out
    assert sha256_file(tmp_path / "again" / "model.safetensors") == sha256_file(built / "model.safetensors")


def test_a_folder_with_something_in_it_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "pretraining_examples", lambda *args: pytest.fail("work was begun"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="holds something already; give a new folder with --out"):
        build(tmp_path, SMALL)
    assert (tmp_path / "file").read_text() == "mine"


def test_the_settings_are_the_corpus_own_with_one_pass():
    settings = training_settings(SETTINGS)
    assert (settings.lr, settings.features_per_step, settings.adam_betas) == (
        SETTINGS.lr, SETTINGS.sequences_per_step, SETTINGS.betas)
    assert settings.epochs == 1 and settings.keep == "last"


def test_the_callers_threads_are_given_back(tmp_path, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(pretrain, "THREADS", before + 1)
    monkeypatch.setattr(pretrain, "pretraining_examples", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(tmp_path / "out", SMALL)
    assert torch.get_num_threads() == before
