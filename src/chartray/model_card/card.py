"""The model card of an exported encoder, in Hugging Face's form: every number is from a results folder.

A fact that no file holds is said to be unknown. What was not measured is said not to be.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from chartray.config.export import Form
from chartray.config.roles import ROLE_WORDS, roles_in
from chartray.model_card.folders import CardAudit, CardEvaluation, CardResults, audits_beside, read_folders
from chartray.model_card.leakage import leaked, unchecked
from chartray.model_card.numbers import (
    beside_baselines,
    better_baselines,
    cell,
    compared,
    dataset_of,
    datasets_of,
    readable,
    size,
)
from chartray.networks.description import Provenance
from chartray.networks.encoder import PretrainedEncoder
from chartray.results import methods as said
from chartray.results.arm import dataset_name
from chartray.results.audit_rows import SubgroupRow
from chartray.results.methods import author
from chartray.results.schema import MACRO, METRIC_WORDS
from chartray.results.verdict import why_no_claim
from chartray.small_counts import is_small, nearly
from chartray.wording import joined

# What leaderboards know; the other metrics are in the text.
_IN_HEAD = ("auroc", "average_precision")


class Loading(NamedTuple):
    """How the folder is loaded: by which library, with `preprocessing` in the graph or not; parity in a sentence."""

    to: Form
    preprocessing: bool
    parity: str


def model_card(encoder: PretrainedEncoder, results: Sequence[Path], *, name: str, loading: Loading) -> str:
    """The text of README.md.

    Args:
        encoder: what is exported; its provenance says how it was made.
        results: folders of `evaluate` (of this encoder), `compare` and `audit` (it is one of theirs).
        name: of the exported folder.
        loading: how it is loaded.

    Raises:
        InputError: a folder holds none of these, or results of another encoder.
    """
    made = encoder.provenance
    found = read_folders(results, made)
    audits = [*found.audits, *audits_beside(results, made)]
    leak = leaked(audits, made)
    template = jinja2.Environment(
        loader=jinja2.PackageLoader("chartray.model_card", "."),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown; what comes from data is escaped by `cell`
    ).get_template("model_card.md.j2")
    return template.render(
        # Leaderboards read the head alone: a score that leaked is not for them.
        head=_head(name, made, [] if leak else found.evaluations, loading),
        loading=loading,
        pillow=encoder.interpolation.upper(),
        prefix=encoder.model.num_prefix_tokens,
        leak=leak,
        unchecked=unchecked(audits, found.evaluations),
        late=_late(made),
        purpose=author("intended use, users and place in care; uses that are ruled out"),
        statements=author("availability of data and code; funding and the role of funders; interests; contact"),
        sources=author("sites, dates and eligibility of the examinations; de-identification; ethics approval"),
        name=name,
        encoder=encoder,
        width=encoder.model.num_features,
        blocks=len(encoder.model.blocks),
        patch=encoder.model.patch_embed.patch_size[0],
        parameters=f"{sum(each.numel() for each in encoder.model.parameters()):,}",
        chart=_chart(made),
        pretraining=_pretraining(made),
        simulated=_simulated(made, found.evaluations),
        datasets=[data for one in found.evaluations for data in datasets_of(one)],
        comparisons=[*compared(found.comparisons), *beside_baselines(found.evaluations)],
        methods=_methods(found),
        readable=[row for audit in found.audits for row in readable(audit, made)],
        limits=_limits(made, found),
        provenance=_provenance(made),
    )


def _head(name: str, made: Provenance, evaluations: Sequence[CardEvaluation], loading: Loading) -> str:
    """The YAML head, without the lines of dashes; it names no licence, which is for the owner of the data to choose."""
    found = []
    for one in evaluations:
        whole: dict[str, int] = {}
        for row in one.scores:
            whole[row.dataset] = max(whole.get(row.dataset, 0), row.n or 0)
        for row in one.scores:
            if row.arm.is_baseline or row.value is None or row.metric not in _IN_HEAD:
                continue
            interval = {"ci_low": row.ci_low, "ci_high": row.ci_high}
            # A count that is small, or that few images of the others lack, is not told.
            exact = row.n is not None and nearly(row.n, whole[row.dataset]) == f"{row.n:,}"
            interval |= {"n": row.n} if exact else {}
            interval |= {"n_patients": row.n_patients} if exact and not is_small(row.n_patients or 0) else {}
            label = "macro mean" if row.label == MACRO else row.label
            found.append(
                EvalResult(
                    task_type="image-classification",
                    task_name=f"{row.protocol} probe on the encoder",
                    dataset_type=row.dataset,
                    dataset_name=dataset_of(one.manifest, row.dataset),
                    dataset_split=row.split,
                    metric_type={"auroc": "roc_auc"}.get(row.metric, row.metric),
                    metric_name=f"{label}, {METRIC_WORDS[row.metric]}",
                    metric_value=round(row.value, 4),
                    metric_args={key: round(value, 4) for key, value in interval.items() if value is not None},
                )
            )
    library = {"timm": "timm", "huggingface": "transformers", "onnx": "onnx"}[loading.to]
    tags = [library, "image-feature-extraction", "chest-x-ray", "self-supervised", "chartray"]
    tags += ["simulated-data"] if _simulated(made, evaluations) else []
    head = ModelCardData(
        library_name=library,
        pipeline_tag="image-feature-extraction",
        tags=tags,
        model_name=name,
        eval_results=found or None,
    )
    return head.to_yaml()


def _chart(made: Provenance) -> str:
    """How the chart took part."""
    chart = made.chart or "none"
    if chart == "none":
        return "Pretraining used images only, no chart."
    controls = {
        "shuffled": "**This is a control:** every patient was given another patient's chart.",
        "constant": "**This is a control:** every patient was given the same mean chart.",
        "mask-only": "**This is a control:** the chart said which variables were observed, but not their values.",
    }
    variables = ", ".join(made.chart_variables or [chart])
    each = roles_in(variables, made.chart_use or "")
    said = " ".join(f"The patient's chart ({cell(', '.join(each[role]))}) {ROLE_WORDS[role]}." for role in each)
    said = said or f"The patient's chart ({variables}) was used in pretraining."
    return " ".join(filter(None, [said, controls.get(made.control or ""), "Using the encoder needs the image only."]))


def _late(made: Provenance) -> str:
    """One sentence that names chart variables known only after the image, of this pretraining and those before it."""
    names, init = [*made.after_film], made.init
    while init is not None:
        names, init = [*names, *init.after_film], init.init
    if not names:
        return ""
    return f"Known only after the image: pretraining used {cell(joined(dict.fromkeys(names)))}. {said.LATE_CHART}"


def _methods(found: CardResults) -> list[str]:
    """How the numbers of the card were made, a paragraph each; none without an evaluation."""
    if not found.evaluations:
        return []
    folders = [said.ScoredFolder(one.manifest, one.scores) for one in found.evaluations]
    manifests, scores = [one.manifest for one in folders], [row for one in folders for row in one.scores]
    pairs = [*found.comparisons, *(row for one in found.evaluations for row in one.comparisons)]
    share = max((row.fraction for row in scores), default=1.0)
    parts = {
        "Images": said.image_sentences(manifests),
        "Labels": [
            *said.label_sentences(scores),
            author(
                "how, from what and by whom the labels were made, with which agreement, and why they are the reference"
            ),
        ],
        "Probes": [
            f"Embeddings were scored {said.probe_words(folders)}.",
            *said.learnt_from_sentences(manifests, share),
            *said.fraction_sentences(manifests),
        ],
        "Intervals": said.interval_sentences(scores),
        "Comparisons": [
            *said.test_sentences(pairs),
            *said.question_sentences(found.compared),
            *said.look_sentences(found.compared, manifests),
        ],
        "Sample size": [
            *said.sample_sentences(manifests, scores),
            author("how many patients and seeds were planned, and why"),
        ],
    }
    return [f"*{title}.* {' '.join(map(_escaped, sentences))}" for title, sentences in parts.items() if sentences]


def _escaped(sentence: str) -> str:
    return sentence if sentence.startswith("[author: ") else cell(sentence)


def _pretraining(made: Provenance) -> list[tuple[str, str]]:
    data = dataset_name(made.source) + (", **simulated**" if made.simulated else "") if made.source else "unknown"
    return [
        ("Data", data),
        ("Images and patients", f"{size(made.films, made.patients)} (training split)"),
        ("Linking rules", made.rules or "unknown"),
        ("Objective", f"{(made.objective or 'unknown').upper()}, recipe {made.recipe or 'none'}"),
        ("Optimizer steps", "unknown" if made.steps is None else f"{made.steps:,}"),
        ("Chart", made.chart or "none"),
        ("Control", made.control or "none"),
        ("Variables known only after the image", ", ".join(made.after_film) or "none"),
        ("Initial weights", (made.init.run or made.init.source) if made.init else "random"),
        ("Seed", "unknown" if made.seed is None else str(made.seed)),
    ]


def _simulated(made: Provenance, evaluations: Sequence[CardEvaluation]) -> bool:
    return bool(made.simulated) or any(store.simulated for one in evaluations for store in one.manifest.stores)


def _limits(made: Provenance, found: CardResults) -> list[str]:
    limits = []
    if _simulated(made, found.evaluations):
        limits.append(
            "**Simulated data.** A program drew the images, charts and findings. The numbers say nothing about "
            "patients, and the weights cannot be used on real images."
        )
    limits.append(
        "**Not for clinical use.** This is not a medical device. The encoder turns an image into numbers, not into "
        "findings. Its effect on clinical decisions was not tested."
    )
    limits.append(_seeds(max((row.seeds for row in found.comparisons), default=1)))
    limits.append(_subgroups(found.audits))
    limits += [sentence for one in found.evaluations for sentence in better_baselines(one)]
    if not found.audits:
        limits.append(
            "Whether the embedding reveals sex, age or other attributes of a patient was not measured. Assume that it "
            "does."
        )
    if not found.evaluations:
        limits.append("No evaluation was given when this card was written: performance is unknown.")
    elif len({store.dataset for one in found.evaluations for store in one.manifest.stores}) == 1:
        limits.append("All scored images come from one source. Performance at other hospitals is unknown.")
    limits.append(
        "Embeddings are derived from patients' images. The terms of those images decide whether they may be shared."
    )
    return limits


def _seeds(seeds: int) -> str:
    said = f"Pretraining seeds per arm: {seeds}"
    if reason := why_no_claim(seeds):
        return f"{said} ({reason})."
    return f"{said}. This encoder is one of them; another seed gives other numbers."


def _subgroups(audits: Sequence[CardAudit]) -> str:
    # Where subgroups are too small nothing was compared.
    gaps = [row for audit in audits for row in audit.rows if isinstance(row, SubgroupRow) and row.metric == "gap"]
    measured = {row.attribute for row in gaps if row.value is not None and not row.attribute.endswith("(control)")}
    if not measured:
        return "Performance in subgroups (sex, age, race, view or other) was not measured for this card."
    return f"Performance in subgroups was measured by {', '.join(sorted(measured))}, and not by other attributes."


def _provenance(made: Provenance) -> list[tuple[str, str]]:
    facts = {
        "Chartray": made.chartray,
        "Git commit": made.git_commit,
        "PyTorch": made.torch,
        "timm": made.timm,
        "Hash of the settings": made.settings_hash,
        "Hash of the store": made.store_hash,
        "Command": made.command,
    }
    return [(title, f"`{fact}`") for title, fact in facts.items() if fact]
