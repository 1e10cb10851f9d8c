"""Every split of every data set: exactly the real columns and types, unique ids, sizes, and folds kept apart."""

import pytest

from peft_stilts.errors import DataError
from peft_stilts.miniature.generators import rows_of
from peft_stilts.miniature.mining import BUCC_LANGUAGES
from peft_stilts.miniature.pairs import PAWSX_LANGUAGES
from peft_stilts.miniature.provider import MiniatureWorld
from peft_stilts.miniature.world import TONGUES
from peft_stilts.tasks.base import Split

X, GLUE = "google/xtreme", "nyu-mll/glue"
CODES, FOREIGN = tuple(TONGUES), tuple(TONGUES)[1:]
TEXT, LONG, INT, TEXTS, LONGS = "string", "int64", "int32", "list<string>", "list<int64>"
NLI = {"premise": TEXT, "hypothesis": TEXT, "label": LONG}
SPAN = {"id": TEXT, "title": TEXT, "context": TEXT, "question": TEXT,
        "answers": "struct<text: list<string>, answer_start: list<int32>>"}  # fmt: skip
PAIRED = dict.fromkeys(("source_sentence", "target_sentence", "source_lang", "target_lang"), TEXT)
HELLASWAG = {"ind": INT, **dict.fromkeys(("activity_label", "ctx_a", "ctx_b", "ctx"), TEXT), "endings": TEXTS,
             **dict.fromkeys(("source_id", "split", "split_type", "label"), TEXT)}  # fmt: skip
COSMOS = {**dict.fromkeys(("id", "context", "question", *(f"answer{i}" for i in range(4))), TEXT), "label": INT}
COMMONSENSE = {"id": TEXT, "question": TEXT, "question_concept": TEXT,
               "choices": "struct<label: list<string>, text: list<string>>", "answerKey": TEXT}  # fmt: skip
PAWS = dict.fromkeys(("sentence1", "sentence2", "label"), TEXT)
NER = {"tokens": TEXTS, "ner_tags": LONGS, "langs": TEXTS}
POS = {"tokens": TEXTS, "pos_tags": LONGS}
ALL3 = ("train", "validation", "test")


def _except_english(configs: str, columns: dict[str, str], sizes: tuple[int, int, int], codes=CODES):
    """Rows of the table for a target task with training rows in English alone."""
    names = {code: configs.format(code=code, name=TONGUES[code].name) for code in codes}
    for code, config in names.items():
        first = 0 if code == "en" else 1
        yield X, config, dict(zip(ALL3[first:], sizes[first:], strict=True)), columns


TABLE = [
    (GLUE, "mnli", {"train": 1800, "validation_matched": 300, "validation_mismatched": 300}, NLI | {"idx": INT}),
    (GLUE, "qqp", {"train": 1800, "validation": 300},
     {"question1": TEXT, "question2": TEXT, "label": LONG, "idx": INT}),
    ("stanfordnlp/snli", "plain_text", {"train": 1009, "validation": 303, "test": 303}, NLI),
    ("facebook/anli", "plain_text",
     {"train_r1": 300, "train_r2": 402, "train_r3": 501,
      **{f"{part}_r{turn}": 150 for part in ("dev", "test") for turn in (1, 2, 3)}},
     {"uid": TEXT, **NLI, "reason": TEXT}),
    ("rajpurkar/squad", "plain_text", {"train": 3000, "validation": 400}, SPAN),
    ("rajpurkar/squad_v2", "squad_v2", {"train": 2000, "validation": 300}, SPAN),
    ("Rowan/hellaswag", "default", dict(zip(ALL3, (1600, 300, 300), strict=True)), HELLASWAG),
    ("allenai/cosmos_qa", "default", dict(zip(ALL3, (1600, 300, 300), strict=True)), COSMOS),
    ("tau/commonsense_qa", "default", dict(zip(ALL3, (1600, 300, 300), strict=True)), COMMONSENSE),
    ("ldc/ccgbank", "default", dict(zip(ALL3, (1500, 300, 300), strict=True)), {"tokens": TEXTS, "tags": TEXTS}),
    (X, "XNLI", {"validation": 2100, "test": 3000},
     dict.fromkeys(("language", "sentence1", "sentence2", "gold_label"), TEXT)),
    *_except_english("PAWS-X.{code}", PAWS, (1500, 200, 300), PAWSX_LANGUAGES),
    *_except_english("PAN-X.{code}", NER, (600, 200, 300)),
    *_except_english("udpos.{name}", POS, (300, 150, 200)),
    *((X, f"bucc18.{code}", {"validation": 60, "test": 160}, PAIRED) for code in BUCC_LANGUAGES),
    *(("bucc/bucc2018", code, {"dev": 360, "test": 960}, dict.fromkeys(("id", "language", "sentence", "match"), TEXT))
      for code in BUCC_LANGUAGES),
    *(("wikimedia/wikipedia", f"20231101.{code}", {"train": 1000}, {"text": TEXT}) for code in CODES),
]  # fmt: skip


