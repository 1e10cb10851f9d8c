"""Sentence pairs: columns, types and label order of the hub, from every format they are published in."""

import pyarrow as pa
import pytest

from peft_stilts.languages import LANGUAGES
from peft_stilts.tasks import TASKS

NLI_HEAD = "gold_label\tsentence1_parse\tsentence1\tsentence2\tpairID"
XNLI_HEAD = "language\tgold_label\tsentence1\tsentence2\tpairID\tmatch"


def nli(label, n=1):
    return {"gold_label": label, "sentence1": f"Premise {n}.", "sentence2": f"Hypothesis {n}.", "pairID": str(n)}


def snli_line(label, *labels):
    return "\t".join([label, "( x )", 'He said "no.', 'He said no."', "1", *labels])


def test_mnli_drops_pairs_without_a_gold_label_and_numbers_the_rest(bench):
    files = {
        f"multinli_1.0_{name}.jsonl": [nli("neutral", 1), nli("-", 2), nli("contradiction", 3), nli("entailment", 4)]
        for name in ("train", "dev_matched", "dev_mismatched")
    }
    assert bench.mirror("mnli", files) == [
        f"nyu-mll glue mnli {split}" for split in ("train", "validation_matched", "validation_mismatched")
    ]
    table = bench.table("nyu-mll/glue", "mnli", "train")
    assert table.schema.equals(
        pa.schema([("premise", pa.string()), ("hypothesis", pa.string()), ("label", pa.int64()), ("idx", pa.int32())])
    )
    assert table.to_pylist() == [
        {"premise": f"Premise {n}.", "hypothesis": f"Hypothesis {n}.", "label": label, "idx": idx}
        for idx, (n, label) in enumerate([(1, 1), (3, 2), (4, 0)])
    ]
    assert bench.told("multinli_1.0_train.jsonl", "1 pairs without a gold label")
    assert bench.checked("mnli", TASKS["mnli"].train[0])["label"][:] == ["neutral", "contradiction", "entailment"]


def test_mnli_from_its_other_formats(bench):
    files = {
        "multinli_1.0/multinli_1.0_dev_matched.txt": "\n".join(
            [NLI_HEAD + "\tlabel1\tlabel2", snli_line("entailment", "entailment"), snli_line("-", "neutral", "x")]
        ),
        "MNLI/dev_mismatched.tsv": f"index\t{NLI_HEAD}\r\n0\t{snli_line('neutral')}\r\n",
        "XNLI-MT-1.0/multinli/multinli.train.en.tsv": "premise\thypo\tlabel\nA .\tB .\tcontradictory\n"
        "C .\tD .\tneutral\nE .\tF .\tentailment\n",
    }
    bench.mirror("mnli", files)
    assert bench.rows("nyu-mll/glue", "mnli", "train") == [
        ("A .", "B .", 2, 0),
        ("C .", "D .", 1, 1),
        ("E .", "F .", 0, 2),
    ]
    quoted = ('He said "no.', 'He said no."')
    assert bench.rows("nyu-mll/glue", "mnli", "validation_matched") == [(*quoted, 0, 0)]
    assert bench.rows("nyu-mll/glue", "mnli", "validation_mismatched") == [(*quoted, 1, 0)]


def test_snli_keeps_pairs_without_a_gold_label_as_minus_one(bench):
    rows = [nli("entailment", 1), nli("-", 2), nli("contradiction", 3) | {"sentence2": " "}]
    assert bench.mirror(
        "snli",
        {"snli_1.0_train.jsonl": rows, "snli_1.0/snli_1.0_test.txt": "\n".join([NLI_HEAD, snli_line("neutral")])},
    ) == ["stanfordnlp snli plain_text test", "stanfordnlp snli plain_text train"]
    assert [row[2] for row in bench.rows("stanfordnlp/snli", "plain_text", "train")] == [0, -1, 2]
    assert bench.table("stanfordnlp/snli", "plain_text", "train").schema.types == [pa.string(), pa.string(), pa.int64()]
    assert bench.rows("stanfordnlp/snli", "plain_text", "test")[0][2] == 1
    assert bench.told("1 pairs have no gold label") and bench.told("no file of split 'validation'")
    assert bench.told("snli_1.0_train.jsonl", "1 pairs have a blank sentence")


def anli_row(label, uid="u1", **more):
    return {
        "uid": uid,
        "context": "A context.",
        "hypothesis": "A hypothesis.",
        "label": label,
        "model_label": "n",
    } | more


