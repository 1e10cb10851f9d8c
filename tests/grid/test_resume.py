"""Killed, interrupted, run twice at once, or out of disk: nothing is lost, and the end is the same to the last bit."""

import hashlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

FOLDER = str(Path(__file__).parent)
PRELOAD = ["workshop", "peft_stilts.cli", "peft_stilts.grid.run", "peft_stilts.grid.show", "peft_stilts.spec",
           "peft_stilts.train.loop", "matplotlib.figure"]


@pytest.fixture(scope="module")
def start():
    """Starts the command line in a process of its own, with a checkpoint at every step. Its server has loaded the
    libraries and computed nothing, so that a process starts at once and computes what any other would."""
    sys.path.insert(0, FOLDER)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    import workshop

    processes = []

    def begin(folder, arguments, delay=0.0, **options):
        folder.mkdir(exist_ok=True)
        processes.append(context.Process(target=workshop.command, args=(str(folder), arguments, delay), kwargs=options))
        processes[-1].start()
        return processes[-1]

    yield begin
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()
    sys.path.remove(FOLDER)


@pytest.fixture(scope="session")
def wanted(encoder, data_root, recipe):
    """The command: the tiny recipe on the data folder by both methods, models kept, without its --runs."""
    return ["recipe", str(recipe), "--scale", str(encoder), "--data_root", str(data_root), "--method", "full,lora",
            "--targets", "xquad,tatoeba", "--languages", "en,de", "--seeds", "1", "--layers", "1", "--keep",
            "--precision", "fp32"]


