"""The encoder to take home loads by one line, and importing Chartray costs nothing before that."""

import subprocess
import sys
from pathlib import Path

import torch

import chartray
from chartray.networks import encoder as vit

from .test_networks import TINY, tiny


def test_load_encoder_gives_the_saved_timm_model(tmp_path: Path) -> None:
    model = tiny(seed=2).eval()
    vit.save(tmp_path / "encoder", vit.PretrainedEncoder(model, 32, 0.5, 0.2, vit.architecture(TINY, 32), {}))
    loaded = chartray.load_encoder(tmp_path)
    images = torch.rand(2, 1, 32, 32)
    assert not loaded.training
    assert torch.equal(loaded(images), model(images))
    assert loaded.chartray_input == {"size": 32, "grey_mean": 0.5, "grey_std": 0.2}


def test_importing_chartray_and_its_command_line_leaves_torch_alone() -> None:
    code = "import sys, chartray.cli; print('torch' in sys.modules, 'pyarrow' in sys.modules, 'ibis' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False", "False"]
