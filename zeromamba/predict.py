"""Name what is in pictures, by attributes: `python -m zeromamba.predict CHECKPOINT PICTURE...`.

The classes are those of the checkpoint, or any others that `--classes` describes by the same attributes: a class
needs a line of numbers, not an image.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from torch import Tensor

from .build import restore_model
from .checkpoint import Checkpoint, load_checkpoint
from .data import ImageDataset, ImageFiles
from .data.base import unit_prototypes
from .data.folder import read_table
from .model import ZeroShotModel
from .training import pick_device


@dataclass(frozen=True)
class Prediction:
    """What a picture shows, likeliest first."""

    classes: tuple[tuple[str, float], ...]  # names and probabilities, gamma not taken off
    attributes: tuple[tuple[str, float], ...]  # names and psi, the semantic representation


def read_classes(path: Path, attribute_names: tuple[str, ...]) -> tuple[tuple[str, ...], Tensor]:
    """Class names and prototypes Z (c, a) from a table as `attributes.csv` of a data set of one's own.

    Raises:
        FileNotFoundError, ValueError: if it is missing, or does not have exactly the attributes, in any order.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table of classes")
    columns, rows = read_table(path, header=True)
    if sorted(columns) != sorted(attribute_names):
        missing = [name for name in attribute_names if name not in columns]
        unknown = [name for name in columns if name not in attribute_names]
        raise ValueError(
            f"{path}: its columns are not the checkpoint's {len(attribute_names)} attributes: missing {missing[:10]}, "
            f"unknown {unknown[:10]}"
        )
    order = [columns.index(name) for name in attribute_names]
    Z, _ = unit_prototypes(np.stack([row[order] for row in rows.values()]), tuple(rows), str(path))
    return tuple(rows), Z


@torch.inference_mode()
def predict(
    model: ZeroShotModel, images: Tensor, Z: Tensor, class_names: tuple[str, ...], attribute_names: tuple[str, ...]
) -> list[Prediction]:
    """Name images (b, 3, H, W), prepared as `ImageDataset` does, among classes with prototypes Z (c, a)."""
    model.eval()
    psi = model(images).float()
    p = model.logits(psi, Z.to(psi.device)).softmax(dim=-1)
    return [
        Prediction(_ranked(class_names, p_i), _ranked(attribute_names, psi_i))
        for p_i, psi_i in zip(p, psi, strict=True)
    ]


def _ranked(names: tuple[str, ...], values: Tensor) -> tuple[tuple[str, float], ...]:
    order = values.argsort(descending=True).tolist()
    return tuple((names[i], float(values[i])) for i in order)


@dataclass(frozen=True)
class CommandLine:
    """Name what is in pictures, by attributes."""

    checkpoint: tyro.conf.Positional[Path]
    """model.safetensors of a run"""
    pictures: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """image files"""
    classes: Path | None = None
    """CSV of classes to choose among (a name, then the checkpoint's attributes); by default the checkpoint's"""
    top: int = 3
    """how many classes and attributes to show"""
    device: str = "auto"
    """cpu, cuda, ..."""


def candidates(command: CommandLine, checkpoint: Checkpoint) -> tuple[tuple[str, ...], Tensor]:
    """Names and prototypes of the classes to choose among."""
    if command.classes:
        return read_classes(command.classes, checkpoint.record.attribute_names)
    return checkpoint.record.class_names, checkpoint.Z


def main(argv: list[str] | None = None) -> None:
    command = tyro.cli(CommandLine, args=argv)
    try:
        device = pick_device(command.device)
        checkpoint = load_checkpoint(command.checkpoint)
        names, Z = candidates(command, checkpoint)
        model = restore_model(checkpoint, checkpoint.settings).to(device)
        pictures = ImageFiles(Path(), [str(path) for path in command.pictures])
        images = ImageDataset(pictures, torch.arange(len(pictures)), checkpoint.settings.image_size)
        for i, path in enumerate(command.pictures):
            (shown,) = predict(model, images[i][0][None].to(device), Z, names, checkpoint.record.attribute_names)
            classes = ", ".join(f"{name} {p:.2f}" for name, p in shown.classes[: command.top])
            attributes = ", ".join(name for name, _ in shown.attributes[: command.top])
            print(f"{path}: {classes} (attributes: {attributes})")
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
