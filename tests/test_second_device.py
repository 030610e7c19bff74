"""Every path that a GPU takes, on a device that is emulated where there is none: the same bytes as on the CPU."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from chartray.audit import attribute_probes, leace
from chartray.audit import audit as audits
from chartray.config.audit import AuditOptions
from chartray.config.evaluate import EvaluateOptions
from chartray.evaluation import baselines, embed, saliency
from chartray.evaluation.embed_store import embed_store
from chartray.evaluation.finetune import training as finetuning
from chartray.networks.ways import Ways
from chartray.statistics.probe import fit_probe
from chartray.training import pretrain as pretraining
from chartray.training import run_folder
from chartray.training.runtime import Runtime
from tests.elsewhere import ELSEWHERE, Elsewhere, There
from tests.evaluation_folders import evaluate, hospital, vit
from tests.test_pretrain import small

_CHOOSING_A_DEVICE: tuple[ModuleType, ...] = (embed, baselines, saliency, attribute_probes, leace, finetuning)


def test_the_second_device_refuses_what_a_gpu_refuses() -> None:
    with Elsewhere():
        here, there = torch.arange(6.0).view(2, 3), torch.arange(6.0).view(2, 3).to(ELSEWHERE)
        assert isinstance(there, There)
        assert there.device == ELSEWHERE
        assert torch.equal((there * 2 + torch.tensor(1.0)).cpu(), here * 2 + 1)
        with pytest.raises(RuntimeError, match="on one device"):
            there + here
        with pytest.raises(RuntimeError, match="numpy"):
            np.asarray(there)
        with pytest.raises(RuntimeError, match="on one device"):
            there[torch.tensor([0])]
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(3, generator=torch.Generator(), device=ELSEWHERE)
        weight = torch.nn.Parameter(there.clone())
        (weight[:, 1:] ** 2).sum().backward()
        assert weight.grad is not None
        assert weight.grad.tolist() == [[0, 2, 4], [0, 8, 10]]


@pytest.fixture
def plain_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fused one knows real devices alone; this one is for both sides."""

    def build(networks: Any, config: Any) -> torch.optim.AdamW:
        return torch.optim.AdamW(
            [{"params": list(networks.trained_parameters().values()), "decays": True, "encoder": True}], lr=0.0
        )

    monkeypatch.setattr("chartray.training.build.build_optimizer", build)


@pytest.fixture
def one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention that rounds alike on both sides: torch has a fused kernel for the CPU, and none for this device."""
    monkeypatch.setattr("chartray.training.fastest.UNMEASURED", Ways("gathered", "plain"))


@pytest.mark.usefixtures("plain_optimizer", "one_kernel")
@pytest.mark.filterwarnings("ignore:.*to a meta parameter in the current model, which is a no-op")  # here it is none
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"train__accumulate": 3},
        {"chart__use": "predict"},
        {"chart__control": "shuffled"},
        {"objective__name": "dino"},
        {"objective__name": "mae", "views__mask_ratio": 0.5},
    ],
)
def test_pretraining(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """Six steps with two looks of the online probe, the last three of them once more from the checkpoint before."""
    config = small(**settings)
    pretraining.pretrain(small_store, tmp_path / "here", config)
    monkeypatch.setattr(pretraining, "launch", lambda config: Runtime(ELSEWHERE))
    with Elsewhere():
        pretraining.pretrain(small_store, tmp_path / "there", config)
    # As if killed after step 5.
    for later in ("checkpoints/step-000006", "encoder"):
        shutil.rmtree(tmp_path / "there" / later)
    with Elsewhere():
        pretraining.pretrain(small_store, tmp_path / "there", config, resume=True)
    weights = [tmp_path / run / "encoder" / "model.safetensors" for run in ("here", "there")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert run_folder.read_manifest(tmp_path / "there").status == "complete"


Job = Callable[[Path, Path, Path], object]


@pytest.mark.parametrize(
    ("job", "files"),
    [
        (
            lambda run, store, out: evaluate(run, store, out, EvaluateOptions(resamples=20)),
            ("results.jsonl", "predictions.parquet", "saliency/saliency.safetensors"),
        ),
        (
            lambda run, store, out: evaluate(
                run, store, out, EvaluateOptions(resamples=20, data_percent=(0.1, 1.0), draws=2, saliency=0)
            ),
            ("results.jsonl", "predictions.parquet"),
        ),
        (
            lambda run, store, out: evaluate(
                run, store, out, EvaluateOptions(resamples=20, protocol="knn", saliency=0)
            ),
            ("results.jsonl", "predictions.parquet"),
        ),
        (
            lambda run, store, out: evaluate(
                run,
                store,
                out,
                EvaluateOptions(resamples=20, protocol="finetune", max_epochs=2, mixup=0.2, drop_path=0.1, saliency=0),
            ),
            ("results.jsonl", "predictions.parquet"),
        ),
        (
            lambda run, store, out: evaluate(
                run, store, out, EvaluateOptions(resamples=20, protocol="published", max_epochs=2, saliency=0)
            ),
            ("results.jsonl", "predictions.parquet"),
        ),
        pytest.param(
            lambda run, store, out: audits.audit(run, store, out, AuditOptions(resamples=20)),
            ("audit.jsonl", "leaks.jsonl", "predictions.parquet"),
            marks=pytest.mark.slow,
        ),
        (lambda run, store, out: embed_store(run, store, out), ()),
    ],
    ids=["linear", "fractions", "knn", "finetune", "published", "audit", "embed"],
)
def test_evidence(
    tmp_path: Path,
    small_hospital: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    job: Job,
    files: tuple[str, ...],
) -> None:
    run, store = small_hospital
    # Where a probe is solved is tested, not how its penalty is chosen: each weak one costs minutes on the other device.
    monkeypatch.setitem(fit_probe.__kwdefaults__, "strengths", (1.0, 100.0, 10_000.0))
    job(run, store, tmp_path / "here")
    for module in _CHOOSING_A_DEVICE:
        monkeypatch.setattr(module, "device_of", lambda device: ELSEWHERE.type)
    with Elsewhere():
        job(run, store, tmp_path / "there")
    for file in files:
        assert (tmp_path / "there" / file).read_bytes() == (tmp_path / "here" / file).read_bytes(), file
    if not files:  # one table, which says in its metadata when it was made
        assert pq.read_table(tmp_path / "there").equals(pq.read_table(tmp_path / "here"))


@pytest.fixture(scope="module")
def small_hospital(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("second-device")
    return vit(folder / "run"), hospital(folder / "hospital", patients=60)
