"""The encoder to take home loads by one line, here and in timm; its card says what was measured and what was not."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image

import chartray
from chartray.audit.audit import audit
from chartray.audit.sentences import audit_sentences
from chartray.config.audit import AuditOptions
from chartray.config.evaluate import CompareOptions, EvaluateOptions
from chartray.errors import InputError
from chartray.export.bundle import export_encoder
from chartray.export.sharing import shareable
from chartray.model_card.folders import read_folders
from chartray.networks import encoder as vit
from chartray.networks.description import Provenance
from chartray.outputs.seal import seal
from chartray.pixels.store import Store
from chartray.records.cohort import assemble
from chartray.results.audit_rows import SubgroupRow
from chartray.results.folder import AUDIT_FILE, AUDIT_ROWS_FILE, write_manifest, write_rows, written_folder
from chartray.results.manifest import RESULTS_FORMAT, AuditManifest, EncoderEntry, Settings, StoreEntry, arm_of_run
from chartray.schema import SIMULATED_FILE, CohortMetadata, patient_key
from chartray.training.patients import write_patients
from tests.evaluation_folders import compare, evaluate, patients_entry

from . import evaluation_folders
from .test_networks import TINY, tiny


def test_load_encoder_gives_the_saved_timm_model(tmp_path: Path) -> None:
    model = tiny(seed=2).eval()
    vit.save(tmp_path / "encoder", vit.PretrainedEncoder(model, 32, 0.5, 0.2, vit.architecture(TINY, 32), Provenance()))
    loaded = chartray.load_encoder(tmp_path)
    images = torch.rand(2, 1, 32, 32)
    assert not loaded.training
    assert torch.equal(loaded(images), model(images))
    assert loaded.chartray_input == {"size": 32, "grey_mean": 0.5, "grey_std": 0.2}
    prepared = timm.data.resolve_model_data_config(loaded)
    assert (prepared["input_size"], prepared["mean"], prepared["std"]) == ((1, 32, 32), (0.5,), (0.2,))
    assert (prepared["crop_mode"], prepared["crop_pct"]) == ("squash", 1.0)


def test_importing_chartray_and_its_command_line_leaves_torch_alone() -> None:
    code = "import sys, chartray.cli; print('torch' in sys.modules, 'pyarrow' in sys.modules, 'ibis' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False", "False"]


MADE: dict[str, Any] = {
    "run": "first",
    "command": "chartray pretrain /home/someone/mimic.store --out /data/runs/first",
    "store": "/home/someone/mimic.store",
    "store_hash": "abc",
    "out": "/data/runs/first",
    "source": "mimic",
    "rules": "strict",
    "objective": "msn",
    "recipe": "tiny-cpu",
    "settings_hash": "123",
    "chart": "demographic-norm",
    "chart_use": "anchor",
    "chart_variables": ["sex", "age"],
    "control": "none",
    "after_film": ["mortality"],
    "films": 3314,
    "patients": 1500,
    "steps": 240,
    "init": {"source": "/home/someone/older", "run": None, "chart": None},
    "chartray": "0.1.0",
}


OF_MADE = Provenance.model_validate({"seed": 0} | MADE)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An encoder, an evaluation of it with its baselines, and its export."""
    root = tmp_path_factory.mktemp("export")
    store = evaluation_folders.hospital(root / "hospital")
    source = evaluation_folders.vit(root / "encoder", **MADE)
    evaluate(source, store, root / "results", EvaluateOptions(resamples=50, device="cpu", saliency=0))
    without = MADE | {"run": "plain", "chart": "none", "after_film": []}
    plain = evaluation_folders.vit(root / "plain", **without, weights=9)
    evaluate(
        plain, store, root / "plain-results", EvaluateOptions(resamples=50, device="cpu", saliency=0, baselines=False)
    )
    compare([root / "results", root / "plain-results"], root / "arms", CompareOptions(resamples=50))
    out = export_encoder(source, root / "take-home", results=[root / "results", root / "arms"])
    return {"root": root, "source": source, "results": root / "results", "out": out, "store": store}


