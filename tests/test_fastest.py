"""A long run on a CPU takes the fastest of the exact ways here, says so, and keeps it when it is continued."""

from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block

from chartray.networks.ways import Ways
from chartray.training import fastest, run_folder
from chartray.training.pretrain import assemble, pretrain
from tests.test_pretrain import losses, small


def ways_in(networks: torch.nn.Module) -> set[Ways]:
    return {module.ways for module in networks.modules() if isinstance(module, Attention)}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_long_run_measures_and_sets_what_its_manifest_says(
    small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    """Every way is tried on the shapes of the run, both networks' alike, and no gradient or mode is left behind."""
    loop = assemble(
        small_store,
        tmp_path / "run",
        small(train__steps=fastest.LONG, train__compile=False, train__precision=precision),
    )
    assert loop is not None
    said = loop.manifest
    assert said.attention is not None
    assert said.attention_without_gradient is not None
    assert ways_in(loop.networks) == {Ways(said.attention, said.attention_without_gradient)}
    assert said.seconds_of_choice is not None
    assert said.seconds_of_choice < 60
    assert f"attention {said.attention} with a gradient" in capsys.readouterr().out
    assert all(parameter.grad is None for parameter in loop.networks.parameters())


@pytest.mark.parametrize("objective", ["msn", "dino", "mae"])
def test_a_short_run_measures_nothing(
    small_store: Path, tmp_path: Path, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastest, "_measured", None)
    loop = assemble(small_store, tmp_path / "run", small(objective__name=objective, views__mask_ratio=0.5))
    assert loop is not None
    assert ways_in(loop.networks) == {fastest.UNMEASURED}
    assert loop.manifest.attention == "gathered"
    assert loop.manifest.seconds_of_choice is None


@pytest.mark.slow
def test_blocks_are_compiled_where_that_is_clearly_faster(small_store: Path, tmp_path: Path) -> None:
    """In bf16, whichever is faster here: what is said is what the blocks are."""
    config = small(train__steps=fastest.LONG, train__precision="bf16")
    loop = assemble(small_store, tmp_path / "run", config)
    assert loop is not None
    blocks = [module for module in loop.networks.modules() if isinstance(module, Block)]
    assert {block._compiled_call_impl is not None for block in blocks} == {loop.manifest.compiled}


def test_a_slower_way_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of plain attention and itself with a second product, the first; within noise, the first named."""
    attention, work = Attention(48, num_heads=3), torch.randn(400, 400)

    def once(_: Attention, way: str, __: torch.Tensor) -> Any:
        return lambda: [work @ work for _ in range(9 if way == "fused" else 3)]

    monkeypatch.setattr(fastest, "_once", once)
    shapes: Any = fastest.Counter({(attention, (2, 5, 144), torch.float32): 2})
    assert fastest._fastest(shapes, ("fused", "plain"), learns=False) == "plain"
    assert fastest._fastest(shapes, ("gathered", "fused"), learns=True) == "gathered"


def test_a_continued_run_keeps_its_ways_to_the_last_bit(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastest, "LONG", 1)
    monkeypatch.setattr(fastest, "_fastest", lambda _, ways, learns: ways[-1])
    for name in ("whole", "halves"):
        pretrain(small_store, tmp_path / name, small(train__compile=False))
    manifest = run_folder.read_manifest(tmp_path / "halves")
    assert (manifest.attention, manifest.attention_without_gradient) == ("fused", "plain")
    for later in ("checkpoints/step-000006", "encoder"):
        for file in (tmp_path / "halves" / later).iterdir():
            file.unlink()
        (tmp_path / "halves" / later).rmdir()
    monkeypatch.setattr(fastest, "_measured", None)  # measuring again would be an error
    pretrain(small_store, tmp_path / "halves", small(train__compile=False), resume=True)
    again = run_folder.read_manifest(tmp_path / "halves")
    assert (again.attention, again.attention_without_gradient) == ("fused", "plain")
    assert losses(tmp_path / "halves") == losses(tmp_path / "whole")
    files = [tmp_path / run / "encoder" / "model.safetensors" for run in ("whole", "halves")]
    assert files[0].read_bytes() == files[1].read_bytes()
