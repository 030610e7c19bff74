"""What the report says: the content of one self-contained HTML page, and its figures as SVG and PDF files."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import jinja2
from bokeh.resources import Resources
from markupsafe import Markup, escape

from chartray.report import (
    audit_section,
    cohorts,
    curves,
    embedding_map,
    figures,
    methods,
    methods_pretraining,
    saliency,
    statements,
    summary,
    tables,
)
from chartray.report.data_set_section import data_set_section, main_rows, maps_of
from chartray.report.inputs import AuditResults, PretrainingRun, Results
from chartray.results.arm import Arm, dataset_name
from chartray.results.methods import LATE_CHART
from chartray.results.verdict import SEEDS_FOR_A_CLAIM
from chartray.small_counts import counts, told
from chartray.statistics.metrics import FEW_POSITIVE_PATIENTS, MINIMUM_PATIENTS
from chartray.truth import BLANK_WORDS
from chartray.wording import joined, plural

# The marks of figures.arm_styles in a 28 x 12 box, for the page's own legends.
_MARKS = {
    "o": "M14 2a4 4 0 1 1 0 8a4 4 0 1 1 0-8z",
    "s": "M10.4 2.4h7.2v7.2h-7.2z",
    "D": "M14 1.4l4.6 4.6l-4.6 4.6l-4.6-4.6z",
    "^": "M14 1.6l4.6 8h-9.2z",
    "v": "M14 10.4l4.6-8h-9.2z",
    "X": "M11.6 1.6l2.4 2.4l2.4-2.4l2 2l-2.4 2.4l2.4 2.4l-2 2l-2.4-2.4l-2.4 2.4l-2-2l2.4-2.4l-2.4-2.4z",
    "P": "M12.6 1.6h2.8v3h3v2.8h-3v3h-2.8v-3h-3v-2.8h3z",
    "*": "M14 .8l1.5 3.3l3.6.4l-2.7 2.4l.8 3.6l-3.2-1.9l-3.2 1.9l.8-3.6l-2.7-2.4l3.6-.4z",
    "h": "M14 1.4l4 2.3v4.6l-4 2.3l-4-2.3v-4.6z",
}


def page_content(
    runs: Sequence[PretrainingRun],
    results: Sequence[Results],
    audits: Sequence[AuditResults],
    out: Path,
    stores: Sequence[Path],
    title: str | None,
    *,
    with_images: bool,
) -> dict[str, object]:
    """What the template shows; the figures are written to `out`."""
    main = main_rows(results)
    seen = {run.arm for run in runs} | {row.arm for row in main.scores} | {arm for one in audits for arm in one.arms}
    arms = sorted(seen, key=lambda arm: arm.order)
    styles = figures.arm_styles(arms)
    opened = cohorts.open_stores([Path(store) for store in stores], runs, results)
    scored = tables.datasets(main.every)
    names = list(dict.fromkeys([*scored, *opened]))
    parts = cohorts.parts_of_stores(results)
    data = [cohorts.data_section(name, opened.get(name), runs) for name in names if name not in parts]
    # The images of a part are on the map of the whole.
    maps = maps_of(results, [name for name in scored if name not in parts], opened, main.which, with_images=with_images)
    sections = [
        data_set_section(name, results, main, styles, out, maps, number)
        for number, name in enumerate(tables.places(main.every))
    ]
    how = methods.scoring(results, main.scores, main.which)
    simulated = cohorts.simulated(runs, results, audits, opened)
    return {
        "title": title or _title(arms, [name for name in names if name not in parts]),
        "unfinished": [run for run in runs if run.manifest.status != "complete"],
        "commands": list(
            dict.fromkeys(methods.command_words(one.manifest.command) for one in results if one.evaluation)
        ),
        "written": datetime.now(UTC).strftime("%-d %B %Y"),
        "runs": runs,
        "axis_start": tables.axis_start(main.scores),
        "several_seeds": any(summary.seeds_of(main.scores, arm) > 1 for arm in arms),
        "arms": [(arm, styles[arm]) for arm in arms],
        "styles": styles,
        "marks": _MARKS,
        "lead": _lead(runs, names, how),
        "sizes": {part.name: _size(part, how.split) for part in data} | parts,
        "has_plain": any(arm.kind == "none" for arm in arms),
        "trained": [run.arm for run in runs],
        "answers": statements.answers(
            main.every,
            [pair for one in results for pair in one.comparisons],
            [row for one in results for row in one.interactions],
        ),
        "asked": methods.asked(results),
        "after_image": _after_image(runs, results),
        "gain_from_late_chart": LATE_CHART,
        "simulated": simulated,
        "all_simulated": set(names) - set(parts) <= set(simulated),
        "started_from": methods_pretraining.started_from(runs, results),
        "scoring": how,
        "blank_words": BLANK_WORDS,
        "datasets": sections,
        "audit": audit_section.audit_section(audits, styles, out),
        "saliency": saliency.saliency_section(results, with_images=with_images),
        "data": data,
        "training": curves.training_figures(runs, styles, out),
        "facts": methods.facts(runs),
        "methods": methods.methods(runs, main.which, results, audits, data, simulated),
        "fewest_patients": MINIMUM_PATIENTS,
        "few_positive_patients": FEW_POSITIVE_PATIENTS,
        "cautions": [(arm, arm.caution) for arm in arms if arm.caution],
        "seeds_needed": SEEDS_FOR_A_CLAIM,
        "css": _asset("style.css"),
        "script": _asset("map.js"),
        "bokeh": _bokeh() if any(section.map for section in sections) else "",
        "island": embedding_map.json_island,
    }


def _title(arms: Sequence[Arm], names: Sequence[str]) -> str:
    charts = list(dict.fromkeys(arm.chart for arm in arms if arm.kind == "chart"))
    subject = f"Pretraining with {joined(charts)}" if charts else "Pretraining without a chart"
    return f"{subject}, scored on {joined(map(dataset_name, names))}" if names else subject


def _lead(runs: Sequence[PretrainingRun], names: Sequence[str], how: methods.ScoringFacts) -> str:
    """What was run, on which data, in one or two sentences."""
    parts = []
    if runs:
        count = len(runs)
        sources = ", ".join(dict.fromkeys(dataset_name(run.manifest.source) for run in runs))
        text = f"{plural(count, 'pretraining run')} ({methods_pretraining.seeds_by_arm(runs)})"
        parts.append(f"{text} on the training images of {sources}.")
    if how.macro_labels:
        parts.append(f"Scored with the image alone on {', '.join(map(dataset_name, names))}.")
    return " ".join(parts)


def _size(part: cohorts.DataSection, split: str) -> str:
    there = [one for one in part.splits if one.split == split]
    return f"{told(there[0].images, 'image')} of {told(there[0].patients, 'patient')}" if there else ""


def _after_image(runs: Sequence[PretrainingRun], results: Sequence[Results]) -> list[str]:
    made = [run.manifest for run in runs] + [one.provenance for one in results if one.provenance is not None]
    names = [name for one in made for name in (*one.after_film, *(one.init.after_film if one.init else ()))]
    return sorted({*names, *(name for one in results if one.evaluation for name in one.evaluation.after_film)})


def breakable(text: str) -> Markup:
    """Text in which a line may end after each comma, since the names of charts are lists without a space.

    >>> str(breakable("sex,age & 1,234"))
    'sex,<wbr>age &amp; 1,234'
    """
    return Markup(re.sub(r",(?=[^\s\d])", ",<wbr>", str(escape(text))))


def authored(text: str) -> Markup:
    """Text in which what an author must fill in stands out.

    >>> str(authored("Two arms. [author: dates]"))
    'Two arms. <mark>[author: dates]</mark>'
    """
    return Markup(re.sub(r"(\[author: [^\]]*\])", r"<mark>\1</mark>", str(breakable(text))))


def _bokeh() -> str:
    return "\n".join(Resources(mode="inline", components=["bokeh"], minified=True).js_raw)


def _asset(name: str) -> str:
    return resources.files("chartray.report").joinpath(name).read_text(encoding="utf-8")


def environment() -> jinja2.Environment:
    """Jinja's environment of the report's templates."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("chartray.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals |= {"counts": counts}
    environment.filters["shown"] = dataset_name
    environment.filters["breakable"] = breakable
    environment.filters["authored"] = authored
    return environment
