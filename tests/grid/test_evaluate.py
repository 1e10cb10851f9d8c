"""Scoring what is there: runs, stages, encoders and adapters; every item once, and scores that others would give."""

import dataclasses
import json
import re
import shutil
import string
import unicodedata
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from peft_stilts import results
from peft_stilts.errors import Problems, UsageError
from peft_stilts.grid import evaluate as evaluating
from peft_stilts.grid import given
from peft_stilts.grid import run as running
from peft_stilts.grid.evaluate import evaluate_source
from peft_stilts.grid.run import run
from peft_stilts.spec import parse_request
from peft_stilts.store import Store
from peft_stilts.tasks.mirror import mirror

CODES = ("en", "de", "fi")


@pytest.fixture
def evaluate(data_root, tmp_path, monkeypatch):
    """Scores a source as `evaluate` does and returns the folder of the results; training anything is a failure."""
    monkeypatch.setattr(running, "train", lambda *args, **options: pytest.fail("something was trained"))

    def make(source, targets, root=data_root, layers="1", languages="en,de,fi", **flags):
        with Problems() as found:
            request = parse_request("none", {
                "targets": targets, "data_root": str(root), "layers": layers, "languages": languages,
                "precision": "fp32",
                **flags}, found)
        evaluate_source(str(source), request, tmp_path / "out")
        return tmp_path / "out"

    return make


def stage_folder(made, task, method="full", parents=1):
    """The folder of the trained stage that has `parents` stages in its chain and ends with `task`."""
    keys = [key for key, stage in made.plan.stages.items() if stage.kind == "train" and stage.method == method
            and stage.name == task and len(stage.path) == parents]
    return Store(made.runs).folder(keys[-1])


def test_a_finished_run_gives_again_the_scores_that_it_has(kept, evaluate):
    frame = results.read(evaluate(kept.runs, "xquad,tydiqa,tatoeba", limit_eval="5"))
    assert frame["data_source"].eq("local").all() and frame["recipe"].str.startswith("evaluate").all()
    before = results.read(kept.runs)
    same = ["method", "intermediate", "target", "language", "metric", "seed", "examples", "split", "base_revision"]
    both = frame.merge(before, on=same, suffixes=("", "_before"))
    told = both[~((both["target"] == "tatoeba") & (both["intermediate"] == "none"))]
    assert len(frame[frame["target"] != "tatoeba"]) == 2 * 2 * 2 * (2 + 2)
    pd.testing.assert_series_equal(told["score"], told["score_before"], check_names=False)
    assert set(told["target"]) == {"xquad", "tydiqa", "tatoeba"}
    assert (told["method_config"] == told["method_config_before"]).all(), "limit_train is the run's"


def test_a_models_precision_and_limit_are_those_of_its_training(kept, evaluate):
    out = evaluate(stage_folder(kept, "tydiqa"), "tydiqa", layers=None, precision="bf16", limit_train="3")
    config = json.loads(results.read(out)["method_config"][0])
    assert (config["precision"], config["limit_train"]) == ("fp32", 16)


def test_the_base_is_looked_up_at_the_commit_of_the_run(kept, monkeypatch):
    asked, find = [], evaluating.find_base
    for module in (evaluating, given):
        monkeypatch.setattr(module, "find_base", lambda scale, **told: asked.append(told) or find(scale, **told))
    evaluating.open_source(str(stage_folder(kept, "squad")))
    evaluating.open_source(str(stage_folder(kept, "squad", "lora") / "adapter"))
    # A run's base by its record; an adapter's by the commit where it is the hub's, and this one was a folder.
    assert asked == [{"revision": kept.plan.base.revision}, {"revision": None}]


