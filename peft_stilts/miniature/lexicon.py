"""The world's concepts, and the word for each in every language (loans, cognates by sound change, and inventions)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from peft_stilts.miniature.dice import Dice
from peft_stilts.miniature.world import ENGLISH, TONGUES, Tongue

OBJECTS: Mapping[str, tuple[str, ...]] = {
    "fruit": ("apple", "pear", "plum", "cherry", "lemon", "grape", "melon", "peach"),
    "tool": ("hammer", "saw", "knife", "needle", "shovel", "axe", "brush", "ladder"),
    "garment": ("coat", "hat", "shirt", "glove", "scarf", "boot", "belt", "skirt"),
    "animal": ("horse", "goat", "cow", "rabbit", "dog", "cat", "duck", "hen"),
    "vessel": ("cup", "bowl", "bottle", "basket", "barrel", "pot", "jar", "bucket"),
    "paper": ("book", "letter", "map", "poem", "diary", "story", "journal", "postcard"),
}
"""Class -> its objects, the most frequent first."""

EVERYTHING = tuple(OBJECTS)
VERBS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "buy": ("bought", EVERYTHING), "find": ("found", EVERYTHING), "sell": ("sold", EVERYTHING),
    "lose": ("lost", EVERYTHING), "carry": ("carried", EVERYTHING), "hide": ("hid", EVERYTHING),
    "steal": ("stole", EVERYTHING), "paint": ("painted", ("paper", "animal", "fruit")),
    "send": ("sent", ("paper", "garment", "fruit")), "wash": ("washed", ("garment", "vessel", "fruit")),
    "break": ("broke", ("vessel", "tool")), "fill": ("filled", ("vessel",)), "mend": ("mended", ("garment", "tool")),
    "wear": ("wore", ("garment",)), "study": ("studied", ("paper",)), "write": ("wrote", ("paper",)),
    "eat": ("ate", ("fruit",)), "peel": ("peeled", ("fruit",)), "feed": ("fed", ("animal",)),
    "call": ("called", ("animal",)), "lend": ("lent", ("tool", "paper", "vessel")),
    "draw": ("drew", ("animal", "tool", "fruit")),
    "live": ("lived", ()), "become": ("became", ()), "arrive": ("arrived", ()), "like": ("liked", ()),
}  # fmt: skip
"""Verb -> its English past tense and the classes of object it takes (none: a verb of facts about a person)."""

ADJECTIVES = (
    "red", "old", "small", "white", "new", "big", "black", "heavy", "blue", "cheap", "green", "dirty",
    "round", "pretty",
)  # fmt: skip
PLACES = (
    "market", "house", "garden", "school", "street", "kitchen", "harbour", "church", "forest",
    "station", "bridge", "field",
)  # fmt: skip
CITIES = (
    "London", "Paris", "Berlin", "Madrid", "Rome", "Vienna", "Lisbon", "Athens", "Oslo", "Dublin", "Prague", "Warsaw",
)  # fmt: skip
PROFESSIONS = (
    "teacher", "baker", "doctor", "farmer", "sailor", "painter", "singer", "driver",
    "lawyer", "soldier", "hunter", "tailor", "writer", "judge", "nurse", "cook",
)  # fmt: skip
NAMES = (
    "Anna", "Peter", "Maria", "John", "Laura", "David", "Sofia", "Martin", "Elena", "Paul", "Clara", "Simon",
    "Julia", "Victor", "Nora", "Oscar", "Irene", "Felix", "Alice", "Hugo", "Vera", "Tomas", "Emma", "Robert",
    "Diana", "Leo", "Helen", "Max", "Rosa", "Adam", "Lucia", "Ivan",
)  # fmt: skip
DAYS = ("Monday", "Friday", "Sunday", "Tuesday", "Saturday", "Wednesday", "Thursday")
MONTHS = ("May", "June", "August", "March")
TIMES = DAYS + MONTHS
FUNCTION_WORDS = ("in", "on", "the", "who", "what", "where", "when", "how many", "which")
CLASS_WORDS = (*OBJECTS, "place", "city", "day", "month", "year", "work", "person")

PROPER = frozenset(NAMES + CITIES)
ALL_OBJECTS = tuple(name for members in OBJECTS.values() for name in members)
CLASS_OF = {name: kind for kind, members in OBJECTS.items() for name in members}
CONTENT = (*ALL_OBJECTS, *VERBS, *ADJECTIVES, *PLACES, *PROFESSIONS, *TIMES, *CLASS_WORDS)
CONCEPTS = (*CONTENT, *FUNCTION_WORDS, *NAMES, *CITIES)
"""Every concept, named by its English dictionary form."""

_LATIN = "abcdefghijklmnopqrstuvwxyz"
_SCRIPTS = {
    "Cyrillic": "абцдефгхийклмнопярстувшжыз",
    "Greek": "αβχδεφγηιξκλμνοπψρστυθωζϋς",
    "Devanagari": "अबचदएफगहइजकलमनओपखरसतउवधटयझ",
    "Georgian": "აბცდეფგჰიჯკლმნოპქრსტუვწხყზ",
}
_SHIFTS = (("p", "b"), ("t", "d"), ("c", "k"), ("f", "v"), ("s", "z"), ("w", "v"), ("l", "r"), ("m", "n"), ("h", "g"))
_VOWELS = "aeiou"


def transliterate(word: str, script: str) -> str:
    """A Latin word letter by letter in `script`; 'Latin' leaves it alone. One letter gives one letter."""
    if script == "Latin":
        return word
    return word.lower().translate(str.maketrans(_LATIN, _SCRIPTS[script]))


@cache
def _sound_change(code: str) -> tuple[dict[int, str], str]:
    """A language's regular sound change: four of the consonant shifts, a rotation of the vowels, and an ending."""
    dice = Dice("sound change", code)
    shifts = dict(dice.shuffled(_SHIFTS)[:4])
    turn = dice.between(1, 4) if dice.chance(0.7) else 0
    vowels = {v: _VOWELS[(i + turn) % 5] for i, v in enumerate(_VOWELS)} if dice.chance(0.6) else {}
    return str.maketrans(shifts | vowels), dice.choice(("", "a", "o", "en", "u"))


