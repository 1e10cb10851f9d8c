"""Inference and paraphrase: balanced, parallel in all languages, and no label to be had from words without order."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression

from peft_stilts.miniature import lexicon as lx
from peft_stilts.miniature import pairs
from peft_stilts.miniature.dice import Dice
from peft_stilts.miniature.generators import rows_of
from peft_stilts.miniature.grammar import speaker
from peft_stilts.miniature.texts import DEV, TEST, TRAIN
from peft_stilts.miniature.world import TONGUES
from peft_stilts.tasks.intermediate import NLI

X, GLUE, SNLI, ANLI = "google/xtreme", "nyu-mll/glue", "stanfordnlp/snli", "facebook/anli"
COLUMNS = ("premise", "hypothesis", "question1", "question2", "sentence1", "sentence2")
Item = tuple[str, str, object]


def items(repo: str, config: str, *splits: str) -> list[Item]:
    """(first text, second text, label) of English rows that have a label, whatever the columns are called."""
    found = []
    for row in (row for split in splits for row in rows_of(repo, config, split)):
        names = [name for name in row if name in COLUMNS]
        label = row["gold_label"] if "gold_label" in row else row["label"]
        if row.get("language", "en") == "en" and label != -1:
            found.append((row[names[0]], row[names[1]], NLI.index(label) if label in NLI else label))
    return found


def bag(texts: tuple[str, ...]) -> Counter[str]:
    """Counts of the words of each text, of the words they share and that only one has, and both lengths."""
    features: Counter[str] = Counter()
    bags = [Counter(text.replace(".", "").replace("?", "").split()) for text in texts]
    for number, words in enumerate(bags):
        features.update({f"{number} {word}": count for word, count in words.items()})
        features[f"length {number}"] = sum(words.values())
    if len(bags) == 2:
        shared = bags[0] & bags[1]
        features.update({f"shared {word}": count for word, count in shared.items()})
        features["shared"] = sum(shared.values())
        features["only second"] = sum((bags[1] - bags[0]).values())
    return features


def accuracy_of_bags(train: list[Item], test: list[Item], parts: slice = slice(0, 2)) -> float:
    """Share of `test` that logistic regression on bags of words gets right."""
    vectorizer = DictVectorizer()
    model = LogisticRegression(C=0.1, max_iter=2000)
    model.fit(vectorizer.fit_transform([bag(item[parts]) for item in train]), [item[2] for item in train])
    return model.score(vectorizer.transform([bag(item[parts]) for item in test]), [item[2] for item in test])


MNLI_DEV = (GLUE, "mnli", "validation_matched", "validation_mismatched")
ROUNDS = [tuple(f"{part}_r{turn}" for turn in (1, 2, 3)) for part in ("train", "dev", "test")]
CONTROLLED = {
    "mnli": ((GLUE, "mnli", "train"), MNLI_DEV),
    "xnli": ((GLUE, "mnli", "train"), (X, "XNLI", "validation", "test")),
    "snli": ((SNLI, "plain_text", "train"), (SNLI, "plain_text", "validation", "test")),
    "anli": ((ANLI, "plain_text", *ROUNDS[0]), (ANLI, "plain_text", *ROUNDS[1], *ROUNDS[2])),
    "qqp": ((GLUE, "qqp", "train"), (GLUE, "qqp", "validation")),
    "pawsx": ((X, "PAWS-X.en", "train"), (X, "PAWS-X.en", "validation", "test")),
}


@pytest.mark.parametrize("name", CONTROLLED)
def test_bags_of_words_do_not_tell_the_label(name):
    train, test = (items(*split) for split in CONTROLLED[name])
    classes = len({item[2] for item in train})
    assert len(test) >= 300
    for parts in (slice(0, 2), slice(0, 1), slice(1, 2)):
        assert accuracy_of_bags(train, test, parts) <= {3: 0.40, 2: 0.57}[classes]


def test_the_control_finds_a_cue_where_there_is_one():
    train, test = (items(*split) for split in CONTROLLED["snli"])
    for part in (train, test):
        part[:] = [(first, second + " city" * (label == 1), label) for first, second, label in part]
    assert accuracy_of_bags(train, test) > 0.6


@pytest.mark.parametrize("name", CONTROLLED)
def test_labels_are_balanced(name):
    for split in CONTROLLED[name]:
        for one in split[2:]:
            counts = Counter(label for _, _, label in items(*split[:2], one))
            assert max(counts.values()) - min(counts.values()) <= 0.02 * sum(counts.values())
    assert Counter(row["label"] for row in rows_of(SNLI, "plain_text", "train"))[-1] == 10


def test_a_paraphrase_and_its_opposite_have_the_same_words():
    dictionary = {lx.plural(noun): noun for noun in lx.ALL_OBJECTS}
    for split in ((X, "PAWS-X.en", "train"), (X, "PAWS-X.en", "test"), (GLUE, "qqp", "train")):
        for first, second, _ in items(*split):
            words = [Counter(dictionary.get(word, word) for word in text.replace(".", "").replace("?", "").split())
                     for text in (first, second)]
            assert words[0] == words[1] and first != second


@given(st.integers(0, 2**32), st.sampled_from(NLI), st.sampled_from((TRAIN, DEV, TEST)), st.integers(0, 2))
def test_labels_follow_from_the_slots(seed, label, folds, others):
    dice = Dice("test", seed)
    kind = dice.choice(("classes", "moved", "bound"))
    style = pairs.Inferences(*(float(kind == name) for name in ("classes", "moved", "bound")), others=others)
    pair = pairs._inference(dice, NLI.index(label), folds, style)
    assert all(clause.fold in folds for clause in (*pair.first, *pair.second))
    assert len(pair.first) == others + (1 if kind == "classes" else 2)
    truths = {_judge(clause.roles, [one.roles for one in pair.first], kind) for clause in pair.second}
    found = next(name for name in ("contradiction", "neutral", "entailment") if name in truths)
    assert found == label


def _judge(told: dict[str, str], premise: list[dict[str, str]], kind: str) -> str:
    """What the premise says of one restated clause, by the rules of this world."""
    if kind == "moved":
        about = [one for one in premise if (one["verb"], one["what"]) == (told["verb"], told["what"])]
        if about[0]["who"] != told["who"]:
            return "contradiction"
    else:
        about = [one for one in premise if (one["who"], one["verb"]) == (told["who"], told["verb"])]
    assert len(about) == 1
    answers = {_agrees(role, value, about[0].get(role)) for role, value in told.items()}
    return "contradiction" if False in answers else "neutral" if None in answers else "entailment"


def _agrees(role: str, value: str, said: str | None) -> bool | None:
    """Whether a value, or the class of one, is what the premise says; None where it says nothing."""
    if said is None:
        return None
    classes = {"what": lx.CLASS_OF.get(said), "city": "city", "when": "month", "year": "year"}
    return value in (said, classes.get(role))


def test_xnli_is_parallel_and_says_in_each_language_what_english_says():
    for split, number in (("validation", 210), ("test", 300)):
        rows = rows_of(X, "XNLI", split)
        by_code = {code: [row for row in rows if row["language"] == code] for code in TONGUES}
        assert all(len(part) == number for part in by_code.values())
        for code, part in by_code.items():
            for row, english in zip(part, by_code["en"], strict=True):
                assert row["gold_label"] == english["gold_label"]
                for name in ("sentence1", "sentence2"):
                    assert row[name].count(".") == english[name].count(".")
                    digits = [sorted(word for word in text[name].replace(".", "").split() if word.isdigit())
                              for text in (row, english)]
                    assert digits[0] == digits[1], code


def test_pawsx_is_parallel():
    for split in ("validation", "test"):
        labels = {code: [row["label"] for row in rows_of(X, f"PAWS-X.{code}", split)] for code in pairs.PAWSX_LANGUAGES}
        assert all(one == labels["en"] for one in labels.values()) and set(labels["en"]) == {"0", "1"}


def test_a_pair_renders_in_any_language():
    pair = pairs.training_pairs("qqp")[0]
    asked = pair.first[0]
    for code in TONGUES:
        first, second = pair.texts(code)
        assert first.count("?") == second.count("?") == 2
        assert speaker(code).ask(asked.clause, asked.role, frozenset(asked.clause.roles)).text in first
