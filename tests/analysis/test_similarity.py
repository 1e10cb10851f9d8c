"""Similarities: against the published table and hand computations, codes of every kind, and a user's own measures."""

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_stilts.analysis import similarity
from peft_stilts.analysis.similarity import DATABASES, URIEL, column_of, resolve, similarities
from peft_stilts.errors import DataError, UsageError
from peft_stilts.languages import LANGUAGES
from peft_stilts.miniature.world import TONGUES, distance

CODES = list(LANGUAGES)
PUBLISHED = {
    "lang2vec_knn": dict(genetic="fam", geographic="geo", syntactic="syntax_knn", phonological="phonology_knn",
                         inventory="inventory_knn", featural="featural_knn"),
    "urielplus_angular": dict(zip(URIEL, URIEL)),
}


def own(**columns):
    return pd.DataFrame(columns)


@pytest.mark.parametrize(("database", "prefix", "digits"), [("lang2vec_knn", "lang2vec_cos", 6),
                                                            ("urielplus_angular", "urielplus_angular", 4)])
def test_the_shipped_distances_are_those_that_were_published(shared, database, prefix, digits):
    published = pd.read_csv(shared / "published" / "uriel_distances_en.csv").set_index("lang")
    values = similarities(CODES, database=database).values
    for measure, name in PUBLISHED[database].items():
        expected = 1 - published.loc[CODES, f"{prefix}_{name}"].to_numpy()
        rounding = 0.51 * (10.0**-digits + 1e-6)        # half a unit of theirs and half a unit of ours
        assert np.allclose(values[measure], expected, atol=rounding, rtol=0, equal_nan=True), measure


def test_sizes_are_those_of_cc100(shared):
    published = pd.read_csv(shared / "published" / "cc100_sizes_xtreme40.csv").set_index("lang")["size_GiB"]
    assert np.allclose(similarities(CODES).values["cc100"], np.log10(1 + published.loc[CODES]), atol=1e-12)


def test_the_shipped_table_has_every_pair_once_in_each_database():
    table = pd.read_csv(similarity.TABLE, keep_default_na=False, na_values=[""])
    assert list(table.columns) == ["database", "a", "b", *URIEL]
    assert set(table["database"]) == set(DATABASES)
    for _, rows in table.groupby("database"):
        assert len(rows) == 780 == len({frozenset(pair) for pair in zip(rows["a"], rows["b"])})
        assert set(rows["a"]) | set(rows["b"]) == set(CODES)
    values = table[list(URIEL)].to_numpy()
    assert np.nanmin(values) >= 0 and np.nanmax(values) <= 1


def test_what_is_missing_is_what_the_page_says():
    full = similarities(CODES).values
    assert {(code, name) for name in full for code in full.index[full[name].isna()]} == {("eu", "genetic")}
    raw = similarities(CODES, database="urielplus_angular").values
    missing = {name: "".join(code + " " for code in raw.index[raw[name].isna()]).split() for name in raw}
    assert missing["phonological"] == "af et it ml mr nl pt ta ur".split() and missing["inventory"] == ["et", "kk"]
    assert not any(missing[name] for name in raw if name not in ("phonological", "inventory"))


@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize(("one", "other"), [("de", "fr"), ("zh", "yo"), ("eu", "sw"), ("fi", "et")])
def test_any_source_gives_what_the_pair_read_backwards_gives(database, one, other):
    there = similarities([one, other], source=one, database=database)
    back = similarities([one, other], source=other, database=database)
    symmetric = [name for name in there.values if name != "cc100"]
    assert there.source == one and back.source == other
    assert np.array_equal(there.values.loc[other, symmetric], back.values.loc[one, symmetric], equal_nan=True)
    assert (there.values.loc[one, symmetric] == 1).all()


def test_script_family_and_size_by_hand():
    told = similarities(["eu", "hi", "de", "yo", "en"])
    assert list(told.values.index) == ["eu", "hi", "de", "yo", "en"] and told.values.index.name == "language"
    assert list(told.values["script"]) == [1, 0, 1, 1, 1] and list(told.values["family"]) == [0, 1, 1, 0, 1]
    assert told.values.loc["yo", "cc100"] == 0 and told.values.loc["de", "cc100"] == math.log10(67.6)
    assert told.names["hi"] == "Hindi" and told.families["hi"] == told.families["de"] == "Indo-European"
    basque = similarities(["eu", "de"], source="eu")
    assert basque.families["eu"] == "Isolate (Basque)" and list(basque.values["family"]) == [1, 0]
    assert set(told.origins) == set(told.values) and "not a similarity" in told.origins["cc100"]
    assert "lang2vec" in told.origins["genetic"]
    assert "URIEL+" in similarities(["de"], database="urielplus_angular").origins["genetic"]


