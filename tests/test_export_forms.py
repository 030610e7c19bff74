"""The encoder as timm, transformers and ONNX load it: each computes what Chartray does, and the bundle says so."""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image

import chartray
from chartray.cli import run_command
from chartray.errors import InputError
from chartray.export.bundle import export_encoder
from chartray.networks import encoder as vit
from chartray.networks.description import Architecture, Provenance
from chartray.networks.encoder import PretrainedEncoder, tokens_of
from chartray.networks.public import open_encoder
from chartray.pixels.resampling import whole_image
from chartray.pixels.store import Store

from .evaluation_folders import evaluate, hospital
from .test_public import filled

PLAIN = {"model_name": "vit_tiny_patch16_224", "img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2}
DINOV3 = {"num_heads": 2, "global_pool": "token", "rope_temperature": 50.0, "mlp_ratio": 3.0, "norm_eps": 1e-4}
# name -> (architecture, model of transformers)
FAMILIES: dict[str, tuple[dict[str, Any], str]] = {
    "plain": ({"num_heads": 2}, "ViTMSNModel"),
    "many heads, other eps and MLP": ({"num_heads": 8, "norm_eps": 1e-3, "mlp_ratio": 2.7}, "ViTMSNModel"),
    "no bias, tanh": ({"num_heads": 2, "qkv_bias": False, "act_layer": "gelu_tanh"}, "ViTMSNModel"),
    "layer scale": ({"num_heads": 2, "init_values": 0.5, "mlp_ratio": 3.0}, "Dinov2Model"),
    "registers": (
        {"num_heads": 2, "init_values": 0.5, "reg_tokens": 4, "no_embed_class": True},
        "Dinov2WithRegistersModel",
    ),
    "rotations": (DINOV3 | {"model_name": "vit_small_patch16_dinov3", "num_reg_tokens": 2}, "DINOv3ViTModel"),
    "rotations, biases, gates": (DINOV3 | {"model_name": "vit_small_plus_patch16_dinov3_qkvb"}, "DINOv3ViTModel"),
}


def written(folder: Path, store: Path | None = None, **more: Any) -> PretrainedEncoder:
    """An encoder folder of large weights, so that a part in the wrong place shows."""
    architecture = Architecture.model_validate(PLAIN | {"num_heads": 2} | more)
    made = {"run": "first"} if store is None else {"store": str(store), "store_hash": Store.open(store).hash}
    model = filled(vit.build(architecture, seed=0))
    loaded = PretrainedEncoder(model, 32, 0.45, 0.1, architecture, Provenance.model_validate(made))
    vit.save(folder, loaded)
    return loaded


def tokens(loaded: PretrainedEncoder, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return tokens_of(loaded.model, images)


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_computes_the_same_tokens(name: str, tmp_path: Path) -> None:
    more, kind = FAMILIES[name]
    loaded = written(tmp_path / "encoder", **more)
    out = export_encoder(tmp_path / "encoder", tmp_path / "out", to="huggingface")
    model, about = transformers.AutoModel.from_pretrained(out, output_loading_info=True)
    assert type(model).__name__ == kind
    assert not any(about.values()), about  # nothing is missing, nothing is left over
    images = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    wanted = tokens(loaded, images)
    with torch.inference_mode():
        found = model.eval()(pixel_values=images).last_hidden_state
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)
    # Chartray reads the folder, with its provenance, and as anybody's public encoder.
    assert torch.equal(chartray.load_encoder(out)(images), chartray.load_encoder(tmp_path / "encoder")(images))
    assert vit.load(out)[1:] == vit.load(tmp_path / "encoder")[1:]
    (out / "encoder.json").unlink()
    public = open_encoder(out)
    assert (public.size, public.grey_mean, public.grey_std) == (32, pytest.approx(0.45), pytest.approx(0.1))
    torch.testing.assert_close(tokens(public, images), wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("to", ["timm", "huggingface"])
def test_parity_on_images_of_the_store_is_in_the_bundle(to: Any, small_store: Path, tmp_path: Path) -> None:
    written(tmp_path / "encoder", small_store)
    out = export_encoder(tmp_path / "encoder", tmp_path / "out", to=to)
    said = json.loads((out / "parity.json").read_text())
    assert (said["to"], said["images"], said["store_hash"]) == (to, 32, Store.open(small_store).hash)
    names = ("chartray", "torch", "timm" if to == "timm" else "transformers")
    assert said["versions"] == {name: metadata.version(name) for name in names}
    for name in ("embedding", "patch_tokens"):
        assert said[name]["largest_value"] > 0
        assert said[name]["largest_difference"] < 1e-4 * said[name]["largest_value"]
    assert 0 < said["grey_levels"] < 1.01  # both libraries round to whole grey levels
    card = (out / "README.md").read_text()
    assert "on 32 images of a store." in card
    assert str(small_store) not in card + (out / "parity.json").read_text() + (out / "encoder.json").read_text()
    assert "film-" not in (out / "parity.json").read_text()


def test_a_library_that_computes_something_else_is_not_exported(tmp_path: Path, monkeypatch: Any) -> None:
    """The check can fail: config.json with an eps that is not the encoder's."""
    from chartray.export import bundle

    written(tmp_path / "encoder", norm_eps=1e-6)
    true = bundle.transformers_folder

    def false(loaded: PretrainedEncoder) -> Any:
        found = true(loaded)
        return found._replace(config=found.config | {"layer_norm_eps": 0.5})

    monkeypatch.setattr(bundle, "transformers_folder", false)
    with pytest.raises(InputError, match=r"expected the same embedding from transformers .* found a difference of"):
        export_encoder(tmp_path / "encoder", tmp_path / "out", to="huggingface")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"qk_norm": True}, r"weights blocks\.0\.attn\.k_norm\.bias"),
        ({"pre_norm": True}, r"weights norm_pre\.bias"),
        ({"global_pool": "avg"}, "a norm after pooling"),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, "no class token"),
        ({"reg_tokens": 2}, "registers with positions"),
    ],
)
def test_what_transformers_lacks_is_refused_by_name(more: dict[str, Any], part: str, tmp_path: Path) -> None:
    written(tmp_path / "encoder", **more)
    with pytest.raises(InputError, match=part) as refused:
        export_encoder(tmp_path / "encoder", tmp_path / "out", to="huggingface")
    assert "use --to timm or --to onnx" in str(refused.value)
    out = export_encoder(tmp_path / "encoder", tmp_path / "out", to="timm")
    assert json.loads((out / "parity.json").read_text())["embedding"]["largest_difference"] < 1e-3


