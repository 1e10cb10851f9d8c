"""Model cards: metadata the hub reads back, code that loads with PEFT alone, honest limits, and hostile words."""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig

from peft_stilts.data.pack import make_pack
from peft_stilts.digest import canonical_json
from peft_stilts.errors import CheckpointError, DataError, UsageError
from peft_stilts.grid.base import MINIATURE, miniature_folder
from peft_stilts.model.adapter_io import load_head, save_encoder, save_head
from peft_stilts.model.bundle import read_bundle, write_bundle
from peft_stilts.model.encoder import load_encoder, random_encoder
from peft_stilts.model.heads import new_head
from peft_stilts.model.quantize import NF4, quantize
from peft_stilts.model.stack import lora
from peft_stilts.results import RESULTS, summary
from peft_stilts.share.card import LICENCES, card, check_licence, write_card
from peft_stilts.share.card_facts import markdown, pathless, plain
from peft_stilts.spec import LoraSettings

SHAPE = dict(vocab_size=60, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
             max_position_embeddings=40, type_vocab_size=1, pad_token_id=1)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = {"id": "FacebookAI/xlm-roberta-base", "revision": COMMIT}
SQUAD = {"repo": "rajpurkar/squad", "config": "plain_text", "split": "train", "revision": COMMIT, "rows": None}
STAGE = {"name": "squad", "tasks": ["squad"], "method": "lora", "policy": "stack", "seed": 1, "limit_train": None,
         "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0}, "settings": {"lr": 0.001, "epochs": 2.0}}
FORMS = {"squad": ("span", 2, ()), "mnli": ("classification", 3, ("yes", "perhaps", 'no"')),
         "panx": ("tagging", 7, ("O", *"ABCDEF")), "hellaswag": ("choice", 4, ())}


def make_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(f"w{i}" for i in range(50))]
    whole = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    whole.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=whole, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
                                   unk_token="<unk>", mask_token="<mask>")


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("some one's machine") / "encoder"
    config = XLMRobertaConfig(**SHAPE, initializer_range=0.3)
    save_encoder(random_encoder(config, 3).model, make_tokenizer(), folder)
    return folder


def encoder_of(folder, quantized=False):
    found = load_encoder(folder)
    if not quantized:
        return found
    return dataclasses.replace(found, model=quantize(found.model, torch.float32),
                               identity=found.identity | {"quantization": NF4})


def make_bundle(folder, out, stages, scores=(), base=(), method="lora", recipe=(STAGE,), data=(SQUAD,), licence="mit",
                rank=4):
    """A bundle with an adapter and a head for each of `stages` (task, policy), with any values in its weights."""
    adapters, heads = [], {}
    for depth, (task, policy) in enumerate(stages, 1):
        encoder = encoder_of(folder, method == "qlora")
        maps = ("query", "value") if depth == 2 else LoraSettings().target_maps
        shape = LoraSettings(rank, 8.0, 0.0, target_maps=maps)
        made = lora(encoder, adapters, shape, task, seed=depth, policy=policy,
                    method="lora" if method == "qlora" else method)
        generator = torch.Generator().manual_seed(depth)
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
        place = out.parent / f"{out.name}-parts" / str(depth)
        made.save_adapter(place / "adapter")
        adapters.append(place / "adapter")
        if task in FORMS:
            form, count, labels = FORMS[task]
            save_head(new_head(form, encoder.config, count, seed=depth), place / "head", task, labels)
            heads[task] = (place / "head", depth)
    return write_bundle(out, made.identity | {"shape": {name: getattr(encoder.config, name) for name in SHAPE}}
                        | dict(base), adapters, heads, recipe=list(recipe), data=list(data),
                        versions={"torch": "2.13.0", "peft": "0.21.2"}, licence=licence, scores=list(scores))


