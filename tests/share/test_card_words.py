"""Words of others in a card: whatever they are, they are shown, and break neither tables nor the metadata."""

import dataclasses
import re

from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from peft_stilts.share.card import card
from peft_stilts.share.card_facts import markdown, pathless, plain

HOSTILE = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["a | b", "`x`", "```\n---\n# Own", "<script>alert(1)</script>", "[x](javascript:y)", "\\|", "a\\",
                     "x\r\n---\r\nlicense: gpl", "![p](http://e.vil/p.png)", "&lt;", "*a* _b_ __c__", "$$x$$", "@all",
                     "\u2028\u202e", "- a", ": {a", "'", '"', "yes", "null", "1.0", "\ud800", "</details>", "~~x~~",
                     "www.evil.example", "\x00\x1b[31m", "| --- |"]))


@hypothesis_settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(HOSTILE, min_size=6, max_size=6))
def test_hostile_words_break_neither_tables_nor_yaml(cards, shared_bundle, words):
    recipe, repo, version, variant, task, key = words
    row = {name: word.encode("utf-8", "replace").decode()       # half pairs are refused when a bundle is read
           for name, word in (("target_variant", variant), ("recipe", recipe))}
    hostile = dataclasses.replace(
        shared_bundle, recipe=[cards.STAGE | {"name": recipe, "tasks": [task], key or "k": recipe}],
        data=[cards.SQUAD | {"repo": repo}], versions={key: version},
        scores=cards.score_rows({("squad", "xquad", "de", 1): 41.0}, **row))
    text = card(hostile, "ada/x")
    text.encode("utf-8")
    data = ModelCard(text).data
    assert data.license == "mit" and data.base_model == cards.HUB["id"] and len(data.eval_results) == 2
    assert {result.metric_value for result in data.eval_results} == {41.0}
    assert cards.body(text).startswith("\n# x\n")
    shape = [len(rows) for rows in cards.tables(text)]
    assert all(len(row) == len(rows[0]) for rows in cards.tables(text) for row in rows)
    assert len(shape) == 7 and cards.table_with(text, "task")[1][0] == plain(task)
    assert cards.table_with(text, "repo")[1][0] == pathless(repo)
    rendered = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(cards.body(text))
    tags = set(re.findall(r"<(/?[a-zA-Z][a-zA-Z0-9]*)", rendered))
    assert tags <= {f"{slash}{tag}" for slash in ("", "/") for tag in (
        "h1", "h2", "p", "a", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "ul",
        "li", "strong")}
    assert rendered.count("<a ") == 1 and rendered.count("<h1>") == 1 and "<img" not in rendered
    for block in cards.blocks(text):
        compile(block, "card", "exec")


@given(HOSTILE)
def test_markdown_shows_what_was_said(word):
    row = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(f"| x |\n| --- |\n| {markdown(word)} |")
    cells = [token for token in row if token.type == "inline"]
    assert len(cells) == (2 if plain(word) else len(cells))
    assert "".join(part.content for part in cells[-1].children) == (plain(word) or cells[-1].content)


def test_hostile_labels_of_a_head(cards, encoder_folder, tmp_path, monkeypatch):
    labels = ('"; import os #', "\\", "|`<b>")
    monkeypatch.setitem(cards.FORMS, "mnli", ("classification", 3, labels))
    text = card(cards.make_bundle(encoder_folder, tmp_path / "x", [("mnli", "stack")]))
    line = next(line for line in cards.blocks(text)[0].splitlines() if "id2label" in line)
    assert eval(line.partition(" = ")[2]) == dict(enumerate(labels))
    assert cards.table_with(text, "head")[1][2] == f"3 ({', '.join(labels)})"
