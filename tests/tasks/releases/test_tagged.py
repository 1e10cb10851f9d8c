"""Tagged words: treebanks joined by language, WikiAnn, CCGbank, and the real treebanks."""

from collections import Counter

import pyarrow as pa
import pytest

from peft_stilts.languages import LANGUAGES
from peft_stilts.tasks import TASKS
from peft_stilts.tasks.mirror import mirror
from peft_stilts.tasks.sources import LocalMirror, load_checked
from peft_stilts.tasks.xtreme import UPOS


def conllu(*sentences):
    """Sentences of 'form/TAG' words; a word 'a+b/TAG+TAG' is a multiword token; `~a/TAG` is an empty node."""
    lines = []
    for sentence in sentences:
        number = 0
        for word in sentence.split():
            form, tags = word.rsplit("/", 1)
            if form.startswith("~"):
                lines.append("\t".join([f"{number}.1", form[1:], "_", tags, *"______"]))
                continue
            forms = form.split("+")
            if len(forms) > 1:
                lines.append("\t".join([f"{number + 1}-{number + len(forms)}", "".join(forms), *"________"]))
            for part, tag in zip(forms, tags.split("+"), strict=True):
                number += 1
                lines.append("\t".join([str(number), part, "_", tag, "_", "_", "0", "dep", "_", "_"]))
        lines.append("")
    return "\n".join(["# newdoc", *lines])


UD = {
    "UD_English-Zoo/en_zoo-ud-train-b.conllu": conllu("I/PRON do+n't/AUX+PART ~know/VERB", "Stop/VERB"),
    "UD_English-Zoo/en_zoo-ud-train-a.conllu": conllu("First/ADV"),
    "UD_English-EWT/en_ewt-ud-train.conllu": conllu("Before/ADP zoo/NOUN"),
    "UD_English-EWT/en_ewt-ud-dev.conllu": conllu("_/NOUN _/VERB ./PUNCT", "Dev/NOUN"),
    "UD_Afrikaans-AfriBooms/af_afribooms-ud-test.conllu": conllu("Ja/INTJ"),
    "UD_Hindi_English-HIENCS/qhe_hiencs-ud-test.conllu": conllu("haan/INTJ"),
    "UD_English-EWT/stats.conllu": "x",
}


def words(*texts):
    tags = {tag: number for number, tag in enumerate(UPOS)}
    pairs = [[word.rsplit("/", 1) for word in text.split()] for text in texts]
    return [([form for form, _ in row], [tags[tag] for _, tag in row]) for row in pairs]


def test_treebanks_of_a_language_are_joined_in_the_order_of_their_files(bench):
    assert bench.mirror("udpos", UD) == [
        "google xtreme udpos.Afrikaans test",
        "google xtreme udpos.English train",
        "google xtreme udpos.English validation",
    ]
    table = bench.table("google/xtreme", "udpos.English", "train")
    assert table.schema.equals(pa.schema([("tokens", pa.list_(pa.string())), ("pos_tags", pa.list_(pa.int64()))]))
    assert bench.rows("google/xtreme", "udpos.English", "train") == words(
        "Before/ADP zoo/NOUN", "First/ADV", "I/PRON don't/AUX", "Stop/VERB"
    )
    assert bench.rows("google/xtreme", "udpos.English", "validation") == words("Dev/NOUN")
    assert bench.told(
        "en_zoo-ud-train-b.conllu: 2 sentences, 4 syntactic words, 3 tokens",
        "1 multiword tokens fused",
        "1 empty nodes",
    )
    assert bench.told("en_ewt-ud-dev.conllu: 1 sentences", "1 sentences without their words left out")
    assert bench.told("qhe_hiencs", "none of XTREME's languages") and bench.told("stats.conllu: not named")
    assert bench.checked("udpos", TASKS["udpos"].train[0])["tags"][2] == ["PRON", "AUX"]


def test_syntactic_words_on_request(bench):
    bench.mirror("udpos_syntactic", UD)
    assert bench.rows("google/xtreme", "udpos.English", "train")[2:3] == words("I/PRON do/AUX n't/PART")
    assert bench.told("4 syntactic words, 4 tokens", "1 multiword tokens split")


def wikiann(code, *sentences):
    return "\n".join("".join(f"{code}:{word}\t{tag}\n" for word, tag in sentence) for sentence in sentences)


def test_wikiann_in_every_layout(bench):
    first, second = [("Ada", "B-PER"), (":", "O")], [("Rio", "B-LOC"), ("de", "I-LOC"), ("", "O")]
    files = {
        "en/train": wikiann("en", first, second),
        "panx_de/dev": wikiann("de", first) + "\r\n\r\n\r\n",
        "panx_dataset/yo-test": "\n" + wikiann("yo", second).replace("\n", "\r\n"),
    }
    assert bench.mirror("panx", files) == [
        "google xtreme PAN-X.de validation",
        "google xtreme PAN-X.en train",
        "google xtreme PAN-X.yo test",
    ]
    assert bench.table("google/xtreme", "PAN-X.en", "train").schema.equals(
        pa.schema(
            [("tokens", pa.list_(pa.string())), ("ner_tags", pa.list_(pa.int64())), ("langs", pa.list_(pa.string()))]
        )
    )
    assert bench.rows("google/xtreme", "PAN-X.en", "train") == [
        (["Ada", ":"], [1, 0], ["en", "en"]),
        (["Rio", "de", ""], [5, 6, 0], ["en"] * 3),
    ]
    assert bench.rows("google/xtreme", "PAN-X.de", "validation") == [(["Ada", ":"], [1, 0], ["de", "de"])]
    assert bench.rows("google/xtreme", "PAN-X.yo", "test") == [(["Rio", "de", ""], [5, 6, 0], ["yo"] * 3)]
    assert bench.told("yo-test: 1 words are blank") and bench.told("en: no file of split 'test'")
    tags = bench.checked("panx", TASKS["panx"].test(LANGUAGES["yo"]))["tags"][0]
    assert tags == ["B-LOC", "I-LOC", "O"]


