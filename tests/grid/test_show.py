"""What a person sees of a plan and its results: every stage with its state, the table, where the files are."""

import shutil

import pytest

from peft_stilts.grid.run import run
from peft_stilts.grid.show import begin, finish, show_plan, todo
from peft_stilts.results import read
from peft_stilts.spec import Request
from peft_stilts.store import Store
from peft_stilts.verbs import results as show_results


@pytest.fixture
def plan(workshop, encoder, tmp_path):
    return workshop.plan(workshop.request(encoder, tmp_path / "runs [red]", targets=("mlqa", "tatoeba")))


def test_everything_is_to_do_at_first(plan, capsys):
    assert {stage.key for stage in todo(plan, Store(plan.request.runs))} == set(plan.stages)
    show_plan(plan)
    told = capsys.readouterr().out
    assert told.count("to do:") == len(plan.stages) + 1 and f"to do: {len(plan.stages)} of {len(plan.stages)}" in told
    assert all(key in told.replace("\n", "").replace("│", "").replace(" ", "") for key in plan.stages)
    assert "score mlqa: en, qa" in told and "estimates" in told and "features" in told
    assert not plan.request.runs.exists(), "a plan writes nothing"


def test_a_child_stands_below_its_parent(plan, capsys):
    show_plan(plan)
    lines = [line for line in capsys.readouterr().out.splitlines() if "train" in line or "score" in line]
    depth = {line.split("to do: ")[1]: line.index("to do") for line in lines if "to do: " in line}
    assert depth["train squad > squad (full, seed 1)"] > depth["train squad (full, seed 1)"] > 0
    assert depth["train squad > squad (full, seed 1)"] - depth["train squad (full, seed 1)"] == 4


def test_states_are_told_of_a_half_finished_run(finished, copied, workshop, encoder, capsys):
    runs = copied(finished.runs)
    plan = workshop.plan(workshop.request(encoder, runs, methods=("full", "lora")))
    lost = next(stage for stage in plan.stages.values() if stage.kind == "evaluate" and stage.task.name == "mlqa"
                and len(stage.parent.path) == 2)
    shutil.rmtree(Store(runs).folder(lost.key))
    # Its model was dropped, so it has to be trained again; the intermediate model is still there.
    assert {stage.key for stage in todo(plan, Store(runs))} == {lost.key, lost.parent.key}
    show_plan(plan)
    told = capsys.readouterr().out
    assert told.count("weights dropped:") == 7 and f"to do: 2 of {len(plan.stages)} stages" in told
    begin(plan)
    assert f"{len(plan.stages)} stages, {len(plan.stages) - 2} of them done before" in capsys.readouterr().out


def test_the_end_shows_this_plan_alone_and_draws_the_folder(finished, copied, workshop, encoder, capsys):
    runs = copied(finished.runs)
    plan = workshop.plan(workshop.request(encoder, runs, targets=("tydiqa",)))
    (runs / "gains.png").unlink(missing_ok=True)
    run(plan)
    finish(plan)
    told = capsys.readouterr().out
    assert "tydiqa (F1)" in told and "xquad" not in told and "lora" not in told
    assert told.splitlines()[-1].startswith("scores: ") and (runs / "gains.png").read_bytes().startswith(b"\x89PNG")
    show_results(runs=str(runs))
    told = capsys.readouterr().out
    assert all(f"{target} (" in told for target in ("xquad", "mlqa", "tydiqa", "tatoeba layer 1")) and "lora" in told


def test_the_baseline_alone_has_a_table_and_no_picture(workshop, encoder, tmp_path, capsys):
    plan = workshop.plan(workshop.request(encoder, tmp_path / "runs", recipes=("none",), targets=("tatoeba",)))
    begin(plan)
    run(plan)
    finish(plan)
    told = capsys.readouterr().out
    assert "tatoeba layer 1 (accuracy)" in told and "picture" not in told
    assert not (tmp_path / "runs" / "gains.png").exists()


def test_too_small_a_machine_is_a_warning_where_only_the_plan_is_shown(plan, monkeypatch, capsys):
    monkeypatch.setattr("peft_stilts.grid.estimate.available_memory", lambda: 1)
    show_plan(plan)
    assert "warning: `" in capsys.readouterr().out


def test_layers_are_one_table_and_one_curve(workshop, encoder, tmp_path, capsys):
    plan = workshop.plan(workshop.request(encoder, tmp_path / "runs", recipes=("none",), targets=("tatoeba",),
                                          layers=Request.ALL_LAYERS, centre=True))
    assert [cell.labels["target_variant"] for cell in plan.cells] == [f"layer {n} centred" for n in (0, 1, 2)]
    begin(plan)
    run(plan)
    finish(plan)
    told = capsys.readouterr().out
    assert f"picture: {tmp_path / 'runs' / 'layers.png'}" in told
    assert (tmp_path / "runs" / "layers.png").read_bytes().startswith(b"\x89PNG")


def test_a_training_that_fails_ends_its_own_cells_alone(workshop, encoder, tmp_path, monkeypatch, capsys):
    from peft_stilts.errors import TrainingError
    from peft_stilts.grid import run as module

    plain = module.train

    def failing(learner, features, settings, **options):
        if "tydiqa" in features:
            raise TrainingError("training collapsed: made up")
        return plain(learner, features, settings, **options)

    monkeypatch.setattr(module, "train", failing)
    plan = workshop.plan(workshop.request(encoder, tmp_path / "runs", targets=("tydiqa", "tatoeba")))
    with pytest.raises(TrainingError, match="2 trainings failed, and 2 scores are missing for it .first: score tydiqa"):
        run(plan)
    assert capsys.readouterr().out.count("made up") == 2, "each is told when it fails"
    finish(plan)
    frame = read(tmp_path / "runs")
    assert set(frame["target"]) == {"tatoeba"} and set(frame["intermediate"]) == {"none", "squad"}