def test_an_eps_that_timms_config_cannot_say_is_refused(tmp_path: Path) -> None:
    """Failed before: timm's `create_model` raised a TypeError on the folder."""
    written(tmp_path / "encoder", norm_eps=1e-3)
    with pytest.raises(InputError, match=r"eps of 1e-06 for --to timm, found 0\.001, .*; use --to huggingface"):
        export_encoder(tmp_path / "encoder", tmp_path / "out")


def test_the_huggingface_folder_is_evaluated_as_the_run_it_is_of(tmp_path: Path) -> None:
    store = hospital(tmp_path / "hospital")
    written(tmp_path / "encoder", store)
    out = export_encoder(tmp_path / "encoder", tmp_path / "out", to="huggingface")
    from chartray.config.evaluate import EvaluateOptions

    options = EvaluateOptions(resamples=5, device="cpu", saliency=0, baselines=False)
    found = [
        [row["value"] for row in evaluate(folder, store, tmp_path / f"results-{number}", options)]
        for number, folder in enumerate((tmp_path / "encoder", out))
    ]
    assert found[0] == found[1]


def test_the_code_on_the_card_of_huggingface_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "encoder")
    out = export_encoder(tmp_path / "encoder", tmp_path / "out", to="huggingface")
    image = np.random.default_rng(1).integers(0, 255, (50, 40), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    found: dict[str, Any] = {}
    exec(code, found)
    grey = whole_image(torch.from_numpy(image)[None], 32)
    wanted = chartray.load_encoder(out)((grey - 0.45) / 0.1)
    assert found["patches"].shape == (1, 16, 32)
    torch.testing.assert_close(found["features"], wanted, atol=0.2, rtol=0.05)  # its processor rounds grey levels


def test_transformers_that_is_absent_is_said_and_the_folder_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "encoder")
    whole = export_encoder(tmp_path / "encoder", tmp_path / "whole", to="huggingface")
    monkeypatch.setitem(sys.modules, "transformers", None)
    out = export_encoder(tmp_path / "encoder", tmp_path / "out", to="huggingface")
    assert 'pip install "chartray[huggingface]"' in capsys.readouterr().err
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert json.loads((out / "parity.json").read_text())["not_measured"] == "transformers is not installed"
    assert "Parity with Chartray was not measured: transformers is not installed." in (out / "README.md").read_text()


