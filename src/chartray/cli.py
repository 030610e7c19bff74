"""The command line: verbs, and sentences for what goes wrong. Everything heavy is imported inside its verb."""

import os
import shlex
import sys
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from chartray.errors import InputError, Stopped, UnhealthyRun

if TYPE_CHECKING:
    from chartray.records.cohort import Cohort

DONE, UNUSABLE_INPUT, UNHEALTHY, TERMINATED = 0, 2, 3, 143

Rules = Literal["strict", "published"]
Out = Annotated[Path, Parameter(help="what to write")]
Overrides = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]

app = App(
    name="chartray",
    help="Chest X-ray encoders pretrained with the patient's chart, and an honest account of what the chart was worth.",
    help_format="plaintext",
    version_flags=["--version"],
)
cohort = App(name="cohort", help="Records and films -> cohort.parquet, one row an image, split by patient.")
app.command(cohort)


@app.command
def demo(out: Path = Path("demo"), *, seed: int = 0, patients: int = 700, steps: int | None = None) -> None:
    """The whole mission on a simulated hospital, in minutes on two cores; ends in OUT/report/report.html.

    Args:
        out: A new or empty folder.
        seed: Which hospital, and which first weights.
        patients: How large a hospital.
        steps: Of each pretraining; default: the recipe's.
    """
    from chartray.demo import run_demo

    run_demo(out, seed=seed, patients=patients, steps=steps)


@app.command
def simulate(
    out: Path,
    *,
    patients: int = 800,
    mimic_iv_release: Literal["1.0", "2.2", "3.1"] = "2.2",
    seed: int = 0,
    chart_effect: float = 1.0,
    workers: int | None = None,
) -> None:
    """A simulated hospital in the layouts of MIMIC-IV, MIMIC-CXR-JPG, CheXpert and NIH ChestX-ray14.

    Args:
        out: A new or empty folder; mimic-iv, mimic-cxr-jpg, chexpert and nih are written in it.
        patients: Patients with films in MIMIC-CXR-JPG; the other two get about half as many each.
        mimic_iv_release: Which layout and column names the tables have.
        seed: The same seed gives the same bytes.
        chart_effect: How strongly findings depend on the chart: 1 as documented, 0 not at all.
        workers: Processes that draw films; default: all cores.
    """
    from chartray.simulate.hospital import simulate as simulate_hospital

    simulate_hospital(
        out, patients=patients, mimic_iv_release=mimic_iv_release, seed=seed, chart_effect=chart_effect, workers=workers
    )


@cohort.command(name="mimic")
def cohort_mimic(*, mimic_iv: str, mimic_cxr: Path, out: Out, rules: Rules = "strict") -> None:
    """MIMIC-IV tables and MIMIC-CXR-JPG films.

    Args:
        mimic_iv: The folder of MIMIC-IV (1.0, 2.x or 3.x).
        mimic_cxr: The folder of MIMIC-CXR-JPG.
        out: The cohort's Parquet file; its flow is written beside it.
        rules: strict links by full timestamps; published by calendar dates, as the published code did.
    """
    from chartray.records.mimic import mimic_cohort

    _write_cohort(mimic_cohort(mimic_iv, mimic_cxr, rules=rules), out)


@cohort.command(name="chexpert")
def cohort_chexpert(root: Path, *, out: Out) -> None:
    """CheXpert-v1.0 or -small, whatever the folder is called now.

    Args:
        root: The folder that holds train.csv.
        out: The cohort's Parquet file.
    """
    from chartray.records.chexpert import chexpert_cohort

    _write_cohort(chexpert_cohort(root), out)


@cohort.command(name="nih")
def cohort_nih(root: Path, *, out: Out) -> None:
    """NIH ChestX-ray14, by its official lists where they are there, else by patient.

    Args:
        root: The folder that holds Data_Entry_2017_v2020.csv.
        out: The cohort's Parquet file.
    """
    from chartray.records.nih import nih_cohort

    _write_cohort(nih_cohort(root), out)


@cohort.command(name="table")
def cohort_table(file: Path, *, mapping: Path, images: Path, out: Out) -> None:
    """A hospital's own table, csv or Parquet, through a mapping file.

    Args:
        file: The table, one row an image.
        mapping: YAML that says what its columns mean.
        images: The folder that the paths are relative to.
        out: The cohort's Parquet file.
    """
    from chartray.records.table import table_cohort

    _write_cohort(table_cohort(file, mapping, images), out)


@app.command
def features(cohort_file: Path, *, out: Out) -> None:
    """The published 23 feature files: same folders, names and columns.

    Args:
        cohort_file: A cohort.parquet.
        out: The folder to write them to.
    """
    from chartray.features import write_feature_csvs
    from chartray.records.cohort import read_cohort

    files = write_feature_csvs(read_cohort(cohort_file), out)
    for name, (rows, left_out) in files.written.items():
        print(f"{name}: {rows} films" + (f", {left_out} left out for a missing value" if left_out else ""))
    for name, absent in files.lacking.items():
        print(f"{name}: not written, the cohort has no {absent}")


