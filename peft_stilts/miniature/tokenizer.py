"""The miniature tokenizer: a Unigram vocabulary of 3,000 pieces in XLM-R's layout, trained on generated text.

The trainer is this module's own, because the one of the `tokenizers` library gives other scores in every process. It is
SentencePiece's idea (Kudo 2018, arXiv 1804.10959) with Viterbi counts: begin with all substrings, segment every word in
the most probable way, count the pieces used, drop the rarest, and repeat. Pieces hold at most `LONGEST` letters, so
that many words have two pieces and cognates can share one; without a limit each word of so small a world would be one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from peft_stilts.miniature.dice import Dice
from peft_stilts.miniature.grammar import speaker
from peft_stilts.miniature.texts import SQUAD, TRAIN, TYDIQA, context, question
from peft_stilts.miniature.world import TONGUES

if TYPE_CHECKING:
    from transformers import XLMRobertaTokenizer

VOCABULARY = 3000
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
"""The first four pieces, in XLM-R's order; `<mask>` is the last piece."""

LONGEST = 5
"""Letters in a piece at most; a leading '▁' comes on top."""

CONTEXTS = 2000
"""Contexts, each with its question, that the vocabulary is trained on, in every language alike."""

SPACE = "▁"


def word_counts() -> Counter[str]:
    """The words of the training text with a leading '▁', marks and digits left out, by their number of occurrences."""
    dice, counts = Dice("tokenizer"), Counter()
    for number in range(CONTEXTS):
        style = (SQUAD, TYDIQA)[number % 2]
        clauses = context(dice, style, TRAIN)
        quiz = question(dice, style, clauses)
        for code in TONGUES:
            voice = speaker(code)
            said = [voice.say(clause) for clause in clauses]
            if quiz:
                said.append(voice.ask(clauses[quiz.about], quiz.asked, quiz.keep, quiz.by_class))
            counts.update(SPACE + piece for sentence in said for word in sentence.words for piece in word.text.split())
    return Counter({word: count for word, count in counts.items() if not word[1:].isdigit()})


def _reach(word: str, end: int) -> int:
    """How far back from `end` a piece of `word` may begin."""
    return end if end <= LONGEST + 1 and word[0] == SPACE else min(end, LONGEST)


def best_split(word: str, scores: Mapping[str, float]) -> list[str]:
    """The most probable way to write `word` as pieces of `scores` (log probabilities)."""
    best = [(0.0, 0)] + [(-math.inf, 0)] * len(word)
    for end in range(1, len(word) + 1):
        for start in range(end - _reach(word, end), end):
            score = scores.get(word[start:end])
            if score is not None and best[start][0] + score > best[end][0]:
                best[end] = (best[start][0] + score, start)
    pieces, end = [], len(word)
    while end:
        start = best[end][1]
        pieces.append(word[start:end])
        end = start
    return pieces[::-1]


def _log(counts: Mapping[str, float]) -> dict[str, float]:
    total = math.fsum(counts.values())
    return {piece: math.log(count / total) for piece, count in counts.items()}


def train_pieces(words: Mapping[str, int], size: int) -> dict[str, float]:
    """Piece -> log probability: `size` pieces, every letter among them, with and without the leading '▁'.

    `words`: '▁word' -> count. A '▁' of its own is no piece: it would take the offsets of the letter behind it.
    """
    letters = sorted({character for word in words for character in word} - {SPACE})
    characters = [*letters, *(SPACE + letter for letter in letters)]
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for start in range(len(word)):
            for end in range(start + 1, len(word) + 1):
                if end - start <= _reach(word, end):
                    counts[word[start:end]] += count * (end - start)
    keep = max(size, 4 * size)
    while True:
        ranked = sorted(counts, key=lambda piece: (-counts[piece], piece))
        longer = [piece for piece in ranked if len(piece.removeprefix(SPACE)) > 1][: keep - len(characters)]
        scores = _log({piece: max(counts[piece], 0.5) for piece in (*longer, *characters)})
        if keep == size:
            return scores
        used: Counter[str] = Counter()
        for word, count in words.items():
            for piece in best_split(word, scores):
                used[piece] += count
        counts = Counter({piece: used[piece] + 1e-3 * counts[piece] / (1 + counts[piece]) for piece in scores})
        keep = max(size, int(keep * 0.8))


@cache
def build_tokenizer() -> XLMRobertaTokenizer:
    """Trains the tokenizer: ids <s> 0, <pad> 1, </s> 2, <unk> 3, pieces, <mask> 2,999. The same in every process."""
    from transformers import XLMRobertaTokenizer

    marks = [*(".", "?"), *"0123456789", *(SPACE + digit for digit in "0123456789")]
    scores = train_pieces(word_counts(), VOCABULARY - len(SPECIAL) - 2 - len(marks))
    scores |= dict.fromkeys(marks, max(scores.values())) | {SPACE: min(scores.values()) - 10}
    ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    vocabulary = [(piece, 0.0) for piece in SPECIAL] + [(p, round(s, 6)) for p, s in ranked] + [("<mask>", 0.0)]
    return XLMRobertaTokenizer(vocab=vocabulary, model_max_length=510)
