"""Reads what a report is about and writes it; what draws it is imported once all inputs are known to be usable."""

from collections.abc import Sequence
from pathlib import Path

from chartray.errors import InputError
from chartray.outputs.guard import refuse_other
from chartray.outputs.replacing import replaced_folder
from chartray.outputs.seal import SUMS_FILE
from chartray.report import disambiguate
from chartray.report import inputs as files

_PAGE, _FIGURES = "report.html", "figures"
# A folder with one of these is a store, a run, results or an audit: a report is never written into one.
_OF_OTHERS = {"store.json", "manifest.json", "results.jsonl", "comparisons.jsonl", "evaluation.json", "audit.json"}


def write_report(
    runs: Sequence[Path],
    results: Sequence[Path],
    out: Path,
    *,
    stores: Sequence[Path] = (),
    audits: Sequence[Path] = (),
    title: str | None = None,
    films: bool = True,
) -> Path:
    """Writes `out`/report.html and `out`/figures/*.svg, *.pdf; returns the page.

    `runs` are folders of pretraining, `results` folders of evaluations and comparisons, `stores` the data sets that
    were scored (those that the runs' manifests name are found without), `audits` folders of audits. With `films`
    false the page shows no image. Raises InputError for a folder that is none of these, when there is nothing to
    report, or where `out` is not empty and holds no earlier report.
    """
    check_report_replaceable(out)
    if not runs and not results and not audits:
        raise InputError("expected at least one run, results or audit folder to report on, found none; name one")
    read_runs = sorted(
        (files.read_run(Path(run)) for run in runs), key=lambda run: (run.arm.order, run.manifest.seed or 0)
    )
    read_results = [files.read_results(Path(one)) for one in results]
    read_audits = [files.read_audit(Path(one)) for one in audits]
    named = disambiguate.under_names(read_runs, read_results, read_audits)
    from chartray.report.page import environment, page_content  # matplotlib and Bokeh take two seconds

    with replaced_folder(out, kept=_is_of_others) as partial:
        content = page_content(*named, partial, stores, title, with_images=films)
        text = environment().get_template("page.html.j2").render(content)
        (partial / _PAGE).write_text(text, encoding="utf-8")
    return out / _PAGE


def check_report_replaceable(out: Path) -> None:
    """Raises InputError unless `out` is a new or empty folder, or an earlier report."""
    refuse_other(out, lambda names: "" if _PAGE in names and not names & _OF_OTHERS else "no earlier report")


def _is_of_others(name: str) -> bool:
    """Whether a file next to an earlier report is not Chartray's, and is kept."""
    return name not in (_PAGE, SUMS_FILE) and not name.startswith(f"{_FIGURES}/")
