"""Real languages in the small: the split, the controls and the verdicts by hand, and a run on slices of real files."""

import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_stilts import results
from peft_stilts.errors import DataError

TOOL = Path(__file__).resolve().parents[2] / "tools" / "real_languages.py"
sys.path.insert(0, str(TOOL.parent))
import real_languages as real  # noqa: E402
import real_languages_report as told  # noqa: E402

NOUN, VERB, PUNCT = 7, 15, 12     # places in UPOS


def rows(*sentences):
    """Treebank rows from sentences of (word, tag number)."""
    return pa.table({"tokens": [[word for word, _ in words] for words in sentences],
                     "pos_tags": [[tag for _, tag in words] for words in sentences]})


@given(st.lists(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=6), max_size=20))
def test_equal_sentences_are_on_the_same_side(sentences):
    sides = {}
    for words in sentences + sentences[::-1]:
        assert sides.setdefault(tuple(words), real.held_out(words)) == real.held_out(list(words))


def test_a_tenth_is_held_out_and_word_borders_count():
    held = sum(real.held_out([f"word{n}", "."]) for n in range(5000))
    assert 430 < held < 570         # 500 expected, sd 21
    differing = [(["a", f"b{n}"], [f"ab{n}"]) for n in range(200)]
    assert any(real.held_out(one) != real.held_out(other) for one, other in differing)


def test_the_controls_by_hand():
    train = rows([("dogs", NOUN), ("bark", VERB), (".", PUNCT)], [("bark", NOUN), ("dogs", NOUN)], [("bark", VERB)])
    tags = real.tags_of(train)
    usual, forms = real.most_frequent(tags), real.form_tags(train["tokens"].to_pylist(), tags)
    assert usual == "NOUN" and forms == {"dogs": "NOUN", "bark": "VERB", ".": "PUNCT"}
    words = [["Hunde", "bark", "."]]
    assert real.control_tags(words, {}, usual) == [("NOUN",) * 3]
    assert real.control_tags(words, forms, usual) == [("NOUN", "VERB", "PUNCT")]
    bank = real.Treebank("UD_X", "de", rows([("Hunde", NOUN), ("bark", NOUN), (".", PUNCT)]))
    assert real.score(real.control_tags(words, forms, usual), bank)["accuracy"] == pytest.approx(200 / 3)


def test_predictions_of_a_language_are_divided_among_its_treebanks_in_order():
    one = rows([("a", NOUN)], [("b", VERB)])
    tests = [real.Treebank("UD_English-A", "en", one), real.Treebank("UD_German-A", "de", one.slice(0, 1)),
             real.Treebank("UD_English-B", "en", one.slice(0, 1))]
    predicted = {"en": {"0": ("NOUN",), "1": ("VERB",), "2": ("ADJ",)}, "de": {"0": ("X",)}}
    assert real.by_treebank(predicted, tests) == {
        "UD_English-A": [("NOUN",), ("VERB",)], "UD_German-A": [("X",)], "UD_English-B": [("ADJ",)]}


@pytest.mark.parametrize(("random", "forms", "expected", "beside_random"), [
    ((50, 51, 59), 40, "wins", "wins"),
    ((50, 51, 61), 40, "open", "open"),         # a seed of the control reaches one of the pretrained encoder's
    ((50, 51, 52), 61.5, "loses", "wins"),
    ((61, 62, 63), 40, "loses", "loses"),
])
def test_a_win_is_one_with_every_seed(random, forms, expected, beside_random):
    scores = [(real.PRETRAINED, value) for value in (60, 61, 62)] + [("random encoder", value) for value in random]
    scores += [("most frequent tag", 20), ("word forms", forms)]
    frame = pd.DataFrame(scores, columns=["model", "score"]).astype({"score": float})
    assert told.verdict(frame) == expected and told.verdict(frame, [told.RANDOM]) == beside_random
    line = told.table(frame.assign(treebank="UD_X", language="de", words=1000), {"de": 7})[-1]
    assert line.startswith("| X (de) | 7 | 1,000 | 20.0 | ") and line.endswith(f" {expected} |")
    assert f"61.0 ± 1.0 | {61 - sum(random) / 3:+.1f} {beside_random} |" in line


def test_texts_are_drawn_from_every_language_and_paired_about_as_often_as_asked():
    bundles = [{"en": f"e{n}", "de": f"d{n}"} for n in range(50)] + [{"fi": "f"}]
    lines = real.draw_lines(bundles, 2000, 1)
    assert lines == real.draw_lines(bundles, 2000, 1) != real.draw_lines(bundles, 2000, 2)
    counts = Counter(line.split()[0][0] for line in lines)
    assert counts["f"] > 100 and counts["e"] > counts["f"] and counts["d"] > counts["f"]
    parts = [line.split() for line in lines if line != "f"]
    assert all(len(words) == 1 or words[0][1:] == words[1][1:] and words[0] != words[1] for words in parts)
    assert abs(sum(len(words) == 2 for words in parts) / len(parts) - real.PAIRED) < 0.03


def test_the_tokenizer_is_kept_and_separates_punctuation(tmp_path):
    lines = ["the dog sees the cat, the cat sees the dog.", "Der Hund sieht die Katze, die Katze den Hund!"] * 30
    tokenizer = real.make_tokenizer(lines, 60, tmp_path / "tokenizer")
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id) == (1, 3, len(tokenizer) - 1)
    pieces = tokenizer.get_vocab()
    assert not [piece for piece in pieces if len(piece) > 1 and set(piece) & set(",.!")]
    assert real.make_tokenizer(["other words"], 60, tmp_path / "tokenizer").get_vocab() == pieces


