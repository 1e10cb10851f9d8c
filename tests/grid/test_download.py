"""Downloading what a run needs: from a provider that counts, and once from the hub, played by a local server."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from peft_stilts.errors import DataError
from peft_stilts.grid.download import download
from peft_stilts.tasks import RowFilter, Split
from peft_stilts.tasks.columns import Pair
from peft_stilts.tasks.sources import LocalMirror

sys.path.insert(0, str(Path(__file__).parents[1]))
from hub_stand_in import COMMIT, HubStandIn  # noqa: E402

NONE = RowFilter("none", lambda dataset: [])
GERMAN, SPANISH = (Split("google/xtreme", f"XQuAD.{code}", "validation", rows=NONE) for code in ("de", "es"))
TRAIN = Split("nyu-mll/glue", "mnli", "train", columns=Pair("a", "b", "label", ("no", "yes")))
CCG, BUCC = Split("ldc/ccgbank", "default", "train"), Split("bucc/bucc2018", "de", "test")
LICENSED = [CCG, replace(CCG, split="validation"), BUCC]


class Provider:
    """Gives two rows of any split, and remembers what was asked; `broken` maps repositories to what happens instead."""

    name = "hub"

    def __init__(self, names=("no", "yes"), **broken):
        self.names, self.broken, self.asked, self.loaded = names, broken, [], []

    def identify(self, split):
        self.asked.append(split.repo)
        if self.broken.get(split.repo.split("/")[0]) == "refused":
            raise DataError(f"the hub refuses {split.repo}")
        return {"revision": "c" * 40}

    def load(self, split, limit=None):
        self.loaded.append(split)
        happens = self.broken.get(split.config.split(".")[-1])
        if happens is not None:
            raise happens
        features = Features({"a": Value("string"), "b": Value("string"), "label": ClassLabel(names=list(self.names))})
        return Dataset.from_dict({"a": ["x", "y"], "b": ["x", "z"], "label": [1, 0]}, features=features)


def fetch(splits, root, provider):
    said = []
    written = download(splits, root, said.append, provider)
    return [path.relative_to(root).as_posix() for path in written], said


def test_whole_splits_once_in_the_layout_of_the_hub(tmp_path):
    provider = Provider()
    twice = [GERMAN, replace(GERMAN, rows=None), TRAIN, replace(GERMAN, rows=RowFilter("all", range))]
    written, said = fetch(twice, tmp_path, provider)
    assert written == [
        f"{path}-00000-of-00001.parquet" for path in ("google/xtreme/XQuAD.de/validation", "nyu-mll/glue/mnli/train")
    ]
    assert [split.rows for split in provider.loaded] == [None, None]
    assert any("fetching at cccccccccccc" in line for line in said)
    table = pq.read_table(tmp_path / written[1])
    assert table.to_pylist() == [{"a": "x", "b": "x", "label": 1}, {"a": "y", "b": "z", "label": 0}]
    assert table.schema.metadata is None and str(table.schema.field("label").type) == "int64"
    assert len(LocalMirror(tmp_path).load(TRAIN)) == 2


def test_what_is_there_is_left_alone(tmp_path):
    fetch([GERMAN], tmp_path, Provider())
    before = (tmp_path / "google/xtreme/XQuAD.de/validation-00000-of-00001.parquet").stat()
    provider = Provider()
    own = Split("mine", None, "test", files=("mine.tsv",))
    written, said = fetch([GERMAN, own, SPANISH], tmp_path, provider)
    assert written == ["google/xtreme/XQuAD.es/validation-00000-of-00001.parquet"]
    assert [split.config for split in provider.loaded] == ["XQuAD.es"]
    assert "google/xtreme XQuAD.de validation: already in" in said[0] and "read from mine.tsv" in said[1]
    assert (tmp_path / "google/xtreme/XQuAD.de/validation-00000-of-00001.parquet").stat() == before
    assert LocalMirror(tmp_path).files(SPANISH) and fetch([GERMAN, SPANISH], tmp_path, provider)[0] == []


def test_an_interrupted_download_goes_on_where_it_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fetch([GERMAN, SPANISH, TRAIN], tmp_path, Provider(es=KeyboardInterrupt()))
    provider = Provider()
    assert len(fetch([GERMAN, SPANISH, TRAIN], tmp_path, provider)[0]) == 2
    assert [split.config for split in provider.loaded] == ["XQuAD.es", "mnli"]


def test_a_file_that_was_removed_is_fetched_again(tmp_path):
    written, _ = fetch([GERMAN], tmp_path, Provider())
    (tmp_path / written[0]).unlink()
    assert fetch([GERMAN], tmp_path, Provider())[0] == written


def test_licensed_data_are_named_and_everything_else_is_fetched(tmp_path):
    provider = Provider()
    with pytest.raises(DataError) as error:
        fetch([*LICENSED, GERMAN], tmp_path, provider)
    message = str(error.value)
    assert message.startswith("1 splits were fetched, 3 are still missing") and len(message.splitlines()) == 3
    assert "  ldc/ccgbank default train, ldc/ccgbank default validation: " in message
    assert "tools/mirror.py ccg --source" in message and "tools/mirror.py bucc2018 --source" in message
    assert provider.asked == ["google/xtreme"] and LocalMirror(tmp_path).files(GERMAN)


def test_licensed_data_that_were_converted_are_enough(tmp_path):
    (tmp_path / "release").mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / "release" / name).write_text("a b\tN N\n")
    from peft_stilts.tasks.mirror import mirror

    mirror("ccg", tmp_path / "release", tmp_path, lambda line: None)
    assert fetch(LICENSED[:2], tmp_path, Provider())[0] == []


def test_one_failure_does_not_stop_the_others_and_a_repository_is_asked_once(tmp_path):
    provider = Provider(google="refused", mnli=DataError("the file is damaged"))
    snli = Split("stanfordnlp/snli", "plain_text", "train")
    with pytest.raises(DataError) as error:
        fetch([GERMAN, SPANISH, TRAIN, snli], tmp_path, provider)
    message = str(error.value)
    assert "XQuAD.de validation, google/xtreme XQuAD.es validation: the hub refuses google/xtreme" in message
    assert "nyu-mll/glue mnli train: the file is damaged" in message and message.startswith("1 splits")
    assert provider.asked.count("google/xtreme") == 1 and LocalMirror(tmp_path).files(snli)


def test_labels_in_another_order_are_refused_while_their_names_are_known(tmp_path):
    with pytest.raises(DataError, match="numbers its labels yes, no"):
        fetch([TRAIN], tmp_path, Provider(names=("yes", "no")))
    assert not list(tmp_path.iterdir())


def test_the_longest_beginning_is_fetched(tmp_path):
    text = Split("wikimedia/wikipedia", "20231101.en", "train")
    provider = Provider()
    fetch([replace(text, first=10), replace(text, first=30), replace(text, first=20)], tmp_path, provider)
    assert [split.first for split in provider.loaded] == [30]
    fetch([replace(text, config="20231101.de", first=10), replace(text, config="20231101.de")], tmp_path, provider)
    assert provider.loaded[-1].first is None


def test_a_folder_that_cannot_be_used_stops_it_at_once(tmp_path):
    (tmp_path / "google/xtreme").mkdir(parents=True)
    (tmp_path / "google/xtreme/README.md").write_text("---\nconfigs: 3\n---\n")
    provider = Provider()
    with pytest.raises(DataError, match="must be a list"):
        fetch([TRAIN, GERMAN], tmp_path, provider)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        fetch([TRAIN, GERMAN], tmp_path / "file", provider)
    assert [split.config for split in provider.loaded] == ["mnli"]


PROGRAM = """
import sys
from peft_stilts.errors import DataError
from peft_stilts.grid.download import download
from peft_stilts.tasks import Split
splits = [Split("google/xtreme", f"XQuAD.{code}", "validation") for code in ("de", "es")]
try:
    download([*splits, Split("ldc/ccgbank", "default", "train")], sys.argv[1])
except DataError as error:
    print(error)
    sys.exit(3)
"""


def test_from_the_hub(tmp_path):
    repo = tmp_path / "repository"
    for code in ("de", "es"):
        (repo / f"XQuAD.{code}").mkdir(parents=True)
        Dataset.from_dict({"id": [code], "n": [1]}).to_parquet(repo / f"XQuAD.{code}" / "validation-0.parquet")
    configs = [
        {"config_name": f"XQuAD.{code}", "data_files": [{"split": "validation", "path": f"XQuAD.{code}/*"}]}
        for code in ("de", "es")
    ]
    (repo / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    hub = HubStandIn(repo, "google/xtreme")
    settings = {
        "HF_HOME": str(tmp_path / "cache"),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "data")],
        env=kept | settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    hub.close()
    assert done.returncode == 3, done.stderr
    assert "2 splits were fetched, 1 are still missing" in done.stdout and f"fetching at {COMMIT[:12]}" in done.stdout
    local = LocalMirror(tmp_path / "data")
    for code in ("de", "es"):
        rows = local.load(Split("google/xtreme", f"XQuAD.{code}", "validation"))
        assert rows.to_dict() == {"id": [code], "n": [1]}
