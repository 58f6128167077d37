"""Name what is in pictures, by attributes: `python -m zeromamba.predict CHECKPOINT PICTURE...`.

The classes are those of the checkpoint, or any others that `--classes` describes by the same attributes: a class
needs a line of numbers, not an image.
"""

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor

from .build import restore_model
from .checkpoint import Checkpoint, load_checkpoint
from .checks import require, require_at_least_one
from .data import ImageDataset, ImageFiles, normalise
from .data.image_folders import SUFFIXES, class_folders, is_image
from .data.prototypes import require_distinct, unit_prototypes
from .data.tables import read_table
from .device import autocast, pick_device
from .entry import errors_in_one_line, expand_home
from .evaluation import Bools, calibrated
from .files import require_writable, write_json
from .messages import listing, near_matches, with_near_matches
from .model import ZeroShotModel
from .settings import Settings


@dataclass(frozen=True)
class Classes:
    """The classes to choose among."""

    names: tuple[str, ...]
    Z: Tensor  # (c, a) their prototypes
    seen: Bools  # (c,) which of them the model was trained on
    gamma: float  # what (14) takes off the probabilities of these

    @property
    def seen_names(self) -> tuple[str, ...]:
        return tuple(name for name, seen in zip(self.names, self.seen.tolist(), strict=True) if seen)


@dataclass(frozen=True)
class Prediction:
    """What a picture shows."""

    classes: tuple[tuple[str, float], ...]  # names and probabilities, ordered by (14), with gamma taken off
    attributes: tuple[tuple[str, float], ...]  # names and psi, the semantic representation, largest first


def read_classes(path: Path, attribute_names: tuple[str, ...]) -> tuple[tuple[str, ...], Tensor]:
    """Class names and prototypes Z (c, a) from a table like `attributes.csv` of a data set of one's own.

    Raises:
        FileNotFoundError, ValueError: if it is missing, does not have exactly the attributes, in any order, or has
            classes that these do not tell apart.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of classes")
    columns, rows = read_table(path, header=True)
    if sorted(columns) != sorted(attribute_names):
        missing = [name for name in attribute_names if name not in columns]
        unknown = [name for name in columns if name not in attribute_names]
        raise ValueError(
            f"{path}: its columns are not the checkpoint's {len(attribute_names)} attributes: missing: "
            f"{with_near_matches(missing, ())}; unknown: {with_near_matches(unknown, missing)}"
        )
    order = [columns.index(name) for name in attribute_names]
    Z, _ = unit_prototypes(np.stack([row[order] for row in rows.values()]), tuple(rows), str(path))
    require_distinct(Z, tuple(rows), str(path))
    return tuple(rows), Z


@torch.inference_mode()
def predict(
    model: ZeroShotModel, images: Tensor, classes: Classes, attribute_names: tuple[str, ...], settings: Settings
) -> list[Prediction]:
    """Name images (b, 3, H, W) uint8, of `ImageDataset`, in the precision of the settings."""
    model.eval()
    with autocast(settings, images.device):
        psi = model(normalise(images)).float().cpu()
    p = model.probabilities(psi, classes.Z).numpy()
    ranked_by = calibrated(p, classes.seen, classes.gamma)
    return [
        Prediction(_ranked(classes.names, p_i, by_i), _ranked(attribute_names, psi_i, psi_i))
        for p_i, by_i, psi_i in zip(p, ranked_by, psi.numpy(), strict=True)
    ]


def _ranked(names: tuple[str, ...], values: NDArray, by: NDArray) -> tuple[tuple[str, float], ...]:
    return tuple((names[i], float(values[i])) for i in np.argsort(-by, kind="stable"))


@dataclass(frozen=True)
class CommandLine:
    """Name what pictures show, by attributes."""

    checkpoint: tyro.conf.Positional[Path]
    """model.safetensors in the seed's folder of a run"""
    pictures: tyro.conf.Positional[tuple[Path, ...]]
    """image files, or folders of them"""
    classes: Path | None = None
    """CSV file of classes to choose among, like attributes.csv with the checkpoint's attributes;
    None: the checkpoint's classes"""
    gamma: float | None = None
    """subtracted from the probability of classes that were trained on, eq. (14); None: the checkpoint's gamma"""
    top: int = 3
    """how many classes and attributes to print"""
    json: Path | None = None
    """JSON file to write: gamma, seen (the classes trained on) and pictures (all classes and attributes of each)"""
    device: str = "auto"
    """cpu, cuda, ...; auto uses a CUDA device if there is one"""

    def __post_init__(self) -> None:
        require_at_least_one(self, "top")
        if self.gamma is not None:
            require(self, ("gamma",), math.isfinite, "a finite number")
        if self.json and self.json.suffix != ".json":
            raise ValueError(f"--json {self.json}: expected the name of a file to write that ends in .json")


