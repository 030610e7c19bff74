"""The pages tell the truth: every command block runs on the simulated hospital, in order, as it is written."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import timm

import chartray
import docs.sentences as listed
from chartray.cli import app, run_command
from docs.generate import commands_page

ROOT = Path(__file__).parent.parent
# What makes a command small; its own words stay. A run of the page's default recipe takes days of a GPU.
SMALL = {
    "simulate": ["--patients", "90"],
    "ingest": ["--size", "64", "--workers", "2"],
    "pretrain": [
        "--recipe",
        "tiny-cpu",
        "--train.steps",
        "2",
        "--train.batch_size",
        "16",
        "--health.probe_films",
        "16",
    ],
    "evaluate": ["--resamples", "20", "--saliency", "1"],
    "compare": ["--resamples", "20"],
    "audit": ["--resamples", "20"],
}
# Which earlier page leaves what a page begins with.
BEGINS_AFTER = {"take-home.md": "mimic.md"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """The commands of the sh blocks of a page, as words."""
    text = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [line for line in lines if line and line[0] != "make"]


def smaller(tokens: list[str]) -> list[str]:
    """The command with the options that make it small; one that the page gives itself is taken out first."""
    more = SMALL.get(tokens[0], [])
    for option in more[::2]:
        if option in tokens:
            place = tokens.index(option)
            tokens = tokens[:place] + tokens[place + 2 :]
    return [*tokens, *more]


def run_page(name: str) -> int:
    page = ROOT / "docs" / name
    written = commands(page)
    for words in written:
        if "mapping.yaml" in words:
            (text,) = blocks(page, "yaml")
            Path("mapping.yaml").write_text(text, encoding="utf-8")
        if words[0] == "chartray":
            assert run_command(smaller(words[1:])) == 0, words
        else:
            subprocess.run(["bash", "-c", " ".join(words)], check=True)
    return len(written)


@pytest.mark.parametrize("name", [pytest.param("mimic.md", marks=pytest.mark.slow), "hospital.md"])
def test_every_command_of_a_page_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert run_page(name) > 5
    assert (tmp_path / "report" / "report.html").is_file()
    for page, before in BEGINS_AFTER.items():
        if before == name:
            assert run_page(page) > 0
            (with_chartray, with_timm) = blocks(ROOT / "docs" / page, "python")
            exec(with_chartray, {})
            exec(with_timm, {"timm": timm})
            assert chartray.load_encoder("chart-encoder").chartray_input["size"] == 64


def test_the_three_commands_of_the_readme_print_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Line by line on standard output; on standard error but for the numbers of the machine: rate, time, free space."""
    monkeypatch.chdir(tmp_path)
    (console,) = blocks(ROOT / "README.md", "console")
    prompts = re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]
    assert len(prompts) == 3
    for command, *printed in (prompt.splitlines() for prompt in prompts):
        assert run_command(shlex.split(command)[1:]) == 0
        out, err = (text.replace(str(tmp_path), "~/hospital").splitlines() for text in capsys.readouterr())
        assert [line for line in printed if line in out] == out
        rest = [line for line in printed if line not in out]
        assert {re.sub(r"[\d.]+", "9", line) for line in rest} <= {re.sub(r"[\d.]+", "9", line) for line in err}


def test_the_command_lines_of_the_readme_are_understood():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [shlex.split(line, comments=True) for line in re.findall(r"^    (chartray .+)$", readme, re.MULTILINE)]
    assert len(lines) > 15
    for _, *tokens in lines:
        app.parse_args(tokens, exit_on_error=False, print_error=False)


# Options of other programs that pages name.
OTHERS = {
    *("--nproc-per-node", "--kill-on-bad-exit"),  # torchrun, srun
    *("--partition", "--nodes", "--array", "--signal", "--gpus-per-node", "--ntasks-per-node"),  # sbatch
    *("--universal", "--generate-hashes", "--no-emit-index-url"),  # uv
    *("--compile-bytecode", "--torch-backend"),  # uv
    *("--scheduler-file", "--nthreads"),  # dask
    "--network",  # docker
    "--logdir",  # tensorboard
    *("--cases", "--only", "--out"),  # python -m tests.faults
    "--section.name",  # any setting of pretraining
}


