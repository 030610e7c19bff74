"""What the files of a public encoder say, before torch is imported and before any weight is read.

Read are a folder as the Hugging Face Hub has it, of timm (config.json with `architecture` and `pretrained_cfg`) or of
transformers (config.json with `model_type`, and preprocessor_config.json), each with model.safetensors or its shards.
Nothing is downloaded, nothing pickled is opened, no code of a folder runs, and no link out of it is followed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from chartray.config.public import PublicOptions
from chartray.config.section import Knobs
from chartray.errors import InputError
from chartray.networks.description import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    Architecture,
    Interpolation,
    checked,
)
from chartray.outputs.json_file import parsed_record, read_object
from chartray.wording import listed

CONFIG_FILE, PREPARATION_FILE, INDEX_FILE = "config.json", "preprocessor_config.json", "model.safetensors.index.json"
Family = Literal["timm", "vit", "vit_msn", "dinov2", "dinov2_with_registers", "dinov3_vit"]
# How a family brings its position embeddings to another grid; None: it does not, and reads images of one size.
_RESIZES: Mapping[Family, str | None] = {
    "vit": None,
    "vit_msn": None,
    "dinov2": "bicubic",
    "dinov2_with_registers": "antialiased bicubic",
    "dinov3_vit": "none, since its positions are rotations",
}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
RESAMPLE: Mapping[Interpolation, int] = {"bilinear": 2, "bicubic": 3}  # as Pillow numbers them
_RESAMPLING: Mapping[int, Interpolation] = {number: name for name, number in RESAMPLE.items()}
_ACTIVATIONS = {"gelu": None, "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
# What is written of the above, by timm's name.
HIDDEN_ACT = {ours: theirs for theirs, ours in _ACTIVATIONS.items() if theirs != "gelu_new"}


def _one_side(given: Any) -> Any:
    """A side of a square, as files write it: 224, [224, 224], {"height": 224, "width": 224}, {"shortest_edge": 224}."""
    sides = list(given.values()) if isinstance(given, dict) else given if isinstance(given, list) else [given]
    return sides[0] if sides and all(side == sides[0] for side in sides) else given


Side = Annotated[int, BeforeValidator(_one_side), Field(ge=1, le=8192)]
Colours = Annotated[tuple[float, ...], Field(min_length=1, max_length=4)]


class _AsPublished(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class _TransformersConfig(_AsPublished):
    """What is read of the config.json of transformers."""

    model_type: str
    hidden_size: int = Field(ge=1, le=16_384)
    num_hidden_layers: int = Field(ge=1, le=256)
    num_attention_heads: int = Field(ge=1, le=256)
    patch_size: Side
    layer_norm_eps: float = Field(gt=0, lt=1)
    hidden_act: str
    num_channels: int = Field(3, ge=1, le=4)
    image_size: Side | None = None
    intermediate_size: int | None = Field(None, ge=1, le=262_144)
    mlp_ratio: float | None = Field(None, gt=0, le=64)
    num_register_tokens: int = Field(0, ge=0, le=1024)
    qkv_bias: bool = True
    query_bias: bool = True
    use_swiglu_ffn: bool = False
    use_gated_mlp: bool = False
    rope_theta: float | None = Field(None, gt=0)
    rope_parameters: Knobs | None = None


class _Preprocessor(_AsPublished):
    """What is read of preprocessor_config.json."""

    image_mean: Colours | None = None
    image_std: Colours | None = None
    size: Side | None = None
    crop_size: Side | None = None
    resample: int | None = None
    do_resize: bool = True
    do_center_crop: bool = False
    do_rescale: bool = True
    do_normalize: bool = True
    rescale_factor: float = 1 / 255


class _TimmPreparation(_AsPublished):
    """What is read of timm's pretrained_cfg."""

    input_size: tuple[int, int, int]
    mean: Colours
    std: Colours
    interpolation: str


class Preparation(NamedTuple):
    """How an image is prepared: side in pixels, interpolation, mean and deviation of each channel of [0, 1]."""

    size: int
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crops: bool = False

    @property
    def words(self) -> str:
        """As a provenance records it."""
        mean, std = (", ".join(f"{value:g}" for value in each) for each in (self.mean, self.std))
        crop = "; the centre crop of its own preparation is left out" if self.crops else ""
        return (
            f"the whole image at {self.size} x {self.size} pixels, antialiased {self.interpolation}{crop}; "
            f"mean {mean}; standard deviation {std}"
        )


