"""What a zero-shot data set is, whatever it was read from, and the split that model selection uses."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

from ..messages import listing

HELD_OUT = 0.2  # of the images of each seen class that is trained on, to choose epoch and gamma with


class ImageSource(Protocol):
    """Images by index; index i is the same image throughout a `ZSLData`."""

    def __len__(self) -> int: ...

    def load(self, i: int) -> Image.Image:
        """Image i, in mode RGB."""

    def name(self, i: int) -> str:
        """The path of image i, or what it shows."""

    def relative_path(self, i: int) -> str:
        """The path of image i within the data set, the same wherever that lies, or what it shows."""


@dataclass(frozen=True)
class ZSLData:
    """A zero-shot data set: images, class prototypes Z, word vectors V, and who may see what when.

    Class ids are positions in `class_names`, image indices positions in `images`; c classes, a attributes.
    """

    name: str
    class_names: tuple[str, ...]  # (c,) the classes that have images
    Z: Tensor  # (c, a) float32, rows of unit length: the class prototypes z_c
    attribute_names: tuple[str, ...]  # (a,) "attribute 17" (1-based) where the name is not known
    V: Tensor  # (a, v) float32 attribute word vectors, as given (not normalised)
    word_vectors_source: str  # the file that V is from, or why it is the identity
    partial: str  # in what this is not the whole of a published data set; else empty
    notes: tuple[str, ...]  # what a user should read before training starts
    images: ImageSource
    labels: Tensor  # (images,) int64 class ids
    trainval: Tensor  # int64 image indices, seen classes
    test_seen: Tensor  # int64 image indices, seen classes
    test_unseen: Tensor  # int64 image indices, unseen classes
    val_classes: Tensor  # int64 class ids, ascending: the seen classes that model selection holds out
    val_source: str  # where val_classes comes from

    @property
    def incomparable(self) -> str:
        """Why results do not compare with published ones; empty where they do."""
        return f"{self.partial}; results do not compare with published ones" if self.partial else ""

    @cached_property
    def seen(self) -> Tensor:
        """(.,) int64 class ids, ascending."""
        return self.labels[self.trainval].unique()

    @cached_property
    def unseen(self) -> Tensor:
        """(.,) int64 class ids, ascending."""
        return self.labels[self.test_unseen].unique()


class ValidationSplit(NamedTuple):
    """Image indices, ascending; all three are parts of trainval."""

    train: Tensor
    val_seen: Tensor
    val_unseen: Tensor


def stratified(indices: Tensor, labels: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Split image indices at random into (kept, held out), holding out the same share of each class.

    Args:
        indices: (m,) int64 image indices.
        labels: (images,) int64 class ids of all images.
        share: of each class to hold out, rounded; at least one image of two, never all of them.
    """
    held_out = []
    classes = labels[indices]
    _, sizes = classes.unique(return_counts=True)
    for members in indices[classes.argsort(stable=True)].split(sizes.tolist()):
        count = max(round(share * len(members)), 1) if len(members) > 1 else 0
        order = torch.randperm(len(members), generator=generator)
        held_out.append(members[order[: min(count, len(members) - 1)]])
    out = torch.cat(held_out).sort().values
    return indices[~torch.isin(indices, out)].sort().values, out


def validation_split(data: ZSLData, seed: int) -> ValidationSplit:
    """The images that choose epoch and gamma, none of them a test image, all of them out of trainval.

    Args:
        data: any data set.
        seed: draws the images that val_seen takes.

    Returns:
        val_unseen: all trainval images of `data.val_classes`; val_seen: `HELD_OUT` of the trainval images of
        each other seen class; train: the rest.

    Raises:
        ValueError: if no class has an image to spare for val_seen.
    """
    is_val = torch.isin(data.labels[data.trainval], data.val_classes)
    generator = torch.Generator().manual_seed(seed)
    train, val_seen = stratified(data.trainval[~is_val], data.labels, HELD_OUT, generator)
    if not len(val_seen):  # the other two never are: there are classes on either side, each with an image
        raise ValueError(
            f"{data.name}: each of the {len(data.seen) - len(data.val_classes)} seen classes that validation does not "
            "hold out has a single image to train on, so none is left to validate with: add images to them"
        )
    return ValidationSplit(train, val_seen, data.trainval[is_val].sort().values)


def choose_validation_classes(seen: Tensor, seed: int, source: str) -> tuple[Tensor, str]:
    """A random fifth of the seen classes, at least 2 where that leaves 2 to train on, and what to call it.

    Errors name `source`, the file that says which classes are seen, or their folder.

    Raises:
        ValueError: with fewer than 3 seen classes.
    """
    if len(seen) < 3:
        raise ValueError(
            f"{source}: {len(seen)} seen classes, expected at least 3, one of which validation holds out: add classes "
            "with images that are not among the unseen ones"
        )
    count = min(max(math.ceil(len(seen) / 5), 2), len(seen) - 2)
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(seed))
    return seen[order[:count]].sort().values, f"{count} of {len(seen)} seen classes, drawn with seed {seed}"


def check_parts(labels: Tensor, parts: Mapping[str, Tensor], class_names: tuple[str, ...], source: str) -> None:
    """Check that no image is in two parts, and that each class is either seen or unseen.

    Args:
        labels: (images,) int64 class ids.
        parts: three arrays of image indices under the names that errors call them by, in the order trainval,
            test_seen, test_unseen.
        class_names: names by class id.
        source: the file or folder that errors name.

    Raises:
        ValueError: for an empty part, an image twice, a class both seen and unseen, a seen class never
            trained on.
    """
    trainval, test_seen, test_unseen = parts
    for name, part in parts.items():
        if len(part) == 0:
            raise ValueError(f"{source}: {name} is empty, expected at least one image")
        if len(part.unique()) < len(part):
            raise ValueError(f"{source}: {name} lists {len(part) - len(part.unique())} images more than once")
    for first, second in combinations(parts, 2):
        shared = parts[first][torch.isin(parts[first], parts[second])]
        if len(shared):
            raise ValueError(
                f"{source}: {first} and {second} overlap in {len(shared)} images (the first is image "
                f"{int(shared[0]) + 1}, of class {class_names[labels[shared[0]]]!r}), expected none"
            )
    classes = {name: labels[part].unique() for name, part in parts.items()}
    for name in (trainval, test_seen):
        both = classes[name][torch.isin(classes[name], classes[test_unseen])]
        if len(both):
            names = listing(repr(class_names[c]) for c in both)
            raise ValueError(
                f"{source}: {len(both)} classes are both seen ({name}) and unseen ({test_unseen}): {names}; "
                "a class must be one or the other"
            )
    untrained = classes[test_seen][~torch.isin(classes[test_seen], classes[trainval])]
    if len(untrained):
        names = listing(repr(class_names[c]) for c in untrained)
        raise ValueError(f"{source}: classes of {test_seen} have no image in {trainval}: {names}")
