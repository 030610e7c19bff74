"""The options of `chartray pretrain`: recipe, then YAML file, then `--section.key value`, then checked.

Numbers marked (MSN) are the official Masked Siamese Network recipe, (published) the multimodal code's: docs/method.md.
"""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from pydantic import BeforeValidator, Field, JsonValue, model_validator

from chartray.config.renamed import renamed_keys
from chartray.config.roles import Role, one_text, read_roles, split_roles
from chartray.config.section import Knobs, Options, Section, separated
from chartray.errors import InputError
from chartray.wording import nearest
from chartray.yaml_file import read_yaml, yaml_tree

NO_CHART = "none"


def _comma(values: tuple[float, float]) -> str:
    return ",".join(f"{value:.3g}" for value in values)


Pair = Annotated[tuple[float, float], BeforeValidator(separated), Parameter(metavar="LOW,HIGH", show_default=_comma)]


class EncoderConfig(Section):
    """The Vision Transformer, by its timm name."""

    name: str = Field(
        "vit_small_patch16_224",
        description="Any timm ViT; vit_tiny, vit_small and vit_base have patch size 16",
    )
    heads: int | None = Field(None, ge=1, description="Attention heads; null: timm's (published: 6 at both widths)")
    depth: int | None = Field(None, ge=1, description="Transformer blocks; null: timm's")
    width: int | None = Field(None, ge=1, description="Embedding width D; null: timm's")
    patch_size: int | None = Field(None, ge=1, description="Patch size in pixels; null: timm's")
    first_weights: Literal["msn", "timm"] = Field(
        "msn", description="How first weights are drawn, the msn head's too: as the official MSN code does, or timm"
    )
    init: str | None = Field(
        None,
        description="Initial weights: a run, an encoder folder, a folder of timm or transformers, a .safetensors file",
    )


