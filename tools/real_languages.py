"""Do real languages learn, on a CPU? Masked words of real text, then English parts of speech, then every treebank.

    OMP_NUM_THREADS=1 python tools/real_languages.py --data ../shared/data --out real_languages    # resumes when killed

--data is a folder with xquad/, tatoeba_v1/ and xcopa/ (text) and ud/ (Universal Dependencies, a folder a treebank). An
encoder of miniature size (4 layers x 128, its own tokenizer) is pretrained on the text of the treebanks' languages, and
never on a treebank. Part-of-speech tagging is trained on 90 % of the English development treebank and selected on the
other 10 %, chosen by a hash of the sentence; then the recipe machinery scores every test treebank. Beside it stand the
most frequent tag, the most frequent tag of each word form, and encoders of the same shape with random weights, one a
seed. Writes OUT/report.md and OUT/scores.csv.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from real_languages_report import (
    PRETRAINED,
    RANDOM,
    Tags,
    Texts,
    Treebank,
    control_tags,
    form_tags,
    lines_by_language,
    most_frequent,
    report,
    score,
    tags_of,
)

from peft_stilts.errors import DataError, Problems, StiltsError
from peft_stilts.paths import existing_folder
from peft_stilts.spec import TrainingSettings, seeds, whole

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase, XLMRobertaConfig

Say = Callable[[str], None]

VOCABULARY = 12_000
LONGEST_PIECE = 8
"""characters of a piece at most, ▁ among them: without a limit whole phrases of Thai and Chinese are pieces"""
LONGEST = 512
"""tokens of a text at most"""
PAIRED = 0.9
"""probability that a text is joined with itself in another language, where there is one (Conneau and Lample 2019,
arXiv 1901.07291, translation language modelling)"""
TEMPERATURE = 1 / 0.3
"""of the languages' shares, as XLM-R's (Conneau et al. 2020, section 3.1)"""
PRETRAINING = TrainingSettings(lr=2e-3, epochs=1.0, features_per_step=32, tokens_per_pack=4096, warmup_ratio=0.06,
                               weight_decay=0.01, adam_betas=(0.9, 0.98), keep="last")
POS = {"epochs": 5, "features_per_step": 16, "tokens_per_pack": 2048, "max_length": 256, "select_every_steps": None,
       "select_examples": 1000}
"""Settings of the tagger; the weights of the best epoch on the held-out tenth are kept."""
RATES = {PRETRAINED: 2e-3, RANDOM: 4e-3}
"""Learning rates of the tagger: for each kind of encoder the best of four on the held-out tenth (docs/real_languages.md
has the command)."""


def held_out(tokens: Sequence[str]) -> bool:
    """Whether a sentence is among the tenth to select on: its SHA-256 is a multiple of ten. Equal sentences stay
    together, so none is both trained and selected on."""
    return int(hashlib.sha256("\x1f".join(tokens).encode()).hexdigest(), 16) % 10 == 0


def read_treebanks(folder: Path, say: Say) -> tuple[pa.Table, list[Treebank]]:
    """The English development rows, and every test treebank, in the order of languages and names.

    Words are counted by XTREME's rule (multiword tokens fused). Training treebanks are left out, and that is said.
    Raises DataError where either is missing.
    """
    from peft_stilts.languages import LANGUAGES
    from peft_stilts.tasks.releases import READERS

    codes = {f"udpos.{language.name}": code for code, language in LANGUAGES.items()}
    dev, tests = [], []
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        for _, config, split, rows in READERS["udpos"].read(place, say):
            code = codes[config]
            if split == "test":
                tests.append(Treebank(place.name, code, rows))
            elif split == "validation" and code == "en":
                dev.append(rows)
            else:
                say(f"{place.name}: its {split} split is not used")
    if len(dev) != 1 or not tests:
        raise DataError(f"{folder} has {len(dev)} English development treebanks and {len(tests)} test treebanks; one "
                        "and one or more are needed (en_ewt-ud-dev.conllu, LL_NAME-ud-test.conllu)")
    return dev[0], sorted(tests, key=lambda bank: (bank.code, bank.name))


def write_root(root: Path, train: pa.Table, select: pa.Table, tests: Sequence[Treebank], say: Say) -> None:
    """Lay out a --data_root: the tagger's English rows, and the treebanks of a language one after the other."""
    import pyarrow as pa

    from peft_stilts.languages import LANGUAGES
    from peft_stilts.tasks.mirror import write_pieces

    pieces = [("google/xtreme", "udpos.English", split, rows) for split, rows in
              (("train", train), ("validation", select))]
    for code in dict.fromkeys(bank.code for bank in tests):
        rows = pa.concat_tables([bank.rows for bank in tests if bank.code == code])
        pieces.append(("google/xtreme", f"udpos.{LANGUAGES[code].name}", "test", rows))
    write_pieces(pieces, root, say)


