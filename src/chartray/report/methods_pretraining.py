"""The methods paragraph's first half: how the encoders were pretrained, as the runs' manifests say."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chartray.report.inputs import Results, Run
from chartray.report.rows import shown

_SOFTWARE = {"chartray": "Chartray", "torch": "PyTorch", "timm": "timm"}


def pretraining(runs: Sequence[Run], results: Sequence[Results]) -> list[str]:
    """Sentences on the runs, and on encoders that were scored without their runs; none without runs."""
    if not runs:
        return []
    found = _by_run(runs, _trained_how) + _by_run(runs, _views) + _by_run(runs, _optimised)
    found += [f"{one}." for one in started_from(runs, [])]
    found += _chart_sentences(runs)
    if len({run.arm for run in runs}) > 1:
        found.append(f"Arms: {seeds_by_arm(runs)}.")
    else:
        seeds = len({run.seed for run in runs})
        found.append(f"{'One seed was' if seeds == 1 else f'{seeds} seeds were'} run.")
    others = _seeds_scored(runs, results)
    found += [f"Also scored, pretrained elsewhere: {others}."] if others else []
    versions = {
        (str(run.manifest.get(key)), title) for run in runs for key, title in _SOFTWARE.items() if run.manifest.get(key)
    }
    if versions:
        found.append(
            "Software: "
            + ", ".join(f"{title} {version}" for version, title in sorted(versions, key=lambda one: one[::-1]))
            + "."
        )
    return found


def seeds_by_arm(runs: Sequence[Run]) -> str:
    """The arms of some runs with the seeds of each: 'sex; no chart; 3 seeds each', or 'sex: 3 seeds; no chart: 1 seed'.

    Seeds are counted once, however many runs share one.
    """
    seeds: dict[str, set[int | None]] = {}
    for run in runs:
        seeds.setdefault(run.arm.title, set()).add(run.seed)
    counts = {title: f"{len(there)} seed{'' if len(there) == 1 else 's'}" for title, there in seeds.items()}
    if len(set(counts.values())) == 1:
        # A chart of several variables has commas of its own.
        return f"{'; '.join(counts)}; {next(iter(counts.values()))}{' each' if len(counts) > 1 else ''}"
    return "; ".join(f"{title}: {count}" for title, count in counts.items())


def started_from(runs: Sequence[Run], results: Sequence[Results]) -> list[str]:
    """Which encoders began with given weights: 'sex started from the weights of RUN (pretrained with sex)'."""
    records = [(run.arm, run.manifest, run.config) for run in runs]
    records += [(one.base, one.provenance, {}) for one in results if one.base is not None]
    found = []
    for arm, record, config in records:
        init = record.get("init") or (config.get("encoder") or {}).get("init")
        if not init:
            continue
        init = init if isinstance(init, Mapping) else {"source": init}
        # The name alone: the folders of the machine are nobody's business.
        name = init.get("run") or Path(str(init.get("source") or "an unnamed file")).name
        chart = f" (pretrained with the chart {init['chart']})" if init.get("chart") not in (None, "none") else ""
        found.append(f"{arm.title} started from the weights of {name}{chart}")
    return list(dict.fromkeys(found))


def _seeds_scored(runs: Sequence[Run], results: Sequence[Results]) -> str:
    """The encoders that were scored but whose runs are not among these, by arm and seed."""
    there = {(run.arm.title, run.seed) for run in runs}
    scored: dict[str, list[Any]] = {}
    for one in results:
        if one.base is not None and (one.base.title, one.provenance.get("seed")) not in there:
            scored.setdefault(one.base.title, []).append(one.provenance.get("seed"))
    known = {title: sorted({seed for seed in seeds if seed is not None}) for title, seeds in scored.items()}
    return "; ".join(
        f"{title}, seed{'s' * (len(seeds) > 1)} {' and '.join(map(str, seeds))}"
        for title, seeds in known.items()
        if seeds
    )


def _by_run(runs: Sequence[Run], say: Callable[[Run, str], str]) -> list[str]:
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
        found[say(run, "; ".join(titles) if alone else f"{run.arm.title}, seed {run.seed}")] = None
    return [sentence for sentence in found if sentence]


def _trained_how(run: Run, who: str) -> str:
    encoder, train = run.config.get("encoder") or {}, run.config.get("train") or {}
    name = encoder.get("name") or "Vision Transformer"
    sizes = [f"{encoder[key]} {words}" for key, words in (("depth", "blocks"), ("heads", "heads")) if encoder.get(key)]
    shape = [f"width {encoder['width']}"] if encoder.get("width") else []
    shape += [f"patch {encoder['patch_size']} px"] if encoder.get("patch_size") else []
    said = f"Encoders ({name}{': ' + ', '.join(sizes + shape) if sizes or shape else ''})"
    said += f" of the arms {who}" if who else ""
    objective = run.manifest.get("objective") or (run.config.get("objective") or {}).get("name")
    said += f" were pretrained with {str(objective or 'a self-supervised objective').upper()}"
    steps, films = run.manifest.get("steps"), run.manifest.get("films")
    said += f" for {steps:,} optimizer steps" if isinstance(steps, int) else ""
    said += f" of {train['batch_size']} films" if train.get("batch_size") else ""
    said += f" on {films:,} films" if isinstance(films, int) else ""
    patients = run.manifest.get("patients")
    said += f" of {patients:,} patients" if isinstance(patients, int) else ""
    said += f" of {shown(str(run.manifest['source']))}" if run.manifest.get("source") else ""
    return said + ", the training split only."


def _views(run: Run, who: str) -> str:
    views = run.config.get("views") or {}
    if not views.get("size"):
        return ""
    focal = f" and {views['focal_count']} focal views of {views['focal_size']} px" if views.get("focal_count") else ""
    kinds = {"msn": "a target view and a masked view", "mae": "one view, most of it masked,"}
    kind = kinds.get(run.arm.objective, "two global views")
    return f"Each film gave {kind} of {views['size']} px{focal if run.arm.objective != 'mae' else ''}" + (
        f" ({who})." if who else "."
    )


def _optimised(run: Run, who: str) -> str:
    train = run.config.get("train") or {}
    peak, warm = run.manifest.get("peak_learning_rate"), run.manifest.get("warmup_steps")
    if not isinstance(peak, int | float):
        return ""
    said = f"AdamW had a peak learning rate of {peak:g}"
    said += f" after {warm:,} warm-up steps" if isinstance(warm, int) and warm else ""
    first, last = train.get("weight_decay"), train.get("final_weight_decay")
    if first is not None:
        said += f", weight decay {first:g}" + (f" to {last:g}" if last not in (None, first) else "")
    said += f", gradients clipped at a norm of {train['clip']:g}" if train.get("clip") else ""
    if train.get("ema") is not None and run.arm.objective != "mae":
        end = train.get("final_ema")
        said += f"; the target network followed with a moving average of {train['ema']:g}"
        said += f" to {end:g}" if end not in (None, train["ema"]) else ""
    return said + (f" ({who})." if who else ".")


def _chart_sentences(runs: Sequence[Run]) -> list[str]:
    charts = any(run.arm.chart != "none" for run in runs)
    controls = list(dict.fromkeys(run.arm.control for run in runs if run.arm.control != "none"))
    found = []
    if charts:
        ways = {"anchor": "entered the anchor branch only", "predict": "was predicted from the anchor embedding"}
        for use, way in ways.items():
            there = list(dict.fromkeys(run.arm.chart for run in runs if run.arm.chart != "none" and run.arm.use == use))
            if there:
                found.append(
                    f"The chart ({', '.join(there)}) {way}; the target branch and inference used the film alone."
                )
    if controls:
        found.append(f"Controls: {', '.join(controls)} chart rows.")
    after = sorted({name for run in runs for name in run.manifest.get("after_film") or []})
    if after:
        found.append(f"Variables known only after the film were allowed by name: {', '.join(after)}.")
    return found
