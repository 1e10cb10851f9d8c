"""The built wheel runs anywhere: recipes and miniature weights travel inside it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """The wheel's content, unpacked as pip does."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)],
                   check=True, capture_output=True, text=True)
    (wheel,) = out.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(out / "site packages")
    return out / "site packages"


def run(site: Path, folder: Path, *arguments: str) -> str:
    """`python -m peft_stilts` with the unpacked wheel in place of the clone's package."""
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-m", "peft_stilts", *arguments], cwd=folder, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_recipes_weights_tables_and_licences(unpacked):
    package = unpacked / "peft_stilts"
    assert sorted(path.name for path in (package / "recipes").rglob("*.yaml")) == sorted(
        path.name for path in (ROOT / "recipes").rglob("*.yaml"))
    assert len(list((package / "recipes").glob("*.yaml"))) == 11
    reported = package / "analysis" / "reported"
    assert sorted(path.name for path in reported.iterdir()) == ["averages.csv", "headlines.csv"]
    for name in ("calibration.csv", "uriel_distances.csv", "page/script.js", "page/style.css", "page/template.html"):
        assert (package / "analysis" / name).stat().st_size > 100, name
    assert (package / "miniature" / "weights" / "model.safetensors").stat().st_size > 1e6
    assert sum(path.stat().st_size for path in (package / "miniature" / "weights").iterdir()) <= 8e6
    assert (package / "tasks" / "xquad_question_ids.txt").is_file()
    (metadata,) = unpacked.glob("*.dist-info")
    assert {path.name for path in (metadata / "licenses").iterdir()} >= {"LICENSE", "NOTICE"}


def test_the_wheel_runs_a_recipe_in_another_folder(unpacked, tmp_path):
    folder = tmp_path / "with a space"
    folder.mkdir()
    where = "import peft_stilts; print(peft_stilts.__file__)"
    found = subprocess.run([sys.executable, "-c", where], cwd=folder, env=os.environ | {"PYTHONPATH": str(unpacked)},
                           capture_output=True, text=True).stdout
    assert str(unpacked) in found       # not the clone's
    told = run(unpacked, folder, "recipe", "squad", "--targets", "tydiqa", "--limit_train", "64", "--limit_eval", "5",
               "--scale", "mini")
    assert "miniature world" in told and (folder / "runs" / "results.csv").is_file()
    assert "squad" in run(unpacked, folder, "recipes")
