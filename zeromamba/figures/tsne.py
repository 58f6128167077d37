"""After Figures 4 and 10: t-SNE (van der Maaten and Hinton, JMLR 2008) of visual and semantic features of images."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.manifold import TSNE as Embedding
from sklearn.metrics import silhouette_score
from torch import Tensor

from ..evaluation import Floats, Ints
from ..measuring import loader, represent
from .run import ClassCommand, Run
from .style import COLOURS, MARKERS, new_figure, readable

PERPLEXITY = 30  # scikit-learn's default, lowered where there are few images
LEAST = 4  # images of a kind of class, to be shown


class ImageFeatures(NamedTuple):
    """Features of images of one kind of class, seen or unseen."""

    visual: Floats  # (m, C) g of (8)
    semantic: Floats  # (m, a) psi of (9)
    labels: Ints  # (m,)


def features(run: Run, indices: Tensor) -> ImageFeatures:
    """The features of some images."""
    model, settings = run.model, run.settings

    def both(images: Tensor) -> Tensor:
        f = model.backbone(images)
        return torch.cat([f.pooled, model.represent(f)], dim=-1)

    values, indices = represent(model, loader(run.data, indices, settings), settings, run.device, both)
    semantic = len(run.data.attribute_names)
    return ImageFeatures(
        values[:, :-semantic].double().numpy(), values[:, -semantic:].double().numpy(), run.data.labels[indices].numpy()
    )


def embed(values: Floats, seed: int) -> Floats:
    """t-SNE of values (m, d), m at least `LEAST`, to (m, 2), the same for the same seed.

    Raises:
        ValueError: for values that are not finite.
    """
    if not np.isfinite(values).all():
        raise ValueError("the features are not finite: has the training diverged?")
    perplexity = min(PERPLEXITY, (len(values) - 1) / 3)
    return Embedding(perplexity=perplexity, init="pca", random_state=seed).fit_transform(values)


def silhouette(values: Floats, labels: Ints) -> str:
    """Mean silhouette of the classes in the features themselves, (m, d), if there is more than one image of a class."""
    defined = 1 < len(np.unique(labels)) < len(labels)
    return f"silhouette {silhouette_score(values, labels):z.2f}" if defined else "no silhouette"


def draw(rows: dict[str, ImageFeatures], class_names: tuple[str, ...], seed: int, caption: str) -> Figure:
    """A row for each kind of class: visual features left, semantic ones right, a colour and a marker a class."""
    with new_figure(2.9 * len(rows), caption) as figure:
        grid = figure.subplots(len(rows), 2, squeeze=False)
        for axes, (kind, of) in zip(grid, rows.items(), strict=True):
            for panel, name, values in (
                (axes[0], "visual features g", of.visual),
                (axes[1], "semantic features ψ", of.semantic),
            ):
                points = embed(values, seed)
                for i, c in enumerate(np.unique(of.labels)):
                    x, y = points[of.labels == c].T
                    colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
                    panel.scatter(
                        x, y, s=11, c=colour, marker=marker, linewidths=0, alpha=0.8, label=readable(class_names[c])
                    )
                panel.set(xticks=[], yticks=[], title=f"{name}: {silhouette(values, of.labels)}")
                panel.spines[:].set_visible(True)
            axes[0].set_ylabel(kind)
            axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=1.6, fontsize=7, handletextpad=0.1)
    return figure


@dataclass(frozen=True)
class TSNE(ClassCommand):
    """Like Figures 4 and 10: t-SNE of visual and semantic features of test images, of unseen and of seen classes."""

    def draw(self, run: Run) -> Figure:
        """The figure."""
        data = run.data
        pools = {"unseen classes": data.test_unseen, "seen classes": data.test_seen}
        picked = {kind: self.pick(data, pool) for kind, pool in pools.items()}
        if not any(map(len, picked.values())):
            raise ValueError(f"{data.name!r} has no test image of {', '.join(self.classes)}")
        few = {kind: len(indices) for kind, indices in picked.items() if 0 < len(indices) < LEAST}
        enough = {kind: indices for kind, indices in picked.items() if len(indices) >= LEAST}
        told = ", ".join(f"{count} test images of {kind}" for kind, count in few.items())
        if not enough:
            raise ValueError(
                f"{told}: t-SNE needs {LEAST} of a kind; name more --classes, or raise --per-class or --count"
            )
        if few:
            print(f"note: {told}: left out, t-SNE needs {LEAST}")
        rows = {kind: features(run, indices) for kind, indices in enough.items()}
        shown = (
            f"t-SNE of test images (classes and images drawn with seed {self.seed}); the figure chooses nothing. Left: "
            "pooled visual feature g of (8). Right: semantic representation ψ of (9). Mean silhouettes are of the "
            "features before t-SNE: 1 where classes are apart, 0 where they overlap, below where they are mixed."
        )
        return draw(rows, data.class_names, self.seed, run.caption(shown))
