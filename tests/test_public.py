"""Public encoders: what timm and transformers compute, read without either's downloads, pickles or guesses."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from timm.models._hub import save_config_for_hf

from chartray.cli import run_command
from chartray.config.pretrain import EncoderConfig
from chartray.config.public import PublicOptions
from chartray.errors import InputError
from chartray.networks import encoder as vit
from chartray.networks.encoder import class_token, tokens_of
from chartray.networks.initial_weights import initialise, lineage
from chartray.networks.public import open_encoder
from chartray.pixels.resampling import whole_image
from chartray.results.manifest import arm_of_run
from tests.evaluation_folders import evaluate, hospital, read
from tests.evaluation_folders import vit as write_encoder

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
MLP, REGISTERS = {"intermediate_size": 48}, {"num_register_tokens": 4}
# name -> (config, model, its own settings, sizes of images that it reads)
TRANSFORMERS: dict[str, tuple[Any, Any, dict[str, Any], tuple[int, ...]]] = {
    "vit": (transformers.ViTConfig, transformers.ViTModel, MLP, (32,)),
    "vit-classifier": (transformers.ViTConfig, transformers.ViTForImageClassification, MLP, (32,)),
    "vit-msn": (transformers.ViTMSNConfig, transformers.ViTMSNModel, MLP, (32,)),
    "rad-dino": (transformers.Dinov2Config, transformers.Dinov2Model, {"mlp_ratio": 2}, (24, 32, 48)),
    "dinov2-gated": (
        transformers.Dinov2Config,
        transformers.Dinov2Model,
        {"mlp_ratio": 2, "use_swiglu_ffn": True},
        (32, 56),
    ),
    "dinov2-registers": (
        transformers.Dinov2WithRegistersConfig,
        transformers.Dinov2WithRegistersModel,
        {"mlp_ratio": 2, **REGISTERS},
        (24, 32, 48),
    ),
    "dinov3": (transformers.DINOv3ViTConfig, transformers.DINOv3ViTModel, MLP | REGISTERS, (32, 56)),
    "dinov3-gated": (
        transformers.DINOv3ViTConfig,
        transformers.DINOv3ViTModel,
        MLP | REGISTERS | {"use_gated_mlp": True, "hidden_act": "silu"},
        (32, 48),
    ),
}
TIMM = {
    "vit_tiny_patch16_224": {"img_size": 48},
    "vit_small_patch14_reg4_dinov2": {"img_size": 42},
    "vit_small_patch16_dinov3": {"img_size": 48},
    "vit_small_patch16_dinov3_qkvb": {"img_size": 32, "global_pool": "token"},
    "vit_base_patch16_clip_224": {"img_size": 32},  # no bias of the patch embedding, unequal means
    "eva02_tiny_patch14_224": {"img_size": 28},
    "vit_base_patch16_siglip_224": {"img_size": 32},
    "vit_small_patch16_rope_mixed_224": {"img_size": 32},
}


def filled(model: Any, seed: int = 0) -> Any:
    """Weights that are neither nearly zero nor alike, so that a part in the wrong place shows."""
    draw = torch.Generator().manual_seed(seed)
    for value in model.parameters():
        value.data = torch.randn(value.shape, generator=draw) * 0.2
    return model.eval()


def prepare(folder: Path, size: int, **more: Any) -> None:
    said = {"image_mean": MEAN, "image_std": STD, "size": {"height": size, "width": size}, "resample": 3} | more
    (folder / "preprocessor_config.json").write_text(json.dumps(said))


def of_transformers(folder: Path, name: str, size: int = 32, **more: Any) -> Any:
    config, kind, own, _ = TRANSFORMERS[name]
    model = filled(kind(config(**(SMALL | own | more))))
    model.save_pretrained(folder)
    prepare(folder, size)
    return getattr(model, "vit", model)


def of_timm(folder: Path, name: str, **more: Any) -> Any:
    arguments = TIMM[name] | {"embed_dim": 32, "depth": 2, "num_heads": 2} | more
    model = filled(timm.create_model(name, **arguments))
    folder.mkdir(parents=True)
    save_config_for_hf(model, folder / "config.json", model_args=arguments)
    said = json.loads((folder / "config.json").read_text())
    said["pretrained_cfg"]["input_size"] = [3, arguments["img_size"], arguments["img_size"]]
    (folder / "config.json").write_text(json.dumps(said))
    save_file(model.state_dict(), folder / "model.safetensors")
    return model


def colour(grey: torch.Tensor, mean: Any = MEAN, std: Any = STD) -> torch.Tensor:
    """What the encoder's own library shows it: the image in three channels, each standardised."""
    return (grey.expand(-1, 3, -1, -1) - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def grey(size: int, images: int = 5) -> torch.Tensor:
    return torch.rand(images, 1, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def blocked(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked for")

    for way in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, way, blocked)
    monkeypatch.setattr(socket, "getaddrinfo", blocked)


@pytest.mark.parametrize("name", TRANSFORMERS)
@torch.inference_mode()
def test_a_folder_of_transformers_embeds_as_transformers(name: str, tmp_path: Path, no_network: None) -> None:
    for size in TRANSFORMERS[name][3]:
        folder = tmp_path / f"{name}-{size}"
        model = of_transformers(folder, name, size)
        found = open_encoder(folder)
        wanted = model(pixel_values=colour(grey(size))).last_hidden_state
        got = class_token(found.model, found.standardised(grey(size)))
        torch.testing.assert_close(got, wanted[:, 0], atol=1e-5, rtol=0)
        assert wanted[:, 0].std(dim=0).max() > 1e-3  # images differ
        prefix = wanted.shape[1] - (size // 8) ** 2
        mean = open_encoder(folder, PublicOptions(pool="mean"))
        got = class_token(mean.model, mean.standardised(grey(size)))
        torch.testing.assert_close(got, wanted[:, prefix:].mean(dim=1), atol=1e-5, rtol=0)
        assert (found.provenance.pooling, mean.provenance.pooling) == ("class token", "mean of patches")


@pytest.mark.parametrize("name", TIMM)
@torch.inference_mode()
def test_a_folder_of_timm_embeds_as_timm(name: str, tmp_path: Path, no_network: None) -> None:
    model = of_timm(tmp_path / "public", name)
    said = json.loads((tmp_path / "public" / "config.json").read_text())["pretrained_cfg"]
    size = said["input_size"][-1]
    images = colour(grey(size), said["mean"], said["std"])
    features = model.forward_features(images)
    found = open_encoder(tmp_path / "public")
    wanted = model.forward_head(features, pre_logits=True)
    got = class_token(found.model, found.standardised(grey(size)))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
    pools = {"mean": features[:, model.num_prefix_tokens :].mean(dim=1)}
    if model.cls_token is not None:
        pools["class"] = features[:, 0]
    else:
        with pytest.raises(InputError, match="expected an encoder with a class token for --pool class"):
            open_encoder(tmp_path / "public", PublicOptions(pool="class"))
    for pool, pooled in pools.items():
        chosen = open_encoder(tmp_path / "public", PublicOptions(pool=pool))
        got = class_token(chosen.model, chosen.standardised(grey(size)))
        torch.testing.assert_close(got, model.fc_norm(pooled), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("vit_tiny_patch16_224", 4),
        ("vit_tiny_patch16_224", 5),
        ("vit_small_patch16_dinov3", 7),
        ("vit_base_patch16_siglip_224", 6),
    ],
)
@torch.inference_mode()
def test_a_grid_is_the_means_of_the_patches_in_its_cells(name: str, side: int, tmp_path: Path) -> None:
    model = of_timm(tmp_path / "public", name, img_size=16 * side)
    said = json.loads((tmp_path / "public" / "config.json").read_text())["pretrained_cfg"]
    tokens = model.forward_features(colour(grey(16 * side), said["mean"], said["std"]))[:, model.num_prefix_tokens :]
    found = open_encoder(tmp_path / "public", PublicOptions(pool="grid"))
    edges = [(side * cell // 4, -(-side * (cell + 1) // 4)) for cell in range(4)]
    patches = tokens.reshape(len(tokens), side, side, -1)
    cells = [patches[:, top:bottom, left:right].mean(dim=(1, 2)) for top, bottom in edges for left, right in edges]
    got = found.embedding(found.standardised(grey(16 * side)))
    assert got.shape == (len(tokens), found.dimensions)
    torch.testing.assert_close(got, torch.cat([model.fc_norm(cell) for cell in cells], dim=1), atol=1e-5, rtol=0)
    assert found.provenance.pooling == "4 x 4 means of patches"
    own = open_encoder(tmp_path / "public").provenance
    assert arm_of_run(own) != arm_of_run(found.provenance)


def test_a_grid_of_too_few_patches_is_refused(tmp_path: Path) -> None:
    of_timm(tmp_path / "public", "vit_tiny_patch16_224")
    with pytest.raises(InputError, match="expected 4 x 4 patches or more for --pool grid, found 3 x 3 in public"):
        open_encoder(tmp_path / "public", PublicOptions(pool="grid"))


@torch.inference_mode()
def test_from_the_store_to_the_embedding_as_the_librarys_own_processor(tmp_path: Path) -> None:
    """DINOv3's processor resizes in floating point: its pixels, and the embedding, are ours."""
    model = of_transformers(tmp_path / "public", "dinov3", 48)
    processor = transformers.DINOv3ViTImageProcessor(size={"height": 48, "width": 48}, image_mean=MEAN, image_std=STD)
    processor.save_pretrained(tmp_path / "public")
    found = open_encoder(tmp_path / "public")
    for side in (32, 48, 100):
        images = np.random.default_rng(side).integers(0, 256, (4, side, side), dtype=np.uint8)
        shown = processor([np.repeat(image[None], 3, axis=0) for image in images], return_tensors="pt")
        wanted = model(**shown).last_hidden_state[:, 0]
        got = class_token(found.model, found.standardised(found.resized(torch.from_numpy(images))))
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


def test_bicubic_is_pillows(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for side, size in ((32, 48), (100, 48)):
        images = rng.integers(90, 166, (2, side, side), dtype=np.uint8)
        got = whole_image(torch.from_numpy(images), size, "bicubic")[:, 0] * 255
        for image, ours in zip(images, got, strict=True):
            theirs = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC), dtype=float)
            assert np.abs(ours.numpy() - theirs).max() < 1.01  # Pillow rounds, and cuts off, twice


@torch.inference_mode()
def test_a_bare_file_is_read_by_timms_name(tmp_path: Path, no_network: None) -> None:
    model = filled(timm.create_model("vit_tiny_patch16_224"))
    file = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), file)
    found = open_encoder(file, PublicOptions(timm="vit_tiny_patch16_224"))
    said = model.pretrained_cfg
    wanted = model.forward_head(
        model.forward_features(colour(grey(224, 2), said["mean"], said["std"])), pre_logits=True
    )
    got = class_token(found.model, found.standardised(grey(224, 2)))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
    assert found.provenance.not_taken == ["head.bias", "head.weight"]
    with pytest.raises(InputError, match="expected the name of its architecture with the bare file"):
        open_encoder(file)
    with pytest.raises(InputError, match="expected the name of a timm ViT"):
        open_encoder(file, PublicOptions(timm="hf-hub:timm/vit_tiny_patch16_224"))


@pytest.mark.parametrize("name", ["rad-dino", "dinov2-gated", "dinov2-registers", "dinov3-gated"])
@torch.inference_mode()
def test_it_is_written_and_read_again_as_an_encoder_of_ours(name: str, tmp_path: Path) -> None:
    """As fine-tuning writes it: no preparation and no activation is lost."""
    of_transformers(tmp_path / "public", name)
    before = open_encoder(tmp_path / "public")
    vit.save(tmp_path / "ours", before)
    after = open_encoder(tmp_path / "ours")
    images = torch.randint(0, 256, (2, 60, 60), dtype=torch.uint8)
    wanted, got = (class_token(each.model, each.standardised(each.resized(images))) for each in (before, after))
    assert torch.equal(got, wanted)
    assert after[1:] == before[1:]
    fresh = vit.untrained(before, seed=0)
    assert not torch.equal(class_token(fresh.model, fresh.standardised(fresh.resized(images))), wanted)


@torch.inference_mode()
def test_shards_and_newer_names_are_the_same_encoder(tmp_path: Path) -> None:
    """As large models are published, and as transformers calls its weights in memory since version 5."""
    model = of_transformers(tmp_path / "whole", "vit")
    wanted = open_encoder(tmp_path / "whole").model.state_dict()
    sharded, newer = tmp_path / "sharded", tmp_path / "newer"
    model.save_pretrained(sharded, max_shard_size="20KB")
    prepare(sharded, 32)
    assert len(list(sharded.glob("model-*.safetensors"))) > 1
    shutil.copytree(tmp_path / "whole", newer)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, newer / "model.safetensors")
    for folder in (sharded, newer):
        found = open_encoder(folder).model.state_dict()
        assert all(torch.equal(found[name], value) for name, value in wanted.items())


