"""Write docs/tasks/: one page for every task, from the task table, the recipes and the miniature world.

`python tools/task_pages.py` writes the pages and their index; `--check` fails (exit status 1) when one is out of date.
The examples are rows of the miniature world, so no line of another data set is in them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from peft_stilts.data.encode import Features  # noqa: E402
from peft_stilts.errors import DataError  # noqa: E402
from peft_stilts.evaluate.predict import FORMS  # noqa: E402
from peft_stilts.grid.base import DEFAULT_LAYERS, miniature_folder  # noqa: E402
from peft_stilts.grid.builder import RETRIEVAL_LENGTH  # noqa: E402
from peft_stilts.grid.stages import tag_set  # noqa: E402
from peft_stilts.languages import LANGUAGES  # noqa: E402
from peft_stilts.miniature.provider import MiniatureWorld  # noqa: E402
from peft_stilts.recipe import read_recipe  # noqa: E402
from peft_stilts.spec import TrainingSettings  # noqa: E402
from peft_stilts.store import write_atomic  # noqa: E402
from peft_stilts.tasks import INTERMEDIATE, NOT_COMPARABLE, TARGETS, TASKS, Split, Task  # noqa: E402
from peft_stilts.tasks.releases import READERS  # noqa: E402
from peft_stilts.tasks.sources import OFF_HUB, dev_split, load_checked, scored_split  # noqa: E402

FOLDER = ROOT / "docs" / "tasks"
PROTOCOLS = ("jiant", "xtreme")
MARK = "<!-- written by tools/task_pages.py: change the task table or that file, and run it again -->"
WORLD = MiniatureWorld()

FORM_RULES: dict[str, tuple[str, ...]] = {
    "span": (
        "Input: `<s> question </s></s> piece of the context </s>`. The question is cut after `max_query_length` "
        "tokens; a long context goes on in windows that begin every `doc_stride` tokens (a step, not an overlap).",
        "Two logits a token, start and end; the loss is the mean of both cross-entropies. In a window without the "
        "answer both are `<s>`.",
        "Every question gets exactly one answer: the best span over all its windows, at most `max_answer_length` "
        "tokens, read out as characters of the context."),
    "classification": (
        "Input: `<s> first text </s></s> second text </s>`; a pair too long loses tokens at the end of its longer "
        "half.",
        "One logit a label from the state of `<s>` (dense, tanh, linear, as in XTREME's scripts)."),
    "tagging": (
        "Every word is tokenised alone; its first token carries the tag. A word without a token, or longer than a "
        "window, becomes `<unk>`. A sentence longer than `max_length` goes on in a further window.",
        "Every word gets exactly one tag, and scores are over the original words, at any `max_length`."),
    "choice": (
        "Input, once a choice: `<s> prompt </s></s> choice </s>`; a pair too long loses tokens at the *start* of its "
        "longer half (jiant's `truncate_end=False`).",
        "One logit a choice, softmax over the choices of a question."),
    "retrieval": (
        "Input: `<s> sentence </s>`. A sentence's vector is the mean over all its tokens, `<s>` and `</s>` included, "
        "of one layer's states.",
        "Nothing is trained on this task: the encoder (after its intermediate task) is used as it is.",
        "The index holds the foreign sentences, the queries are the English ones; nearest by cosine."),
    "mining": (
        "Input: `<s> sentence </s>`; vectors as in Tatoeba. Nothing is trained on this task.",
        "Ratio margin over 4 neighbours in both directions, the best candidates of both merged and matched greedily "
        "one to one; pairs above the threshold that is best on the dev pools of the language are the answer.",
        "F1 over the set of id pairs. Pools are never cut by `--limit_eval`: half a pool is another task."),
}
FORM_RULES["nullable_span"] = (
    *FORM_RULES["span"], "A question without an answer has start and end at `<s>` in every window; the prediction is "
    "'no answer' where that scores above every span.")

RULES: dict[str, tuple[str, ...]] = {
    "xnli": ("Trained on MNLI, with MNLI's head and labels; nothing of XNLI's own dev set is used.",),
    "pawsx": ("The hub's copy has 49,175 English training rows of 49,401, 1,961 Spanish dev and 1,999 Korean test "
              "rows: some were lost in its conversion.",),
    "udpos": (
        "**F1 is not accuracy.** XTREME's paper says accuracy, its scorer computes seqeval's F1 on bare tags: "
        "neighbouring words of one tag are one span, and a tag's first letter is taken for a prefix. `f1` is that "
        "number, the one to compare with the literature; `accuracy` over words stands beside it.",
        "The hub's counts but of English and Kazakh were not at hand: the other test sizes below are guesses for "
        "estimates of time.",
        "`tools/mirror.py udpos` fuses multiword tokens as XTREME does; `udpos_syntactic` keeps one word for every "
        "syntactic word."),
    "panx": ("Span F1 of seqeval, not strict. Sizes of the smaller languages are below 10,000 in the release; the "
             "numbers here are upper bounds for estimates of time.",),
    "xquad": (
        "Trained on SQuAD v1.1. XQuAD *is* part of SQuAD's development set, so its 240 paragraphs are left out of the "
        "rows that select a checkpoint.",
        "Scored by SQuAD v1.1's English normalisation in every language, as XTREME does: no segmentation of Chinese "
        "or Thai."),
    "mlqa": (
        "Trained on SQuAD v1.1. Context and question are in the same language.",
        "Scored by MLQA's normalisation, which knows the language: its articles, all Unicode punctuation, and Chinese "
        "characters one by one."),
    "tydiqa": (
        "GoldP, trained on the English rows alone. XTREME's test set is the release's dev set, so a checkpoint is "
        "selected on 500 of its 3,696 English training questions, held out by the hash of their id (at most a quarter "
        "of a smaller set).",
        "Scored by SQuAD v1.1's English normalisation in every language."),
    "tatoeba": ("`--layers all` scores every layer and draws the curve; `--centre` takes each language's mean vector "
                "away first.",),
    "bucc2018": (
        "XTREME's dev is BUCC's sample-gold, its test BUCC's training-gold (BUCC's own test gold is hidden).",
        "Sizes are sentences of both pools together, about.",
        "Under the protocol `xtreme` the vector is the state of `<s>` five layers below the top, as its script says; "
        "jiant pools the mean of layer 14."),
    "bucc_gold": (
        "**Not comparable with XTREME's BUCC.** The hub's copy holds the gold pairs only, without the many sentences "
        "that have no translation: a much easier task. It is shown as such everywhere and is in no mean over targets.",
        "Sizes are sentences of both sides together."),
    "anli_plus": (
        "ANLI rounds 1 to 3, SNLI and MNLI under one head, each row counting the same, so each set in proportion to "
        "its size.",
        "SNLI's pairs without a gold label (-1) are left out."),
    "squad": ("A checkpoint is selected on development questions whose paragraph is in no XQuAD question: XQuAD is "
              "scored, so it is never looked at before. (The release's number below counts all.)",),
    "squad_v2": ("`best` is the mean of the best F1 and the best exact match over all thresholds for 'no answer', "
                 "jiant's headline; `f1` and `exact_match` say 'no answer' where its logit is the highest.",
                 "Selection leaves XQuAD's paragraphs out, as for SQuAD (the release's number below counts all)."),
    "hellaswag": ("Prompt `ctx_a`, choices `ctx_b` and an ending. Labels are the texts \"0\" to \"3\" in the release, "
                  "\"\" in its test split, which is never read.",),
    "ccg": ("Tags are the supertags of the training rows, sorted; a tag seen in development only is never right.",),
    "cosmosqa": ("Prompt: the context and the question; choices: the four answers.",),
    "commonsenseqa": ("Prompt: the question; choices: the texts of A to E.",),
    "mnli": ("Selection on `validation_matched`.",),
    "qqp": ("`not_duplicate` is 0 in the release, `duplicate` 1.",),
}
ESTIMATED = {"udpos", "panx", "pawsx", "bucc2018"}
"""Tasks whose row counts in the task table are not the release's to the row."""
MIRRORS = {"anli_plus": ("anli", "snli", "mnli"), "bucc_gold": ()}
"""Task -> the tasks of tools/mirror.py that read its original files, where it is not the one of its own name."""
TRAINED = ("epochs", "features_per_step", "lr", "warmup_ratio", "warmup_steps", "weight_decay", "max_length")
SPANS = ("doc_stride", "max_query_length", "max_answer_length", "n_best")
SELECTED = ("select_every_steps", "select_examples", "patience", "keep")