class PublicFiles(NamedTuple):
    """A public encoder as its files describe it.

    `positions` says how its position embeddings are brought to another grid, None if they cannot; `files` are those of
    its weights.
    """

    name: str
    family: Family
    architecture: Architecture
    preparation: Preparation
    files: tuple[Path, ...]
    positions: str | None


def is_public(path: Path) -> bool:
    """Whether `path` is to be read as a public encoder: a file, or a folder of weights that Chartray did not write."""
    if any((folder / DESCRIPTION_FILE).exists() for folder in (path, path / "encoder")):
        return False
    signs = (CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE, "pytorch_model.bin")
    return path.is_file() or any((path / name).exists() for name in signs)


def check_public(path: Path, reading: PublicOptions) -> None:
    """Raises InputError where the files of a public encoder, or how it is to be read, are not enough to open it."""
    if path.is_dir():
        if reading.timm is not None:
            raise InputError(f"expected --timm only with a .safetensors file, found the folder {path}; leave it out")
        read_public(path)
    elif path.suffix != ".safetensors":
        found = pickle_refused([path.name]) if path.suffix in _PICKLES else f"the file {path}"
        raise InputError(f"expected a .safetensors file or a folder, found {found}")
    elif reading.timm is None:
        raise InputError(
            f"expected the name of its architecture with the bare file {path}, found none; give timm's name with "
            "--timm, or the folder that it was published in"
        )


def read_public(folder: Path) -> PublicFiles:
    """What the files of a folder say; raises InputError where they are missing, unsafe or not understood."""
    config = read_object(inside(folder, CONFIG_FILE), "the configuration of an encoder")
    files = weight_files(folder)
    name = folder.resolve().name
    if "architecture" in config:
        preparation = timm_preparation(config.get("pretrained_cfg"), folder / CONFIG_FILE)
        architecture = _timm_architecture(config, preparation, folder / CONFIG_FILE)
        return PublicFiles(name, "timm", architecture, preparation, files, "antialiased bicubic")
    family = next((each for each in _RESIZES if each == config.get("model_type")), None)
    if family is None:
        raise InputError(
            f"expected a timm model or one of {', '.join(_RESIZES)} in {folder / CONFIG_FILE}, found model_type "
            f"{str(config.get('model_type'))[:60]!r}; only these Vision Transformers are read"
        )
    described = parsed_record(
        _TransformersConfig, config, str(folder / CONFIG_FILE), "the configuration of an encoder", _COMPLETE
    )
    preparation = _preparation(folder, described.num_channels)
    architecture = _architecture(family, described, preparation, folder)
    return PublicFiles(name, family, architecture, preparation, files, _RESIZES[family])


_COMPLETE = "copy the whole folder again as it was published"


def inside(folder: Path, name: str) -> Path:
    """A file of the folder; raises InputError where a link leads out of it."""
    file = folder / name
    if file.resolve().parent != folder.resolve():
        raise InputError(
            f"expected {name} inside {folder}, found a link that leads out of it; copy the folder with its files: "
            f"cp -rL {folder} NEW"
        )
    return file


def weight_files(folder: Path) -> tuple[Path, ...]:
    """model.safetensors of a folder, or its shards; raises InputError for none, or pickled ones alone."""
    if (folder / WEIGHTS_FILE).exists():
        return (inside(folder, WEIGHTS_FILE),)
    if (folder / INDEX_FILE).exists():
        index = read_object(inside(folder, INDEX_FILE), "the index of an encoder's weights").get("weight_map")
        names = sorted({str(name) for name in index.values()}) if isinstance(index, dict) else []
        bad = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
        gone = [name for name in names if name not in bad and not (folder / name).is_file()]
        if not names or bad or gone:
            found = f"no file {gone[0]!r:.100}" if gone else f"the name {bad[0]!r:.100}" if bad else "no names"
            raise InputError(
                f"expected names of .safetensors files of {folder} in {folder / INDEX_FILE}, found {found}; {_COMPLETE}"
            )
        return tuple(inside(folder, name) for name in names)
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
    raise InputError(f"expected {WEIGHTS_FILE} in {folder}, found {pickle_refused(pickled) if pickled else 'none'}")


