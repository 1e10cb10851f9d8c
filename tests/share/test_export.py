"""Exporting: which stack is meant, what the bundle tells of it, and that nothing of this machine is in it."""

import json
import re
import zipfile

import pandas as pd
import pytest

from peft_stilts import results
from peft_stilts.errors import StoreError, UsageError
from peft_stilts.model.bundle import read_bundle
from peft_stilts.share.archive import unpack
from peft_stilts.share.export import export
from peft_stilts.share.load import load
from peft_stilts.store import Store

ALL = ("xquad", "udpos", "xnli")


@pytest.fixture(scope="module")
def made(trained):
    return trained("lora", ALL)


def quiet(line):
    pass


def test_a_target_stage_has_its_adapters_heads_and_scores(made, tmp_path):
    stage = made.stage("hellaswag", "mnli", "squad")
    bundle = export(str(made.runs), tmp_path / "bundle", stage=stage.key, licence="mit", say=quiet)
    assert bundle == read_bundle(tmp_path / "bundle")
    assert [adapter.name for adapter in bundle.adapters] == ["1-hellaswag", "2-mnli", "3-squad"]
    assert {task: bundle.depth_of(task) for task in bundle.heads} == {"hellaswag": 1, "mnli": 2, "squad": 3}
    store, below = Store(made.runs), [stage.parent.parent, stage.parent, stage]
    for part, folder in zip(below, bundle.adapter_folders, strict=True):
        trained = store.folder(part.key) / "adapter" / "adapter_model.safetensors"
        assert (folder / trained.name).read_bytes() == trained.read_bytes()
    assert bundle.licence == "mit" and bundle.versions == stage.spec["versions"]
    assert [part["name"] for part in bundle.recipe] == ["hellaswag", "mnli", "squad"]
    assert [part["adapter"] for part in bundle.recipe] == [adapter.name for adapter in bundle.adapters]
    splits = [split for part in below for splits in part.spec["data"]["train"].values() for split in splits]
    assert bundle.data == splits and len(splits) == 3 and all(split["split"] == "train" for split in splits)
    assert (bundle.folder / "README.md").is_file(), "the card lies beside it"

    frame = pd.DataFrame(bundle.scores)
    assert set(frame["intermediate"]) == {"none", "hellaswag>mnli"} and set(frame["target"]) == {"xquad"}
    assert len(frame) == 2 * 2 * 2, "languages, metrics, the model and its baseline"
    own = results.read(made.runs)
    own = own[(own["intermediate"] == "hellaswag>mnli") & (own["target"] == "xquad")]
    told = frame[frame["intermediate"] != "none"]
    assert sorted(told["score"]) == sorted(own["score"]) and set(told["stage_key"]) == set(own["stage_key"])
    assert len(results.gains(results.RESULTS.frame(bundle.scores))) == 4, "every score has its baseline"


def test_an_intermediate_stage_has_the_scores_of_all_that_stands_on_it(made, tmp_path):
    source = Store(made.runs).folder(made.stage("hellaswag", role="intermediate").key)
    bundle = export(str(source), tmp_path / "bundle", say=quiet)
    frame = results.RESULTS.frame(bundle.scores)
    assert set(frame["target"]) == set(ALL) and set(bundle.heads) == {"hellaswag"}
    assert set(frame["intermediate"]) == {"none", "hellaswag", "hellaswag>mnli"}
    assert not len(results.unpaired(frame))


def test_a_baseline_has_its_own_scores_only(made, tmp_path):
    bundle = export(str(made.runs), tmp_path / "bundle", stage=made.stage("udpos").key, say=quiet)
    frame = results.RESULTS.frame(bundle.scores)
    assert set(frame["target"]) == {"udpos"} and set(frame["intermediate"]) == {"none"} and len(frame) == 2 * 2
    assert len(bundle.adapters) == 1 and bundle.recipe[0]["role"] == "target"


def test_an_adapters_folder_and_a_zip(made, tmp_path):
    source = Store(made.runs).folder(made.stage("hellaswag", role="intermediate").key) / "adapter"
    bundle = export(str(source), tmp_path / "new" / "my.zip", licence="other:my-terms", say=quiet)
    assert bundle.folder == tmp_path / "new" / "my.zip" and zipfile.is_zipfile(bundle.folder)
    assert [path.name for path in bundle.folder.parent.iterdir()] == ["my.zip"], "no scratch folder stays"
    unpack(bundle.folder, tmp_path / "unpacked")
    found = read_bundle(tmp_path / "unpacked")
    assert found.licence == "other:my-terms" and not found.heads and not found.scores and not found.recipe
    assert found.adapters == bundle.adapters and (tmp_path / "unpacked" / "README.md").is_file()
    upper = Store(made.runs).folder(made.stage("hellaswag", "mnli", role="intermediate").key) / "adapter"
    with pytest.raises(UsageError, match="stands on 1 other adapters.*stages/KEY"):
        export(str(upper), tmp_path / "no")


