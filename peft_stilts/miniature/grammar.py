"""Propositions about the miniature world, drawn with fixed preferences and rendered in every language."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from peft_stilts.miniature import lexicon as lx
from peft_stilts.miniature.dice import Dice, Weighted, zipf
from peft_stilts.miniature.world import TONGUES, Tongue

ROLES = ("who", "verb", "number", "adjective", "what", "where", "city", "profession", "when", "year")
"""What a slot of a clause can be; 'number' and 'year' hold digits, every other one a concept."""

ASKABLE = ("who", "what", "number", "where", "city", "profession", "when", "year")
_CASE = {"what": "object", "profession": "object", "where": "place", "city": "place", "when": "time", "year": "time"}
_WH = {"who": "who", "what": "what", "number": "how many", "where": "where", "city": "where", "profession": "what",
       "when": "when", "year": "when"}  # fmt: skip

_ADJUNCTS = ("where", "city", "year", "when")
_PHRASES = ("who", "what", "profession", *_ADJUNCTS)


@dataclass(frozen=True)
class Clause:
    """One proposition: role -> concept, for the roles it has. Equal in all languages."""

    slots: tuple[tuple[str, str], ...]

    @property
    def roles(self) -> dict[str, str]:
        """The slots as a dictionary."""
        return dict(self.slots)

    @property
    def is_event(self) -> bool:
        """True for an event (a verb with an object and its circumstances), False for a fact about a person."""
        return "where" in self.roles or "when" in self.roles

    @property
    def fold(self) -> int:
        """0 to 9, by the CRC-32 of the slots: keeps the events of scored, development and training splits apart."""
        return zlib.crc32(repr(self.slots).encode()) % 10


@dataclass(frozen=True)
class Word:
    """One written word: its text, the concept it stands for (None: digits) and the role it fills."""

    text: str
    concept: str | None
    role: str


@dataclass(frozen=True)
class Sentence:
    """A rendered clause or question: its words (tuple of Word), and the text with its final mark."""

    words: tuple[Word, ...]
    mark: str

    @property
    def text(self) -> str:
        """The words joined by spaces, then the mark."""
        return " ".join(word.text for word in self.words) + self.mark

    def span(self, role: str) -> tuple[int, str]:
        """Character offset in `text` and text of the one word that fills `role`; raises KeyError without one."""
        offset = 0
        for word in self.words:
            if word.role == role:
                return offset, word.text
            offset += len(word.text) + 1
        raise KeyError(role)


@cache
def _preferences() -> Mapping[str, Mapping[str, Weighted]]:
    """The world's fixed preferences: who lives where, which verb takes what, what looks how and is kept where."""
    dice = Dice("preferences")
    events = [verb for verb, (_, kinds) in lx.VERBS.items() if kinds]
    what = {}
    for verb in events:
        kinds = dice.shuffled(lx.VERBS[verb][1])
        what[verb] = Weighted(
            [name for kind in kinds for name in lx.OBJECTS[kind]],
            [1 / (rank + 1) / (i + 1.5) for rank, _ in enumerate(kinds) for i in range(8)],
        )
    return {
        "who": {"": zipf(lx.NAMES)},
        "verb": {"": Weighted(events, [1 / (rank + 3) for rank in range(len(events))])},
        "what": what | {"like": Weighted(lx.ALL_OBJECTS, [1.0] * len(lx.ALL_OBJECTS))},
        "adjective": {name: zipf(dice.shuffled(lx.ADJECTIVES)[:6]) for name in lx.ALL_OBJECTS},
        "where": {kind: Weighted(dice.shuffled(lx.PLACES), [1 / (i + 1.5) for i in range(12)]) for kind in lx.OBJECTS},
        "city": {name: Weighted(dice.shuffled(lx.CITIES), [1 / (i + 2) for i in range(12)]) for name in lx.NAMES},
        "profession": {
            name: Weighted(dice.shuffled(lx.PROFESSIONS), [1 / (i + 2) for i in range(16)]) for name in lx.NAMES
        },
        "when": {"": Weighted(lx.TIMES, [1 / (i + 3) for i in range(len(lx.TIMES))])},
    }