def heads(path, to, lines):
    to.parent.mkdir(parents=True, exist_ok=True)
    with open(path, encoding="utf-8") as file:
        to.write_text("".join(itertools.islice(file, lines)), encoding="utf-8")


def sentences(path, to, count):
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text("\n\n".join(path.read_text(encoding="utf-8").split("\n\n")[:count]) + "\n\n", encoding="utf-8")


@pytest.fixture
def slices(shared, tmp_path):
    """A --data folder with the first texts and sentences of real files in English, German and Yoruba."""
    data, folder = shared / "data", tmp_path / "data"
    for code in ("en", "de", "ro"):
        content = json.loads((data / "xquad" / f"xquad.{code}.json").read_text(encoding="utf-8"))
        content["data"] = [content["data"][0] | {"paragraphs": content["data"][0]["paragraphs"][:2]}]
        (folder / "xquad").mkdir(parents=True, exist_ok=True)
        (folder / "xquad" / f"xquad.{code}.json").write_text(json.dumps(content), encoding="utf-8")
    for side in ("deu", "eng"):
        name = f"tatoeba.deu-eng.{side}"
        heads(data / "tatoeba_v1" / name, folder / "tatoeba_v1" / name, 20)
    heads(data / "xcopa/et/val.et.jsonl", folder / "xcopa/et/val.et.jsonl", 5)
    for bank, name, count in (("English-EWT", "en_ewt-ud-dev", 40), ("English-EWT", "en_ewt-ud-test", 6),
                              ("English-PUD", "en_pud-ud-test", 4), ("German-PUD", "de_pud-ud-test", 5),
                              ("Yoruba-YTB", "yo_ytb-ud-test", 5), ("English-Atis", "en_atis-ud-train", 5)):
        place = Path("ud") / f"UD_{bank}" / f"{name}.conllu"
        sentences(data / place, folder / place, count)
    return folder


def test_texts_are_those_of_the_treebanks_languages_and_never_a_treebanks(slices):
    said = []
    dev, tests = real.read_treebanks(slices / "ud", said.append)
    assert len(dev) == 40 and [(bank.name, len(bank.rows)) for bank in tests] == [
        ("UD_German-PUD", 5), ("UD_English-EWT", 6), ("UD_English-PUD", 4), ("UD_Yoruba-YTB", 5)]
    assert any("Atis" in line and "not used" in line for line in said)
    bundles = real.read_bundles(slices, {bank.code for bank in tests}, said.append)
    assert set().union(*bundles) == {"en", "de"}
    assert Counter(len(bundle) for bundle in bundles)[1] == 4       # the paragraphs; the rest is in both
    treebanks = {" ".join(words) for bank in tests for words in bank.words}
    assert not treebanks & {text for bundle in bundles for text in bundle.values()}
    with pytest.raises(DataError, match="no text in yo"):
        real.read_bundles(slices, {"yo"}, said.append)
    with pytest.raises(DataError, match="0 English development"):
        real.read_treebanks(slices / "ud" / "UD_German-PUD", said.append)


def test_the_whole_runs_on_slices_resumes_and_agrees_with_the_results_table(slices, tmp_path, monkeypatch):
    monkeypatch.setattr(real, "POS", real.POS | {"epochs": 1})
    out = tmp_path / "out"
    scores = real.run_all(slices, out, (1, 2), count=60, vocabulary=300, say=lambda line: None)
    assert set(scores["model"]) == {*told.CONTROLS, real.PRETRAINED}
    assert scores["score"].between(0, 100).all() and scores["score"].notna().all()
    table = results.read(out / "runs")
    german = table[(table["language"] == "de") & (table["seed"] == 2)].groupby("metric")["score"].apply(sorted)
    mine = scores[(scores["language"] == "de") & (scores["seed"] == 2)].groupby("metric")["score"].apply(sorted)
    assert german.to_dict() == mine.to_dict()

    text = (out / "report.md").read_text(encoding="utf-8")
    tests = real.read_treebanks(slices / "ud", print)[1]
    texts = len(real.lines_by_language(real.read_bundles(slices, {bank.code for bank in tests}, print))["de"])
    assert f"| German-PUD (de) | {texts} | {sum(map(len, tests[0].words))} |" in text
    assert "| Yoruba-YTB (yo) | 0 |" in text
    assert len([path for path in (out / "encoders").iterdir() if path.is_dir()]) == 3    # one a seed, one pretrained

    before = {path: path.stat().st_mtime_ns for path in (out / "runs" / "stages").rglob("*")}
    again = real.run_all(slices, out, (1, 2), count=60, vocabulary=300, say=lambda line: None)
    pd.testing.assert_frame_equal(scores, again)
    assert before == {path: path.stat().st_mtime_ns for path in (out / "runs" / "stages").rglob("*")}


@pytest.mark.parametrize("words", [("--data", "nowhere"), ("--data", ".", "--seeds", "1,1"), ("--data", ".", "--texts",
                                                                                              "0")])
def test_a_mistyped_flag_is_a_message(words, tmp_path):
    done = subprocess.run([sys.executable, str(TOOL), *words, "--out", str(tmp_path / "out")], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 2 and "Traceback" not in done.stderr and not (tmp_path / "out").exists()