def test_a_form_or_extra_that_is_not_there_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "encoder")
    arguments = ["export", str(tmp_path / "encoder"), "--out", str(tmp_path / "out")]
    assert run_command([*arguments, "--to", "huggingface", "--preprocessing"]) == 2
    assert "expected --preprocessing only with --to onnx, found --to huggingface" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert run_command([*arguments, "--to", "onnx"]) == 2
    said = capsys.readouterr().err
    assert "onnxscript for --to onnx, found none" in said
    assert 'install Chartray with its extra: onnx (pip install "chartray[onnx]")' in said
    assert not (tmp_path / "out").exists()


def test_the_folder_of_timm_needs_timm_alone(tmp_path: Path) -> None:
    loaded = written(tmp_path / "encoder")
    out = export_encoder(tmp_path / "encoder", tmp_path / "out")
    code = f"import timm; m = timm.create_model('local-dir:{out}', pretrained=True); print(type(m).__name__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["VisionTransformer"]
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    images = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(model.forward_features(images), tokens(loaded, images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("preprocessing", [False, True])
def test_onnx_computes_the_same_for_any_number_of_images(
    preprocessing: bool, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    loaded = written(tmp_path / "encoder", small_store)
    out = export_encoder(tmp_path / "encoder", tmp_path / "out", to="onnx", preprocessing=preprocessing)
    session = onnxruntime.InferenceSession(out / "model.onnx")
    rng = np.random.default_rng(0)
    for images in (1, 2, 7):
        raw = rng.integers(0, 256, (images, 40 + images, 70), dtype=np.uint8)
        prepared = loaded.standardised(whole_image(torch.from_numpy(raw), 32))
        wanted = tokens(loaded, prepared)
        given = raw if preprocessing else prepared.numpy()
        embedding, patches = session.run(["embedding", "patch_tokens"], {"images": given})
        np.testing.assert_allclose(embedding, wanted[:, 0], atol=1e-4, rtol=1e-5)
        np.testing.assert_allclose(patches, wanted[:, 1:], atol=1e-4, rtol=1e-5)
    said = json.loads((out / "parity.json").read_text())
    assert (said["images"], said["preprocessing"]) == (32, preprocessing)
    assert said["patch_tokens"]["largest_difference"] < 1e-4 * said["patch_tokens"]["largest_value"]
    assert {"onnx", "onnxruntime", "onnxscript"} <= said["versions"].keys()
    assert session.get_modelmeta().custom_metadata_map["chartray.grey_mean"] == "0.45"
    Image.fromarray(raw[0]).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    found: dict[str, Any] = {}
    exec(code, found)
    np.testing.assert_allclose(found["features"], wanted[:1, 0], atol=1e-4 if preprocessing else 0.2, rtol=0.05)
    with pytest.raises(InputError, match=r"expected weights in .*model\.safetensors"):
        chartray.load_encoder(out)


def test_a_rectangle_is_resized_on_each_side_by_itself() -> None:
    """What the graph does with images of any size; a square is as before."""
    from torch.nn.functional import interpolate

    images = torch.randint(0, 256, (2, 61, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = interpolate(images[:, None].float(), (32, 32), mode="bilinear", antialias=True) / 255
    torch.testing.assert_close(whole_image(images, 32), wanted, atol=1e-4, rtol=0)
