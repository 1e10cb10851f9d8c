"""Rows of questions about a text: SQuAD 1.1 and 2.0, XQuAD, MLQA and TyDiQA."""

from __future__ import annotations

from peft_stilts.miniature.dice import Dice
from peft_stilts.miniature.grammar import Clause, clause_of, speaker
from peft_stilts.miniature.texts import DEV, MLQA, SQUAD, TEST, TRAIN, TYDIQA, Quiz, Rows, Style, quizzes
from peft_stilts.miniature.world import TONGUES

MLQA_LANGUAGES = ("en", "qa", "qc", "qe", "qh")
TYDIQA_LANGUAGES = ("en", "qb", "qd", "qf", "qg", "qi")
SPAN_COLUMNS = ("id", "title", "context", "question", "answers")


def _span_rows(name: str, style: Style, folds: frozenset[int], contexts: int, code: str, prefix: str = "") -> Rows:
    """Rows of all questions of a split in one language; ids and titles are the same in every language."""
    rows = []
    for number, pair in enumerate(quizzes(name, style, folds, contexts)):
        for part, quiz in enumerate(pair):
            rows.append(quiz.row(code, f"{prefix}{name}-{number:04d}-{part}", f"{name}_{number:04d}"))
    return rows


def squad(config: str, split: str | None) -> Rows | None:
    """SQuAD v1.1: English, 3,000 questions to train on and 400 for development."""
    if split == "train":
        return squad_training("en")
    return _span_rows("squad-dev", SQUAD, DEV, 200, "en") if split == "validation" else None


def squad_training(code: str) -> Rows:
    """SQuAD's training questions in any language; XTREME publishes such files as translations."""
    return _span_rows("squad-train", SQUAD, TRAIN, 1500, code)


def xquad(config: str, split: str | None) -> Rows | None:
    """XQuAD.xx: the same 300 questions in every language."""
    code = config.removeprefix("XQuAD.")
    return _span_rows("xquad", SQUAD, TEST, 150, code) if split == "validation" else None


def mlqa(config: str, split: str | None) -> Rows | None:
    """MLQA.cc.qq: longer contexts, in cc, and questions in qq; 300 parallel questions to score, 100 for development."""
    _, context_code, question_code = config.split(".")
    sizes = {"test": (TEST, 150), "validation": (DEV, 50)}
    if split not in sizes:
        return None
    rows = _span_rows(f"mlqa-{split}", MLQA, *sizes[split], context_code)
    if question_code != context_code:
        asked = _span_rows(f"mlqa-{split}", MLQA, *sizes[split], question_code)
        rows = [row | {"question": other["question"]} for row, other in zip(rows, asked, strict=True)]
    return rows


def tydiqa(config: str, split: str | None) -> Rows | None:
    """TyDiQA-GoldP: one configuration for all six languages, told apart by the prefix of the id; not parallel."""
    sizes = {"train": (TRAIN, {"en": 850}, 150), "validation": (TEST, {}, 150)}
    if split not in sizes:
        return None
    folds, special, usual = sizes[split]
    rows = []
    for code in TYDIQA_LANGUAGES:
        prefix = TONGUES[code].name.lower() + "-"
        rows += _span_rows(f"tydiqa-{split}-{code}", TYDIQA, folds, special.get(code, usual), code, prefix)
    return rows


_SWAPPED = (("who",), ("verb", "what"), ("where",), ("when",))
_MISSING = ("number", "where", "when")


def squad_v2(config: str, split: str | None) -> Rows | None:
    """SQuAD 2.0: English, 2,000 questions to train on and 300 for development, a third of them without an answer."""
    sizes = {"train": (TRAIN, 1000), "validation": (DEV, 150)}
    if split not in sizes:
        return None
    name = f"squad2-{split}"
    dice, rows = Dice("unanswerable", name), _span_rows(name, SQUAD, *sizes[split], "en")
    quizzed = [quiz for pair in quizzes(name, SQUAD, *sizes[split]) for quiz in pair]
    wanted = len(rows) // 3
    for number in dice.shuffled(range(len(rows))):
        text = _unanswerable(quizzed[number], dice) if wanted else None
        if text and text != rows[number ^ 1]["question"]:           # the other question of the same context
            rows[number] |= {"question": text, "answers": {"text": [], "answer_start": []}}
            wanted -= 1
    return rows


def _unanswerable(quiz: Quiz, dice: Dice) -> str | None:
    """A question like the quiz's own, of words in its text, that its text does not answer; None where it has none.

    Either one thing it mentions is another clause's (who, where, when, or verb and object), or it asks what another
    event of the text leaves out.
    """
    about, others = quiz.clauses[quiz.about], [c for i, c in enumerate(quiz.clauses) if i != quiz.about]
    found: list[tuple[Clause, frozenset[str]]] = []
    for other in others:
        for roles in _SWAPPED:
            if quiz.keep.issuperset(roles) and all(role in other.roles for role in roles):
                found.append((clause_of(about.roles | {role: other.roles[role] for role in roles}), quiz.keep))
        if quiz.asked in _MISSING and quiz.asked not in other.roles and other.is_event:
            found.append((other, quiz.keep & set(other.roles)))
    found = [(clause, keep) for clause, keep in found if not _stated(clause, keep, quiz)]
    if not found:
        return None
    clause, keep = dice.choice(found)
    return speaker("en").ask(clause, quiz.asked, keep).text


def _stated(clause: Clause, keep: frozenset[str], quiz: Quiz) -> bool:
    """Whether a clause of the text has all that the question mentions, and what it asks for."""
    return any(
        quiz.asked in other.roles and all(other.roles.get(role) == clause.roles[role] for role in keep)
        for other in quiz.clauses
    )
