"""A model and the images of a split: batches, then representations, class scores, accuracies."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from .data import ImageDataset, ZSLData, normalise
from .device import autocast
from .evaluation import Bools, Evaluation, Floats, Ints, evaluate
from .files import write_bytes
from .model import ZeroShotModel
from .settings import Settings

# A bar that is gone when all is done, and that is drawn on terminals only.
progress = partial(tqdm, leave=False, dynamic_ncols=True, disable=None)


@dataclass(frozen=True)
class Split:
    """What one fit trains on and is measured on; all are indices, into the images or the classes of a `ZSLData`."""

    train: Tensor
    evaluated: Tensor  # images of seen and unseen classes, none of which is in train
    seen: Tensor
    unseen: Tensor

    @property
    def candidates(self) -> Tensor:
        """Class ids, seen classes first: class scores are in this order."""
        return torch.cat([self.seen, self.unseen])

    def local(self, labels: Tensor) -> Tensor:
        """Ids (m,) of candidates to their positions among the candidates."""
        position = torch.full((int(self.candidates.max()) + 1,), -1)
        position[self.candidates] = torch.arange(len(self.candidates))
        return position[labels]


def loader(data: ZSLData, indices: Tensor, settings: Settings, *, shuffle: bool = False, seed: int = 0) -> DataLoader:
    """Batches of (images (b, 3, H, W) uint8, image index (b,)); `shuffle` draws the order from `seed`."""
    order = indices[torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))] if shuffle else indices
    return DataLoader(
        ImageDataset(data.images, order, settings.image_size),
        settings.batch_size,
        num_workers=settings.workers,
        pin_memory=settings.device != "cpu" and torch.cuda.is_available(),
    )


@torch.inference_mode()
def represent(
    model: ZeroShotModel,
    batches: DataLoader,
    settings: Settings,
    device: torch.device,
    read: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Semantic representations psi (m, a) float32 and image indices (m,) of all images of a loader, on the CPU.

    `read` takes something else than psi from the model: it maps images (b, 3, H, W) to values (b, ...).
    """
    model.eval()
    read = read or model
    values, indices = [], []
    for images, index in progress(batches, desc="evaluate", unit="batch"):
        with autocast(settings, device):
            values.append(read(normalise(images.to(device, non_blocking=True))).float())
        indices.append(index)
    return torch.cat(values).cpu(), torch.cat(indices)  # once: every copy from a GPU waits for it


@dataclass(frozen=True)
class Scores:
    """Class scores of the evaluated images of a split, classes by their position among its candidates."""

    logits: Floats  # (m, c) before the softmax of (12)
    labels: Ints  # (m,)
    seen: Bools  # (c,)
    class_names: tuple[str, ...]  # (c,)
    images: tuple[str, ...]  # (m,) paths within the data set

    def evaluate(self, gamma: float | None) -> Evaluation:
        """Measure them; gamma None chooses it on these very images (validation splits only)."""
        return evaluate(self.logits, self.labels, self.seen, self.class_names, gamma)

    def save(self, path: Path) -> None:
        """Write them as a .npz, atomically: an array a field, logits as float32, of which they were made."""
        data = io.BytesIO()
        np.savez(data, **{**vars(self), "logits": self.logits.astype(np.float32)})
        write_bytes(path, data.getbuffer())


def score_split(model: ZeroShotModel, data: ZSLData, split: Split, settings: Settings, device: torch.device) -> Scores:
    """Score the evaluated images of a split against all its candidates.

    Raises:
        FloatingPointError: if a score is not finite: accuracies would be measured all the same.
    """
    psi, indices = represent(model, loader(data, split.evaluated, settings), settings, device)
    with torch.inference_mode():
        logits = model.logits(psi, data.Z[split.candidates])
    if not logits.isfinite().all():
        raise FloatingPointError(
            "class scores are not finite: the training diverged; begin a new run with a lower --lr"
        )
    seen = torch.arange(len(split.candidates)) < len(split.seen)
    return Scores(
        logits.double().numpy(),
        split.local(data.labels[indices]).numpy(),
        seen.numpy(),
        tuple(data.class_names[c] for c in split.candidates),
        tuple(map(data.images.relative_path, indices.tolist())),
    )
