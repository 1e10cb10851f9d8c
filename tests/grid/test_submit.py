"""XTREME's submission folder from stored predictions: one model a target, unlabelled splits included."""

import json
import subprocess
import sys

import pytest

from peft_stilts import results
from peft_stilts.errors import UsageError
from peft_stilts.evaluate.submission import score_folders
from peft_stilts.grid.run import run
from peft_stilts.grid.submit import candidates, submit
from peft_stilts.store import Store
from peft_stilts.tasks import TARGETS, TASKS


@pytest.fixture(scope="module")
def whole(tmp_path_factory, workshop, encoder, data_root, recipe):
    """The tiny recipe on the data folder by both methods, whole test sets scored."""
    from peft_stilts.tasks.sources import LocalMirror

    runs = tmp_path_factory.mktemp("whole") / "runs"
    wanted = workshop.request(encoder, runs, recipes=(str(recipe),), methods=("full", "lora"), limit_eval=None,
                              languages=("en", "de", "fi"), data_root=data_root)
    run(workshop.plan(wanted, LocalMirror(data_root)))
    return runs


def choice(method="full", intermediate="squad", seed=None):
    return {"method": method, "intermediate": intermediate, "seed": seed}


def test_the_files_are_the_stored_predictions_and_what_is_missing_is_told(whole, tmp_path):
    missing = submit(whole, tmp_path / "out", choice())
    assert set(missing) == set(TARGETS) and "en" not in missing["xquad"] and "de" in missing["mlqa"]
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("test-*"))
    assert files == ["tatoeba/test-de.tsv", "tatoeba/test-fi.tsv", "tydiqa/test-en.json", "tydiqa/test-fi.json",
                     "xquad/test-de.json", "xquad/test-en.json"]
    stage = next(one for one in candidates(Store(whole)) if one.target == "xquad" and one.fits(choice()))
    stored = (stage.folder / "predictions" / "xquad" / "test-de.json").read_text()
    assert (tmp_path / "out" / "xquad" / "test-de.json").read_text() == stored


def test_our_scores_are_those_of_the_scorer_on_our_files(whole, tmp_path, data_root, monkeypatch):
    import dataclasses

    import pyarrow.parquet as pq

    submit(whole, tmp_path / "out", choice("lora"))
    gold = pq.read_table(next((data_root / "google/xtreme/XQuAD.de").glob("*.parquet"))).to_pylist()
    english = pq.read_table(next((data_root / "google/xtreme/XQuAD.en").glob("*.parquet"))).to_pylist()
    for code, rows in (("de", gold), ("en", english)):
        data = [{"paragraphs": [{"context": row["context"], "qas": [{
            "id": row["id"], "question": row["question"],
            "answers": [{"text": text, "answer_start": 0} for text in row["answers"]["text"]]}]} for row in rows]}]
        path = tmp_path / "labels" / "xquad" / f"test-{code}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"version": "1.1", "data": data}))
    monkeypatch.setitem(TASKS._values, "xquad", dataclasses.replace(TASKS["xquad"], languages=("de", "en")))
    found = score_folders(tmp_path / "out", tmp_path / "labels")
    frame = results.read(whole).query("target == 'xquad' and method == 'lora' and intermediate == 'squad'")
    for metric in ("f1", "exact_match"):
        ours = frame[frame["metric"] == metric].set_index("language")["score"].to_dict()
        assert found["xquad"][metric] == pytest.approx(ours, abs=1e-9)


def test_several_models_of_one_target_are_told_apart(whole, tmp_path):
    with pytest.raises(UsageError, match="xquad was scored by 4 models; choose one: .*--method full --intermediate none"
                                         " --seed 1 .*--method lora --intermediate squad --seed 1"):
        submit(whole, tmp_path / "out", choice(None, None))
    with pytest.raises(UsageError, match="no finished evaluation in .* fits; there are: .*tydiqa by --method full"):
        submit(whole, tmp_path / "out", choice("qlora"))
    assert not (tmp_path / "out").exists()


def test_parts_of_test_sets_are_no_submission(kept, tmp_path):
    with pytest.raises(UsageError, match="scored the first rows only .--limit_eval.; a submission needs"):
        submit(kept.runs, tmp_path / "out", choice())
    with pytest.raises(UsageError, match="holds neither stages/ .* nor predictions/"):
        submit(tmp_path, tmp_path / "out", choice())


def test_an_unlabelled_test_split_is_predicted_and_never_scored(workshop, encoder, tmp_path, monkeypatch):
    import dataclasses

    plain = TASKS["xquad"]
    blank = dataclasses.replace(plain, test=lambda language: dataclasses.replace(
        plain.test(language), labelled=language.code != "qa"))
    monkeypatch.setitem(TASKS._values, "xquad", blank)
    plan = workshop.plan(workshop.request(encoder, tmp_path / "runs", recipes=("none",), targets=("xquad",),
                                          languages=("en", "qa"), limit_eval=None))
    run(plan)
    frame = results.read(tmp_path / "runs")
    assert set(frame["language"]) == {"en"}
    folder = candidates(Store(tmp_path / "runs"))[0].folder
    files = {path.name: len(json.loads(path.read_text())) for path in (folder / "predictions/xquad").iterdir()}
    assert files == {"test-en.json": 300, "test-qa.json": 300}


def test_the_command_line(whole, tmp_path):
    done = subprocess.run([sys.executable, "-m", "peft_stilts", "submission", "--runs", str(whole), "--out",
                           str(tmp_path / "to send"), "--method", "full", "--intermediate", "none"],
                          capture_output=True, text=True)
    assert done.returncode == 0 and "xquad: no predictions in es, el" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1].endswith("not complete: XTREME's scorer asks for every language of a task")
    assert (tmp_path / "to send" / "xquad" / "test-de.json").is_file()
