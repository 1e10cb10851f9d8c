"""Builds a --data_root folder from original release files: `python tools/mirror.py xquad --source DIR --data_root DIR`.

Tasks: xquad (xquad.LL.json of deepmind/xquad), tatoeba (LASER's data/tatoeba/v1), squad (train-v1.1.json and
dev-v1.1.json). Run it once for each task; the folder and its README.md grow.
"""

import sys
from pathlib import Path

import fire

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peft_stilts.errors import StiltsError  # noqa: E402
from peft_stilts.tasks.mirror import mirror  # noqa: E402


def main(task: str, *, source: str, data_root: str) -> None:
    """Converts the release files of TASK in the folder SOURCE into the folder DATA_ROOT."""
    try:
        mirror(str(task), str(source), str(data_root))
    except StiltsError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    fire.Fire(main)
