"""What every figure starts from: a checkpoint, the data set it was trained on, and its model."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor

from ..build import load_trained
from ..checkpoint import RELEASED_SUFFIX, Checkpoint, load_checkpoint
from ..checks import require_at_least_one, require_seeds
from ..data import ZSLData
from ..data.tables import composed
from ..device import pick_device
from ..model import ZeroShotModel
from ..report import network, variant
from ..settings import PAPER_GAMMA, Settings, preset


@dataclass(frozen=True)
class Run:
    """A trained model and all that belongs to it; `settings` are the run's, with this machine's data and device."""

    checkpoint: Checkpoint
    settings: Settings
    data: ZSLData
    model: ZeroShotModel
    device: torch.device

    @property
    def is_seen(self) -> Tensor:
        """Which classes were trained on, (c,) bool."""
        return torch.isin(torch.arange(len(self.data.class_names)), self.data.seen)

    @property
    def described(self) -> str:
        """Which run it is, and how its epoch and gamma were chosen."""
        record, settings = self.checkpoint.record, self.settings
        epoch = f", epoch {record.epoch}" if record.epoch else ""  # the released checkpoints do not tell theirs
        return (
            f"data set {self.data.name}, {network(settings)}, {variant(settings)}, {settings.image_size} px, "
            f"seed {record.seed}{epoch}; protocol: {record.chosen_by}"
        )

    def caption(self, shown: str) -> str:
        """What a figure shows, and of which run."""
        return f"{shown} Run: {self.described}."


@dataclass(frozen=True)
class Command:
    """The options that all figures share; a figure adds its own, and `draw`."""

    checkpoint: tyro.conf.Positional[Path]
    """model.safetensors of a run, or a .pth of the released code (which needs --dataset)"""
    dataset: str | None = None
    """demo, cub, sun, awa2, imagenet, or a folder of your own; by default what the checkpoint was trained on"""
    data_root: Path | None = None
    """folder that holds CUB/, SUN/, AWA2/, ImageNet/, xlsa17/ and w2v/; by default the one used in training"""
    out: Path | None = None
    """.png, .pdf or .svg to write; by default beside the checkpoint"""
    device: str = "auto"
    """cpu, cuda, ...; auto uses a CUDA device if there is one"""

    @property
    def file(self) -> Path:
        """Where the figure goes."""
        name = type(self).__name__.lower()
        return self.out or self.checkpoint.with_name(f"{self.checkpoint.stem}_{name}.png")

    def draw(self, run: Run) -> Figure:
        """The figure."""
        raise NotImplementedError


@dataclass(frozen=True)
class ClassCommand(Command):
    """Options of the figures that show images of some classes."""

    classes: tuple[str, ...] = ()
    """names of the classes to show; by default drawn at random"""
    count: int = 10
    """without --classes: how many unseen classes to draw at random, and how many seen ones"""
    per_class: int = 100
    """largest number of images of each class"""
    seed: int = 0
    """seed of everything that is random"""

    def __post_init__(self) -> None:
        require_at_least_one(self, "count", "per_class")
        require_seeds(self, "seed")

    def pick(self, data: ZSLData, pool: Tensor) -> Tensor:
        """Image indices out of `pool`, class by class; none where the named classes have no image in it.

        Raises:
            ValueError: if the data set has no class of a given name.
        """
        given = list(dict.fromkeys(map(composed, self.classes)))
        unknown = [name for name in given if name not in data.class_names]
        if unknown:
            raise ValueError(f"--classes: {data.name!r} has no class {unknown[0]!r}; it has {list(data.class_names)}")
        generator = torch.Generator().manual_seed(self.seed)
        present = data.labels[pool].unique()
        some = present[torch.randperm(len(present), generator=generator)[: self.count]].sort().values.tolist()
        chosen = [data.class_names.index(name) for name in given] or some
        images = [pool[data.labels[pool] == c] for c in chosen]
        return torch.cat([i[torch.randperm(len(i), generator=generator)[: self.per_class]] for i in images])


def load_run(command: Command) -> Run:
    """Read a checkpoint and its data set, and build its model.

    Raises:
        FileNotFoundError, ValueError: for whatever is missing or does not fit, naming it.
        ImportError: if the backbone needs a package that cannot be imported.
    """
    device, path = pick_device(command.device), command.checkpoint
    checkpoint = None if path.suffix == RELEASED_SUFFIX else load_checkpoint(path)
    if checkpoint:
        trained = checkpoint.record.settings
    elif command.dataset in PAPER_GAMMA:
        trained = replace(preset(command.dataset, "paper"), protocol="paper")
    else:
        raise ValueError(f"{path} does not say on what it was trained: give --dataset cub, sun or awa2")
    settings = replace(
        trained.anywhere(),
        dataset=command.dataset or trained.dataset,
        data_root=command.data_root or trained.data_root,
        check_images=False,  # whichever are drawn are decoded then, and named if they cannot be
    )
    checkpoint, model, data = load_trained(path, checkpoint, settings)
    return Run(checkpoint, settings, data, model.to(device), device)
