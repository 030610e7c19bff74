"""What the report says: the content of one self-contained HTML page, and its figures as SVG and PDF beside it."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from bokeh.resources import Resources
from markupsafe import Markup, escape

from chartray.report import (
    apart,
    audit_section,
    cohorts,
    curve_data,
    curves,
    embedding_map,
    figures,
    forests,
    methods,
    methods_pretraining,
    saliency,
    summary,
    tables,
)
from chartray.report.arms import Arm
from chartray.report.audits import Audit
from chartray.report.inputs import Results, Run
from chartray.report.rows import Comparison, Score, shown
from chartray.results.verdict import SEEDS_FOR_A_CLAIM
from chartray.statistics.metrics import MINIMUM_PATIENTS
from chartray.truth import BLANK_WORDS

# The marks of figures.styles in a 28 x 12 box, for the page's own legends.
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
    runs: Sequence[Run],
    results: Sequence[Results],
    audits: Sequence[Audit],
    out: Path,
    stores: Sequence[Path],
    title: str | None,
    *,
    with_films: bool,
) -> dict[str, Any]:
    """What the template shows; the figures are written to `out`."""
    every = [score for one in results for score in one.scores]
    which = summary.selection(every)
    scores = summary.chosen(every, which)
    apart.refuse_other_macro_labels(scores)
    comparisons = summary.at([pair for one in results for pair in one.comparisons], which)
    studies = summary.chosen([score for one in results for score in one.studies], which)
    seen = {run.arm for run in runs} | {score.arm for score in scores} | {arm for one in audits for arm in one.arms}
    arms = sorted(seen, key=lambda arm: arm.order)
    look = figures.styles(arms)
    opened = cohorts.open_stores([Path(store) for store in stores], runs, results)
    names = list(dict.fromkeys([*tables.datasets(every), *opened]))
    parts = cohorts.parts_of_stores(results)
    # The films of a part are on the map, and in the tables, of the whole.
    whole = [name for name in tables.datasets(every) if name not in parts]
    most = curve_data.films_per_map(whole)
    data = [cohorts.data_section(name, opened.get(name), runs) for name in names if name not in parts]
    how = methods.scoring(results, scores, which)
    simulated = cohorts.simulated(runs, results, audits, opened)
    sections: list[dict[str, Any]] = []
    mapped: set[str] = set()
    for name in tables.places(every):
        dataset = name.partition("<")[0]
        # Embeddings are the same whatever probe reads them: one map a data set.
        maps = None
        if dataset in whole and dataset not in mapped:
            store = opened.get(dataset)
            maps = curve_data.embedding_map(results, dataset, store, which, most=most, films=with_films)
            mapped.add(dataset)
        drawn = forests.forest_figures(name, scores, comparisons, look, out)
        here = figures.only(look, (one.arm for one in scores if one.place == name))
        few = curve_data.labels_of_few(results, name, which)
        by_label = {
            label: found for label, found in curve_data.label_curves(results, name, which).items() if label not in few
        }
        drawn["curves"] = curves.label_figures(name, by_label, here, out)
        drawn["reliability"] = curves.reliability_figures(results, name, which, look, out, without=few)
        drawn["shares"] = curves.share_figures(every, name, which, look, out)
        section = _section(name, dataset, scores, every, studies, comparisons, look)
        sections.append(section | drawn | {"map": maps, "few": few, "number": len(sections)})
    return {
        "title": title or _title(arms, names),
        "unfinished": [run for run in runs if run.manifest.get("status", "complete") != "complete"],
        "commands": list(
            dict.fromkeys(methods.command_words(one.evaluation.get("command")) for one in results if one.evaluation)
        ),
        "written": datetime.now(UTC).strftime("%-d %B %Y"),
        "runs": runs,
        "axis_start": tables.axis_start(scores),
        "several_seeds": any(summary.seeds_of(scores, arm) > 1 for arm in arms),
        "arms": [(arm, look[arm]) for arm in arms],
        "look": look,
        "marks": _MARKS,
        "lead": _lead(runs, names, how),
        "sizes": {part.name: _size(part, how.split) for part in data} | parts,
        "has_plain": any(arm.kind == "none" for arm in arms),
        "trained": [run.arm for run in runs],
        "verdicts": summary.verdicts(every, comparisons),
        "after_film": _after_film(runs, results),
        "simulated": simulated,
        "all_simulated": set(names) - set(parts) <= set(simulated),
        "started_from": methods_pretraining.started_from(runs, results),
        "scoring": how,
        "blank_words": BLANK_WORDS,
        "datasets": sections,
        "audit": audit_section.audit_section(audits, look, out),
        "looks": saliency.looks_section(results, films=with_films),
        "data": data,
        "training": curves.training_figures(runs, look, out),
        "facts": methods.facts(runs),
        "methods": methods.methods(runs, how, tables.datasets(every), results, audits, simulated),
        "fewest_patients": MINIMUM_PATIENTS,
        "seeds_needed": SEEDS_FOR_A_CLAIM,
        "style": _asset("style.css"),
        "script": _asset("map.js"),
        "bokeh": _bokeh() if any(section["map"] for section in sections) else "",
        "island": embedding_map.json_island,
    }


def _section(
    name: str,
    dataset: str,
    scores: Sequence[Score],
    every: Sequence[Score],
    studies: Sequence[Score],
    comparisons: Sequence[Comparison],
    look: Mapping[Arm, figures.Style],
) -> dict[str, Any]:
    found = [tables.score_table(scores, name, metric) for metric in tables.METRICS]
    by_label = tables.difference_tables(comparisons, name)
    arms = tables.arms_of([one for one in scores if one.place == name])
    return {
        "name": name,
        "dataset": dataset,
        "by_label": by_label,
        "by_label_figures": [
            forests.differences_by_label(table.pairs, look, table.metric, f"by-label-{figures.slug(name)}-{number}")
            for number, table in enumerate(by_label)
        ],
        "arms": arms,
        "encoders": [arm for arm in arms if arm.kind != "source"],
        "headlines": tables.headlines(scores, name, tables.axis_start(scores)),
        "tables": [table for table in found if table.rows],
        "delong": tables.delong_words(scores, name),
        "studies": tables.study_table(scores, studies, name),
        "other": tables.other_rows(every, name),
    }


def _title(arms: Sequence[Arm], names: Sequence[str]) -> str:
    charts = [arm.chart for arm in arms if arm.kind == "chart"]
    subject = f"What {' and '.join(dict.fromkeys(charts))} was worth" if charts else "Pretraining without the chart"
    return f"{subject} on {', '.join(map(shown, names))}" if names else subject


def _lead(runs: Sequence[Run], names: Sequence[str], how: methods.Scoring) -> str:
    """What was run, on which data, in one or two sentences."""
    parts = []
    if runs:
        count = len(runs)
        sources = ", ".join(
            dict.fromkeys(shown(str(run.manifest["source"])) for run in runs if run.manifest.get("source"))
        )
        text = f"{count} pretraining run{'' if count == 1 else 's'} ({methods_pretraining.seeds_by_arm(runs)})"
        parts.append(text + (f" on the training films of {sources}." if sources else "."))
    if how.macro_labels:
        parts.append(f"Scored with the film alone on {', '.join(map(shown, names))}.")
    return " ".join(parts)


def _size(part: cohorts.DataSection, split: str) -> str:
    there = [one for one in part.splits if one.split == split]
    return f"{there[0].films:,} films of {there[0].patients:,} patients" if there else ""


def _after_film(runs: Sequence[Run], results: Sequence[Results]) -> list[str]:
    records = [run.manifest for run in runs]
    records += [record for one in results for record in (one.evaluation, one.provenance)]
    records += [record["init"] for record in list(records) if isinstance(record.get("init"), dict)]
    return sorted({str(name) for record in records for name in record.get("after_film") or []})


def breakable(text: str) -> Markup:
    """Text in which a line may end after each comma: the names of charts are lists without a space.

    >>> str(breakable("sex,age & 1,234"))
    'sex,<wbr>age &amp; 1,234'
    """
    return Markup(re.sub(r",(?=[^\s\d])", ",<wbr>", str(escape(text))))


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
    environment.filters["thousands"] = lambda value: f"{value:,}"
    environment.filters["shown"] = shown
    environment.filters["breakable"] = breakable
    return environment
