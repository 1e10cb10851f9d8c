"""Subword overlap: against a hand computation, whatever the files are called, and what cannot be read."""

import math

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from peft_stilts.analysis import overlap
from peft_stilts.analysis.overlap import load_tokenizer, overlaps, parallel
from peft_stilts.analysis.similarity import similarities
from peft_stilts.errors import DataError, UsageError

ENGLISH = ["the cat sat", "the dog ran", "a cat ran"]
GERMAN = ["the katze sat", "the hund ran", "ein cat lief"]


def write(folder, **texts):
    folder.mkdir(exist_ok=True)
    for name, lines in texts.items():
        (folder / name.replace("__", ".").replace("_", "-")).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tokenizer of whole words that lacks 'lief': its types are the words themselves."""
    folder = tmp_path_factory.mktemp("words")
    made = Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator([*ENGLISH, *GERMAN[:2], "ein"], trainers.WordLevelTrainer(special_tokens=["<s>", "<unk>"]))
    made.enable_truncation(2)
    made.enable_padding(pad_id=0, pad_token="<s>")
    made.save(str(folder / "tokenizer.json"))
    return folder


def test_overlap_is_that_of_the_sets_of_words(words, tmp_path):
    folder = write(tmp_path / "text", en__txt=ENGLISH, de__txt=GERMAN, zh__txt=["lief lief"] * 3)
    told = overlaps(words, folder, "en", ["en", "de", "zh", "fr"])
    english, german = {"the", "cat", "sat", "dog", "ran", "a"}, {"the", "katze", "sat", "hund", "ran", "ein", "cat"}
    assert told["de"] == len(english & german) / len(english | german) == 4 / 9
    assert told["en"] == 1 and told["zh"] == 0 and math.isnan(told["fr"])
    assert list(told.index) == ["en", "de", "zh", "fr"]
    assert told.attrs["origin"].endswith("on 3 pairs a language (text)") and str(tmp_path) not in told.attrs["origin"]
    assert similarities(told.index, overlap=told).origins["overlap"] == told.attrs["origin"]


def test_a_trained_unigram_tokenizer_by_its_own_pieces(tmp_path):
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator((ENGLISH + GERMAN) * 5, trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<s>", "<unk>"], unk_token="<unk>", show_progress=False))
    made.save(str(tmp_path / "tokenizer.json"))
    folder = write(tmp_path / "text", en__txt=ENGLISH, de__txt=[f"{line} 漢" for line in GERMAN])
    sides = [{piece for line in side for piece in made.encode(line, add_special_tokens=False).tokens}
             for side in (ENGLISH, GERMAN)]
    sides[1] |= {"▁"} & set(made.encode("漢").tokens)          # the space before a character that is in no piece
    assert 0 < overlaps(tmp_path, folder, "en", ["de"])["de"] == pytest.approx(
        len(sides[0] & sides[1]) / len(sides[0] | sides[1]))


@pytest.mark.parametrize("model", [
    models.WordLevel({"▁the": 0, "what": 1}, unk_token="what"),
    models.Unigram([("▁the", -1.0), ("what", -2.0)], unk_id=1)])
def test_an_unknown_token_that_is_not_marked_special_is_no_shared_type(model, tmp_path):
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.save(str(tmp_path / "tokenizer.json"))
    folder = write(tmp_path / "text", en__txt=["the 漢"], de__txt=["漢 漢"], fr__txt=["the"])
    assert overlaps(tmp_path, folder, "en", ["de", "fr"]).tolist() == [0, 1]


def test_every_language_is_read_to_the_same_number_of_pairs(words, tmp_path):
    folder = write(tmp_path / "text", tatoeba__deu_eng__deu=GERMAN, tatoeba__deu_eng__eng=ENGLISH,
                   tatoeba__cmn_eng__cmn=["", "the cat"], tatoeba__cmn_eng__eng=["empty on the other side", "the cat"])
    read = parallel(folder, "en", ["en", "de", "zh", "fi"])
    assert read == {"de": [(ENGLISH[0], GERMAN[0])], "zh": [("the cat", "the cat")]}
    assert overlaps(words, folder, "en", ["de", "zh"]).tolist() == [0.5, 1.0]       # {the, cat, sat} {the, katze, sat}
    with pytest.raises(UsageError, match="pairs with English; --source de needs files XX.txt"):
        parallel(folder, "de", ["zh"])


def test_text_is_read_up_to_a_bound_and_split_at_newlines_only(tmp_path, monkeypatch):
    folder = write(tmp_path / "text", en__txt=["one\u2028still one", "two", "three"], qa__txt=["1", "2", "3"])
    assert parallel(folder, "en", ["qa"])["qa"][0] == ("one\u2028still one", "1")
    monkeypatch.setattr(overlap, "MOST", 2)
    assert len(parallel(folder, "en", ["qa"])["qa"]) == 2


@pytest.mark.parametrize(("texts", "error", "told"), [
    (dict(en__txt=["a", "b"], de__txt=["a"]), DataError, "not parallel: de.txt ends before line 2"),
    (dict(en__txt=["a"], de__txt=["a", "b"]), DataError, "not parallel: en.txt ends before line 2"),
    (dict(en__txt=["", "a"], de__txt=["a", ""]), DataError, "no line with text in both"),
    (dict(en__txt=["a"]), UsageError, "no text of de"),
    (dict(tatoeba__deu_eng__deu=["a"]), DataError, "cannot read .*tatoeba.deu-eng.eng")])
def test_files_that_are_not_parallel_are_refused(texts, error, told, tmp_path):
    with pytest.raises(error, match=told):
        parallel(write(tmp_path / "text", **texts), "en", ["de"])


def test_what_is_no_text_or_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is no folder"):
        parallel(tmp_path / "absent", "en", ["de"])
    folder = write(tmp_path / "text", en__txt=["a"])
    (folder / "de.txt").write_bytes(b"\xff\n")
    with pytest.raises(DataError, match="not UTF-8"):
        parallel(folder, "en", ["de"])
    with pytest.raises(UsageError, match="has no tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="is no tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(UsageError, match="nobody/nothing is no folder here"):
        load_tokenizer("nobody/nothing")
