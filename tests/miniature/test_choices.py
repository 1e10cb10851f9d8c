"""Multiple choice: one right choice by the world's rules, and none to be guessed without its question."""

from collections import Counter

import pytest
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression

from peft_stilts.miniature import lexicon as lx
from peft_stilts.miniature.choices import class_sets
from peft_stilts.miniature.generators import rows_of
from peft_stilts.miniature.grammar import favourite

REPOS = {"hellaswag": "Rowan/hellaswag", "cosmosqa": "allenai/cosmos_qa", "commonsenseqa": "tau/commonsense_qa"}
SINGULAR = {lx.plural(noun): noun for noun in lx.ALL_OBJECTS}
VERB_OF = {past: verb for verb, (past, _) in lx.VERBS.items()}
Item = tuple[str, list[str], int]


def items(name: str, split: str) -> list[Item]:
    """(context or question, choices, number of the right one)."""
    rows = rows_of(REPOS[name], "default", split)
    if name == "hellaswag":
        return [(row["ctx"], row["endings"], int(row["label"])) for row in rows]
    if name == "cosmosqa":
        return [(row["context"] + " " + row["question"], [row[f"answer{i}"] for i in range(4)], row["label"])
                for row in rows]  # fmt: skip
    return [(row["question"], row["choices"]["text"], "ABCDE".index(row["answerKey"])) for row in rows]


def accuracy(train: list[Item], test: list[Item], features) -> float:
    """Share of `test` in which logistic regression, on `features(prompt, choice)`, ranks the right choice first."""
    vectorizer = DictVectorizer()
    rows = vectorizer.fit_transform([features(prompt, one) for prompt, many, _ in train for one in many])
    model = LogisticRegression(C=0.3, max_iter=2000)
    model.fit(rows, [i == right for _, many, right in train for i in range(len(many))])
    scores = model.decision_function(vectorizer.transform([features(p, one) for p, many, _ in test for one in many]))
    guesses = scores.reshape(len(test), -1).argmax(1)
    return sum(guess == right for guess, (_, _, right) in zip(guesses, test, strict=True)) / len(test)


def choice_only(prompt: str, choice: str) -> Counter[str]:
    words = choice.replace(".", "").split()
    return Counter(words) + Counter({"length": len(words)})


def word_pairs(prompt: str, choice: str) -> Counter[str]:
    words = {SINGULAR.get(word, word) for word in choice.replace(".", "").split()}
    return Counter(f"{a} {lx.CLASS_OF.get(b, b)}" for a in set(prompt.rstrip("?").split()) for b in words)


@pytest.mark.parametrize("name", REPOS)
def test_choices_alone_do_not_tell_the_right_one(name):
    train, test = items(name, "train"), items(name, "validation")
    chance = 1 / len(test[0][1])
    assert accuracy(train, test, choice_only) <= chance + 0.08
    assert accuracy(train, test, word_pairs) > chance + 0.2        # the control can find what there is


@pytest.mark.parametrize("name", REPOS)
def test_right_choices_are_balanced_choices_different_and_tests_unlabelled(name):
    for split in ("train", "validation"):
        rights = Counter(right for _, _, right in items(name, split))
        assert max(rights.values()) - min(rights.values()) <= 1
        assert all(len(set(many)) == len(many) == len(rights) for _, many, _ in items(name, split))
    column = {"hellaswag": "label", "cosmosqa": "label", "commonsenseqa": "answerKey"}[name]
    assert {row[column] for row in rows_of(REPOS[name], "default", "test")} == {-1 if name == "cosmosqa" else ""}


@pytest.mark.parametrize("size", [4, 5])
def test_in_a_class_set_each_class_is_the_only_one_that_its_verbs_take(size):
    assert class_sets(size)
    for verbs in class_sets(size):
        assert len(verbs) == size
        for kind, some in verbs.items():
            assert some and all(set(lx.VERBS[verb][1]) & set(verbs) == {kind} for verb in some)


def test_hellaswag_ends_with_what_the_verb_takes():
    for row in rows_of("Rowan/hellaswag", "default", "train"):
        taken = lx.VERBS[VERB_OF[row["ctx_b"].split()[-1]]][1]
        things = [next(SINGULAR.get(w, w) for w in end.rstrip(".").split() if SINGULAR.get(w, w) in lx.CLASS_OF)
                  for end in row["endings"]]
        assert [i for i, thing in enumerate(things) if lx.CLASS_OF[thing] in taken] == [int(row["label"])]
        assert row["ctx"] == row["ctx_a"] + " " + row["ctx_b"]


def test_cosmos_answers_are_said_of_the_very_person_or_thing():
    for row in rows_of("allenai/cosmos_qa", "default", "validation"):
        sentences = row["context"].rstrip(".").split(". ")
        right = row[f"answer{row['label']}"]
        asked = {lx.VERBS[word][0] if word in lx.VERBS else word for word in row["question"].rstrip("?").split()}
        held = [sentence for sentence in sentences
                if len(asked & {SINGULAR.get(word, word) for word in sentence.split()} - {"the"}) >= 2]
        assert len(held) == 1 and right in {SINGULAR.get(word, word) for word in held[0].split()}
        said = {SINGULAR.get(word, word) for word in row["context"].replace(".", "").split()}
        assert sum(row[f"answer{i}"] in said for i in range(4)) >= 2


def test_commonsense_answers_are_the_worlds_own_preferences():
    for row in rows_of("tau/commonsense_qa", "default", "train"):
        concept, right = row["question_concept"], row["choices"]["text"]["ABCDE".index(row["answerKey"])]
        if concept in lx.NAMES:
            assert right in (favourite("city", concept), favourite("profession", concept))
        elif concept in lx.CLASS_OF:
            assert right == favourite("where", lx.CLASS_OF[concept])
        else:
            taken = lx.VERBS[concept][1]
            assert [lx.CLASS_OF[one] in taken for one in row["choices"]["text"]].count(True) == 1
            assert lx.CLASS_OF[right] in taken
