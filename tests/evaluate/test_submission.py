"""XTREME's folders: its published mock scores, strict reading, and a submission that is whole or not written."""

import json
import re
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_stilts.errors import DataError, UsageError
from peft_stilts.evaluate import submission
from peft_stilts.evaluate.submission import (
    files,
    parse_answers,
    parse_classes,
    parse_golds,
    parse_indices,
    parse_pairs,
    parse_tags,
    render_pairs,
    render_tags,
    score_folders,
    write_submission,
)
from peft_stilts.tasks import TARGETS, TASKS

NLI = TASKS["xnli"].labels


# --- XTREME's mock data ---


@pytest.fixture
def mock(shared, tmp_path):
    """A copy of XTREME's mock predictions and labels, to be spoiled."""
    for side in ("predictions", "labels"):
        shutil.copytree(shared / "data" / "xtreme_mock" / side, tmp_path / side,
                        ignore=shutil.ignore_patterns("mewslix"))
    return tmp_path


def score(mock, say=lambda message: None):
    return score_folders(mock / "predictions", mock / "labels", say)


def numbers(scores, path=()):
    """{path of keys: number} of nested scores."""
    found = {}
    for key, value in scores.items():
        found |= numbers(value, (*path, key)) if isinstance(value, dict) else {(*path, key): value}
    return found


def test_all_nine_tasks_in_every_language(shared):
    folder = shared / "data" / "xtreme_mock"
    expected = numbers(json.loads((folder / "expected_scores_on_mock_data.json").read_text()))
    said = []
    found = numbers(score_folders(folder / "predictions", folder / "labels", said.append))
    assert found.keys() == expected.keys() and len(expected) == 375
    assert all(abs(found[key] - value) <= 1e-9 for key, value in expected.items())
    assert found["all_task",] == pytest.approx(62.1933, abs=5e-5)
    assert [message.split(" is not scored")[0] for message in said] == [str(folder / "predictions" / "mewslix")]


def test_means_stand_only_where_every_task_does(mock):
    expected = score(mock)
    shutil.rmtree(mock / "predictions" / "pawsx")
    shutil.rmtree(mock / "labels" / "mlqa")
    said = []
    found = score(mock, said.append)
    for key in ("all_task", "classification", "qa", "pawsx", "mlqa"):
        assert expected.pop(key)
    assert found == expected and set(found) > {"tagging", "retrieval", "xnli", "tydiqa"}
    no_pawsx, no_mlqa = mock / "predictions" / "pawsx", mock / "labels" / "mlqa"
    assert said == [f"pawsx is not scored: there is no {no_pawsx}; so there is no all_task or classification.",
                    f"mlqa is not scored: there is no {no_mlqa}; so there is no all_task or qa."]


def edit(path, change):
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def add_key(text):
    return text.rstrip().removesuffix("}") + ', "more": "x"}'