def test_timm_loads_the_folder_and_gives_the_same_features(exported: dict[str, Path]) -> None:
    theirs = timm.create_model(f"local-dir:{exported['out']}", pretrained=True).eval()
    ours = chartray.load_encoder(exported["source"])
    again = chartray.load_encoder(exported["out"])
    torch.manual_seed(0)
    for size in (32, 48):  # any multiple of the patch
        images = torch.rand(3, 1, size, size)
        with torch.inference_mode():
            expected = ours(images)
            torch.testing.assert_close(theirs(images), expected, atol=1e-6, rtol=0)
            assert torch.equal(again(images), expected)
        assert expected.std() > 0.01
    given = timm.data.resolve_model_data_config(theirs)
    assert tuple(given["input_size"]) == (1, 32, 32)
    assert (given["mean"], given["std"], given["crop_mode"], given["crop_pct"]) == ([0.45], [0.1], "squash", 1.0)
    # timm's own preparation of an image is the encoder's: the whole image, stretched, standardised.
    image = np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)
    prepared = timm.data.create_transform(**given)(Image.fromarray(image))
    torch.testing.assert_close(prepared, (torch.from_numpy(image)[None] / 255 - 0.45) / 0.1, atol=1e-5, rtol=0)
    wide = Image.fromarray(np.tile(np.arange(100, dtype=np.uint8) * 2, (40, 1)))
    left = timm.data.create_transform(**given)(wide)[0, :, :2].mean()
    right = timm.data.create_transform(**given)(wide)[0, :, -2:].mean()
    assert left < (10 / 255 - 0.45) / 0.1  # no column was cropped away
    assert right > (190 / 255 - 0.45) / 0.1