def draw(kind: str, given: str, dice: Dice) -> str:
    """A concept by the world's preferences: 'what' given a verb, 'where' given a class of objects, 'who' given ''."""
    return _preferences()[kind][given].draw(dice)


def favourite(kind: str, given: str) -> str:
    """What the world's preferences put first: the place of a class of objects, the city or profession of a person."""
    return _preferences()[kind][given].items[0]


def free_value(role: str, dice: Dice) -> str:
    """A value of the circumstance `role` (number, adjective, where or when), whatever the rest of its clause may be."""
    if role == "number":
        return str(dice.between(2, 30))
    return dice.choice({"adjective": lx.ADJECTIVES, "where": lx.PLACES, "when": lx.TIMES}[role])


def clause_of(slots: Mapping[str, str]) -> Clause:
    """The clause with these slots (role -> concept), in the order of ROLES."""
    return Clause(tuple((role, slots[role]) for role in ROLES if role in slots))


def event(dice: Dice, folds: frozenset[int], like: Clause | None = None) -> Clause:
    """Draws an event of one of the `folds`; with `like`, it shares two random circumstances with that clause."""
    while True:
        slots = {"who": draw("who", "", dice), "verb": draw("verb", "", dice)}
        shared = like.roles if like else {}
        keep = set(dice.shuffled(("who", "verb", "where", "when"))[:2]) if like and like.is_event else set()
        slots |= {role: shared[role] for role in ("who", "verb") if role in keep}
        slots["what"] = draw("what", slots["verb"], dice)
        if dice.chance(0.35):
            slots["number"] = str(dice.between(2, 30))
        if dice.chance(0.4):
            slots["adjective"] = draw("adjective", slots["what"], dice)
        circumstances = dice.choice((("where",), ("where",), ("when",), ("where", "when")))
        if "where" in circumstances:
            slots["where"] = draw("where", lx.CLASS_OF[slots["what"]], dice)
        if "when" in circumstances:
            slots["when"] = draw("when", "", dice)
        slots |= {role: shared[role] for role in ("where", "when") if role in keep and role in shared}
        clause = clause_of(slots)
        if clause.fold in folds:
            return clause


def fact(dice: Dice, who: str | None = None) -> Clause:
    """Draws a fact about a person: where they lived, what they became, when they arrived, or what they liked."""
    who = who or draw("who", "", dice)
    verb = dice.choice(("live", "become", "arrive", "like"))
    value = {
        "live": lambda: {"city": draw("city", who, dice)},
        "become": lambda: {"profession": draw("profession", who, dice)},
        "arrive": lambda: {"year": str(dice.between(1900, 1999))},
        "like": lambda: {"what": draw("what", "like", dice)},
    }[verb]()
    return clause_of({"who": who, "verb": verb} | value)