SPOILT = {
    "fewer lines": ("predictions/xnli/test-de.tsv", lambda text: text.split("\n", 1)[1],
                    r"predictions/xnli/test-de.tsv has 9 lines, .*labels/xnli/test-de.tsv has 10"),
    "a label in another case": ("predictions/xnli/test-de.tsv", lambda text: text.replace("neutral", "Neutral", 1),
                                r"test-de.tsv, line \d+: unknown label 'Neutral': write it as 'neutral'"),
    "a label of another task": ("predictions/pawsx/test-de.tsv", lambda text: "2" + text[1:],
                                r"pawsx/test-de.tsv, line 1: unknown label '2'. Known: 0, 1."),
    "no label": ("labels/pawsx/test-de.tsv", lambda text: text + "\n", r"labels/pawsx/test-de.tsv, line 11: no label"),
    "blanked words": ("labels/xnli/test-de.tsv", lambda text: "neutral\n" * 10,
                      r"all its 10 labels are 'neutral': test labels blanked to one value"),
    "blanked by -1": ("labels/pawsx/test-fr.tsv", lambda text: "-1\n" * 10, "all its 10 labels are '-1'.*blanked"),
    "blanked by nothing": ("labels/xnli/test-sw.tsv", lambda text: "\n" * 10, "all its 10 labels are ''.*blanked"),
    "blanked tags": ("labels/panx/test-de.tsv", lambda text: re.sub(r"(?m)^\S+", "O", text),
                     r"all its \d+ labels are 'O'"),
    "blanked answers": ("labels/xquad/test-de.json", lambda text: re.sub(r'"text": ".*"', '"text": ""', text),
                        "all its . labels are ''.*blanked"),
    "blanked lines": ("labels/tatoeba/test-de.tsv", lambda text: "0\n" * 10, "all its 10 labels are '0'"),
    "no line number": ("predictions/tatoeba/test-de.tsv", lambda text: "-" + text,
                       "tatoeba/test-de.tsv, line 1: '-367' is not the number of a sentence"),
    "a tag outside the set": ("predictions/udpos/test-de.tsv", lambda text: text.replace("NOUN", "N", 1),
                              r"udpos/test-de.tsv, line 2: unknown tag 'N'"),
    "a longer sentence": ("predictions/panx/test-de.tsv", lambda text: "O\n" + text,
                          r"panx/test-de.tsv, line 1: sentence 1 has \d tags, but \d in .*/panx/test-de.tsv, line 1"),
    "another sentence": ("predictions/panx/test-de.tsv", lambda text: text.rstrip("\n") + "\n\nO\n",
                         "panx/test-de.tsv has 3 sentences, .*labels/panx/test-de.tsv has 2"),
    "a sentence without words": ("labels/panx/test-de.tsv", lambda text: "\n" + text,
                                 "labels/panx/test-de.tsv, line 1: no sentence before this empty line"),
    "a pair twice": ("predictions/bucc2018/test-de.tsv", lambda text: text + text.split("\n")[0] + "\n",
                     r"line 11: 'de-000413461\\ten-000367951' is there already"),
    "one id": ("predictions/bucc2018/test-de.tsv", lambda text: text.replace("\t", " "), "'foreign id<TAB>English id'"),
    "sides exchanged": ("labels/bucc2018/test-de.tsv",
                        lambda text: "".join("\t".join(line.split("\t")[::-1]) + "\n" for line in text.splitlines()),
                        "English id first"),
    "a question lacks": ("predictions/mlqa/test-en.json", lambda text: "{}",
                         r"mlqa/test-en.json lacks 1 of the 1 questions in .*labels/mlqa/test-en.json: 'd06"),
    "another question": ("predictions/mlqa/test-en.json", add_key,
                         r"labels/mlqa/test-en.json lacks 1 of the 2 questions in .*/mlqa/test-en.json: 'more'"),
    "an id twice": ("predictions/mlqa/test-en.json", lambda text: add_key(add_key(text)),
                    "key 'more' is there more than once"),
    "no JSON": ("predictions/tydiqa/test-fi.json", lambda text: text[:-5], "tydiqa/test-fi.json: it is not JSON"),
    "a list": ("predictions/tydiqa/test-fi.json", lambda text: "[]", "it holds a list"),
    "no text": ("predictions/mlqa/test-en.json", lambda text: text.replace('"had sustained skin,"', "1"),
                "its answer 1 is not text"),
    "other JSON": ("labels/tydiqa/test-fi.json", lambda text: '{"data": [{}]}', "SQuAD's format.*'paragraphs'"),
    "no labels": ("labels/bucc2018/test-fr.tsv", lambda text: "", "labels/bucc2018/test-fr.tsv is empty"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_file_is_refused_by_name(mock, name):
    path, change, message = SPOILT[name]
    before = (mock / path).read_text(encoding="utf-8")
    edit(mock / path, change)
    assert (mock / path).read_text(encoding="utf-8") != before
    with pytest.raises(DataError, match=message) as error:
        score(mock)
    assert str(mock / path).split("/")[-1] in str(error.value)


def test_every_problem_is_said_at_once(mock):
    (mock / "predictions" / "xnli" / "test-sw.tsv").unlink()
    edit(mock / "labels" / "pawsx" / "test-ja.tsv", lambda text: "x\n" * 5 + text)
    edit(mock / "predictions" / "pawsx" / "test-ja.tsv", lambda text: "0\n" + text)
    edit(mock / "predictions" / "pawsx" / "test-zh.tsv", lambda text: "y\n" + text)
    (mock / "predictions" / "xquad" / "test-de.json").write_bytes(b"\xff{}")
    with pytest.raises(DataError) as error:
        score(mock)
    lines = str(error.value).split("\n")
    assert len(lines) == 6
    assert "predictions/xnli/test-sw.tsv is missing" in lines[0]
    assert [f"labels/pawsx/test-ja.tsv, line {n}: unknown label 'x'" in lines[n] for n in (1, 2, 3)] == [True] * 3
    assert lines[3].endswith("and 2 more")
    assert "pawsx/test-zh.tsv, line 1: unknown label 'y'" in lines[4]
    assert "xquad/test-de.json cannot be read as UTF-8" in lines[5]


def test_a_gold_question_needs_one_id_and_an_answer(mock):
    path = mock / "labels" / "xquad" / "test-de.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    questions = content["data"][0]["paragraphs"][0]["qas"]
    questions.append(dict(questions[0]))
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=f"test-de.json, question '{questions[0]['id']}' is there 2 times"):
        score(mock)
    questions[-1] |= {"id": "new", "answers": []}
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match="question 'new' has no answer"):
        score(mock)