@app.command
def ingest(
    cohort_file: Path, *, out: Out, size: int = 448, workers: int | None = None, images: Path | None = None
) -> None:
    """Decodes every film once into a memory-mapped store; killed at any moment, the same command continues.

    Args:
        cohort_file: A cohort.parquet.
        out: The store's folder.
        size: Side of a stored film in pixels: 448 (2 x the 224 px view), or 256 to save time and space.
        workers: Processes; default: all cores.
        images: Where the films lie now, if they have moved since the cohort was made.
    """
    from chartray.pixels.ingest import ingest as ingest_films

    made = ingest_films(cohort_file, out, size=size, workers=workers, images_root=images)
    print(f"{made.store}: {made.films} films of {size} px, hash {made.hash[:12]}")
    for reason, count in made.quarantined.items():
        print(f"  quarantine: {count} ({reason})")


@app.command
def pretrain(
    store: Path,
    *overrides: Overrides,
    out: Out,
    recipe: str | None = None,
    ehr: str | None = None,
    control: str | None = None,
    config: Path | None = None,
    resume: bool = False,
) -> None:
    """Pretrains a ViT on the train split of a store; any knob as --section.key value (see `chartray knobs`).

    Args:
        store: A folder that `ingest` wrote.
        overrides: Knobs.
        out: The run's folder.
        recipe: msn (default), published, dino, mae or tiny-cpu.
        ehr: The chart: a named set, variables separated by commas, or none.
        control: shuffled, constant or mask-only charts instead of the patients' own.
        config: A YAML file of knobs, between the recipe and the command line.
        resume: Continue the run in OUT from its last checkpoint; without one, start.
    """
    from chartray import config as knobs

    given = knobs.parse_overrides(overrides)
    given |= {"chart.ehr": ehr} if ehr is not None else {}
    given |= {"chart.control": control} if control is not None else {}
    started = out / "config.yaml"
    if resume and started.is_file():
        if recipe is not None:
            given["recipe"] = recipe
        resolved = knobs.load_saved(started, config, given)
    else:
        resolved = knobs.load(recipe or "msn", config, given)

    from chartray.training.pretrain import pretrain as pretrain_run

    pretrain_run(store, out, resolved, command=shlex.join(["chartray", *sys.argv[1:]]), resume=resume)


@app.command
def knobs(recipe: str = "msn") -> None:
    """Every knob of pretraining, its value in a recipe, and what it is.

    Args:
        recipe: msn, published, dino, mae or tiny-cpu.
    """
    from chartray import config as all_knobs

    resolved = all_knobs.load(recipe)
    for knob, (meaning, _) in all_knobs.knobs().items():
        section, _, key = knob.partition(".")
        value = getattr(getattr(resolved, section), key) if key else getattr(resolved, section)
        print(f"--{knob:<36} {value!s:<28} {meaning}")


@app.command
def evaluate(
    source: Path,
    store: Path,
    *,
    out: Out,
    external: Annotated[list[Path] | None, Parameter(negative=())] = None,
    protocol: Literal["linear", "knn", "finetune", "published"] = "linear",
    split: Literal["test", "validate"] = "test",
    uncertain: Literal["ignore", "zeros", "ones"] = "ignore",
    blank: Literal["negative", "ignore"] = "negative",
    data_percent: Annotated[list[float] | None, Parameter(negative=(), consume_multiple=True)] = None,
    labels: str | None = None,
    floors: bool = True,
    resamples: int = 1000,
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    freeze: bool | None = None,
    scheduler: Literal["cosine", "reduce"] | None = None,
    learning_rate: float | None = None,
    max_epochs: int | None = None,
) -> None:
    """Fits on STORE's train, chooses on its validation, scores its test split and every external store.

    Args:
        source: A run, or an encoder folder.
        store: The store to fit on.
        out: The results folder.
        external: A store to score with the same probe as is, matched by label name; may be repeated.
        protocol: linear, knn, finetune or published.
        split: The split that is scored.
        uncertain: What -1 means: ignore, zeros or ones.
        blank: What an unmentioned finding means: negative or ignore.
        data_percent: Fractions of the training and validation patients, each nested in the next: 1.0 is all.
        labels: Only these labels, separated by commas.
        floors: Score the untrained encoder, plain pixels, chart alone and image + chart beside it.
        resamples: Bootstrap resamples, by patient.
        seed: For resamples, subsets and the untrained encoder.
        device: auto, cpu or cuda.
        precision: Of the encoder: fp32 or bf16.
        freeze: (published) Train the linear layer alone, the default; --no-freeze trains the encoder too.
        scheduler: (published, finetune) cosine, the default, or reduce on plateau.
        learning_rate: (published, finetune) Of the first epoch; default 1e-3, 1e-4 for the whole encoder.
        max_epochs: (published, finetune) At most so many passes; default 50.
    """
    from chartray.evaluation.evaluate import evaluate as evaluate_encoder

    rows = evaluate_encoder(
        source,
        store,
        out,
        external=external or [],
        protocol=protocol,
        split=split,
        uncertain=uncertain,
        blank=blank,
        data_percent=data_percent or [1.0],
        labels=labels.split(",") if labels else None,
        floors=floors,
        resamples=resamples,
        seed=seed,
        device=device,
        precision=precision,
        freeze=freeze,
        scheduler=scheduler,
        learning_rate=learning_rate,
        max_epochs=max_epochs,
    )
    for row in rows:
        own = row["control"] not in ("untrained", "pixels", "chart-only", "image+chart")
        if row["label"] == "macro" or (own and row["metric"] == "auroc"):
            print(_spoken(row))
    print(out)