def score_rows(values, **more):
    """Rows of the results table: {(intermediate, target, language, seed): score}."""
    metric = {"xquad": "f1", "xnli": "accuracy", "tatoeba": "accuracy", "tydiqa": "f1"}
    return [{"recipe": "squad" if name != "none" else "none", "scale": "base", "base_model": HUB["id"],
             "base_revision": COMMIT, "data_source": "hub", "protocol": "jiant", "method": "lora",
             "method_config": canonical_json({"precision": "fp32"}), "policy": "stack", "intermediate": name,
             "intermediate_variant": "", "target": target, "target_variant": "", "language": language,
             "split": "validation" if target != "xnli" else "test", "metric": metric[target], "primary": True,
             "seed": seed, "score": score, "examples": 100, "stage_key": f"key-{name}-{seed}"} | more
            for (name, target, language, seed), score in values.items()]


SCORES = score_rows({
    (name, target, code, seed): 40.0 + 3 * seed * (name == "squad") + seed + 7 * (code == "en") + (target == "xnli")
    for name in ("none", "squad") for target in ("xquad", "xnli") for code in ("en", "de", "el") for seed in (1, 2, 3)})


@pytest.fixture(scope="module")
def shared_bundle(encoder_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle") / "squad-mnli"
    return make_bundle(encoder_folder, out, [("squad", "stack"), ("mnli", "stack")], SCORES, HUB)


def body(text):
    return text.split("\n---\n", 1)[1]


def tables(text):
    """The tables of a card as a Markdown renderer sees them: lists of rows of cells, each as the text shown."""
    found, cell = [], False
    for token in MarkdownIt("commonmark").enable("table").parse(body(text)):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and cell:
            found[-1][-1].append("".join(part.content for part in token.children))
        cell = token.type in ("td_open", "th_open")
    return found


def table_with(text, first):
    return next(table for table in tables(text) if table[0][0] == first)


def blocks(text):
    """The pieces of Python for PEFT alone (the first piece of a card is for peft_stilts)."""
    return re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)[1:]


# --- the code for PEFT alone

CASES = {
    "lora-1": ("lora", [("squad", "stack")]),
    "lora-2": ("lora", [("squad", "stack"), ("mnli", "stack")]),
    "rslora-3": ("rslora", [("squad", "stack"), ("panx", "stack"), ("hellaswag", "stack")]),
    "dora-3": ("dora", [("mnli", "stack"), ("squad", "stack"), ("hellaswag", "stack")]),
    "merge-each": ("lora", [("squad", "stack"), ("mnli", "merge"), ("panx", "merge")]),
    "merge-two": ("dora", [("squad", "stack"), ("mnli", "stack"), ("panx", "merge")]),
    "merge-then-stack": ("rslora", [("squad", "stack"), ("mnli", "merge"), ("hellaswag", "stack")]),
    "qlora-2": ("qlora", [("hellaswag", "stack"), ("mnli", "stack")]),
    "no-head": ("lora", [("a+b", "stack"), ("no_head", "stack")]),
}
RUNNER = """
import json, os, sys, torch
import bitsandbytes.nn.modules
bitsandbytes.nn.modules.has_avx512bf16 = lambda: False       # the same arithmetic on every CPU
from safetensors.torch import save_file
cases, ids, out = json.load(open(sys.argv[1])), json.loads(sys.argv[2]), {}
for name, (folder, code) in cases.items():
    os.chdir(folder)
    made = {}
    exec(compile(code, name, "exec"), made)
    with torch.no_grad():
        for place, row in enumerate(ids):
            told = made["model"](input_ids=torch.tensor([row]))
            value = torch.stack([told.start_logits, told.end_logits], -1) if "start_logits" in told else (
                told.logits if "logits" in told else told.last_hidden_state)
            out[f"{name}|{place}"] = value[0].contiguous()
assert "peft_stilts" not in sys.modules
save_file(out, sys.argv[3])
"""


