"""Prints the miniature world for a person: languages, sentences word by word, and a question in three of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft_stilts.miniature.dice import Dice
from peft_stilts.miniature.grammar import Sentence, Word, fact, speaker
from peft_stilts.miniature.lexicon import suffixes
from peft_stilts.miniature.texts import SQUAD, TRAIN, quizzes, sentences
from peft_stilts.miniature.world import TONGUES, WORLD_VERSION, Tongue, distance

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

SENTENCES_IN = ("en", "qa", "qd", "qe", "qf", "qi")
QUESTION_IN = ("en", "qb", "qh")


def languages_table() -> Table:
    """The ten languages, a row each: every parameter and the distance that follows from them."""
    from rich.table import Table

    table = Table(title=f"The miniature world, version {WORLD_VERSION}", title_justify="left", box=None,
                  padding=(0, 1, 0, 0), pad_edge=False, caption_justify="left",
                  caption="pre, post: adpositions; AN, NA: adjective before or after its noun; shares of loans, "
                  "cognates, names as in English and pretraining text; dist: distance from English, 0 to 1")
    for header in ("", "language", "grammar", "case suffixes", "script"):
        table.add_column(header, no_wrap=True)
    for header in ("loan", "cogn", "name", "text", "dist"):
        table.add_column(header, justify="right", no_wrap=True)
    for tongue in TONGUES.values():
        table.add_row(*_cells(tongue))
    return table


def _cells(tongue: Tongue) -> list[str]:
    cases = " ".join("-" + ending for ending in suffixes(tongue.code).values()) or "-"
    shares = [f"{share:.2f}" for share in (tongue.loans, tongue.cognates, tongue.names, tongue.text)]
    grammar = f"{tongue.order} {tongue.adposition:<4} {'AN' if tongue.adjective == 'before' else 'NA'}"
    return [tongue.code, tongue.name, grammar, cases, tongue.script, *shares, f"{distance(tongue):.2f}"]


def gloss(word: Word) -> str:
    """What a word means: its concept, or itself for digits and English helpers."""
    return word.concept or word.text


def interlinear(sentence: Sentence, title: str) -> Table:
    """A sentence as two lines, the glosses under the words."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row(f"[bold]{title}[/bold]", *(f"[cyan]{word.text}[/cyan]" for word in sentence.words))
    table.add_row("", *(f"[dim]{gloss(word)}[/dim]" for word in sentence.words))
    return table


def show() -> Group:
    """Everything `python -m peft_stilts miniature show` prints, as one rich renderable."""
    from rich.console import Group
    from rich.text import Text

    parts: list[object] = [languages_table()]
    clauses = [*sentences("show", TRAIN, 2), fact(Dice("show"))]
    for clause in clauses:
        parts.append(Text())
        parts += [interlinear(speaker(code).say(clause), code) for code in SENTENCES_IN]
    quiz = quizzes("show", SQUAD, TRAIN, 1)[0][0]
    for code in QUESTION_IN:
        row = quiz.row(code, "", "")
        parts += [
            Text(f"\n{TONGUES[code].name} ({code})", style="bold"),
            Text(f"  text      {row['context']}"),
            Text(f"  question  {row['question']}"),
            Text(f"  answer    {row['answers']['text'][0]}  (at character {row['answers']['answer_start'][0]})"),
        ]
    return Group(*parts)
