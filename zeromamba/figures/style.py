"""How all figures look, and how they get to the disk."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from ..files import atomic_write

FORMATS = (".png", ".pdf", ".svg")
WIDTH = 7.2  # inches: a page of two columns
DPI = 160
CAPTION_SIZE = 7  # points
CHARACTER = 0.57  # mean width of a character, as a share of its size

# Okabe and Ito's colours, told apart by colour-blind readers and in print; yellow is left out, too pale on white
BLUE, ORANGE, GREEN, PURPLE, SKY, RED, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#595959",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, GREY, "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "p", "*")  # with COLOURS: 88 pairs before one comes twice

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "text.parse_math": False,  # names are shown as they are, with a $ too
    "svg.fonttype": "none",
}


@contextmanager
def new_figure(height: float, caption: str, width: float = WIDTH) -> Iterator[Figure]:
    """A figure of `width` x `height` inches to draw on, its caption below."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        characters = int(72 * width / (CHARACTER * CAPTION_SIZE))
        text = textwrap.fill(caption, characters)
        figure.supxlabel(text, x=0.01, ha="left", fontsize=CAPTION_SIZE, color=GREY)
        yield figure


def prepare(file: Path) -> None:
    """Make sure that a figure can be written to `file`.

    Raises:
        ValueError: for a format that is not drawn.
        OSError: if its folder cannot be made.
    """
    if file.suffix not in FORMATS:
        raise ValueError(f"--out {file}: expected a file that ends in {', '.join(FORMATS)}")
    file.parent.mkdir(parents=True, exist_ok=True)


def save(figure: Figure, file: Path) -> None:
    """Write a figure atomically, in the format that the file's name ends in."""
    atomic_write(file, lambda temporary: figure.savefig(temporary, format=file.suffix[1:], dpi=DPI))