@pytest.fixture(scope="module")
def undisturbed(start, wanted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(folder, [*wanted, "--runs", str(folder / "runs")])
    process.join(100)
    assert process.exitcode == 0, said(folder)
    return folder


def said(folder):
    return (folder / "out.txt").read_text(encoding="utf-8")


def weights(runs):
    """Digest of every trained file and prediction, by its place."""
    return {path.relative_to(runs).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted((runs / "stages").rglob("*")) if path.is_file() and path.name != "stage.json"}


def table(runs):
    frame = pd.read_csv(runs / "results.csv", dtype=str, keep_default_na=False)
    return frame.sort_values(list(frame.columns), ignore_index=True)


def same(folder, other):
    assert weights(folder / "runs") == weights(other / "runs")
    pd.testing.assert_frame_equal(table(folder / "runs"), table(other / "runs"))


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def checkpoints(folder):
    return list((folder / "runs" / "work").glob("*/checkpoints/checkpoint-*"))


def test_a_run_takes_no_part_of_another_process(undisturbed):
    stages = [json.loads(path.read_text()) for path in (undisturbed / "runs/stages").glob("*/stage.json")]
    assert len(stages) == 2 * 3 + 2 * 3 + 1, "by each method three trainings and three scores; and the base scored once"
    trained = [stage for stage in stages if stage["kind"] == "train"]
    assert all(stage["record"]["steps"] >= 10 for stage in trained) and len(trained) == 6


def test_killed_again_and_again_it_ends_with_the_same_bits(start, wanted, undisturbed, tmp_path):
    folder, killed = tmp_path / "killed", 0
    moments = [0.05, 0.3, 0.15, 0.6, 0.9, 0.2]
    for moment in moments:
        process = start(folder, [*wanted, "--runs", str(folder / "runs")], delay=0.03)
        seen = checkpoints(folder)
        until(lambda process=process, seen=seen: not process.is_alive() or checkpoints(folder) != seen)
        process.join(moment)
        if not process.is_alive():
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        killed += 1
    process = start(folder, [*wanted, "--runs", str(folder / "runs")])
    process.join(100)
    assert process.exitcode == 0, said(folder)
    assert killed >= 4 and "resumed after step" in said(folder)
    same(folder, undisturbed)
    assert not list((folder / "runs/work").glob("*"))


def test_two_processes_at_once_share_the_work_and_end_alike(start, wanted, undisturbed, tmp_path):
    command = [*wanted, "--runs", str(tmp_path / "both" / "runs")]
    (tmp_path / "both").mkdir()
    pair = [start(tmp_path / "both" / name, command, delay=0.03) for name in ("one", "other")]
    for process in pair:
        process.join(100)
    outs = [said(tmp_path / "both" / name) for name in ("one", "other")]
    assert [process.exitcode for process in pair] == [0, 0], outs
    same(tmp_path / "both", undisturbed)
    trained = [line for out in outs for line in out.splitlines() if re.search(r"\d features, ", line)]
    assert len(trained) == 6, "each stage was trained once"
    assert "waiting: another process is at" in "".join(outs)
    costs = pd.read_csv(tmp_path / "both" / "runs" / "stages.csv")
    assert costs["stage_key"].is_unique and len(costs) == 13


def test_ctrl_c_ends_with_a_friendly_line_and_the_same_command_goes_on(start, wanted, undisturbed, tmp_path):
    folder = tmp_path / "interrupted"
    command = [*wanted, "--runs", str(folder / "runs")]
    process = start(folder, command, delay=0.03)
    until(lambda: checkpoints(folder))
    os.kill(process.pid, signal.SIGINT)
    process.join(20)
    assert process.exitcode == 130 and "Traceback" not in said(folder)
    assert said(folder).rstrip().endswith("interrupted; nothing is lost: the same command goes on from here")
    process = start(folder, command)
    process.join(100)
    assert process.exitcode == 0 and "resumed after step" in said(folder)
    same(folder, undisturbed)


def test_ctrl_c_while_waiting_for_another_process_ends_it_too(start, wanted, tmp_path):
    command = [*wanted, "--runs", str(tmp_path / "both" / "runs")]
    (tmp_path / "both").mkdir()
    first = start(tmp_path / "both" / "one", command, delay=0.1)
    until(lambda: list((tmp_path / "both/runs/work").glob("*/checkpoints/checkpoint-*")))
    second = start(tmp_path / "both" / "other", command, delay=0.1)
    until(lambda: (tmp_path / "both/other/out.txt").is_file() and "waiting:" in said(tmp_path / "both" / "other"))
    os.kill(second.pid, signal.SIGINT)
    second.join(20)
    assert second.exitcode == 130 and first.is_alive()


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a disk of so many KiB, or skips where this user may not."""
    mounted = []

    def mount(size, options=""):
        place = tmp_path / "disk"
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k{options}", "tmpfs", str(place)],
                              capture_output=True)
        if done.returncode:
            pytest.skip("this user may not mount a small disk")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=False)


@pytest.mark.parametrize("size", [300, 1500, 3300])
def test_a_full_disk_is_one_line_and_the_work_goes_on_when_there_is_room(
        start, wanted, undisturbed, tmp_path, small_disk, size):
    folder, disk = tmp_path / "full", small_disk(size)
    command = [*wanted, "--runs", str(disk / "runs")]
    process = start(folder, command, unchecked=True)
    process.join(100)
    told = said(folder).splitlines()
    assert process.exitcode == 1 and "Traceback" not in said(folder), said(folder)
    assert told[-1].startswith("error: ") and "space" in told[-1].lower()
    subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
    process = start(folder, command)
    process.join(100)
    assert process.exitcode == 0, said(folder)
    assert weights(disk / "runs") == weights(undisturbed / "runs")


def test_a_disk_that_is_full_when_the_weights_are_saved_is_one_line_too(
        start, workshop, encoder, data_root, tmp_path, small_disk):
    folder, disk = tmp_path / "full", small_disk(300)
    recipe = workshop.make_recipe(tmp_path / "last.yaml", training={"default": workshop.FAST["default"] | {
        "keep": "last", "epochs": 1}})
    process = start(folder, ["recipe", str(recipe), "--scale", str(encoder), "--data_root", str(data_root), "--targets",
                             "xquad", "--languages", "en", "--seeds", "1", "--limit_train", "4",
                             "--runs", str(disk / "runs")], unchecked=True, checkpoints=False)
    process.join(60)
    told = said(folder).splitlines()
    assert process.exitcode == 1 and "Traceback" not in said(folder), said(folder)
    assert told[-1].startswith("error: ") and "cannot be written" in told[-1] and "No space left" in told[-1]


def test_a_disk_that_is_too_small_is_told_before_any_work(start, wanted, tmp_path, small_disk):
    folder, disk = tmp_path / "small", small_disk(1000)
    process = start(folder, [*wanted, "--runs", str(disk / "runs")])
    process.join(60)
    assert process.exitcode == 2 and not (disk / "runs" / "stages").exists()
    assert f"GiB of disk at {disk} and 0.0 GiB are free; give another folder" in said(folder)


def test_a_read_only_folder_is_one_line(start, wanted, tmp_path, small_disk):
    folder, disk = tmp_path / "read only", small_disk(100_000)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    process = start(folder, [*wanted, "--runs", str(disk / "runs")])
    process.join(60)
    told = said(folder).splitlines()
    assert process.exitcode == 1 and "Traceback" not in said(folder)
    assert told[-1].startswith("error: Read-only file system: ") and "choose another --runs" in told[-1]