def changed(folder: Path, name: str, **values: Any) -> None:
    said = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({key: each for key, each in (said | values).items() if each is not None}))


def weights(folder: Path, change: Any) -> None:
    found = load_file(folder / "model.safetensors")
    change(found)
    save_file(found, folder / "model.safetensors")


REFUSED: dict[str, tuple[Any, str]] = {
    "another width": (
        lambda folder: changed(folder, "config.json", hidden_size=48),
        r"\d+ of another shape \(.*cls_token: \(1, 1, 32\), not \(1, 1, 48\)",
    ),
    "another depth": (lambda folder: changed(folder, "config.json", num_hidden_layers=3), r"missing \(blocks\.2\."),
    "a weight less": (
        lambda folder: weights(folder, lambda found: found.pop("layernorm.bias")),
        r"1 missing \(norm\.bias\)",
    ),
    "a weight more": (
        lambda folder: weights(folder, lambda found: found.update({"encoder.adapter.weight": torch.ones(1)})),
        r"1 unexpected \(encoder\.adapter\.weight\)",
    ),
    "not finite": (
        lambda folder: weights(folder, lambda found: found["layernorm.bias"].fill_(float("nan"))),
        r"expected finite weights .* found others in norm\.bias",
    ),
    "no preparation": (
        lambda folder: (folder / "preprocessor_config.json").unlink(),
        r"expected preprocessor_config\.json in .*, found none; .* is not guessed",
    ),
    "no mean": (
        lambda folder: changed(folder, "preprocessor_config.json", image_mean=None),
        r"expected image_mean in .*, found none; it is not guessed",
    ),
    "no interpolation": (
        lambda folder: changed(folder, "preprocessor_config.json", resample=None),
        r"expected resample 2 \(bilinear\) or 3",
    ),
    "grey in 0..255": (
        lambda folder: changed(folder, "preprocessor_config.json", do_rescale=False),
        "do_rescale False",
    ),
    "mean of 255": (
        lambda folder: changed(folder, "preprocessor_config.json", image_mean=[120.0] * 3),
        "divide them by 255",
    ),
    "another size": (
        lambda folder: prepare(folder, 48),
        "expected images of 32 px .*; a vit reads images of one size",
    ),
    "half a patch": (lambda folder: prepare(folder, 36), "expected images of a multiple of the 8 px patch"),
    "another kind": (
        lambda folder: changed(folder, "config.json", model_type="swin"),
        "found model_type 'swin'; only these Vision Transformers",
    ),
    "another activation": (lambda folder: changed(folder, "config.json", hidden_act="tanh"), "expected hidden_act"),
    "huge": (lambda folder: changed(folder, "config.json", hidden_size=10**9), r"hidden_size: .*less than"),
    "pickled alone": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        r"expected model\.safetensors in .*, found pytorch_model\.bin, which is pickled .*save_file\(torch\.load",
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), "expected the configuration of an encoder"),
    "damaged": (lambda folder: (folder / "model.safetensors").write_bytes(b"1" * 50), "expected weights in"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_what_is_missing_or_strange_is_refused_by_name(mistake: str, tmp_path: Path) -> None:
    folder = tmp_path / "public"
    of_transformers(folder, "vit")
    change, sentence = REFUSED[mistake]
    change(folder)
    with pytest.raises(InputError, match=sentence) as refused:
        open_encoder(folder)
    assert "\n" not in str(refused.value)


def test_no_link_and_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "public", tmp_path / "elsewhere"
    of_transformers(folder, "vit")
    elsewhere.mkdir()
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        (folder / name).rename(elsewhere / name)
        (folder / name).symlink_to(elsewhere / name)
        with pytest.raises(InputError, match=f"expected {name} inside .*, found a link that leads out of it"):
            open_encoder(folder)
        (folder / name).unlink()
        (elsewhere / name).rename(folder / name)
    (folder / "model.safetensors").rename(elsewhere / "model.safetensors")
    index = {"weight_map": {"a": "../elsewhere/model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"found the name '\.\./elsewhere"):
        open_encoder(folder)


def test_a_pickle_of_timm_and_a_timm_without_preparation_are_refused(tmp_path: Path) -> None:
    of_timm(tmp_path / "public", "vit_tiny_patch16_224")
    changed(tmp_path / "public", "config.json", pretrained_cfg=None)
    with pytest.raises(InputError, match="expected pretrained_cfg with input_size, mean, std and interpolation"):
        open_encoder(tmp_path / "public")
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(InputError, match=r"found weights\.pth, which is pickled"):
        open_encoder(tmp_path / "weights.pth", PublicOptions(timm="vit_tiny_patch16_224"))


@pytest.mark.parametrize("name", ["rad-dino", "dinov2-registers", "vit"])
def test_pretraining_starts_from_a_folder_of_transformers(name: str, tmp_path: Path) -> None:
    of_transformers(tmp_path / "public", name)
    start = open_encoder(tmp_path / "public")
    model = vit.build(start.architecture.model_copy(update={"img_size": 48}), seed=0)
    initialise(model, tmp_path / "public")
    for block in (0, 1):
        assert torch.equal(model.blocks[block].attn.qkv.weight, start.model.blocks[block].attn.qkv.weight)
    original = load_file(tmp_path / "public" / "model.safetensors")["embeddings.patch_embeddings.projection.weight"]
    torch.testing.assert_close(model.patch_embed.proj.weight.data, original.sum(dim=1, keepdim=True))
    taken = {"vit": ["pooler.dense.bias", "pooler.dense.weight"]}.get(name, ["embeddings.mask_token"])
    assert lineage(tmp_path / "public").not_taken == taken
    with pytest.raises(InputError, match=r"missing .*; set encoder\.name, encoder\.width"):
        initialise(vit.build(start.architecture.model_copy(update={"depth": 3}), seed=0), tmp_path / "public")


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"])
def test_registers_and_rotations_can_be_started_from(name: str, tmp_path: Path) -> None:
    """A file of another size of image: without positions of prefix tokens, or without any."""
    given = filled(timm.create_model(name, embed_dim=32, depth=2, num_heads=2, img_size=112))
    save_file(given.state_dict(), tmp_path / "w.safetensors")
    made_of = vit.architecture(EncoderConfig(name=name, width=32, depth=2, heads=2), 224)
    model = vit.build(made_of, seed=0)
    initialise(model, tmp_path / "w.safetensors")
    assert torch.equal(model.blocks[1].attn.qkv.weight, given.blocks[1].attn.qkv.weight)
    assert model.global_pool == "token"


def test_weights_of_another_width_say_which_setting_is_to_be_theirs(tmp_path: Path) -> None:
    of_timm(tmp_path / "public", "vit_tiny_patch16_224")
    made_of = vit.architecture(EncoderConfig(name="vit_tiny_patch16_224", width=48, depth=2, heads=2), 48)
    with pytest.raises(
        InputError, match=r"position embeddings \(1, 1 \+ side \* side, 48\) .* or --encoder.width to theirs"
    ):
        initialise(vit.build(made_of, seed=0), tmp_path / "public")


@torch.inference_mode()
def test_dropped_patches_of_a_rotary_encoder_keep_their_rotations(tmp_path: Path) -> None:
    """All patches in another order are the same tokens in that order; a part of them is what attention sees alone."""
    for name in ("dinov3", None):
        if name is None:
            of_timm(tmp_path / "mixed", "vit_small_patch16_rope_mixed_224")
            found = open_encoder(tmp_path / "mixed")
        else:
            of_transformers(tmp_path / name, name, 48)
            found = open_encoder(tmp_path / name)
        images = found.standardised(grey(found.size, 2))
        whole = tokens_of(found.model, images)
        prefix = found.model.num_prefix_tokens
        order = torch.stack([torch.randperm(whole.shape[1] - prefix) for _ in images])
        shuffled = tokens_of(found.model, images, order)
        for row in range(2):
            torch.testing.assert_close(shuffled[row, prefix:], whole[row, prefix:][order[row]], atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hospital(tmp_path_factory.mktemp("hospital"))


def run(*words: object) -> int:
    return run_command([str(word) for word in words])


def test_a_public_encoder_stands_beside_our_run_from_evaluation_to_report(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public, ours = (
        tmp_path / "rad-dino",
        write_encoder(tmp_path / "none-0" / "encoder", run="none-0", settings_hash="a" * 64),
    )
    of_transformers(public, "rad-dino")
    quick = ("--resamples", 20)
    assert run("evaluate", public, store, "--out", tmp_path / "e-public", *quick) == 0
    assert "note: public: rad-dino: its pretraining images are unknown: they may include the test images" in (
        capsys.readouterr().out
    )
    assert run("evaluate", ours, store, "--out", tmp_path / "e-ours", *quick) == 0
    assert run("compare", tmp_path / "e-ours", tmp_path / "e-public", "--out", tmp_path / "c", *quick) == 0
    assert run("audit", public, store, "--out", tmp_path / "a", "--against", ours, *quick) == 0
    assert "rad-dino: its pretraining images are unknown" in (tmp_path / "a" / "audit.json").read_text()
    assert run("embed", public, store, "--out", tmp_path / "e.parquet") == 0
    inputs = (tmp_path / "e-ours", tmp_path / "e-public", tmp_path / "c", "--audit", tmp_path / "a")
    assert run("report", *inputs, "--out", tmp_path / "report") == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "public: rad-dino" in page
    assert "untrained encoder (as rad-dino)" in page
    manifest = json.loads((tmp_path / "e-public" / "evaluation.json").read_text())
    made = manifest["encoder"]["provenance"]
    assert made["caution"].startswith("its pretraining images are unknown")
    assert made["public"] == manifest["run"] == "rad-dino"
    assert manifest["stores"][0]["patients_seen_in_pretraining"] is None
    kinds = {row["public"] for row in read(tmp_path / "e-public", "results.jsonl")}
    assert kinds == {"", "rad-dino"}


def test_another_file_of_weights_is_another_encoder(store: Path, tmp_path: Path) -> None:
    of_transformers(tmp_path / "public", "vit")
    evaluate(tmp_path / "public", store, tmp_path / "out")
    weights(tmp_path / "public", lambda found: found["layernorm.bias"].add_(0.1))
    with pytest.raises(InputError, match="of the same encoder and store"):
        evaluate(tmp_path / "public", store, tmp_path / "out")


@pytest.mark.parametrize("mistake", ["another width", "pickled alone", "no preparation"])
@pytest.mark.parametrize("command", ["evaluate", "audit", "embed"])
def test_a_mistake_ends_a_command_with_one_sentence(
    command: str, mistake: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_transformers(tmp_path / "public", "vit")
    REFUSED[mistake][0](tmp_path / "public")
    capsys.readouterr()
    assert run(command, tmp_path / "public", store, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert not (tmp_path / "out").exists()