def pages() -> dict[str, str]:
    """{file name: text} of every page and of the index, README.md."""
    return {"README.md": index()} | {f"{name}.md": page(task) for name, task in TASKS.items()}


def index() -> str:
    """The list of all tasks."""
    lines = [MARK, "", "# Tasks", "",
             f"{len(INTERMEDIATE)} English intermediate tasks, XTREME's {len(TARGETS)} targets, and "
             f"{', '.join(NOT_COMPARABLE)}, which is not comparable. `all` stands for the nine intermediate tasks "
             "together, `a+b` for any mixture (`intermediate: [a, b]` in a recipe). A task of one's own: "
             "[../own_tasks.md](../own_tasks.md).", "",
             "A checkpoint is chosen on English development rows only, and never on an item that is scored. A test "
             "split without labels, or with labels blanked to one value, is predicted for a submission and never "
             "scored.", ""]
    for title, names in (("Intermediate tasks", INTERMEDIATE), ("Target tasks", (*TARGETS, *NOT_COMPARABLE))):
        lines += [f"## {title}", "", "| task | form | languages | headline metric | trained on | licence |",
                  "|---|---|---|---|---|---|"]
        for name in names:
            task = TASKS[name]
            lines.append(f"| [{name}]({name}.md) | {task.form} | {len(task.languages)} | {task.primary} | "
                         f"{task.trained_on or 'nothing'} | {task.licence} |")
        lines.append("")
    return "\n".join(lines)


