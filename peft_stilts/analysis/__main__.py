"""Whether gains follow a language's similarity to English, and whether adapters match full fine-tuning.

From any results table to tables, figures and a report, without torch: `python -m peft_stilts.analysis`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from peft_stilts.errors import StiltsError, UsageError
from peft_stilts.paths import writable_folder
from peft_stilts.registry import unknown

EXAMPLES = """examples:
  %(prog)s --results runs --out report
  %(prog)s --results a.csv,b.csv --out report --response score --only method=full
  %(prog)s --simulate --out calibration"""


def names(text: str) -> tuple[str, ...]:
    """Names with commas between; '' for none."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def chosen(text: str) -> tuple[str, str]:
    """COLUMN=VALUE."""
    column, equals, value = text.partition("=")
    if not column or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not COLUMN=VALUE")
    return column, value


def positive(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}; it must be a number above 0")
    return value


def whole(least: int) -> Callable[[str], int]:
    """A reader of whole numbers from `least`."""

    def number(text: str) -> int:
        if not text.strip().isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}; it must be a whole number from {least}")
        return int(text)

    return number


def parser(name: str) -> argparse.ArgumentParser:
    """The command line; `name` is what the user called."""
    told = argparse.ArgumentParser(prog=name, description=__doc__, epilog=EXAMPLES, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("--results", type=names, metavar="FILE,...", help="results tables (CSV, Parquet, or the folder "
                      "of a run), or any CSV with target, language, score, and for gains intermediate")
    told.add_argument("--out", required=True, metavar="FOLDER", help="where tables, figures and report.html go")
    told.add_argument("--response", choices=("gain", "score"), default="gain", help="what is correlated (%(default)s)")
    told.add_argument("--metric", help="one metric for every target, instead of the rows marked primary")
    told.add_argument("--only", type=chosen, action="append", default=[], metavar="COLUMN=VALUE",
                      help="rows with this value alone, such as scale=large; may be given several times")
    told.add_argument("--exclude", type=names, default=None, metavar="CODE,...", help="languages to leave out (the "
                      "source language, by default)")
    told.add_argument("--source", default="en", metavar="CODE", help="the language that similarity is to (%(default)s)")
    told.add_argument("--similarity", type=names, metavar="MEASURE,...", help="measures, all by default: genetic, "
                      "geographic, syntactic, phonological, inventory, featural, script, family, cc100")
    told.add_argument("--database", choices=("lang2vec_knn", "urielplus_angular"), default="lang2vec_knn",
                      help="where URIEL's measures are from; never mixed (%(default)s)")
    told.add_argument("--similarity_csv", "--similarity-csv", metavar="FILE.csv", help="further measures: a column "
                      "language and a column each; with a column family, languages outside XTREME's as well")
    told.add_argument("--tokenizer", metavar="FOLDER|ID", help="measure the overlap of subwords, on --parallel text")
    told.add_argument("--parallel", metavar="FOLDER", help="parallel text: tatoeba.LLL-eng.LLL and .eng, or XX.txt")
    told.add_argument("--covariates", type=names, metavar="NAME,...", help="what partial correlations are given "
                      "(baseline,cc100 where they are there)")
    told.add_argument("--margin", type=positive, default=1.0, help="points within which an adapter is as good as full "
                      "fine-tuning (%(default)s)")
    told.add_argument("--runs", metavar="FOLDER", help="the folder of a run with its stored predictions: weak spots")
    told.add_argument("--draws", type=whole(99), default=1999, help="permutations a test, from 99 (%(default)s)")
    told.add_argument("--seed", type=whole(0), default=1,
                      help="of permutations and simulation (%(default)s)")
    told.add_argument("--simulate", action="store_true", help="write calibration.csv: coverage, false positives and "
                      "power of intervals and tests, calibration_measures.csv: false positives with the measures as "
                      "they are, and calibration_contrasts.csv: differences between methods; for XTREME's languages, "
                      "or those of --results")
    told.add_argument("--simulations", type=whole(1), default=2000, help="data sets of --simulate (%(default)s)")
    return told


def main(arguments: Sequence[str] | None = None, name: str = "python -m peft_stilts.analysis") -> int:
    """Run one command line; the exit status. Messages go to stderr, the answer to stdout."""
    options = parser(name)
    given, rest = options.parse_known_args(arguments)
    try:
        if rest:
            raise UsageError(unknown("flag", rest[0], [flag for option in options._actions for flag in
                                                       option.option_strings if flag.startswith("--")]))
        for line in (_simulate if given.simulate else _report)(given):
            print(line)
    except StiltsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: --out {given.out} cannot be written: {error}. Name a folder that can.", file=sys.stderr)
        return 1
    return 0


def _say(text: str) -> None:
    print(f"  {text} ...", file=sys.stderr, flush=True)


def _responses(given: argparse.Namespace):
    """(responses, similarities, excluded codes) of what was asked for."""
    from peft_stilts.analysis.overlap import overlaps
    from peft_stilts.analysis.responses import read, responses
    from peft_stilts.analysis.similarity import similarities

    if not given.results:
        raise UsageError("nothing to read: name --results FILE, or --simulate.")
    if (given.tokenizer is None) != (given.parallel is None):
        raise UsageError("--tokenizer and --parallel go together: the overlap is measured on parallel text.")
    frame, notes = read(given.results, dict(given.only))
    there = set(frame["language"])
    left = {name for name in given.exclude or () if name in there}      # among them names that are no language
    frame = frame[~frame["language"].isin(left)]
    if not len(frame):
        raise UsageError(f"nothing is left without the languages {', '.join(given.exclude)}.")
    asked = [given.source, *(name for name in given.exclude or () if name not in left)]
    codes = _codes([*frame["language"].unique()], asked, given.similarity_csv)
    source = codes[given.source]
    excluded = (source,) if given.exclude is None else tuple(codes.get(name, name) for name in given.exclude)
    told = responses(frame.assign(language=frame["language"].map(codes)), given.response, given.metric, excluded, notes)
    kept = sorted(set(told.means["language"]))
    overlap = overlaps(given.tokenizer, Path(given.parallel), source, kept) if given.tokenizer else None
    similar = similarities(kept, source, given.similarity, given.database, given.similarity_csv, overlap)
    return told, similar, excluded


def _codes(there: Sequence[str], asked: Sequence[str], csv: str | None) -> dict[str, str]:
    """Language as given -> code, of those in the results and of those asked for, each list in one column of codes."""
    from peft_stilts.analysis.similarity import MINIATURE, column_of, resolve

    made = column_of(there, csv) == MINIATURE
    return {**({name: name for name in asked} if made else resolve(asked, csv)), **resolve(there, csv)}


def _report(given: argparse.Namespace) -> list[str]:
    from peft_stilts.analysis import report, words
    from peft_stilts.analysis.study import study, write

    told, similar, excluded = _responses(given)
    folder = writable_folder(given.out, "out")
    whole = study(told, similar, excluded, given.covariates, given.margin, given.draws, given.seed,
                  _stages(given.results), given.runs, _say)
    written = [*write(whole, folder), *report.write(whole, folder)]
    return [*words.answer(whole), "", f"{folder / 'report.html'} and {len(written) - 1} other files"]


def _stages(paths: Sequence[str]):
    """The costs that lie beside the results, or None."""
    from peft_stilts.results import STAGES

    beside = [Path(path) if Path(path).is_dir() else Path(path).parent for path in paths]
    there = [folder for folder in dict.fromkeys(beside) if any((folder / f"stages.{end}").is_file()
                                                               for end in ("csv", "parquet"))]
    return STAGES.read(there) if there else None


def _simulate(given: argparse.Namespace) -> list[str]:
    import pandas as pd

    from peft_stilts.analysis import calibration
    from peft_stilts.analysis.families import layout
    from peft_stilts.analysis.responses import CELL
    from peft_stilts.analysis.similarity import similarities
    from peft_stilts.analysis.study import write_tables

    folder = writable_folder(given.out, "out")
    if given.results:
        told, similar, _ = _responses(given)
        lists = sorted({tuple(sorted(rows["language"])) for _, rows in told.means.groupby(CELL)})
        layouts = sorted({layout([similar.families[code] for code in codes]) for codes in lists})
    else:
        layouts, lists = calibration.usual_layouts(), calibration.usual_languages()
        similar = similarities(sorted(set().union(*lists)))
    frames = {"calibration": calibration.simulate(layouts, simulations=given.simulations, seed=given.seed, say=_say)}
    measured = []
    for codes in lists:
        _say(f"the measures as they are over {len(codes)} languages: {' '.join(codes)}")
        measured.append(calibration.of_measures(
            similar.values.loc[list(codes)], [similar.families[code] for code in codes], given.simulations, given.seed))
    frames["calibration_measures"] = pd.concat(measured)
    frames["calibration_contrasts"] = calibration.of_contrasts(layouts, simulations=given.simulations, seed=given.seed,
                                                               say=_say)
    written = write_tables(frames, folder, digits=4)
    return [calibration.told(frames["calibration"]), "", *(f"{path} written" for path in written)]


if __name__ == "__main__":
    sys.exit(main())