def test_anli_has_nine_splits(bench):
    rows = [anli_row("e", "1", reason="why"), anli_row("n", "2"), anli_row("c", "3", emturk=False)]
    pieces = bench.mirror(
        "anli", {f"anli_v1.0/R{n}/{name}.jsonl": rows for n in (1, 2, 3) for name in ("train", "dev", "test")}
    )
    assert pieces == sorted(
        f"facebook anli plain_text {name}_r{n}" for n in (1, 2, 3) for name in ("train", "dev", "test")
    )
    assert bench.table("facebook/anli", "plain_text", "dev_r3").schema.names == [
        "uid",
        "premise",
        "hypothesis",
        "label",
        "reason",
    ]
    assert bench.rows("facebook/anli", "plain_text", "dev_r3") == [
        ("1", "A context.", "A hypothesis.", 0, "why"),
        ("2", "A context.", "A hypothesis.", 1, ""),
        ("3", "A context.", "A hypothesis.", 2, ""),
    ]


QQP = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"


def test_qqp_numbers_rows_by_line_and_drops_broken_ones(bench):
    train = QQP + '7\t1\t2\tWhat is "x?\tWhat is y"?\t1\n8\t1\t2\tHow\nmany?\tWhy?\t0\n9\t1\t2\tA?\t\t0\n'
    bench.mirror("qqp", {"QQP/train.tsv": train, "QQP/dev.tsv": QQP + "1\t1\t2\tA?\tB?\t0\n"})
    table = bench.table("nyu-mll/glue", "qqp", "train")
    assert table.schema.equals(
        pa.schema([("question1", pa.string()), ("question2", pa.string()), ("label", pa.int64()), ("idx", pa.int32())])
    )
    assert bench.rows("nyu-mll/glue", "qqp", "train") == [('What is "x?', 'What is y"?', 1, 0), ("A?", "", 0, 3)]
    assert bench.told("train.tsv", "2 broken lines left out: 3, 4") and bench.told("1 pairs have a blank sentence")
    assert bench.checked("qqp", TASKS["qqp"].select[0])["label"][:] == ["not_duplicate"]


def xnli(rows):
    return "\n".join([XNLI_HEAD, *("\t".join(row) for row in rows), ""])


def test_xnli_keeps_all_languages_in_one_split(bench):
    rows = [
        ("ar", "neutral", 'ألف "', "باء", "1", "True"),
        ("en", "entailment", 'A "', "B", "1", "True"),
        ("en", "contradiction", "C", "D", "2", "True"),
        ("xx", "neutral", "C", "D", "2", "True"),
    ]
    assert bench.mirror("xnli", {"XNLI-1.0/xnli.test.tsv": xnli(rows), "XNLI-1.0/xnli.dev.tsv": xnli(rows[:2])}) == [
        "google xtreme XNLI test",
        "google xtreme XNLI validation",
    ]
    table = bench.table("google/xtreme", "XNLI", "test")
    assert table.schema.names == ["language", "sentence1", "sentence2", "gold_label"]
    assert set(table.schema.types) == {pa.string()}
    assert bench.rows("google/xtreme", "XNLI", "test") == [(row[0], row[2], row[3], row[1]) for row in rows[:3]]
    assert bench.told("xnli.test.tsv: 1 rows in languages that are none of XTREME's")
    english = bench.checked("xnli", TASKS["xnli"].test(LANGUAGES["en"]))
    assert english["text_a"][:] == ['A "', "C"] and english["label"][:] == ["entailment", "contradiction"]


def test_xnli_from_xtremes_own_files_without_test_labels(bench):
    files = {
        f"xnli/{name}-{code}.tsv": f'"A ""quoted"" {code}"\tB' + ("\tneutral\r\n" if name == "dev" else "\r\n")
        for name in ("dev", "test")
        for code in TASKS["xnli"].languages
    }
    bench.mirror("xnli", files)
    codes = sorted(TASKS["xnli"].languages)
    for split, label in (("validation", "neutral"), ("test", "")):
        assert bench.rows("google/xtreme", "XNLI", split) == [
            (code, f'A "quoted" {code}', "B", label) for code in codes
        ]
    assert bench.checked("xnli", TASKS["xnli"].test(LANGUAGES["sw"]))["label"][:] == [""]


PAWSX = "id\tsentence1\tsentence2\tlabel\n"


def test_pawsx_counts_what_was_not_translated(bench):
    files = {
        "x-final/de/dev_2k.tsv": PAWSX + '1\tNS\tb\t0\n2\ta "\tb\t1\n3\t\tb\t0\n',
        "x-final/de/translated_train.tsv": PAWSX + "1\ta\tb\t0\n2\ta\\tb\t0\n3\tc\td\t1\n",
        "x-final/en/train.tsv": PAWSX + "1\ta\tb\t0\n",
        "x-final/en/test_2k.tsv": PAWSX + "1\ta\tb\t1\n",
    }
    assert bench.mirror("pawsx", files) == [
        "google xtreme PAWS-X.de train",
        "google xtreme PAWS-X.de validation",
        "google xtreme PAWS-X.en test",
        "google xtreme PAWS-X.en train",
    ]
    assert bench.table("google/xtreme", "PAWS-X.de", "validation").schema.types == [pa.string()] * 3
    assert bench.rows("google/xtreme", "PAWS-X.de", "validation") == [
        ("NS", "b", "0"),
        ('a "', "b", "1"),
        ("", "b", "0"),
    ]
    assert bench.rows("google/xtreme", "PAWS-X.de", "train") == [("a", "b", "0"), ("c", "d", "1")]
    assert bench.told("de/dev_2k.tsv: 2 pairs") and bench.told("de/translated_train.tsv: 1 broken lines", "line 3")
    assert bench.told("de: no file of split 'test'")
    assert bench.checked("pawsx", TASKS["pawsx"].train[0])["label"][:] == ["0"]


