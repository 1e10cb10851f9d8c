"""URIEL's distances: by hand on a small archive, as urielplus computes them, and the shipped files up to date."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from peft_stilts.analysis.similarity import DATABASES, TABLE, URIEL
from peft_stilts.errors import UsageError
from peft_stilts.languages import LANGUAGES

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import similarity_tables as module  # noqa: E402

needs_packages = pytest.mark.skipif(not (find_spec("lang2vec") and find_spec("urielplus")),
                                    reason="lang2vec and urielplus are not installed")


def test_distances_by_hand():
    a, b = np.array([1.0, 0, 1, -1, 1]), np.array([1.0, 1, 0, 1, -1])       # known of both: (1, 0, 1) and (1, 1, 0)
    assert module.angle(a, b, "lang2vec_knn") == pytest.approx(0.5)
    assert module.angle(a, b, "urielplus_angular") == pytest.approx(2 / 3)     # arccos(1/2) is a third of pi
    for database in DATABASES:
        assert module.angle(a, a, database) == pytest.approx(0, abs=1e-7)
        assert np.isnan(module.angle(np.array([1.0, -1]), np.array([-1.0, 1]), database)), "nothing known of both"
    zero = np.zeros(4)
    assert np.isnan(module.angle(zero, np.array([1.0, 0, 0, 0]), "lang2vec_knn"))
    assert module.angle(zero, np.array([1.0, 0, 0, 0]), "urielplus_angular") == pytest.approx(2 / 3)    # cosine 1/2


def test_a_feature_is_known_when_one_source_has_it():
    codes = [language.uriel_code for language in LANGUAGES.values()]
    data = np.full((41, 3, 2), -1.0, dtype=np.float32)
    data[1, 0], data[1, 1] = (0, -1), (0, 1)        # row 1 is the first of the languages
    arrays = {"langs": np.array(["xxx", *codes]), "feats": np.array(["S_A", "P_B", "INV_C"]), "data": data}
    names, vectors = module.features(arrays)
    assert names == ["S_A", "P_B", "INV_C"] and list(vectors) == list(LANGUAGES)
    assert list(vectors["af"]) == [0, 1, -1] and list(vectors["zh"]) == [-1, -1, -1]


@needs_packages
def test_the_shipped_distances_are_what_the_packages_give():
    assert module.distances() == TABLE.read_text(encoding="utf-8")


@needs_packages
def test_angular_distances_agree_with_those_of_urielplus():
    from urielplus.urielplus_querying import URIELPlusQuerying  # alone it neither logs nor copies files

    folder = Path(find_spec("urielplus").submodule_search_locations[0]) / "database" / "original_uriel"
    codes = {"en": "eng", "eu": "eus", "kk": "kaz", "zh": "zho"}
    parts = {"feats": [], "langs": [], "data": [], "sources": []}
    for name in ("family_features", "features", "geocoord_features", "features"):
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            rows = [int(np.flatnonzero(arrays["langs"] == code)[0]) for code in codes.values()]
            for part in parts:
                parts[part].append(arrays[part][rows] if part in ("langs", "data") else arrays[part])
    theirs = URIELPlusQuerying(*(parts[part] for part in ("feats", "langs", "data", "sources")))
    ours = module.read("urielplus_angular")
    for measure in URIEL:
        for one, other in (("en", "eu"), ("kk", "en"), ("zh", "kk")):
            mine = module.angle(ours[measure][one], ours[measure][other], "urielplus_angular")
            if np.isnan(mine):
                with pytest.raises(ValueError, match="No shared"):
                    theirs.new_distance(measure, codes[one], codes[other])
            else:
                assert theirs.new_distance(measure, codes[one], codes[other]) == pytest.approx(mine, abs=5.1e-5)


def test_the_table_of_the_page_is_up_to_date():
    page = (ROOT / "docs" / "similarity.md").read_text(encoding="utf-8")
    assert module.table() in page, "run python tools/similarity_tables.py"
    assert page.count("| eu Basque | - |") == 1


def test_check_writes_nothing_and_tells_what_is_stale(tmp_path, monkeypatch, capsys):
    page, table = tmp_path / "page.md", tmp_path / "table.csv"
    page.write_text("<!-- similarities -->\n<!-- end of similarities -->\n")
    table.write_text("old")
    monkeypatch.setattr(module, "PAGE", page)
    monkeypatch.setattr(module, "TABLE", table)
    monkeypatch.setattr(module, "distances", lambda: "new")
    monkeypatch.setattr(sys, "argv", ["similarity_tables.py", "--check"])
    assert module.main() == 1 and "out of date: table.csv, page.md" in capsys.readouterr().err
    assert table.read_text() == "old"
    monkeypatch.setattr(sys, "argv", ["similarity_tables.py"])
    assert module.main() == 0 and table.read_text() == "new" and "| de German |" in page.read_text()
    monkeypatch.setattr(sys, "argv", ["similarity_tables.py", "--check"])
    assert module.main() == 0


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="lang2vec is not installed"):
        module.read("lang2vec_knn")
