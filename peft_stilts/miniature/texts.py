"""Contexts, questions and sentences in no language yet, drawn from named seeds and kept apart by folds.

Every split draws from its own seed, and every event belongs to one of ten folds by its content: training text (and
pretraining) uses folds 2 to 9, development splits fold 1, scored splits fold 0. Each context holds an event, so no
scored or development context, and no Tatoeba sentence, is ever trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from peft_stilts.miniature.dice import Dice
from peft_stilts.miniature.grammar import ASKABLE, Clause, event, fact, speaker

TRAIN, DEV, TEST = frozenset(range(2, 10)), frozenset({1}), frozenset({0})

Rows = list[dict[str, Any]]
Generator = Callable[[str, str | None], Rows | None]
"""(configuration, split) -> all rows, or None for a split that the data set has not."""


@dataclass(frozen=True)
class Quiz:
    """A context of clauses and one question about it, in no language yet.

    It asks for the role `asked` of the clause number `about` and mentions the roles `keep` of that clause.
    """

    clauses: tuple[Clause, ...]
    about: int
    asked: str
    keep: frozenset[str]
    by_class: bool

    def row(self, code: str, identity: str, title: str) -> dict[str, Any]:
        """The quiz as a SQuAD row in the language `code`; the answer is the one word that fills the asked role."""
        voice = speaker(code)
        sentences = [voice.say(clause) for clause in self.clauses]
        offset, answer = sentences[self.about].span(self.asked)
        start = sum(len(sentence.text) + 1 for sentence in sentences[: self.about]) + offset
        question = voice.ask(self.clauses[self.about], self.asked, self.keep, self.by_class)
        return {
            "id": identity,
            "title": title,
            "context": " ".join(sentence.text for sentence in sentences),
            "question": question.text,
            "answers": {"text": [answer], "answer_start": [start]},
        }


@dataclass(frozen=True)
class Style:
    """How a data set's contexts and questions look.

    `sentences`: fewest and most; `facts`: share of facts about persons; `echo`: share of sentences that share
    circumstances with an earlier one; `by_class`: share of 'which fruit' questions; `spare`: whether questions mention
    no more than needed (as questions written without seeing the text do).
    """

    sentences: tuple[int, int]
    facts: float
    echo: float
    by_class: float
    spare: bool


SQUAD = Style(sentences=(3, 5), facts=0.15, echo=0.5, by_class=0.0, spare=False)
MLQA = Style(sentences=(5, 7), facts=0.15, echo=0.7, by_class=0.0, spare=False)
TYDIQA = Style(sentences=(3, 5), facts=0.5, echo=0.4, by_class=0.6, spare=True)


def context(dice: Dice, style: Style, folds: frozenset[int]) -> tuple[Clause, ...]:
    """Draws the clauses of one context; the first draw is an event, all are different, and their order is random."""
    clauses = [event(dice, folds)]
    size = dice.between(*style.sentences)
    while len(clauses) < size:
        earlier = dice.choice(clauses) if dice.chance(style.echo) else None
        if dice.chance(style.facts):
            clause = fact(dice, earlier.roles["who"] if earlier else None)
        else:
            clause = event(dice, folds, earlier)
        if clause not in clauses:
            clauses.append(clause)
    return tuple(dice.shuffled(clauses))


def question(dice: Dice, style: Style, clauses: tuple[Clause, ...]) -> Quiz | None:
    """Draws a question with exactly one answer in the context; None when the draw has none."""
    about = dice.between(0, len(clauses) - 1)
    slots = clauses[about].roles
    asked = dice.choice([role for role in ASKABLE if role in slots])
    rivals = [other.roles for i, other in enumerate(clauses) if i != about and asked in other.roles]
    keep = {role for role in ("who", "verb", "what", "city", "profession", "year") if role in slots and role != asked}
    for role in dice.shuffled([role for role in ("where", "when", "adjective") if role in slots and role != asked]):
        ambiguous = _ambiguous(slots, keep, rivals)
        if (ambiguous or (not style.spare and dice.chance(0.4))) and not (role == "adjective" and "what" not in keep):
            keep.add(role)
    if _ambiguous(slots, keep, rivals):
        return None
    by_class = asked != "number" and dice.chance(style.by_class)
    return Quiz(clauses, about, asked, frozenset(keep), by_class)


def _ambiguous(slots: Mapping[str, str], keep: set[str], rivals: Sequence[Mapping[str, str]]) -> bool:
    return any(all(rival.get(role) == slots[role] for role in keep) for rival in rivals)


@cache
def quizzes(name: str, style: Style, folds: frozenset[int], contexts: int) -> tuple[tuple[Quiz, ...], ...]:
    """`contexts` contexts of the split `name`, each with two different questions; no context comes twice."""
    dice, found, seen = Dice("quizzes", name), [], set()
    while len(found) < contexts:
        clauses = context(dice, style, folds)
        if clauses in seen:
            continue
        pair: dict[tuple[int, str], Quiz] = {}
        for _ in range(20):
            quiz = question(dice, style, clauses)
            if quiz:
                pair.setdefault((quiz.about, quiz.asked), quiz)
            if len(pair) == 2:
                break
        else:
            continue
        seen.add(clauses)
        found.append(tuple(pair.values()))
    return tuple(found)


@cache
def sentences(name: str, folds: frozenset[int], number: int) -> tuple[Clause, ...]:
    """`number` different events of the split `name`."""
    dice, found = Dice("sentences", name), {}
    while len(found) < number:
        found.setdefault(event(dice, folds))
    return tuple(found)


PLAIN = Style(sentences=(2, 5), facts=0.3, echo=0.4, by_class=0.0, spare=True)
WIKIPEDIA_ROWS = 1000


def plain_texts(code: str, number: int) -> list[str]:
    """`number` texts of two to five sentences in the language `code`; fewer are the first of more. No language's texts
    are translations of another's."""
    dice, voice = Dice("plain text", code), speaker(code)
    return [" ".join(voice.say(clause).text for clause in context(dice, PLAIN, TRAIN)) for _ in range(number)]


def wikipedia(config: str, split: str | None) -> Rows | None:
    """wikimedia/wikipedia 20231101.LL: 1,000 plain texts for masked-language modelling."""
    if split != "train":
        return None
    return [{"text": text} for text in plain_texts(config.removeprefix("20231101."), WIKIPEDIA_ROWS)]
