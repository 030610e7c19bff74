"""The methods paragraph's first half: how the encoders were pretrained, as the runs' manifests say."""

from collections.abc import Callable, Sequence
from pathlib import Path

from chartray.config.roles import ROLE_WORDS, roles_in
from chartray.networks.description import Init
from chartray.report.inputs import PretrainingRun, Results
from chartray.results.arm import dataset_name
from chartray.small_counts import counts, told
from chartray.training.manifest import RunManifest
from chartray.wording import plural

_SOFTWARE = {"chartray": "Chartray", "torch": "PyTorch", "timm": "timm"}


def pretraining(runs: Sequence[PretrainingRun], results: Sequence[Results]) -> list[str]:
    """Sentences on the runs, and on encoders that were scored without their runs; none without runs."""
    if not runs:
        return []
    found = _by_run(runs, _trained_how) + _by_run(runs, _views) + _by_run(runs, _optimised)
    found += [f"{one}." for one in started_from(runs, [])]
    found += _chart_sentences(runs)
    if len({run.arm for run in runs}) > 1:
        found.append(f"Arms: {seeds_by_arm(runs)}.")
    else:
        seeds = len({run.manifest.seed for run in runs})
        found.append(f"{'One seed was' if seeds == 1 else f'{seeds} seeds were'} run.")
    others = _seeds_scored(runs, results)
    found += [f"Also scored, pretrained elsewhere: {others}."] if others else []
    versions = {f"{title} {getattr(run.manifest, key)}" for run in runs for key, title in _SOFTWARE.items()}
    return [*found, f"Software: {', '.join(sorted(versions))}."]


def seeds_by_arm(runs: Sequence[PretrainingRun]) -> str:
    """The arms of some runs with the seeds of each: 'sex; no chart; 3 seeds each', or 'sex: 3 seeds; no chart: 1 seed'.

    Seeds are counted once, however many runs share one.
    """
    seeds: dict[str, set[int | None]] = {}
    for run in runs:
        seeds.setdefault(run.arm.title, set()).add(run.manifest.seed)
    counts = {title: f"{plural(len(there), 'seed')}" for title, there in seeds.items()}
    if len(set(counts.values())) == 1:
        # A chart of several variables contains commas itself.
        return f"{'; '.join(counts)}; {next(iter(counts.values()))}{' each' if len(counts) > 1 else ''}"
    return "; ".join(f"{title}: {count}" for title, count in counts.items())


def started_from(runs: Sequence[PretrainingRun], results: Sequence[Results]) -> list[str]:
    """Which encoders began with given weights: 'sex started from the weights of RUN (pretrained with sex)'."""
    inits = [(run.arm, run.manifest.init) for run in runs]
    inits += [(one.base, one.provenance.init) for one in results if one.base is not None and one.provenance is not None]
    found = [f"{arm.title} started from the weights of {_weights(init)}" for arm, init in inits if init is not None]
    return list(dict.fromkeys(found))


def _weights(init: Init) -> str:
    # The name alone: the folders of the machine stay off the page.
    chart = f" (pretrained with the chart {init.chart})" if init.chart not in (None, "none") else ""
    return f"{init.run or Path(init.source).name}{chart}"


def _seeds_scored(runs: Sequence[PretrainingRun], results: Sequence[Results]) -> str:
    """The encoders that were scored but whose runs are not among these, by arm and seed."""
    there = {(run.arm.title, run.manifest.seed) for run in runs}
    scored: dict[str, set[int]] = {}
    for one in results:
        seed = one.provenance.seed if one.provenance is not None else None
        if one.base is not None and seed is not None and (one.base.title, seed) not in there:
            scored.setdefault(one.base.title, set()).add(seed)
    return "; ".join(
        f"{title}, seed{'s' * (len(seeds) > 1)} {' and '.join(map(str, sorted(seeds)))}"
        for title, seeds in scored.items()
    )