def test_every_option_that_a_page_names_exists():
    """In prose and commands; the left column of the README's table names the options of the published scripts."""
    known = set(re.findall(r"--[a-z][\w.-]*", commands_page().replace("_", "-"))) | OTHERS | set(app)
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        text = re.sub(r"^(\|.*?\||#SBATCH.*)", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        named = {option.rstrip(".").replace("_", "-") for option in re.findall(r"(?<![\w-])--[a-z][\w.-]*", text)}
        assert named - known == set(), page


def test_every_file_that_the_readme_names_is_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all((ROOT / link).is_file() for link in re.findall(r"\]\(([\w/.-]+)\)", readme))
    assert all((ROOT / file).exists() for file in re.findall(r"`((?:examples|docs|benchmarks)/[\w/.]*)`", readme))
    (table,) = re.findall(r"^\| room .*?\n\n", readme, re.DOTALL | re.MULTILINE)
    rooms = [line.split("|")[1:3] for line in table.strip().splitlines()[2:-1]]
    named = set()
    for names, contents in rooms:
        folders = re.findall(r"`([\w/.]+)`", names)
        named |= {folder.strip("/") for folder in folders}
        for file in re.findall(r"`([\w/.]+\.py)`", names + contents):
            places = [ROOT / "src" / "chartray" / within / file for within in ("", *folders)]
            assert any(place.is_file() for place in places), (names, file)
    package = {place.name for place in (ROOT / "src" / "chartray").iterdir() if (place / "__init__.py").is_file()}
    assert package <= named


def test_every_page_with_commands_is_run():
    pages = {page.name for page in (ROOT / "docs").glob("*.md") if commands(page)}
    assert pages == {"mimic.md", "hospital.md", *BEGINS_AFTER}


def test_every_command_that_a_page_names_exists():
    known = (ROOT / "src" / "chartray" / "cli.py").read_text(encoding="utf-8")
    for page in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]:
        for name in re.findall(r"`chartray ([a-z]+)", page.read_text(encoding="utf-8")):
            assert re.search(rf"\b{name}\b", known), (page.name, name)


def test_every_file_of_the_code_that_a_page_names_is_there():
    for page in (ROOT / "docs").glob("*.md"):
        for name in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", page.read_text(encoding="utf-8")):
            home = ROOT if name.startswith("tests/") else ROOT / "src" / "chartray"
            assert (home / name).is_file(), (page.name, name)


def test_the_package_says_its_version_and_what_it_offers_without_torch():
    code = "import chartray, sys; print(chartray.__version__, *dir(chartray)); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.match(r"\d+\.\d+", done.stdout)
    assert {"__version__", "load_encoder"} <= set(done.stdout.split())


def test_every_message_that_troubleshooting_quotes_is_one_of_ours():
    code = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "src").rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # sentences that go on in the next line
    table = [
        line.split("|")[1] for line in (ROOT / "docs" / "troubleshooting.md").read_text().splitlines() if "|" in line
    ]
    quoted = [text for cell in table for text in re.findall(r"`([^`]+)`", cell)]
    assert len(quoted) > 8
    for text in quoted:
        assert text in code or text.replace("3 seeds", "{SEEDS_FOR_A_CLAIM} seeds") in code, text


def test_the_changelog_has_the_form_of_keep_a_changelog():
    kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    title, *releases = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert title.startswith("# Changelog\n")
    assert releases[0].startswith("[Unreleased]\n")
    for release in releases:
        heading, *sections = re.split(r"^### ", release, flags=re.MULTILINE)
        assert re.fullmatch(r"\[Unreleased\]|\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading.strip())
        named = [section.splitlines()[0] for section in sections]
        assert named == [kind for kind in kinds if kind in named]
        entries = [line for section in sections for line in section.splitlines()[1:] if line]
        assert [entry for entry in entries if not re.fullmatch(r"- .{10,170}\.", entry)] == []
        assert len(set(entries)) == len(entries)


def test_no_page_names_a_page_that_the_repository_lacks():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]:
        assert re.findall(r"\b(?:METHOD|DESIGN|STYLE)\.md", page.read_text(encoding="utf-8")) == [], page


def test_the_list_of_sentences_joins_what_the_code_splits():
    code = 'print(f"{n} images, " "none of which is read")\nNOTE = "One sentence of three words."\nkey = "train"\n'
    assert list(listed.of_module(code)) == [
        (1, "printed", "{n} images, none of which is read"),
        (2, "constant", "One sentence of three words."),
    ]
    assert list(listed.of_template("{% if x %}\n<p>One {{ word }}.</p>\n")) == [(2, "template", "One {{ word }}.")]