def test_no_path_of_this_machine_is_told(made, encoder, tmp_path):
    said = []
    bundle = export(str(made.runs), tmp_path / "bundle", stage=made.stage("hellaswag", "mnli", "squad").key,
                    licence="mit", say=said.append)
    assert bundle.base["id"] == "an encoder" and "--base USER/NAME" in " ".join(said)
    named = export(str(made.runs), tmp_path / "named", stage=made.stage("hellaswag", "mnli", "squad").key,
                   licence="mit", base_id="me/my-encoder", say=(again := []).append)
    assert named.base["id"] == "me/my-encoder" and again == []
    assert {(row["base_model"], row["scale"]) for row in named.scores} == {("me/my-encoder", "me/my-encoder")}
    for folder in (bundle.folder, named.folder):
        for path in folder.rglob("*"):
            if path.suffix in (".json", ".md"):
                text = path.read_text()
                assert str(encoder.parent) not in text and str(made.runs.parent) not in text, path
                assert not re.search(r"(?<![\w:/.])/(tmp|home|root|work|usr)/", text), path
    with pytest.raises(UsageError, match="an encoder"):
        load(bundle.folder, "squad")                # a name finds nothing
    load(named.folder, "squad", base=encoder)       # another's copy of the very weights


def test_an_unknown_licence_is_said(made, tmp_path):
    said = []
    source = str(Store(made.runs).folder(made.stage("udpos").key))
    assert export(source, tmp_path / "bundle", base_id="me/my-encoder", say=said.append).licence == "unknown"
    assert len(said) == 1 and "licence" in said[0] and "--licence" in said[0]


def test_a_wrong_request_writes_nothing_and_says_every_mistake(made, tmp_path):
    (tmp_path / "there.zip").write_text("mine")
    with pytest.raises(UsageError) as caught:
        export(str(made.runs), tmp_path / "there.zip", licence="mitt", base_id="not an id")
    told = str(caught.value)
    assert "mitt" in told and "'not an id' is no hub id" in told and "there.zip is there already" in told
    with pytest.raises(UsageError) as caught:
        export(str(made.runs), tmp_path / "new")
    for stage in made.plan.stages.values():
        if stage.kind == "train":
            assert f"{stage.key} ({stage.label})" in str(caught.value)
    with pytest.raises(UsageError, match="no stage 0123456789abcdef with adapters.*--keep.*it has"):
        export(str(made.runs), tmp_path / "new", stage="0123456789abcdef")
    scored = made.scored("xquad", made.stage("squad"))
    with pytest.raises(UsageError, match=f"no stage {scored.key}"):
        export(str(made.runs), tmp_path / "new", stage=scored.key)
    with pytest.raises(UsageError, match="is an evaluation"):
        export(str(Store(made.runs).folder(scored.key)), tmp_path / "new")
    with pytest.raises(UsageError, match="holds no adapters"):
        export(str(tmp_path), tmp_path / "new")
    with pytest.raises(UsageError, match="holds no adapters"):
        export("someone/something", tmp_path / "new")
    with pytest.raises(UsageError, match="a stage is chosen in a --runs folder"):
        export(str(Store(made.runs).folder(made.stage("squad").key)), tmp_path / "new", stage="a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.zip"]


def test_a_bundle_is_not_exported_again(made, tmp_path):
    export(str(made.runs), tmp_path / "bundle", stage=made.stage("squad").key, say=quiet)
    with pytest.raises(UsageError, match="is a bundle already"):
        export(str(tmp_path / "bundle"), tmp_path / "again")


def test_whole_encoders_and_dropped_stages_are_refused(workshop, encoder, tmp_path):
    from peft_stilts.grid.run import run

    plan = workshop.plan(workshop.request(encoder, tmp_path / "runs", recipes=("none",), targets=("xquad",),
                                          methods=("full", "lora"), limit_train=6, limit_eval=2, languages=("en",)))
    run(plan)
    keys = {stage.method: stage.key for stage in plan.stages.values() if stage.kind == "train"}
    with pytest.raises(UsageError, match="fully trained encoder.*encoder/"):
        export(str(tmp_path / "runs" / "stages" / keys["full"]), tmp_path / "new")
    with pytest.raises(StoreError, match="--keep"):
        export(str(tmp_path / "runs" / "stages" / keys["lora"]), tmp_path / "new")
    with pytest.raises(UsageError, match=f"no stage {keys['lora']}.*--keep.*none; --method lora makes some"):
        export(str(tmp_path / "runs"), tmp_path / "new", stage=keys["lora"])
    assert not (tmp_path / "new").exists()


def test_a_continued_adapter_is_one_with_its_last_head(trained, tmp_path):
    made = trained("lora", ("xquad",), "continue")
    bundle = export(str(made.runs), tmp_path / "bundle", stage=made.stage("hellaswag", "mnli", "squad").key, say=quiet)
    assert [adapter.name for adapter in bundle.adapters] == ["1-squad"] and list(bundle.heads) == ["squad"]
    assert len(bundle.data) == 3, "the data of all its trainings"
    assert json.loads((bundle.adapter_folders[0] / "identity.json").read_text())["parents"] == []
