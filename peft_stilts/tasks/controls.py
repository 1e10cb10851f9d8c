"""Data of the paper's two controls: text for masked-language modelling, and machine-translated training data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from peft_stilts.errors import DataError, UsageError
from peft_stilts.tasks.base import Split, Task
from peft_stilts.tasks.check import table_to_dataset

if TYPE_CHECKING:
    from datasets import Dataset

MLM = "mlm"
"""The name of the extra task of a mixture that predicts masked words."""
TEXTS_FROM_HUB = 100_000
"""Articles fetched for each language from the hub; a whole Wikipedia would be too much."""
_ALIASES = {"mnli": ("mnli", "xnli")}
"""Names under which XTREME publishes the translations of a task's training set, where it is not the task's own."""


def text_split(code: str, folder: Path | None) -> Split:
    """Text of a language: `folder`/LL.txt, one example a line; or the hub's Wikipedia (wikimedia/wikipedia, the dump of
    1 November 2023; this choice is ours: the paper's own corpora are not known to us)."""
    if folder is None:
        return Split("wikimedia/wikipedia", f"20231101.{code}", "train", first=TEXTS_FROM_HUB)
    return Split("text", code, "train", files=(str(folder / f"{code}.txt"),), read=read_lines)


def text_languages(folder: Path) -> tuple[str, ...]:
    """The codes LL of the files LL.txt in a folder, sorted; raises UsageError when it has none."""
    codes = sorted(path.stem for path in folder.glob("*.txt"))
    if not codes:
        raise UsageError(f"--mlm_text {str(folder)!r} holds no LL.txt (de.txt, sw.txt ..., one example a line)")
    return tuple(codes)


def read_lines(files: tuple[str, ...]) -> Dataset:
    """Rows {text} of the lines that are not blank; raises DataError for a file that is no UTF-8 text."""
    import pyarrow as pa

    lines: list[str] = []
    for name in files:
        try:
            text = Path(name).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{name} cannot be read as UTF-8 text: {error}") from error
        lines += [line.strip() for line in text.split("\n") if line.strip()]
    return table_to_dataset(pa.table({"text": pa.array(lines, pa.string())}))


def translations(task: Task, folder: Path) -> dict[str, Split]:
    """Language code -> training rows of `task`, machine-translated, as XTREME publishes them below `folder`.

    Span tasks: NAME.translate.train.en-LL.json, in SQuAD v1.1's format. Pairs: NAME.translate.train.en-LL.tsv, without
    a header: two original texts, two translated ones, the label (a word of the task's, or its number). Raises
    UsageError for a form of which no translations are published.
    """
    kinds = {"span": ("json", read_translated_spans),
             "classification": ("tsv", TranslatedPairs(task.labels))}
    if task.form not in kinds:
        raise UsageError(f"--translated: no format of translated data is known for {task.name} ({task.form}); spans "
                         "and pairs have one")
    ending, read = kinds[task.form]
    names = "|".join(map(re.escape, _ALIASES.get(task.name, (task.name,))))
    found = {}
    for path in sorted(folder.rglob(f"*.{ending}")):
        named = re.fullmatch(rf"(?:{names})\.translate\.train\.en-([a-z]+)\.{ending}", path.name)
        if named:
            found[named[1]] = Split("translated", f"{task.name}.{named[1]}", "train", files=(str(path),), read=read)
    return found


def read_translated_spans(files: tuple[str, ...]) -> Dataset:
    """Span rows of SQuAD v1.1 files; ids get the file's language, so that languages can be joined."""
    import pyarrow as pa

    from peft_stilts.tasks.mirror import SPAN_SCHEMA, read_squad_json

    tables = []
    for name in files:
        table = read_squad_json(Path(name), SPAN_SCHEMA)
        code = Path(name).stem.rpartition("-")[2]
        ids = pa.array([f"{code}-{key}" for key in table["id"].to_pylist()], pa.string())
        tables.append(table.set_column(table.schema.get_field_index("id"), "id", ids))
    return table_to_dataset(pa.concat_tables(tables))


@dataclass(frozen=True)
class TranslatedPairs:
    """Reads five-column files into rows text_a, text_b, label (columns 3 to 5); `labels` are the task's words."""

    labels: tuple[str, ...]

    def __call__(self, files: tuple[str, ...]) -> Dataset:
        """Raises DataError naming file and line."""
        import pyarrow as pa

        words = dict(zip(self.labels, self.labels)) | {str(n): label for n, label in enumerate(self.labels)}
        words |= {"contradictory": "contradiction"} if "contradiction" in self.labels else {}   # XNLI-MT's word
        rows = []
        for name in files:
            lines = Path(name).read_text(encoding="utf-8-sig").split("\n")
            for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
                cells = line.removesuffix("\r").split("\t")
                if len(cells) != 5:
                    raise DataError(f"{name}, line {number}: {len(cells)} columns, not 5 (two original texts, two "
                                    "translated ones, label).")
                if cells[4] not in words:
                    raise DataError(f"{name}, line {number}: the label is {cells[4]!r}; known: {', '.join(words)}.")
                rows.append((cells[2], cells[3], words[cells[4]]))
        if not rows:
            raise DataError(f"{', '.join(files)}: no rows.")
        first, second, label = (pa.array(column, pa.string()) for column in zip(*rows))
        return table_to_dataset(pa.table({"text_a": first, "text_b": second, "label": label}))
