"""CoNLL-U: every word has one tag, whatever multiword tokens, empty nodes and comments stand between."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_stilts.errors import DataError
from peft_stilts.tasks.releases.conllu import clean, fused, is_withheld, read_conllu, syntactic
from peft_stilts.tasks.xtreme import UPOS


def word_line(number, form, tag, head=0, deps="_"):
    return f"{number}\t{form}\tlemma\t{tag}\t_\t_\t{head}\tdep\t{deps}\t_"


def range_line(first, last, form):
    return f"{first}-{last}\t{form}" + "\t_" * 8


def read(tmp_path, *lines):
    (tmp_path / "x_y-ud-test.conllu").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return list(read_conllu(tmp_path / "x_y-ud-test.conllu"))


@dataclass
class Drawn:
    """A random sentence: its lines, the words, and the tokens as groups of word numbers."""

    lines: list[str]
    words: list[tuple[str, str]]
    groups: list[list[int]]
    empty: int


@st.composite
def drawn_sentences(draw):
    form = st.text("abcä日", min_size=1, max_size=3)
    words = draw(st.lists(st.tuples(form, st.sampled_from(UPOS)), min_size=1, max_size=9))
    lines, groups, empty, number = draw(st.lists(st.sampled_from(["# text = 1\t2", "#"]), max_size=2)), [], 0, 1
    while number <= len(words):
        size = draw(st.integers(1, len(words) + 1 - number))
        groups.append(list(range(number, number + size)))
        if size > 1:
            lines.append(range_line(number, number + size - 1, "+".join(words[n - 1][0] for n in groups[-1])))
        for n in groups[-1]:
            lines.append(word_line(n, *words[n - 1], draw(st.integers(0, len(words)))))
            if draw(st.booleans()):
                lines.append(word_line(f"{n}.1", "empty", "VERB", "_"))
                empty += 1
        number += size
    return Drawn(lines, words, groups, empty)


@given(st.lists(drawn_sentences(), min_size=1, max_size=4), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_every_word_has_one_tag(tmp_path_factory, drawn, end, last_blank):
    path = tmp_path_factory.mktemp("conllu") / "x_y-ud-test.conllu"
    text = f"{end}{end}".join(end.join(sentence.lines) for sentence in drawn)
    path.write_bytes((text + end * (2 if last_blank else 0)).encode())
    sentences = list(read_conllu(path))
    assert len(sentences) == len(drawn)
    for sentence, expected in zip(sentences, drawn):
        tokens, tags = syntactic(sentence, "en")
        assert list(zip(tokens, tags)) == expected.words and sentence.empty == expected.empty
        tokens, tags = fused(sentence, "en")
        assert tokens == ["+".join(expected.words[n - 1][0] for n in group) for group in expected.groups]
        assert len(tags) == len(tokens) == len(expected.words) - sum(len(group) - 1 for group in expected.groups)
        assert all(tag in {expected.words[n - 1][1] for n in group} for tag, group in zip(tags, expected.groups))


def test_a_fused_word_takes_the_tag_of_the_word_nearest_to_the_root(tmp_path):
    (sentence,) = read(
        tmp_path,
        "# sent_id = 1",
        range_line(1, 2, "wanna"),
        word_line(1, "wan", "X", 3),
        word_line(2, "na", "VERB", 1),
        word_line(3, "go", "VERB", 0),
    )
    assert fused(sentence, "en") == (["wanna", "go"], ["X", "VERB"])
    assert syntactic(sentence, "en") == (["wan", "na", "go"], ["X", "VERB", "VERB"])


@pytest.mark.parametrize(
    ("language", "tags", "expected"),
    [
        ("en", ("PART", "AUX"), "AUX"),
        ("es", ("DET", "ADP"), "ADP"),
        ("es", ("NOUN", "PRON"), "PRON"),
        ("pt", ("NOUN", "PRON"), "NOUN"),
        ("it", ("PRON", "ADV"), "ADV"),
        ("en", ("SYM", "PUNCT"), "PUNCT"),
        ("fr", ("CCONJ", "SCONJ"), "SCONJ"),
        ("es", ("NOUN", "NUM"), "NOUN"),
    ],
)
def test_equally_near_words_are_ranked_by_part_of_speech(tmp_path, language, tags, expected):
    """Among words with one head XTREME's list of the language decides; NOUN and NUM are not on the Spanish one."""
    (sentence,) = read(
        tmp_path,
        range_line(1, 2, "ab"),
        word_line(1, "a", tags[0], 3),
        word_line(2, "b", tags[1], 3),
        word_line(3, "c", "NOUN", 0),
    )
    assert fused(sentence, language) == (["ab", "c"], [expected, "NOUN"])


