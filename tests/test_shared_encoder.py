"""An encoder that a stranger shares: it runs no code, asks no network, eats no memory, and is what was written."""

import json
import pickle
import random
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from chartray.cli import run_command
from chartray.config.pretrain import EncoderConfig
from chartray.errors import InputError
from chartray.networks import encoder as vit
from chartray.networks.description import Architecture, checked
from chartray.networks.initial_weights import initialise, lineage
from chartray.outputs.seal import seal
from tests.evaluation_folders import vit as write_encoder

MADE: dict[str, Any] = {
    "run": "r",
    "source": "mimic",
    "chart": "sex",
    "after_film": [],
    "chart_sources": {"sex": ["s"]},
}


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "shared", **MADE)


def edit(folder: Path, change: Any) -> None:
    """As a stranger would: another description, and a seal that fits it."""
    file = folder / "encoder.json"
    said = json.loads(file.read_text())
    change(said)
    file.write_text(json.dumps(said))
    seal(folder)


class Bomb:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.place,))


def test_a_pickle_that_a_description_names_is_not_opened(shared: Path, tmp_path: Path) -> None:
    bomb, gone_off = tmp_path / "weights.pth", tmp_path / "gone off"
    bomb.write_bytes(pickle.dumps(Bomb(gone_off)))
    pickle.loads(bomb.read_bytes())
    assert gone_off.exists()  # a real one
    gone_off.unlink()
    edit(shared, lambda said: said["architecture"].update(checkpoint_path=str(bomb)))
    for use in (vit.load, lineage):
        with pytest.raises(InputError, match=r"encoder.json; architecture.checkpoint_path: Extra inputs"):
            use(shared)
    with pytest.raises(InputError, match=r"checkpoint_path: Extra inputs"):
        checked(Architecture, {"model_name": "vit_tiny", "img_size": 32, "checkpoint_path": str(bomb)}, "it")
    with pytest.raises(InputError, match="pickled weights are not loaded"):
        initialise(vit.build(vit.architecture(EncoderConfig(name="vit_tiny"), 32), seed=0), bomb)
    assert not gone_off.exists()


