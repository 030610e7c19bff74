"""The page as a whole: what is on it, what never is, and that nothing leaves it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from chartray.errors import InputError
from chartray.pixels.store import Store
from chartray.report.cohorts import data_section
from chartray.report.page import write_report
from tests.report_folders import LABELS, hospital, write_run

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}
# Whatever would make a browser ask for something that is not on the page.
REQUESTS = re.compile(
    r"""(?:src|srcset|poster|data|action)\s*=\s*["'](?!data:)[^"']*["']|url\((?!#|["']?data:)|@import"""
)


class Outline(HTMLParser):
    """Checks that tags nest, and gathers what the tests ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.headings: list[int] = []
        self.links: list[tuple[str, str]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.ids += [values["id"]] if "id" in values else []
        self.links += [(tag, values["href"])] if "href" in values else []
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}> in line {self.getpos()[0]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.texts.append(data)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    return hospital(tmp_path_factory.mktemp("hospital"), films=240, datasets=2)


@pytest.fixture(scope="module")
def page(folders: dict[str, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    return write_report(folders["runs"], folders["results"], out, stores=folders["stores"])


@pytest.fixture(scope="module")
def outline(page: Path) -> Outline:
    found = Outline()
    found.feed(page.read_text(encoding="utf-8"))
    return found


def test_tags_nest_ids_are_unique_and_links_arrive(page: Path, outline: Outline) -> None:
    assert not outline.open
    assert len(outline.ids) == len(set(outline.ids))
    for _, target in outline.links:
        if target.startswith("#"):
            assert target[1:] in outline.ids
        elif not target.startswith("data:"):
            assert (page.parent / target).stat().st_size > 500
    drawn = "".join(re.findall(r'<svg class="plot".*?</svg>', page.read_text(), flags=re.DOTALL))
    used = re.findall(r'xlink:href="#([^"]+)"|url\(#([^)]+)\)', drawn)
    assert used
    assert {a or b for a, b in used} <= set(outline.ids)


def test_headings_go_down_one_level_at_a_time(outline: Outline) -> None:
    assert outline.headings.count(1) == 1
    assert outline.headings[0] == 1
    assert all(later - earlier <= 1 for earlier, later in zip(outline.headings, outline.headings[1:], strict=False))


def test_nothing_on_the_page_asks_for_anything_outside(page: Path) -> None:
    text = page.read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    # Bokeh's and the page's scripts are text; the policy keeps them from asking.
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert REQUESTS.findall(markup) == []
    assert not re.search(r"<(?:link|script|iframe|object)[^>]+https?:", text)


def test_no_identifier_is_on_the_page_or_in_a_figure(page: Path, folders: dict[str, list[Path]]) -> None:
    text = page.read_text() + "".join(file.read_text() for file in (page.parent / "figures").glob("*.svg"))
    # Pixels and Bokeh's own code hold no names, and are most of the page.
    text = re.sub(r"data:image/jpeg;base64,[\w+/=]+|<script>.*?</script>", "", text, flags=re.DOTALL)
    assert "data-island" in text
    for folder in folders["stores"]:
        cohort = Store.open(folder).cohort
        for column in ("image_id", "patient_id"):
            assert not [name for name in cohort[column].to_pylist() if name in text or name.split("-")[-1] in text]
        for row in pq.read_table(folder / "quarantine.parquet").to_pylist():
            assert row["path"] not in text
    assert "truncated file …" in text


def test_every_number_of_the_tables_is_on_the_page(outline: Outline, folders: dict[str, list[Path]]) -> None:
    text = " ".join(outline.texts)
    for folder in folders["results"]:
        for line in (folder / "results.jsonl").read_text().splitlines():
            row = json.loads(line)
            if row["control"] == "image+chart" and row["run"].split("-")[0] != "none":
                continue  # the ceiling is image + chart on the encoder that saw no chart
            assert f"{row['value']:.3f}" in text
            if row["ci_low"] is not None:
                assert f"{row['ci_low']:.3f}–{row['ci_high']:.3f}" in text
    assert "too few patients" in text


def test_the_first_screen_says_what_may_be_said(outline: Outline) -> None:
    text = re.sub(r"\s+", " ", " ".join(outline.texts))
    assert "beats the untrained encoder in macro AUROC: MIMIC-CXR +0." in text
    assert "No claim about the chart, demographic-norm against no chart: 1 seed, 3 needed" in text
    assert "count as negative" in text
    assert "by emergency registration" in text
    assert "Known only after the film" not in text


def test_variables_from_after_the_film_are_named_first(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Store.open(folders["stores"][0]), "sex,mortality", "none", 0, steps=20)
    text = write_report([run], [], tmp_path / "out").read_text()
    warning = text.index("Known only after the film:</b> pretraining was allowed to see mortality")
    assert warning < text.index('id="training"')
    assert "No results were given" in text


def test_figures_are_svg_and_pdf(page: Path) -> None:
    names = {file.name for file in (page.parent / "figures").iterdir()}
    for stem in ("training", "macro-mimic", "differences-mimic", "labels-mimic", "roc-mimic", "roc-chexpert"):
        assert {f"{stem}.svg", f"{stem}.pdf"} <= names
    assert (page.parent / "figures" / "roc-mimic.pdf").read_bytes().startswith(b"%PDF")
    assert all(label in (page.parent / "figures" / "roc-mimic.svg").read_text() for label in LABELS)


def test_films_can_be_left_out_and_same_folders_give_the_same_page(page: Path, tmp_path: Path) -> None:
    assert page.read_text().count("data:image/jpeg") == 2 * 120  # the test films of two data sets
    small = hospital(tmp_path / "small", films=120, datasets=1, arms=1)
    texts = [write_report([], small["results"], tmp_path / name, films=False).read_text() for name in ("a", "b")]
    assert "data:image/jpeg" not in texts[0]
    assert "data-island" in texts[0]
    # Bokeh numbers the maps of a process one after the other.
    first, second = (re.sub(r"\bp\d{4,}\b", "p", text) for text in texts)
    assert first == second


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("run/manifest.json", "expected a run folder of `chartray pretrain` with manifest.json"),
        ("results/results.jsonl", "expected results.jsonl of `chartray evaluate`"),
    ],
)
def test_a_folder_that_is_something_else_is_refused(file: str, words: str, tmp_path: Path) -> None:
    folder = tmp_path / Path(file).parent
    folder.mkdir()
    runs, results = ([folder], []) if "run/" in file else ([], [folder])
    with pytest.raises(InputError, match=words):
        write_report(runs, results, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_line_without_its_fields_is_named(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text(
        '{"dataset": "nih", "label": "Edema", "metric": "auroc"}\n{"label": "Edema"}\n'
    )
    with pytest.raises(InputError, match=r"expected the field 'dataset' in line 2 of .*results.jsonl"):
        write_report([], [tmp_path], tmp_path / "out")


def test_nothing_to_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one run or results folder"):
        write_report([], [], tmp_path / "out")


def test_the_flow_of_a_data_set_comes_from_its_store_where_no_run_tells_it(
    folders: dict[str, list[Path]], tmp_path: Path
) -> None:
    step = {"step": "rows of train.csv", "rows_in": 70, "rows_out": 61, "why": "no file name"}
    flow = {"source": "chexpert", "steps": [step], "links": {}, "missing": {}, "absent_labels": ["Lung Lesion"]}
    store = next(folder for folder in folders["stores"] if "chexpert" in folder.name)
    (store / "cohort.flow.json").write_text(json.dumps(flow))
    found = data_section("chexpert", (store, Store.open(store)), [])
    assert [(one.rows_in, one.rows_out, one.why) for one in found.steps] == [(70, 61, "no file name")]
    assert found.absent_labels == ["Lung Lesion"]
    assert (
        sum(one.films for one in found.splits)
        == len(Store.open(store))
        == found.missing[0].observed + found.missing[0].missing
    )
    assert found.quarantine == [("truncated file …", 1), ("empty file …", 1)]
