"""Saliency on the page: attention rollout and similar patches over images, and the images that an encoder holds alike.

Everything is read from the folder `saliency/` of an evaluation (`results.saliency` says what is in it). Images go by
hashed names; where images are left off the page, this section is too.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple, TypeVar

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chartray.outputs.json_file import parsed_record
from chartray.outputs.opening import SealedFolder
from chartray.report.embedding_map import thumbnails
from chartray.report.inputs import Results
from chartray.results.arm import Arm, dataset_name
from chartray.results.folder import SALIENCY_FOLDER
from chartray.results.saliency import (
    ARRAYS_FILE,
    GALLERY_FILE,
    SALIENCY_FILE,
    ChosenImage,
    Gallery,
    LabelAgreement,
    MappedImage,
    NearImage,
    QueryImage,
    SaliencyControl,
    SaliencyMaps,
    ShownImage,
)
from chartray.small_counts import counts, is_small, told

# Each encoder's images and maps take about 0.2 MB.
MOST_ENCODERS = 3
IMAGE_SIDE, GALLERY_SIDE = 168, 112
# From dark to light: the order holds in print and for the colour-blind.
_COLOURS = "viridis"
_FEW = "no interval"
# A correlation that explains half of the variance: from there on the page says "most".
_MOST = 0.5**0.5

MapValues = NDArray[np.float32]
Described = TypeVar("Described", SaliencyMaps, Gallery)


class SaliencyPicture(NamedTuple):
    """A picture with its caption."""

    caption: str
    svg: str


class ImageMaps(NamedTuple):
    """One image and its maps."""

    name: str
    headline: str
    detail: str
    pictures: list[SaliencyPicture]


class GalleryImage(NamedTuple):
    """An image of the gallery: the findings that it shares with the query, and its `other` ones."""

    name: str
    picture: str
    alt: str
    headline: str
    shared: list[str]
    other: list[str]


class GalleryRow(NamedTuple):
    """An image and those that the encoder holds most alike."""

    query: GalleryImage
    neighbours: list[GalleryImage]
    note: str


class AgreementRow(NamedTuple):
    """How often neighbours share a finding, in words; `more` where the interval is above the rate of all images."""

    label: str
    neighbours: str
    interval: str
    images: str
    n: str
    more: bool


class Scale(NamedTuple):
    """What the colours of a kind of map mean."""

    name: str
    svg: str
    low: str
    high: str


class EncoderSaliency(NamedTuple):
    """The maps and the gallery of one encoder; `says` and `says_alike` are sentences."""

    title: str
    dataset: str
    split: str
    images: list[ImageMaps]
    scales: list[Scale]
    says: list[str]
    gallery: list[GalleryRow]
    agreement: list[AgreementRow]
    says_alike: list[str]


class SaliencySection(NamedTuple):
    """The section `saliency.html.j2` draws; `left_out` names arms that are not shown."""

    encoders: list[EncoderSaliency]
    left_out: list[str]
    style: str


def saliency_section(results: Sequence[Results], *, with_images: bool) -> SaliencySection | None:
    """The saliency of the first evaluation of each arm, at most three arms; None where there is none or no image is
    to be shown.

    Raises InputError where a saliency folder is damaged or of another format.
    """
    found: dict[Arm, Results] = {}
    for one in results if with_images else ():
        if one.base is not None and one.files.below(SALIENCY_FOLDER):
            found.setdefault(one.base, one)
    arms = sorted(found, key=lambda arm: arm.order)
    if not arms:
        return None
    encoders = [_encoder(place, arm.title, found[arm].files) for place, arm in enumerate(arms[:MOST_ENCODERS])]
    style = resources.files("chartray.report").joinpath("saliency.css").read_text(encoding="utf-8")
    return SaliencySection(encoders, [arm.title for arm in arms[MOST_ENCODERS:]], style)


def _encoder(place: int, title: str, files: SealedFolder) -> EncoderSaliency:
    def read(record: type[Described], name: str) -> Described:
        inside = f"{SALIENCY_FOLDER}/{name}"
        return parsed_record(record, files.object(inside), str(files.folder / inside))

    described, gallery = read(SaliencyMaps, SALIENCY_FILE), read(Gallery, GALLERY_FILE)
    arrays = files.arrays(f"{SALIENCY_FOLDER}/{ARRAYS_FILE}")
    patches = described.grid**2
    even = {name: arrays[name] * patches for name in ("rollout", "rollout_untrained")}
    top = float(max(np.quantile(np.concatenate(list(even.values())), 0.995), 1.2))
    images = [
        _image_maps(f"saliency-{place}-{index}", index, image, arrays | even, top)
        for index, image in enumerate(described.films)
    ]
    return EncoderSaliency(
        title=title,
        dataset=dataset_name(described.dataset),
        split=described.split,
        images=images,
        scales=_scales(top),
        says=_control(described.control),
        gallery=_gallery(gallery, arrays["gallery"]),
        agreement=[_agreement(row) for row in gallery.agreement],
        says_alike=_says_alike(gallery),
    )


def _image_maps(name: str, index: int, image: MappedImage, arrays: Mapping[str, NDArray[Any]], top: float) -> ImageMaps:
    key, box = image.key, _box(image, IMAGE_SIDE)
    picture = thumbnails(arrays["film"][index : index + 1], [image.height], [image.width], 2 * IMAGE_SIDE)[0]
    pictures = [SaliencyPicture("The image", _svg(box, f"Image {key}", _image(picture, box, name)))]
    for array, caption in (("rollout", "Attention rollout"), ("rollout_untrained", "the same, untrained")):
        values = arrays[array][index]
        row, column = np.unravel_index(int(values.argmax()), values.shape)
        alt = f"{caption} over image {key}: most at patch row {row + 1}, column {column + 1} of {len(values)}, "
        alt += f"{values.max():.2f} times an even share"
        pictures.append(SaliencyPicture(caption, _svg(box, alt, _over(name, values, 0, top, box))))
    for number, (row, column) in enumerate(arrays["queries"][index].tolist()):
        for array, words in (("similarity", ""), ("similarity_untrained", ", untrained")):
            values = arrays[array][index, number]
            alt = f"Cosine of every patch of image {key} with the patch in row {row + 1}, column {column + 1}{words}: "
            alt += f"median {np.median(values):.2f}"
            mark = _mark(row, column, len(values), box)
            caption = f"patches like ◻{words}"
            pictures.append(SaliencyPicture(caption, _svg(box, alt, _over(name, values, -1, 1, box) + mark)))
    also = [one for one in image.present if one != image.label]
    detail = f"probe’s score {image.score:.2f}" + (f"; also present: {', '.join(also)}" if also else "")
    return ImageMaps(key, f"{image.label}: {image.why}", detail, pictures)


def _box(image: ShownImage, side: int) -> tuple[int, int]:
    """Width and height of an image in its true proportions, the longer `side`; square where its size is not known."""
    height, width = image.height or 1, image.width or 1
    scale = side / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _svg(box: tuple[int, int], alt: str, content: str) -> str:
    words = html.escape(alt, quote=True)
    size = f'viewBox="0 0 {box[0]} {box[1]}" width="{box[0]}" height="{box[1]}"'
    return f'<svg class="saliency-map" role="img" aria-label="{words}" {size}>{content}</svg>'


def _image(uri: str, box: tuple[int, int], name: str = "", more: str = "") -> str:
    identity = f'id="{name}" ' if name else ""
    return f'<image {identity}href="{uri}" width="{box[0]}" height="{box[1]}" preserveAspectRatio="none"{more}/>'


def _over(name: str, values: MapValues, low: float, high: float, box: tuple[int, int]) -> str:
    """A map over the image `name`, patch by patch: it is not smoothed, so it shows its true resolution."""
    more = ' opacity="0.72" style="image-rendering: pixelated"'
    return f'<use href="#{name}"/>' + _image(_png(values, low, high), box, more=more)


def _mark(row: int, column: int, grid: int, box: tuple[int, int]) -> str:
    width, height = box[0] / grid, box[1] / grid
    place = f'x="{column * width:.1f}" y="{row * height:.1f}" width="{width:.1f}" height="{height:.1f}"'
    # White on black, to be seen on any colour.
    return "".join(
        f'<rect {place} fill="none" stroke="{ink}" stroke-width="{w}"/>' for ink, w in (("#000", 4), ("#fff", 2))
    )


def _png(values: NDArray[Any], low: float, high: float) -> str:
    colours = mpl.colormaps[_COLOURS](np.clip((values - low) / (high - low), 0, 1))[..., :3]
    stream = io.BytesIO()
    Image.fromarray((colours * 255).round().astype(np.uint8)).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _scales(top: float) -> list[Scale]:
    bar = _image(_png(np.linspace(0, 1, 64)[None, :], 0, 1), (120, 10))
    svg = f'<svg viewBox="0 0 120 10" width="120" height="10" aria-hidden="true">{bar}</svg>'
    return [
        Scale("Rollout, as a multiple of an even share", svg, "0", f"{top:.1f} or more"),
        Scale("Similarity of patches, cosine", svg, "−1", "1"),
    ]


def _control(control: SaliencyControl) -> list[str]:
    """Whether the maps depend on the image, and on what was learnt."""
    found = []
    for name, between, untrained in (
        ("Rollout", control.rollout_between_films, control.rollout_with_untrained),
        ("Similarity", control.similarity_between_films, control.similarity_with_untrained),
    ):
        if between is not None:
            end = ": most of a map is the same whatever the image" if between >= _MOST else ""
            found.append(f"{name} maps of two images correlate with r = {_signed(between)} on average{end}.")
        if untrained is not None:
            end = ": most of what they show was not learnt" if untrained >= _MOST else ""
            found.append(
                f"{name} maps correlate with those of the untrained encoder on the same image with "
                f"r = {_signed(untrained)}{end}."
            )
    return found


def _gallery(gallery: Gallery, pixels: NDArray[np.uint8]) -> list[GalleryRow]:
    places = {row: place for place, row in enumerate(gallery.films)}

    def image(one: QueryImage | NearImage, query: ChosenImage, headline: str) -> GalleryImage:
        place = places[one.row]
        picture = thumbnails(pixels[place : place + 1], [one.height], [one.width], GALLERY_SIDE)[0]
        shared = [label for label in one.present if label in query.present]
        other = [label for label in one.present if label not in query.present]
        alt = f"Image {one.key}: {', '.join(one.present) or 'no finding noted'}"
        return GalleryImage(one.key, picture, alt, headline, shared, other)

    found = []
    for query in gallery.queries:
        near = [image(one, query, f"cosine {one.cosine:.3f}") for one in query.neighbours]
        rank = query.same_patient_rank
        note = (
            "This patient has no other image here."
            if rank is None
            else f"The nearest image of the same patient has rank {rank:,}."
        )
        found.append(GalleryRow(image(query, query, query.label), near, note))
    return found


def _agreement(row: LabelAgreement) -> AgreementRow:
    known = row.ci_low is not None and row.ci_high is not None
    return AgreementRow(
        label=row.label,
        neighbours=_percent(row.neighbours),
        interval=f"[{_percent(row.ci_low)}, {_percent(row.ci_high)}]" if known else _FEW,
        images="–" if is_small(row.n) else _percent(row.films),
        n=f"{counts([row.n])[0]} of {told(row.n_patients, 'patient')}",
        more=row.ci_low is not None and known and row.ci_low > row.films,
    )


def _says_alike(gallery: Gallery) -> list[str]:
    rows = [_agreement(row) for row in gallery.agreement]
    more, without = [row.label for row in rows if row.more], [row for row in rows if row.interval == _FEW]
    found = []
    if rows:
        few = f"; {len(without)} have no interval, with too few patients or no variation" if without else ""
        which = f"For {', '.join(more)}, the" if more else "It is not shown for any finding that the"
        found.append(
            f"{which} five nearest images of other patients share the finding more often than its rate among all "
            f"images ({len(more)} of {len(rows)} findings{few}; 95 % intervals by patient, not corrected for the "
            "number of findings)."
        )
    same = gallery.same_patient
    if same is not None:
        known = same.ci_low is not None and same.ci_high is not None
        interval = f" [{_percent(same.ci_low)}, {_percent(same.ci_high)}]" if known else ""
        found.append(
            f"Of {told(same.n, 'image')} whose patient has another image here, {_percent(same.first)}{interval} have "
            f"an image of the same patient as their nearest; by chance {_percent(same.chance)} would."
        )
    return found


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
