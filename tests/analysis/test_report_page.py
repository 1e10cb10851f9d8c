"""The page in a real browser, from a file and without a network: choices redraw it, nothing is fetched, no error."""

import contextlib
import shutil

import pytest

from peft_stilts.analysis import page, summary, words
from tests.analysis.studies import CODES, MEASURES, study_of

HOSTILE = "<img src=x onerror=alert(1)>"
CLOSING = "</script><script>alert(2)</script>"


def located(*names):
    return next((found for name in names if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser():
    """One headless Chromium for the file; its log of the console is read by `errors`."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = located("chromium", "chromium-browser", "google-chrome"), located("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium or chromedriver is not installed (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--disable-extensions",
                 "--window-size=1280,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield made
    made.quit()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """{name: (study, file)} of three pages: usual, with hostile names, and of one method and three languages."""
    studies = {
        "usual": study_of(codes=CODES[:15], targets=("xquad", "xnli"), intermediates=("squad", "mnli"),
                          measures=MEASURES),
        "hostile": study_of(targets=(HOSTILE,), intermediates=(CLOSING,), methods=("full", HOSTILE),
                            measures=("syntactic", CLOSING), notes=[HOSTILE, CLOSING]),
        "small": study_of(codes=CODES[:4], methods=("lora",), reliable=False, miniature=True),
    }
    studies["hostile"].similarities.names |= dict.fromkeys(CODES, HOSTILE)
    folder, made = tmp_path_factory.mktemp("a page"), {}
    for name, study in studies.items():
        made[name] = study, folder / f"{name}.html"
        made[name][1].write_text(page.build(study, summary.sections(study)), encoding="utf-8")
    return made


@pytest.fixture
def opened(browser, places):
    """Opens a page by name; afterwards nothing may have been fetched or complained of."""
    def open_(name):
        browser.get_log("browser")
        browser.get(places[name][1].as_uri())
        return places[name][0]
    yield open_
    assert browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []
    assert browser.get_log("browser") == []
    assert not alerted(browser)


def alerted(browser):
    from selenium.common.exceptions import NoAlertPresentException

    with contextlib.suppress(NoAlertPresentException):
        return bool(browser.switch_to.alert)
    return False


def css(browser, selector):
    return browser.find_elements("css selector", selector)


def choose(browser, name, text):
    from selenium.webdriver.support.select import Select

    Select(css(browser, f"#{name}")[0]).select_by_visible_text(text)


def shown(browser):
    """What the marks of the scatter tell, sorted."""
    return sorted(mark.get_attribute("aria-label") for mark in css(browser, "#scatter g.mark"))


def expected(study, method, intermediate, target, measure):
    """The same from the study's frames."""
    rows = study.responses.means.query("method == @method and intermediate == @intermediate and target == @target")
    return sorted(
        f"{study.similarities.names[row.language]} ({row.language}), {study.similarities.families[row.language]}, "
        f"gain {words.number(round(row.value, page.DIGITS), 2, True)} points ± 0.70, "
        f"{measure} {study.similarities.values.at[row.language, measure]:.3f}, mean and spread of 3 seeds"
        for row in rows.itertuples())


def test_the_first_screen_has_the_answer_the_choices_and_the_scatter(browser, opened):
    study = opened("usual")
    told = css(browser, ".answer")[0].text.split("\n")
    assert told == words.answer(study)
    assert css(browser, ".choices")[0].rect["y"] < 700
    assert shown(browser) == expected(study, "full", "squad", "xquad", "syntactic")
    labels = browser.execute_script(
        "return [...document.querySelectorAll('select')].map(select => select.labels[0].firstChild.textContent.trim())")
    assert labels == ["Method", "Intermediate task", "Target task", "Measure", "Coefficient"]


def test_every_choice_changes_what_is_drawn(browser, opened):
    study = opened("usual")
    choose(browser, "target", "xnli (accuracy)")
    assert shown(browser) == expected(study, "full", "squad", "xnli", "syntactic")
    choose(browser, "intermediate", "mnli")
    assert shown(browser) == expected(study, "full", "mnli", "xnli", "syntactic")
    choose(browser, "method", "lora")
    assert shown(browser) == expected(study, "lora", "mnli", "xnli", "syntactic")
    choose(browser, "measure", "genetic")
    assert shown(browser) == expected(study, "lora", "mnli", "xnli", "genetic")
    before = css(browser, "#line")[0].text
    choose(browser, "coefficient", "Kendall's tau")
    after = css(browser, "#line")[0].text
    row, = study.correlations.query("method == 'lora' and intermediate == 'mnli' and target == 'xnli' and "
                                    "measure == 'genetic' and coefficient == 'kendall'").itertuples()
    estimate, low = (words.number(round(value, page.DIGITS), sign=True) for value in (row.estimate, row.ci_low))
    assert before.startswith("Spearman's rho")
    assert after.startswith(f"Kendall's tau {estimate}, 95 % interval {low} to ")
    assert f"q {words.p_value(row.q_bh)}" in after and f"{row.n} languages of {row.families} families" in after


def test_hovering_and_arrow_keys_show_the_language(browser, opened):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    opened("usual")
    tip, marks = css(browser, "#tip")[0], css(browser, "#scatter g.mark")
    assert not tip.is_displayed()
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", marks[3])
    ActionChains(browser).move_to_element(marks[3]).perform()
    pointed = browser.execute_script(
        "return document.querySelector('#scatter g.mark.over').getAttribute('aria-label')")
    assert tip.is_displayed() and tip.text.split("\n") == pointed.split(", ")
    browser.execute_script("arguments[0].focus()", marks[0])
    marks[0].send_keys(Keys.ARROW_RIGHT)
    assert tip.text.split("\n") == marks[1].get_attribute("aria-label").split(", ")
    assert [mark.get_attribute("tabindex") for mark in marks].count("0") == 1
    marks[1].send_keys(Keys.ESCAPE)
    assert not tip.is_displayed()


def test_a_number_of_the_heat_map_chooses_its_cell(browser, opened):
    study = opened("usual")
    buttons = css(browser, "#heat button")
    assert len(buttons) == 4
    told = study.correlations.query("method == 'full' and measure == 'syntactic' and coefficient == 'spearman'")
    assert sorted(button.text.rstrip("*") for button in buttons) == sorted(
        words.number(value, sign=True) for value in told["estimate"])
    browser.execute_script("arguments[0].click()", buttons[3])
    assert shown(browser) == expected(study, "full", "mnli", "xnli", "syntactic")
    assert css(browser, "#heat td.now button")[0] == browser.switch_to.active_element
    assert len(css(browser, "#diagonal g.mark")) == 30
    assert len(css(browser, "#forest g.mark")) == 2 * len(MEASURES)


def test_hostile_names_are_text(browser, opened):
    study = opened("hostile")
    assert not css(browser, "img") and len(css(browser, "script")) == 2
    assert css(browser, "#target option")[0].get_property("textContent") == f"{HOSTILE} (accuracy)"
    assert css(browser, "#intermediate option")[0].get_property("textContent") == CLOSING
    choose(browser, "method", HOSTILE)
    choose(browser, "measure", CLOSING)
    assert all(label.startswith(HOSTILE) for label in shown(browser)) and len(shown(browser)) == 12
    assert HOSTILE in css(browser, "main")[0].text and study.notes[1] in css(browser, "main")[0].text
    assert not alerted(browser)


def test_one_method_has_no_diagonal_and_few_families_no_verdict(browser, opened):
    opened("small")
    assert not css(browser, "#diagonal-section")[0].is_displayed()
    assert "Too few families for a verdict." in css(browser, "#line")[0].text
    assert "In the miniature world" in css(browser, ".answer")[0].text
    assert not css(browser, "#heat td:not(.unsure)")


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(browser, opened, width):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 500))
    try:
        opened("usual")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.execute_script("return document.querySelector('#scatter svg').clientWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_without_scripts_the_answer_and_the_tables_are_there(browser, opened):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        study = opened("usual")
        text = css(browser, "body")[0].text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert all(sentence in text for sentence in words.answer(study)) and "The pictures need JavaScript" in text
    assert not css(browser, "#pictures")[0].is_displayed() and "Adapters against full fine-tuning" in text
