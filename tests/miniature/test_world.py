"""The languages: distances, lexicons, word order and renderings."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_stilts.miniature import lexicon as lx
from peft_stilts.miniature.dice import Dice
from peft_stilts.miniature.grammar import event, fact, speaker
from peft_stilts.miniature.texts import TRAIN
from peft_stilts.miniature.world import ENGLISH, TONGUES, distance

CODES = tuple(TONGUES)
shares = st.floats(0, 1)


def test_english_and_nine_languages_from_nearest_to_remotest():
    assert list(CODES) == ["en", *(f"q{letter}" for letter in "abcdefghi")]
    assert [tongue.iso639_3 for tongue in TONGUES.values()] == ["eng", *(f"qa{letter}" for letter in "abcdefghi")]
    distances = [distance(tongue) for tongue in TONGUES.values()]
    assert distances[0] == 0
    assert distances == sorted(set(distances))
    assert sum(tongue.text for tongue in TONGUES.values()) == pytest.approx(1)


def test_distance_by_hand():
    assert distance(TONGUES["qi"]) == pytest.approx(0.4 + 0.2 + 0.2 + 0.2)
    assert distance(TONGUES["qb"]) == pytest.approx(0.4 * 0.4 + 0.2 * 0.25)


@given(shares, shares, st.sampled_from(("SVO", "VSO", "SOV")), st.sampled_from(("pre", "post")), st.integers(0, 3))
def test_distance_lies_in_0_to_1_and_grows_with_every_difference(loans, names, order, adposition, cases):
    tongue = replace(ENGLISH, loans=loans, names=names, order=order, adposition=adposition, cases=cases)
    assert 0 <= distance(tongue) <= 1
    assert distance(replace(tongue, script="Greek")) > distance(tongue)
    assert distance(replace(tongue, adjective="after")) > distance(tongue)
    assert distance(replace(tongue, loans=loans / 2)) >= distance(tongue)


@pytest.mark.parametrize("code", CODES)
def test_a_lexicon_has_one_word_for_each_concept(code):
    words = lx.lexicon(code)
    assert set(words) == set(lx.CONCEPTS) and len(set(words.values())) == len(lx.CONCEPTS)
    assert {lx.glosses(code)[word]: word for word in words.values()} == words


@pytest.mark.parametrize("code", CODES[1:])
def test_the_shares_of_the_table_are_kept(code):
    tongue, words = TONGUES[code], lx.lexicon(code)
    names = sum(words[name] == name for name in lx.PROPER) / len(lx.PROPER)
    assert names == pytest.approx(tongue.names, abs=0.2)
    assert (names == 0) == (tongue.names == 0)
    same = sum(words[concept] == lx.transliterate(concept.lower(), tongue.script) for concept in lx.CONTENT)
    assert same / len(lx.CONTENT) >= tongue.loans - 0.01
    assert same / len(lx.CONTENT) <= tongue.loans + tongue.cognates + 0.01


def test_scripts_have_one_letter_for_each_latin_letter():
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    for script in {tongue.script for tongue in TONGUES.values()}:
        assert len(set(lx.transliterate(alphabet, script))) == 26


@given(st.integers(0, 2**32), st.sampled_from(CODES), st.booleans())
def test_every_clause_says_the_same_in_every_language(seed, code, factual):
    clause = fact(Dice("test", seed)) if factual else event(Dice("test", seed), TRAIN)
    english, other = speaker("en").say(clause), speaker(code).say(clause)
    slots = clause.roles
    for role, concept in clause.slots:
        assert english.span(role)[1] in english.text
        offset, text = other.span(role)
        assert other.text[offset : offset + len(text)] == text
        stem = concept if role in ("number", "year") else lx.lexicon(code)[concept]
        assert text.startswith(stem) or code == "en"
    assert other.text.endswith(".") and other.text.count(".") == 1
    order = [word.role for word in other.words if word.role in ("who", "verb", "what")]
    letters = {"who": "S", "verb": "V", "what": "O"}
    wanted = TONGUES[code].order if "what" in slots else TONGUES[code].order.replace("O", "")
    assert "".join(letters[role] for role in order) == wanted


@given(st.integers(0, 2**32), st.sampled_from(CODES))
def test_a_question_does_not_mention_its_answer(seed, code):
    clause = event(Dice("test", seed), TRAIN)
    for asked in [role for role in ("who", "what", "where", "when", "number") if role in clause.roles]:
        question = speaker(code).ask(clause, asked, frozenset(clause.roles) - {asked})
        assert all(word.role != asked or (asked == "what") for word in question.words)
        assert clause.roles[asked] not in {word.concept for word in question.words}
        assert question.text.endswith("?")


def test_english_plurals():
    nouns = ("knife", "cherry", "axe", "brush", "apple", "story")
    assert [lx.plural(noun) for noun in nouns] == ["knives", "cherries", "axes", "brushes", "apples", "stories"]