@pytest.mark.parametrize(("repo", "config", "sizes", "columns"), TABLE, ids=lambda value: str(value)[:24])
def test_columns_types_and_sizes(repo, config, sizes, columns):
    world = MiniatureWorld()
    for split, size in sizes.items():
        dataset = world.load(Split(repo, config, split))
        schema = dataset.data.schema
        types = {name: str(schema.field(name).type).replace("item: ", "") for name in schema.names}
        assert types == columns and len(dataset) == size
        for name in {"id", "uid", "ind", "idx", "source_id"} & set(columns):
            assert len(set(dataset[name])) == size
        texts = [tuple(str(row[name]) for name in columns if name not in ("id", "uid", "ind", "idx", "source_id"))
                 for row in rows_of(repo, config, split)]
        assert len(set(texts)) == size
    wrong = "train_r4" if "anli" in repo else "test_matched"
    with pytest.raises(DataError, match="has no split"):
        world.load(Split(repo, config, wrong))


@pytest.mark.parametrize("config", ["PAWS-X.qa", "PAN-X.qi", "udpos.Vestan"])
def test_only_english_has_training_rows(config):
    with pytest.raises(DataError, match="has no split 'train'"):
        rows_of(X, config, "train")


def _statements(repo: str, config: str, split: str) -> set[str]:
    """Every statement of a split's texts, in English."""
    found: set[str] = set()
    for row in rows_of(repo, config, split):
        if "tokens" in row:
            texts = [" ".join(row["tokens"]).replace(" .", ".")]
        elif "sentence" in row:
            texts = [row["sentence"]] * (row["language"] == "en")
        elif "language" in row:
            texts = [row["sentence1"], row["sentence2"]] * (row["language"] == "en")
        else:
            names = ("premise", "hypothesis", "sentence1", "sentence2", "context", "ctx_a", "target_sentence", "text")
            texts = [row[name] for name in names if name in row]
        found |= {part.strip() for text in texts for part in text.split(".") if part.strip() and "?" not in part}
    return found


EVENTS = [  # data sets with statements of events, which are kept apart by folds
    (GLUE, "mnli", ("train",), ("validation_matched", "validation_mismatched"), ()),
    ("stanfordnlp/snli", "plain_text", ("train",), ("validation",), ("test",)),
    ("facebook/anli", "plain_text", ("train_r1", "train_r2", "train_r3"), ("dev_r1", "dev_r2", "dev_r3"),
     ("test_r1", "test_r2", "test_r3")),
    ("Rowan/hellaswag", "default", ("train",), ("validation",), ("test",)),
    ("allenai/cosmos_qa", "default", ("train",), ("validation",), ("test",)),
    (X, "XNLI", (), ("validation",), ("test",)),
    (X, "PAWS-X.en", ("train",), ("validation",), ("test",)),
    ("bucc/bucc2018", "qa", (), ("dev",), ("test",)),
    (X, "tatoeba.qaa", (), (), ("validation",)),
]  # fmt: skip


def test_no_event_is_in_two_folds():
    parts = [set(), set(), set()]
    for repo, config, *splits in EVENTS:
        for part, names in zip(parts, splits, strict=True):
            for name in names:
                part |= _statements(repo, config, name)
    trained, developed, scored = parts
    assert min(map(len, parts)) > 1000
    assert not trained & developed and not trained & scored and not developed & scored
    texts = {part.strip() for row in rows_of("wikimedia/wikipedia", "20231101.en", "train")
             for part in row["text"].split(".")}
    assert len(texts) > 1000 and not texts & scored and not texts & developed


def test_plain_texts_are_no_translations_of_each_other():
    counts = [[row["text"].count(".") for row in rows_of("wikimedia/wikipedia", f"20231101.{code}", "train")]
              for code in CODES]
    assert all(2 <= number <= 5 for one in counts for number in one)
    assert len({tuple(one) for one in counts}) == len(CODES)