def _by_run(runs: Sequence[PretrainingRun], say: Callable[[PretrainingRun, str], str]) -> list[str]:
    """What `say` says of all runs, or of each group of arms of which it says something else."""
    same: dict[str, list[str]] = {}
    for run in runs:
        titles = same.setdefault(say(run, ""), [])
        titles += [run.arm.title] if run.arm.title not in titles else []
    if len(same) == 1:
        return [sentence for sentence in same if sentence]
    found: dict[str, None] = {}
    for run in runs:
        titles = same[say(run, "")]
        # Runs of one arm may differ too: then each is named with its seed.
        alone = sum(run.arm.title in others for others in same.values()) == 1
        found[say(run, "; ".join(titles) if alone else f"{run.arm.title}, seed {run.manifest.seed}")] = None
    return [sentence for sentence in found if sentence]


def _trained_how(run: PretrainingRun, who: str) -> str:
    encoder, made = run.config.encoder, run.manifest
    shape = [
        f"{encoder.depth} blocks" if encoder.depth else "",
        f"{encoder.heads} heads" if encoder.heads else "",
        f"width {encoder.width}" if encoder.width else "",
        f"patch {encoder.patch_size} px" if encoder.patch_size else "",
    ]
    sizes = ", ".join(filter(None, shape))
    said = f"Encoders ({encoder.name}{f': {sizes}' if sizes else ''})"
    said += f" of the arms {who}" if who else ""
    said += f" were pretrained with {run.arm.objective.upper()} for {made.steps:,} optimizer steps"
    said += f" of {run.config.train.batch_size} images on {images_told(made)} images"
    said += f" of {told(made.patients, 'patient')}" if made.patients is not None else ""
    return f"{said} of {dataset_name(made.source)}, the training split only."


def images_told(made: RunManifest) -> str:
    """The images of a pretraining, without what few images it left out would show beside those of the split."""
    left_out = made.films_without_representable_chart or 0
    return counts([left_out, made.films])[1]


def _views(run: PretrainingRun, who: str) -> str:
    views = run.config.views
    focal = f" and {views.focal_count} focal views of {views.focal_size} px" if views.focal_count else ""
    kinds = {"msn": "a target view and a masked view", "mae": "one view, most of it masked,"}
    kind = kinds.get(run.arm.objective, "two global views")
    return f"Each image gave {kind} of {views.size} px{focal if run.arm.objective != 'mae' else ''}" + (
        f" ({who})." if who else "."
    )


def _optimised(run: PretrainingRun, who: str) -> str:
    train, made = run.config.train, run.manifest
    said = f"AdamW had a peak learning rate of {made.peak_learning_rate:g}"
    said += f" after {made.warmup_steps:,} warm-up steps" if made.warmup_steps else ""
    said += f", weight decay {train.weight_decay:g}"
    said += f" to {train.final_weight_decay:g}" if train.final_weight_decay not in (None, train.weight_decay) else ""
    said += f", gradients clipped at a norm of {train.clip:g}" if train.clip else ""
    said += f"; the encoder was frozen for the first {train.freeze_steps:,} steps" if train.freeze_steps else ""
    said += f"; its learning rate then rose over {train.ramp_steps:,} steps" if train.ramp_steps else ""
    if run.arm.objective != "mae":
        said += f"; the target network followed with a moving average of {train.ema:g}"
        said += f" to {train.final_ema:g}" if train.final_ema != train.ema else ""
    return said + (f" ({who})." if who else ".")


def _chart_sentences(runs: Sequence[PretrainingRun]) -> list[str]:
    charts = list(dict.fromkeys((run.arm.chart, run.arm.use) for run in runs if run.arm.chart != "none"))
    controls = list(dict.fromkeys(run.arm.control for run in runs if run.arm.control != "none"))
    found = []
    each = [roles_in(chart, use) for chart, use in charts]
    for role, way in ROLE_WORDS.items():
        there = list(dict.fromkeys(", ".join(one[role]) for one in each if role in one))
        if there:
            found.append(f"The chart ({'; '.join(there)}) {way}.")
    found += ["The target branch and inference used the image alone."] if charts else []
    if controls:
        found.append(f"Controls: {', '.join(controls)} chart rows.")
    after = sorted({name for run in runs for name in run.manifest.after_film})
    if after:
        found.append(f"Variables known only after the image were allowed by name: {', '.join(after)}.")
    return found