@pytest.mark.parametrize(("codes", "column"), [
    (["zh", "ar"], "iso639_1"), (["cmn", "ara", "pes"], "iso639_3"), (["zho", "ara", "fas"], "uriel_code"),
    (["eng", "deu"], "iso639_3"), (["Chinese", "arabic"], "name"), (["en", "qa"], "miniature"), (["en"], "iso639_1")])
def test_a_list_is_read_in_one_column(codes, column):
    assert column_of(codes) == column
    if column == "miniature":
        assert resolve(codes) == {"en": "en", "qa": "qa"}
    else:
        names = {"cmn": "zh", "zho": "zh", "Chinese": "zh", "ara": "ar", "arabic": "ar", "pes": "fa", "fas": "fa",
                 "eng": "en", "deu": "de"}
        assert resolve(codes) == {code: names.get(code, code) for code in codes}
        assert list(similarities(codes).values.index) == list(resolve(codes).values())
        assert similarities(codes).column == column


@given(st.lists(st.sampled_from(CODES), unique=True, min_size=1),
       st.sampled_from(["code", "iso639_3", "uriel_code", "name"]))
def test_every_column_leads_back_to_the_language(codes, field):
    given_as = [getattr(LANGUAGES[code], field) for code in codes]
    assert list(resolve(given_as).values()) == codes
    told = column_of(given_as)
    assert told == {"code": "iso639_1"}.get(field, field) or (field, told) == ("uriel_code", "iso639_3")


@pytest.mark.parametrize(("codes", "told"), [
    (["de", "jp"], r"unknown language 'jp'.*--exclude jp"),
    (["Germann"], r"did you mean 'german' \(German\)"),
    (["xx", "yy", "de"], "unknown languages 'xx'.*'yy'.*--exclude xx,yy"),
    (["zh", "cmn"], "'zh' and 'cmn' are the same language, Chinese"),
    (["de", "cmn"], "several kinds .*iso639_1: 'de'; iso639_3: 'cmn'"),
    (["swh", "fas"], "several kinds .*iso639_3: 'swh'; uriel_code: 'fas'"),
    (["qa", "de"], "'de' beside languages of the miniature world"),
    (["English", "english"], "same language")])
def test_codes_that_cannot_be_read_say_why(codes, told):
    for way in (resolve, column_of, similarities):
        with pytest.raises(UsageError, match=told):
            way(iter(codes))


def test_measures_are_chosen_in_the_order_given():
    assert list(similarities(CODES, measures=["script", "genetic"]).values) == ["script", "genetic"]
    with pytest.raises(UsageError, match="unknown measure of similarity 'sintactic'. Did you mean 'syntactic'"):
        similarities(CODES, measures=["sintactic"])
    with pytest.raises(UsageError, match="'overlap'.*needs --tokenizer"):
        similarities(CODES, measures=["overlap"])
    with pytest.raises(UsageError, match="no measure"):
        similarities(CODES, measures=[])
    with pytest.raises(UsageError, match="Did you mean 'lang2vec_knn'"):
        similarities(CODES, database="lang2vec")


def test_the_miniature_world_has_its_true_parameters():
    told = similarities(TONGUES)
    assert told.column == "miniature" and list(told.values)[0] == "closeness" and told.values.shape[0] == 10
    for code, values in told.values.iterrows():
        assert values["closeness"] == pytest.approx(1 - distance(TONGUES[code]), abs=1e-12)
        grammar = values[["order", "adposition", "adjective", "cases"]].mean()
        made_up = 0.4 * values["lexicon"] + 0.2 * values["script"] + 0.2 * values["names"] + 0.2 * grammar
        assert values["closeness"] == pytest.approx(made_up, abs=1e-12), "the parameters make up the closeness"
    assert len(set(told.families.values())) == 10
    assert (told.values.loc["en"].drop(["cognates", "text"]) == 1).all()
    assert "miniature" in told.origins["loans"] and told.values.loc["qa", "loans"] == 0.25
    with pytest.raises(UsageError, match="made from English"):
        similarities(["qa", "qb"], source="qa")


