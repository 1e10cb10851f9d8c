"""The benchmarks: all contestants get the same work and do the same mathematics; the arithmetic of their reports."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import XLMRobertaModel

from peft_stilts.train import checkpoint

pytestmark = pytest.mark.slow

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))
from benches import contestant, lengths, ours, peers, report, scaling, workload  # noqa: E402

TINY = workload.Shape(layers=2, width=32, heads=2, inner=48, words=300)
JOB = workload.Job(who="ours", purpose="train", task="qa", method="full", shape=TINY, size=512, per_step=4, warm=1,
                   steps=2, rounds=3, pool=100, in_use=200, threads=1)


@pytest.fixture
def alone(monkeypatch):
    """Contestants in this process: each turn begins at once, and what they tell is kept."""
    told = []
    monkeypatch.setattr(contestant, "hear", lambda: "go")
    for module in (contestant, ours, peers):
        monkeypatch.setattr(module, "tell", told.append)
    return told


def side(job):
    return ours if job.who == "ours" else peers


@pytest.mark.parametrize("task", workload.TASKS)
def test_every_contestant_gets_the_same_features_and_each_round_its_share(task):
    job = dataclasses.replace(JOB, task=task, rounds=4, steps=3, per_step=8)
    steps = workload.plan(job)
    assert len(steps.plain) == len(steps.grouped) == job.total == 13
    timed = [sorted(i for step in order[1:] for i in step) for order in (steps.plain, steps.grouped)]
    assert timed[0] == timed[1] == list(range(8, 104))
    assert steps.plain[0] == steps.grouped[0] and steps.plain != steps.grouped
    within = [np.ptp(steps.lengths[step]) for step in steps.grouped[1:]]
    assert np.mean(within) < 0.2 * np.mean([np.ptp(steps.lengths[step]) for step in steps.plain[1:]])
    mean = lengths.mean(workload.counts_of(job))
    assert abs(steps.lengths[8:].mean() / mean - 1) < 0.05
    rounds = [steps.lengths[steps.grouped[1 + 3 * turn:4 + 3 * turn]].mean() for turn in range(4)]
    assert max(rounds) / min(rounds) < 1.35
    assert workload.plan(dataclasses.replace(job, same_order=True)).grouped == steps.plain


def test_the_order_of_our_training_meets_the_steps_of_the_plan(alone):
    steps, made = workload.plan(JOB), workload.features(JOB, workload.plan(JOB).lengths)
    data = ours.training_data(JOB)
    assert len(data) == JOB.pool
    count, items = ours.plan_items(JOB)
    for here, wanted in zip(items, steps.plain, strict=True):
        for a, b in zip(here, wanted, strict=True):
            np.testing.assert_array_equal(data.input_ids[a], made.input_ids[b])
            assert data.labels["start"][a] == made.labels["start"][b]
            assert data.labels["end"][a] == made.labels["end"][b]


def test_features_are_well_formed_and_begin_alike_however_many_follow():
    sizes = np.array([3, 9, 40, 7])
    made, more = workload.features(JOB, sizes), workload.features(JOB, np.append(sizes, [5, 6]))
    for ids, same, size in zip(made.input_ids, more.input_ids, sizes, strict=False):
        assert len(ids) == size and ids[0] == 0 and ids[-1] == 2 and (ids[1:-1] >= 4).all() and ids.max() < 300
        np.testing.assert_array_equal(ids, same)
    start, end = made.labels["start"], made.labels["end"]
    assert (1 <= start).all() and (start <= end).all() and (end < sizes - 1).all()
    many = np.unique(np.concatenate(workload.features(JOB, np.full(300, 100)).input_ids))
    assert len(many) == 202         # the words in use, <s> and </s>


@pytest.mark.parametrize("method", ("full", "lora"))
def test_matrix_operations_are_those_that_torch_counts(method):
    job = dataclasses.replace(JOB, who="padded", method=method, rank=3, dropout=0.0, lora_dropout=0.0)
    model = peers.new_model(job)
    inner = model.roberta if method == "full" else model.base_model.model.roberta
    assert isinstance(inner, XLMRobertaModel)
    model.config._attn_implementation = inner.config._attn_implementation = "eager"     # products that are counted
    ids = torch.randint(4, 300, (1, 17))
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        inner(ids)
    assert forward.get_total_flops() == workload.matrix_operations(job, np.array([17]), backward=False)
    with FlopCounterMode(display=False) as both:
        inner(ids).last_hidden_state.sum().backward()
    assert both.get_total_flops() == workload.matrix_operations(job, np.array([17]))
    assert workload.matrix_operations(job, np.array([17, 17])) == 2 * both.get_total_flops()


@pytest.mark.parametrize("task", workload.TASKS)
@pytest.mark.parametrize("method", ("full", "lora"))
def test_without_dropout_all_contestants_have_one_loss_curve(alone, task, method):
    base = dataclasses.replace(JOB, task=task, method=method, dropout=0.0, lora_dropout=0.0, warm=0, steps=5, rounds=1,
                               same_order=True, lr=2e-3)
    found = {}
    for who, size in (("ours", 300), ("padded", 2), ("grouped", 4)):
        job = dataclasses.replace(base, who=who, size=size)
        found[who] = side(job).train(job)["losses"]
    assert len(found["ours"]) == 5 and len(set(found["ours"])) == 5
    np.testing.assert_allclose(found["padded"], found["ours"], rtol=2e-5)
    np.testing.assert_allclose(found["grouped"], found["ours"], rtol=2e-5)


@pytest.mark.parametrize("task", workload.TASKS)
def test_all_contestants_predict_the_same_logits(alone, tmp_path, task):
    base = dataclasses.replace(JOB, purpose="predict", task=task, dropout=0.0, per_step=6, rounds=1)
    found = {}
    for who, size in (("ours", 300), ("padded", 2), ("dynamic", 4), ("sorted", 4)):
        job = dataclasses.replace(base, who=who, size=size, out=str(tmp_path / f"{who}.npz"))
        side(job).predict(job)
        with np.load(job.out) as stored:
            found[who] = [stored[f"arr_{i}"] for i in range(6)]
    sizes = workload.passage(base)
    assert [piece.shape for piece in found["ours"]] == [(size, 2) if task == "qa" else (3,) for size in sizes]
    for pieces in found.values():
        for piece, same in zip(pieces, found["ours"], strict=True):
            np.testing.assert_allclose(piece, same, atol=1e-5)


def test_turns_and_tokens_are_told_as_they_pass(alone):
    for job in (JOB, dataclasses.replace(JOB, who="padded", size=2), dataclasses.replace(JOB, who="grouped", size=4)):
        alone.clear()
        side(job).train(job)
        assert alone[0] == {"ready": True} and len(alone) == 5
        steps = workload.plan(job)
        order = steps.grouped if job.who == "grouped" else steps.plain
        tokens = [int(steps.lengths[order[first:last]].sum()) for first, last in ((0, 1), (1, 3), (3, 5), (5, 7))]
        assert [turn["tokens"] for turn in alone[1:]] == tokens
        assert all(turn["seconds"] > 0 for turn in alone[1:])


def test_no_contestant_writes_checkpoints(alone, monkeypatch):
    saved = []
    monkeypatch.setattr(checkpoint, "SHORTEST_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint.Checkpoints, "save", lambda self, state: saved.append(state.step))
    ours.train(JOB)
    assert not saved and checkpoint.SHORTEST_SECONDS == 0.0
    assert peers.arguments(dataclasses.replace(JOB, who="padded"), "nowhere", 2, 3).save_strategy == "no"


def test_a_profiled_step_is_one_more(alone):
    found = ours.train(dataclasses.replace(JOB, profile=True, rounds=1, steps=1))
    assert len(found["losses"]) == 3 and len(alone) == 4
    profile = found["profile"]
    assert 0 < profile["products"] <= profile["seconds"] and profile["operations"]


def test_a_sweep_takes_a_turn_for_each_size_and_one_to_warm_up(alone):
    for who, sizes in (("ours", (200, 400)), ("padded", (1, 2)), ("grouped", (2, 4))):
        alone.clear()
        job = dataclasses.replace(JOB, who=who, purpose="sweep", sizes=sizes, size=sizes[0], warm=0, rounds=1, steps=1)
        side(job).sweep(job)
        assert alone[0] == {"ready": True}
        tokens = int(workload.plan(job).lengths.sum())
        assert [turn["tokens"] for turn in alone[1:]] == [tokens] * 3


def script(tmp_path, monkeypatch, lines):
    tool = tmp_path / "tool.py"
    tool.write_text("import sys, json\njob = sys.stdin.readline()\n" + lines)
    monkeypatch.setattr(contestant, "TOOL", tool)


def test_the_driver_hears_each_turn(tmp_path, monkeypatch):
    script(tmp_path, monkeypatch, """
