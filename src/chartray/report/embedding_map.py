"""The map: test embeddings by neighbourhood (t-SNE) and on principal axes; pointing at a point shows its image."""

import base64
import io
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import matplotlib as mpl
import numpy as np
from bokeh.embed import json_item
from bokeh.models import ColumnDataSource, HoverTool
from bokeh.plotting import figure
from numpy.typing import NDArray
from PIL import Image

from chartray.outputs.notices import notice
from chartray.small_counts import is_small

THUMBNAIL_SIDE = 88
_JPEG_QUALITY = 70
_PERPLEXITY = 30.0
_FEWEST_FOR_TSNE = 12
_MISSING = "not observed"
_MISSING_COLOUR = "#a3abb5"
_NOT_TOLD = "not observed or rare"
_CATEGORIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d1f", "#332288")
_TRUTH_COLOURS = {"present": "#d55e00", "uncertain": "#cc79a7", "absent": "#0072b2", "not mentioned": _MISSING_COLOUR}
# The page's style sheet does not reach into Bokeh's tooltips.
_TOOLTIP = """<div style="display: flex; gap: 10px; width: {width}px; white-space: normal; font-size: 13px">
{image}<div>@caption</div></div>"""


class Colouring(NamedTuple):
    """One way to colour the points: a colour and a word for each point, and the legend (word, colour)."""

    name: str
    group: str
    colours: list[str]
    words: list[str]
    legend: list[tuple[str, str]]


class Projection(NamedTuple):
    """Embeddings on two axes: `points` (N, 2) and the share of the variance each axis carries.

    `neighbourhoods` (N, 2) is their t-SNE, None where there is none.
    """

    points: NDArray[np.float64]
    shares: tuple[float, float]
    neighbourhoods: NDArray[np.float64] | None = None


class MapLayout(TypedDict):
    """One way to lay out the points of an encoder."""

    name: str
    x: list[float]
    y: list[float]


class MapEncoder(TypedDict):
    """An encoder and its layouts, the first one the page's choice."""

    name: str
    layouts: list[MapLayout]


class MapColouring(TypedDict):
    """A colouring as map.js reads it: `colours` are the entry of the legend of each point."""

    name: str
    group: str
    legend: list[tuple[str, str]]
    colours: list[int]


class EmbeddingMap(TypedDict):
    """What map.js needs to draw one map: Bokeh's JSON, and the choices of encoder and colour."""

    item: object
    source: str
    images: bool
    encoders: list[MapEncoder]
    colourings: list[MapColouring]