def candidates(command: CommandLine, checkpoint: Checkpoint) -> Classes:
    """The classes to choose among.

    Raises:
        FileNotFoundError, ValueError: as `read_classes`, and for a class whose name merely resembles one trained on.
    """
    record = checkpoint.record
    gamma = record.gamma if command.gamma is None else command.gamma
    names, Z = record.class_names, checkpoint.Z
    if command.classes:
        names, Z = read_classes(command.classes, record.attribute_names)
        resembling = near_matches([name for name in names if name not in record.seen_names], record.seen_names)
        if resembling:
            raise ValueError(
                f"{command.classes}: {with_near_matches([*resembling], record.seen_names)}: spell a class that was "
                "trained on as the checkpoint does, or gamma is not subtracted from it"
            )
    return Classes(names, Z, np.array([name in record.seen_names for name in names]), gamma)


def find_pictures(given: tuple[Path, ...]) -> list[Path]:
    """Files as they are given, and those in given folders, in the order of their names; notes if subfolders have more.

    Raises:
        FileNotFoundError: if there is no picture.
    """
    pictures = []
    for path in given:
        pictures += sorted(filter(is_image, path.iterdir())) if path.is_dir() else [path]
    if not pictures:
        among = ", ".join(map(str, given)) or "nothing"
        below = next((file for folder in given for file in sorted(folder.rglob("*")) if is_image(file)), None)
        hint = f"; subfolders have some: give {below.parents[1]}/*" if below else ""
        raise FileNotFoundError(f"no pictures ({' '.join(SUFFIXES)}) among {among}{hint}")
    inner = [sub for folder in given if folder.is_dir() for sub in class_folders(folder) if sub not in given]
    if left_out := [sub for sub in inner if any(map(is_image, sub.iterdir()))]:
        print(f"note: pictures in subfolders are left out: {listing(left_out)}", file=sys.stderr)
    return pictures


def name_pictures(
    model: ZeroShotModel, pictures: list[Path], checkpoint: Checkpoint, classes: Classes, device: torch.device
) -> Iterator[tuple[Path, Prediction | ValueError]]:
    """Each picture and what it shows, or what is wrong with its file."""
    settings, attribute_names = checkpoint.record.settings, checkpoint.record.attribute_names
    files = ImageFiles(Path(), [str(path) for path in pictures])
    dataset = ImageDataset(files, torch.arange(len(pictures)), settings.image_size)

    def read(i: int) -> Tensor | ValueError:
        try:
            return dataset[i][0]
        except ValueError as error:
            return error

    for start in range(0, len(pictures), settings.batch_size):
        batch = [read(i) for i in range(start, min(start + settings.batch_size, len(pictures)))]
        images = [image for image in batch if isinstance(image, Tensor)]
        shown = iter(
            predict(model, torch.stack(images).to(device), classes, attribute_names, settings) if images else ()
        )
        for path, image in zip(pictures[start:], batch, strict=False):
            yield path, next(shown) if isinstance(image, Tensor) else image


def tell(command: CommandLine, classes: Classes, named: Iterable[tuple[Path, Prediction | ValueError]]) -> int:
    """Print what each picture shows and, however that ends, write `--json`; returns how many could not be read."""
    seen, predictions, unread = classes.seen_names, {}, 0
    if seen and classes.gamma:
        whose = "the probability of classes that were trained on, eq. (14)"
        print(f"note: gamma {classes.gamma:.3g} is subtracted from {whose}", file=sys.stderr)
    try:
        for path, shown in named:
            if isinstance(shown, ValueError):
                print(f"error: {shown}", file=sys.stderr)
                unread += 1
                continue
            predictions[str(path)] = asdict(shown)
            best = shown.classes[: command.top]
            names = ", ".join(f"{name} {p:.2f}" + ("" if name in seen else " (unseen)") for name, p in best)
            attributes = ", ".join(name for name, _ in shown.attributes[: command.top])
            print(f"{path}: {names} (attributes: {attributes})", flush=True)
    finally:
        if command.json:
            write_json(command.json, {"gamma": classes.gamma, "seen": seen, "pictures": predictions})
    return unread


def main(argv: list[str] | None = None) -> None:
    with errors_in_one_line():
        command = tyro.cli(CommandLine, args=expand_home(argv), prog="python -m zeromamba.predict")
        device = pick_device(command.device)
        checkpoint = load_checkpoint(command.checkpoint)
        classes = candidates(command, checkpoint)
        pictures = find_pictures(command.pictures)
        model = restore_model(checkpoint, checkpoint.record.settings.anywhere()).to(device)
        if command.json:
            require_writable(command.json)
        unread = tell(command, classes, name_pictures(model, pictures, checkpoint, classes, device))
    if unread:
        sys.exit(f"error: {unread} of {len(pictures)} pictures could not be read")


if __name__ == "__main__":
    main()
