"""Every knob of a pretraining run: recipe, then YAML file, then `--section.key value`, then checked.

Numbers marked (MSN) are the official Masked Siamese Network recipe, (published) the multimodal code's: METHOD.md.
"""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from chartray.config.section import Section
from chartray.errors import InputError
from chartray.wording import nearest
from chartray.yaml_file import read_yaml, yaml_tree

NO_CHART = "none"


class EncoderConfig(Section):
    """The Vision Transformer, by its timm name."""

    name: str = Field(
        "vit_small_patch16_224", description="any timm ViT; vit_tiny, vit_small and vit_base are short for patch 16"
    )
    heads: int | None = Field(
        None, ge=1, description="attention heads; default: timm's (the published code has 6 at both widths)"
    )
    depth: int | None = Field(None, ge=1, description="transformer blocks; default: timm's")
    width: int | None = Field(None, ge=1, description="embedding width D; default: timm's")
    patch_size: int | None = Field(None, ge=1, description="side of a patch in pixels; default: timm's")
    init: str | None = Field(None, description="weights to start from: a .safetensors file, a RUN or an encoder folder")


class ViewsConfig(Section):
    """One target view, one random anchor view, `focal_count` focal anchor views."""

    size: int = Field(224, ge=8, description="pixels of the target and the random view")
    focal_size: int = Field(96, ge=8, description="pixels of a focal view")
    focal_count: int = Field(10, ge=0, description="focal views per film; mae makes none")
    mask_ratio: float = Field(0.15, ge=0.0, lt=1.0, description="share of the random view's patches that are dropped")
    focal_mask_ratio: float = Field(
        0.0, ge=0.0, lt=1.0, description="the same for focal views: 0 in MSN, 0.15 (published)"
    )
    scale: tuple[float, float] = Field(
        (0.3, 1.0), description="share of the film's area, target and random views (MSN)"
    )
    focal_scale: tuple[float, float] = Field((0.05, 0.3), description="share of the film's area, focal views (MSN)")
    aspect: tuple[float, float] = Field((3 / 4, 4 / 3), description="width over height of a crop, in true proportions")
    flip: float = Field(0.5, ge=0.0, le=1.0, description="probability of a horizontal flip")

    @model_validator(mode="after")
    def _ordered(self) -> "ViewsConfig":
        for name in ("scale", "focal_scale", "aspect"):
            low, high = getattr(self, name)
            if not 0 < low <= high or (name != "aspect" and high > 1):
                raise ValueError(f"views.{name} must be two increasing numbers above 0, found {low}, {high}")
        return self


class ObjectiveConfig(Section):
    """The self-supervised objective and its projection head."""

    name: Literal["msn", "dino", "mae"] = Field("msn", description="msn, or a baseline without chart: dino, mae")
    prototypes: int = Field(1024, ge=2, description="K (msn); outputs of the last layer (dino)")
    train_prototypes: bool = Field(True, description="msn; false: they stay at their random start (published)")
    temperature: float = Field(0.1, gt=0, description="tau of the anchor's assignment")
    sharpening: float = Field(0.25, gt=0, description="msn: T of the target's assignment; 1 leaves it as it is")
    sinkhorn_iterations: int = Field(3, ge=0, description="msn; 0 turns Sinkhorn off")
    mean_entropy_weight: float = Field(1.0, ge=0, description="msn: lambda of me-max; 0 turns it off")
    head_hidden: int | None = Field(2048, ge=1, description="hidden width of the head h; null: 4 D (published)")
    head_out: int | None = Field(256, ge=1, description="P; null: D (published)")
    target_temperature: float = Field(0.04, gt=0, description="dino: tau of the target (official)")
    centre_momentum: float = Field(0.9, ge=0, lt=1, description="dino: of the target's centre (official)")
    decoder_width: int = Field(512, ge=4, description="mae (official)")
    decoder_depth: int = Field(8, ge=1, description="mae: blocks of the decoder (official)")
    decoder_heads: int = Field(16, ge=1, description="mae: attention heads of the decoder (official)")
    normalise_patches: bool = Field(True, description="mae: each patch to mean 0 and variance 1 (official)")

    @model_validator(mode="after")
    def _decoder_fits(self) -> "ObjectiveConfig":
        if self.name == "mae" and (self.decoder_width % self.decoder_heads or self.decoder_width % 4):
            raise ValueError(
                "expected objective.decoder_width to be a multiple of 4 and of objective.decoder_heads = "
                f"{self.decoder_heads}, found {self.decoder_width}"
            )
        return self