def read_bundles(data: Path, codes: Iterable[str], say: Say) -> list[dict[str, str]]:
    """Every text for pretraining, each in all languages among `codes` that it is in: XQuAD's paragraphs and questions,
    Tatoeba's pairs, XCOPA's items. Raises DataError for files that cannot be read, and where there is no text."""
    from peft_stilts.languages import LANGUAGES
    from peft_stilts.tasks.releases import READERS
    from peft_stilts.tasks.releases.files import jsonl_rows
    from peft_stilts.tasks.releases.spans import SPAN_SCHEMA, read_squad_json

    wanted, three = set(codes), {language.iso639_3: code for code, language in LANGUAGES.items()}
    bundles: dict[Any, dict[str, str]] = {}
    for path in sorted((data / "xquad").glob("xquad.*.json")):
        if (code := path.name.split(".")[1]) in wanted:
            rows = read_squad_json(path, SPAN_SCHEMA).select(["id", "context", "question"]).to_pylist()
            first = {row["context"]: row["id"] for row in reversed(rows)}
            for context, key in first.items():          # too long to be joined with itself in another language
                bundles["paragraph", key, code] = {code: context}
            for row in rows:
                bundles.setdefault(("question", row["id"]), {})[code] = row["question"]
    if (data / "tatoeba_v1").is_dir():
        for _, config, _, rows in READERS["tatoeba"].read(data / "tatoeba_v1", say):
            if (code := three[config.split(".")[1]]) in wanted:
                for line, row in enumerate(rows.to_pylist()):
                    bundles[config, line] = {code: row["source_sentence"], "en": row["target_sentence"]}
    for path in sorted((data / "xcopa").glob("*/*.jsonl")):
        split, code, _ = path.name.split(".")
        if code in wanted:
            for _, row in jsonl_rows(path, ("premise", "choice1", "choice2", "idx")):
                told = f"{row['premise']} {row['choice1']} {row['choice2']}"
                bundles.setdefault(("xcopa", split, row["idx"]), {})[code] = told
    if not bundles:
        raise DataError(f"{data} has no text in {', '.join(sorted(wanted))}: it needs xquad/, tatoeba_v1/ or xcopa/")
    return list(bundles.values())


def draw_lines(bundles: Sequence[Texts], count: int, seed: int) -> list[str]:
    """`count` texts for pretraining: a language by temperature, a text of it, and with the probability PAIRED the same
    text in another language behind it."""
    from peft_stilts.data.sample import draw_texts
    from peft_stilts.digest import derived_seed

    of = lines_by_language(bundles)
    generator = np.random.Generator(np.random.PCG64(derived_seed("pairs", seed)))
    lines = []
    for code, place in draw_texts({code: len(texts) for code, texts in of.items()}, count, TEMPERATURE, seed):
        bundle = of[code][place]
        others = [other for other in bundle if other != code]
        parts = [bundle[code]]
        if others and generator.random() < PAIRED:
            parts.append(bundle[others[generator.integers(len(others))]])
        lines.append(" ".join(parts))
    return lines


def make_tokenizer(lines: Sequence[str], size: int, folder: Path) -> PreTrainedTokenizerBase:
    """The Unigram tokenizer in XLM-R's layout in `folder`, trained on `lines` first where it is not there yet.

    No piece has letters and punctuation, which treebanks take apart. The library's trainer gives other scores in every
    process, so what was trained once is kept. `<mask>` is last.
    """
    from tokenizers import pre_tokenizers
    from tokenizers.trainers import UnigramTrainer
    from transformers import AutoTokenizer, XLMRobertaTokenizer

    special = ("<s>", "<pad>", "</s>", "<unk>")
    if not (folder / "tokenizer.json").is_file():
        plain = XLMRobertaTokenizer(vocab=[(piece, 0.0) for piece in (*special, "▁", "<mask>")])
        backend = plain.backend_tokenizer
        backend.pre_tokenizer = pre_tokenizers.Sequence([
            backend.pre_tokenizer, pre_tokenizers.Punctuation("isolated")])
        backend.train_from_iterator(lines, UnigramTrainer(
            vocab_size=size - 1, special_tokens=list(special), unk_token="<unk>", max_piece_length=LONGEST_PIECE,
            show_progress=False))
        pieces = [(piece, score) for piece, score in json.loads(backend.to_str())["model"]["vocab"]
                  if piece not in (*special, "<mask>")]
        vocabulary = [*((piece, 0.0) for piece in special), *pieces, ("<mask>", 0.0)]
        draft = folder.with_name(f".{folder.name}.draft")
        XLMRobertaTokenizer(vocab=vocabulary, model_max_length=LONGEST - 2).save_pretrained(draft)
        draft.rename(folder)
    return AutoTokenizer.from_pretrained(folder)