def test_folders_that_cannot_be_meant(tmp_path):
    with pytest.raises(UsageError, match="nothing is not a folder; .*xquad"):
        score_folders(tmp_path / "nothing", tmp_path)
    (tmp_path / "xnli").mkdir()
    with pytest.raises(UsageError, match="no task has a folder in both"):
        score_folders(tmp_path, tmp_path / "xnli")


# --- golden cases by hand ---


def squad_file(answers):
    """A label file {id: accepted answers}."""
    questions = [{"id": key, "answers": [{"text": text, "answer_start": 0} for text in texts]}
                 for key, texts in answers.items()]
    return json.dumps({"data": [{"paragraphs": [{"context": "", "qas": questions}]}]})


@pytest.fixture
def folder(tmp_path):
    """Writes a task's files: for each language one text a side, those given or the first of them."""
    def write(task, predictions, labels):
        for side, texts in (("predictions", predictions), ("labels", labels)):
            for code, name in files(task).items():
                path = tmp_path / side / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(texts.get(code) or next(iter(texts.values())), encoding="utf-8")
        return score_folders(tmp_path / "predictions", tmp_path / "labels")[task]
    return write


def test_mlqa_in_chinese_and_arabic(folder):
    golds = {"en": squad_file({"q": ["the fox"]}), "zh": squad_file({"q": ["棕色狐狸"], "r": ["在 NBA 打球。"]}),
             "ar": squad_file({"q": ["بيت"], "r": ["كت باب"]})}
    guesses = {"en": '{"q": "a fox"}', "zh": '{"q": "棕狐狸", "r": "在NBA打球"}',
               "ar": '{"q": "البيت", "r": "كتال،سؤ"}'}
    found = folder("mlqa", guesses, golds)
    # zh q: characters 棕 狐 狸 of 棕 色 狐 狸: precision 1, recall 3/4; r: the same tokens without punctuation
    assert found["exact_match"] | {"zh": 50.0, "ar": 50.0} == found["exact_match"]
    assert found["f1"]["zh"] == pytest.approx(100 * (2 * 0.75 / 1.75 + 1) / 2)
    # ar q: ال goes; r: كت سؤ against كت باب, one of two tokens
    assert found["f1"]["ar"] == pytest.approx(75.0)
    # "a" and "the" are articles in English alone, so elsewhere one of two tokens is right
    assert found["exact_match"]["en"] == 100.0 and found["exact_match"]["es"] == 0.0 and found["f1"]["es"] == 50.0
    assert found["avg_exact_match"] == pytest.approx((100 + 50 + 50) / 7)
    assert found["avg_metric"] == pytest.approx((found["avg_exact_match"] + found["avg_f1"]) / 2)


def test_pos_with_neighbouring_equal_tags(folder):
    found = folder("udpos", {"en": "NOUN\nVERB\nVERB\nDET\n\n"}, {"en": "NOUN\nNOUN\nVERB\nDET\n\n"})
    assert set(found) == {"f1", "precision", "recall", "avg_f1", "avg_precision", "avg_recall", "avg_metric"}
    assert found["f1"] == pytest.approx(dict.fromkeys(TASKS["udpos"].languages, 100 / 3))    # the accuracy would be 75


def test_the_lines_of_a_sentence_are_said(folder):
    with pytest.raises(DataError, match=r"test-de.tsv, line 4: sentence 2 has 2 tags, but 1 in .*test-de.tsv, line 4$"):
        folder("panx", {"en": "O\nO\n\nB-LOC\n", "de": "O\nO\n\nB-LOC\nO\n"}, {"en": "O\nO\n\nB-LOC\n"})


def test_mined_pairs_may_share_an_id_as_in_xtreme(folder):
    found = folder("bucc2018", {"de": "de-1\ten-1\nde-1\ten-2\n"}, {"de": "de-1\ten-1\n"})
    assert found["f1"]["de"] == pytest.approx(200 / 3) and found["precision"]["de"] == 50.0
    assert folder("bucc2018", {"de": "de-1\ten-1\n", "fr": "\n".join(["x\ty"])}, {"de": "de-1\ten-1\n"})["f1"] == {
        "de": 100.0, "fr": 0.0, "ru": 100.0, "zh": 100.0}


# --- formats ---


words = st.text(st.characters(exclude_categories=("Cs", "Zs", "Zl", "Zp", "Cc")), min_size=1, max_size=5)


@given(st.lists(st.sampled_from(NLI), max_size=9))
def test_labels_are_read_as_written(labels):
    assert list(parse_classes("".join(f"{label}\n" for label in labels), "file", NLI).values()) == labels


@given(st.lists(st.lists(st.sampled_from(("O", "B-PER", "I-PER")), min_size=1, max_size=4), max_size=5), st.booleans())
def test_tags_are_read_as_written(sentences, ended):
    text = render_tags(sentences)
    found = parse_tags(text if ended else text.removesuffix("\n"), "file", ("O", "B-PER", "I-PER"))
    assert found == {str(number): tuple(sentence) for number, sentence in enumerate(sentences)}


