"""Tags: one a token, within the inventories, the same things in every language, and dependent on the sentence."""

from collections import Counter, defaultdict

import pytest

from peft_stilts.miniature.generators import rows_of
from peft_stilts.miniature.world import TONGUES
from peft_stilts.tasks.xtreme import NER, UPOS

X = "google/xtreme"
CODES = tuple(TONGUES)


def tagged(code: str, split: str, kind: str) -> list[list[tuple[str, str]]]:
    """Sentences of (token, tag); `kind`: 'pos' or 'ner'."""
    config, names = (f"udpos.{TONGUES[code].name}", UPOS) if kind == "pos" else (f"PAN-X.{code}", NER)
    return [list(zip(row["tokens"], map(names.__getitem__, row[f"{kind}_tags"]), strict=True))
            for row in rows_of(X, config, split)]  # fmt: skip


@pytest.mark.parametrize("kind", ["pos", "ner"])
@pytest.mark.parametrize("code", CODES)
def test_every_token_has_one_tag_and_sentences_are_parallel(code, kind):
    for split in ("validation", "test"):
        own, english = tagged(code, split, kind), tagged("en", split, kind)
        assert len(own) == len(english)
        for one, other in zip(own, english, strict=True):
            assert all(token and " " not in token for token, _ in one)
            meanings = [Counter(tag for _, tag in sentence) for sentence in (one, other)]
            for tag in ("NOUN", "PROPN", "VERB", "NUM", "PUNCT") if kind == "pos" else NER[1:]:
                assert meanings[0][tag] == meanings[1][tag]


def test_parts_of_speech_by_hand():
    known = {"the": "DET", "in": "ADP", "on": "ADP", "did": "AUX", "who": "PRON", "where": "ADV", "how": "ADV",
             "many": "ADJ", "which": "DET", "apple": "NOUN", "red": "ADJ", "bought": "VERB", "Anna": "PROPN",
             "Monday": "PROPN", ".": "PUNCT", "?": "PUNCT"}  # fmt: skip
    found = {token: tag for sentence in tagged("en", "train", "pos") for token, tag in sentence}
    assert {token: found[token] for token in known} == known
    numbers = {tag for sentence in tagged("en", "train", "pos") for token, tag in sentence if token.isdigit()}
    assert numbers == {"NUM"}
    assert {tag for sentence in tagged("en", "train", "pos") for _, tag in sentence} >= {"ADJ", "ADP", "ADV", "AUX"}


@pytest.mark.parametrize("code", CODES)
def test_names_are_well_formed_and_of_all_three_kinds(code):
    kinds = Counter()
    for sentence in tagged(code, "test", "ner"):
        before = "O"
        for _, tag in sentence:
            assert not tag.startswith("I-") or before[1:] == tag[1:]
            kinds[tag] += 1
            before = tag
    assert min(kinds[tag] for tag in NER) >= 20


def test_the_words_of_a_name_do_not_tell_its_kind():
    kinds = defaultdict(set)
    for sentence in tagged("en", "train", "ner"):
        for token, tag in sentence:
            kinds[token].add(tag)
    assert {"B-LOC", "B-ORG"} <= kinds["London"] and {"O", "I-LOC", "I-ORG"} <= kinds["market"]
    assert {"B-PER", "I-PER"} <= kinds["Anna"]


def test_languages_column_names_the_language_for_each_token():
    for row in rows_of(X, "PAN-X.qd", "test"):
        assert row["langs"] == ["qd"] * len(row["tokens"])


def test_supertags_depend_on_the_sentence():
    tags = defaultdict(set)
    sentences = {}
    for row in rows_of("ldc/ccgbank", "default", "train"):
        assert len(row["tokens"]) == len(row["tags"])
        sentences[" ".join(row["tokens"])] = row["tags"]
        for token, tag in zip(row["tokens"], row["tags"], strict=True):
            assert tag and " " not in tag
            tags[token].add(tag)
    assert tags["in"] >= {r"((S\NP)\(S\NP))/NP", "PP/NP"} and len(tags["which"]) >= 2 and len(tags["who"]) == 1
    assert 15 <= len(set.union(*tags.values())) <= 60
    trained = {tag for some in sentences.values() for tag in some}
    for split in ("validation", "test"):
        assert {tag for row in rows_of("ldc/ccgbank", "default", split) for tag in row["tags"]} <= trained


def test_supertags_by_hand():
    from peft_stilts.miniature.grammar import clause_of, speaker
    from peft_stilts.miniature.tagging import supertags

    voice = speaker("en")
    clause = clause_of({"who": "Anna", "verb": "buy", "number": "3", "what": "apple", "where": "market"})
    assert supertags(voice.say(clause), None) == [
        ("Anna", "N"), ("bought", r"(S[dcl]\NP)/NP"), ("3", "N/N"), ("apples", "N"),
        ("in", r"((S\NP)\(S\NP))/NP"), ("the", "NP[nb]/N"), ("market", "N"), (".", ".")]  # fmt: skip
    asked = voice.ask(clause, "what", frozenset({"who", "verb"}))
    assert supertags(asked, "what") == [
        ("what", "S[wq]/(S[q]/NP)"), ("did", r"(S[q]/(S[b]\NP))/NP"), ("Anna", "N"), ("buy", r"(S[b]\NP)/NP"),
        ("?", ".")]  # fmt: skip
    lived = clause_of({"who": "Anna", "verb": "live", "city": "Rome"})
    assert supertags(voice.say(lived), None) == [
        ("Anna", "N"), ("lived", r"(S[dcl]\NP)/PP"), ("in", "PP/NP"), ("Rome", "N"), (".", ".")]  # fmt: skip
