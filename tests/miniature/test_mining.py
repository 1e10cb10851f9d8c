"""Mining: gold pairs consistent both ways, unique ids and sentences, near-misses, and the hub's pairs alone."""

import pytest

from peft_stilts.miniature.generators import rows_of
from peft_stilts.miniature.grammar import speaker
from peft_stilts.miniature.mining import BUCC_LANGUAGES, pools


@pytest.mark.parametrize("split", ["dev", "test"])
@pytest.mark.parametrize("code", BUCC_LANGUAGES)
def test_both_pools(code, split):
    rows = rows_of("bucc/bucc2018", code, split)
    by_id = {row["id"]: row for row in rows}
    assert len(by_id) == len(rows) and len({(row["language"], row["sentence"]) for row in rows}) == len(rows)
    assert [row["language"] for row in rows] == [code] * (len(rows) // 2) + ["en"] * (len(rows) // 2)
    assert all(row["id"].startswith(row["language"] + "-") for row in rows)
    matched = [row for row in rows if row["match"]]
    assert len(matched) == 2 * len(rows) // 6
    for row in matched:
        other = by_id[row["match"]]
        assert other["match"] == row["id"] and {row["language"], other["language"]} == {code, "en"}


@pytest.mark.parametrize("split", ["dev", "test"])
def test_matches_are_translations_and_the_hub_has_them_alone(split):
    clauses = pools(split).pairs
    for code in BUCC_LANGUAGES:
        rows = rows_of("bucc/bucc2018", code, split)
        by_id = {row["id"]: row["sentence"] for row in rows}
        found = {(row["sentence"], by_id[row["match"]]) for row in rows if row["match"] and row["language"] == code}
        assert found == {(speaker(code).say(clause).text, speaker("en").say(clause).text) for clause in clauses}
        hub = rows_of("google/xtreme", f"bucc18.{code}", {"dev": "validation", "test": "test"}[split])
        assert {(row["source_sentence"], row["target_sentence"]) for row in hub} == found
        assert {(row["source_lang"], row["target_lang"]) for row in hub} == {(code, "en")}


@pytest.mark.parametrize("split", ["dev", "test"])
def test_order_tells_nothing_and_half_of_the_rest_are_near_misses(split):
    rows = rows_of("bucc/bucc2018", "qa", split)
    half = len(rows) // 2
    places = {row["id"]: number for number, row in enumerate(rows)}
    distances = [places[row["match"]] - half - number for number, row in enumerate(rows[:half]) if row["match"]]
    assert len(set(distances)) > len(distances) / 2
    paired, alone = [set(clause.slots) for clause in pools(split).pairs], pools(split)
    for side in (alone.foreign, alone.english):
        near = [any(len(set(clause.slots) ^ other) == 2 for other in paired) for clause in side]
        assert 0.4 < sum(near) / len(near) < 0.8
    assert not set(alone.foreign) & set(alone.english)