def test_several_models_have_a_folder_each_with_a_prediction_for_every_item(kept, evaluate, data_root):
    out = evaluate(kept.runs, "mlqa,xquad")
    for part in out.glob("*/results.csv"):
        assert set(results.read(part)["target"]) == {"mlqa", "xquad"}
    frame = results.read(out)
    assert len(results.read(list(out.glob("*/results.csv")))) == len(frame) == 4 * 2 * (2 + 2)
    frame = frame[frame["target"] == "xquad"]
    rows = {code: pd.read_parquet(data_root / f"google/xtreme/XQuAD.{code}/validation-00000-of-00001.parquet")
            for code in ("en", "de")}
    parts = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert len(parts) == 4 and frame["stage_key"].nunique() == 4
    for part in parts:
        for code in ("en", "de"):
            text = (out / part / "predictions" / "xquad" / f"test-{code}.json").read_text(encoding="utf-8")
            pairs = json.loads(text, object_pairs_hook=list)
            assert sorted(key for key, _ in pairs) == sorted(rows[code]["id"])
            assert frame["examples"].eq(len(rows[code])).all()


def test_a_stage_folder_is_scored_with_its_head(kept, evaluate, monkeypatch):
    folder = stage_folder(kept, "tydiqa", "lora", parents=2)
    out = evaluate(folder, "tydiqa", layers=None)
    frame = results.read(out)
    assert set(frame["language"]) == {"en", "fi"} and frame["method"].eq("lora").all()
    assert frame["intermediate"].eq("squad").all() and frame["seed"].eq(1).all()
    assert sorted(path.name for path in (out / "predictions/tydiqa").iterdir()) == ["test-en.json", "test-fi.json"]
    monkeypatch.chdir(folder)
    again = results.read(evaluate(type(folder)("."), "tydiqa", layers=None))
    assert again["score"].tolist() == frame["score"].tolist()


def test_an_intermediate_stage_has_a_head_for_its_own_task(kept, evaluate):
    folder = stage_folder(kept, "squad", "full")
    assert results.read(evaluate(folder, "xquad,tatoeba"))["target"].unique().tolist() == ["xquad", "tatoeba"]


def test_a_task_without_a_head_is_refused_with_the_reason(kept, encoder, evaluate, tmp_path):
    for source in (encoder, stage_folder(kept, "tydiqa"), stage_folder(kept, "squad", "lora") / "adapter"):
        with pytest.raises(UsageError, match="nothing here has a head for xquad: it needs a model trained on squad"):
            evaluate(source, "xquad,tatoeba")
    assert not (tmp_path / "out").exists(), "nothing was scored before all was checked"


def lines(out, code):
    return [int(line) for line in (out / f"predictions/tatoeba/test-{code}.tsv").read_text().splitlines()]


def mean_states(encoder, sentences, layer):
    """Mean-pooled hidden states by plain transformers, one sentence at a time, in float64."""
    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()
    with torch.no_grad():
        states = [model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[layer][0]
                  for text in sentences]
    return np.stack([state.double().mean(0).numpy() for state in states])


def argmax_of_cosine(queries, candidates):
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (queries, candidates)]
    return (unit[0] @ unit[1].T).argmax(1)


@pytest.mark.parametrize("layer", [0, 2])
def test_an_encoder_folder_finds_translations_as_plain_transformers_does(encoder, evaluate, data_root, layer):
    out = evaluate(encoder, "tatoeba", layers=str(layer))
    frame = results.read(out).set_index("language")
    rows = pd.read_parquet(data_root / "google/xtreme/tatoeba.deu/validation-00000-of-00001.parquet")
    found = argmax_of_cosine(mean_states(encoder, rows["target_sentence"], layer),
                             mean_states(encoder, rows["source_sentence"], layer))
    assert lines(out, "de") == found.tolist() and len(lines(out, "fi")) == len(rows)
    assert frame.loc["de", "score"] == pytest.approx(100 * (found == np.arange(len(rows))).mean())
    assert frame["method"].eq("full").all() and frame["intermediate"].eq("none").all()


def test_an_adapter_folder_is_scored_as_the_stage_it_belongs_to(kept, evaluate, tmp_path):
    folder = stage_folder(kept, "squad", "lora")
    by_stage = results.read(evaluate(folder, "tatoeba"))
    moved = shutil.copytree(folder / "adapter", tmp_path / "an adapter")
    shutil.rmtree(tmp_path / "out")
    by_adapter = results.read(evaluate(moved, "tatoeba"))
    assert by_adapter["score"].tolist() == by_stage["score"].tolist() and by_adapter["method"].eq("lora").all()
    assert by_adapter["intermediate"].eq("squad").all() and len(by_adapter) == 2


