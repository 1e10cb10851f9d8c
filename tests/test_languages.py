"""The language table, checked by English name and against the shipped reference numbers."""

import csv

import pytest

from peft_stilts.errors import UsageError
from peft_stilts.languages import LANGUAGES
from peft_stilts.tasks import TASKS

XTREME_40 = (
    "af ar bg bn de el en es et eu fa fi fr he hi hu id it ja jv ka kk "
    "ko ml mr ms my nl pt ru sw ta te th tl tr ur vi yo zh"
)

BY_NAME = {  # English name -> two-letter code, ISO 639-3 as Tatoeba's, URIEL
    "Arabic": ("ar", "ara", "ara"),
    "Chinese": ("zh", "cmn", "zho"),
    "Estonian": ("et", "est", "est"),
    "Georgian": ("ka", "kat", "kat"),
    "Javanese": ("jv", "jav", "jav"),
    "Korean": ("ko", "kor", "kor"),
    "Malay": ("ms", "msa", "msa"),
    "Persian": ("fa", "pes", "fas"),
    "Swahili": ("sw", "swh", "swa"),
    "Telugu": ("te", "tel", "tel"),
    "Tamil": ("ta", "tam", "tam"),
    "Tagalog": ("tl", "tgl", "tgl"),
}


def test_the_forty_of_xtreme():
    assert list(LANGUAGES) == XTREME_40.split()
    for field in ("iso639_3", "name", "uriel_code"):
        assert len({getattr(language, field) for language in LANGUAGES.values()}) == 40


@pytest.mark.parametrize("name", BY_NAME)
def test_codes_by_english_name(name):
    language = next(language for language in LANGUAGES.values() if language.name == name)
    assert (language.code, language.iso639_3, language.uriel_code) == BY_NAME[name]
    assert LANGUAGES[language.code] is language


def test_pretraining_sizes_are_the_published_ones(shared):
    with open(shared / "published" / "cc100_sizes_xtreme40.csv", newline="") as file:
        published = {row["lang"]: float(row["size_GiB"]) for row in csv.DictReader(file)}
    assert published == {code: language.cc100_gib for code, language in LANGUAGES.items()}


def test_names_and_uriel_codes_agree_with_the_distance_table(shared):
    with open(shared / "published" / "uriel_distances_en.csv", newline="") as file:
        codes = {row["lang"]: row["iso639_3"] for row in csv.DictReader(file)}
    for code, uriel in codes.items():
        assert LANGUAGES[code].uriel_code == uriel


def test_tatoeba_codes_are_the_file_names(shared):
    files = {path.name.split(".")[1][:3] for path in (shared / "data" / "tatoeba_v1").glob("tatoeba.*")}
    codes = {LANGUAGES[code].iso639_3 for code in TASKS["tatoeba"].languages}
    assert codes == files and len(codes) == 36


def test_an_unknown_code_names_the_nearest():
    with pytest.raises(UsageError, match="unknown language 'dee'. Did you mean 'de'"):
        LANGUAGES["dee"]