@app.command
def compare(results: list[Path], *, out: Out, resamples: int = 1000, seed: int = 0) -> None:
    """Arms against each other on the same films: differences with intervals, paired by patient.

    Args:
        results: Folders that `evaluate` wrote, of two arms or more; an arm may have several seeds.
        out: The folder to write comparisons.jsonl to.
        resamples: Bootstrap resamples, by patient.
        seed: For the resamples.
    """
    from chartray.evaluation.compare import compare as compare_arms

    for row in compare_arms(results, out, resamples=resamples, seed=seed):
        if row["label"] == "macro" and row["metric"] == "auroc":
            low, high = (row[name] for name in ("ci_low", "ci_high"))
            interval = f" [{low:+.3f}, {high:+.3f}]" if low is not None and high is not None else ""
            difference = "null" if row["difference"] is None else f"{row['difference']:+.3f}"
            claim = f"; {row['claim']}" if row.get("claim") else ""
            print(f"{row['dataset']}: {row['a']} minus {row['b']}: macro AUROC {difference}{interval}{claim}")


@app.command
def report(
    results: list[Path],
    *,
    out: Out,
    run: Annotated[list[Path] | None, Parameter(negative=())] = None,
    store: Annotated[list[Path] | None, Parameter(negative=())] = None,
    title: str | None = None,
    films: bool = True,
) -> None:
    """One self-contained HTML page of runs and their results, with figures as SVG and PDF beside it.

    Args:
        results: Folders that `evaluate` wrote.
        out: The report's folder.
        run: Run folders, for training curves; may be repeated.
        store: Stores, for the films on the map; may be repeated.
        title: The page's title.
        films: --no-films leaves the thumbnails out.
    """
    from chartray.report.page import write_report

    print(write_report(run or [], results, out, stores=store or [], title=title, films=films))


def main() -> None:
    """Runs one command; exits 0 only when it is done, 2 for unusable input, 3 for an unhealthy run."""
    # Threads that spin while they wait are no faster on idle cores and six times slower on shared ones (bench/LOG.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run_command(sys.argv[1:]))


def run_command(tokens: list[str]) -> int:
    """The exit code of a command; what went wrong is said in one sentence on standard error."""
    try:
        app(tokens, exit_on_error=False, print_error=False, result_action="return_none")
    except CycloptsError as error:
        return _say(" ".join(str(error).split()), UNUSABLE_INPUT)
    except InputError as error:
        return _say(str(error), UNUSABLE_INPUT)
    except UnhealthyRun as error:
        return _say(str(error), UNHEALTHY)
    except Stopped as error:
        return _say(str(error), TERMINATED)
    return DONE


def _spoken(row: dict[str, Any]) -> str:
    """A line of results: data set and split, fraction, chart/control, label, metric, value [interval], reason."""
    low, high = row["ci_low"], row["ci_high"]
    value = "null" if row["value"] is None or isnan(row["value"]) else f"{row['value']:.3f}"
    interval = "" if low is None or isnan(low) else f" [{low:.3f}, {high:.3f}]"
    over = f" of {len(row['labels'])} labels" if row["label"] == "macro" else ""
    why = f" ({row['reason']})" if row["reason"] else ""
    what = f"{row['dataset']} {row['split']} {row['fraction']:.0%}, {row['chart']}/{row['control']}"
    return f"{what}: {row['label']}{over}, {row['metric']} {value}{interval}{why}"


def _write_cohort(made: "Cohort", out: Path) -> None:
    """Writes a cohort and its flow, and prints the flow."""
    from chartray.records.cohort import describe, write_cohort

    write_cohort(made, out)
    print(describe(made))


def _say(sentence: str, code: int) -> int:
    print(f"chartray: {sentence}", file=sys.stderr)
    return code
