"""The report in a real browser: nothing fails, nothing is asked for, nothing runs over, and it can be read and used."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chartray.outputs.seal import seal
from chartray.report.write import write_report
from tests.report_folders import hospital

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTHS = (390, 1440)
# Elements that stand further right than the window and cannot be scrolled to within their own box.
OVERFLOW = """() => [...document.querySelectorAll("body *")].filter((one) => {
  const box = one.getBoundingClientRect();
  return box.width > 0 && box.right > innerWidth + 1 && !one.closest(".scroll, nav, svg, .skip");
}).map((one) => `${one.tagName}.${one.className}`)"""
OUT_OF_CARD = """() => [...document.querySelectorAll(".card *")].filter((one) =>
  one.getBoundingClientRect().right > one.closest(".card").getBoundingClientRect().right
).map((one) => `${one.tagName}.${one.className}`)"""
# Contrast (WCAG 2) of each kind of text with the ground that it stands on.
CONTRAST = """(selector) => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((one) => one / 255)
    .map((one) => one <= .04045 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4)
    .reduce((sum, one, place) => sum + one * [.2126, .7152, .0722][place], 0);
  return [...document.querySelectorAll(selector)].slice(0, 40).map((one) => {
    let ground = one;
    while (numbers(getComputedStyle(ground).backgroundColor)[3] === 0) ground = ground.parentElement;
    const pair = [getComputedStyle(one).color, getComputedStyle(ground).backgroundColor].map(numbers).map(light);
    return (Math.max(...pair) + .05) / (Math.min(...pair) + .05);
  });
}"""
# Which controls are reached, and whether a ring is drawn around them; gives how many there are.
FOLLOW_FOCUS = """() => {
  const every = [...document.querySelectorAll("summary, select, .canvas, nav a")];
  window.reached = {};
  document.addEventListener("focusin", ({target}) => {
    if (every.includes(target)) window.reached[every.indexOf(target)] = getComputedStyle(target).outlineStyle;
  });
  return every.length;
}"""
FIRST_POINT = """() => {
  const view = [...Bokeh.index.roots][0], data = view.model.renderers[0].data_source.data;
  const canvas = document.querySelector(".canvas").getBoundingClientRect();
  const frame = view.frame.bbox, box = view.canvas_view.el.getBoundingClientRect();
  return {x: box.left + view.frame.x_scale.compute(data.x[0]), y: box.top + view.frame.y_scale.compute(data.y[0]),
          image: data.image[0]};
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folders = hospital(tmp_path_factory.mktemp("hospital"), images=120, datasets=1, arms=2, evidence=True)
    out = tmp_path_factory.mktemp("report")
    return write_report(folders["runs"], folders["results"], out, stores=folders["stores"], audits=folders["audits"])


class Opened:
    """The report in a tab, with what its console said and what it asked for."""

    def __init__(self, tab: Any, report: Path) -> None:
        self.tab, self.said, self.asked = tab, [], []
        tab.on("console", lambda message: self.said.append((message.type, message.text)))
        tab.on("pageerror", lambda error: self.said.append(("error", str(error))))
        tab.on("request", lambda request: self.asked.append(request.url))
        tab.goto(report.as_uri())
        self.wait()

    def wait(self) -> None:
        """Until the map is drawn."""
        # The page's own policy keeps Playwright's waiting function from running, as it keeps all evaluated text.
        while not self.tab.evaluate("window.Bokeh && [...Bokeh.index.roots].length"):
            self.tab.wait_for_timeout(50)


@pytest.fixture(scope="module")
def opened(report: Path) -> Iterator[Opened]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        try:
            yield Opened(browser.new_page(viewport={"width": 1440, "height": 900}), report)
        finally:
            browser.close()


def test_nothing_fails_and_nothing_is_asked_for(opened: Opened, report: Path) -> None:
    assert [words for kind, words in opened.said if kind in ("error", "warning")] == []
    assert [url for url in opened.asked if not url.startswith(("data:", "blob:"))] == [report.as_uri()]


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_runs_over_with_every_detail_open(opened: Opened, width: int) -> None:
    opened.tab.set_viewport_size({"width": width, "height": 900})
    opened.tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert opened.tab.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.tab.evaluate(OVERFLOW) == []
    opened.tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = false; })")
    opened.tab.set_viewport_size({"width": 1440, "height": 900})