def test_an_adapter_upon_others_is_refused(kept, evaluate):
    with pytest.raises(UsageError, match="stands on 1 other adapters; give its stages/KEY folder"):
        evaluate(stage_folder(kept, "squad", "lora", parents=2) / "adapter", "tatoeba")


@pytest.fixture
def own_base(workshop, data_root, tmp_path):
    """A finished LoRA run over an encoder of its own, which a test may change."""
    base = workshop.make_encoder(tmp_path / "own base")
    recipe = workshop.make_recipe(tmp_path / "tiny.yaml", targets=["tatoeba"])
    wanted = workshop.request(base, tmp_path / "runs", recipes=(str(recipe),), methods=("lora",), languages=("de",),
                              limit_train=8)
    from peft_stilts.tasks.sources import LocalMirror

    plan = workshop.plan(dataclasses.replace(wanted, seeds=(1,)), LocalMirror(data_root))
    run(plan)
    return base, tmp_path / "runs", stage_folder(type("Made", (), {"plan": plan, "runs": tmp_path / "runs"}), "squad",
                                                 "lora")


def test_another_base_under_the_same_name_is_refused(own_base, workshop, evaluate):
    base, runs, stage = own_base
    evaluate(stage / "adapter", "tatoeba", languages="de")
    workshop.make_encoder(base, seed=5)
    with pytest.raises(UsageError, match="trained on .*; the encoder here is"):
        evaluate(stage / "adapter", "tatoeba", languages="de")
    for source in (runs, stage):
        with pytest.raises(UsageError, match="was trained on .* is now at"):
            evaluate(source, "tatoeba", languages="de")


def test_a_score_is_no_model_and_an_empty_folder_no_source(kept, evaluate, tmp_path):
    score = next(key for key, stage in kept.plan.stages.items() if stage.kind == "evaluate")
    with pytest.raises(UsageError, match="is an evaluation; name a training stage"):
        evaluate(Store(kept.runs).folder(score), "xquad")
    (tmp_path / "empty" / "stages").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds no finished model"):
        evaluate(tmp_path / "empty", "xquad")
    with pytest.raises(UsageError, match="no config.json"):
        (tmp_path / "nothing").mkdir()
        evaluate(tmp_path / "nothing", "tatoeba")


def test_all_mistakes_are_told_before_anything_is_scored(encoder, evaluate, tmp_path):
    with pytest.raises(UsageError) as caught:
        evaluate(encoder, "xqaud,tatoeba,xquad", layers="9", languages="de,xx")
    told = "\n".join(caught.value.problems)
    for part in ("unknown target task 'xqaud'", "the layer for retrieval is 9", "unknown language 'xx'",
                 "head for xquad"):
        assert part in told
    assert not (tmp_path / "out").exists()


def test_a_corrupted_stage_is_refused(kept, copied, evaluate):
    runs = copied(kept.runs)
    folder = runs / "stages" / stage_folder(kept, "tydiqa").name
    path = folder / "heads" / "tydiqa" / "head.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(Exception, match="head.safetensors is corrupted: its SHA-256 is"):
        evaluate(folder, "tydiqa", layers=None)


# The real test sets, with an independent computation of the scores.


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
    """A --data_root folder of the real XQuAD and Tatoeba files, built by the mirror tool."""
    root = tmp_path_factory.mktemp("real") / "data"
    mirror("xquad", shared / "data" / "xquad", root, lambda line: None)
    mirror("tatoeba", shared / "data" / "tatoeba_v1", root, lambda line: None)
    return root