def test_own_measures_are_joined_by_code_and_others_left_out(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("\ufefflanguage,lexical,other\ncmn,0.5,\ndeu,1e-3,NaN\nzul,9,9\n", encoding="utf-8")
    told = similarities(["de", "zh", "fr"], csv=path)
    assert list(told.values["lexical"].iloc[:2]) == [0.001, 0.5] and math.isnan(told.values.loc["fr", "lexical"])
    assert told.values["other"].isna().all() and told.origins["lexical"] == str(path)
    assert told.values["genetic"].equals(similarities(["de", "zh", "fr"]).values["genetic"])
    mini = similarities(TONGUES, csv=own(language=list(TONGUES), mine=range(10)))
    assert list(mini.values["mine"]) == list(range(10))


def test_languages_outside_xtreme_pass_with_their_family():
    csv = own(language=["quy", "aym", "gn", "de"], family=["Quechuan", "Aymaran", "Isolate", None],
              lexical=[1, 2, 3, 4])
    assert resolve(["de", "quy"], csv) == {"de": "de", "quy": "quy"}
    told = similarities(["deu", "quy", "gn"], csv=csv)
    assert told.column == "iso639_3" and list(told.values.index) == ["de", "quy", "gn"]
    assert told.families == {"de": "Indo-European", "quy": "Quechuan", "gn": "Isolate (gn)"}
    assert list(told.values["lexical"]) == [4, 1, 3] and list(told.values["family"]) == [1, 0, 0]
    assert told.values.loc["quy", [*URIEL, "script", "cc100"]].isna().all()
    with pytest.raises(UsageError, match="unknown language 'quy'"):
        similarities(["deu", "quy"], csv=csv.drop(columns="family"))
    with pytest.raises(DataError, match="'Germanic' there and 'Indo-European' here"):
        similarities(["de"], csv=own(language=["de"], family=["Germanic"]))


@pytest.mark.parametrize(("csv", "error", "told"), [
    (own(language=["de", "de"], x=[1, 2]), DataError, "two rows for 'de'"),
    (own(language=["de", "fr"], x=[1, math.inf]), DataError, "fr, column 'x': the value is infinite"),
    (own(language=["de", "fr"], x=["1", "0,5"]), DataError, "'0,5' is no number"),
    (own(language=["de", ""], x=[1, 2]), DataError, "row 2 names no language"),
    (own(language=[], x=[]), DataError, "no rows"),
    (own(lang=["de"], x=[1]), DataError, "needs a column 'language'"),
    (pd.DataFrame([["de", 1, 2]], columns=["language", "x", "x"]), DataError, "different name"),
    (own(language=["de"], genetic=[1]), UsageError, "'genetic' has the name of a built-in measure"),
    (own(language=["de"], overlap=[1]), UsageError, "'overlap' has the name"),
    (own(language=["fr"], x=[1]), UsageError, "none of the languages of the study"),
    (own(language=["de", "cmn"], x=[1, 2]), UsageError, "several kinds"),
    (own(language=["pes", "fas"], x=[1, 2]), UsageError, "same language, Persian")])
def test_own_measures_that_cannot_be_used_are_refused(csv, error, told):
    with pytest.raises(error, match=told):
        similarities(["de"], csv=csv)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    empty, binary = tmp_path / "empty.csv", tmp_path / "b.csv"
    empty.write_text("")
    binary.write_bytes(b"language,x\n\xff\xfe,1\n")
    for path in (empty, binary, tmp_path / "absent.csv"):
        with pytest.raises(DataError, match="cannot be read as a table of similarities"):
            similarities(["de"], csv=path)


def test_overlap_is_one_more_measure():
    overlap = pd.Series({"fr": 0.4, "de": 0.3})
    overlap.attrs["origin"] = "of a tokenizer"
    told = similarities(["de", "fr", "zh"], overlap=overlap)
    assert list(told.values["overlap"].iloc[:2]) == [0.3, 0.4] and math.isnan(told.values.loc["zh", "overlap"])
    assert told.origins["overlap"] == "of a tokenizer" and list(told.values)[-1] == "overlap"


def test_no_model_library_is_imported():
    code = ("import sys; import peft_stilts.analysis.similarity, peft_stilts.analysis.overlap\n"
            "assert not {'torch', 'transformers', 'peft', 'datasets'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)