def test_enhanced_dependencies_count_as_xtremes_converter_counts_them(tmp_path):
    """AUX has ancestors {3, 4, 0} by its second head, PART {3, 0}: so PART is nearer, though AUX ranks higher."""
    lines = [
        range_line(1, 2, "ab"),
        word_line(1, "a", "AUX", 3, "3:aux|4:aux|5.1:x"),
        word_line(2, "b", "PART", 3, "3:advmod"),
        word_line(3, "c", "VERB", 0, "0:root"),
        word_line(4, "d", "VERB", 3),
    ]
    assert fused(read(tmp_path, *lines)[0], "en")[1][0] == "PART"
    assert fused(read(tmp_path, *(line.replace("|4:aux", "") for line in lines))[0], "en")[1][0] == "AUX"


def test_circles_end(tmp_path):
    (sentence,) = read(tmp_path, range_line(1, 2, "ab"), word_line(1, "a", "NOUN", 2), word_line(2, "b", "VERB", 1))
    assert fused(sentence, "en") == (["ab"], ["VERB"])


def test_a_form_loses_spaces_but_never_everything():
    assert clean("Việt Nam") == "ViệtNam" and clean("می\u200cرود") == "میرود"
    assert clean("\u200c") == "\u200c" and clean("a\u00a0b") == "a\u00a0b"


@pytest.mark.parametrize(
    ("tokens", "withheld"),
    [("_", True), ("_ _ .", True), ("a _", True), ("_ _ . .", False), ("a b", False), ("a", False), ("_ a b", False)],
)
def test_withheld_sentences(tokens, withheld):
    assert is_withheld(tokens.split()) == withheld


A, B = word_line(1, "a", "NOUN"), word_line(2, "b", "VERB")


@pytest.mark.parametrize(
    ("lines", "line", "message"),
    [
        ([A, "2\tb\tVERB"], 2, "has 3 tab-separated fields, not CoNLL-U's 10"),
        ([A, B + "\t_"], 2, "has 11"),
        (["# c", A, A], 3, "word 1 stands where word 2 must"),
        ([B], 1, "word 2 stands where word 1 must"),
        ([word_line("x", "a", "NOUN")], 1, "'x' is no number"),
        ([word_line("1-", "a", "NOUN")], 1, "'1-' is no number"),
        ([word_line("١", "a", "NOUN")], 1, "is no number"),
        ([word_line(1, " ", "NOUN")], 1, "word 1 has a blank form"),
        ([range_line(1, 2, "ab"), A], 1, "lacks words of its token 'ab'"),
        ([A, range_line(1, 2, "ab"), B], 2, "does not stand before its first word"),
        ([range_line(1, 2, "ab"), A, range_line(2, 3, "bc"), B], 3, "overlaps another"),
        (["", "# only", word_line("0.1", "a", "NOUN"), "", A], 3, "a sentence of 0 words"),
    ],
)
def test_bad_lines_are_named(tmp_path, lines, line, message):
    with pytest.raises(DataError) as error:
        read(tmp_path, *lines)
    assert f"x_y-ud-test.conllu, line {line}" in str(error.value) and message in str(error.value)