def test_the_code_on_the_card_runs(exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    modes = {path.stat().st_mode for path in exported["out"].iterdir()}
    assert len(modes) == 1  # who may read the card may read the weights
    (code,) = re.findall(r"```python\n(.*?)```", (exported["out"] / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(exported["root"])
    image = np.random.default_rng(1).integers(0, 255, (50, 40), dtype=np.uint8)
    Image.fromarray(image).save("image.png")
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["features"].shape == (1, 32)
    resized = Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)
    grey = torch.from_numpy(np.array(resized))[None, None] / 255
    with torch.inference_mode():
        expected = chartray.load_encoder(exported["source"])((grey - 0.45) / 0.1)
    torch.testing.assert_close(found["features"], expected, atol=1e-4, rtol=0)


def test_the_card_holds_the_measured_numbers_and_the_limits(exported: dict[str, Path]) -> None:
    card = ModelCard.load(exported["out"] / "README.md")
    rows = [json.loads(line) for line in (exported["results"] / "results.jsonl").read_text().splitlines()]
    own = {(row["label"], row["metric"]): row for row in rows if row["control"] == "none"}
    named = {"macro mean": "macro"}
    aurocs = [one for one in card.data.eval_results if one.metric_type == "roc_auc"]
    assert len(aurocs) == sum(row["value"] is not None for (_, metric), row in own.items() if metric == "auroc")
    for one in aurocs:
        label = one.metric_name.rpartition(", ")[0]
        assert one.metric_value == pytest.approx(own[named.get(label, label), "auroc"]["value"], abs=1e-4)
        assert one.dataset_split == "test"
    assert card.data.library_name == "timm"
    assert "license" not in card.data.to_dict()
    for row in rows:
        if row["metric"] == "auroc" and row["ci_low"] is not None:
            assert f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]" in card.text
    pretraining = card.text[card.text.index("## Pretraining data") : card.text.index("## Results")]
    assert "3,314 images of 1,500 patients" in pretraining
    assert "| Variables known only after the image | mortality |" in pretraining
    assert "| Initial weights | older |" in pretraining
    limits = card.text[card.text.index("## Limits") :]
    for words in (
        "Not for clinical use",
        "no claim: fewer than 3 seeds",
        "was not measured for this card",
    ):
        assert words in limits
    assert "Simulated" not in card.text
    # What beats the encoder is said, with both numbers; a comparison ends in its verdict.
    macro = {row["control"]: row["value"] for row in rows if (row["label"], row["metric"]) == ("macro", "auroc")}
    assert macro["pixels"] > macro["none"] > macro["chart-only"]
    assert f"plain pixels {macro['pixels']:.3f}, this encoder {macro['none']:.3f}" in limits
    assert "macro AUROC: chart only" not in limits
    claim = r"; another seed may differ; no claim about the method\."
    assert re.search(
        rf"- Seen in one encoder \(seed 0\): demographic-norm .*no chart.* MIMIC-CXR: .*{claim}", card.text
    )
    assert "minus" not in card.text  # with one seed nothing is set down as a result
    # The macro mean has no positive images of its own; the baselines say which chart they read.
    (mean,) = [line for line in card.text.splitlines() if re.match(r"\| macro mean of \d labels \| –", line)]
    assert mean.count("|") == 8
    assert "| chart only (demographic-norm) | image + chart (on demographic-norm) |" in card.text
    # A finding with one class in the test images has words, not a number.
    pneumothorax = next(line for line in card.text.splitlines() if line.startswith("| Pneumothorax † |"))
    assert "one class" in pneumothorax or "too few patients" in pneumothorax
    assert not re.search(r"\b(nan|None)\b", card.text.replace("[None]", ""))


def test_a_grouping_without_a_gap_was_not_measured(exported: dict[str, Path], tmp_path: Path) -> None:
    """Too few of those who died are in the test split: nothing was compared."""
    gap = SubgroupRow(
        dataset="mimic",
        attribute="sex",
        split="test",
        resamples=20,
        seed=0,
        arm=arm_of_run(OF_MADE),
        run=MADE["run"],
        label="macro",
        metric="gap",
        of="auroc",
        value=0.1,
        specificity=0.9,
    )
    died = gap.replaced(attribute="died", value=None)
    manifest = AuditManifest(
        encoders=(EncoderEntry(run=MADE["run"], provenance=OF_MADE),),
        stores=(StoreEntry(dataset="mimic", hash="abc"),),
        settings=Settings(split="test", uncertain="ignore", blank="source"),
    )
    audit = tmp_path / "audit"
    with written_folder(audit, AUDIT_FILE) as folder:
        write_rows(folder, AUDIT_ROWS_FILE, [gap, died, died.replaced(group="false", metric="auroc", value=0.7)])
        write_manifest(folder, manifest)
    out = export_encoder(exported["source"], tmp_path / "out", results=[audit])
    text = (out / "README.md").read_text()
    assert "Performance in subgroups was measured by sex, and not by other attributes." in text


@pytest.mark.parametrize(("named", "pool"), [(True, "own"), (False, "own"), (False, "grid")])
def test_a_leak_stands_first_on_the_card(exported: dict[str, Path], tmp_path: Path, named: bool, pool: Any) -> None:
    """Failed before: the card repeated AUROCs of which the audit had said LEAK; told of the audit or not.

    A leak is one of the run, whatever of its tokens the audit read.
    """
    root = tmp_path / "study"
    shutil.copytree(exported["results"], root / "results" / "first-main")
    store = Store.open(exported["store"])
    pairs = zip(store.cohort["split"].to_pylist(), store.cohort["patient_id"].to_pylist(), strict=True)
    tested = sorted({patient for split, patient in pairs if split == "test"})
    # A run that learnt three of the patients of the test split, as its own file says.
    keys = [patient_key("mimic", patient) for patient in tested[:3]]
    evaluation_folders.vit(
        root / "first" / "encoder",
        **MADE | {"after_film": []} | patients_entry(keys),
    )
    write_patients(root / "first", keys)
    found = audit(
        root / "first" / "encoder",
        exported["store"],
        root / "audit",
        AuditOptions(attributes=["sex"], resamples=20, baselines=False, pool=pool),
    )
    assert "LEAK: 3 patients are in pretraining and in mimic:test" in audit_sentences(*found)
    results = [root / "results" / "first-main", *([root / "audit"] if named else [])]
    text = (export_encoder(root / "first" / "encoder", root / "out", results=results) / "README.md").read_text()
    body = text.partition("---\n")[2].partition("---\n")[2]
    first, second = [line for line in body.splitlines() if line][:2]
    assert first == "# out"
    leak = "fewer than 10 patients are in pretraining and in mimic:test"
    assert second == f"> **The audit found leakage. No score on this card can be trusted: {leak}.**"
    # A leaderboard reads the head alone.
    assert not ModelCard(text).data.eval_results
    # Where the audit's own count and its rows differ, one of them was changed.
    (root / "audit" / "leaks.jsonl").write_text("")
    if named:
        with pytest.raises(InputError, match=r"audit"):
            export_encoder(root / "first" / "encoder", root / "again", results=results)


def test_a_card_says_that_no_audit_looked_for_leaks(exported: dict[str, Path], tmp_path: Path) -> None:
    said = "Leakage was not checked on MIMIC-CXR: scored patients or images may also be training data."
    text = (exported["out"] / "README.md").read_text()
    assert said in text
    assert text.index(said) < text.index("A Vision Transformer")
    for name, after in (("clean", []), ("late", ["mortality"])):
        source = evaluation_folders.vit(tmp_path / name / "encoder", **MADE | {"after_film": after})
        audit(
            source,
            exported["store"],
            tmp_path / name / "audit",
            AuditOptions(attributes=["sex"], resamples=5, baselines=False),
        )
        results = [exported["results"], tmp_path / name / "audit"]
        text = (export_encoder(source, tmp_path / name / "out", results=results) / "README.md").read_text()
        assert ("can be trusted: pretraining used mortality, known only after the image" in text) == bool(after)
        assert ("leak" in text.lower()) == bool(after)


def test_what_is_known_only_after_the_image_opens_the_card(exported: dict[str, Path], tmp_path: Path) -> None:
    """Failed before: it stood among the limits, below all numbers; that of weights it started from nowhere."""
    said = "> **Known only after the image: pretraining used mortality. A gain from that says nothing"
    text = (exported["out"] / "README.md").read_text()
    assert text.index(said) < text.index("A Vision Transformer")
    older = {"source": "a", "after_film": ["discharge"], "init": {"source": "b", "after_film": ["stay"]}}
    for name, made, words in (
        ("older", {"after_film": [], "init": older}, "pretraining used discharge and stay."),
        ("none", {"after_film": []}, ""),
    ):
        source = evaluation_folders.vit(tmp_path / name / "encoder", **MADE | made)
        text = (export_encoder(source, tmp_path / name / "out") / "README.md").read_text()
        assert ("Known only after the image" in text) == bool(words)
        assert words in text


def test_the_card_says_how_its_numbers_were_made_and_what_its_author_must_add(exported: dict[str, Path]) -> None:
    text = (exported["out"] / "README.md").read_text()
    how = text[text.index("### How these numbers were made") : text.index("## Limits")]
    for words in (
        "Images were stored as 8-bit grey, stretched to 32 x 32 px",
        "one of 17 between 0.0001 and 1e+06, is the one with the highest AUROC",
        "(5 folds)",
        "learnt from 96 training images of 48 patients, hyperparameters chosen on 48 validation images of 24 patients",
        "All tests are two-sided; alpha is 0.05.",
        "Holm's method over the labels of one pair of arms, data set, share of the training patients and metric",
        "if min(K\\_a, K\\_b) < 3, no claim about the method; else if p > 0.05, no difference shown",
        "Scored were 96 images of 48 patients of MIMIC-CXR.",
    ):
        assert words.replace("<", "\\<").replace("p >", "p \\>") in how, words
    for asked in ("intended use", "sites, dates and eligibility", "how, from what and by whom", "funding"):
        assert f"[author: {asked}" in text or f"[author: availability of data and code; {asked}" in text


def test_nothing_of_the_machine_or_of_patients_is_in_an_export(exported: dict[str, Path]) -> None:
    said = "".join((exported["out"] / name).read_text() for name in ("README.md", "encoder.json", "config.json"))
    for place in ("/home/someone", "/data/runs", str(exported["root"]), "p000", "p119"):
        assert place not in said
    assert "chartray pretrain mimic.store --out first" in said
    deep = {"store": None, "init": {"source": "/a/b", "init": {"source": "/c/d"}}, "chart_sources": {"sex": ["a/b"]}}
    shared = shareable(Provenance.model_validate(deep | {"out": "/e/f", "command": "x '/Doe John/g h' /i"}))
    assert shared.model_dump(exclude_unset=True) == deep | {
        "init": {"source": "b", "init": {"source": "d"}},
        "out": "f",
        "command": "x 'g h' i",
    }


def test_simulated_data_is_called_so_from_the_folder_to_the_card(exported: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "hospital").mkdir()
    metadata = CohortMetadata(source="mimic", image_root=str(tmp_path / "hospital"))
    empty = {name: pa.array([]) for name in ("image_id", "patient_id", "study_id", "taken_at", "path", "split")}

    def simulated() -> bool:
        described = json.loads(assemble(empty, metadata).schema.metadata[b"chartray"])
        return bool(described["simulated"])

    assert not simulated()
    (tmp_path / "hospital" / SIMULATED_FILE).touch()
    assert simulated()
    source = evaluation_folders.vit(tmp_path / "encoder", **MADE | {"simulated": True, "control": "shuffled"})
    text = (export_encoder(source, tmp_path / "out") / "README.md").read_text()
    assert text.count("**Simulated data.**") == 2
    assert "simulated-data" in ModelCard(text).data.tags
    assert "**This is a control:** every patient was given another patient's chart." in text
    assert "No evaluation was given when this card was written." in text


def test_numbers_of_another_encoder_of_the_same_name_are_refused(exported: dict[str, Path], tmp_path: Path) -> None:
    for number, changed in enumerate(({"settings_hash": "999"}, {"store_hash": "def"}, {"seed": 4})):
        other = evaluation_folders.vit(tmp_path / str(number), **MADE | changed)
        ((field, value),) = changed.items()
        for folder in ("results", "arms"):
            known = {"seed": 0} | MADE
            with pytest.raises(InputError, match=rf"found those of first: {field} {known[field]} instead of {value};"):
                export_encoder(other, tmp_path / "no", results=[exported["root"] / folder])
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("name", ["evaluation.json", "compare.json", "audit.json"])
def test_a_damaged_folder_of_results_is_one_sentence(exported: dict[str, Path], tmp_path: Path, name: str) -> None:
    for text, sentence in (
        ('{"format": 3, "enc', r"expected .* \(JSON\) in .*"),
        ("[" * 100_000, r"expected .* \(JSON\) in .*"),
        ("[]", r"expected .* \(a JSON object\) in .*"),
        ('{"format": 2}', f"expected format {RESULTS_FORMAT} in .*"),
        (f'{{"format": {RESULTS_FORMAT}}}', r"expected what Chartray writes in .*"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=r"expected SHA256SUMS in|as it was written, found other content"):
            read_folders([tmp_path], OF_MADE)
        seal(tmp_path)
        with pytest.raises(InputError, match=sentence + name.replace(".", r"\.")) as caught:
            read_folders([tmp_path], OF_MADE)
        assert "\n" not in str(caught.value)
    (tmp_path / name).unlink()
    for good in (exported["results"] / "evaluation.json", exported["results"] / "comparisons.jsonl"):
        (tmp_path / good.name).write_bytes(good.read_bytes())
    (tmp_path / "results.jsonl").write_text('{"fraction": 1.0}\n{"frac')
    seal(tmp_path)
    with pytest.raises(InputError, match=r"expected .* \(JSON\) in line 2 of .*results\.jsonl"):
        read_folders([tmp_path], OF_MADE)


def test_an_export_goes_through_a_link_and_into_the_folder_one_stands_in(
    exported: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    for _ in range(2):  # new, and over an earlier export
        export_encoder(exported["source"], tmp_path / "link", to="timm")
        assert (tmp_path / "link").is_symlink()
        assert {path.name for path in (tmp_path / "disk").iterdir()} == {
            "README.md",
            "SHA256SUMS",
            "parity.json",
            "model.safetensors",
            "encoder.json",
            "config.json",
        }
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for _ in range(2):
        export_encoder(exported["source"], Path("."), to="timm")
        assert Path("encoder.json").is_file()  # one still stands in it
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "here", "link"]


def test_what_cannot_be_exported_is_refused(exported: dict[str, Path], tmp_path: Path) -> None:
    source = exported["source"]
    assert export_encoder(source, tmp_path / "plain", to="huggingface") == tmp_path / "plain"
    assert export_encoder(source, tmp_path / "plain") == tmp_path / "plain"  # an earlier export is replaced
    for folder in (exported["store"], exported["results"]):
        with pytest.raises(InputError, match="is not empty and holds other files than an earlier export"):
            export_encoder(source, folder)
    other = evaluation_folders.vit(tmp_path / "other", **MADE | {"run": "second", "seed": 5})
    for folder in ("results", "arms"):
        with pytest.raises(
            InputError, match=r"of the encoder of second in .*, found those of .*run first instead of sec"
        ):
            export_encoder(other, tmp_path / "no", results=[exported["root"] / folder])
    with pytest.raises(InputError, match="expected a folder of chartray evaluate, compare or audit"):
        export_encoder(source, tmp_path / "no", results=[exported["store"]])
    with pytest.raises(InputError, match="expected --to timm, huggingface or onnx, found 'tf'"):
        export_encoder(source, tmp_path / "no", to="tf")  # type: ignore[arg-type]  # as a notebook may
    broken = vit.load(source)
    broken.model.norm.weight.data[0] = float("nan")
    vit.save(tmp_path / "broken", broken)
    with pytest.raises(InputError, match=r"finite weights in .*broken.*, found others in norm\.weight"):
        export_encoder(tmp_path / "broken", tmp_path / "no")
    assert not (tmp_path / "no").exists()
    assert not list(tmp_path.glob(".no*"))