print(json.dumps({"ready": True}), flush=True)
for turn in range(2):
    assert sys.stdin.readline() == "go\\n"
    print(json.dumps({"seconds": 1.5, "tokens": turn}), flush=True)
print(json.dumps({"end": json.loads(job)["who"]}), flush=True)
""")
    with contestant.started([JOB, dataclasses.replace(JOB, who="padded")]) as both:
        for _ in range(2):
            for one in both:
                one.go()
        assert [one.end() for one in both] == ["ours", "padded"]
        assert [turn["tokens"] for turn in both[1].turns] == [0, 1]
    assert all(one.process.poll() is not None for one in both)


def test_a_contestant_that_fails_says_its_last_words(tmp_path, monkeypatch, capsys):
    script(tmp_path, monkeypatch, "sys.exit('no memory left')")
    with pytest.raises(SystemExit, match="no memory left\n.*ours, qa, full: the contestant ended with 1"):
        with contestant.started([JOB]):
            pass


def test_a_job_survives_its_journey():
    job = dataclasses.replace(JOB, sizes=(1, 2), lengths_from="x")
    assert workload.Job.read(job.text()) == job


def test_lengths_are_counted_as_they_are_stored(tmp_path):
    (tmp_path / "xquad").mkdir()
    context = " ".join(["word"] * 500)
    (tmp_path / "xquad" / "xquad.en.json").write_text(json.dumps({"data": [{"paragraphs": [
        {"context": context, "qas": [{"question": "Which disestablishment is it?"}]}, {"context": "a b", "qas": [
            {"question": "c?"}]}]}]}))
    (tmp_path / "americasnli" / "dev").mkdir(parents=True)
    (tmp_path / "americasnli" / "dev" / "quy.tsv").write_text(
        "id\tlanguage\tpremise\thypothesis\tlabel\n1\tquy\tHina pay.\t\"Mamanta\tneutral\n")
    (tmp_path / "xcopa" / "et").mkdir(parents=True)
    (tmp_path / "xcopa" / "et" / "val.et.jsonl").write_text(json.dumps(
        {"premise": "Mees.", "choice1": "Tualett", "choice2": "x " * 400}) + "\n")
    # question: 1 + 2 + 1 + 1 + 1 pieces and 4 special ones; windows of at most 384 - 10 of the 500, one every 128
    assert lengths.histogram("qa", tmp_path) == {384: 1, 10 + 372: 1, 4 + 2 + 2: 1}
    assert lengths.histogram("pairs", tmp_path) == {3 + 3 + 4: 1, 2 + 2 + 4: 1, 256: 1}
    with pytest.raises(SystemExit, match="xquad"):
        lengths.histogram("qa", tmp_path / "xcopa")
    with pytest.raises(SystemExit, match="holds no americasnli"):
        lengths.histogram("pairs", tmp_path / "xquad")
    stored = json.loads(lengths.STORED.read_text("utf-8"))
    for kind, most in lengths.LIMITS.items():
        counts = lengths.histogram(kind, None)
        assert 0 < min(counts) and max(counts) <= most and stored[kind]["licence"].startswith("CC BY")
        assert round(lengths.mean(counts), 1) == stored[kind]["mean"]
    assert abs(stored["qa"]["mean"] - 185) < 5      # SQuAD v1.1's windows


def results(who, seconds, peak):
    return {who: {"turns": [{"seconds": value, "tokens": 100} for value in seconds], "peak_bytes": peak}}


def test_ratios_are_taken_round_by_round():
    found = report.summary(results("ours (eager)", [1, 2, 1], 30) | results("padded", [2, 5, 3], 60), [5, 5, 5],
                           [10, 5, 10])
    told = found["ratios"]["ours (eager) / padded"]
    assert told["speed"] == {"median": 2.5, "low": 2.0, "high": 3.0} and told["memory"] == 0.5
    assert found["speed"]["padded"] == {"median": pytest.approx(100 / 3), "low": 20, "high": 50}
    assert found["ceiling_seconds"] == {"median": 0.5, "low": 0.5, "high": 1.0}
    assert found["fraction"]["ours (eager)"] == {"median": 0.5, "low": 0.5, "high": 0.5}


def test_a_report_is_written_with_its_figure(tmp_path, monkeypatch):
    case = {"title": "pairs", "task": "pairs", "method": "full", "summary": report.summary(
        results("ours (eager)", [1, 2], 30) | results("padded", [2, 5], 60), [5, 5], [10, 5])}
    arguments = type("Arguments", (), {"output": tmp_path / "found.json", "threads": 1})
    report.write("train", arguments, {"cases": [case]}, report.draw_ratios)
    told = json.loads((tmp_path / "found.json").read_text())
    assert told["cases"][0]["title"] == "pairs" and told["machine"]["versions"]["torch"] == torch.__version__
    assert (tmp_path / "found.png").stat().st_size > 5000
    figure = report.draw_seconds({"contestants": {"ours": {"seconds": [1, 2]}, "faiss": {"seconds": [3, 4]}}})
    assert [bar.get_width() for bar in figure.axes[0].patches] == [2.5]
    assert report.draw_seconds({"ops": []}) is None and report.draw_ratios({"cases": []}) is None


def test_a_straight_line_is_found():
    points = [{"tokens": [n], "seconds": [1 + 2 * n, 5 + 2 * n, 1 + 2 * n]} for n in (1, 2, 4)]
    found = scaling.line(points)
    assert found == {"start": pytest.approx(1), "slope": pytest.approx(2), "apart": pytest.approx(0, abs=1e-12)}
    assert scaling.line([{"tokens": [n], "seconds": [n * n]} for n in (1, 2, 4)])["apart"] > 0.5