def test_the_code_for_peft_alone_computes_what_our_stack_does(encoder_folder, tmp_path, monkeypatch):
    """Every block of every card, run as it stands (but for the base's folder) in a process without peft_stilts."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    rng = np.random.default_rng(5)
    ids = [rng.integers(5, 60, n).astype(np.int32) for n in (7, 12, 3, 9)]
    pack = make_pack(type("Features", (), {"input_ids": ids, "labels": {}})(), range(4), 1)
    wanted, cases = {}, {}
    for name, (method, stages) in CASES.items():
        bundle = make_bundle(encoder_folder, tmp_path / name, stages, method=method)
        code = blocks(card(bundle))
        tasks = sorted(bundle.heads, key=bundle.depth_of, reverse=True) or [None]
        order = tasks[:1] + [task for task in bundle.heads if task != tasks[0]]      # as in the card
        assert len(code) == len(order)
        for task, block in zip(order, code):
            key = f"{name}|{task}"
            assert "peft_stilts" not in block
            cases[key] = (str(bundle.folder), block.replace("path/to/the/encoder", str(encoder_folder)))
            depth = len(stages) if task is None else bundle.depth_of(task)
            encoder = encoder_of(encoder_folder, method == "qlora")
            stack = lora(encoder, bundle.adapter_folders[:depth], None).eval()
            with torch.no_grad():
                states = stack(pack)
                if task:
                    head = load_head(bundle.head_folder(task), encoder.config, task, FORMS[task][0]).eval()
                    states = head.logits(states, pack)
            wanted[key] = states.reshape(-1) if task in ("mnli", "hellaswag") else states
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    environment = os.environ | {"PYTHONPATH": "", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", RUNNER, tmp_path / "cases.json",
                           json.dumps([row.tolist() for row in ids]), tmp_path / "out.safetensors"],
                          capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = load_file(tmp_path / "out.safetensors")
    assert len(wanted) == 21
    for key, expected in wanted.items():
        together = torch.cat([found[f"{key}|{place}"] for place in range(len(ids))])
        torch.testing.assert_close(together, expected, atol=2e-5, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


def test_the_adapters_of_those_cases_all_matter(encoder_folder, tmp_path):
    """That the comparison could fail: leaving out the line that lets the second adapter act changes the states."""
    bundle = make_bundle(encoder_folder, tmp_path / "two", [("squad", "stack"), ("mnli", "stack")])
    ids = [np.arange(5, 15, dtype=np.int32)]
    pack = make_pack(type("Features", (), {"input_ids": ids, "labels": {}})(), range(1), 1)
    with torch.no_grad():
        one, both = (lora(load_encoder(encoder_folder), bundle.adapter_folders[:n], None).eval()(pack) for n in (1, 2))
    assert (one - both).abs().max() > 0.05


def test_code_for_a_hub_id_pins_the_revisions_and_is_python(shared_bundle):
    text = card(shared_bundle, "ada/squad-mnli")
    for block in blocks(text):
        compile(block, "card", "exec")
        assert 'folder = snapshot_download("ada/squad-mnli")' in block
        assert f'base, revision = "FacebookAI/xlm-roberta-base", "{COMMIT}"' in block
    assert "peft_stilts.load('ada/squad-mnli', task='mnli')" in text
    commands = re.search(r"```bash\n(.*?)\n```", text, re.DOTALL)[1].splitlines()
    assert [shlex.split(line)[2:5] for line in commands] == [
        ["peft_stilts", "evaluate", "ada/squad-mnli"], ["peft_stilts", "recipe", "none"]]
    assert "--targets xquad" in commands[0]         # SQuAD's head is there, and xquad was scored


# --- metadata

def test_the_hub_reads_back_the_metadata(shared_bundle, tmp_path):
    path = write_card(shared_bundle, "ada/squad-mnli")[0]
    data = ModelCard.load(path).data
    assert (data.base_model, data.library_name, data.license) == ("FacebookAI/xlm-roberta-base", "peft", "mit")
    assert data.language == ["en", "de", "el"] and data.datasets == ["rajpurkar/squad"]
    assert {"peft_stilts", "adapter", "lora", "cross-lingual", "xtreme"} <= set(data.tags)
    assert data.get("pipeline_tag") is None         # two heads, of two kinds
    assert data.model_name == "ada/squad-mnli" and data.metrics == ["f1", "accuracy"]
    means = summary(RESULTS.frame(SCORES)).set_index(["target", "language"])["score"]
    read = {}
    for result in data.eval_results:
        target, _, language = re.match(r"(\w+) (F1|accuracy), (?:.*\()?(\w+)\b", result.metric_name).groups()
        read[target, {"average": "avg"}.get(language, language)] = result
    assert {place: result.metric_value for place, result in read.items()} == {
        place: round(value, 2) for place, value in means.items()}
    assert len(read) == 8
    german, average, xnli = read["xquad", "de"], read["xquad", "avg"], read["xnli", "el"]
    assert (german.dataset_type, german.dataset_config) == ("google/xtreme", "XQuAD.de")
    assert german.dataset_split == "validation"
    assert (average.dataset_config, average.task_type) == ("XQuAD.*", "question-answering")
    assert (xnli.dataset_config, xnli.dataset_split, xnli.task_type) == ("XNLI", "test", "text-classification")
    assert {result.dataset_name for result in read.values()} == {"xquad", "xnli"}
    assert ModelCard(path.read_text()).data.to_dict() == data.to_dict()


def test_pipeline_tag_is_that_of_the_heads(encoder_folder, tmp_path):
    one = make_bundle(encoder_folder, tmp_path / "one", [("squad", "stack")], base=HUB)
    assert ModelCard(card(one)).data.pipeline_tag == "question-answering"
    none = make_bundle(encoder_folder, tmp_path / "none", [("no_head", "stack")], base=HUB)
    assert ModelCard(card(none)).data.pipeline_tag is None
    assert ModelCard(card(none)).data.eval_results is None and "## Scores" not in card(none)
    assert "No scores come with it, in any language" in card(none)
    assert ModelCard(card(none)).data.language == ["en"]        # what it was trained on


def test_licences(shared_bundle):
    assert check_licence("cc-by-sa-4.0") == "cc-by-sa-4.0" and check_licence("other:my-terms.2") == "other:my-terms.2"
    with pytest.raises(UsageError, match="unknown licence 'apache2.0'. Did you mean 'apache-2.0'"):
        check_licence("apache2.0")
    for wrong in ("MIT", "other:", "other:My Terms", "mit\nlicense: gpl", ""):
        with pytest.raises(UsageError, match="unknown licence"):
            check_licence(wrong)
    assert all(re.fullmatch(r"[a-z0-9.+-]+", name) for name in LICENCES)
    other = dataclasses.replace(shared_bundle, licence="other:our-terms")
    data = ModelCard(card(other)).data
    assert (data.license, data.license_name, data.license_link) == ("other", "our-terms", None)
    with pytest.raises(UsageError, match="unknown licence 'free'"):
        card(dataclasses.replace(shared_bundle, licence="free"))


def test_a_licence_of_ones_own_links_its_file(encoder_folder, tmp_path):
    bundle = make_bundle(encoder_folder, tmp_path / "own", [("squad", "stack")], base=HUB, licence="other:our-terms")
    (bundle.folder / "LICENSE").write_text("Be kind.")
    assert ModelCard.load(write_card(bundle)[0]).data.license_link == "LICENSE"
    read_bundle(bundle.folder)


@pytest.mark.parametrize("repo", ["squad", "a/b/c", "ada/..", "ada/x y", "ada/x\n---", "-/x", "", "../up"])
def test_names_that_no_hub_accepts(shared_bundle, repo):
    with pytest.raises(UsageError, match="is no name for a repository|names no user"):
        card(shared_bundle, repo)


# --- honesty

def test_the_miniature_world_is_named_as_such(tmp_path):
    scores = score_rows({(name, "xquad", code, 1): 40.0 + 2 * (name == "squad") for name in ("none", "squad")
                         for code in ("en", "qa")}, scale="mini", base_model=MINIATURE, data_source="miniature")
    stages = [("squad", "stack")]
    bundle = make_bundle(miniature_folder(), tmp_path / "mini", stages, scores, {"id": MINIATURE},
                         data=[SQUAD | {"revision": "world-1"}])
    text = card(bundle, "ada/mini")
    data = ModelCard(text).data
    assert (data.base_model, data.datasets, data.language) == (None, None, None)
    assert not {"xtreme", "xlm-roberta"} & set(data.tags) and "miniature-world" in data.tags
    assert {result.dataset_type for result in data.eval_results} == {"peft_stilts-miniature-xquad"}
    assert all("not XLM-R" in result.dataset_name for result in data.eval_results)
    assert body(text).index("**This is not XLM-R.**") < body(text).index("One adapter")
    assert "**Scores in the miniature world, not XLM-R's.**" in text and "Norlish (qa)" in text
    assert "google/xtreme" not in text and "huggingface.co/" not in text
    made = {}
    code = blocks(card(bundle))[0].replace('folder = "."', f"folder = {str(bundle.folder)!r}")
    exec(compile(code, "card", "exec"), made)
    assert made["words"]["input_ids"].shape[0] == 1


def test_only_scored_languages_are_claimed(shared_bundle):
    text = card(shared_bundle, "ada/x")
    limits = text[text.index("## Intended use"):text.index("## Scores")]
    assert "It was scored in 3: English (en), German (de), Greek (el). Nothing is claimed of any other" in limits
    for language in ("French", "Chinese", "Swahili", "Thai"):
        assert language not in text


def test_scores_have_spread_and_gain(shared_bundle):
    table = table_with(card(shared_bundle), "language")
    assert table[0] == ["language", "xquad (F1)", "xnli (accuracy)"]
    # English xquad: baselines 48, 49, 50 and scores 51, 55, 59 over seeds 1 to 3.
    assert table[2] == ["English (en)", "55.0 ± 4.0 (+6.0 ± 3.0)", "56.0 ± 4.0 (+6.0 ± 3.0)"]
    assert [row[0] for row in table[1:]] == ["average", "English (en)", "German (de)", "Greek (el)"]
    assert "mean ± standard deviation over seeds 1, 2, 3" in card(shared_bundle)
    assert "The weights here are those of seed 1." in card(shared_bundle)


def test_scores_after_further_training_are_said_to_be_such(shared_bundle):
    """An intermediate adapter is scored by what is trained on top of it, but for retrieval and its own head."""
    rows = score_rows({("squad", target, "de", 1): 40.0 for target in ("xnli", "tatoeba")})
    rows += score_rows({("squad", "xquad", "de", 1): 50.0}, target_variant="head of squad")
    scored = dataclasses.replace(shared_bundle, scores=rows, recipe=[STAGE | {"role": "intermediate"}])
    text = card(scored)
    assert "**xnli: after further training on the task, on top of this stack**" in text
    names = [result.metric_name for result in ModelCard(text).data.eval_results]
    assert {name.split()[0] for name in names if name.endswith(", after further training on mnli")} == {"xnli"}
    assert sum("further training" in name for name in names) == 2      # the average, and German
    itself = card(dataclasses.replace(scored, recipe=[STAGE | {"role": "target"}]))
    assert "further training on" not in itself


def test_one_seed_and_no_baseline(shared_bundle):
    alone = dataclasses.replace(shared_bundle, scores=score_rows({("none", "tydiqa", "fi", 4): 61.25}))
    text = card(alone)
    assert table_with(text, "language")[1:] == [["average", "61.2"], ["Finnish (fi)", "61.2"]]
    assert "seed 4 alone: no spread" in text and "gains.png" not in text
    half = score_rows({("squad", "tydiqa", "fi", 4): 61.25, ("none", "xquad", "fi", 4): 30.0,
                       ("squad", "xquad", "fi", 4): 31.5, ("none", "xquad", "el", 4): 30.0})
    rows = table_with(card(dataclasses.replace(shared_bundle, scores=half)), "language")
    assert [dict(zip(rows[0], row)) for row in rows[1:]] == [
        {"language": place, "tydiqa (F1)": "61.2", "xquad (F1)": "31.5 (+1.5)"}
        for place in ("average", "Finnish (fi)")]


def test_data_licences_and_citations(shared_bundle):
    text = card(shared_bundle)
    table = table_with(text, "task")
    assert table[1] == ["squad", "yes", "yes" * 0, "CC BY-SA 4.0"]
    assert table[2:] == [["xquad", "", "yes", "CC BY-SA 4.0"], ["xnli", "", "yes", "CC BY-NC 4.0"]]
    for work in ("Phang et al. 2020", "Hu et al. 2021, LoRA", "Conneau et al. 2018, XNLI", "XTREME"):
        assert work in text
    assert "DoRA" not in text and "QLoRA" not in text
    digests = {row[0]: row[1] for row in table_with(text, "weights in")}
    assert digests["adapters/1-squad"] == shared_bundle.adapters[0].sha256
    assert digests["heads/mnli"] == shared_bundle.heads["mnli"].sha256


def test_no_folder_of_a_machine(encoder_folder, tmp_path):
    recipe = [STAGE | {"stack": [str(tmp_path / "runs"), "C:\\Users\\ada\\adapter"], "data_root": str(tmp_path)}]
    data = [SQUAD | {"repo": str(tmp_path / "my data.tsv"), "revision": "files"}]
    bundle = make_bundle(encoder_folder, tmp_path / "x", [("squad", "stack")], recipe=recipe, data=data)
    text = card(bundle)
    assert bundle.base["id"] == str(encoder_folder)
    for folder in (*encoder_folder.parents[:-1], *tmp_path.parents[:-1], "C:\\Users"):
        assert str(folder) not in text
    assert "the encoder encoder, which is not on the hub" in text and "my data.tsv" in text
    assert ModelCard(text).data.get("base_model") is None and ModelCard(text).data.datasets is None


@pytest.mark.parametrize("given_text, left", [
    ("/home/ada/runs", "runs"), ("~/runs/x", "x"), ("C:\\Users\\ada\\x", "x"), ("/my home/a b/c", "c"),
    ("google/xtreme", "google/xtreme"), ("https://hf.co/a/b", "https://hf.co/a/b"), ("a, /b/c, d", "a, c, d"),
    ("1/2", "1/2"), ("../up/x", "../up/x")])
def test_pathless(given_text, left):
    assert pathless(given_text) == left


# --- files

def test_the_picture_is_there_when_there_are_gains(encoder_folder, tmp_path):
    bundle = make_bundle(encoder_folder, tmp_path / "x", [("squad", "stack")], SCORES, HUB)
    assert [path.name for path in write_card(bundle)] == ["README.md", "gains.png"]
    assert (bundle.folder / "gains.png").read_bytes().startswith(b"\x89PNG")
    assert "![Gain of each language](gains.png)" in (bundle.folder / "README.md").read_text()
    read_bundle(bundle.folder)                       # a card does not change what the bundle is
    first = (bundle.folder / "README.md").read_bytes(), (bundle.folder / "gains.png").read_bytes()
    write_card(bundle)
    assert first == ((bundle.folder / "README.md").read_bytes(), (bundle.folder / "gains.png").read_bytes())
    without = dataclasses.replace(bundle, scores=[row for row in bundle.scores if row["intermediate"] == "none"])
    assert [path.name for path in write_card(without)] == ["README.md"]
    assert sorted(path.name for path in bundle.folder.iterdir()) == ["README.md", "adapters", "heads", "stack.json"]


def test_a_card_that_cannot_be_made_leaves_the_old_one(encoder_folder, tmp_path):
    bundle = make_bundle(encoder_folder, tmp_path / "x", [("squad", "stack")], SCORES, HUB)
    write_card(bundle)
    old = (bundle.folder / "README.md").read_bytes(), (bundle.folder / "gains.png").read_bytes()
    with pytest.raises(DataError, match="a results table has the columns"):
        write_card(dataclasses.replace(bundle, scores=[{"score": 1}]))
    with pytest.raises(UsageError, match="unknown licence"):
        write_card(dataclasses.replace(bundle, licence="none of them", scores=[]))
    (bundle.folder / "adapters/1-squad/adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is damaged"):
        write_card(bundle)
    assert old == ((bundle.folder / "README.md").read_bytes(), (bundle.folder / "gains.png").read_bytes())


# --- hostile words

HOSTILE = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["a | b", "`x`", "```\n---\n# Own", "<script>alert(1)</script>", "[x](javascript:y)", "\\|", "a\\",
                     "x\r\n---\r\nlicense: gpl", "![p](http://e.vil/p.png)", "&lt;", "*a* _b_ __c__", "$$x$$", "@all",
                     "\u2028\u202e", "- a", ": {a", "'", '"', "yes", "null", "1.0", "\ud800", "</details>", "~~x~~",
                     "www.evil.example", "\x00\x1b[31m", "| --- |"]))


@hypothesis_settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(HOSTILE, min_size=6, max_size=6))
def test_hostile_words_break_neither_tables_nor_yaml(shared_bundle, words):
    recipe, repo, version, variant, licence_of, key = words
    hostile = dataclasses.replace(
        shared_bundle,
        recipe=[STAGE | {"name": recipe, "tasks": [licence_of], key or "k": recipe}], data=[SQUAD | {"repo": repo}],
        versions={key: version}, scores=score_rows({("squad", "xquad", "de", 1): 41.0}, target_variant=variant,
                                                   recipe=recipe))
    text = card(hostile, "ada/x")
    text.encode("utf-8")
    data = ModelCard(text).data
    assert data.license == "mit" and data.base_model == HUB["id"] and len(data.eval_results) == 2
    assert {result.metric_value for result in data.eval_results} == {41.0}
    assert body(text).startswith("\n# x\n")
    shape = [len(rows) for rows in tables(text)]
    assert all(len(row) == len(rows[0]) for rows in tables(text) for row in rows)
    assert len(shape) == 7 and table_with(text, "task")[1][0] == plain(licence_of)
    assert table_with(text, "repo")[1][0] == pathless(repo)
    rendered = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(body(text))
    tags = set(re.findall(r"<(/?[a-zA-Z][a-zA-Z0-9]*)", rendered))
    assert tags <= {f"{slash}{tag}" for slash in ("", "/") for tag in (
        "h1", "h2", "p", "a", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "ul",
        "li", "strong")}
    assert rendered.count("<a ") == 1 and rendered.count("<h1>") == 1 and "<img" not in rendered
    for block in blocks(text):
        compile(block, "card", "exec")


@given(HOSTILE)
def test_markdown_shows_what_was_said(word):
    row = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(f"| x |\n| --- |\n| {markdown(word)} |")
    cells = [token for token in row if token.type == "inline"]
    assert len(cells) == (2 if plain(word) else len(cells))
    assert "".join(part.content for part in cells[-1].children) == (plain(word) or cells[-1].content)


def test_hostile_labels_of_a_head(encoder_folder, tmp_path, monkeypatch):
    labels = ('"; import os #', "\\", "|`<b>")
    monkeypatch.setitem(FORMS, "mnli", ("classification", 3, labels))
    text = card(make_bundle(encoder_folder, tmp_path / "x", [("mnli", "stack")]))
    line = next(line for line in blocks(text)[0].splitlines() if "id2label" in line)
    assert eval(line.partition(" = ")[2]) == dict(enumerate(labels))
    assert table_with(text, "head")[1][2] == f"3 ({', '.join(labels)})"


def test_docs_example_is_a_card_of_the_miniature_world(tmp_path):
    path = Path(__file__).parents[2] / "docs" / "card_example.md"
    text = path.read_text(encoding="utf-8")
    assert "**This is not XLM-R.**" in text and ModelCard(text).data.library_name == "peft"
