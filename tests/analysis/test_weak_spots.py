"""Weak spots: counts by hand, phi and permutations against numpy and scipy, and what is refused."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from peft_stilts import results
from peft_stilts.analysis import weak_spots as module
from peft_stilts.analysis.similarity import similarities
from peft_stilts.analysis.weak_spots import FAMILY, FLIPS, METRIC, MODEL, SHARED, TESTS, weak_spots
from peft_stilts.errors import DataError, UsageError
from peft_stilts.evaluate.items import write_items
from peft_stilts.store import Store
from tests.analysis.frames import frame_of


def known(codes, families=None, **changed):
    """Similarities without any measure for pairs of languages, each language a family of its own."""
    found = {"source": "en", "values": pd.DataFrame(index=codes), "origins": {}, "column": "iso639_1",
             "families": families or {code: code for code in codes}}
    return SimpleNamespace(**found | changed)


def items(right, golds=None, ids=None):
    """{language: rights} as the items of one evaluation: ids q0, q1, ..., or row numbers where there are `golds`."""
    parts = []
    for code, values in right.items():
        names = (ids or {}).get(code, [f"{'' if golds else 'q'}{number}" for number in range(len(values))])
        parts.append(pd.DataFrame({"language": code, "id": names, "right": [bool(value) for value in values],
                                   "gold": (golds or {}).get(code, "")}))
    return parts


def make(runs, right, target="xquad", golds=None, ids=None, intermediates=("squad",), **changed):
    """A --runs folder with `right(intermediate, seed)` -> {language: rights} of every evaluation."""
    seeds = changed.pop("seeds", (1,))
    codes = tuple(right("none", seeds[0]))
    frame = frame_of(lambda row: 0.0, intermediates, targets=(target,), seeds=seeds, languages=codes, **changed)
    results.write(frame, runs)
    for key, rows in frame.groupby("stage_key"):
        draft = runs / "work" / key / "artefact"
        draft.mkdir(parents=True)
        write_items(items(right(*rows.iloc[0][["intermediate", "seed"]]), golds, ids), draft, target)
        Store(runs).commit(key, draft, {"kind": "evaluate", "spec": {}, "parent": None})
    return runs


def one(frame, **values):
    for column, value in values.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1
    return frame.iloc[0]


BEFORE = {"en": [1, 1, 0, 0, 1, 0], "de": [1, 0, 1, 0, 0, 0], "sw": [0, 0, 0, 0, 0, 0]}
AFTER = {"en": [1, 1, 1, 1, 0, 0], "de": [1, 1, 0, 0, 1, 0], "sw": [1, 0, 0, 0, 0, 1]}


def by_hand(name, seed):
    return BEFORE if name == "none" else AFTER


def test_the_flips_are_those_counted_by_hand(tmp_path):
    found = weak_spots(make(tmp_path, by_hand), known(["en", "de", "sw"]))
    assert list(found.flips) == FLIPS and list(found.shared) == SHARED and list(found.tests) == TESTS
    assert len(found.flips) == 2 * 2 and "en" not in set(found.flips["language"])
    german = one(found.flips, intermediate="squad", language="de")
    assert german[["items", "right_in_source", "flipped", "opposite"]].tolist() == [6, 4, 2, 1]
    assert german["rate"] == 50 and german["opposite_rate"] == 50 and german["independent"] == 50
    assert german["baseline"] == pytest.approx(200 / 3), "de wrong in two of the three right in English before"
    # right in English both times: items 0 and 1; before, de had one of them wrong, afterwards none
    assert german["change"] == -50 and math.isnan(german["floor"])
    assert german[MODEL].tolist() == ["full", "{}", "continue", "squad", "xquad"] and german["seed"] == 1
    before = one(found.flips, intermediate="none", language="sw")
    assert before["rate"] == 100 and before["opposite_rate"] == 0 and math.isnan(before["baseline"])
    assert math.isnan(before["change"])
    assert "no two languages are of one family" in " ".join(found.notes)


def test_the_rates_are_means_over_seeds_in_the_shape_of_a_response(tmp_path):
    def right(name, seed):
        return AFTER | ({"de": [0, 0, 0, 0, 0, 0]} if seed == 2 else {})

    told = weak_spots(make(tmp_path, right, seeds=(1, 2)), known(["en", "de", "sw"])).rates()
    assert list(told) == [*MODEL, "metric", "language", "value"] and set(told["metric"]) == {METRIC}
    assert one(told, intermediate="squad", language="de")["value"] == 75
    assert one(told, intermediate="squad", language="sw")["value"] == 75


def test_a_language_in_which_english_is_never_right_has_no_rate(tmp_path):
    found = weak_spots(make(tmp_path, lambda name, seed: BEFORE | {"en": [0] * 6}), known(["en", "de", "sw"]))
    assert found.flips["rate"].isna().all() and not len(found.rates())
    assert found.flips["opposite_rate"].notna().all()


def test_the_floor_is_how_often_another_seed_has_it_wrong_in_english(tmp_path):
    english = {1: [1, 1, 1, 1, 0, 0], 2: [1, 1, 1, 0, 1, 0], 3: [1, 0, 0, 0, 0, 0]}

    def right(name, seed):
        return AFTER | {"en": english[seed]}

    found = weak_spots(make(tmp_path, right, seeds=(1, 2, 3)), known(["en", "de", "sw"]))
    floor = {seed: one(found.flips, intermediate="squad", language="de", seed=seed)["floor"] for seed in english}
    assert floor == {1: pytest.approx((25 + 75) / 2), 2: pytest.approx((25 + 75) / 2), 3: 0}


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 1.0, np.nan])), min_size=1, max_size=30))
def test_flips_less_opposite_flips_are_the_difference_of_accuracies(pairs):
    right = pd.DataFrame({"en": [float(a) for a, _ in pairs], "de": [b for _, b in pairs]})
    line, = module._flips(("full", "", "", "none", "xquad"), {("full", "", "", "none", "xquad"): {1: right}}, "en")
    both = right.dropna()
    assert line["items"] == len(both) and line["flipped"] <= line["right_in_source"] <= line["items"]
    assert line["flipped"] - line["opposite"] == both["en"].sum() - both["de"].sum()


# Which languages flip the same items


def draw(seed, items=400, languages=5):
    """(items, languages) of rights with a common difficulty, and English."""
    random = np.random.default_rng(seed)
    hard = random.standard_normal((items, 1)) + random.standard_normal((items, languages)) > 0.3
    return pd.DataFrame(1.0 - hard, columns=list("abcde")[:languages]).assign(en=1.0 - (random.random(items) < 0.3))


def test_phi_is_numpy_s_correlation_of_the_flips_of_items_right_in_english():
    right = draw(1)
    right.loc[:20, "b"] = np.nan
    rows = module._shared(("m", "", "", "none", "xquad"), 1, right, "en", {"a": "x", "c": "x"})
    assert len(rows) == 10
    for row in rows:
        part = right[(right["en"] == 1) & right[[row["language_a"], row["language_b"]]].notna().all(axis=1)]
        a, b = 1 - part[row["language_a"]], 1 - part[row["language_b"]]
        assert row["phi"] == pytest.approx(np.corrcoef(a, b)[0, 1]) and row["items"] == len(part)
        n11, n10, n01, n00 = ((a * b).sum(), (a * (1 - b)).sum(), ((1 - a) * b).sum(), ((1 - a) * (1 - b)).sum())
        margins = (n11 + n10) * (n01 + n00) * (n11 + n01) * (n10 + n00)
        assert row["phi"] == pytest.approx((n11 * n00 - n10 * n01) / math.sqrt(margins))
        assert row["related"] == ({row["language_a"], row["language_b"]} == {"a", "c"})


def test_phi_is_kappa_where_both_flip_equally_often_and_nan_where_one_never_flips():
    a, b, never = [1, 1, 0, 0, 0, 0, 1, 0], [1, 0, 1, 0, 0, 0, 1, 0], [1] * 8
    right = pd.DataFrame({"en": 1.0, "a": a, "b": b, "c": never, "d": [0] * 8}).astype(float)
    rows = {row["language_a"] + row["language_b"]: row["phi"]
            for row in module._shared(("m", "", "", "none", "xquad"), 1, right, "en", {})}
    agree, chance = 6 / 8, (3 / 8) ** 2 + (5 / 8) ** 2
    assert rows.pop("ab") == pytest.approx((agree - chance) / (1 - chance))
    assert all(math.isnan(phi) for phi in rows.values())


def test_independent_languages_share_nothing_and_a_common_difficulty_is_seen():
    random = np.random.default_rng(3)
    alone = pd.DataFrame((random.random((4000, 4)) < [0.9, 0.6, 0.7, 0.5]).astype(float), columns=list("abcd"))
    cell = ("m", "", "", "none", "xquad")
    told = [row["phi"] for row in module._shared(cell, 1, alone.assign(en=1.0), "en", {})]
    assert np.abs(told).max() < 4 / math.sqrt(4000)
    assert min(row["phi"] for row in module._shared(cell, 1, draw(4, 4000), "en", {})) > 0.2


# The tests over pairs of languages


def squares(seed, n):
    random = np.random.default_rng(seed)
    first, second = np.triu(random.standard_normal((n, n)), 1), np.triu(random.standard_normal((n, n)), 1)
    group = random.permutation(np.arange(n) % 2)
    return first, second, np.triu((group[:, None] == group).astype(float), 1)


def by_scipy(statistic, phi, other, n):
    """estimate and p over every permutation of the languages, by scipy."""
    whole, above = other + other.T, np.triu_indices(n, 1)

    def of_order(order):
        order = np.asarray(order)
        return statistic(phi[above], whole[np.ix_(order, order)][above])

    told = stats.permutation_test((np.arange(n),), of_order, permutation_type="pairings", n_resamples=np.inf,
                                  vectorized=False)
    return told.statistic, np.mean(np.abs(told.null_distribution) >= abs(told.statistic) - 1e-12)


def spearman(x, y):
    return stats.spearmanr(x, y)[0]


def less(x, y):
    return x[y == 1].mean() - x[y == 0].mean()


@pytest.mark.parametrize("seed", [1, 2])
def test_estimate_and_p_are_those_of_scipy_where_every_permutation_is_tried(seed):
    phi, other, related = squares(seed, 5)
    assert module._mantel(phi, other, True, 1999, 1) == pytest.approx(by_scipy(spearman, phi, other, 5))
    assert module._mantel(phi, related, False, 1999, 1) == pytest.approx(by_scipy(less, phi, related, 5))


def test_drawn_permutations_come_near_all_of_them():
    phi, other, related = squares(5, 6)
    for side, ranks in ((other, True), (related, False)):
        exact, drawn = module._mantel(phi, side, ranks, 1999, 1), module._mantel(phi, side, ranks, 700, 1)
        assert drawn[0] == exact[0] and drawn[1] == pytest.approx(exact[1], abs=0.06) and drawn[1] != exact[1]


def test_nothing_is_said_of_few_languages_or_of_what_does_not_vary():
    phi, other, _ = squares(1, 5)
    for pair in ((phi[:3, :3], other[:3, :3]), (phi, np.zeros((5, 5))), (np.zeros((5, 5)), other)):
        assert all(map(math.isnan, module._mantel(*pair, True, 99, 1)))


def test_false_positives_are_as_many_as_promised():
    found = [module._mantel(phi, related, False, 199, seed)[1]
             for seed in range(300) for phi, _, related in [squares(seed, 8)]]
    assert np.mean(np.array(found) < 0.05) < 0.09 and np.mean(np.array(found) < 0.5) > 0.4


CODES = ["en", "es", "fr", "it", "fi", "hu", "et", "de"]
FAMILIES = {"en": "IE", "es": "IE", "fr": "IE", "it": "IE", "de": "IE", "fi": "U", "hu": "U", "et": "U"}


def by_family(strength, rates=None):
    """Rights in which languages of a family share a difficulty of its own, the more the greater `strength`."""
    def right(name, seed):
        random = np.random.default_rng([seed, int(name == "none")])
        own = {family: random.standard_normal(800) for family in ("IE", "U")}
        told = {code: strength * own[FAMILIES[code]] + random.standard_normal(800)
                for code in CODES[1:]}
        cut = {code: np.quantile(told[code], 1 - (rates or {}).get(code, 0.3)) for code in told}
        return {"en": np.ones(800)} | {code: told[code] < cut[code] for code in told}
    return right


def test_families_that_share_weak_spots_are_found(tmp_path):
    found = weak_spots(make(tmp_path, by_family(1.0), seeds=(1, 2)), known(CODES, FAMILIES))
    told = one(found.tests, intermediate="squad", measure=FAMILY)
    assert told["estimate"] > 0.2 and told["p_permutation"] < 0.05 and told["statistic"] == module.DIFFERENCE
    assert (told["languages"], told["pairs"], told["related_pairs"]) == (7, 21, 6 + 3)
    pairs = found.shared[found.shared["intermediate"] == "squad"].groupby(["language_a", "language_b"])
    means = pairs[["phi", "related"]].mean()
    assert told["estimate"] == pytest.approx(means.loc[means["related"] == 1, "phi"].mean()
                                             - means.loc[means["related"] == 0, "phi"].mean())
    assert not any("no two languages" in note for note in found.notes)


def test_what_equal_flip_rates_explain_is_taken_out_of_the_adjusted_one():
    pairs = [(a, b, FAMILIES[a] == FAMILIES[b]) for place, a in enumerate(CODES) for b in CODES[place + 1:]]
    frame = pd.DataFrame(pairs, columns=["language_a", "language_b", "related"])
    frame["rate_gap"] = np.where(frame["related"], 2.0, 20.0) + np.arange(len(frame)) / 10
    line, = module._tests(("m", "", "", "none", "xquad"), frame.assign(phi=0.5 - 0.02 * frame["rate_gap"]), {}, 199, 1)
    assert line["estimate"] > 0.3 and math.isnan(line["estimate_adjusted"]) and math.isnan(line["p_adjusted"])
    beside = 0.5 - 0.02 * frame["rate_gap"] + 0.1 * frame["related"] * (np.arange(len(frame)) % 2)
    line, = module._tests(("m", "", "", "none", "xquad"), frame.assign(phi=beside), {}, 199, 1)
    assert 0 < line["estimate_adjusted"] < line["estimate"]


def test_measures_of_pairs_are_those_of_the_similarities(tmp_path):
    real = similarities(CODES[1:], "en")
    pairs = module._pairwise(real, CODES[1:])
    assert list(pairs) == list(module.PAIRWISE)
    for name, table in pairs.items():
        np.testing.assert_allclose(table, table.T, err_msg=name)
        french = similarities(CODES[1:], "fr").values[name]
        pd.testing.assert_series_equal(table.loc["fr", CODES[1:]], french, check_names=False)
    other = module._pairwise(similarities(CODES[1:], "en", ["syntactic"], "urielplus_angular"), CODES[1:])
    assert list(other) == ["syntactic"] and other["syntactic"].at["es", "fi"] != pairs["syntactic"].at["es", "fi"]
    found = weak_spots(make(tmp_path, by_family(1.0)), real)
    told = one(found.tests, intermediate="squad", measure="genetic")
    assert told["estimate"] > 0.3 and told["statistic"] == module.MANTEL
    lacking = pairs["genetic"].copy()
    lacking.loc["de"] = lacking["de"] = np.nan
    rows = found.shared[found.shared["intermediate"] == "squad"]
    line = module._tests(tuple(told[MODEL]), rows, {"genetic": lacking}, 99, 1)[1]
    assert line["languages"] == 6, "only the language that lacks it is left out"


def test_the_miniature_world_has_no_measures_of_pairs():
    assert module._pairwise(similarities(["qa", "qb", "qc", "qd"]), ["qa", "qb", "qc", "qd"]) == {}


def test_the_order_of_rows_and_languages_changes_nothing(tmp_path):
    def turned(name, seed):
        return dict(reversed(by_family(1.0)(name, seed).items()))

    plain = weak_spots(make(tmp_path / "a", by_family(1.0), seeds=(1, 2)), known(CODES, FAMILIES))
    frame = results.read(tmp_path / "a").sample(frac=1, random_state=1)
    make(tmp_path / "b", turned, seeds=(1, 2))
    other = weak_spots(tmp_path / "b", known(CODES, FAMILIES), frame=frame)
    for name, key in (("flips", FLIPS[:7]), ("shared", SHARED[:8]), ("tests", TESTS[:6])):
        sides = [getattr(side, name).sort_values(key, ignore_index=True) for side in (plain, other)]
        pd.testing.assert_frame_equal(*sides)


# Rows that are not the same, and what is refused


def pairs_of(count, german):
    golds = {"en": ["0", "1"] * (count // 2), "de": german}
    return golds, lambda name, seed: {code: [1] * len(gold) for code, gold in golds.items()}


def test_rows_with_another_label_are_not_the_same_pair(tmp_path):
    golds, right = pairs_of(200, german=["1", "0"] * 100)
    found = weak_spots(make(tmp_path / "a", right, "pawsx", golds), known(["en", "de"]))
    assert not len(found.flips) and any("200 of its 200 rows have another right label" in note for note in found.notes)
    golds, right = pairs_of(200, german=["1", "1", *["0", "1"] * 99])
    found = weak_spots(make(tmp_path / "b", right, "pawsx", golds), known(["en", "de"]))
    assert found.flips["items"].eq(199).all() and len(found.flips) == 2
    golds, right = pairs_of(200, german=["0", "1"] * 99 + ["0"])
    found = weak_spots(make(tmp_path / "c", right, "pawsx", golds), known(["en", "de"]))
    assert not len(found.flips) and any("199 rows and en 200" in note for note in found.notes)


def test_questions_are_paired_by_id(tmp_path):
    ids = {"de": ["q5", "q0", "q1"], "en": [f"q{number}" for number in range(6)]}
    found = weak_spots(make(tmp_path, lambda name, seed: {"en": [1, 0, 0, 0, 0, 0], "de": [1, 0, 1]}, "mlqa", ids=ids),
                       known(["en", "de"]))
    told = one(found.flips, intermediate="squad")
    assert told[["items", "right_in_source", "flipped", "opposite"]].tolist() == [3, 1, 1, 2]


def test_excluded_languages_are_left_out(tmp_path):
    found = weak_spots(make(tmp_path, by_hand), known(["en", "de", "sw"]), excluded=("en", "sw"))
    assert set(found.flips["language"]) == {"de"} and not len(found.shared) and not len(found.tests)


def test_what_cannot_be_answered_is_refused_with_the_next_step(tmp_path):
    some = known(["en", "de", "sw"])
    with pytest.raises(UsageError, match="has no stages/.*peft_stilts recipe"):
        weak_spots(tmp_path, some)
    runs = make(tmp_path / "runs", by_hand)
    with pytest.raises(UsageError, match="--targets xquad,mlqa,xnli,pawsx"):
        weak_spots(runs, some, frame=frame_of(lambda row: 0.0, targets=("udpos",)))
    both = pd.concat([results.read(runs), results.read(runs).assign(scale="large")])
    with pytest.raises(UsageError, match="never mixed.*--only"):
        weak_spots(runs, some, frame=both)
    with pytest.raises(DataError, match="several stages.*--only"):
        weak_spots(runs, some, frame=pd.concat([results.read(runs), results.read(runs).assign(stage_key="k")]))
    with pytest.raises(DataError, match="k is missing.*in which they were made"):
        weak_spots(runs, some, frame=results.read(runs).assign(stage_key="k"))
    with pytest.raises(UsageError, match="not scored in fi.*--languages"):
        weak_spots(runs, known(["fi"], source="fi"))
    other = make(tmp_path / "other", by_hand, ids={"de": list("abcdef")})
    with pytest.raises(DataError, match=r"xquad de .*none of its 6 items.*'a' and 'q0'.*--exclude"):
        weak_spots(other, some)
    weak_spots(other, some, excluded=("de",))


def test_an_evaluation_without_items_is_refused(tmp_path):
    runs = make(tmp_path, by_hand)
    draft = runs / "work" / "none--xquad-full-1-" / "artefact"
    draft.mkdir(parents=True)
    Store(runs).commit("none--xquad-full-1-", draft, {"kind": "evaluate", "spec": {}, "parent": None})
    with pytest.raises(DataError, match="xquad.parquet is missing.*Remove .* again"):
        weak_spots(runs, known(["en", "de", "sw"]))