class ViewsConfig(Section):
    """One target view, one random anchor view and `focal_count` focal anchor views of an image."""

    size: int = Field(224, ge=8, description="Size of the target and the random view in pixels")
    focal_size: int = Field(96, ge=8, description="Size of a focal view in pixels")
    focal_count: int = Field(10, ge=0, description="Focal views per image; mae uses none")
    mask_ratio: float = Field(0.15, ge=0.0, lt=1.0, description="Share of patches dropped from the random view")
    focal_mask_ratio: float = Field(
        0.0, ge=0.0, lt=1.0, description="Share of patches dropped from a focal view: 0 in MSN, 0.15 (published)"
    )
    scale: Pair = Field((0.3, 1.0), description="Area of the target and random view as a share of the image (MSN)")
    focal_scale: Pair = Field((0.05, 0.3), description="Area of a focal view as a share of the image (MSN)")
    aspect: Pair = Field((3 / 4, 4 / 3), description="Width over height of a view, in true proportions")
    flip: float = Field(0.5, ge=0.0, le=1.0, description="Probability of a horizontal flip")
    exposure: float = Field(
        0.0, ge=0.0, le=1.0, description="Spread of each view's gamma, contrast and brightness; 0: as stored (MSN)"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "ViewsConfig":
        for name in ("scale", "focal_scale", "aspect"):
            low, high = getattr(self, name)
            if not 0 < low <= high or (name != "aspect" and high > 1):
                raise ValueError(f"views.{name} must be two increasing numbers above 0, found {low}, {high}")
        return self


class ObjectiveConfig(Section):
    """The self-supervised objective and its projection head."""

    name: Literal["msn", "dino", "mae"] = Field("msn", description="msn; or dino or mae, the baselines without a chart")
    prototypes: int = Field(1024, ge=2, description="msn: prototypes K; dino: outputs of the last layer")
    train_prototypes: bool = Field(True, description="msn: train the prototypes (published: fixed at random)")
    temperature: float = Field(0.1, gt=0, description="Temperature of the anchor's assignment")
    sharpening: float = Field(0.25, gt=0, description="msn: sharpening of the target's assignment; 1 for none")
    sinkhorn_iterations: int = Field(3, ge=0, description="msn: Sinkhorn iterations; 0 for none")
    mean_entropy_weight: float = Field(1.0, ge=0, description="msn: weight of the mean-entropy term (me-max)")
    prior: Literal["uniform", "power-law"] = Field(
        "uniform",
        description="msn: what me-max pulls the mean assignment towards: uniform (MSN), or power-law, for findings "
        "of which many are rare (PMSN); Sinkhorn balances evenly either way",
    )
    prior_exponent: float = Field(
        0.25, ge=0, le=10, description="msn: with prior power-law, prototype k's share is proportional to k^-exponent"
    )
    head_hidden: int | None = Field(2048, ge=1, description="Hidden width of the head; null: 4 D (published)")
    head_out: int | None = Field(256, ge=1, description="Output width P of the head; null: D (published)")
    head_statistics: Literal["resolution", "together"] = Field(
        "resolution",
        description="msn: the head's BatchNorm normalizes random and focal views apart (MSN), or together (published)",
    )
    target_temperature: float = Field(0.04, gt=0, description="dino: temperature of the target (official)")
    center_momentum: float = Field(0.9, ge=0, lt=1, description="dino: momentum of the target's center (official)")
    decoder_width: int = Field(512, ge=4, description="mae: width of the decoder (official)")
    decoder_depth: int = Field(8, ge=1, description="mae: blocks of the decoder (official)")
    decoder_heads: int = Field(16, ge=1, description="mae: attention heads of the decoder (official)")
    norm_pix_loss: bool = Field(True, description="mae: normalize the pixels of each patch (official)")

    @model_validator(mode="after")
    def _decoder_fits(self) -> "ObjectiveConfig":
        if self.name == "mae" and (self.decoder_width % self.decoder_heads or self.decoder_width % 4):
            raise ValueError(
                "expected objective.decoder_width to be a multiple of 4 and of objective.decoder_heads = "
                f"{self.decoder_heads}, found {self.decoder_width}"
            )
        return self


class ChartConfig(Section):
    """How the patient's chart enters pretraining."""

    ehr: Annotated[str, Parameter(alias="--ehr")] = Field(
        "demographic-norm", description="A named feature set, variables separated by commas, or none"
    )
    width: int = Field(128, ge=1, description="Width of the embedded chart e = f(x) (published: --ehr-out)")
    use: Literal["anchor", "predict"] = Field(
        "anchor",
        description="Role of all variables of --ehr: anchor joins the chart with the anchor (published); predict "
        "predicts it from the anchor",
    )
    roles: Annotated[
        dict[str, str],
        BeforeValidator(read_roles),
        Parameter(metavar="NAME=ROLE,...", n_tokens=1, show_default=False),
    ] = Field(
        {},
        description="Roles of variables or sets, such as sex=anchor,age=predict,view=suppress: anchor, predict, "
        "contrast, mmcl, suppress, suppress-contrast, decorrelate, none; without --ehr these are the whole chart",
    )
    weight: float = Field(1.0, ge=0, description="Weight of the heads of all roles but anchor")
    suppress_weight: float = Field(
        0.1, ge=0, description="suppress, suppress-contrast: weight of their heads, as a share of chart.weight"
    )
    decorrelate_weight: float = Field(5.0, ge=0, description="decorrelate: its weight, as a multiple of chart.weight")
    evenness_weight: float = Field(
        0.1,
        ge=0,
        description="decorrelate: weight, beside R2, of the term that keeps class tokens varying in all directions",
    )
    warmup: float = Field(
        0.1, ge=0, lt=1, description="Share of the steps before the weight of the heads rises from 0 (DANN's sigmoid)"
    )
    temperature: float = Field(0.07, gt=0, description="contrast: temperature")
    momentum: float = Field(0.999, ge=0, lt=1, description="contrast: momentum of the centroids")
    bins: int = Field(4, ge=2, description="contrast: bins of a number, of as many training images each")
    corruption: float = Field(
        0.3, ge=0, lt=1, description="mmcl: probability that an entry is that of another patient of the batch"
    )
    mmcl_temperature: float = Field(0.1, gt=0, description="mmcl: temperature")
    control: Annotated[Literal["none", "shuffled", "constant", "mask-only"], Parameter(alias="--control")] = Field(
        "none",
        description="Control: another patient's chart, the mean chart, or only which values are observed",
    )
    films_of: str | None = Field(
        None,
        description="Train on the images that this feature set can represent, so that arms see the same images",
    )
    allow_after_film: Annotated[
        tuple[str, ...],
        BeforeValidator(separated),
        Parameter(metavar="NAME,...", show_default=False),
    ] = Field((), description="Variables to use although they are known only after the image was taken")

    @model_validator(mode="after")
    def _roles_are_the_chart(self) -> "ChartConfig":
        if self.roles and "ehr" not in self.model_fields_set:
            self.ehr = NO_CHART
        if self.roles and self.ehr == NO_CHART and self.use != "anchor":
            raise ValueError(
                f"expected chart.use with --ehr, found chart.use {self.use} with chart.roles alone; give the role "
                f"in chart.roles, such as NAME={self.use}"
            )
        return self

    @property
    def by_name(self) -> dict[str, tuple[Role, ...]]:
        """The roles of each set or variable: `ehr` and `use` are a short form for one role of all of `ehr`."""
        short: dict[str, tuple[Role, ...]] = {} if self.ehr == NO_CHART else {self.ehr: (self.use,)}
        return short | {name: split_roles(roles) for name, roles in self.roles.items()}

    @property
    def name(self) -> str:
        """What the chart is called: its sets and variables, separated by commas; none without one."""
        return ",".join(name for name, roles in self.by_name.items() if "none" not in roles) or NO_CHART

    @property
    def said_use(self) -> str:
        """How it is used: one role, or the roles of each name."""
        return one_text({name: roles for name, roles in self.by_name.items() if "none" not in roles})


class TrainConfig(Section):
    """The optimization."""

    epochs: int | None = Field(100, ge=1, description="Epochs; or give train.steps")
    steps: int | None = Field(None, ge=1, description="Optimizer steps; replaces train.epochs")
    batch_size: int = Field(1024, ge=2, description="Images per optimizer step, over all processes")
    accumulate: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="Parts that a step is computed in, with the same gradient; auto: as the memory needs"
    )
    recompute: bool = Field(
        True, description="Compute the blocks' norms and GELU again for the gradient: two thirds of the memory"
    )
    learning_rate: float | None = Field(
        None, gt=0, description="Peak learning rate; null: the recipe's, scaled linearly with the batch size"
    )
    recipe_learning_rate: float = Field(1e-3, gt=0, description="The recipe's peak learning rate at recipe_batch_size")
    recipe_batch_size: int = Field(1024, ge=1, description="Batch size that recipe_learning_rate was chosen for")
    start_learning_rate_ratio: float = Field(
        0.2, ge=0, le=1, description="Learning rate at the start of warm-up over the peak (MSN: 2e-4 of 1e-3)"
    )
    final_learning_rate_ratio: float = Field(
        1e-3, ge=0, le=1, description="Learning rate at the end of the cosine over the peak (MSN: 1e-6 of 1e-3)"
    )
    warmup_epochs: float = Field(15, ge=0, description="Warm-up epochs, at most 10 % of the steps")
    stretch: float = Field(1.25, ge=1, description="Length of the cosine and EMA schedules over the training (MSN)")
    weight_decay: float = Field(0.04, ge=0, description="Weight decay at the start")
    final_weight_decay: float | None = Field(
        0.4, ge=0, description="Weight decay at the end of the cosine; null: constant"
    )
    decay_everything: bool = Field(False, description="Decay biases, norms and prototypes too (published)")
    ema: float = Field(0.996, ge=0, le=1, description="EMA momentum of the target at the start")
    final_ema: float = Field(1.0, ge=0, le=1, description="EMA momentum at the end; linear in between")
    ema_before_step: bool = Field(
        False, description="Update the target before the forward pass of a step, not after its end (published)"
    )
    schedule: Literal["step", "epoch"] = Field(
        "step", description="When the learning rate changes: every step, or once per epoch (published)"
    )
    clip: float | None = Field(
        3.0, gt=0, description="Maximum gradient norm, prototypes left out (MSN); null: no clipping (published)"
    )
    freeze_steps: int = Field(
        0, ge=0, description="With encoder.init: steps in which the encoder is frozen while the heads settle"
    )
    ramp_steps: int = Field(
        0, ge=0, description="With encoder.init: steps over which its learning rate then rises to that of the heads"
    )
    checkpoint_every: int = Field(500, ge=1, description="Steps between checkpoints")
    checkpoint_keep: int = Field(3, ge=1, description="Checkpoints to keep")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="Precision; auto: bf16 where supported")
    compile: Literal["auto"] | bool = Field(
        "auto", description="torch.compile for the encoder's blocks; auto: for 1,000 steps and more"
    )

    @property
    def in_two_stages(self) -> bool:
        """Whether the encoder starts behind the heads."""
        return self.freeze_steps + self.ramp_steps > 0

    @model_validator(mode="after")
    def _some_length(self) -> "TrainConfig":
        if self.epochs is None and self.steps is None:
            raise ValueError("expected train.epochs or train.steps, found neither; give one")
        if self.accumulate != "auto" and self.batch_size % self.accumulate:
            raise ValueError(
                f"expected train.accumulate to divide train.batch_size = {self.batch_size}, found {self.accumulate}; "
                "leave it out to have it chosen by the memory"
            )
        return self