def page(task: Task) -> str:
    """The page of one task."""
    citation = task.citation + "." * (not task.citation.endswith("?"))
    parts = [MARK, "", f"# {task.name}", "", citation, "", *_facts(task), "",
             "## Rules", "", *(f"- {rule}" for rule in (*RULES.get(task.name, ()), *FORM_RULES[task.form])), "",
             "## Sizes", "", *_sizes(task), "", "## Settings", "", *_settings(task), "",
             "## An example from the miniature world", "", *_example(task), ""]
    return "\n".join(parts)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """A Markdown table."""
    head = list(head)
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]


def _facts(task: Task) -> list[str]:
    if task.is_target:
        trained = ("nothing is trained" if task.trained_on is None else "trained on its own English rows"
                   if task.trained_on == task.name else f"trained on English [{task.trained_on}]({task.trained_on}.md)")
        kind = f"target, scored in {len(task.languages)} languages; {trained}"
    else:
        users = [f"[{name}]({name}.md)" for name in TARGETS if TASKS[name].trained_on == task.name]
        kind = "English intermediate task" + (f"; the training task of {' and '.join(users)} too" if users else "")
    rest = [name for name in task.metrics if name != task.primary]
    rows = [("kind", kind), ("form", task.form),
            ("metric", f"**{task.primary}** is the headline" + (f"; also {', '.join(rest)}" if rest else "")),
            ("labels", ", ".join(f"`{label}`" for label in task.labels)), ("licence", task.licence)]
    first = task.languages[0]
    rows += [(f"{name} rows", "; ".join(map(_told, splits))) for name, splits in (
        ("training", task.train), ("selection", task.select), (f"scored `{first}`", _shown(task.test, task)),
        (f"threshold `{first}`", _shown(task.dev, task)))]
    repos = {split.repo for split in (*task.train, *_shown(task.test, task))}
    rows += [("not on the hub", OFF_HUB[repo].replace("<", "&lt;") + ".") for repo in sorted(repos) if repo in OFF_HUB]
    rows += [("original files", f"`python tools/mirror.py {name} --source DIR --data_root DATA`: "
              f"{READERS[name].expected.removeprefix('expected ')}")
             for name in MIRRORS.get(task.name, (task.name,)) if name in READERS]
    return table(("", ""), ((name, value) for name, value in rows if value))


def _shown(of_language, task: Task) -> tuple[Split, ...]:
    """The split of the first language, for its repository and split; () where there is none."""
    return () if of_language is None else (of_language(LANGUAGES[task.languages[0]]),)


def _told(split: Split) -> str:
    chosen = f", rows `{split.rows.name}`" if split.rows else ""
    place = "" if split.revision == "main" else f" at `{split.revision}`"
    return f"`{split.repo}` `{split.config}` `{split.split}`{place}{chosen}"


def _sizes(task: Task) -> list[str]:
    """Published rows beside those of the miniature world; then every language."""
    about = "~" * (task.name in ESTIMATED)

    def published(name: str) -> str:
        return f"{about}{task.rows[name]:,}" if name in task.rows else ""

    rows = [(name, published(name), f"{sum(_count(task, split) for split in splits):,}")
            for name, splits in (("train", task.train), ("select", task.select)) if splits]
    note = []
    if task.is_target:
        counts = {code: _count(task, scored_split(WORLD, task, code)) for code in WORLD.languages(task)}
        total = sum(task.rows[code] for code in task.languages)
        rows.append(("scored", f"{about}{total:,} in {len(task.languages)} languages",
                     f"{sum(counts.values()):,} in {len(counts)} languages"))
        if task.dev is not None:
            dev = [_count(task, dev_split(WORLD, task, code)) for code in counts]
            rows.append(("threshold", "", f"{sum(dev):,} in {len(dev)} languages"))
        note = ["", *table(("code", "language", "configuration", "rows"), (
            (code, LANGUAGES[code].name, f"`{task.test(LANGUAGES[code]).config}`", published(code))
            for code in task.languages))]
    return [*table(("rows", "published release", "miniature world"), rows), *note]


def _count(task: Task, split: Split) -> int:
    return len(load_checked(WORLD, task.form, split, None, task.labels))


