"""Every item has exactly one prediction, at any length and in any memory, and files hold one each."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import XLMRobertaConfig

from peft_stilts.data.pack import make_pack
from peft_stilts.errors import TrainingError
from peft_stilts.evaluate.predict import (
    FORMS,
    Scorer,
    as_json,
    as_lines,
    decode_retrieval,
    embed,
    predict,
    retrieval_golds,
    sentences,
    span_golds,
    windows,
)
from peft_stilts.miniature.generators import rows_of
from peft_stilts.miniature.tokenizer import build_tokenizer
from peft_stilts.model.encoder import random_encoder
from peft_stilts.model.heads import new_head
from peft_stilts.model.stack import full
from peft_stilts.spec import TrainingSettings
from peft_stilts.tasks import TASKS

SETTINGS = TrainingSettings(max_length=48, max_query_length=16, doc_stride=16, tokens_per_pack=200,
                            max_answer_length=6, n_best=3)


@pytest.fixture(scope="module")
def model():
    config = XLMRobertaConfig(vocab_size=3000, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                              intermediate_size=48, max_position_embeddings=130, type_vocab_size=1, pad_token_id=1,
                              bos_token_id=0, eos_token_id=2, initializer_range=0.3)
    return full(random_encoder(config, 1)), new_head("span", config, 2, seed=1)


@pytest.fixture
def scorer(model):
    def make(**changed):
        stack, head = model
        return Scorer(**{"stack": stack, "head": head, "tokenizer": build_tokenizer(), "settings": SETTINGS,
                         "layer": None} | changed)

    return make


def span_rows(count=12):
    return Dataset.from_list(rows_of("google/xtreme", "XQuAD.qa", "validation")[:count])


def pair_rows(count=20):
    return Dataset.from_list(rows_of("google/xtreme", "tatoeba.qaa", "validation")[:count])


def quiet(tokens):
    pass


def answers(scorer, rows, count=quiet):
    """Answers to one language's questions, as every command predicts them."""
    [(language, found)] = predict(FORMS["span"], scorer, [("en", rows, None)], lambda tokens, rows: count(tokens))
    assert language == "en"
    return found


def lines(scorer, rows):
    """What each line of one language's pairs finds."""
    return dict(predict(FORMS["retrieval"], scorer, [("de", rows, None)], lambda tokens, rows: None))["de"]


class Memory:
    """A stack that is out of memory for packs of more than `most` tokens, and notes what it was asked for."""

    def __init__(self, stack, most, error=None):
        self.stack, self.most, self.asked = stack, most, []
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    def __call__(self, pack, layer):
        self.asked.append(len(pack.input_ids))
        if len(pack.input_ids) > self.most:
            raise self.error
        return self.stack(pack, layer)

    def __getattr__(self, name):
        return getattr(self.stack, name)


def test_every_feature_goes_through_the_encoder_once(scorer):
    features, counted = windows(span_rows(), build_tokenizer(), SETTINGS), []
    seen = [number for pack, states in scorer().packs(features, counted.append) for number in pack.features]
    assert sorted(seen) == list(range(len(features))) and sum(counted) == features.lengths.sum() > 600
    assert len(counted) >= 3 and max(counted) <= SETTINGS.tokens_per_pack


@pytest.mark.parametrize("error", [None, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"),
                                   MemoryError()])
@pytest.mark.parametrize("most", [120, 50])
def test_packs_are_halved_when_memory_runs_out_and_nothing_is_lost(scorer, model, most, error):
    rows, plain = span_rows(), scorer()
    small, counted = Memory(model[0], most, error), []
    assert answers(scorer(stack=small), rows, counted.append) == answers(plain, rows)
    assert max(small.asked) > most >= max(counted)
    assert sum(counted) == windows(rows, build_tokenizer(), SETTINGS).lengths.sum()


def test_one_text_that_does_not_fit_is_named_and_other_errors_pass_through(scorer, model):
    with pytest.raises(TrainingError, match="a text of 48 tokens does not fit in memory; a smaller max_length"):
        answers(scorer(stack=Memory(model[0], 40)), span_rows())
    with pytest.raises(RuntimeError, match="shapes do not match"):
        answers(scorer(stack=Memory(model[0], 40, RuntimeError("shapes do not match"))), span_rows())