class ChartConfig(Section):
    """How the chart joins pretraining."""

    ehr: str = Field("demographic-norm", description="a named set, a comma-separated list of variables, or none")
    width: int = Field(128, ge=1, description="width of e = f(x), the published --ehr-out")
    use: Literal["anchor", "predict"] = Field(
        "anchor", description="anchor: g([v ; e]) (published); predict: the anchor predicts the chart"
    )
    weight: float = Field(1.0, ge=0, description="weight of the prediction loss, chart.use predict only")
    control: Literal["none", "shuffled", "constant", "mask-only"] = Field(
        "none", description="none, shuffled, constant or mask-only"
    )
    films_of: str | None = Field(
        None,
        description="a set or variables: train on the films that this chart can represent, whatever chart enters, so "
        "that arms see the same films (published rules drop films; the strict ones drop none)",
    )
    allow_after_film: tuple[str, ...] = Field(
        (), description="variables known only after the film that may enter all the same"
    )


class TrainConfig(Section):
    """The loop."""

    epochs: int | None = Field(100, ge=1, description="passes over the training films; or give train.steps")
    steps: int | None = Field(None, ge=1, description="optimizer steps; overrides train.epochs")
    batch_size: int = Field(1024, ge=2, description="films of one optimizer step, over all processes")
    accumulate: int = Field(
        1, ge=1, description="micro-batches an optimizer step is made of, exact through cached embeddings"
    )
    learning_rate: float | None = Field(
        None, gt=0, description="peak; default: the recipe's, scaled linearly with the batch"
    )
    recipe_learning_rate: float = Field(1e-3, gt=0, description="the recipe's own peak at recipe_batch_size")
    recipe_batch_size: int = Field(1024, ge=1, description="the batch that recipe_learning_rate was chosen for")
    start_learning_rate_ratio: float = Field(
        0.2, ge=0, le=1, description="warm-up starts at this share of the peak (MSN: 2e-4 of 1e-3)"
    )
    final_learning_rate_ratio: float = Field(
        1e-3, ge=0, le=1, description="the cosine ends at this share of the peak (MSN: 1e-6 of 1e-3)"
    )
    warmup_epochs: float = Field(15, ge=0, description="at most 10 % of the steps are used")
    stretch: float = Field(1.25, ge=1, description="cosines and EMA are laid over this many times the steps (MSN)")
    weight_decay: float = Field(0.04, ge=0, description="at the start")
    final_weight_decay: float | None = Field(0.4, ge=0, description="at the end of the cosine; null: constant")
    decay_everything: bool = Field(False, description="true: biases, norms and prototypes decay too (published)")
    ema: float = Field(0.996, ge=0, le=1, description="EMA momentum at the start")
    final_ema: float = Field(1.0, ge=0, le=1, description="and at the end, linear")
    ema_before_step: bool = Field(False, description="true: the target moves before the optimizer step (published)")
    schedule: Literal["step", "epoch"] = Field(
        "step", description="epoch: the learning rate changes once an epoch (published)"
    )
    clip: float | None = Field(3.0, gt=0, description="gradient norm; null: no clipping (published)")
    checkpoint_every: int = Field(500, ge=1, description="steps")
    checkpoint_keep: int = Field(3, ge=1, description="newest checkpoints kept")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto, cpu or cuda")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="auto: bf16 where the device has it")
    compile: Literal["auto"] | bool = Field(
        "auto", description="torch.compile for the encoders' blocks; auto: in runs of 1,000 steps and more"
    )

    @model_validator(mode="after")
    def _some_length(self) -> "TrainConfig":
        if self.epochs is None and self.steps is None:
            raise ValueError("expected train.epochs or train.steps, found neither; give one")
        return self


class HealthConfig(Section):
    """When a run is judged, and against what (METHOD.md section 2, *Other sizes*)."""

    stop: bool = Field(True, description="false: say what is wrong, go on")
    every: int = Field(50, ge=1, description="steps between looks at the embeddings")
    patience_steps: int = Field(200, ge=1, description="no verdict before warm-up has ended and so many steps have run")
    probe_films: int = Field(512, ge=16, description="films of the online neighbour probe, each of train and validate")


