"""The page as a whole: what is on it, what never is, and that nothing leaves it."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from chartray.errors import InputError
from chartray.outputs.json_file import write_json
from chartray.outputs.seal import seal, sealed, sha256, verify
from chartray.pixels.store import FLOW_FILE, Store
from chartray.report.cohorts import common_values, data_section
from chartray.report.disambiguate import under_names
from chartray.report.inputs import read_results, read_run
from chartray.report.methods import command_words, methods, seen_in_pretraining
from chartray.report.methods_pretraining import seeds_by_arm
from chartray.report.summary import selection
from chartray.report.write import write_report
from chartray.results.arm import arm_of, dataset_name
from chartray.results.schema import Comparison
from chartray.results.verdict import Verdict
from tests.report_folders import (
    LABELS,
    encoder_of,
    hospital,
    write_audit,
    write_comparison,
    write_results,
    write_run,
    write_store,
)
from tests.stores import edit_index, index_of

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
    root = tmp_path_factory.mktemp("hospital")
    found = hospital(root, images=240, datasets=2, evidence=True, fractions=(0.25, 1.0))
    found["audits"].append(write_audit(root / "leaking", found["runs"], Store.open(found["stores"][0]), leaking=True))
    return found


@pytest.fixture(scope="module")
def page(folders: dict[str, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    return write_report(folders["runs"], folders["results"], out, stores=folders["stores"], audits=folders["audits"])


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
            if row["fraction"] < 1 and (row["label"], row["metric"]) != ("macro", "auroc"):
                continue  # shares of the labels are drawn, and only the macro AUROC is in a table
            assert f"{row['value']:.3f}" in text
            if row.get("ci_low") is not None:
                assert f"{row['ci_low']:.3f}–{row['ci_high']:.3f}" in text
    assert "too few patients" in text


def test_the_first_screen_says_what_may_be_said(outline: Outline) -> None:
    text = re.sub(r"\s+", " ", " ".join(outline.texts))
    for pair in (
        r"Pretraining \(demographic-norm\) .*the untrained encoder",
        "demographic-norm .*no chart in macro AUROC",
    ):
        words = rf"Seen in one encoder \(seed 0\): {pair}[^;]*; another seed may differ; no claim about the method\."
        assert re.search(words, text)
    for question in ("Does the image say more than the chart alone?", "Does the chart add to the image?"):
        assert question in text
    assert "count as negative" in text
    assert "by emergency registration" in text
    assert "Known only after the image" not in text


def test_evidence_beyond_the_auroc_is_on_the_page(outline: Outline, folders: dict[str, list[Path]]) -> None:
    text = re.sub(r"\s+", " ", " ".join(outline.texts))
    for words in ("Sensitivity at 90 % specificity by label", "Brier score by label", "Calibration error by label"):
        assert words in text
    assert "60 studies of 120 images" in text
    for folder in folders["results"]:
        for row in lines_of(folder / "studies.jsonl"):
            if row["label"] == "macro" and row["control"] != "image+chart":
                assert f"{row['value']:.3f} {row['ci_low']:.3f}–{row['ci_high']:.3f}" in text
    assert "below 100 % the mean over 5 random patient subsets" in text
    assert "Below 100 %, an interval holds the pretrained encoder fixed" in text
    assert "demographic-norm minus untrained encoder AUROC +0.030 [-0.010, +0.070] 0.200 no claim" in text
    assert "Suppressed, fewer than 10 patients: sex other." in text
    assert "other (4 patients)" not in text
    assert "male over female; by chance up to 0.060" in text


def test_no_cell_of_the_page_is_a_count_below_ten(page: Path) -> None:
    """The store has an image in quarantine for each of two reasons, and the flow a step that left out two images."""
    html = page.read_text()
    data = html[html.index('<section id="data"') :]
    assert not re.findall(r'<td class="(?:n|count)">[1-9]</td>', html)
    assert '<td class="n">≤ 249</td><td class="n">240</td><td class="n">&lt; 10</td>' in data
    assert '<tr><th scope="row">truncated file …</th><td class="n">&lt; 10</td></tr>' in data


def test_blank_labels_are_a_table_that_opens(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    """Fourteen labels of three places were a wall of text; each is a row, and a small count is not told."""
    folder = Path(shutil.copytree(folders["results"][0], tmp_path / "results"))
    labels = [f"Finding {number}" for number in range(14)]
    stores = json.loads((folder / "evaluation.json").read_text())["stores"]
    stores = [entry | {"blank_negatives": dict.fromkeys(labels, 1200)} for entry in stores]
    edited(folder / "evaluation.json", stores=stores, blank_negatives_learnt_from=dict.fromkeys(labels, 34) | {"R": 3})
    seal(folder)
    html = write_report([], [folder], tmp_path / "out", films=False).read_text()
    findings = html[html.index('<section id="findings"') : html.index('<section id="data-set-')]
    said = findings[findings.index("<dt>Blank labels</dt>") : findings.index("<dt>Uncertain labels</dt>")]
    assert "<summary>Counted as negative, 15 labels</summary>" in said
    heads = ["training", *(dataset_name(entry["dataset"]) for entry in stores)]
    assert re.findall(r'<th scope="col" class="n">([^<]+)</th>', said) == heads
    row = re.search(r'<th scope="row">Finding 7</th>(.*?)</tr>', said)
    assert row is not None
    assert re.findall(r'<td class="n">([^<]+)</td>', row[1]) == ["34", *["1,200"] * len(stores)]
    assert '<th scope="row">R</th><td class="n">&lt; 10</td><td class="n">0</td>' in said


def test_leakage_is_listed_or_denied(outline: Outline, folders: dict[str, list[Path]], tmp_path: Path) -> None:
    text = re.sub(r"\s+", " ", " ".join(outline.texts))
    assert (
        "Leakage found. These are shared but must not be: < 10 patients shared by pretraining and MIMIC-CXR test"
        in text
    )
    clean = words_of(write_report([], [], tmp_path / "out", audits=folders["audits"][:1]))
    assert "No leakage found in MIMIC-CXR: no patient appears in two splits" in clean
    assert "shared by" not in clean


def test_results_without_evidence_have_no_empty_sections(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    store, run = Store.open(folders["stores"][0]), folders["runs"][0]
    folder = write_results(tmp_path / "results", run, {"mimic": store}, 0, baselines=False)
    text = words_of(write_report([run], [folder], tmp_path / "out", films=False))
    for words in (
        "By study",
        "Reliability",
        "With fewer training patients",
        "Audit",
        "Brier",
        "Sensitivity at",
        "Cross-check",
    ):
        assert words not in text
    assert "ROC and precision-recall curves" in text


def test_variables_known_after_the_image_are_named_first(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Store.open(folders["stores"][0]), "sex,mortality", "none", 0, steps=20)
    text = write_report([run], [], tmp_path / "out").read_text()
    warning = text.index("Known only after the image:</b> pretraining was allowed to use mortality")
    assert warning < text.index('id="training"')
    assert "No results were given" in text


def test_figures_are_svg_and_pdf(page: Path) -> None:
    names = {file.name for file in (page.parent / "figures").iterdir()}
    for stem in (
        "training",
        "macro-mimic",
        "differences-mimic",
        "labels-mimic",
        "roc-mimic",
        "roc-chexpert",
        "shares-mimic",
        "readability-mimic",
    ):
        assert {f"{stem}.svg", f"{stem}.pdf"} <= names
    for file in (page.parent / "figures").glob("*.pdf"):
        assert file.read_bytes().startswith(b"%PDF")
        assert b"/Type3" not in file.read_bytes(), "journals refuse Type 3 fonts"
    drawn = (page.parent / "figures" / "roc-mimic.svg").read_text()
    assert [label for label in LABELS if label in drawn] == [label for label in LABELS if label != "Fracture"]


def test_images_can_be_left_out_and_same_folders_give_the_same_page(page: Path, tmp_path: Path) -> None:
    assert page.read_text().count("data:image/jpeg") == 2 * 120  # the test images of two data sets
    small = hospital(tmp_path / "small", images=120, datasets=1, arms=1)
    texts = [write_report([], small["results"], tmp_path / name, films=False).read_text() for name in ("a", "b")]
    assert "data:image/jpeg" not in texts[0]
    assert "data-island" in texts[0]
    assert "Point at a point to see its image" not in texts[0]
    assert "Point at a point to see its image" in page.read_text()
    # Bokeh numbers the maps of a process one after the other.
    first, second = (re.sub(r"\bp\d{4,}\b", "p", text) for text in texts)
    assert first == second


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (
            "run/manifest.json",
            r"expected the manifest of a run of `chartray pretrain` at .*run/manifest.json, found",
        ),
        ("results/results.jsonl", "expected results of `chartray evaluate` or `compare` in .*results, found none"),
    ],
)
def test_a_folder_that_is_something_else_is_refused(file: str, words: str, tmp_path: Path) -> None:
    folder = tmp_path / Path(file).parent
    folder.mkdir()
    runs, results = ([folder], []) if "run/" in file else ([], [folder])
    with pytest.raises(InputError, match=words):
        write_report(runs, results, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["manifest.json", "config.yaml", "metrics.jsonl"])
def test_a_file_that_was_written_over_is_named(name: str, folders: dict[str, list[Path]], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folders["runs"][0], run)
    (run / name).write_bytes(b"PAR1\x15\x04\x15\xde")
    words = "(other bytes|not UTF-8|as the run wrote it, found other content)"
    with pytest.raises(InputError, match=rf"expected .*run/{name}.*{words}"):
        write_report([run], [], tmp_path / "out")


def test_a_line_without_its_fields_is_named(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(folders["results"][0], results)
    whole, *_ = lines_of(results / "results.jsonl")
    rewrite(results, "results.jsonl", [whole, {name: value for name, value in whole.items() if name != "dataset"}])
    with pytest.raises(InputError, match=r"line 2 of .*results.jsonl; dataset: Field required; make this folder again"):
        write_report([], [results], tmp_path / "out")


def test_nothing_to_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one run, results or audit folder"):
        write_report([], [], tmp_path / "out")


def test_the_flow_of_a_data_set_comes_from_its_store_where_no_run_tells_it(
    folders: dict[str, list[Path]], tmp_path: Path
) -> None:
    step = {"step": "rows of train.csv", "rows_in": 70, "rows_out": 61, "why": "no file name"}
    flow = {"source": "chexpert", "steps": [step], "links": {}, "missing": {}, "absent_labels": ["Lung Lesion"]}
    flow["cautions"] = [
        {"of": "Edema", "what": "9 films count as negative", "films": 9, "remedy": "say what they mean"}
    ]
    store = next(folder for folder in folders["stores"] if "chexpert" in folder.name)
    store = Path(shutil.copytree(store, tmp_path / "store"))
    write_json(store / FLOW_FILE, flow)
    edit_index(store, files=index_of(store)["files"] | {FLOW_FILE: sha256(store / FLOW_FILE)})
    found = data_section("chexpert", (store, Store.open(store)), [])
    assert found.notes == ["Edema: < 10 films count as negative"]
    assert [(one.rows_in, one.rows_out, one.why) for one in found.steps] == [("≤ 70", "61", "no file name")]
    assert found.absent_labels == ["Lung Lesion"]
    assert (
        sum(one.images for one in found.splits)
        == len(Store.open(store))
        == found.missing[0].observed + found.missing[0].missing
    )
    assert found.quarantine == [("truncated file …", 1), ("empty file …", 1)]


def edited(file: Path, **changes: object) -> None:
    said = json.loads(file.read_text()) | changes
    if file.name == "manifest.json":
        said.pop("sha256", None)
        write_json(file, said)
        return
    file.write_text(json.dumps(said))
    if sealed(file.parent):
        seal(file.parent)


def rewrite(folder: Path, name: str, rows: list[dict[str, object]]) -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    seal(folder)


def lines_of(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


# A difference over three seeds that shows none.
OPEN = {"seeds": 3, "claim": None, "verdict": "no difference shown"}


def words_of(page: Path) -> str:
    found = Outline()
    found.feed(page.read_text(encoding="utf-8"))
    return re.sub(r"\s+", " ", " ".join(found.texts))


def test_a_part_of_a_store_leaves_the_whole_its_store(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    store = Store.open(folders["stores"][0])
    folder = write_results(tmp_path / "results", folders["runs"][0], {"mimic": store}, 0, baselines=False, resamples=9)
    (folder / "predictions.parquet").unlink()
    rows = lines_of(folder / "results.jsonl")
    rows += [row | {"dataset": "mimic:radiologists"} for row in rows if row["dataset"] == "mimic"]
    rewrite(folder, "results.jsonl", rows)
    stores = json.loads((folder / "evaluation.json").read_text())["stores"]
    part = stores[0] | {"dataset": "mimic:radiologists", "part_of": "mimic", "films": 18, "patients": 17}
    edited(folder / "evaluation.json", stores=[*stores, part])
    page = write_report([], [folder], tmp_path / "out")
    text = words_of(page)
    assert "MIMIC-CXR (radiologists) 18 images of 17 patients" in text
    assert "MIMIC-CXR 120 images of 60 patients" in text
    assert page.read_text().count("data:image/jpeg") == 120


@pytest.mark.parametrize("kind", ["stores", "runs", "results", "audits", "file", "other"])
def test_a_report_is_never_written_over_other_things(kind: str, folders: dict[str, list[Path]], tmp_path: Path) -> None:
    out = tmp_path / "out"
    if kind in folders:
        shutil.copytree(folders[kind][0], out)
        (out / "report.html").write_text("an earlier page")
    elif kind == "file":
        out.write_text("a file")
    else:
        out.mkdir()
        (out / "notes.txt").write_text("other things")
    before = sorted(out.rglob("*"))
    with pytest.raises(
        InputError, match=r"is not empty and holds no earlier report|expected a folder as --out, found the file"
    ):
        write_report(folders["runs"][:1], [], out)
    assert sorted(out.rglob("*")) == before


def test_a_report_that_fails_leaves_what_was_there(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    results, out = tmp_path / "results", tmp_path / "out"
    shutil.copytree(folders["results"][0], results)
    predictions = results / "predictions.parquet"
    predictions.write_bytes(predictions.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"expected .*predictions.parquet as it was written, found other content"):
        write_report([], [results], out)
    assert [one.name for one in tmp_path.iterdir()] == ["results"]
    page = write_report(folders["runs"][:1], [], out)
    (page.parent / "figures" / "old.svg").write_text("of an earlier report")
    (out / "mine").mkdir()
    (out / "mine" / "notes.txt").write_text("of the user")
    assert write_report(folders["runs"][:1], [], out) == page
    assert not (page.parent / "figures" / "old.svg").exists()
    assert sorted(one.name for one in out.iterdir()) == ["SHA256SUMS", "figures", "mine", "report.html"]
    assert (out / "mine" / "notes.txt").read_text() == "of the user"
    verify(out)


def test_labels_of_few_patients_have_no_curves_and_are_named(outline: Outline, page: Path) -> None:
    text = re.sub(r"\s+", " ", " ".join(outline.texts))
    words = "Left out, with fewer than 10 positive or 10 negative patients: Fracture."
    assert text.count(words) == 4  # ROC and reliability of two data sets
    for name in ("roc", "precision-recall", "reliability"):
        drawn = (page.parent / "figures" / f"{name}-mimic.svg").read_text()
        assert "Fracture" not in drawn
        assert "Atelectasis" in drawn


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value encountered")
def test_that_no_label_has_curves_is_said(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", "mimic", 40, np.random.default_rng(3))
    results = write_results(tmp_path / "results", folders["runs"][0], {"mimic": store}, 0, baselines=False, resamples=9)
    (results / "embeddings.parquet").unlink()
    seal(results)
    text = words_of(write_report([], [results], tmp_path / "out"))
    assert "No ROC, precision-recall or reliability curves: every label has fewer than 10 positive" in text
    assert "ROC and precision-recall curves" not in text


def test_commands_name_no_place_on_a_machine(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    run, results = tmp_path / "run", tmp_path / "results"
    shutil.copytree(folders["runs"][0], run)
    edited(run / "manifest.json", command="/opt/secret/bin/chartray pretrain /home/me/mimic.store --out=/home/me/run-7")
    shutil.copytree(folders["results"][0], results)
    command = ["/opt/secret/lib/chartray/__main__.py", "evaluate", "/home/me/run-7/", "store"]
    edited(results / "evaluation.json", command=command)
    page = write_report([run], [results], tmp_path / "out")
    text = words_of(page)
    assert "chartray pretrain mimic.store --out=run-7" in text
    assert "chartray evaluate run-7 store" in text
    assert "/home/me" not in page.read_text()
    assert "/opt/secret" not in page.read_text()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("evaluate runs/chart k.store --out results/chart", "evaluate runs/chart k.store --out results/chart"),
        ("evaluate /Users/me/chart /data/k.store --out /data/chart", "evaluate chart k.store --out data/chart"),
        ("evaluate /tmp/a/runs/x /tmp/a/k.store --out /tmp/a/results/x", "evaluate runs/x k.store --out results/x"),
        ("evaluate ../mine/x s --out=../mine/out", "evaluate x s --out=out"),
        ("evaluate /Users/me/x /Users/you/s --out /Users/me/things/x", "evaluate x s --out things/x"),
    ],
)
def test_run_and_results_of_one_name_are_told_apart_in_a_command(given: str, told: str) -> None:
    assert command_words(f"/opt/bin/chartray {given}") == f"chartray {told}"


def test_leakage_is_said_first(outline: Outline) -> None:
    text = " ".join(outline.texts)
    assert text.index("Leakage found:") < text.index("Macro AUROC")
    assert "< 10 patients shared by pretraining and MIMIC-CXR test. Do not trust any value" in " ".join(text.split())


def test_an_interval_without_zero_beside_no_difference_says_why(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    shutil.copytree(folders["audits"][0], audit)
    lines = [json.loads(line) for line in (audit / "audit.jsonl").read_text().splitlines()]
    for row in lines:
        row |= {"ci_low": 0.01, "corrected_over": 12} | OPEN if row["part"] == "difference" else {}
    rewrite(audit, "audit.jsonl", lines)
    text = words_of(write_report([], [folders["results"][0]], tmp_path / "out", audits=[audit], films=False))
    assert "+0.030 [+0.010, +0.070] 0.200 no difference shown after correction over 12 attributes" in text
    assert "One that leaves out zero is not enough for a claim" in text


def test_an_audit_draws_and_lists_only_what_can_be_compared(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    shutil.copytree(folders["audits"][0], audit)
    rows = [row for row in lines_of(audit / "audit.jsonl") if row.get("group") != "female"]
    none = {"value": None, "ci_low": None, "ci_high": None, "reason": "too few patients"}
    rows += [row | none | {"attribute": "race"} for row in rows if row["part"] == "readability"]
    none = {"difference": None, "ci_low": None, "ci_high": None, "p": None, "p_holm": None, "verdict": None}
    pairs = [row for row in rows if row["part"] == "difference"]
    rows += [row | none | {"attribute": "race"} for row in pairs]
    rows += [pairs[0] | none | {"attribute": "age"}]
    # Three seeds of an arm: their mean stands for the single encoders, and one seed is not held against another.
    rows += [pairs[0] | {"difference": 0.123, "ci_low": 0.1, "ci_high": 0.2} | OPEN]
    own = {name: pairs[0].get(name.replace("_b", "_a")) for name in pairs[0] if name.endswith("_b")}
    rows += [pairs[0] | own | {"b": "another seed", "difference": 0.321, "ci_low": 0.3, "ci_high": 0.4}]
    rewrite(audit, "audit.jsonl", rows)
    page = write_report([], [], tmp_path / "out", audits=[audit])
    text = words_of(page)
    assert text.count("Not measured: race (AUROC); age (AUROC) between demographic-norm and no chart.") == 1
    assert "not measured" not in text
    assert "not available (too few patients)" in text
    assert "demographic-norm minus no chart (3 seeds)" in text
    assert "+0.123 [+0.100, +0.200]" in text
    assert "+0.321" not in text
    assert "demographic-norm minus no chart AUROC" not in text
    assert not list((page.parent / "figures").glob("groups-*"))


def test_an_external_and_an_own_probe_have_a_section_each(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    mimic, chexpert = (Store.open(folder) for folder in folders["stores"])
    run = folders["runs"][0]
    away = write_results(tmp_path / "away", run, {"mimic": mimic, "chexpert": chexpert}, 0, baselines=False)
    own = write_results(tmp_path / "own", run, {"chexpert": chexpert}, 1, baselines=False)
    page = write_report([], [away, own], tmp_path / "out", films=False)
    text = words_of(page)
    values = []
    for folder in (away, own):
        rows = lines_of(folder / "results.jsonl")
        values += [
            row["value"]
            for row in rows
            if (row["dataset"], row["label"], row["metric"], row["control"]) == ("chexpert", "macro", "auroc", "none")
        ]
    assert values[0] != values[1]
    assert all(f"{value:.3f}" in text for value in values)
    assert "CheXpert (own probe)" in text
    assert "CheXpert (probe of MIMIC-CXR)" in text
    assert "MIMIC-CXR (own probe)" not in text
    assert (page.parent / "figures" / "roc-chexpert-mimic.svg").is_file()


def test_a_store_of_other_content_under_one_name_is_refused(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    store = Store.open(folders["stores"][0])
    both = [write_results(tmp_path / name, folders["runs"][0], {"mimic": store}, 0, baselines=False) for name in "ab"]
    entries = json.loads((both[1] / "evaluation.json").read_text())["stores"]
    edited(both[1] / "evaluation.json", stores=[entries[0] | {"hash": "another"}])
    with pytest.raises(InputError, match=r"expected one store of mimic in all results, found the hash .* and another"):
        write_report([], both, tmp_path / "out")


def test_whether_scored_patients_were_pretrained_on_is_said_as_it_was_checked(
    folders: dict[str, list[Path]], tmp_path: Path
) -> None:
    store, run = Store.open(folders["stores"][0]), folders["runs"][0]
    folder = write_results(tmp_path / "results", run, {"mimic": store}, 0, baselines=False)

    def said() -> str:
        return " ".join(seen_in_pretraining(under_names([], [read_results(folder)])[1]))

    assert said().startswith("Not checked: the encoder came without")
    (store_entry,) = json.loads((folder / "evaluation.json").read_text())["stores"]
    edited(folder / "evaluation.json", stores=[store_entry | {"patients_seen_in_pretraining": 0}])
    assert said() == "Checked by patient: none was in the pretraining data."
    text = words_of(write_report([run], [folder], tmp_path / "out", films=False))
    assert said() in text
    entries = json.loads((folder / "evaluation.json").read_text())["stores"]
    seen = [
        entries[0] | {"patients_seen_in_pretraining": 0},
        entries[0] | {"dataset": "nih", "patients_seen_in_pretraining": None},
    ]
    edited(folder / "evaluation.json", stores=seen)
    assert "Checked by patient: none was in the pretraining data: demographic-norm on MIMIC-CXR." in said()
    assert "or was pretrained on another source: demographic-norm on NIH ChestX-ray14." in said()
    assert "saw the training split only" not in text


def test_weights_that_were_started_from_stand_at_the_top(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Store.open(folders["stores"][0]), "sex", "none", 0, steps=20)
    init = {"source": "/home/somebody/first", "run": "first", "chart": "mortality", "after_film": ["mortality"]}
    edited(run / "manifest.json", init=init)
    text = write_report([run], [], tmp_path / "out").read_text()
    warning = text.index("sex started from the weights of first (pretrained with the chart mortality)")
    assert warning < text.index('id="training"')
    assert "pretraining was allowed to use mortality" in text
    assert "/home/somebody" not in text


def test_runs_that_differ_are_not_described_by_the_first(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    store = Store.open(folders["stores"][0])
    first, second, third = (
        write_run(tmp_path / f"run-{seed}-{chart}", store, chart, "none", seed, steps=20)
        for chart, seed in (("sex", 0), ("sex", 1), ("none", 0))
    )
    edited(third / "manifest.json", objective="dino", films=999)
    read, _, _ = under_names([read_run(one) for one in (first, second, third)], [])
    assert seeds_by_arm(read) == "sex: 2 seeds; DINO, no chart: 1 seed"
    assert seeds_by_arm(read[:2]) == "sex; 2 seeds"
    listed = [
        replace(run, arm=arm_of("sex,age", control)) for run, control in zip(read, ("none", "shuffled"), strict=False)
    ]
    assert seeds_by_arm([*listed, read[2]]) == "sex,age; sex,age, shuffled; DINO, no chart; 1 seed each"
    text = " ".join(one.text for one in methods(read, selection([])))
    assert "of the arms sex were pretrained with MSN" in text
    assert (
        "of the arms DINO, no chart were pretrained with DINO for 20 optimizer steps of 64 images on 999 images" in text
    )
    same = " ".join(one.text for one in methods(read[:2], selection([])))
    assert same.count("were pretrained with") == 1
    lead = words_of(write_report([first, second, third], [], tmp_path / "out"))
    assert "3 pretraining runs (sex: 2 seeds; DINO, no chart: 1 seed)" in lead


def test_holm_corrected_differences_are_on_the_page(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    runs, store = folders["runs"][:2], Store.open(folders["stores"][0])
    arms = [encoder_of(run).arm for run in runs]
    macro = Comparison(
        **{"arm_a": arms[0], "arm_b": arms[1], "a": arms[0].title, "b": arms[1].title, "home": "mimic"},
        **{"dataset": "mimic", "protocol": "linear", "split": "test", "uncertain": "ignore", "blank": "negative"},
        **{"label": "macro", "metric": "auroc", "difference": 0.0414, "ci_low": 0.011, "ci_high": 0.073, "p": 0.0121},
        p_holm=0.0121,
        verdict=Verdict.NO_CLAIM,
    )
    compared = write_comparison(
        tmp_path / "compare", runs, store, [macro, macro.replaced(label="Edema", p_holm=0.0484)]
    )
    scored = [write_results(tmp_path / run.name, run, {"mimic": store}, 0, baselines=False) for run in runs]
    text = words_of(write_report([], [*scored, compared], tmp_path / "out", films=False))
    assert "demographic-norm minus no chart, label by label" in text
    assert "“p, Holm” is corrected for the number of labels" in text
    assert "Edema +0.041 [+0.011, +0.073] 0.012 0.048 no claim" in text
    assert "Macro mean +0.041 [+0.011, +0.073] 0.012 – no claim" in text


def test_few_seeds_claim_nothing_anywhere_on_the_page(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    """Whatever a folder recorded: tables, forests and the audit go by the seeds."""
    results, audit = (Path(shutil.copytree(folders[kind][0], tmp_path / kind)) for kind in ("results", "audits"))
    for folder, name in ((results, "comparisons.jsonl"), (audit, "audit.jsonl")):
        rows = lines_of(folder / name)
        higher = {"verdict": "a higher", "claim": None, "ci_low": 0.01, "ci_high": 0.2, "seeds": 2}
        rewrite(folder, name, [row | higher if "chart_b" in row else row for row in rows])
    page = write_report([], [results], tmp_path / "out", audits=[audit], films=False)
    text = words_of(page)
    assert "[+0.010, +0.200]" in text
    assert not re.search(r"Shown|beats", text)
    assert text.count("is higher") == len(
        re.findall(r"Seen in two encoders[^;]*is higher[^;]*; another seed may differ", text)
    )
    assert "difference in macro AUROC (2 seeds: no claim)" in page.read_text()


def test_a_cell_of_few_images_is_counted_and_not_shown() -> None:
    counts = {"absent": 3, "?": 10, "Jane Doe": 9, "MRN 12": 1}
    assert common_values(counts, 500) == "absent < 20, “?” < 20, rare values 10"
    # Of 500 images 29 are missing, which is told: the rare ones are not what is left.
    assert common_values({"absent": 26, "Jane Doe": 3}, 500) == "absent about 20, rare values < 10"
    assert common_values({"absent": 495}, 500) == "absent > 490"
    many = {f"value {place}": 20 - place for place in range(8)}
    assert common_values(many, 500).endswith("“value 5” 15, other values 27")


def test_simulated_data_are_called_so_first_and_in_the_methods(
    folders: dict[str, list[Path]], page: Path, tmp_path: Path
) -> None:
    assert "Simulated data" not in words_of(page)
    run = write_run(tmp_path / "run", Store.open(folders["stores"][0]), "sex", "none", 0, steps=20)
    edited(run / "manifest.json", simulated=True)
    text = words_of(write_report([run], [], tmp_path / "out"))
    assert text.index("Simulated data: images, charts and findings of MIMIC-CXR are simulated") < text.index(
        "Flow of rows"
    )
    assert "Eligibility. Images, charts and findings of MIMIC-CXR were simulated." in text
    results = tmp_path / "results"
    shutil.copytree(folders["results"][0], results)
    stores = json.loads((results / "evaluation.json").read_text())["stores"]
    edited(results / "evaluation.json", stores=[stores[0], *(one | {"simulated": True} for one in stores[1:])])
    text = words_of(write_report([], [results], tmp_path / "some"))
    assert "findings of CheXpert are simulated. Their numbers" in text


def test_the_methods_say_what_strengths_were_really_chosen_on(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(folders["results"][0], results)
    rows = lines_of(results / "results.jsonl")
    for row in rows:
        row["chosen_by"] = "validation" if row["label"] == "Edema" else "cross-validation"
    rewrite(results, "results.jsonl", rows)
    text = words_of(write_report([], [results], tmp_path / "out"))
    words = (
        "its strength was chosen by cross-validation by patient inside the training images (3 of 4 probes) and on the "
        "validation images (1 of 4)"
    )
    assert text.count(words) == 2  # under the findings, and in the paragraph
    assert "the validation split chose" not in text
    rows = [row | {"chosen_by": "validation"} for row in rows]
    rewrite(results, "results.jsonl", rows)
    assert "its strength was chosen on the validation images" in words_of(write_report([], [results], tmp_path / "out"))


def test_the_methods_hold_the_recipe_of_fine_tuning_and_the_rates_of_pretraining(
    folders: dict[str, list[Path]], tmp_path: Path
) -> None:
    recipe = {"freeze": False, "optimizer": "adamw", "learning_rate": 1e-4, "layer_decay": 0.75, "drop_path": 0.1}
    results = tmp_path / "results"
    shutil.copytree(folders["results"][0], results)
    rows = [row | {"protocol": "finetune"} for row in lines_of(results / "results.jsonl")]
    rewrite(results, "results.jsonl", rows)
    edited(results / "evaluation.json", recipe=recipe | {"mixup": 0.0, "warmup_epochs": 5.0, "max_epochs": 50})
    encoder = json.loads((results / "evaluation.json").read_text())["encoder"]
    edited(results / "evaluation.json", encoder=encoder | {"provenance": encoder["provenance"] | {"seed": 7}})
    run = write_run(tmp_path / "run", Store.open(folders["stores"][0]), "none", "none", 0, steps=20)
    edited(run / "manifest.json", peak_learning_rate=0.002, warmup_steps=24)
    text = words_of(write_report([run], [results], tmp_path / "out"))
    assert "AdamW had a peak learning rate of 0.002 after 24 warm-up steps, weight decay" in text
    assert "AdamW, learning rate 0.0001, 5 epochs of warm-up, drop path 0.1, at most 50 epochs, layer-wise rate" in text
    assert "Also scored, pretrained elsewhere: demographic-norm, seed 7." in text


def test_several_seeds_of_few_patients_keep_their_reason(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    results = []
    for seed in range(2):
        results.append(tmp_path / f"results-{seed}")
        shutil.copytree(folders["results"][0], results[-1])
        rows = [row | {"run": f"run-{seed}", "run_seed": seed} for row in lines_of(results[-1] / "results.jsonl")]
        for row in rows:
            if row["label"] == "Edema":
                row |= {"ci_low": None, "ci_high": None, "reason": "too few patients"}
        rewrite(results[-1], "results.jsonl", rows)
        (results[-1] / "comparisons.jsonl").unlink()
        seal(results[-1])
    page = write_report([], results, tmp_path / "out")
    row = re.search(r'<th scope="row">Edema</th>.*?</tr>', page.read_text(), re.DOTALL)
    assert row is not None
    first = row[0].split("<td>")[1]
    assert " · " in first
    assert "too few patients" in first


def test_a_small_subgroup_without_a_macro_is_named_once_and_shown_nowhere(
    folders: dict[str, list[Path]], tmp_path: Path
) -> None:
    audit = tmp_path / "audit"
    shutil.copytree(folders["audits"][0], audit)
    rows = lines_of(audit / "audit.jsonl")
    for row in rows:
        if row["part"] == "group":
            row["label"] = "Edema"  # no label is shown in all groups, so there is no macro
            row["n_patients"] = 7 if row.get("group") == "other" else row.get("n_patients")
    rewrite(audit, "audit.jsonl", rows)
    text = words_of(write_report([], [], tmp_path / "out", audits=[audit]))
    assert text.count("sex other") == 1
    assert "Suppressed, fewer than 10 patients: sex other." in text
    assert not re.search(r"sex other Edema|other Edema AUROC 7", text)


def test_the_leakage_check_says_what_it_cannot_recognise(outline: Outline) -> None:
    text = " ".join("".join(outline.texts).split())
    assert "A copy that was rotated, or cropped by 1 % a side or more, is not recognised" in text


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl"])
def test_a_run_of_other_settings_or_numbers_than_it_wrote_is_refused(
    name: str, folders: dict[str, list[Path]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(folders["runs"][0], run)
    write_report([run], [], tmp_path / "out")
    whole = (run / name).read_text()
    (run / name).write_text(whole.replace("3", "4", 1))
    assert (run / name).read_text() != whole
    with pytest.raises(InputError, match=f"{name} as the run wrote it, found other content"):
        write_report([run], [], tmp_path / "again")


def test_labels_of_few_positive_patients_are_marked_in_every_table(
    folders: dict[str, list[Path]], tmp_path: Path
) -> None:
    """Failed before: a value of 3 patients stood beside one of 300 as if it were as sure."""
    results = tmp_path / "results"
    shutil.copytree(folders["results"][0], results)
    rows = lines_of(results / "results.jsonl")
    for row in rows:
        row["n_positive_patients"] = 19 if row["label"] == "Edema" else 20
    rewrite(results, "results.jsonl", rows)
    page = write_report([], [results], tmp_path / "out", films=False)
    heads = re.findall(r'<th scope="row">(\w[^<]*)(<abbr[^>]*>†</abbr>)?</th><td class="count">', page.read_text())
    assert {label for label, mark in heads if mark} == {"Edema"}
    assert sum(bool(mark) for _, mark in heads) == sum(label == "Edema" for label, _ in heads) > 6
    assert "† Fewer than 20 positive patients: the value leans on single patients. Edema." in words_of(page)


def test_the_methods_fill_what_files_hold_and_ask_the_author_for_the_rest(outline: Outline) -> None:
    text = re.sub(r"\s+", " ", " ".join(outline.texts))
    methods_said = text[text.index("Methods and reproduction") :]
    for words in (
        "Eligibility. From MIMIC-CXR 2.2, 240 images of 300 images in the metadata were used; left out were about",
        "about 50 at “known view”",
        "was split by patient: train 60 images of 30 patients; validate 60 images of 30 patients; test 120 images of",
        "no patient in two parts",
        "a missing chart value entered as the mean of the training patients, with a flag that it was missing",
        "All tests are two-sided; alpha is 0.05.",
        "if min(K_a, K_b) < 3, no claim about the method; else if p > 0.05, no difference shown",
        "over the labels of one pair of arms, data set, share of the training patients and metric",
    ):
        assert words in methods_said, words
    for asked in (
        "study goal",
        "prospective or retrospective",
        "how, from what, by whom",
        "how many patients and seeds",
    ):
        assert f"[author: {asked}" in methods_said


def test_every_place_that_the_checklists_name_exists(outline: Outline) -> None:
    """docs/reporting.md, its items against CLAIM 2024 (44) and TRIPOD+AI (27)."""
    said = (Path(__file__).parent.parent / "docs" / "reporting.md").read_text()
    source = (Path(__file__).parent.parent / "src" / "chartray" / "report" / "methods.py").read_text()
    named = set(re.findall(r"Methods: (\w+(?: \w+)?)(?= \(|;| \||,|$)", said, flags=re.MULTILINE))
    assert len(named) >= 11
    assert {name for name in named if f'"{name}": ' not in source} == set()
    card = (Path(__file__).parent.parent / "src" / "chartray" / "model_card" / "model_card.md.j2").read_text()
    for section in set(re.findall(r"Card: (\w[\w ]*?)(?= \(|;| \||,)", said)):
        assert f"## {section}" in card
    for table, last in zip(said.split("## ")[1:3], (44, 27), strict=True):
        items = re.findall(r"^\| ([\d][^|]*) \|", table, flags=re.MULTILINE)
        numbers = {
            number
            for item in items
            for part in item.split(", ")
            for ends in [[int(re.sub(r"\D", "", end)) for end in part.split(" to ")]]
            for number in range(ends[0], ends[-1] + 1)
        }
        assert numbers == set(range(1, last + 1))
    text = " ".join(outline.texts)
    for section in set(re.findall(r"Page: (\w+)", said)) - {"one", "Saliency"}:
        assert section in text