def model_config(tokenizer: PreTrainedTokenizerBase) -> XLMRobertaConfig:
    """The shape of the shipped miniature encoder, with this tokenizer's vocabulary."""
    from transformers import XLMRobertaConfig

    from peft_stilts.miniature.pretraining import SETTINGS

    return XLMRobertaConfig(**{**SETTINGS.model, "vocab_size": len(tokenizer)})


def pretrain(lines: Sequence[str], tokenizer: PreTrainedTokenizerBase, folder: Path, seed: int) -> None:
    """Pretrain an encoder on masked words of `lines` and write it with its MLM head to the new `folder`, cost.json
    beside its files; goes on where it was stopped, and does nothing when it is there."""
    from peft_stilts.data.mask import encode_masked
    from peft_stilts.grid.pretrain import save
    from peft_stilts.model import stack as stacks
    from peft_stilts.model.encoder import random_encoder
    from peft_stilts.model.heads import new_head
    from peft_stilts.model.learner import Learner
    from peft_stilts.progress import of_training, progress
    from peft_stilts.store import write_atomic
    from peft_stilts.tasks.controls import MLM
    from peft_stilts.train.loop import train

    if (folder / "cost.json").is_file():
        return
    features, work = encode_masked(lines, tokenizer, LONGEST, seed), folder.with_name(f".{folder.name}.work")
    config = model_config(tokenizer)
    encoder = random_encoder(config, seed, tokenizer)
    head = new_head("mlm", config, config.vocab_size, seed)
    head.tie(encoder.model.get_input_embeddings())
    learner = Learner(stacks.full(encoder), {MLM: head})
    with progress("pretraining", int(features.lengths.sum()), "tokens") as step:
        record = train(learner, {MLM: features}, PRETRAINING, seed=seed, folder=work, progress=of_training(step),
                       say=print)
    if not (folder / "config.json").is_file():
        save(learner, config, tokenizer, folder)
    write_atomic(folder / "cost.json", json.dumps(dataclasses.asdict(record), indent=1))
    shutil.rmtree(work, ignore_errors=True)


def random_folder(folder: Path, tokenizer: PreTrainedTokenizerBase, seed: int) -> Path:
    """A folder with random weights from `seed` in the same shape; made where it is not there yet."""
    from peft_stilts.model.adapter_io import save_encoder
    from peft_stilts.model.encoder import random_encoder

    if not (folder / "tokenizer.json").is_file():       # written last
        save_encoder(random_encoder(model_config(tokenizer), seed, tokenizer).model, tokenizer, folder)
    return folder


def recipe_file(out: Path, model: str) -> Path:
    """The recipe of the tagger on a kind of encoder, as a file in `out`."""
    from peft_stilts.store import write_atomic

    path, settings = out / f"{model.replace(' ', '_')}.yaml", POS | {"full": {"lr": RATES[model]}}
    write_atomic(path, json.dumps({"intermediate": "none", "targets": ["udpos"], "training": {"udpos": settings}}))
    return path


def predict(encoder: Path, out: Path, recipe: Path, seed: int) -> dict[str, dict[str, Tags]]:
    """Train the tagger with `seed` on top of `encoder` and tag all rows of OUT/data: {language: {row: tags}}."""
    from peft_stilts.evaluate.submission import parse_tags
    from peft_stilts.grid.plan import make_plan
    from peft_stilts.grid.run import run
    from peft_stilts.grid.show import begin
    from peft_stilts.spec import Request
    from peft_stilts.store import Store
    from peft_stilts.tasks.xtreme import UPOS

    request = Request((str(recipe),), scale=str(encoder), seeds=(seed,), data_root=out / "data", runs=out / "runs",
                      precision="fp32")
    with Problems() as found:
        plan = make_plan(request, found)
    begin(plan)
    run(plan)
    (cell,) = plan.cells
    folder = Store(out / "runs").open(cell.stage.key) / "predictions" / "udpos"
    return {code: parse_tags((folder / f"test-{code}.tsv").read_text(encoding="utf-8"), code, UPOS)
            for code in cell.stage.languages}


