"""Figures 5 and 11: the effective receptive field (ERF) of backbones after training, and of one before it.

As Luo et al. (NeurIPS'16) define it and the script of RepLKNet (Ding et al., CVPR'22; VMamba's figure uses it too)
computes it: the contribution of a pixel is the positive part of the gradient, with respect to the pixel, of the
summed positive outputs at the centre of the feature map; summed over the pixel's colours, averaged over images.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import DataLoader

from ..build import build_model
from ..checks import require_at_least_one, require_seeds
from ..data import normalise
from ..evaluation import Floats
from ..measuring import loader, progress
from ..model import ZeroShotModel
from ..report import network
from .run import Command, Run, load_run
from .style import new_figure

SHARES = (0.2, 0.3, 0.5, 0.99)  # of the contribution; RepLKNet's thresholds
LOWEST = -12  # log10 of a share of the largest contribution: drawn for none at all, which has no logarithm


def effective_receptive_field(feature_map: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> Floats:
    """The mean contribution of each pixel to the centre of the feature map, (H, W) float64.

    Args:
        feature_map: images (b, 3, H, W) to maps (b, h, w, C), each image independently; the centre is [h // 2, w // 2].
        batches: images (b, 3, H, W), prepared as in training.

    Raises:
        ValueError: if a contribution is not finite, or no pixel has any.
    """
    total, count = torch.zeros(()), 0
    for images in batches:
        images = images.detach().requires_grad_()
        f = feature_map(images)
        centre = f[:, f.shape[1] // 2, f.shape[2] // 2]
        (gradient,) = torch.autograd.grad(centre.relu().sum(), images)
        total = total + gradient.relu().sum(dim=(0, 1)).double().cpu()
        count += len(images)
    if not total.isfinite().all() or not total.any():
        raise ValueError("the gradient of the feature map's centre is zero or not finite: has the training diverged?")
    return (total / count).numpy()


def share_of_pixels(contribution: Floats, share: float) -> float:
    """The smallest share of the pixels that holds `share` of all contribution; equal where all contribute alike.

    Unlike RepLKNet's centred rectangle over logarithms it does not change with the scale of the gradient.
    """
    held = np.cumsum(np.sort(contribution, axis=None)[::-1])
    return float(np.searchsorted(held, share * held[-1]) + 1) / held.size


def draw(contributions: Sequence[tuple[str, Floats]], caption: str) -> Figure:
    """Titles and contributions (H, W), each relative to its own largest value, on one logarithmic scale."""
    logs = [np.log10(np.maximum(c / c.max(), 10.0**LOWEST)) for _, c in contributions]
    lowest = min(float(np.percentile(log[log > LOWEST], 2)) for log in logs)
    with new_figure(3.6, caption, width=3.2 * len(logs) + 0.6) as figure:
        axes = figure.subplots(1, len(logs), squeeze=False)[0]
        for panel, (title, contribution), log in zip(axes, contributions, logs, strict=True):
            H, W = log.shape
            picture = panel.imshow(log, cmap="viridis", vmin=lowest, vmax=0, extent=(0, W, H, 0))
            half, most = (100 * share_of_pixels(contribution, share) for share in (0.5, 0.99))
            panel.set(title=title, xlabel=f"50% of it in {half:.1f}% of the pixels, 99% in {most:.1f}%")
            panel.spines[:].set_visible(False)
        figure.colorbar(picture, ax=list(axes), label="log10 (contribution / largest)", extend="min", shrink=0.75)
    return figure


@dataclass(frozen=True)
class ERF(Command):
    """Like Figures 5 and 11: effective receptive fields before and after training, and of other runs' backbones."""

    beside: tuple[Path, ...] = ()
    """checkpoints of other runs on the same data set, to compare on the same images"""
    images: int = 50
    """training images to average over, drawn at random"""
    image_size: int | None = None
    """side of the images in pixels; by default the run's (the paper's figure has 1024)"""
    before: Literal["start", "random"] = "start"
    """what to compare training with.
    start: the initial weights of the run (pretrained, if its settings name a file);
    random: the same network with random weights"""
    seed: int = 0
    """seed that draws the images"""

    def __post_init__(self) -> None:
        require_at_least_one(self, "images")
        require_seeds(self, "seed")
        if self.image_size is not None:
            require_at_least_one(self, "image_size")

    def draw(self, run: Run) -> Figure:
        """The figure; prints the shares of pixels that hold shares of the contribution."""
        settings, trainval = run.settings, run.data.trainval
        size = self.image_size or settings.image_size
        order = torch.randperm(len(trainval), generator=torch.Generator().manual_seed(self.seed))
        images = trainval[order[: self.images]]
        one_by_one = replace(settings, image_size=size, batch_size=1)  # large images, and gradients of all that is done
        batches = loader(run.data, images, one_by_one)
        others = [self._other(path, run) for path in self.beside]
        contributions = [
            (self._before(run), _measure(self.untrained(run), batches, run)),
            *((f"{network(r.settings)} after training", _measure(r.model, batches, r)) for r in (run, *others)),
        ]
        for title, contribution in contributions:
            shares = ", ".join(f"{100 * s:g}% in {100 * share_of_pixels(contribution, s):.2f}%" for s in SHARES)
            print(f"{title}: contribution in share of the pixels: {shares}")
        shown = (
            "Effective receptive field: contribution of each pixel to the centre of the feature map, mean over "
            f"training images ({len(images)} of them, at {size} px); no test image."
        )
        beside = "".join(f" Beside it: {other.described}." for other in others)
        return draw(contributions, run.caption(shown) + beside)

    def _other(self, path: Path, run: Run) -> Run:
        other = load_run(replace(self, checkpoint=path))
        other.checkpoint.check_fits(run.data)
        return other

    def _before(self, run: Run) -> str:
        pretrained = self.before == "start" and run.settings.weights_file() is not None
        return "before training (pretrained)" if pretrained else "before training (random weights)"

    def untrained(self, run: Run) -> ZeroShotModel:
        """The model before training.

        Raises:
            FileNotFoundError, ValueError: if the pretrained weights that the run began with cannot be read.
        """
        settings = run.settings
        if self.before == "random":
            settings = replace(settings, weights=None, freeze_backbone=False)
        torch.manual_seed(run.checkpoint.record.seed)  # as in training: the run's own initial weights
        return build_model(settings, run.data.V).to(run.device).eval()


def _measure(model: ZeroShotModel, batches: DataLoader, run: Run) -> Floats:
    model.requires_grad_(False)
    bar = progress(batches, desc="gradients", unit="img")
    return effective_receptive_field(
        lambda x: model.backbone(x).map, (normalise(images.to(run.device)) for images, _ in bar)
    )