def test_timm_from_its_lower_bound_on_opens_no_pickle_by_itself(tmp_path: Path) -> None:
    """The second lock: what keeps strangers' keys from timm is the first."""
    bomb, gone_off = tmp_path / "weights.pth", tmp_path / "gone off"
    torch.save(Bomb(gone_off), bomb)
    torch.load(bomb, weights_only=False)
    assert gone_off.exists()  # a real one
    gone_off.unlink()
    with pytest.raises((pickle.UnpicklingError, RuntimeError)):
        timm.create_model("vit_tiny_patch16_224", checkpoint_path=str(bomb))
    assert not gone_off.exists()


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_commands_that_open_an_encoder_refuse_it_in_a_sentence(
    shared: Path, small_store: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(shared, lambda said: said["architecture"].update(checkpoint_path="x.pth"))
    stores = [str(small_store)] if command == "evaluate" else []
    assert run_command([command, str(shared), *stores, "--out", str(tmp_path / "out")]) == 2
    assert "checkpoint_path: Extra inputs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name",
    [
        "hf-hub:timm/vit_tiny_patch16_224.augreg_in21k",
        "hf_hub:timm/vit_tiny_patch16_224",
        "local-dir:/tmp",
        "timm/vit_tiny_patch16_224",
        "https://example.org/vit_tiny_patch16_224",
        "../vit_tiny_patch16_224",
        "vit_tiny_patch16_224.",
        "",
        "resnet18",
    ],
)
def test_no_name_and_no_key_reaches_for_the_network(
    shared: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def blocked(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked for")

    for way in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, way, blocked)
    monkeypatch.setattr(socket, "getaddrinfo", blocked)
    assert vit.load(shared).size == 32
    vit.build(vit.architecture(EncoderConfig(name="vit_tiny_patch16_224.augreg_in21k"), 32), seed=0)
    with pytest.raises(InputError, match=r"name of a timm ViT|a Vision Transformer|cannot be built|model_name"):
        vit.build(vit.architecture(EncoderConfig(name=name), 32), seed=0)
    edit(shared, lambda said: said["architecture"].update(model_name=name))
    with pytest.raises(InputError):
        vit.load(shared)
    edit(shared, lambda said: said["architecture"].update(model_name="vit_tiny_patch16_224", pretrained=True))
    with pytest.raises(InputError, match=r"architecture\.pretrained: Extra inputs"):
        vit.load(shared)


@pytest.mark.parametrize(
    ("part", "changed", "sentence"),
    [
        ("architecture", {"img_size": 10**6}, "size: Input should be less than"),
        ("architecture", {"embed_dim": 10**6}, "architecture.embed_dim"),
        ("architecture", {"depth": 10**6}, "architecture.depth"),
        ("architecture", {"depth": True}, "architecture.depth"),
        ("architecture", {"depth": "1"}, "architecture.depth"),
        ("architecture", {"depth": 40}, "the weight blocks.*found none"),
        ("architecture", {"embed_dim": 16_384, "num_heads": 2}, "the weight .* of shape .*, found"),
        ("architecture", {"num_heads": 5}, "cannot be built"),
        ("architecture", {"model_name": "vit_giant_patch14_224"}, "the weight .* of shape"),
        ("architecture", {"embed_layer": "os.system"}, "architecture.embed_layer: Extra"),
        (None, {"size": 8000}, "expected size to be architecture.img_size = 32"),
        (None, {"grey_std": 0}, "grey_std"),
        (None, {"grey_mean": float("nan")}, "grey_mean"),
        (None, {"format": 1}, "expected encoder format 2"),
        (None, {"extra": 1}, "extra: Extra inputs"),
        ("provenance", {"after_film": "died"}, "provenance"),
        ("provenance", {"chart_sources": {"sex": "s"}}, "provenance"),
        ("provenance", {"init": {"dataset": "mimic"}}, "provenance"),
        ("provenance", {"init": {"source": "x", "init": {"source": 3}}}, "provenance"),
        ("provenance", {"patients_sha256": "0"}, "provenance"),
        ("provenance", {"stranger": {"deep": 1}}, "provenance"),
    ],
)
def test_a_description_is_what_chartray_writes_or_refused_before_memory_is_taken(
    shared: Path, part: str | None, changed: dict[str, Any], sentence: str
) -> None:
    def change(said: dict[str, Any]) -> None:
        (said if part is None else said[part]).update(changed)
        if "img_size" in changed:
            said["size"] = changed["img_size"]

    edit(shared, change)
    with pytest.raises(InputError, match=sentence) as refused:
        vit.load(shared)
    assert "\n" not in str(refused.value)
    assert str(shared) in str(refused.value) or "cannot be built" in str(refused.value)


@pytest.mark.parametrize("missing", ["architecture", "size", "provenance", "format"])
def test_a_key_that_is_missing_is_named(shared: Path, missing: str) -> None:
    edit(shared, lambda said: said.pop(missing))
    with pytest.raises(InputError, match=rf"encoder\.json.*{missing}|expected encoder format 2 in .*found None"):
        vit.load(shared)


def test_weights_that_are_not_finite_are_refused_on_loading(shared: Path) -> None:
    weights = load_file(shared / "model.safetensors")
    weights["norm.bias"][0] = float("inf")
    save_file(weights, shared / "model.safetensors")
    seal(shared)
    with pytest.raises(InputError, match=r"expected finite weights in .*found others in norm\.bias"):
        vit.load(shared)
    with pytest.raises(InputError, match=r"expected finite weights"):
        initialise(vit.load(write_encoder(shared.parent / "other")).model, shared)


def test_each_flipped_bit_and_each_truncation_of_an_encoder_is_refused(shared: Path) -> None:
    draw = random.Random(0)
    for name in ("model.safetensors", "encoder.json", "SHA256SUMS"):
        whole = (shared / name).read_bytes()
        for place in [*range(0, 64), *(draw.randrange(len(whole)) for _ in range(40))]:
            flipped = bytearray(whole)
            flipped[place % len(whole)] ^= 1 << draw.randrange(8)
            (shared / name).write_bytes(flipped)
            with pytest.raises(InputError):
                vit.load(shared)
        for length in (0, 1, len(whole) // 2, len(whole) - 1):
            (shared / name).write_bytes(whole[:length])
            with pytest.raises(InputError):
                vit.load(shared)
        (shared / name).unlink()
        with pytest.raises(InputError):
            vit.load(shared)
        (shared / name).write_bytes(whole)
    # What is not read for loading may change: a card that is edited on the Hub.
    (shared / "README.md").write_text("a card")
    assert vit.load(shared).provenance.run == "r"


@pytest.mark.parametrize("seed", range(4))
def test_weights_to_start_from_are_a_vits_or_a_sentence(tmp_path: Path, seed: int) -> None:
    draw, file = random.Random(seed), tmp_path / "w.safetensors"
    model = vit.build(vit.architecture(EncoderConfig(name="vit_tiny", width=16, depth=1, heads=1), 32), seed=0)
    wanted = timm.create_model("vit_tiny_patch16_224", embed_dim=16, depth=1, num_heads=1, img_size=64).state_dict()
    for shape in ((), (3,), (1, 2), (1, 6, 16), (1, 0, 16), (2, 17, 16), (1, 17, 8)):
        for name in ("pos_embed", "patch_embed.proj.weight"):
            save_file(wanted | {name: torch.zeros(shape)}, file)
            with pytest.raises(InputError):
                initialise(model, file)
    save_file(wanted | {"norm.bias": torch.zeros(16).to(torch.float8_e4m3fn)}, file)
    whole = file.read_bytes()
    for _ in range(30):
        flipped = bytearray(whole)
        flipped[draw.randrange(2_000)] ^= 1 << draw.randrange(8)
        file.write_bytes(flipped[: draw.choice([len(whole), draw.randrange(len(whole))])])
        with suppress(InputError):
            initialise(model, file)