def _cognate(word: str, code: str) -> str:
    table, ending = _sound_change(code)
    stem = word.translate(table)
    return stem if stem[-1] in _VOWELS else stem + ending


def _invented(dice: Dice, consonants: str, vowels: str, syllables: int) -> str:
    word = "".join(dice.choice(consonants) + dice.choice(vowels) for _ in range(syllables))
    return word + dice.choice(consonants) if dice.chance(0.3) else word


@cache
def lexicon(code: str) -> Mapping[str, str]:
    """Concept -> dictionary form in the language `code`; no two concepts share a form."""
    if code == ENGLISH.code:
        return {concept: concept for concept in CONCEPTS}
    tongue, dice = TONGUES[code], Dice("lexicon", code)
    consonants, vowels = dice.shuffled("bcdfghjklmnprstvz")[:12], dice.shuffled(_VOWELS)[:4]
    order = {concept: rank for rank, concept in enumerate(dice.shuffled(CONTENT))}
    words: dict[str, str] = {}
    for concept in CONCEPTS:
        share = order.get(concept, len(CONTENT)) / len(CONTENT)
        if concept in PROPER:
            word = _proper(concept, tongue, dice)
        elif share < tongue.loans:
            word = transliterate(concept.lower(), tongue.script)
        elif share < tongue.loans + tongue.cognates:
            word = transliterate(_cognate(concept.lower(), code), tongue.script)
        else:
            word = ""
        while not word or word in words.values():
            length = dice.between(1, 2) if concept in FUNCTION_WORDS else dice.between(2, 3)
            word = transliterate(_invented(dice, consonants, vowels, length), tongue.script)
        words[concept] = word
    return words


def _proper(name: str, tongue: Tongue, dice: Dice) -> str:
    """A proper name: as in English in the language's share of cases, else by its sound change in its own script."""
    if dice.chance(tongue.names):
        return name
    if tongue.names == 0:
        return ""
    word = transliterate(_cognate(name.lower(), tongue.code), tongue.script)
    return word.capitalize() if tongue.script == "Latin" else word


@cache
def suffixes(code: str) -> Mapping[str, str]:
    """Case ('object', 'place', 'time') -> suffix of the language, for as many cases as it has."""
    tongue, dice = TONGUES[code], Dice("cases", code)
    endings = dice.shuffled(("ta", "ne", "lo", "ku", "mi", "sa"))
    return {
        case: transliterate(endings[i], tongue.script)
        for i, case in enumerate(("object", "place", "time")[: tongue.cases])
    }


def plural(noun: str) -> str:
    """The English plural of an object ('knife' -> 'knives'); the other languages do not mark number."""
    if noun.endswith("fe"):
        return noun[:-2] + "ves"
    if noun.endswith("y") and noun[-2] not in _VOWELS:
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("ch", "sh", "x", "s")) else "s")


@cache
def glosses(code: str) -> Mapping[str, str]:
    """Dictionary form -> concept, the inverse of `lexicon`, for display."""
    return {word: concept for concept, word in lexicon(code).items()}
