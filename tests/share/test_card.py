"""Model cards: metadata that the hub reads back, honest limits, and files that are whole."""

import dataclasses
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from peft_stilts.errors import CheckpointError, DataError, UsageError
from peft_stilts.grid.base import MINIATURE, miniature_folder
from peft_stilts.model.bundle import read_bundle
from peft_stilts.results import RESULTS, summary
from peft_stilts.share.card import LICENCES, card, check_licence, write_card
from peft_stilts.share.card_facts import pathless


def test_the_hub_reads_back_the_metadata(cards, shared_bundle, tmp_path):
    path = write_card(shared_bundle, "ada/squad-mnli")[0]
    data = ModelCard.load(path).data
    assert (data.base_model, data.library_name, data.license) == ("FacebookAI/xlm-roberta-base", "peft", "mit")
    assert data.language == ["en", "de", "el"] and data.datasets == ["rajpurkar/squad"]
    assert {"peft_stilts", "adapter", "lora", "cross-lingual", "xtreme"} <= set(data.tags)
    assert data.get("pipeline_tag") is None         # two heads, of two kinds
    assert data.model_name == "ada/squad-mnli" and data.metrics == ["f1", "accuracy"]
    means = summary(RESULTS.frame(cards.SCORES)).set_index(["target", "language"])["score"]
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


def test_pipeline_tag_is_that_of_the_heads(cards, encoder_folder, tmp_path):
    one = cards.make_bundle(encoder_folder, tmp_path / "one", [("squad", "stack")], base=cards.HUB)
    assert ModelCard(card(one)).data.pipeline_tag == "question-answering"
    none = cards.make_bundle(encoder_folder, tmp_path / "none", [("no_head", "stack")], base=cards.HUB)
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


def test_a_licence_of_ones_own_links_its_file(cards, encoder_folder, tmp_path):
    bundle = cards.make_bundle(encoder_folder, tmp_path / "own", [("squad", "stack")], base=cards.HUB,
                               licence="other:our-terms")
    (bundle.folder / "LICENSE").write_text("Be kind.")
    assert ModelCard.load(write_card(bundle)[0]).data.license_link == "LICENSE"
    read_bundle(bundle.folder)


@pytest.mark.parametrize("repo", ["squad", "a/b/c", "ada/..", "ada/x y", "ada/x\n---", "-/x", "", "../up"])
def test_names_that_no_hub_accepts(shared_bundle, repo):
    with pytest.raises(UsageError, match="is no name for a repository|names no user"):
        card(shared_bundle, repo)


# --- honesty

def test_the_miniature_world_is_named_as_such(cards, tmp_path):
    scores = cards.score_rows({(name, "xquad", code, 1): 40.0 + 2 * (name == "squad") for name in ("none", "squad")
                         for code in ("en", "qa")}, scale="mini", base_model=MINIATURE, data_source="miniature")
    stages = [("squad", "stack")]
    bundle = cards.make_bundle(miniature_folder(), tmp_path / "mini", stages, scores, {"id": MINIATURE},
                         data=[cards.SQUAD | {"revision": "world-1"}])
    text = card(bundle, "ada/mini")
    data = ModelCard(text).data
    assert (data.base_model, data.datasets, data.language) == (None, None, None)
    assert not {"xtreme", "xlm-roberta"} & set(data.tags) and "miniature-world" in data.tags
    assert {result.dataset_type for result in data.eval_results} == {"peft_stilts-miniature-xquad"}
    assert all("not XLM-R" in result.dataset_name for result in data.eval_results)
    assert cards.body(text).index("**This is not XLM-R.**") < cards.body(text).index("One adapter")
    assert "**Scores in the miniature world, not XLM-R's.**" in text and "Norlish (qa)" in text
    assert "google/xtreme" not in text and "huggingface.co/" not in text
    assert "--targets tydiqa --scale mini\n" in text
    made = {}
    code = cards.blocks(card(bundle))[0].replace('folder = "."', f"folder = {str(bundle.folder)!r}")
    exec(compile(code, "card", "exec"), made)
    assert made["words"]["input_ids"].shape[0] == 1


def test_only_scored_languages_are_claimed(shared_bundle):
    text = card(shared_bundle, "ada/x")
    limits = text[text.index("## Intended use"):text.index("## Scores")]
    assert "It was scored in 3: English (en), German (de), Greek (el). Nothing is claimed of any other" in limits
    for language in ("French", "Chinese", "Swahili", "Thai"):
        assert language not in text


def test_english_only_is_claimed_only_where_it_is_so(cards, shared_bundle):
    assert card(shared_bundle).count("rained on English data only") == 2
    for stages, told in (([cards.STAGE, cards.STAGE | {"variant": "mlm 0.2 de,en (1a2b3c); adapter 0123"}],
                          "rained on English tasks and other languages (mlm 0.2 de,en (1a2b3c))"),
                         ([], "rained on data that are not recorded here")):
        text = card(dataclasses.replace(shared_bundle, recipe=stages))
        assert text.count(told) == 2 and "English data only" not in text