BAD = {
    "another case": (
        "snli",
        {"snli_1.0_dev.jsonl": [nli("neutral"), nli("Entailment", 2)]},
        [
            "snli_1.0_dev.jsonl, line 2",
            "unknown label 'Entailment'",
            "Did you mean 'entailment'",
            "contradiction, entailment, neutral",
        ],
    ),
    "no label": ("snli", {"snli_1.0_dev.jsonl": [nli("")]}, ["line 1", "unknown label ''"]),
    "a number": ("snli", {"snli_1.0_dev.jsonl": [nli(0)]}, ["line 1", "unknown label '0'"]),
    "no text": (
        "mnli",
        {"multinli_1.0_train.jsonl": [nli("neutral") | {"sentence1": None}]},
        ["multinli_1.0_train.jsonl, line 1", "sentence1 must be text"],
    ),
    "only unlabelled": ("mnli", {"multinli_1.0_train.jsonl": [nli("-")]}, ["multinli_1.0_train.jsonl", "has no rows"]),
    "another word": (
        "mnli",
        {"multinli.train.en.tsv": "premise\thypo\tlabel\nA\tB\tcontradiction\n"},
        ["line 2", "unknown label 'contradiction'", "'contradictory'"],
    ),
    "a tab too few": (
        "mnli",
        {"train.tsv": f"{NLI_HEAD}\nneutral\tA\tB\t1\n"},
        ["train.tsv, line 2", "4 tab-separated"],
    ),
    "QQP for MNLI": ("mnli", {"train.tsv": QQP + "1\t1\t2\tA?\tB?\t0\n"}, ["train.tsv", "lacks sentence1, sentence2"]),
    "only a head": ("mnli", {"train.tsv": NLI_HEAD + "\n"}, ["train.tsv", "has no rows"]),
    "same uid": (
        "anli",
        {"R1/dev.jsonl": [anli_row("e"), anli_row("n")]},
        ["line 2", "id 'u1' is already that of", "line 1"],
    ),
    "ANLI's words": ("anli", {"R1/dev.jsonl": [anli_row("entailment")]}, ["line 1", "Known: c, e, n"]),
    "same question id": ("qqp", {"train.tsv": QQP + "1\t1\t2\tA?\tB?\t0\n" * 2}, ["line 3", "'1'"]),
    "many broken lines": ("qqp", {"train.tsv": QQP + "1\tx\n" * 11}, ["11 lines", "first line 2", "has 3"]),
    "label 2": ("qqp", {"train.tsv": QQP + "1\t1\t2\tA?\tB?\t2\n"}, ["line 2", "unknown label '2'"]),
    "same pair": (
        "xnli",
        {"xnli.dev.tsv": xnli([("en", "neutral", "A", "B", "1", "True")] * 2)},
        ["line 3", "('en', '1')"],
    ),
    "blanked": ("xnli", {"xnli.dev.tsv": xnli([("en", "", "A", "B", "1", "True")])}, ["line 2", "unknown label ''"]),
    "one language": ("xnli", {"dev-en.tsv": "A\tB\tneutral\n"}, ["lacks dev-LL.tsv of ar, bg, de", "one split"]),
    "unlabelled dev": (
        "xnli",
        {f"dev-{code}.tsv": "A\tB\n" for code in TASKS["xnli"].languages},
        [".tsv, line 1 has 2 tab-separated fields, not 3"],
    ),
    "open quote": ("xnli", {f"dev-{code}.tsv": '"A\tB\n' for code in TASKS["xnli"].languages}, [".tsv, line 1: "]),
    "words for numbers": (
        "pawsx",
        {"en/train.tsv": PAWSX + "1\ta\tb\tTrue\n"},
        ["en/train.tsv, line 2", "Known: 0, 1"],
    ),
    "English with a tab too many": ("pawsx", {"en/train.tsv": PAWSX + "1\ta\tb\tc\t1\n"}, ["line 2 has 5"]),
    "same PAWS-X id": ("pawsx", {"de/test_2k.tsv": PAWSX + "1\ta\tb\t1\n" * 2}, ["de/test_2k.tsv, line 3", "'1'"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pairs_are_refused(bench, name):
    task, files, parts = BAD[name]
    bench.refuses(task, files, *parts)
