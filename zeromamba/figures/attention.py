"""After Figures 3 and 9: where on an image the model finds the attributes of its class, M of (6)."""

from dataclasses import dataclass
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..checks import require_at_least_one
from ..data import ImageDataset, normalise
from ..device import autocast
from ..evaluation import Floats, classify
from ..report import network
from .run import ClassCommand, Run
from .style import LINE, new_figure, readable, wrap

LEVELS = np.linspace(0, 1, 256)
SIDE = 1.25  # of a panel, inches
TITLE_SIZE = 7  # points
DARKEST = 120  # of grey, 0 to 255: what black becomes under an attention map
# from clear to dark red: where there is no attention, the image is left as it is
HEAT = ListedColormap(np.column_stack([matplotlib.colormaps["YlOrRd"](LEVELS)[:, :3], 0.85 * LEVELS**0.5]))


class Panel(NamedTuple):
    """One attribute on one image."""

    attribute: str
    M: Floats  # (h, w), sums to one
    psi: float  # how strongly the model finds it
    z: float  # its weight in the prototype of the image's class


class Row(NamedTuple):
    """One image and the attributes that matter most to its class, most first."""

    image: Image.Image  # square, as the model sees it
    label: str
    seen: bool
    predicted: str  # by (14), among all classes, with the run's gamma
    panels: tuple[Panel, ...]


@torch.inference_mode()
def attention_rows(run: Run, indices: Tensor, attributes: int) -> list[Row]:
    """For each image, the attention maps of at most `attributes` attributes: those of largest |z| in its class."""
    data, model, is_seen = run.data, run.model, run.is_seen
    slp = getattr(model, "slp", None)
    if slp is None:
        raise ValueError(f"{run.checkpoint.source}: {run.settings.components!r} has no SLP, hence no attention map")
    images = ImageDataset(data.images, indices, run.settings.image_size)
    rows = []
    for x, i in (images[j] for j in range(len(images))):
        with autocast(run.settings, run.device):
            features = model.backbone(normalise(x[None].to(run.device)))
            M = slp.attention(features.map)[0].double().cpu().numpy()
            psi = model.represent(features).float().cpu()
        p = model.probabilities(psi, data.Z).numpy()
        (guess,) = classify(p, is_seen.numpy(), run.checkpoint.record.gamma)
        c = int(data.labels[i])
        z, top = data.Z[c], data.Z[c].abs().argsort(descending=True, stable=True)[:attributes].tolist()
        panels = tuple(Panel(data.attribute_names[a], M[a], float(psi[0, a]), float(z[a])) for a in top if z[a] != 0)
        image, names = Image.fromarray(x.permute(1, 2, 0).numpy()), data.class_names
        rows.append(Row(image, names[c], bool(is_seen[c]), names[guess], panels))
    return rows


def draw(rows: list[Row], caption: str) -> Figure:
    """A row an image: the image, then each attribute's map over it, all on one scale."""
    titles = [[_title(_about(row)), *(_title(_found(panel)) for panel in row.panels)] for row in rows]
    columns = max(map(len, titles))
    lines = sum(1 + max(title.count("\n") for title in of_row) for of_row in titles)
    # even attention, 1, is never dark: where nothing stands out, the map shows that
    strongest = max(2.0, *(panel.M.size * panel.M.max() for row in rows for panel in row.panels))
    height = len(rows) * SIDE + lines * LINE * TITLE_SIZE / 72
    with new_figure(height + 0.2, caption, width=max(columns * (SIDE + 0.1) + 0.7, 4.2)) as figure:
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for panel in grid.flat:
            panel.set_axis_off()  # also those that a class with fewer attributes leaves empty
        for axes, row, of_row in zip(grid, rows, titles, strict=True):
            W, H = row.image.size
            for panel, title in zip(axes, of_row, strict=False):
                panel.set_title(title, fontsize=TITLE_SIZE)
            axes[0].imshow(row.image)
            for panel, shown in zip(axes[1:], row.panels, strict=False):
                panel.imshow(np.asarray(row.image.convert("L")), cmap="gray", vmin=-DARKEST, vmax=255)
                picture = panel.imshow(
                    shown.M.size * shown.M,
                    cmap=HEAT,
                    vmin=0,
                    vmax=strongest,
                    interpolation="bilinear",
                    extent=(-0.5, W - 0.5, H - 0.5, -0.5),
                )
        bar = figure.colorbar(picture, ax=grid, shrink=min(1.0, 1.5 / len(rows)), fraction=0.03)
        bar.set_label("attention M / uniform", fontsize=TITLE_SIZE)
    return figure


def _about(row: Row) -> str:
    kind = "seen class" if row.seen else "unseen class"
    verdict = "✓" if row.predicted == row.label else f"✗\n{readable(row.predicted)}"
    return f"{readable(row.label)}\n{kind} {verdict}"


def _found(panel: Panel) -> str:
    return f"{readable(panel.attribute)}\nψ {panel.psi:z.2f}, z {panel.z:.2f}"


def _title(text: str) -> str:
    return "\n".join(wrap(text, SIDE, TITLE_SIZE))


@dataclass(frozen=True)
class Attention(ClassCommand):
    """Like Figures 3 and 9: attention maps of the top attributes, on test images (of unseen classes by default)."""

    count: int = 4
    """without --classes: how many unseen classes to draw at random"""
    per_class: int = 1
    """largest number of images of each class"""
    attributes: int = 5
    """largest number of attributes of each image: those with the largest values in the prototype of its class"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least_one(self, "attributes")

    def draw(self, run: Run) -> Figure:
        """The figure."""
        data = run.data
        pool = torch.cat([data.test_unseen, data.test_seen]) if self.classes else data.test_unseen
        indices = self.pick(data, pool)
        if not len(indices):
            raise ValueError(f"{data.name!r} has no test image of {', '.join(self.classes)}")
        rows = attention_rows(run, indices, self.attributes)
        h, w = rows[0].panels[0].M.shape
        if h * w == 1:
            raise ValueError(
                f"{self.checkpoint}: on {run.settings.image_size} x {run.settings.image_size} pixels "
                f"{network(run.settings)} sees a single region, on which all attention lies: there is no map to draw; "
                "train with a larger --image-size"
            )
        shown = (
            f"Test images (drawn with seed {self.seed}); the figure chooses nothing. Beside each, the attention M of "
            f"(6) over {h} x {w} regions, as a multiple of even attention, of the attributes that weigh most in its "
            "class's prototype, z. ψ: the model's score of the attribute for the whole image, (9). ✓, ✗: whether "
            "the model names the class among all, (14), or which it names."
        )
        return draw(rows, run.caption(shown))