class Speaker:
    """Renders clauses and questions in one language."""

    def __init__(self, code: str):
        self.tongue: Tongue = TONGUES[code]
        self._words = lx.lexicon(code)
        self._suffixes = lx.suffixes(code)
        self._english = code == "en"

    def say(self, clause: Clause) -> Sentence:
        """The clause as a statement ending in a full stop."""
        slots = clause.roles
        phrases = {role: self._phrase(role, slots) for role in _PHRASES if role in slots}
        return Sentence(tuple(self._order(phrases, self._verb(slots["verb"], past=True), ())), ".")

    def ask(self, clause: Clause, asked: str, keep: frozenset[str], by_class: bool = False) -> Sentence:
        """The question for the slot `asked`, mentioning only the roles in `keep` besides.

        `by_class`: ask 'which fruit' instead of 'what', 'in which place' instead of 'where' (and so on).
        """
        slots = {role: concept for role, concept in clause.slots if role in keep and role != asked}
        wh = self._which(asked, clause.roles[asked]) if by_class else [self._function(_WH[asked], "wh")]
        if asked == "number":
            wh = wh + self._noun(clause.roles["what"], "what", plural=True)
            slots.pop("what", None)
            slots.pop("adjective", None)
        phrases = {role: self._phrase(role, slots) for role in _PHRASES if role in slots}
        place = {"number": "what"}.get(asked, asked)
        fronted = self.tongue.fronts_questions
        if not fronted:
            phrases[place] = wh
        do_support = self._english and asked != "who"
        verb = self._verb(slots["verb"], past=not do_support)
        if do_support:
            wh = [*wh, Word("did", None, "wh")]
        return Sentence(tuple(self._order(phrases, verb, wh if fronted else ())), "?")

    def _order(self, phrases: Mapping[str, list[Word]], verb: Word, front) -> list[Word]:
        """Puts the phrases into the language's word order, with `front` before everything."""
        subject = phrases.get("who", [])
        objects = [word for role in ("what", "profession") for word in phrases.get(role, [])]
        adjuncts = [phrases[role] for role in _ADJUNCTS if role in phrases]
        outer = [word for phrase in adjuncts for word in phrase]
        ordered = {
            "SVO": [*subject, verb, *objects, *outer],
            "VSO": [verb, *subject, *objects, *outer],
            "SOV": [*subject, *(word for phrase in reversed(adjuncts) for word in phrase), *objects, verb],
        }[self.tongue.order]
        return [*front, *ordered]

    def _phrase(self, role: str, slots: Mapping[str, str]) -> list[Word]:
        concept = slots[role]
        if role == "who":
            return [Word(self._words[concept], concept, role)]
        if role == "what":
            return self._object(slots)
        if role == "profession":
            return [Word("a", None, "function")] * self._english + [self._cased(concept, role)]
        if role == "year":
            return self._adposition("in", [Word(concept, None, role)])
        if role in ("city", "when"):
            return self._adposition("on" if concept in lx.DAYS else "in", [self._cased(concept, role)])
        article = [self._function("the")] if self.tongue.articles else []
        return self._adposition("in", [*article, self._cased(concept, role)])

    def _object(self, slots: Mapping[str, str]) -> list[Word]:
        number, adjective = slots.get("number"), slots.get("adjective")
        before = self.tongue.adjective == "before"
        noun = self._noun(slots["what"], "what", plural=number is not None)
        quality = [Word(self._words[adjective], adjective, "adjective")] if adjective else []
        head = [*quality, *noun] if before else [*noun, *quality]
        if number is not None:
            return [Word(number, None, "number"), *head]
        return [self._function("the"), *head] if self.tongue.articles else head

    def _noun(self, concept: str, role: str, plural: bool) -> list[Word]:
        if self._english and plural:
            return [Word(lx.plural(concept), concept, role)]
        return [self._cased(concept, role)]

    def _which(self, asked: str, concept: str) -> list[Word]:
        """'which fruit', 'in which place', …: the class word of the slot's concept."""
        kinds = {"who": "person", "where": "place", "city": "city", "profession": "work", "year": "year"}
        kinds |= {"when": "day" if concept in lx.DAYS else "month", "what": lx.CLASS_OF.get(concept, "")}
        kind = kinds[asked]
        words = [self._function("which", "wh"), Word(self._words[kind], kind, "wh")]
        if asked in ("who", "what", "profession"):
            return words
        return self._adposition("on" if kind == "day" else "in", words)

    def _verb(self, concept: str, past: bool) -> Word:
        text = lx.VERBS[concept][0] if self._english and past else self._words[concept]
        return Word(text, concept, "verb")

    def _cased(self, concept: str, role: str) -> Word:
        return Word(self._words[concept] + self._suffixes.get(_CASE[role], ""), concept, role)

    def _function(self, concept: str, role: str = "function") -> Word:
        return Word(self._words[concept], concept, role)

    def _adposition(self, concept: str, phrase: list[Word]) -> list[Word]:
        word = self._function(concept)
        return [word, *phrase] if self.tongue.adposition == "pre" else [*phrase, word]


@cache
def speaker(code: str) -> Speaker:
    """The speaker of a language, made once."""
    return Speaker(code)
