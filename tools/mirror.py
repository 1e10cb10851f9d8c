"""Builds a --data_root folder from original release files: `python tools/mirror.py xquad --source DIR --data_root DIR`.

Tasks: xquad (xquad.LL.json of deepmind/xquad), tatoeba (LASER's data/tatoeba/v1), squad (train-v1.1.json and
dev-v1.1.json). Run it once for each task; the folder and its README.md grow.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peft_stilts.errors import StiltsError  # noqa: E402
from peft_stilts.tasks.mirror import mirror  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("task", help="xquad, tatoeba or squad")
    parser.add_argument("--source", required=True, metavar="DIR", help="the folder with the release files")
    parser.add_argument("--data_root", "--data-root", required=True, metavar="DIR", help="the folder to write")
    arguments = parser.parse_args()
    try:
        mirror(arguments.task, arguments.source, arguments.data_root)
    except StiltsError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
