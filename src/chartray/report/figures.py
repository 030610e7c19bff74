"""Figures: panels drawn alone for the page (SVG that follows its colours) and in a grid for print (SVG and PDF).

A panel is a drawing function for one set of axes, so that the page can lay panels out for any width while the SVG and
PDF files hold the same drawing as one figure.
"""

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from fontTools import subset  # type: ignore[import-untyped]
from fontTools.ttLib import TTFont  # type: ignore[import-untyped]
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chartray.results.arm import Arm

# Inches under the axes for tick labels and the axis title.
BOTTOM = 0.48
PAPER, INK, MUTED, RULE = "#fbfbf9", "#1b2430", "#5b6675", "#d5dae1"
# Mostly Okabe and Ito's colours: usual arms are distinct in deuteranopia and protanopia (tests say how far), in
# light and dark; marker and line style say the same without colour.
_CHART_COLOURS = ("#0072b2", "#56b4e9", "#44aa99", "#117733")
_FIXED: dict[str, tuple[str, str, Literal["-", "--", "-.", ":"]]] = {
    "none": ("#d55e00", "s", "--"),
    "dino": ("#882255", "s", "-."),
    "mae": ("#8c6d1f", "s", ":"),
    "shuffled": ("#cc79a7", "D", "-."),
    "constant": ("#e69f00", "^", ":"),
    "mask-only": ("#8c6d1f", "v", ":"),
    "public": ("#7a4f9a", "P", "-."),
    "untrained": ("#6b7280", "X", ":"),
    "pixels": ("#2f353d", "P", ":"),
    "chart-only": ("#009e73", "*", "-."),
    "image+chart": ("#332288", "h", "--"),
}
_MARKERS = ("o", "^", "v", "D", "s", "X", "P", "*", "h")
_LINES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-.", ":", "--", "-")
# Keys are literals to the type checker; any mapping of them will do.
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    # TrueType, which journals ask for: many refuse Type 3.
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "font.sans-serif": ["Chartray Sans", "DejaVu Sans"],
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
}


class Style(NamedTuple):
    """Colour, marker and line of an arm, the same everywhere on the page."""

    colour: str
    marker: str
    line: Literal["-", "--", "-.", ":"]


class Panel(NamedTuple):
    """One set of axes: `title` above it, `description` for those who cannot see it, inches wide and high."""

    title: str
    description: str
    draw: Callable[[Axes], None]
    width: float = 3.6
    height: float = 2.5
    left: float = 0.62


class DrawnPanel(NamedTuple):
    """A panel on the page: its title, how to read it, and the SVG element."""

    title: str
    note: str
    svg: str


def slug(place: str) -> str:
    """A place as part of a file name and of an element's id."""
    return "".join(letter if letter.isalnum() else "-" for letter in place.lower())


def only(styles: Mapping[Arm, Style], arms: Iterable[Arm]) -> dict[Arm, Style]:
    """The styles of some arms, for a legend."""
    wanted = set(arms)
    return {arm: style for arm, style in styles.items() if arm in wanted}


def drawn(panel: Panel, name: str, note: str = "") -> DrawnPanel:
    """A panel for the page alone; `name` is unique on the page."""
    return DrawnPanel(panel.title, note, single(panel, name))


def saved(panel: Panel, name: str, styles: Mapping[Arm, Style], out: Path) -> DrawnPanel:
    """A panel for the page, and as `out`/figures/`name`.svg and .pdf."""
    save_grid([panel], styles, out / "figures" / name, columns=1)
    return drawn(panel, name)


def arm_styles(arms: Sequence[Arm]) -> dict[Arm, Style]:
    """A style for each arm, the same in every figure: charts blue, no chart vermilion, untrained and pixels grey.

    Arms that would have one style (no chart under MSN and under DINO) differ in marker and line.
    """
    found: dict[Arm, Style] = {}
    for arm in sorted(set(arms), key=lambda arm: arm.order):
        if arm.kind == "chart":
            place = sum(other.kind == "chart" for other in found)
            style = Style(_CHART_COLOURS[place % len(_CHART_COLOURS)], "o", "-")
        else:
            name = {"none": arm.objective if arm.objective in _FIXED else "none", "public": "public"}.get(
                arm.kind, arm.control
            )
            style = Style(*_FIXED.get(name, ("#882255", "o", "-")))
        ways = (style._replace(marker=marker, line=line) for line in _LINES for marker in _MARKERS)
        found[arm] = next((one for one in (style, *ways) if one not in found.values()), style)
    return found