def plain_words(text):
    """SQuAD v1.1's normalisation: lower case, no ASCII punctuation, no English articles."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def plain_f1(prediction, gold):
    common = sum((Counter(plain_words(prediction)) & Counter(plain_words(gold))).values())
    total = len(plain_words(prediction)) + len(plain_words(gold))
    return 2 * common / total if common else 0.0


def test_real_xquad_scores_are_those_of_an_independent_computation(kept, evaluate, real, shared):
    codes = ("en", "es", "de", "el", "ru", "tr", "ar", "vi", "th", "zh", "hi")
    source = stage_folder(kept, "squad", "full")
    out = evaluate(source, "xquad", root=real, layers=None, languages=None, limit_eval="15")
    frame = results.read(out)
    assert tuple(frame["language"].unique()) == codes and frame["examples"].eq(15).all()
    told = frame.set_index(["language", "metric"])["score"]
    for code in codes:
        articles = json.loads((shared / f"data/xquad/xquad.{code}.json").read_text(encoding="utf-8"))["data"]
        items = [(paragraph["context"], question) for article in articles for paragraph in article["paragraphs"]
                 for question in paragraph["qas"]][:15]
        pairs = json.loads((out / f"predictions/xquad/test-{code}.json").read_text(encoding="utf-8"),
                           object_pairs_hook=list)
        assert [key for key, _ in pairs] == [question["id"] for _, question in items]
        predictions = dict(pairs)
        f1, exact = [], []
        for context, question in items:
            answer = predictions[question["id"]]
            assert answer in context or unicodedata.normalize("NFKC", answer) in unicodedata.normalize("NFKC", context)
            golds = [gold["text"] for gold in question["answers"]]
            f1.append(max(plain_f1(answer, gold) for gold in golds))
            exact.append(max(plain_words(answer) == plain_words(gold) for gold in golds))
        assert told[code, "f1"] == pytest.approx(100 * np.mean(f1), abs=1e-9)
        assert told[code, "exact_match"] == pytest.approx(100 * np.mean(exact), abs=1e-9)


def test_all_real_tatoeba_sets_agree_with_plain_transformers(encoder, evaluate, real, shared):
    out = evaluate(encoder, "tatoeba", root=real, layers="2", languages=None, limit_eval="40")
    frame = results.read(out).set_index("language")
    assert len(frame) == 36 and frame["examples"].eq(40).all() and frame["primary"].all()
    assert all(len(lines(out, code)) == 40 and set(lines(out, code)) <= set(range(40)) for code in frame.index)
    for code, iso in (("de", "deu"), ("zh", "cmn"), ("sw", "swh")):
        foreign, english = ((shared / f"data/tatoeba_v1/tatoeba.{iso}-eng.{side}").read_text(encoding="utf-8")
                            .split("\n")[:40] for side in (iso, "eng"))
        found = argmax_of_cosine(mean_states(encoder, english, 2), mean_states(encoder, foreign, 2))
        assert np.mean(found == lines(out, code)) >= 0.97, "but for cosines that are equal up to rounding"
        right = [line == place for place, line in enumerate(lines(out, code))]
        assert frame.loc[code, "score"] == pytest.approx(100 * np.mean(right))


def test_a_second_target_is_added_to_the_scores_of_the_first(kept, evaluate):
    folder = stage_folder(kept, "squad", "full")
    evaluate(folder, "xquad", layers=None, limit_eval="4")
    assert set(results.read(evaluate(folder, "tatoeba", limit_eval="4"))["target"]) == {"xquad", "tatoeba"}


def test_several_layers_keep_their_predictions_apart_and_draw_a_curve(encoder, evaluate):
    out = evaluate(encoder, "tatoeba", layers="all", languages="de,fi")
    folders = {path.relative_to(out).as_posix() for path in out.rglob("test-de.tsv")}
    assert folders == {f"layer-{layer}/predictions/tatoeba/test-de.tsv" for layer in (0, 1, 2)}
    assert (out / "layers.png").read_bytes().startswith(b"\x89PNG")
    frame = results.read(out)
    assert set(frame["target_variant"]) == {"layer 0", "layer 1", "layer 2"} and len(frame) == 6
    alone = results.read(evaluate(encoder, "tatoeba", layers="-1", languages="de,fi"))
    assert set(alone["target_variant"]) >= {"layer 2"}