def test_ccg_under_either_name(bench):
    line = "The dog runs\tNP[nb]/N N S[dcl]\\NP\n"
    assert bench.mirror("ccg", {"train.tsv": line, "ccg.dev": line * 2}) == [
        "ldc ccgbank default train",
        "ldc ccgbank default validation",
    ]
    assert bench.table("ldc/ccgbank", "default", "train").schema.types == [pa.list_(pa.string())] * 2
    assert (
        bench.rows("ldc/ccgbank", "default", "validation")
        == [(["The", "dog", "runs"], ["NP[nb]/N", "N", "S[dcl]\\NP"])] * 2
    )
    assert bench.checked("ccg", TASKS["ccg"].train[0])["tags"][0][1] == "N"


DEV = "UD_English-EWT/en_ewt-ud-dev.conllu"
BAD = {
    "unknown part of speech": (
        "udpos",
        {DEV: conllu("a/NOUN", "b/Noun")},
        ["en_ewt-ud-dev.conllu, sentence at line 4", "'b'", "unknown tag 'Noun'", "ADJ, ADP, ADV"],
    ),
    "no part of speech": ("udpos", {DEV: conllu("a/_")}, ["unknown tag '_'"]),
    "all withheld": ("udpos", {DEV: conllu("_/NOUN")}, ["en_ewt-ud-dev.conllu", "has no rows"]),
    "twice": ("udpos", {DEV: conllu("a/X"), "copy/en_ewt-ud-dev.conllu": conllu("a/X")}, ["is there twice", "copy"]),
    "empty": ("udpos", {DEV: ""}, ["en_ewt-ud-dev.conllu is empty"]),
    "comments only": ("udpos", {DEV: "# text\n\n"}, ["has no rows"]),
    "no tag": ("panx", {"en/dev": "en:Ada\n"}, ["dev, line 1", "'en:word', tab, tag"]),
    "a tab too many": ("panx", {"en/dev": "en:Ada\tO\t\n"}, ["dev, line 1"]),
    "no prefix": ("panx", {"en/dev": "en:Ada\tO\nAda\tO\n"}, ["dev, line 2"]),
    "another language": ("panx", {"en/dev": "de:Ada\tO\n"}, ["dev, line 1", "'de:Ada"]),
    "another tag set": ("panx", {"en/dev": "en:Ada\tB-MISC\n"}, ["dev, line 1", "unknown tag 'B-MISC'", "I-LOC"]),
    "a tag in lower case": ("panx", {"en/dev": "en:Ada\to\n"}, ["unknown tag 'o'"]),
    "fewer supertags": ("ccg", {"dev.tsv": "a b\tN N\na b\tN\n"}, ["dev.tsv, line 2 has 2 words and 1 supertags"]),
    "no words": ("ccg", {"dev.tsv": "a\tN\n \t \n"}, ["dev.tsv, line 2 has 0 words"]),
    "no supertags": ("ccg", {"dev.tsv": "a b\n"}, ["line 1 has 1 tab-separated fields, not 2"]),
    "an empty line": ("ccg", {"dev.tsv": "a\tN\n\na\tN\n"}, ["line 2 has 1"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tags_are_refused(bench, name):
    task, files, parts = BAD[name]
    bench.refuses(task, files, *parts)


def counted(path):
    """(sentences, syntactic words, words hidden in multiword tokens) of a treebank, by its lines alone."""
    counts = Counter()
    for line in path.read_text(encoding="utf-8").split("\n"):
        number = line.split("\t")[0]
        counts["sentences"] += number == "1"
        counts["words"] += number.isdecimal()
        if "-" in number and not line.startswith("#"):
            first, last = map(int, number.split("-"))
            counts["hidden"] += last - first
    return counts["sentences"], counts["words"], counts["hidden"]


@pytest.mark.parametrize("task", ["udpos", "udpos_syntactic"])
def test_all_real_treebanks_have_the_words_that_their_files_have(shared, tmp_path, task):
    mirror(task, shared / "data" / "ud", tmp_path, lambda line: None)
    local, files = LocalMirror(tmp_path), sorted((shared / "data" / "ud").glob("*/*.conllu"))
    expected = Counter()
    for path in files:
        code, split = path.name.split("_")[0], path.name.split("-ud-")[1].removesuffix(".conllu")
        sentences, words, hidden = counted(path)
        expected[code, split, "sentences"] += sentences
        expected[code, split, "words"] += words - (hidden if task == "udpos" else 0)
    assert len(files) == 22 and local.languages(TASKS["udpos"]) == tuple(
        code for code in TASKS["udpos"].languages if (code, "test", "words") in expected
    )
    for code in local.languages(TASKS["udpos"]):
        rows = load_checked(local, "tagging", TASKS["udpos"].test(LANGUAGES[code]), labels=UPOS)
        assert len(rows) == expected[code, "test", "sentences"]
        assert sum(map(len, rows["tokens"])) == sum(map(len, rows["tags"])) == expected[code, "test", "words"]
        assert not any(" " in token or not token for tokens in rows["tokens"] for token in tokens)
    pud = load_checked(local, "tagging", TASKS["udpos"].test(LANGUAGES["de"]), labels=UPOS)
    assert len(pud) == 1000 and sum(map(len, pud["tags"])) == (21_001 if task == "udpos" else 21_332)