@lru_cache(maxsize=1)
def _small_font() -> TemporaryDirectory[str]:
    """Makes the family "Chartray Sans" known: DejaVu Sans cut to Latin letters, which TrueType needs for speed.

    matplotlib reads and subsets the whole font for each PDF, 0.4 s for DejaVu's 6,000 glyphs and a tenth for these.
    Other letters are still taken from DejaVu Sans. The font lives as long as the folder that is returned.
    """
    folder = TemporaryDirectory()
    latin = [*range(0x20, 0x180), *range(0x2010, 0x2027), 0x2212, 0x2190, 0x2192, 0x2264, 0x2265]
    options = subset.Options(layout_features=[], name_IDs=["*"], notdef_outline=True)
    options.drop_tables += ["FFTM"]
    font = TTFont(font_manager.findfont("DejaVu Sans"))
    smaller = subset.Subsetter(options)
    smaller.populate(unicodes=latin)
    smaller.subset(font)
    for record in font["name"].names:
        if record.nameID in (1, 3, 4, 6, 16):
            record.string = "ChartraySans" if record.nameID == 6 else "Chartray Sans"
    file = Path(folder.name) / "ChartraySans.ttf"
    font.save(file)
    font_manager.fontManager.addfont(file)
    return folder


def single(panel: Panel, name: str) -> str:
    """A panel alone, as an SVG element for the page: its ink, rules and arm colours are the page's CSS variables."""
    _small_font()
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(panel.width, panel.height))
        panel.draw(_axes(figure, panel, 0.0, panel.height, top=0.1))
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return themed(text.getvalue(), name, panel.description)


def save_grid(panels: Sequence[Panel], styles: Mapping[Arm, Style], stem: Path, *, columns: int) -> list[Path]:
    """All panels as one figure with a legend: `stem`.svg and `stem`.pdf."""
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = panels[0].width, max(panel.height for panel in panels) + 0.2
    _small_font()
    with mpl.rc_context(_STYLE | {"svg.hashsalt": stem.name}):
        legend_columns = max(1, min(len(styles), int(width * columns / 2.4)))
        legend_height = 0.2 * math.ceil(len(styles) / legend_columns) + 0.15
        figure = Figure(figsize=(width * columns, height * rows + legend_height))
        for place, panel in enumerate(panels):
            row, column = divmod(place, columns)
            axes = _axes(figure, panel, column * width, legend_height + (rows - row) * height, top=0.3)
            panel.draw(axes)
            axes.set_title(panel.title)
        handles = [
            mpl.lines.Line2D(
                [], [], color=style.colour, marker=style.marker, linestyle=style.line, ms=5, label=arm.title
            )
            for arm, style in styles.items()
        ]
        figure.legend(handles=handles, loc="lower left", ncols=legend_columns)
        stem.parent.mkdir(parents=True, exist_ok=True)
        files = [stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.pdf")]
        for file, clock in zip(files, ("Date", "CreationDate"), strict=True):
            drawn = io.BytesIO()  # matplotlib's PDF on a full disk raises its own error
            figure.savefig(drawn, format=file.suffix[1:], metadata={clock: None})
            file.write_bytes(drawn.getvalue())
    return files


def _axes(figure: Figure, panel: Panel, left: float, top_edge: float, *, top: float) -> Axes:
    """Axes for a panel whose upper left corner is at (left, top_edge) inches.

    Margins are given, not measured: matplotlib's layout engines draw every figure twice.
    """
    width, height = figure.get_size_inches()
    inner_width, inner_height = panel.width - panel.left - 0.15, panel.height - BOTTOM - 0.1
    corner = left + panel.left, top_edge - top - inner_height
    return figure.add_axes(
        (corner[0] / width, corner[1] / height, inner_width / width, inner_height / height), anchor="NW"
    )


def themed(svg: str, name: str, description: str) -> str:
    """A matplotlib SVG made part of the page: unique ids, page font, CSS colours, words for screen readers.

    A fixed colour stays as the fallback of each variable, so the element is right outside the page too.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"'Chartray Sans'[^;\"]*", "system-ui, sans-serif", svg)
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda found: f"var(--c{found[0][1:]}, {found[0]})", svg)
    words = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    ((width, height),) = ((float(w), float(h)) for w, h in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[:1])
    head = f'<svg class="plot" role="img" aria-label="{words}" viewBox="0 0 {width:g} {height:g}" '
    head += f'style="--w: {width / 0.75:.0f}px" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return head + svg[svg.index(">") + 1 :]