def pickle_refused(names: list[str]) -> str:
    """Why pickled weights are not read, and how they are converted."""
    return (
        f"{listed(names, 3)}, which is pickled and may run code when it is read; convert it where you trust it: "
        "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')"
    )


def timm_preparation(content: Any, where: Path | str) -> Preparation:
    """How timm prepares an image, by its `pretrained_cfg`; raises InputError where that does not say all of it."""
    if not isinstance(content, dict):
        raise InputError(
            f"expected pretrained_cfg with input_size, mean, std and interpolation in {where}, found none; how its "
            f"images are prepared is not guessed: {_COMPLETE}, or add it"
        )
    said = parsed_record(_TimmPreparation, content, f"pretrained_cfg of {where}", "how images are prepared", _COMPLETE)
    channels, height, width = said.input_size
    if said.interpolation not in ("bilinear", "bicubic"):
        raise InputError(
            f"expected interpolation bilinear or bicubic in {where}, found {said.interpolation!r:.40}; write one "
            "of them"
        )
    if height != width:
        raise InputError(f"expected square images as input_size in {where}, found {height} x {width}")
    crops = content.get("crop_mode") != "squash" or content.get("crop_pct") not in (None, 1, 1.0)
    interpolation: Interpolation = "bicubic" if said.interpolation == "bicubic" else "bilinear"
    mean, std = (each * channels if len(each) == 1 else each for each in (said.mean, said.std))
    return _checked_colours(Preparation(height, interpolation, mean, std, crops), channels, where)


def _checked_colours(found: Preparation, channels: int, where: Path | str) -> Preparation:
    if channels != len(found.mean) or len(found.mean) != len(found.std) or min(found.std) <= 0:
        raise InputError(
            f"expected a mean and a deviation above 0 for each of {channels} channels in {where}, found "
            f"{list(found.mean)} and {list(found.std)}"
        )
    if not all(0 <= value <= 1 for value in (*found.mean, *found.std)):
        raise InputError(
            f"expected mean and deviation of grey levels in [0, 1] in {where}, found {list(found.mean)} and "
            f"{list(found.std)}; divide them by 255"
        )
    return found


def _preparation(folder: Path, channels: int) -> Preparation:
    """As preprocessor_config.json of transformers says."""
    where = folder / PREPARATION_FILE
    if not where.exists():
        raise InputError(
            f"expected {PREPARATION_FILE} in {folder}, found none; which size, mean and deviation the encoder was made "
            "for is not guessed: copy the file from where the encoder was published"
        )
    content = read_object(inside(folder, PREPARATION_FILE), "how images are prepared")
    said = parsed_record(_Preprocessor, content, str(where), "how images are prepared", _COMPLETE)
    if not said.do_rescale or abs(said.rescale_factor * 255 - 1) > 1e-3:
        raise InputError(
            f"expected images in [0, 1] (do_rescale, rescale_factor 1/255) in {where}, found do_rescale "
            f"{said.do_rescale} and rescale_factor {said.rescale_factor:g}; such encoders are not read"
        )
    size = said.crop_size if said.do_center_crop else said.size
    interpolation = _RESAMPLING.get(-1 if said.resample is None else said.resample)
    mean, std = (said.image_mean, said.image_std) if said.do_normalize else ((0.0,), (1.0,))
    for name, value in {"size": size, "image_mean": mean, "image_std": std}.items():
        if value is None:
            raise InputError(f"expected {name} in {where}, found none; it is not guessed: {_COMPLETE}, or add it")
    if interpolation is None:
        raise InputError(
            f"expected resample 2 (bilinear) or 3 (bicubic) in {where}, found {said.resample}; write one of them"
        )
    assert size is not None
    assert mean is not None
    assert std is not None
    crops = said.do_center_crop or (isinstance(content.get("size"), dict) and "shortest_edge" in content["size"])
    mean, std = (each * channels if len(each) == 1 else each for each in (mean, std))
    return _checked_colours(Preparation(size, interpolation, mean, std, crops), channels, where)