def test_seven_arms_fit_the_tables_at_1440_px(opened: Opened, tmp_path: Path) -> None:
    """Failed before: the seventh arm's column of the AUROC table was cut."""
    folders = hospital(tmp_path, images=80, datasets=1, arms=3, seeds=3, evidence=True)
    page = write_report([], folders["results"], tmp_path / "out", films=False)
    tab = opened.tab.context.browser.new_page()
    tab.set_viewport_size({"width": 1440, "height": 900})
    tab.goto(page.as_uri())
    tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    tables = [one for one in tab.locator(".scroll").all() if one.locator("table.scores thead th").count() == 9]
    assert len(tables) == 6
    assert [
        one.get_attribute("aria-label") for one in tables if one.evaluate("(it) => it.scrollWidth > it.clientWidth")
    ] == []
    tab.close()


@pytest.fixture(scope="module")
def without_macro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose first data set has no macro mean, and whose card says why in a whole sentence."""
    root = tmp_path_factory.mktemp("few")
    folder = hospital(root, images=120, datasets=1, arms=1)["results"][0]
    for name in ("predictions.parquet", "embeddings.parquet"):
        (folder / name).unlink()
    why = "no label has 10 positive and 10 negative patients in the images that radiologists read"
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    none = {"value": None, "ci_low": None, "ci_high": None, "reason": why}
    rows = [row | none if row["label"] == "macro" else row for row in rows]
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    seal(folder)
    return write_report([], [folder], tmp_path_factory.mktemp("report"), films=False)


def test_a_reason_instead_of_a_macro_mean_stays_in_its_card(opened: Opened, without_macro: Path) -> None:
    tab = opened.tab.context.browser.new_page()
    tab.goto(without_macro.as_uri())
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 900})
        assert "no label has 10 positive" in tab.locator(".card").first.text_content()
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate(OVERFLOW) == []
        assert tab.evaluate(OUT_OF_CARD) == []
    tab.close()


LONG = "sex,age,view,smoker,triage,icu,crp,leuko"


@pytest.fixture(scope="module")
def long_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of arms that are named by a chart of eight variables."""
    root = tmp_path_factory.mktemp("long")
    folders = hospital(root, images=120, datasets=1, arms=3, evidence=True, chart=LONG)
    out = tmp_path_factory.mktemp("report")
    return write_report(folders["runs"], folders["results"], out, stores=folders["stores"], audits=folders["audits"])


@pytest.mark.parametrize("width", WIDTHS)
def test_names_of_many_variables_break_after_a_comma(opened: Opened, long_names: Path, width: int) -> None:
    tab = opened.tab.context.browser.new_page(viewport={"width": width, "height": 900})
    tab.goto(long_names.as_uri())
    assert LONG in tab.evaluate("document.querySelector('.bars').textContent")
    for opening in ("false", "true"):
        tab.evaluate(f"document.querySelectorAll('details').forEach((one) => {{ one.open = {opening}; }})")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate(OVERFLOW) == []
        assert tab.evaluate(OUT_OF_CARD) == []
    tab.close()