@given(st.lists(st.tuples(words, words), max_size=5, unique=True).filter(
    lambda pairs: not any(foreign.startswith("en-") for foreign, _ in pairs)))
def test_pairs_are_read_as_written(pairs):
    assert parse_pairs(render_pairs(pairs), "file") == tuple(pairs)


@given(st.dictionaries(st.text(max_size=3), st.text(max_size=9), max_size=4))
def test_answers_are_read_as_they_are(answers):
    assert parse_answers(json.dumps(answers), "file") == answers
    golds = {key: [answer, answer] for key, answer in answers.items() if answer.strip()}
    assert parse_golds(squad_file(golds), "file") == golds


def test_what_is_read_and_what_is_not():
    assert parse_classes("0 \r\n1\r\n", "file", ("0", "1")) == {"0": "0", "1": "1"}       # XTREME strips lines too
    assert parse_indices("0\n367\n", "file") == {"0": 0, "1": 367}
    assert parse_classes("", "file", NLI) == parse_indices("", "file") == parse_tags("", "file", NLI) == {}
    for text in ("A\n\n\n", "\n", "A\n\n\nA\n"):
        with pytest.raises(DataError, match="no sentence before this empty line"):
            parse_tags(text, "file", ("A",))
    with pytest.raises(DataError, match="sentence 1 .* has no words"):
        render_tags([["A"], []])
    same = {str(n): ["same"] for n in range(submission.BLANKED)}
    with pytest.raises(DataError, match="blanked"):
        parse_golds(squad_file(same), "file")
    same.popitem()
    assert parse_golds(squad_file(same), "file") == same                                # so few may agree by chance


def test_every_task_has_a_format():
    assert set().union(*submission.GROUPS.values()) == set(TARGETS) and len(TARGETS) == 9
    assert sum(len(files(task)) for task in TARGETS) == 15 + 7 + 33 + 40 + 11 + 7 + 9 + 4 + 36
    assert str(files("xquad")["zh"]) == "xquad/test-zh.json" and str(files("panx")["my"]) == "panx/test-my.tsv"


# --- submissions ---


def test_a_whole_submission_scores_as_its_sources(mock):
    sources = {task: mock / "predictions" / task for task in TARGETS}
    out = mock / "out"
    assert write_submission(sources, out) == {}
    assert write_submission(sources, out, {"xnli": {"de": 10}, "udpos": {"de": 2}, "xquad": {"de": 2}}) == {}  # again
    assert score_folders(out, mock / "labels") == score(mock)
    assert sum(path.is_file() for path in out.rglob("*")) == 162


def test_what_a_submission_lacks_is_returned(mock):
    (mock / "predictions" / "xnli" / "test-de.tsv").unlink()
    (mock / "predictions" / "xnli" / "test-ur.tsv").unlink()
    sources = {task: mock / "predictions" / task for task in TARGETS if task != "bucc2018"}
    assert write_submission(sources, mock / "out") == {"xnli": ("de", "ur"), "bucc2018": ("de", "fr", "ru", "zh")}
    assert not (mock / "out" / "bucc2018").exists()


def test_nothing_is_written_of_a_bad_submission(mock):
    sources = {task: mock / "predictions" / task for task in TARGETS}
    edit(mock / "predictions" / "udpos" / "test-de.tsv", lambda text: text.replace("NOUN", "noun", 1))
    with pytest.raises(DataError) as error:
        write_submission(sources, mock / "out", {"pawsx": {"de": 2_000, "en": 10}, "bucc2018": {"de": 3}})
    lines = str(error.value).split("\n")
    assert len(lines) == 2 and "pawsx/test-de.tsv has 10 lines, but 2000 are to be predicted" in lines[0]
    assert "udpos/test-de.tsv, line 2: unknown tag 'noun': write it as 'NOUN'" in lines[1]
    assert not (mock / "out").exists()


def test_a_submission_is_not_mixed_with_another(mock):
    sources = {"xnli": mock / "predictions" / "xnli"}
    out = mock / "out"
    write_submission(sources, out)
    (mock / "predictions" / "xnli" / "test-de.tsv").unlink()
    before = (out / "xnli" / "test-en.tsv").read_text()
    edit(mock / "predictions" / "xnli" / "test-en.tsv", lambda text: text + "neutral\n")
    with pytest.raises(UsageError, match="already holds what is not among these predictions: .*xnli/test-de.tsv"):
        write_submission(sources, out)
    assert (out / "xnli" / "test-en.tsv").read_text() == before
    with pytest.raises(UsageError, match="unknown task of XTREME 'xnil'. Did you mean 'xnli'"):
        write_submission({"xnil": mock}, out)
