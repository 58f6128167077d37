"""How all figures look, and how they get to the disk."""

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from ..files import require_writable, write_bytes

FORMATS = (".png", ".pdf", ".svg")
WIDTH = 7.2  # inches: a page of two columns
DPI = 160
CAPTION_SIZE = 7  # points
CHARACTER = 0.57  # mean width of a character, as a share of its size
LINE = 1.4  # distance of lines, as a share of the letters' size

# Okabe and Ito's colours, told apart by colour-blind readers (but yellow, too pale on white), and two of Tol's
BLUE, ORANGE, GREEN, PURPLE, SKY, RED, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#595959",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, GREY, "#000000", "#882255", "#999933")
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "p", "*")  # with COLOURS: 110 pairs before one comes twice

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "text.parse_math": False,  # names are shown as they are, with a $ too
    "figure.constrained_layout.h_pad": 0.08,  # inches; with less, the uppermost title is cut
    "svg.fonttype": "none",
}


@contextmanager
def new_figure(height: float, caption: str, width: float = WIDTH) -> Iterator[Figure]:
    """A figure to draw on, `width` x `height` inches and what its caption below needs."""
    lines = wrap(caption, width, CAPTION_SIZE)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height + len(lines) * LINE * CAPTION_SIZE / 72), layout="constrained")
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=CAPTION_SIZE, color=GREY)
        yield figure


def wrap(text: str, width: float, size: float) -> list[str]:
    """The lines of a text set in letters of `size` points, none wider than `width` inches."""
    characters = int(72 * width / (CHARACTER * size))
    return [line for paragraph in text.splitlines() for line in textwrap.wrap(paragraph, characters)]


def readable(name: str) -> str:
    """The name of a class or attribute with blanks, at which it can be broken, for a data set's separators."""
    return name.replace("::", ": ").replace("_", " ").replace("+", " ")


def prepare(file: Path) -> None:
    """Make sure that a figure can be written to `file`.

    Raises:
        ValueError: for a format that is not drawn.
        OSError: if it cannot be written there.
    """
    if file.suffix not in FORMATS:
        raise ValueError(f"--out {file}: expected a file that ends in {', '.join(FORMATS)}")
    require_writable(file)


def save(figure: Figure, file: Path) -> None:
    """Write a figure atomically, in the format that the file's name ends in."""
    data = io.BytesIO()
    figure.savefig(data, format=file.suffix[1:], dpi=DPI)
    write_bytes(file, data.getbuffer())
