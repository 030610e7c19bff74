"""Looks on the page: attention rollout and similar patches over films, and the films that an encoder holds alike.

Everything is read from the folder `looks/` of a Results folder (evaluation/saliency.py says what is in it). Films are
told by their hashed names; where films are to stay off the page, nothing of this is on it.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chartray.errors import InputError
from chartray.evaluation.results import LOOKS_FOLDER, understood
from chartray.outputs.opening import SealedFolder
from chartray.report.arms import Arm
from chartray.report.embedding_map import thumbnails
from chartray.report.inputs import Results
from chartray.report.rows import shown

FORMAT = 1
# Each encoder's films and maps take about 0.2 MB.
MOST_ENCODERS = 3
FILM_SIDE, GALLERY_SIDE = 168, 112
# Light where much: the order of light holds in print and to the colour-blind.
_COLOURS = "viridis"
_FEW = "no interval"
# Half of the variance: from there on "most" is said of a correlation.
_MOST = 0.5**0.5

Maps = NDArray[np.float32]


class Panel(NamedTuple):
    """A picture with its caption."""

    caption: str
    svg: str


class FilmLook(NamedTuple):
    """One film and its maps."""

    name: str
    headline: str
    detail: str
    panels: list[Panel]


class GalleryFilm(NamedTuple):
    """A film of the gallery: `shared` and `other` findings that it has, shared with the query or not."""

    name: str
    picture: str
    alt: str
    headline: str
    shared: list[str]
    other: list[str]


class GalleryRow(NamedTuple):
    """A film and those that the encoder holds most alike."""

    query: GalleryFilm
    neighbours: list[GalleryFilm]
    note: str


class AgreementRow(NamedTuple):
    """How often neighbours share a finding, in words; `more` where the interval lies above the rate of all films."""

    label: str
    neighbours: str
    interval: str
    films: str
    n: str
    more: bool


class Scale(NamedTuple):
    """What the colours of a kind of map mean."""

    name: str
    svg: str
    low: str
    high: str


class EncoderLooks(NamedTuple):
    """What one encoder is seen to do; `says` and `says_alike` are sentences."""

    title: str
    dataset: str
    split: str
    films: list[FilmLook]
    scales: list[Scale]
    says: list[str]
    gallery: list[GalleryRow]
    agreement: list[AgreementRow]
    says_alike: list[str]


class LooksSection(NamedTuple):
    """The section `saliency.html.j2` draws; `left_out` names arms that are not shown."""

    encoders: list[EncoderLooks]
    left_out: list[str]
    style: str


def looks_section(results: Sequence[Results], *, films: bool) -> LooksSection | None:
    """The looks of the first evaluation of each arm, at most three arms; None where there are none or `films` is off.

    Raises InputError where a looks folder is damaged or of another format.
    """
    found: dict[Arm, Results] = {}
    for one in results if films else ():
        if one.base is not None and one.files is not None and one.files.below(LOOKS_FOLDER):
            found.setdefault(one.base, one)
    arms = sorted(found, key=lambda arm: arm.order)
    if not arms:
        return None
    encoders = []
    for place, arm in enumerate(arms[:MOST_ENCODERS]):
        files = found[arm].files
        if files is not None:
            with understood(files.folder / LOOKS_FOLDER):
                encoders.append(_encoder(place, arm.title, files))
    style = resources.files("chartray.report").joinpath("saliency.css").read_text(encoding="utf-8")
    return LooksSection(encoders, [arm.title for arm in arms[MOST_ENCODERS:]], style)


def _encoder(place: int, title: str, files: SealedFolder) -> EncoderLooks:
    folder = files.folder / LOOKS_FOLDER
    described, gallery = (files.object(f"{LOOKS_FOLDER}/{name}") for name in ("looks.json", "gallery.json"))
    arrays = files.arrays(f"{LOOKS_FOLDER}/looks.safetensors")
    if described.get("format") != FORMAT:
        raise InputError(
            f"expected looks of format {FORMAT} in {folder}, found {described.get('format')}; evaluate again"
        )
    share = arrays["rollout"].shape[1] * arrays["rollout"].shape[2]
    even = {name: arrays[name] * share for name in ("rollout", "rollout_untrained")}
    top = float(max(np.quantile(np.concatenate(list(even.values())), 0.995), 1.2))
    films = [
        _film(f"look-{place}-{index}", index, film, arrays | even, top) for index, film in enumerate(described["films"])
    ]
    dataset = shown(str(described["dataset"]))
    return EncoderLooks(
        title=title,
        dataset=dataset,
        split=str(described["split"]),
        films=films,
        scales=_scales(top),
        says=_control(described["control"]),
        gallery=_gallery(gallery, arrays["gallery"]),
        agreement=[_agreement(row) for row in gallery["agreement"]],
        says_alike=_says_alike(gallery),
    )


def _film(name: str, index: int, film: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], top: float) -> FilmLook:
    key, box = str(film["key"]), _box(film, FILM_SIDE)
    picture = thumbnails(arrays["film"][index : index + 1], [film["height"]], [film["width"]], 2 * FILM_SIDE)[0]
    panels = [Panel("The film", _svg(box, f"Film {key}", _image(picture, box, name)))]
    for array, caption in (("rollout", "Attention rollout"), ("rollout_untrained", "the same, untrained")):
        values = arrays[array][index]
        row, column = np.unravel_index(int(values.argmax()), values.shape)
        alt = f"{caption} over film {key}: most at patch row {row + 1}, column {column + 1} of {len(values)}, "
        alt += f"{values.max():.2f} times an even share"
        panels.append(Panel(caption, _svg(box, alt, _over(name, values, 0, top, box))))
    for number, (row, column) in enumerate(arrays["queries"][index].tolist()):
        for array, words in (("similarity", ""), ("similarity_untrained", ", untrained")):
            values = arrays[array][index, number]
            alt = f"Cosine of every patch of film {key} with the patch in row {row + 1}, column {column + 1}{words}: "
            alt += f"median {np.median(values):.2f}"
            mark = _mark(row, column, len(values), box)
            caption = f"patches like ◻{words}"
            panels.append(Panel(caption, _svg(box, alt, _over(name, values, -1, 1, box) + mark)))
    label = str(film["label"])
    also = [one for one in film["present"] if one != label]
    detail = f"probe’s score {film['score']:.2f}" + (f"; also present: {', '.join(also)}" if also else "")
    return FilmLook(key, f"{label}: {film['why']}", detail, panels)


def _box(film: Mapping[str, Any], side: int) -> tuple[int, int]:
    """Width and height of a film in its true proportions, the longer `side`; square where its size is not known."""
    height, width = film.get("height") or 1, film.get("width") or 1
    scale = side / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _svg(box: tuple[int, int], alt: str, content: str) -> str:
    words = html.escape(alt, quote=True)
    size = f'viewBox="0 0 {box[0]} {box[1]}" width="{box[0]}" height="{box[1]}"'
    return f'<svg class="look" role="img" aria-label="{words}" {size}>{content}</svg>'


def _image(uri: str, box: tuple[int, int], name: str = "", more: str = "") -> str:
    identity = f'id="{name}" ' if name else ""
    return f'<image {identity}href="{uri}" width="{box[0]}" height="{box[1]}" preserveAspectRatio="none"{more}/>'


def _over(name: str, values: Maps, low: float, high: float, box: tuple[int, int]) -> str:
    """A map over the film `name`, patch by patch: nothing is smoothed, so nothing looks finer than it is."""
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
        Scale("Likeness of patches, cosine", svg, "−1", "1"),
    ]


def _control(control: Mapping[str, float | None]) -> list[str]:
    """Whether the maps say anything of the film, and anything that training brought."""
    found = []
    for key, name in (("rollout", "Rollout"), ("similarity", "Likeness")):
        between, fresh = control.get(f"{key}_between_films"), control.get(f"{key}_with_untrained")
        if between is not None:
            end = ": most of a map is the same whatever the film" if between >= _MOST else ""
            found.append(f"{name} maps of two films correlate with r = {_signed(between)} on average{end}.")
        if fresh is not None:
            most = ": most of what they show, an encoder that has learnt nothing shows too"
            end = most if fresh >= _MOST else ""
            found.append(
                f"{name} maps correlate with those of the untrained encoder on the same film with "
                f"r = {_signed(fresh)}{end}."
            )
    return found


def _gallery(gallery: Mapping[str, Any], pixels: NDArray[np.uint8]) -> list[GalleryRow]:
    places = {row: place for place, row in enumerate(gallery["films"])}

    def film(one: Mapping[str, Any], beside: Sequence[str], headline: str) -> GalleryFilm:
        place = places[one["row"]]
        picture = thumbnails(pixels[place : place + 1], [one["height"]], [one["width"]], GALLERY_SIDE)[0]
        shared = [label for label in one["present"] if label in beside]
        other = [label for label in one["present"] if label not in beside]
        alt = f"Film {one['key']}: {', '.join(one['present']) or 'no finding noted'}"
        return GalleryFilm(one["key"], picture, alt, headline, shared, other)

    found = []
    for query in gallery["queries"]:
        beside = [film(one, query["present"], f"cosine {one['cosine']:.3f}") for one in query["neighbours"]]
        rank = query["same_patient_rank"]
        note = (
            "This patient has no other film here."
            if rank is None
            else f"The nearest film of the same patient has rank {rank:,}."
        )
        found.append(GalleryRow(film(query, query["present"], query["label"]), beside, note))
    return found


def _agreement(row: Mapping[str, Any]) -> AgreementRow:
    low, high = row["ci_low"], row["ci_high"]
    known = low is not None and high is not None
    return AgreementRow(
        label=str(row["label"]),
        neighbours=_percent(row["neighbours"]),
        interval=f"[{_percent(low)}, {_percent(high)}]" if known else _FEW,
        films=_percent(row["films"]),
        n=f"{row['n']:,} of {row['n_patients']:,} patients",
        more=known and low > row["films"],
    )


def _says_alike(gallery: Mapping[str, Any]) -> list[str]:
    rows = [_agreement(row) for row in gallery["agreement"]]
    more, able = [row.label for row in rows if row.more], [row for row in rows if row.interval != _FEW]
    found = []
    if rows:
        least = (
            f", of which {len(rows) - len(able)} have too few patients for an interval or none that differ"
            if len(able) < len(rows)
            else ""
        )
        which = f"For {', '.join(more)} the" if more else "For no finding is it shown that the"
        found.append(
            f"{which} five nearest films of other patients share the finding more often than films in general have it "
            f"({len(more)} of {len(rows)} findings{least}; 95 % intervals by patient, not corrected for their number)."
        )
    same = gallery["same_patient"]
    if same:
        interval = "" if same["ci_low"] is None else f" [{_percent(same['ci_low'])}, {_percent(same['ci_high'])}]"
        found.append(
            f"Of {same['n']:,} films whose patient has another film here, {_percent(same['first'])}{interval} have "
            f"such a film as their nearest; by chance it would be {_percent(same['chance'])}."
        )
    return found


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