class HealthConfig(Section):
    """When a collapsed run is stopped (docs/method.md)."""

    stop: bool = Field(True, description="Stop a collapsed run; false: warn and continue")
    every: int = Field(50, ge=1, description="Steps between checks of the embeddings")
    patience_steps: int = Field(200, ge=1, description="Steps before a check can stop the run; never during warm-up")
    probe_films: int = Field(512, ge=16, description="Images of the online probe, from train and validate each")


class Config(Options):
    """All settings of one pretraining run."""

    recipe: str = Field(
        "msn", description="Recipe to start from: msn, published, dino, mae, small-gpu, small-cpu or tiny-cpu"
    )
    seed: int = Field(0, ge=0, description="Seed of initial weights, order, crops, flips and masks")
    encoder: Annotated[EncoderConfig, Parameter(group=Group("Encoder", sort_key=1))] = Field(
        default_factory=EncoderConfig
    )
    views: Annotated[ViewsConfig, Parameter(group=Group("Views", sort_key=2))] = Field(default_factory=ViewsConfig)
    objective: Annotated[ObjectiveConfig, Parameter(group=Group("Objective", sort_key=3))] = Field(
        default_factory=ObjectiveConfig
    )
    chart: Annotated[ChartConfig, Parameter(group=Group("Chart", sort_key=4))] = Field(default_factory=ChartConfig)
    train: Annotated[TrainConfig, Parameter(group=Group("Training", sort_key=5))] = Field(default_factory=TrainConfig)
    health: Annotated[HealthConfig, Parameter(group=Group("Health", sort_key=6))] = Field(default_factory=HealthConfig)

    @model_validator(mode="after")
    def _two_stages_start_from_weights(self) -> "Config":
        if self.train.in_two_stages and self.encoder.init is None:
            raise ValueError(
                "expected encoder.init with train.freeze_steps or train.ramp_steps, found none: a random encoder has "
                "nothing to keep; give initial weights, or leave both out"
            )
        return self

    @model_validator(mode="after")
    def _baselines_fit(self) -> "Config":
        """A baseline has no chart unless one is given. MAE has one view and never a chart."""
        if self.objective.name != "msn" and "ehr" not in self.chart.model_fields_set:
            self.chart = self.chart.model_copy(update={"ehr": NO_CHART})
        if self.objective.name == "mae":
            if self.chart.name != NO_CHART:
                raise ValueError(
                    "expected --ehr none with objective.name mae, which draws pixels and has no anchor for a chart to "
                    f"join, found {self.chart.name}; leave it out, or choose msn or dino"
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


def load(recipe: str = "msn", file: Path | None = None, overrides: Mapping[str, JsonValue] | None = None) -> Config:
    """The resolved configuration: recipe, then `file`, then `overrides` ({"views.size": 224}).

    Raises InputError for an unknown recipe or knob (the nearest name is suggested) or a value out of range.
    """
    if recipe not in recipe_names():
        raise InputError(
            f"unknown recipe {recipe!r}{nearest(recipe, recipe_names())}; there are {', '.join(recipe_names())}"
        )
    text = resources.files("chartray").joinpath("recipes", f"{recipe}.yaml").read_text()
    tree: Knobs = yaml_tree(text) or {}
    tree["recipe"] = recipe
    return _laid_over(tree, file, overrides)


def load_saved(saved: Path, file: Path | None = None, overrides: Mapping[str, JsonValue] | None = None) -> Config:
    """The configuration that a run was started with, with what is given now laid over it."""
    tree = renamed_keys(read_yaml(saved, "a run's config.yaml"), quietly=True)
    return _laid_over(tree, file, overrides)


def _laid_over(tree: Knobs, file: Path | None, overrides: Mapping[str, JsonValue] | None) -> Config:
    """The tree with a file of knobs, then single knobs, laid over it.

    Epochs and steps exclude each other: a layer that gives one removes the other from the layers below.
    """
    given: Knobs = {}
    for knob, value in (overrides or {}).items():
        _merge(given, _nested(knob, value))
    for layer in (renamed_keys(read_yaml(file, "a file of knobs")) if file is not None else {}, given):
        train = layer.get("train")
        length: Mapping[str, JsonValue] = train if isinstance(train, Mapping) else {}
        if length.get("epochs") is not None and length.get("steps") is not None:
            raise InputError(
                f"expected train.epochs or train.steps, found both ({length['epochs']} and {length['steps']}); "
                "leave one out"
            )
        for one, other in (("epochs", "steps"), ("steps", "epochs")):
            if length.get(one) is not None:
                _merge(tree, {"train": {other: None}})
        _merge(tree, layer)
    return Config.model_validate(tree)


def _nested(knob: str, value: Any) -> Knobs:
    section, _, key = knob.partition(".")
    return {section: {key: value}} if key else {section: value}


def _merge(into: Knobs, other: Mapping[str, JsonValue]) -> None:
    """Lays sections over each other knob by knob; a knob that is a mapping itself is replaced as any other."""
    for key, value in other.items():
        known = into.get(key)
        if isinstance(value, dict) and isinstance(known, dict):
            known.update(value)
        else:
            into[key] = dict(value) if isinstance(value, dict) else value
