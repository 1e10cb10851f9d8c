"""URIEL's distances between XTREME's languages, as the package ships them, and the table of docs/similarity.md.

    pip install lang2vec==1.1.2 urielplus==1.3.2
    python tools/similarity_tables.py            # writes peft_stilts/analysis/uriel_distances.csv and the table
    python tools/similarity_tables.py --check    # writes nothing, and fails where either is out of date

Only the two packages' data files are read (plain arrays, nothing is unpickled) and none of their code is run: lang2vec
imports pkg_resources, which new setuptools lack, and urielplus copies files into its own folder. The data, and what is
made of them, are licensed CC BY-SA 4.0, see NOTICE.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from marks import fill  # noqa: E402

from peft_stilts.analysis.similarity import DATABASES, TABLE, URIEL, similarities  # noqa: E402
from peft_stilts.errors import StiltsError, UsageError  # noqa: E402
from peft_stilts.languages import LANGUAGES  # noqa: E402
from peft_stilts.store import write_atomic  # noqa: E402

PAGE = ROOT / "docs" / "similarity.md"
FILES = {
    "lang2vec_knn": ("lang2vec", "data", {"genetic": "family_features", "geographic": "geocoord_features",
                                          "features": "feature_predictions"}),
    "urielplus_angular": ("urielplus", "database/original_uriel", {
        "genetic": "family_features", "geographic": "geocoord_features", "features": "features"}),
}
"""Database: package, folder in it, and which .npz holds family, place and typological features."""
PREFIXES = {"syntactic": ("S_",), "phonological": ("P_",), "inventory": ("INV_",), "featural": ("S_", "P_", "INV_")}
"""The first letters of the names of the typological features that a measure uses."""
UNKNOWN = -1.0


def distances() -> str:
    """uriel_distances.csv: `database`, `a`, `b` (XTREME's codes, each pair once, in the table's order) and a column
    for each of URIEL's measures, 6 decimals, empty where a distance is not known."""
    frames = []
    for database in DATABASES:
        vectors = read(database)
        rows = [{"database": database, "a": a, "b": b} | {
            measure: angle(vectors[measure][a], vectors[measure][b], database) for measure in URIEL}
            for a, b in combinations(LANGUAGES, 2)]
        frames.append(pd.DataFrame(rows))
    return pd.concat(frames).to_csv(index=False, float_format="%.6f", lineterminator="\n")


def read(database: str) -> dict[str, dict[str, np.ndarray]]:
    """measure -> code -> float64 vector, UNKNOWN where a feature is not known. Raises UsageError where the package is
    not installed."""
    package, inner, files = FILES[database]
    found = find_spec(package)
    if found is None:
        raise UsageError(f"{package} is not installed; see python tools/similarity_tables.py --help")
    folder = Path(found.submodule_search_locations[0]) / inner
    vectors = {}
    for kind, name in files.items():
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            names, data = features(arrays)
        if kind != "features":
            vectors[kind] = data
            continue
        for measure, starts in PREFIXES.items():
            chosen = np.array([feature.startswith(starts) for feature in names])
            vectors[measure] = {code: values[chosen] for code, values in data.items()}
    return vectors


def features(arrays: Mapping[str, np.ndarray]) -> tuple[list[str], dict[str, np.ndarray]]:
    """(names, code -> (features,) float64) of one of URIEL's archives: `feats`, `langs`, `data` (languages, features,
    sources). A feature is the largest value that any source gives (URIEL+: aggregation 'U'), places one source only."""
    row = {str(language): place for place, language in enumerate(arrays["langs"])}
    rows = [row[language.uriel_code] for language in LANGUAGES.values()]
    values = arrays["data"][rows].astype(np.float64).max(axis=2)        # UNKNOWN is below every known value
    return [str(name) for name in arrays["feats"]], dict(zip(LANGUAGES, values))


def angle(a: np.ndarray, b: np.ndarray, database: str) -> float:
    """The distance of two vectors, over the features known of both; NaN where it is not known.

    lang2vec_knn: 1 - cosine, NaN for a vector of zeros. urielplus_angular: 2 arccos(cosine) / pi, with a vector of ones
    in the place of one of zeros, as urielplus 1.3.2 does (`URIELPlusQuerying._angular_distance`).
    """
    both = (a != UNKNOWN) & (b != UNKNOWN)
    a, b = a[both], b[both]
    if not len(a):
        return np.nan
    if database == "urielplus_angular":
        a, b = (vector if vector.any() else np.ones(len(vector)) for vector in (a, b))
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    if norm == 0:
        return np.nan
    cosine = min(1.0, max(-1.0, float(a @ b) / norm))
    return 2 * np.arccos(cosine) / np.pi if database == "urielplus_angular" else 1 - cosine


def table() -> str:
    """The similarity of XTREME's languages to English, and the measures' correlations, both databases, as Markdown."""
    parts = [f"**{database}** ({told})\n\n" + "\n".join(_rows(database)) for database, told in DATABASES.items()]
    parts += [f"**{database}**: Spearman's correlation of the measures, English left out\n\n"
              + "\n".join(_agreement(database)) for database in DATABASES]
    return "\n".join(["", "\n\n".join(parts), ""])


def _rows(database: str) -> Iterator[str]:
    near = similarities(LANGUAGES, database=database)
    yield f"| language | {' | '.join(near.values)} |"
    yield "|---|" + "---|" * near.values.shape[1]
    for code, values in near.values.iterrows():
        whole = [f"{value:.0f}" if name in ("script", "family") else "-" if np.isnan(value) else f"{value:.3f}"
                 for name, value in values.items()]
        yield f"| {code} {near.names[code]} | {' | '.join(whole)} |"


def _agreement(database: str) -> Iterator[str]:
    told = similarities(LANGUAGES, database=database).values.drop("en").corr("spearman")
    yield f"| | {' | '.join(told)} |"
    yield "|---|" + "---|" * len(told)
    for name, values in told.iterrows():
        yield f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where a file is out of date")
    arguments = parser.parse_args()
    try:
        made = distances()
        if arguments.check:
            stale = [TABLE.name] * (made != TABLE.read_text(encoding="utf-8"))
            stale += [PAGE.name] * (table() not in PAGE.read_text(encoding="utf-8"))
            if stale:
                print(f"out of date: {', '.join(stale)}; run python tools/similarity_tables.py", file=sys.stderr)
            return bool(stale)
        write_atomic(TABLE, made)
        fill(PAGE, "similarities", table())
    except StiltsError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
