"""The schema of encoder.json: the keys that Chartray writes, typed and bounded. Anything else is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from chartray.errors import InputError
from chartray.outputs.json_file import Parsed, parsed_record, read_object
from chartray.outputs.replacing import settle
from chartray.outputs.seal import verify

FORMAT = 2
# What an evaluation of a public encoder cannot rule out.
UNKNOWN_PRETRAINING = "its pretraining images are unknown: they may include the test images"
WEIGHTS_FILE, DESCRIPTION_FILE = "model.safetensors", "encoder.json"
_Plain = str | int | float | bool | None
_Text = Annotated[str, Field(max_length=10_000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class Architecture(_Strict):
    """The arguments of `timm.create_model` that Chartray sets, and how first weights are drawn.

    Sizes far beyond the largest ViT are refused.
    """

    model_name: str = Field(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)?$", max_length=100, description="timm's name")
    img_size: int = Field(ge=1, le=8192, description="side of the image, in pixels")
    num_heads: int | None = Field(None, ge=1, le=256, description="attention heads; null: timm's")
    depth: int | None = Field(None, ge=1, le=256, description="blocks; null: timm's")
    embed_dim: int | None = Field(None, ge=1, le=16_384, description="width; null: timm's")
    patch_size: int | None = Field(None, ge=1, le=1024, description="side of a patch, in pixels; null: timm's")
    first_weights: Literal["msn"] | None = Field(
        None, description="how an untrained one's weights are drawn: as the official MSN code does; null: timm's"
    )
    # Of public encoders; null: timm's.
    mlp_ratio: float | None = Field(None, gt=0, le=64, description="hidden width of the MLP over the width")
    qkv_bias: bool | None = Field(None, description="a bias of queries, keys and values")
    qk_norm: bool | None = Field(None, description="a norm of queries and keys")
    init_values: float | None = Field(None, gt=0, le=10, description="first value of the layer scale")
    class_token: bool | None = Field(None, description="a class token")
    reg_tokens: int | None = Field(None, ge=0, le=1024, description="register tokens")
    num_reg_tokens: int | None = Field(None, ge=0, le=1024, description="register tokens, as timm's Eva calls them")
    no_embed_class: bool | None = Field(None, description="no position of the class token")
    pre_norm: bool | None = Field(None, description="a norm before the blocks")
    final_norm: bool | None = Field(None, description="a norm after the blocks")
    fc_norm: bool | None = Field(None, description="that norm after pooling")
    use_fc_norm: bool | None = Field(None, description="that norm after pooling, as timm's Eva calls it")
    global_pool: Literal["token", "avg", "map"] | None = Field(None, description="what of the tokens is the embedding")
    act_layer: Literal["gelu", "gelu_tanh", "quick_gelu"] | None = Field(None, description="activation of the MLP")
    norm_eps: float | None = Field(None, gt=0, lt=1, description="what norms add to the variance")
    rope_temperature: float | None = Field(None, gt=0, le=1e9, description="longest period of rotary positions")

    def arguments(self) -> dict[str, Any]:
        """What is given to timm, which draws no weights but its own."""
        return self.model_dump(exclude={"first_weights"}, exclude_none=True)


class _OfWeights(BaseModel):
    """Pretraining, as recorded of an encoder and of the weights it started from."""

    source: _Text | None = Field(None, description="the data set")
    run: _Text | None = Field(None, description="name of the run")
    chart: _Text | None = Field(None, description="the feature set of the chart; none: without a chart")
    after_film: list[_Text] = Field(
        default_factory=list, description="chart variables that are known only after the image"
    )
    chart_sources: dict[str, list[_Text]] | None = Field(None, description="chart variable -> columns it is made from")
    patients: int | None = Field(None, ge=0, description="patients it was pretrained on")
    patients_sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the list of these patients"
    )


class Init(_Strict, _OfWeights):
    """The weights a run started from."""

    source: _Text = Field(description="the folder or file of the weights")
    dataset: _Text | None = Field(None, description="the data set they were pretrained on")
    init: "Init | None" = Field(None, description="the weights that they started from themselves")
    not_taken: list[_Text] | None = Field(None, description="their tensors that no embedding needs")


class Provenance(_OfWeights):
    """How an encoder was pretrained; whatever else a manifest says is kept as plain values."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    __pydantic_extra__: dict[str, _Plain | list[_Plain]] = Field(init=False)

    init: Init | None = Field(None, description="the weights it started from; null: random ones")
    seed: int | None = Field(None, description="seed of the pretraining")
    store: _Text | None = Field(None, description="folder of the store")
    store_hash: _Text | None = Field(None, description="SHA-256 of the store's content")
    settings_hash: _Text | None = Field(
        None, description="the same for runs that differ in chart, control or seed alone"
    )
    objective: _Text | None = Field(None, description="msn, dino or mae")
    recipe: _Text | None = Field(None, description="name of the recipe")
    control: _Text | None = Field(None, description="none, shuffled, constant or mask-only")
    films: int | None = Field(None, ge=0, description="images it was pretrained on")
    steps: int | None = Field(None, ge=0, description="optimizer steps")
    rules: _Text | None = Field(None, description="the linking rules of the cohort")
    simulated: bool | None = Field(None, description="whether the data are simulated")
    command: _Text | None = Field(None, description="the command line")
    chartray: _Text | None = Field(None, description="version of Chartray")
    git_commit: _Text | None = Field(None, description="commit of Chartray's checkout, if it is one")
    torch: _Text | None = Field(None, description="version of PyTorch")
    timm: _Text | None = Field(None, description="version of timm")
    chart_use: _Text | None = Field(None, description="how the chart was used: anchor or predict")
    films_of: _Text | None = Field(None, description="the feature set that the images were restricted to")
    chart_variables: list[_Text] | None = Field(None, description="variables of the chart")
    chart_columns: list[_Text] | None = Field(None, description="columns of the chart that f reads")
    public: _Text | None = Field(None, description="name of a public encoder: weights that no run of Chartray made")
    caution: _Text | None = Field(None, description="public: what cannot be ruled out of its numbers")
    weights_sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="public: SHA-256 of the files of its weights"
    )
    pooling: _Text | None = Field(None, description="what of its tokens is the embedding; null: the class token")
    preparation: _Text | None = Field(None, description="public: how an image is prepared for it")
    not_taken: list[_Text] | None = Field(None, description="public: tensors of its files that no embedding needs")