def test_pointing_at_a_point_shows_its_image(opened: Opened) -> None:
    opened.tab.locator(".canvas").scroll_into_view_if_needed()
    point = opened.tab.evaluate(FIRST_POINT)
    opened.tab.mouse.move(point["x"] - 40, point["y"] - 40)
    opened.tab.mouse.move(point["x"], point["y"], steps=4)
    image = opened.tab.locator(".bk-Tooltip img")
    image.wait_for(state="visible", timeout=5000)
    assert image.get_attribute("src").startswith("data:image/jpeg;base64,")
    # What is shown is a picture, not a broken one.
    assert image.evaluate("(one) => one.naturalWidth") > 20
    opened.tab.mouse.click(point["x"], point["y"])
    assert opened.tab.locator(".picture .frame img").get_attribute("src").startswith("data:image/jpeg;base64,")


def test_the_layout_and_the_encoder_can_be_chosen(opened: Opened) -> None:
    places = "[...Bokeh.index.roots][0].model.renderers[0].data_source.data.x.slice(0, 5).join()"
    seen = [opened.tab.evaluate(places)]
    for choice, value in (("layout", "1"), ("encoder", "1"), ("layout", "0")):
        opened.tab.locator(f"[data-choice={choice}]").select_option(value)
        seen.append(opened.tab.evaluate(places))
    assert len(set(seen)) == 4


def test_the_keyboard_reaches_every_control_and_is_seen_there(opened: Opened) -> None:
    tab = opened.tab
    tab.reload()
    opened.wait()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the findings"
    wanted = tab.evaluate(FOLLOW_FOCUS)
    for _ in range(12):
        for _ in range(15):
            tab.keyboard.press("Tab")
        reached, outlined = tab.evaluate("[Object.keys(window.reached), Object.values(window.reached)]")
        if len(reached) == wanted:
            break
    assert len(reached) == wanted
    assert set(outlined) == {"solid"}
    tab.locator("summary").first.focus()
    tab.keyboard.press("Enter")
    assert tab.locator("details").first.get_attribute("open") is not None
    tab.locator(".canvas").focus()
    before = tab.locator(".picture p").text_content()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert tab.locator(".picture p").text_content() not in ("", before)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(opened: Opened, scheme: str) -> None:
    opened.tab.emulate_media(color_scheme=scheme)
    assert ("17, 21, 26" in opened.tab.evaluate("getComputedStyle(document.body).backgroundColor")) == (
        scheme == "dark"
    )
    for selector in ("p", ".quiet", "main a", "th", "td", ".interval", ".standing", "summary", ".leakage p", "select"):
        ratios = opened.tab.evaluate(CONTRAST, selector)
        assert ratios, selector
        assert min(ratios) >= 4.5, selector
    opened.tab.emulate_media(color_scheme="light")


def test_every_figure_has_words_and_every_scrolling_box_a_name(opened: Opened) -> None:
    assert opened.tab.evaluate("document.querySelectorAll('svg.plot').length") > 10
    assert opened.tab.evaluate("document.querySelectorAll('svg.plot:not([role=img][aria-label])').length") == 0
    assert opened.tab.evaluate("document.querySelectorAll('[role=region]:not([aria-label])').length") == 0
    assert opened.tab.evaluate("document.querySelectorAll('[tabindex]:not([tabindex=\"0\"])').length") == 0


def test_print_is_on_paper_white_with_closed_tables_open(opened: Opened) -> None:
    opened.tab.emulate_media(media="print", color_scheme="dark")
    assert opened.tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert opened.tab.locator("nav").evaluate("(one) => getComputedStyle(one).display") == "none"
    # Marks that are backgrounds would not be printed, and an arm's value would have no place on its line.
    for mark in (".bar .dot", ".bar"):
        assert opened.tab.locator(mark).first.evaluate("(one) => getComputedStyle(one).printColorAdjust") == "exact"
    # A4 less its margins: nothing may be cut off at the edge of the paper.
    opened.tab.set_viewport_size({"width": 760, "height": 1080})
    assert opened.tab.evaluate("document.documentElement.scrollWidth") <= 760
    opened.tab.set_viewport_size({"width": 1440, "height": 900})
    opened.tab.emulate_media(media="screen", color_scheme="light")
    assert opened.tab.pdf(format="A4").startswith(b"%PDF")