def by_treebank(predicted: Mapping[str, Mapping[str, Tags]], tests: Sequence[Treebank]) -> dict[str, list[Tags]]:
    """The predictions of each treebank, by its name: a language's rows are those of its treebanks in their order."""
    found, begin = {}, Counter()
    for bank in tests:
        rows = range(begin[bank.code], begin[bank.code] + len(bank.rows))
        found[bank.name] = [predicted[bank.code][str(row)] for row in rows]
        begin[bank.code] += len(bank.rows)
    return found


def all_scores(out: Path, pretrained: Path, train: pa.Table, tests: Sequence[Treebank], tokenizer: Any,
               chosen: Sequence[int]) -> pd.DataFrame:
    """Rows (treebank, language, words, model, seed, metric, score) of the controls and the pretrained encoder."""
    usual, forms = most_frequent(tags_of(train)), form_tags(train["tokens"].to_pylist(), tags_of(train))
    found = {("most frequent tag", 0): {bank.name: control_tags(bank.words, {}, usual) for bank in tests},
             ("word forms", 0): {bank.name: control_tags(bank.words, forms, usual) for bank in tests}}
    for seed in chosen:
        control = random_folder(pretrained.with_name(f"{pretrained.name}-random-{seed}"), tokenizer, seed)
        for model, encoder in ((RANDOM, control), (PRETRAINED, pretrained)):
            found[model, seed] = by_treebank(predict(encoder.resolve(), out, recipe_file(out, model), seed), tests)
    words = {bank.name: sum(map(len, bank.words)) for bank in tests}
    return pd.DataFrame([
        {"treebank": bank.name, "language": bank.code, "words": words[bank.name], "model": model, "seed": seed,
         "metric": metric, "score": value}
        for (model, seed), predicted in found.items() for bank in tests
        for metric, value in score(predicted[bank.name], bank).items()])


def run_all(data: Path, out: Path, chosen: Sequence[int], count: int, vocabulary: int = VOCABULARY,
            limit: int | None = None, say: Say = print) -> pd.DataFrame:
    """Do everything that is not done yet, and write OUT/report.md and OUT/scores.csv. `limit`: only the first rows of
    the English development treebank and of each test treebank."""
    import pyarrow.compute as pc

    from peft_stilts.digest import key_of
    from peft_stilts.miniature.pretraining import SETTINGS
    from peft_stilts.store import replace_file, write_atomic

    dev, tests = read_treebanks(data / "ud", say)
    dev = dev.slice(0, limit)
    tests = [dataclasses.replace(bank, rows=bank.rows.slice(0, limit)) for bank in tests]
    kept = [not held_out(tokens) for tokens in dev["tokens"].to_pylist()]
    train, select = dev.filter(kept), dev.filter(pc.invert(kept))
    write_root(out / "data", train, select, tests, say)
    bundles = read_bundles(data, {bank.code for bank in tests}, say)
    lines = draw_lines(bundles, count, 1)
    texts = [text for bundle in bundles for text in bundle.values()]
    tokenizer = make_tokenizer(texts, vocabulary, out / f"tokenizer-{key_of([texts, vocabulary])}")
    made_of = [lines, tokenizer.backend_tokenizer.to_str(), dataclasses.asdict(PRETRAINING), LONGEST,
               dict(SETTINGS.model)]
    encoder = out / "encoders" / key_of(made_of)
    pretrain(lines, tokenizer, encoder, 1)
    scores = all_scores(out, encoder, train, tests, tokenizer, chosen)
    sizes = {"train": len(train), "select": len(select), "words": sum(map(len, train["tokens"].to_pylist()))}
    replace_file(out / "scores.csv", lambda path: scores.to_csv(path, index=False, lineterminator="\n"))
    write_atomic(out / "report.md", report(scores, out, encoder, bundles, sizes))
    return scores


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("--data", required=True, help="folder with xquad/, tatoeba_v1/, xcopa/ and ud/")
    parser.add_argument("--out", type=Path, default=Path("real_languages"), help="(%(default)s)")
    parser.add_argument("--seeds", default="1,2,3", help="whole numbers with commas between (%(default)s)")
    parser.add_argument("--texts", default="100000", help="texts drawn for pretraining (%(default)s)")
    parser.add_argument("--limit", help="only the first N sentences of each treebank")
    flags = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        chosen, count = seeds(flags.seeds), whole(flags.texts, "texts")
        limit = whole(flags.limit, "limit") if flags.limit else None
        run_all(existing_folder(flags.data, "data"), flags.out, chosen, count, limit=limit)
        print((flags.out / "report.md").read_text(encoding="utf-8"))
    except StiltsError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