def _settings(task: Task) -> list[str]:
    """Both protocols' values for XLM-R, full fine-tuning and LoRA, of the stage that the task is trained in."""
    if task.form in ("retrieval", "mining"):
        chosen = [_recipe("none", protocol).settings(task.name, "full", False) for protocol in PROTOCOLS]
        rows = [("pooling", *(settings.pooling for settings in chosen)),
                ("layer", *(_layer(settings.layer) for settings in chosen)),
                ("max_length", *(str(RETRIEVAL_LENGTH) for _ in chosen))]
        return table(("", *PROTOCOLS), rows)
    recipe, stage = ("none", task.trained_on) if task.is_target else (task.name, "intermediate")
    names = (*TRAINED, *(SPANS if task.form.endswith("span") else ()), *SELECTED)
    columns = [(protocol, method) for method in ("full", "lora") for protocol in PROTOCOLS]
    chosen = [_recipe(recipe, protocol).settings(stage, method, False) for protocol, method in columns]
    rows = [(name, *(_value(settings, name) for settings in chosen)) for name in names]
    which = f"`{stage}` of the protocol" if task.is_target else f"`intermediate` of the recipe `{recipe}`"
    lora = _recipe(recipe, PROTOCOLS[0]).lora(stage, "lora", False)
    return [f"Stage {which}, for XLM-R (the miniature world has its own):", "",
            *table(("", *(f"{protocol}, {method}" for protocol, method in columns)),
                   (row for row in rows if any(row[1:]))), "",
            f"LoRA: rank {lora.rank}, alpha {lora.alpha}, dropout {lora.dropout}, unverified at `large`."]


@cache
def _recipe(name: str, protocol: str):
    return read_recipe(name, protocol)


def _value(settings: TrainingSettings, name: str) -> str:
    value = getattr(settings, name)
    if name == "warmup_ratio" and settings.warmup_steps is not None:
        return ""
    if settings.keep == "last" and name in ("select_every_steps", "select_examples", "patience"):
        return "-"
    if name == "select_every_steps" and value is None:
        return "each epoch"
    if name == "patience" and value >= 1_000_000:
        return "no early stop"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _layer(layer: int | None) -> str:
    told = {depth: usual if layer is None else depth + 1 + layer if layer < 0 else layer
            for depth, usual in DEFAULT_LAYERS.items() if depth > 4}
    return ", ".join(f"{place} of {depth}" for depth, place in told.items())


def _example(task: Task) -> list[str]:
    """A row in the release's columns, the row that the program makes of it, and what the encoder reads."""
    language = next((code for code in WORLD.languages(task) if code != "en"), "en")
    split = scored_split(WORLD, task, language) if task.is_target else task.train[0]
    try:
        raw, rows = WORLD.load(split), load_checked(WORLD, task.form, split, None, task.labels)
    except DataError as error:
        return [f"None: {error}"]
    chosen = [0]
    if task.form == "mining":
        matched = next(row for row, match in enumerate(rows["match"]) if match)
        chosen = [matched, list(rows["id"]).index(rows[matched]["match"])]
    where = f"in {WORLD.language(language).name} (`{language}`), an invented language" if language != "en" else \
        "in English"
    lines = [f"An invented row {where}; it is of no real data set. `{split.repo}` `{split.config}` `{split.split}` has "
             "these columns:", "", "```text",
             *(_row(row) for row in ([raw[0]] if raw.num_rows != rows.num_rows else [raw[row] for row in chosen])),
             "```"]
    if split.columns is not None:
        lines += ["", "which become:", "", "```text", *(_row(rows[row]) for row in chosen), "```"]
    lines += ["", "and the encoder reads (decoded from the miniature tokenizer's pieces):", "", "```text",
              *_read(task, rows.select(chosen)), "```"]
    return lines


def _row(row: Mapping) -> str:
    return "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in row.items())


@cache
def _tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(miniature_folder())


def _read(task: Task, rows) -> list[str]:
    settings = read_recipe("none", "jiant").settings("squad", "full", True)
    features: Features = FORMS[task.form].encode(rows, _tokenizer(), settings, tag_set(task, rows))
    return [_tokenizer().decode(ids.tolist(), clean_up_tokenization_spaces=False) for ids in features.input_ids]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is out of date")
    arguments = parser.parse_args()
    wanted = pages()
    there = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md"))}
    stale = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
    if arguments.check:
        if stale:
            print(f"out of date in docs/tasks: {', '.join(stale)}; run python tools/task_pages.py", file=sys.stderr)
        return bool(stale)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in stale:
        if name in wanted:
            write_atomic(FOLDER / name, wanted[name])
        else:
            (FOLDER / name).unlink()
    print(f"{len(stale)} of {len(wanted)} pages written to docs/tasks" if stale else "every page was up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