def test_a_very_long_context_and_a_long_question_have_exactly_one_answer(scorer):
    rows = span_rows(6).to_list()
    rows[1]["context"] = " ".join([rows[1]["context"]] * 60)
    rows[2]["question"] = " ".join([rows[2]["question"]] * 20)
    rows[4]["context"] = "Anna"
    rows = Dataset.from_list(rows)
    features = windows(rows, build_tokenizer(), SETTINGS, labelled=False)
    assert (features.example == 1).sum() > 60 and features.lengths.max() <= SETTINGS.max_length
    found = answers(scorer(), rows)
    assert list(found) == rows["id"]
    assert all(answer in context for answer, context in zip(found.values(), rows["context"]))


def test_the_answer_is_the_best_span_of_all_windows(scorer, model):
    """Against scores by the padded Hugging Face way of running: one window at a time, spans by brute force."""
    rows, settings = span_rows(4), SETTINGS
    found, features = answers(scorer(), rows), windows(span_rows(4), build_tokenizer(), settings, False)
    stack, head = model
    best = {}
    for number in range(len(features)):
        pack = make_pack(features, [number], 1)
        with torch.no_grad():
            logits = head.logits(stack(pack), pack).numpy()
        offsets, example = features.offsets[number], int(features.example[number])
        starts, ends = (np.argsort(-logits[:, side], kind="stable")[: settings.n_best] for side in (0, 1))
        for start in starts:
            for end in ends:
                whole = offsets[start][0] >= 0 and offsets[end][0] >= 0
                if whole and start <= end < start + settings.max_answer_length:
                    score = logits[start, 0] + logits[end, 1]
                    text = rows[example]["context"][offsets[start][0]:offsets[end][1]]
                    if example not in best or score > best[example][0]:
                        best[example] = (score, text)
    compared = [(found[rows[example]["id"]], text) for example, (_, text) in best.items()]
    assert compared and all(one == other for one, other in compared)


def test_sentence_vectors_keep_their_places_whatever_the_packs(scorer, model):
    features = sentences(pair_rows(), build_tokenizer(), SETTINGS)
    vectors = embed(scorer(layer=1), features, quiet)
    tight = embed(scorer(layer=1, stack=Memory(model[0], 60)), features, quiet)
    assert vectors.shape == (40, 32) and torch.allclose(vectors, tight, atol=1e-5)
    for number in (0, 13, 39):
        pack = make_pack(features, [number], 1)
        with torch.no_grad():
            assert torch.allclose(vectors[number], model[0](pack, 1).mean(0), atol=1e-5)
    assert not torch.allclose(vectors, embed(scorer(layer=2), features, quiet), atol=1e-3)


def test_an_english_sentence_finds_the_foreign_one_and_not_the_other_way_round(scorer):
    rows = pair_rows(3)
    # foreign sentences lie in the directions 0, 1, 2; the English ones in 2, 2, 1
    vectors = torch.eye(3)[[0, 1, 2, 2, 2, 1]]
    assert decode_retrieval(scorer(layer=1), rows, None, vectors) == {"0": 2, "1": 2, "2": 1}


def test_identical_translations_find_themselves(scorer):
    rows = pair_rows(15).to_list()
    rows = Dataset.from_list([row | {"target_sentence": row["source_sentence"]} for row in rows])
    found = lines(scorer(layer=2), rows)
    assert found == retrieval_golds(rows) == {str(line): line for line in range(15)}
    assert TASKS["tatoeba"].score(found, retrieval_golds(rows), "de") == {"accuracy": 100.0}


def test_files_hold_one_prediction_an_item():
    answers = {"b": 'say "ö"\n', "a": "", "c": "x\ty"}
    assert list(json.loads(as_json(answers)).items()) == list(answers.items())
    assert as_lines({"0": 5, "1": 0, "2": 12}) == "5\n0\n12\n"


def test_golds_are_the_rows_own():
    rows = span_rows(2)
    assert span_golds(rows) == {row["id"]: row["answers"]["text"] for row in rows}


@pytest.mark.parametrize("name", ["xquad", "mlqa", "tydiqa", "tatoeba"])
def test_every_target_has_a_form_that_can_score_it(name):
    task = TASKS[name]
    form = FORMS[task.form]
    assert (form.head is None) == (task.trained_on is None)
    assert form.suffix == ("tsv" if task.form == "retrieval" else "json")


class Noting(Memory):
    """A stack that notes whether it computes under autocast."""

    def __call__(self, pack, layer):
        self.asked.append(torch.is_autocast_enabled("cpu"))
        return self.stack(pack, layer)


@pytest.mark.parametrize("precision, on", [("fp32", False), ("bf16", True)])
def test_predictions_are_computed_in_the_precision_asked(model, scorer, precision, on):
    stack = Noting(model[0], 0)
    found = answers(scorer(stack=stack, precision=precision), span_rows(3))
    assert len(found) == 3 and stack.asked and set(stack.asked) == {on}