Interpolation = Literal["bilinear", "bicubic"]
# How the weights beside encoder.json are named.
Names = Literal["timm", "vit_msn", "dinov2", "dinov2_with_registers", "dinov3_vit"]


class Description(_Strict):
    """encoder.json: how the network is built, how an image is prepared for it, and how it was made."""

    format: Literal[2]
    size: int = Field(ge=1, le=8192)
    grey_mean: float = Field(ge=0, le=1)
    grey_std: float = Field(gt=0, le=1)
    interpolation: Interpolation = "bilinear"
    names: Names = "timm"
    architecture: Architecture
    provenance: Provenance

    @model_validator(mode="after")
    def _of_one_encoder(self) -> Self:
        if self.size != self.architecture.img_size:
            raise ValueError(f"expected size to be architecture.img_size = {self.architecture.img_size}")
        return self


def encoder_folder(path: Path) -> Path:
    """The encoder folder at `path`, or in the RUN `path`; raises InputError if there is none."""
    for folder in (path, path / "encoder"):
        settle(folder)
        if (folder / DESCRIPTION_FILE).is_file():
            return folder
    found = "none; did pretraining finish?" if path.exists() else "nothing; check the path"
    raise InputError(f"expected a RUN or an encoder folder ({DESCRIPTION_FILE}) at {path}, found {found}")


def sealed_description(folder: Path) -> Description:
    """encoder.json of an encoder folder, as it was written; raises InputError if it was changed or has no seal."""
    verify(folder, [DESCRIPTION_FILE])
    return read_description(folder / DESCRIPTION_FILE)


def read_description(file: Path) -> Description:
    """encoder.json, checked; raises InputError, which names the file, for content that Chartray does not write."""
    content = read_object(file, "the description of an encoder")
    if content.get("format") != FORMAT:
        raise InputError(
            f"expected encoder format {FORMAT} in {file}, found {str(content.get('format'))[:20]}; use the Chartray "
            "that wrote it, or write the encoder again"
        )
    return checked(Description, content, str(file))


def checked(record: type[Parsed], content: Mapping[str, Any], where: str) -> Parsed:
    """`content` as a record of encoder.json; raises InputError for the first entry that does not fit the schema."""
    remedy = "export the encoder again, or restore a complete copy of it"
    return parsed_record(record, content, where, "the description of an encoder", remedy)
