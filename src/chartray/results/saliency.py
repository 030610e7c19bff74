"""What saliency.json and gallery.json of the folder saliency/ say, as typed records; no identifier is in them."""

from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field

from chartray.results.schema import Number, Record, Texts, as_tuple

SALIENCY_FILE, ARRAYS_FILE, GALLERY_FILE = "saliency.json", "saliency.safetensors", "gallery.json"
# Raised whenever a field changes; other formats are refused.
SALIENCY_FORMAT: Final = 2


class ShownImage(Record):
    """An image, by its row in the store and a hashed name."""

    dataset: str = Field(description="the data set")
    row: int = Field(description="row of the store")
    key: str = Field(description="hashed name, over all scored images")
    height: int | None = Field(None, description="height before it was squashed, in pixels")
    width: int | None = Field(None, description="width before it was squashed, in pixels")
    present: Texts = Field((), description="labels that are present")


class ChosenImage(ShownImage):
    """An image that was chosen for a label."""

    label: str = Field(description="the label")
    why: str = Field(description="why it was chosen, in words")


class MappedImage(ChosenImage):
    """An image with maps."""

    score: float = Field(description="the probe's score of the label")


class SaliencyControl(Record):
    """Mean correlations of maps: near 1 they say nothing of the image, or nothing that was learnt."""

    rollout_between_films: Number = Field(None, description="correlation of the rollout maps of two images")
    rollout_with_untrained: Number = Field(
        None, description="correlation of rollout maps with those of the untrained encoder"
    )
    similarity_between_films: Number = Field(None, description="correlation of the similarity maps of two images")
    similarity_with_untrained: Number = Field(
        None, description="correlation of similarity maps with the untrained encoder's"
    )


class SaliencyMaps(Record):
    """saliency.json: the images whose maps are in saliency.safetensors, in its order."""

    format: Literal[2] = Field(SALIENCY_FORMAT, description="format of the folder")
    dataset: str = Field(description="the data set that is shown")
    split: str = Field(description="its split")
    grid: int = Field(description="patches a side")
    places: Annotated[
        tuple[Annotated[tuple[float, float], BeforeValidator(as_tuple)], ...], BeforeValidator(as_tuple)
    ] = Field((), description="query patches, as shares of height and width")
    control: SaliencyControl = Field(description="how much the maps depend on image and training")
    films: Annotated[tuple[MappedImage, ...], BeforeValidator(as_tuple)] = Field((), description="the images")


class NearImage(ShownImage):
    """A neighbour of a query image."""

    cosine: float = Field(description="cosine of the two embeddings about the mean")


class QueryImage(ChosenImage):
    """An image and its nearest neighbours of other patients."""

    same_patient_rank: int | None = Field(None, description="rank of the nearest image of the same patient")
    neighbours: Annotated[tuple[NearImage, ...], BeforeValidator(as_tuple)] = Field((), description="nearest first")


class LabelAgreement(Record):
    """How often neighbours share a finding, by label; the interval is by patient."""

    label: str = Field(description="the label")
    neighbours: float = Field(description="share of the neighbours of images with the finding that have it too")
    ci_low: Number = Field(None, description="lower end of the interval")
    ci_high: Number = Field(None, description="upper end")
    films: float = Field(description="share of all images that have it")
    n: int = Field(description="query images")
    n_patients: int = Field(description="their patients")


class SamePatient(Record):
    """How often the nearest image is one of the same patient."""

    first: float = Field(description="share of images whose nearest image is the same patient's")
    ci_low: Number = Field(None, description="lower end of the interval")
    ci_high: Number = Field(None, description="upper end")
    chance: float = Field(description="the share by chance")
    n: int = Field(description="images whose patient has another one")


class Gallery(Record):
    """gallery.json: images, their nearest neighbours, and how often these agree."""

    format: Literal[2] = Field(SALIENCY_FORMAT, description="format of the folder")
    dataset: str = Field(description="the data set that is shown")
    split: str = Field(description="its split")
    films: Annotated[tuple[int, ...], BeforeValidator(as_tuple)] = Field(
        (), description="rows of the store whose pixels are `gallery` of saliency.safetensors, in its order"
    )
    queries: Annotated[tuple[QueryImage, ...], BeforeValidator(as_tuple)] = Field((), description="query images")
    agreement: Annotated[tuple[LabelAgreement, ...], BeforeValidator(as_tuple)] = Field((), description="by label")
    same_patient: Annotated[SamePatient | None, BeforeValidator(lambda value: value or None)] = Field(
        None, description="empty where no patient has two images"
    )