def test_scores_have_spread_and_gain(cards, shared_bundle):
    table = cards.table_with(card(shared_bundle), "language")
    assert table[0] == ["language", "xquad (F1)", "xnli (accuracy)"]
    # English xquad: baselines 48, 49, 50 and scores 51, 55, 59 over seeds 1 to 3.
    assert table[2] == ["English (en)", "55.0 ± 4.0 (+6.0 ± 3.0)", "56.0 ± 4.0 (+6.0 ± 3.0)"]
    assert [row[0] for row in table[1:]] == ["average", "English (en)", "German (de)", "Greek (el)"]
    assert "mean ± standard deviation over seeds 1, 2, 3" in card(shared_bundle)
    assert "The weights here are those of seed 1." in card(shared_bundle)


def test_scores_after_further_training_are_said_to_be_such(cards, shared_bundle):
    """An intermediate adapter is scored by what is trained on top of it, but for retrieval and its own head."""
    rows = cards.score_rows({("squad", target, "de", 1): 40.0 for target in ("xnli", "tatoeba")})
    rows += cards.score_rows({("squad", "xquad", "de", 1): 50.0}, target_variant="head of squad")
    scored = dataclasses.replace(shared_bundle, scores=rows, recipe=[cards.STAGE | {"role": "intermediate"}])
    text = card(scored)
    assert "**xnli: after further training on the task, on top of this stack**" in text
    names = [result.metric_name for result in ModelCard(text).data.eval_results]
    assert {name.split()[0] for name in names if name.endswith(", after further training on mnli")} == {"xnli"}
    assert sum("further training" in name for name in names) == 2      # the average, and German
    itself = card(dataclasses.replace(scored, recipe=[cards.STAGE | {"role": "target"}]))
    assert "further training on" not in itself


def test_one_seed_and_no_baseline(cards, shared_bundle):
    alone = dataclasses.replace(shared_bundle, scores=cards.score_rows({("none", "tydiqa", "fi", 4): 61.25}))
    text = card(alone)
    assert cards.table_with(text, "language")[1:] == [["average", "61.2"], ["Finnish (fi)", "61.2"]]
    assert "seed 4 alone: no spread" in text and "gains.png" not in text
    half = cards.score_rows({("squad", "tydiqa", "fi", 4): 61.25, ("none", "xquad", "fi", 4): 30.0,
                       ("squad", "xquad", "fi", 4): 31.5, ("none", "xquad", "el", 4): 30.0})
    rows = cards.table_with(card(dataclasses.replace(shared_bundle, scores=half)), "language")
    assert [dict(zip(rows[0], row)) for row in rows[1:]] == [
        {"language": place, "tydiqa (F1)": "61.2", "xquad (F1)": "31.5 (+1.5)"}
        for place in ("average", "Finnish (fi)")]


def test_data_licences_and_citations(cards, shared_bundle):
    text = card(shared_bundle)
    table = cards.table_with(text, "task")
    assert table[1] == ["squad", "yes", "yes" * 0, "CC BY-SA 4.0"]
    assert table[2:] == [["xquad", "", "yes", "CC BY-SA 4.0"], ["xnli", "", "yes", "CC BY-NC 4.0"]]
    for work in ("Phang et al. 2020", "Hu et al. 2021, LoRA", "Conneau et al. 2018, XNLI", "XTREME"):
        assert work in text
    assert "DoRA" not in text and "QLoRA" not in text
    digests = {row[0]: row[1] for row in cards.table_with(text, "weights in")}
    assert digests["adapters/1-squad"] == shared_bundle.adapters[0].sha256
    assert digests["heads/mnli"] == shared_bundle.heads["mnli"].sha256


def test_no_folder_of_a_machine(cards, encoder_folder, tmp_path):
    recipe = [cards.STAGE | {"stack": [str(tmp_path / "runs"), "C:\\Users\\ada\\adapter"], "data_root": str(tmp_path)}]
    data = [cards.SQUAD | {"repo": str(tmp_path / "my data.tsv"), "revision": "files"}]
    bundle = cards.make_bundle(encoder_folder, tmp_path / "x", [("squad", "stack")], recipe=recipe, data=data)
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

def test_the_picture_is_there_when_there_are_gains(cards, encoder_folder, tmp_path):
    bundle = cards.make_bundle(encoder_folder, tmp_path / "x", [("squad", "stack")], cards.SCORES, cards.HUB)
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


def test_a_card_that_cannot_be_made_leaves_the_old_one(cards, encoder_folder, tmp_path):
    bundle = cards.make_bundle(encoder_folder, tmp_path / "x", [("squad", "stack")], cards.SCORES, cards.HUB)
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


def test_docs_example_is_a_card_of_the_miniature_world(shared_bundle):
    """Its numbers come from the commands in it; its sections are those of the cards that are written now."""
    text = (Path(__file__).parents[2] / "docs" / "card_example.md").read_text(encoding="utf-8")
    assert "**This is not XLM-R.**" in text and ModelCard(text).data.library_name == "peft"
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [line for line in card(shared_bundle).splitlines() if line.startswith("## ")]