class Config(Section):
    """A whole run."""

    recipe: str = Field("msn", description="the recipe the other knobs start from")
    seed: int = Field(0, ge=0, description="which rows, crops, flips, masks and first weights")
    encoder: EncoderConfig = Field(default_factory=EncoderConfig)
    views: ViewsConfig = Field(default_factory=ViewsConfig)
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    chart: ChartConfig = Field(default_factory=ChartConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    health: HealthConfig = Field(default_factory=HealthConfig)

    @model_validator(mode="after")
    def _baselines_fit(self) -> "Config":
        """The default chart is MSN's: a baseline has none unless asked for one. MAE has one view and never a chart."""
        if self.objective.name != "msn" and "ehr" not in self.chart.model_fields_set:
            self.chart = self.chart.model_copy(update={"ehr": NO_CHART})
        if self.objective.name == "mae":
            if self.chart.ehr != NO_CHART:
                raise ValueError(
                    "expected --ehr none with objective.name mae, which draws pixels and has no anchor for a chart to "
                    f"join, found {self.chart.ehr}; leave it out, or choose msn or dino"
                )
            self.views = self.views.model_copy(update={"focal_count": 0})
        return self


def recipe_names() -> list[str]:
    """The recipes that ship with Chartray."""
    return sorted(
        p.name.removesuffix(".yaml")
        for p in resources.files("chartray").joinpath("recipes").iterdir()
        if p.name.endswith(".yaml")
    )


def load(recipe: str = "msn", file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """The resolved configuration: recipe, then `file`, then `overrides` ({"views.size": 224}).

    Raises InputError for an unknown recipe or knob (the nearest name is suggested) or a value out of range.
    """
    if recipe not in recipe_names():
        raise InputError(
            f"unknown recipe {recipe!r}{nearest(recipe, recipe_names())}; there are {', '.join(recipe_names())}"
        )
    text = resources.files("chartray").joinpath("recipes", f"{recipe}.yaml").read_text()
    tree: dict[str, Any] = yaml_tree(text) or {}
    tree["recipe"] = recipe
    return _laid_over(tree, file, overrides)


def load_saved(saved: Path, file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """The configuration that a run was started with, with what is given now laid over it."""
    tree = read_yaml(saved, "a run's config.yaml")
    return _laid_over(tree, file, overrides)


def _laid_over(tree: dict[str, Any], file: Path | None, overrides: Mapping[str, Any] | None) -> Config:
    """The tree with a file of knobs, then single knobs, laid over it.

    Epochs and steps say the same thing: a layer that gives one of them takes the other from those below.
    """
    given: dict[str, Any] = {}
    for knob, value in (overrides or {}).items():
        _merge(given, _nested(knob, value))
    for layer in (read_yaml(file, "a file of knobs") if file is not None else {}, given):
        train = layer.get("train")
        length: Mapping[str, Any] = train if isinstance(train, Mapping) else {}
        if length.get("epochs") is not None and length.get("steps") is not None:
            raise InputError(
                f"expected train.epochs or train.steps, found both ({length['epochs']} and {length['steps']}); "
                "leave one out"
            )
        for one, other in (("epochs", "steps"), ("steps", "epochs")):
            if length.get(one) is not None:
                _merge(tree, {"train": {other: None}})
        _merge(tree, layer)
    return validate(tree)


def validate(tree: Mapping[str, Any]) -> Config:
    """Checks a nested mapping of knobs; the first thing wrong becomes one InputError."""
    try:
        return Config.model_validate(dict(tree))
    except ValidationError as error:
        raise InputError(_sentence(error)) from None


def parse_overrides(tokens: Sequence[str]) -> dict[str, Any]:
    """`["--views.size", "64", "--train.clip=null"]` -> {"views.size": 64, "train.clip": None}.

    Values are YAML scalars; a comma-separated value of a knob that holds several is split.
    """
    overrides: dict[str, Any] = {}
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--"):
            raise InputError(f"expected --section.key value, found {token!r}; did a value lose its option?")
        knob, equals, value = token.removeprefix("--").partition("=")
        knob = knob.replace("-", "_")
        if knob not in knobs():
            raise InputError(f"unknown option --{knob}{nearest(knob, list(knobs()))}")
        if not equals:
            if not rest:
                raise InputError(f"expected a value after --{knob}, found the end of the command")
            value = rest.pop(0)
        overrides[knob] = _value(knob, value)
    return overrides


def knobs() -> dict[str, tuple[str, str]]:
    """Every knob by its dotted path: what it is, and its default as text."""
    found: dict[str, tuple[str, str]] = {}
    for name, field in Config.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            for key, inner in annotation.model_fields.items():
                found[f"{name}.{key}"] = (inner.description or "", str(inner.default))
        else:
            found[name] = (field.description or "", str(field.default))
    return found


def _value(knob: str, text: str) -> Any:
    try:
        value = yaml_tree(text)
    except yaml.YAMLError:
        value = text
    section, _, key = knob.partition(".")
    default = getattr(getattr(Config(), section), key) if key else None
    if isinstance(default, tuple) and isinstance(value, str):
        return [part.strip() for part in text.strip("[]").split(",") if part.strip()]
    return text if isinstance(default, str) and not isinstance(value, str) else value


def _nested(knob: str, value: Any) -> dict[str, Any]:
    section, _, key = knob.partition(".")
    return {section: {key: value}} if key else {section: value}


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown knob {where}{nearest(where, list(knobs()))}"
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}, found {first['input']!r}" if where and first["type"] != "value_error" else message
