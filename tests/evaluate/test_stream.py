"""All languages of a target go through the encoder in one stream, in bounded memory, and each gets its own back."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import XLMRobertaConfig

from peft_stilts.data.encode import Features
from peft_stilts.evaluate import predict as module
from peft_stilts.evaluate.predict import FORMS, Form, Scorer, predict
from peft_stilts.miniature.generators import rows_of
from peft_stilts.miniature.tokenizer import build_tokenizer
from peft_stilts.model.encoder import random_encoder
from peft_stilts.model.heads import new_head
from peft_stilts.model.stack import full
from peft_stilts.spec import TrainingSettings

CONFIG = XLMRobertaConfig(vocab_size=3000, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                          intermediate_size=48, max_position_embeddings=130, type_vocab_size=1, pad_token_id=1,
                          bos_token_id=0, eos_token_id=2, initializer_range=0.3)
SETTINGS = TrainingSettings(max_length=48, max_query_length=16, doc_stride=16, tokens_per_pack=300,
                            max_answer_length=6, n_best=3)


class Packs:
    """A stack that notes the tokens of each pack."""

    def __init__(self, stack):
        self.stack, self.tokens = stack, []

    def __call__(self, pack, layer):
        self.tokens.append(len(pack.input_ids))
        return self.stack(pack, layer)

    def __getattr__(self, name):
        return getattr(self.stack, name)


@pytest.fixture(scope="module")
def encoder():
    return full(random_encoder(CONFIG, 1))


@pytest.fixture
def scorer(encoder):
    def make(head=None, labels=(), **changed):
        head = head and new_head(head, CONFIG, len(labels) or 2, seed=1)
        return Scorer(Packs(encoder), head, build_tokenizer(), SETTINGS, labels, layer=None if head else 1, **changed)

    return make


SOURCES = {"span": ("XQuAD.qa", "span", ()), "retrieval": ("tatoeba.qaa", None, ()),
           "tagging": ("PAN-X.qa", "tagging", ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"))}


def some(name, first, last):
    split = "test" if name == "tagging" else "validation"
    rows = Dataset.from_list(rows_of("google/xtreme", SOURCES[name][0], split)[first:last])
    if name == "tagging":
        names = SOURCES[name][2]
        rows = Dataset.from_dict({"tokens": rows["tokens"],
                                  "tags": [[names[tag] for tag in tags] for tags in rows["ner_tags"]]})
    return rows


@pytest.mark.parametrize("limit", [1, 700, 1 << 20])
@pytest.mark.parametrize("name", ["span", "tagging", "retrieval"])
def test_each_language_gets_what_it_gets_alone(scorer, monkeypatch, name, limit):
    monkeypatch.setattr(module, "STREAM", limit)
    _, head, labels = SOURCES[name]
    cuts = {"sw": (0, 7), "en": (7, 8), "th": (8, 23)}
    parts = {code: some(name, *cut) for code, cut in cuts.items()}
    alone = {}
    for code, rows in parts.items():
        alone |= predict(FORMS[name], scorer(head, labels), [(code, rows, None)], lambda tokens, rows: None)
    heard, whole = [], scorer(head, labels)
    found = dict(predict(FORMS[name], whole, [(code, rows, None) for code, rows in parts.items()],
                         lambda *told: heard.append(told)))
    assert list(found) == list(cuts) and found == alone
    assert [tokens for tokens, _ in heard] == whole.stack.tokens
    assert sum(rows for _, rows in heard) == pytest.approx(23) and len(heard) > 1


def test_languages_share_packs(scorer):
    parts = [(str(number), some("retrieval", number, number + 1), None) for number in range(12)]
    together = scorer()
    assert len(dict(predict(FORMS["retrieval"], together, parts, lambda tokens, rows: None))) == 12
    assert len(together.stack.tokens) < 4 and sum(together.stack.tokens) > 200          # alone it were 12 packs


def plain_form(**changed):
    """Rows of (key, length): a row's features are `length` tokens that are its key, and so are its outputs."""
    def encode(rows, tokenizer, settings, labels, labelled):
        ids = [np.full(length, key, np.int32) for key, length in rows for _ in range(changed.get("group", 1))]
        return Features(ids, {}, np.arange(len(ids)))

    def read(scorer, features, count):
        read.sizes.append(sum(map(len, features.input_ids)))
        count(read.sizes[-1])
        return [int(ids[0]) for ids in features.input_ids][:: changed.get("group", 1)]

    read.sizes = []
    return Form("head", encode, read, lambda scorer, rows, features, outputs: list(outputs), None, "", None,
                choose=changed.get("choose")), read.sizes


@settings(deadline=None)
@given(sizes=st.lists(st.lists(st.integers(1, 60), max_size=6), max_size=6), limit=st.integers(1, 300),
       group=st.integers(1, 3))
def test_no_more_than_the_limit_is_held_but_for_one_language(sizes, limit, group):
    form, read = plain_form(group=group)
    head = SimpleNamespace(group=group)
    parts = [(str(place), [(100 * place + row, size) for row, size in enumerate(lengths)], None)
             for place, lengths in enumerate(sizes)]
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STREAM", limit)
        patch.setattr(module, "LEAST", 1)
        found = list(predict(form, Scorer(None, head, None, None), parts, lambda *heard: told.append(heard)))
    assert found == [(code, [key for key, _ in rows]) for code, rows, _ in parts]
    alone = {group * sum(lengths) for lengths in sizes}
    assert all(size <= limit or size in alone for size in read)
    assert sum(tokens for tokens, _ in told) == group * sum(map(sum, sizes))


def test_a_pool_is_judged_by_the_dev_of_its_own_language(monkeypatch):
    form, read = plain_form(choose=lambda dev, decoded, found: (dev, decoded, found))
    one, two, three = [(1, 5)], [(2, 5), (3, 5)], [(4, 5)]
    for limit, times in ((1, 4), (1000, 1)):
        monkeypatch.setattr(module, "STREAM", limit)
        read.clear()
        found = predict(form, Scorer(None, None, None, None), [("de", two, one), ("fr", three, three)],
                        lambda tokens, rows: None)
        assert list(found) == [("de", (one, [1], [2, 3])), ("fr", (three, [4], [4]))] and len(read) == times


def test_nothing_to_predict():
    form, _ = plain_form()
    assert list(predict(form, Scorer(None, None, None, None), [], lambda tokens, rows: None)) == []


def test_a_short_sentence_counts_for_its_vector(scorer, monkeypatch):
    """20 sentences of few tokens count as 640, so that no two languages fit in 1,024."""
    monkeypatch.setattr(module, "STREAM", 1024)
    sizes = []

    def embed(scorer, features, count):
        sizes.append(len(features))
        return torch.eye(len(features))

    form = FORMS["retrieval"]
    form = Form(None, form.encode, embed, form.decode, None, "", None)
    parts = [(str(number), some("retrieval", number, number + 10), None) for number in range(3)]
    assert len(list(predict(form, scorer(), parts, lambda tokens, rows: None))) == 3
    assert sizes == [20, 20, 20]
