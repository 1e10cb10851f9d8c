"""BUCC's pools and gold pairs, and plain text (Tatoeba: tests/tools)."""

import pyarrow as pa
import pytest

from peft_stilts.languages import LANGUAGES
from peft_stilts.tasks import TASKS

FOREIGN = 'de-1\tEins.\nde-2\tZwei \u2028 "und.\nde-3\tDrei.\n'
ENGLISH = "en-1\tTwo.\nen-2\tOne.\n"


def bucc(foreign=FOREIGN, english=ENGLISH, gold="de-2\ten-1\nde-1\ten-2\n", name="training", folder=""):
    return {
        f"{folder}de-en.{name}.{side}": content
        for side, content in (("de", foreign), ("en", english), ("gold", gold))
        if content is not None
    }


def test_bucc_has_both_pools_and_who_belongs_to_whom(bench):
    assert bench.mirror("bucc2018", bucc(folder="bucc2018/de-en/") | bucc(gold="de-3\ten-1\n", name="sample")) == [
        "bucc bucc2018 de dev",
        "bucc bucc2018 de test",
    ]
    table = bench.table("bucc/bucc2018", "de", "test")
    assert table.schema.names == ["id", "language", "sentence", "match"] and set(table.schema.types) == {pa.string()}
    assert bench.rows("bucc/bucc2018", "de", "test") == [
        ("de-1", "de", "Eins.", "en-2"),
        ("de-2", "de", 'Zwei \u2028 "und.', "en-1"),
        ("de-3", "de", "Drei.", ""),
        ("en-1", "en", "Two.", "de-2"),
        ("en-2", "en", "One.", "de-1"),
    ]
    german = TASKS["bucc2018"]
    assert len(bench.checked("bucc2018", german.test(LANGUAGES["de"]))) == 5
    assert bench.checked("bucc2018", german.dev(LANGUAGES["de"]))["match"][:] == ["", "", "en-1", "de-3", ""]


def test_plain_text_stands_in_for_wikipedia(bench):
    files = {"en.txt": "\ufeffOne line.\r\n\r\n  Another \u2028 one.  \r\n", "sw.txt": "Habari.", "readme.txt": "x"}
    assert bench.mirror("text", files) == [
        "wikimedia wikipedia 20231101.en train",
        "wikimedia wikipedia 20231101.sw train",
    ]
    assert bench.rows("wikimedia/wikipedia", "20231101.en", "train") == [("One line.",), ("Another \u2028 one.",)]
    assert bench.table("wikimedia/wikipedia", "20231101.sw", "train").schema.equals(pa.schema([("text", pa.string())]))
    assert bench.told("en.txt: 1 blank lines") and bench.told("readme.txt", "no language's code")


BAD = {
    "no gold": (bucc(gold=None), ["lacks de-en.training.gold", "expected LL-en"]),
    "one field": (bucc(english="en-1\tTwo.\nen-2 One.\n"), ["de-en.training.en, line 2 has 1 tab-separated fields"]),
    "three fields": (bucc(foreign=FOREIGN + "de-4\ta\tb\n"), ["de-en.training.de, line 4 has 3"]),
    "blank": (bucc(english=ENGLISH + "en-3\t \n"), ["de-en.training.en, line 3: sentence 'en-3' is blank"]),
    "an id twice": (bucc(foreign=FOREIGN + "de-1\tVier.\n"), ["line 4: id 'de-1' is already that of", "line 1"]),
    "an id on both sides": (bucc(english=ENGLISH + "de-1\tFour.\n"), ["de-en.training.en, line 3: id 'de-1'"]),
    "not there": (bucc(gold="de-9\ten-1\n"), ["de-en.training.gold, line 1: 'de-9' is no id of de-en.training.de"]),
    "sides swapped": (bucc(gold="en-1\tde-2\n"), ["line 1: 'en-1' is no id of de-en.training.de"]),
    "two translations": (
        bucc(gold="de-1\ten-1\nde-2\ten-1\n"),
        ["line 2: 'en-1' has a second translation, beside 'de-1'"],
    ),
    "empty gold": (bucc(gold=""), ["de-en.training.gold is empty"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pools_are_refused(bench, name):
    files, parts = BAD[name]
    bench.refuses("bucc2018", files, *parts)


def test_text_that_is_refused(bench):
    bench.refuses("text", {"en.txt": " \n"}, "en.txt is empty")
    bench.refuses("text", {"en.txt": b"\xff"}, "en.txt is not UTF-8")