def _architecture(family: Family, config: _TransformersConfig, preparation: Preparation, folder: Path) -> Architecture:
    """The arguments of timm's model that computes what the transformers model does."""
    width, where = config.hidden_size, folder / CONFIG_FILE
    size = preparation.size
    if size % config.patch_size:
        raise InputError(
            f"expected images of a multiple of the {config.patch_size} px patch in {folder / PREPARATION_FILE}, found "
            f"{size} px; write a size that is one"
        )
    if _RESIZES[family] is None and size != config.image_size:
        raise InputError(
            f"expected images of {config.image_size} px in {folder / PREPARATION_FILE}, the image_size of {where}, "
            f"found {size} px; a {family} reads images of one size"
        )
    # timm's Eva knows no other activations.
    known = list(_ACTIVATIONS) if family != "dinov3_vit" else ["silu"] if config.use_gated_mlp else ["gelu"]
    if config.hidden_act not in known:
        raise InputError(
            f"expected hidden_act {' or '.join(known)} in {where}, found {config.hidden_act!r:.40}; such encoders are "
            "not read"
        )
    common = {
        "img_size": size,
        "patch_size": config.patch_size,
        "embed_dim": width,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "norm_eps": config.layer_norm_eps,
        "global_pool": "token",
    }
    own = _rotary(config, where) if family == "dinov3_vit" else _plain(config, where)
    return checked(Architecture, common | own, str(where))


def _plain(config: _TransformersConfig, where: Path) -> Knobs:
    """Of ViT, ViTMSN and DINOv2."""
    own: Knobs = {"model_name": "vit_base_patch16_224", "qkv_bias": config.qkv_bias}
    if config.model_type.startswith("dinov2"):
        own |= {"init_values": 1.0}
        hidden = None if config.mlp_ratio is None else int(config.hidden_size * config.mlp_ratio)
        if config.use_swiglu_ffn and hidden is not None:
            own["model_name"] = "vit_giant_patch14_dinov2"
            hidden = 2 * ((int(hidden * 2 / 3) + 7) // 8 * 8)  # gate and value, side by side
    else:
        hidden = config.intermediate_size
    if config.model_type == "dinov2_with_registers":
        own |= {"reg_tokens": config.num_register_tokens, "no_embed_class": True}
    if activation := _ACTIVATIONS[config.hidden_act]:
        own["act_layer"] = activation
    return own | {"mlp_ratio": _mlp_ratio(config, hidden, where)}


def _rotary(config: _TransformersConfig, where: Path) -> Knobs:
    """Of DINOv3, which timm computes with its class Eva."""
    theta = config.rope_theta if config.rope_parameters is None else config.rope_parameters.get("rope_theta")
    if not isinstance(theta, int | float):
        raise InputError(f"expected rope_theta in {where}, found none; it is not guessed: {_COMPLETE}")
    name = "vit_small_plus_patch16_dinov3" if config.use_gated_mlp else "vit_small_patch16_dinov3"
    return {
        "model_name": f"{name}_qkvb" if config.query_bias else name,
        "num_reg_tokens": config.num_register_tokens,
        "rope_temperature": float(theta),
        "mlp_ratio": _mlp_ratio(config, config.intermediate_size, where),
    }


def _mlp_ratio(config: _TransformersConfig, hidden: int | None, where: Path) -> float:
    """The ratio of which timm makes `hidden`."""
    if hidden is None:
        raise InputError(f"expected the width of the MLP (intermediate_size, or mlp_ratio) in {where}, found none")
    return mlp_ratio(config.hidden_size, hidden)


def mlp_ratio(width: int, hidden: int) -> float:
    """The ratio of which both libraries make the MLP's `hidden`: int(width * ratio)."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _timm_architecture(config: Mapping[str, Any], preparation: Preparation, where: Path) -> Architecture:
    given = config.get("model_args") or {}
    if not isinstance(given, dict):
        raise InputError(f"expected model_args of a timm model in {where}, found {type(given).__name__}; {_COMPLETE}")
    arguments = {name: value for name, value in given.items() if name not in ("num_classes", "in_chans", "pretrained")}
    arguments.pop("dynamic_img_size", None)  # it may then read other sizes; here it reads one
    side = _one_side(arguments.pop("img_size", preparation.size))
    if side != preparation.size:
        raise InputError(
            f"expected one size of images in {where}, found img_size {side} in model_args and input_size "
            f"{preparation.size} in pretrained_cfg; write the same"
        )
    pool = config.get("global_pool")
    if isinstance(pool, str) and pool:
        arguments.setdefault("global_pool", pool)
    return checked(
        Architecture, arguments | {"model_name": config["architecture"], "img_size": preparation.size}, str(where)
    )
