"""The "proposed split" files of Xian et al. (arXiv:1707.00600), `res101.mat` and `att_splits.mat`.

Quirks that are handled here: indices count from 1 and may be stored as unsigned bytes or shorts, paths are those of the
machine on which the files were made, with double slashes, and class names are not sorted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
import scipy.io
import torch
from torch import Tensor

from ..messages import repeated
from .base import check_parts
from .prototypes import require_distinct, unit_prototypes

LOCS = ("trainval_loc", "test_seen_loc", "test_unseen_loc")
SPLIT_FILES = {
    "res101.mat": ("image_files", "labels"),
    "att_splits.mat": ("att", "allclasses_names", *LOCS),
}


@dataclass(frozen=True)
class ProposedSplit:
    """What the split files say, checked; only classes and images that are in a split are left, counted from 0."""

    image_paths: tuple[str, ...]  # relative to the folder of the photographs
    labels: Tensor  # (images,) int64 class ids
    class_names: tuple[str, ...]  # (c,)
    Z: Tensor  # (c, a) float32, rows of unit length
    trainval: Tensor  # int64 image indices, as the next two
    test_seen: Tensor
    test_unseen: Tensor
    val_loc_classes: Tensor  # int64 class ids, ascending: the seen classes of val_loc; empty without that key
    notes: tuple[str, ...]

    @cached_property
    def seen(self) -> Tensor:
        """(.,) int64 class ids, ascending; the other classes are unseen."""
        return self.labels[self.trainval].unique()


def read_split(split_dir: Path, anchor: str) -> ProposedSplit:
    """Read and check the two files; no image is needed.

    Args:
        split_dir: their folder.
        anchor: name of the folder in image_files from which on paths are kept, such as "CUB_200_2011".

    Raises:
        FileNotFoundError: if one of them is not there.
        ValueError: for whatever is wrong in them, naming file and field.
    """
    res101, att_splits = (split_dir / file for file in SPLIT_FILES)
    images, splits = (read_mat(path, SPLIT_FILES[path.name]) for path in (res101, att_splits))
    names, paths = strings(splits["allclasses_names"]), strings(images["image_files"])
    for field, listed in ((f"{att_splits}: allclasses_names", names), (f"{res101}: image_files", paths)):
        if (twice := repeated(listed)) is not None:
            raise ValueError(f"{field} has {twice!r} more than once")
    labels = from_one(images["labels"], len(names), f"{res101}: labels", "classes in allclasses_names")
    if len(labels) != len(paths):
        raise ValueError(f"{res101}: {len(labels)} labels and {len(paths)} image_files, expected as many")
    if splits["att"].shape[1:] != (len(names),):
        raise ValueError(
            f"{att_splits}: att has shape {splits['att'].shape}, expected (attributes, {len(names)}): one column for "
            "each class in allclasses_names"
        )
    locs = {key: from_one(splits[key], len(paths), f"{att_splits}: {key}", f"images in {res101.name}") for key in LOCS}
    check_parts(labels, locs, names, str(att_splits))
    val_loc = from_one(splits.get("val_loc", np.empty(0)), len(paths), f"{att_splits}: val_loc", "images")
    of_seen = val_loc[torch.isin(labels[val_loc], labels[locs["trainval_loc"]])]

    # the files of a part of a data set may have classes without images, and images outside all splits
    used = torch.cat([*locs.values()]).sort().values
    classes = labels[used].unique()
    kept_names = tuple(names[c] for c in classes)
    Z, notes = unit_prototypes(splits["att"].T[classes.numpy()], kept_names, f"{att_splits}: att")
    notes += require_distinct(Z, kept_names, f"{att_splits}: att")
    trainval, test_seen, test_unseen = (torch.searchsorted(used, locs[key]) for key in LOCS)
    return ProposedSplit(
        image_paths=tuple(below(paths[i], anchor, res101) for i in used),
        labels=torch.searchsorted(classes, labels[used]),
        class_names=kept_names,
        Z=Z,
        trainval=trainval,
        test_seen=test_seen,
        test_unseen=test_unseen,
        val_loc_classes=torch.searchsorted(classes, labels[of_seen].unique()),
        notes=notes,
    )


def read_mat(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """The named fields of a .mat file and, where it has one, val_loc; large fields beside them are not read.

    Raises:
        FileNotFoundError: if the file is not there.
        ValueError: if it cannot be read, lacks a field, or has a sparse matrix as one.
    """
    try:
        found = [name for name, _, _ in scipy.io.whosmat(path)]
        fields = scipy.io.loadmat(path, variable_names=[*keys, "val_loc"])
    except FileNotFoundError:
        raise
    except Exception as error:  # scipy raises many kinds for a broken file
        raise ValueError(
            f"{path}: cannot be read as a MATLAB file ({error}); download it again, or save it as -v7"
        ) from error
    for key in keys:
        if key not in fields:
            raise ValueError(f"{path}: has no field {key!r}, only {', '.join(sorted(found))}")
        if not isinstance(fields[key], np.ndarray):
            raise ValueError(f"{path}: {key} is a {type(fields[key]).__name__}, expected a full matrix, as full({key})")
    return fields


def strings(cells: np.ndarray) -> tuple[str, ...]:
    """The strings of a MATLAB cell array or character matrix."""
    flat = [cell.item() if isinstance(cell, np.ndarray) and cell.size == 1 else cell for cell in cells.ravel()]
    return tuple(str(text).strip() for text in flat)


def from_one(values: np.ndarray, count: int, field: str, what: str) -> Tensor:
    """Numbers 1 to `count` in any dtype to int64 positions from 0.

    Raises:
        ValueError: for numbers that are not whole or out of range.
    """
    wide = np.asarray(values).ravel()
    if wide.dtype.kind not in "iuf" or not (wide == np.floor(wide)).all():
        raise ValueError(f"{field} are not whole numbers (dtype {wide.dtype})")
    wide = wide.astype(np.int64)  # before subtracting: the files have unsigned bytes and shorts
    outside = np.flatnonzero((wide < 1) | (wide > count))
    if len(outside):
        raise ValueError(
            f"{field}: entry {outside[0] + 1} is {wide[outside[0]]}, expected 1 to {count}, the number of {what}"
            + (f" ({len(outside)} entries are out of range)" if len(outside) > 1 else "")
        )
    return torch.from_numpy(wide - 1)


def below(path: str, anchor: str, source: Path) -> str:
    """The part of another machine's path after its last folder called `anchor`.

    Raises:
        ValueError: if there is no such folder in it.
    """
    parts = PurePosixPath(path.replace("\\", "/")).parts  # drops double slashes
    if anchor not in parts[:-1]:
        raise ValueError(f"{source}: image_files has {path!r}, expected a path with a folder {anchor!r} in it")
    last = len(parts) - 1 - parts[::-1].index(anchor)
    return "/".join(parts[last + 1 :])