def principal_components(embeddings: NDArray[Any]) -> Projection:
    """The first two principal components of (N, D) embeddings; the sign is fixed by each axis' largest loading.

    Constant embeddings give zeros and shares of 0. Raises ValueError where N < 2 or D < 1.
    """
    if embeddings.ndim != 2 or embeddings.shape[0] < 2 or embeddings.shape[1] < 1:
        raise ValueError(f"expected at least 2 embeddings (N, D), found shape {embeddings.shape}")
    centred = embeddings.astype(np.float64) - embeddings.mean(axis=0, dtype=np.float64)
    # D is a few hundred and N may be tens of thousands: the D x D Gram matrix has the same right singular vectors.
    values, vectors = np.linalg.eigh(centred.T @ centred)
    values, axes = np.maximum(values[::-1], 0), vectors[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    points = np.zeros((len(centred), 2))
    points[:, : axes.shape[1]] = centred @ axes
    total = values.sum() or 1.0
    shares = [float(value / total) for value in (*values[:2], 0.0)[:2]]
    return Projection(points, (shares[0], shares[1]))


def neighbourhoods(embeddings: NDArray[Any]) -> NDArray[np.float64] | None:
    """t-SNE (van der Maaten and Hinton 2008) of (N, D) embeddings, begun at their principal components; (N, 2).

    The same embeddings give the same points. None for fewer than `_FEWEST_FOR_TSNE`, and where openTSNE is away: it has
    no wheel for aarch64. 350 steps: of a few hundred
    points the divergence is then within 2 % of that of the usual 750.
    """
    if len(embeddings) < _FEWEST_FOR_TSNE:
        return None
    # It brings scikit-learn and scipy, seconds that only a page with a map should wait for.
    try:
        from openTSNE import TSNE
    except ImportError:
        notice("chartray: openTSNE is not installed, so maps show principal components alone; pip install opentsne")
        return None

    found = TSNE(
        perplexity=min(_PERPLEXITY, len(embeddings) / 4),
        initialization="pca",
        random_state=0,
        n_jobs=1,
        neighbors="exact",
        negative_gradient_method="bh",
        theta=0.8,
        early_exaggeration_iter=100,
        n_iter=250,
    ).fit(np.ascontiguousarray(embeddings, dtype=np.float64))
    return np.asarray(found, dtype=np.float64)


def truth_colouring(name: str, values: Sequence[float | None]) -> Colouring:
    """A finding: 1 present, 0 absent, -1 uncertain, None or NaN not mentioned."""
    words = [_truth_word(value) for value in values]
    return _colouring(name, "finding", words, {word: _TRUTH_COLOURS[word] for word in _TRUTH_COLOURS if word in words})


def category_colouring(name: str, values: Sequence[Any]) -> Colouring:
    """A categorical or boolean variable; None is grey."""
    words = [
        _MISSING if value is None else str(value).lower() if value in (True, False) else str(value) for value in values
    ]
    levels = sorted(set(words) - {_MISSING})
    palette = {level: _CATEGORIES[place % len(_CATEGORIES)] for place, level in enumerate(levels)}
    return _colouring(name, "chart", words, palette | {_MISSING: _MISSING_COLOUR} if _MISSING in words else palette)


def numeric_colouring(name: str, values: Sequence[float | None], unit: str = "") -> Colouring:
    """A numeric variable in up to five bins of equal counts, dark for low and yellow for high."""
    known = np.array([value for value in values if value is not None and value == value], dtype=np.float64)
    edges = np.unique(np.quantile(known, (0.2, 0.4, 0.6, 0.8)).round(_decimals(known))) if known.size else np.array([])
    names = [f"{edge:g}" for edge in edges]
    bins = (
        [f"under {names[0]}", *(f"{a} to {b}" for a, b in itertools.pairwise(names)), f"{names[-1]} and over"]
        if names
        else []
    )
    bins = [f"{one} {unit}".strip() for one in bins]
    shades = mpl.colormaps["viridis"](np.linspace(0.05, 0.95, max(len(bins), 1)))
    palette = {one: mpl.colors.to_hex(shade) for one, shade in zip(bins, shades, strict=False)}
    words = [
        _MISSING if value is None or value != value else bins[int(np.searchsorted(edges, value, "right"))]
        for value in values
    ]
    palette = {one: colour for one, colour in palette.items() if one in words}
    return _colouring(name, "chart", words, palette | {_MISSING: _MISSING_COLOUR} if _MISSING in words else palette)


def with_large_classes(colouring: Colouring) -> Colouring | None:
    """The colouring without classes of 1 to 9 images, which anybody could count on the map: they become one class, with
    those that are not known and, if that is too small, the smallest other. None where a finding is so rare, or where
    one class is left.
    """
    sizes = Counter(colouring.words)
    merged = {word for word, size in sizes.items() if is_small(size)}
    if not merged:
        return colouring
    unknown = {_MISSING, "not mentioned"} & set(sizes)
    others = sorted(set(sizes) - merged - unknown, key=lambda word: sizes[word])
    merged |= unknown
    if is_small(sum(sizes[word] for word in merged)):
        merged |= set(others[:1])
    if (colouring.group == "finding" and "present" in merged) or len(set(sizes) - merged) < 2 - bool(merged):
        return None
    words = [_NOT_TOLD if word in merged else word for word in colouring.words]
    palette = {word: colour for word, colour in colouring.legend if word not in merged} | {_NOT_TOLD: _MISSING_COLOUR}
    return _colouring(colouring.name, colouring.group, words, palette)


def thumbnails(
    images: NDArray[np.uint8], heights: Sequence[int | None], widths: Sequence[int | None], side: int = THUMBNAIL_SIDE
) -> list[str]:
    """Squashed images (B, S, S) in their true proportions, the longer side `side` pixels, as JPEG data URIs."""
    found = []
    for image, height, width in zip(images, heights, widths, strict=True):
        scale = side / max(height or 1, width or 1)
        size = max(1, round((width or 1) * scale)), max(1, round((height or 1) * scale))
        buffer = io.BytesIO()
        Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0).save(
            buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True
        )
        found.append("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode())
    return found


def map_item(
    projections: Mapping[str, Projection], colourings: Sequence[Colouring], names: Sequence[str], images: Sequence[str]
) -> EmbeddingMap:
    """One map of `projections` by encoder, each (N, 2); `names` (N,) hashed; `images` (N,) data URIs, or empty."""
    first = next(iter(projections.values()))
    facts = [
        [f"{one.name}: {one.words[row]}" for one in colourings if one.group == "chart"] for row in range(len(names))
    ]
    found = [
        [one.name for one in colourings if one.group == "finding" and one.words[row] == "present"]
        for row in range(len(names))
    ]
    captions = [
        " · ".join([f"image {name}", *about, f"findings: {', '.join(present) or 'none marked'}"])
        for name, about, present in zip(names, facts, found, strict=True)
    ]
    start = first.points if first.neighbourhoods is None else first.neighbourhoods
    data: dict[str, Any] = {"x": start[:, 0].round(3), "y": start[:, 1].round(3), "caption": captions}
    data["colour"] = colourings[0].colours if colourings else [_MISSING_COLOUR] * len(names)
    if images:
        data["image"] = list(images)
    source = ColumnDataSource(data)
    plot = _plot(source, bool(images))
    return {
        "item": json_item(plot),
        "source": source.id,
        "images": bool(images),
        "encoders": [{"name": name, "layouts": _layouts(one)} for name, one in projections.items()],
        "colourings": [
            {"name": one.name, "group": one.group, "legend": one.legend, "colours": _coded(one)} for one in colourings
        ],
    }


def _layouts(one: Projection) -> list[MapLayout]:
    first, second = (f"{100 * share:.0f}" for share in one.shares)
    ways = [("Neighbourhoods (t-SNE)", one.neighbourhoods)]
    ways += [(f"Principal components ({first} % and {second} % of variance)", one.points)]
    return [
        {"name": name, "x": points[:, 0].round(3).tolist(), "y": points[:, 1].round(3).tolist()}
        for name, points in ways
        if points is not None
    ]


def _plot(source: ColumnDataSource, images: bool) -> Any:
    """A Bokeh figure of the points of `source`; pointing at one shows its caption and image."""
    picture = '<img src="@image" alt="" style="align-self: start">' if images else ""
    plot = figure(
        height=460,
        sizing_mode="stretch_width",
        tools="pan,wheel_zoom,box_zoom,tap,reset",
        toolbar_location="above",
        output_backend="canvas",
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        min_border=4,
    )
    plot.toolbar.logo = None
    plot.axis.visible = False
    plot.grid.grid_line_color = "#8a94a1"
    plot.grid.grid_line_alpha = 0.25
    points = plot.scatter(
        "x", "y", source=source, size=8, fill_color="colour", line_color="#ffffff", line_width=0.5, fill_alpha=0.85
    )
    points.nonselection_glyph = points.glyph
    points.selection_glyph = points.glyph.clone(size=15, line_color="#111111", line_width=2.0)
    tooltip = _TOOLTIP.format(image=picture, width=290 if images else 200)
    plot.add_tools(HoverTool(tooltips=tooltip, attachment="horizontal", limit=1))
    return plot


def json_island(value: Any) -> str:
    """JSON that is safe inside a script element."""
    return json.dumps(value, separators=(",", ":"), default=_plain).replace("<", "\\u003c")


def _coded(colouring: Colouring) -> list[int]:
    """Which entry of the legend each point has: a tenth of the bytes of its colour."""
    places = {word: place for place, (word, _) in enumerate(colouring.legend)}
    return [places[word] for word in colouring.words]


def _colouring(name: str, group: str, words: list[str], palette: Mapping[str, str]) -> Colouring:
    return Colouring(name, group, [palette[word] for word in words], words, list(palette.items()))


def _truth_word(value: float | None) -> str:
    if value is None or value != value:
        return "not mentioned"
    return {1: "present", 0: "absent", -1: "uncertain"}.get(int(value), "not mentioned")


def _decimals(values: NDArray[np.float64]) -> int:
    spread = float(np.ptp(values)) if values.size else 0.0
    return 0 if spread >= 10 else 2


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"no JSON for {type(value).__name__}")
