"""The model card of an exported encoder: Hugging Face's form, every number from a Results folder, limits in words.

A fact that no file holds is said to be unknown, never guessed; what was not measured is said not to be.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from chartray.model_card.folders import Audit, Evaluation, audits_beside, read_folders
from chartray.model_card.leakage import leaked, not_looked
from chartray.model_card.numbers import (
    METRIC_NAMES,
    beside_floors,
    compared,
    dataset_name,
    dataset_of,
    datasets_of,
    floors_above,
    readable,
)
from chartray.networks.encoder import PretrainedEncoder

# What leaderboards know; the other metrics stand in the text.
_IN_HEAD = ("auroc", "average_precision")
_INTERVAL = ("ci_low", "ci_high", "n", "n_patients")


def model_card(encoder: PretrainedEncoder, results: Sequence[Path], *, name: str) -> str:
    """The text of README.md.

    Args:
        encoder: what is exported; its provenance says how it was made.
        results: folders of `evaluate` (of this encoder), `compare` and `audit` (it is one of theirs).
        name: of the exported folder.

    Raises:
        InputError: a folder holds none of these, or results of another encoder.
    """
    made = encoder.provenance
    evaluations, comparisons, audits = read_folders(results, made)
    looked = [*audits, *audits_beside(results, made)]
    leak = leaked(looked, made)
    template = jinja2.Environment(
        loader=jinja2.PackageLoader("chartray.model_card", "."),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown; what comes from data is escaped by `cell`
    ).get_template("model_card.md.j2")
    return template.render(
        # Leaderboards read the head alone: a score that leaked is not for them.
        head=_head(name, made, [] if leak else evaluations),
        leak=leak,
        not_looked=not_looked(looked, evaluations),
        name=name,
        encoder=encoder,
        width=encoder.model.num_features,
        blocks=len(encoder.model.blocks),
        patch=encoder.model.patch_embed.patch_size[0],
        parameters=f"{sum(each.numel() for each in encoder.model.parameters()):,}",
        chart=_chart(made),
        pretraining=_pretraining(made),
        simulated=_simulated(made, evaluations),
        datasets=[found for one in evaluations for found in datasets_of(one)],
        comparisons=[*compared(comparisons), *beside_floors(evaluations)],
        readable=[row for audit in audits for row in readable(audit.rows, made)],
        limits=_limits(made, evaluations, comparisons, audits),
        provenance=_provenance(made),
        protocols=sorted({str(one.manifest["settings"]["protocol"]) for one in evaluations}),
    )


def _head(name: str, made: Mapping[str, Any], evaluations: Sequence[Evaluation]) -> str:
    """The YAML head, without the lines of dashes; it names no licence, which is for the owner of the data to choose."""
    found = [
        EvalResult(
            task_type="image-classification",
            task_name=f"{one.manifest['settings']['protocol']} probe on the encoder",
            dataset_type=str(row["dataset"]),
            dataset_name=dataset_of(one.manifest, str(row["dataset"])),
            dataset_split=str(row["split"]),
            metric_type={"auroc": "roc_auc"}.get(row["metric"], row["metric"]),
            metric_name=f"{'macro mean' if row['label'] == 'macro' else row['label']}, {METRIC_NAMES[row['metric']]}",
            metric_value=round(row["value"], 4),
            metric_args={key: round(row[key], 4) for key in _INTERVAL if row[key] is not None},
        )
        for one in evaluations
        for row in one.rows
        if row["control"] == made.get("control", "none") and row["value"] is not None and row["metric"] in _IN_HEAD
    ]
    tags = ["timm", "image-feature-extraction", "chest-x-ray", "self-supervised", "chartray"]
    tags += ["simulated-data"] if _simulated(made, evaluations) else []
    head = ModelCardData(
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        tags=tags,
        model_name=name,
        eval_results=found or None,
    )
    return head.to_yaml()


def _chart(made: Mapping[str, Any]) -> str:
    """How the chart took part, in one sentence."""
    chart, control = str(made.get("chart", "none")), str(made.get("control", "none"))
    if chart == "none":
        return "Pretraining saw films alone, no chart."
    uses = {
        "anchor": "entered the anchor branch of pretraining",
        "predict": "was predicted from the anchor's embedding",
    }
    variables = ", ".join(made.get("chart_variables") or [chart])
    said = f"The patient's chart ({variables}) {uses.get(str(made.get('chart_use')), 'took part in pretraining')}."
    controls = {
        "shuffled": "**This is a control:** every patient was given another patient's chart.",
        "constant": "**This is a control:** every patient was given the same mean chart.",
        "mask-only": "**This is a control:** of the chart only what was observed was told, not the values.",
    }
    return " ".join([said, *([controls[control]] if control in controls else [])]) + " Using it needs the film alone."


def _pretraining(made: Mapping[str, Any]) -> list[tuple[str, str]]:
    after = ", ".join(made.get("after_film") or [])
    init = made.get("init") or {}
    films, patients = (
        f"{made[key]:,}" if isinstance(made.get(key), int) else "unknown" for key in ("films", "patients")
    )
    return [
        (
            "Data",
            dataset_name(str(made["source"])) + (", **simulated**" if made.get("simulated") else "")
            if made.get("source")
            else "unknown",
        ),
        ("Films and patients", f"{films} films of {patients} patients, the training split only"),
        ("Linking rules", str(made.get("rules") or "unknown")),
        ("Objective", f"{str(made.get('objective') or 'unknown').upper()}, recipe {made.get('recipe') or 'none'}"),
        ("Optimizer steps", f"{made['steps']:,}" if isinstance(made.get("steps"), int) else "unknown"),
        ("Chart", str(made.get("chart", "none"))),
        ("Control", str(made.get("control", "none"))),
        ("Variables known only after the film", after or "none"),
        ("Started from", str(init.get("run") or init.get("source") or "fresh weights") if init else "fresh weights"),
        ("Seed", str(made.get("seed", "unknown"))),
    ]


def _simulated(made: Mapping[str, Any], evaluations: Sequence[Evaluation]) -> bool:
    stores = [store for one in evaluations for store in one.manifest["stores"]]
    return bool(made.get("simulated")) or any(store.get("simulated") for store in stores)


def _limits(
    made: Mapping[str, Any],
    evaluations: Sequence[Evaluation],
    comparisons: Sequence[Mapping[str, Any]],
    audits: Sequence[Audit],
) -> list[str]:
    found = []
    if _simulated(made, evaluations):
        found.append(
            "**Simulated data.** Films, charts and findings were drawn by a program. No number here says anything of "
            "patients, and the weights are of no use on real films."
        )
    found.append(
        "**Not for clinical use.** This is no medical device. It gives numbers that describe a film, not findings; "
        "nobody tested what happens when a decision rests on them."
    )
    if made.get("after_film"):
        found.append(
            f"Pretraining saw {', '.join(made['after_film'])}, known only after the film: what was gained through that "
            "could not be had at the time of the film."
        )
    found.append(_seeds(max((int(row["seeds"]) for row in comparisons), default=1)))
    # Where groups are too small to be shown nothing was compared.
    gaps = [row for audit in audits for row in audit.rows if row["part"] == "group" and row["metric"] == "gap"]
    measured = {str(row["attribute"]) for row in gaps if row["value"] is not None}
    measured = {name for name in measured if not name.endswith("(control)")}
    found.append(
        f"Performance was measured by group for {', '.join(sorted(measured))}, and for no other grouping of patients."
        if measured
        else "Performance by sex, age, race, view or any other group was never measured for this card."
    )
    found += [sentence for one in evaluations for sentence in floors_above(one)]
    if not audits:
        found.append(
            "Whether the embedding gives away sex, age or other facts of a patient was not measured: assume so."
        )
    if not evaluations:
        found.append("Nothing was measured: no evaluation was given when this card was written.")
    elif len({store["dataset"] for one in evaluations for store in one.manifest["stores"]}) == 1:
        found.append("All films that were scored come from one source: nothing is known of other hospitals.")
    found.append("An embedding is made of a patient's film: whether it may be shared is a matter of that film's terms.")
    return found


def _seeds(seeds: int) -> str:
    said = "One pretraining with one seed." if seeds < 2 else f"{seeds} seeds of each arm were compared; this is one."
    return f"{said} " + ("Fewer than three seeds: no claim about the chart." if seeds < 3 else "Another seed differs.")


def _provenance(made: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = {
        "chartray": "Chartray",
        "git_commit": "git commit",
        "torch": "PyTorch",
        "timm": "timm",
        "settings_hash": "hash of the settings",
        "store_hash": "hash of the store",
        "command": "command",
    }
    return [(title, f"`{made[key]}`") for key, title in names.items() if made.get(key)]
