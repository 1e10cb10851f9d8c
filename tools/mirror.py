"""Builds a --data_root folder from original release files: `python tools/mirror.py xquad --source DIR --data_root DIR`.

Run it once for each task; the folder and its README.md grow. Everything is read and checked before anything is written.
Archives are not read: unpack them first.
"""

import argparse
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peft_stilts.errors import StiltsError  # noqa: E402
from peft_stilts.tasks.mirror import READERS, mirror  # noqa: E402


def _tasks() -> str:
    """Every task and the files it is read from."""
    lines = [textwrap.fill(f"{name}: {reader.expected}", 110, initial_indent="  ", subsequent_indent="      ")
             for name, reader in sorted(READERS.items())]
    return "\n".join(["tasks:", *lines])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False, epilog=_tasks())
    parser.add_argument("task", help="one of the tasks below")
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
