"""Class prototypes Z from a table of attributes, and whether they tell the classes apart."""

import numpy as np
import torch
from torch import Tensor

from ..messages import listing

# Cosines of two prototypes; of the published data sets, CUB has the two nearest classes, at 0.996.
SAME = 1 - 1e-6
ALIKE = 0.999


def unit_prototypes(att: np.ndarray, class_names: tuple[str, ...], source: str) -> tuple[Tensor, tuple[str, ...]]:
    """Class prototypes Z from a table of class attributes, each row scaled to unit length.

    Args:
        att: (c, a), any real dtype.
        class_names: names of the rows.
        source: the file and field that errors and notes name.

    Returns:
        Z (c, a) float32, and a note if the rows did not have unit length.

    Raises:
        ValueError: for values that are no finite numbers, and for a class whose attributes are all zero.
    """
    if att.dtype.kind not in "fiu":
        raise ValueError(f"{source} has dtype {att.dtype}, expected real numbers")
    bad = np.argwhere(~np.isfinite(att))
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"{source}: attribute {column + 1} of class {class_names[row]!r} is {att[row, column]}, expected a finite "
            f"number ({len(bad)} values are not)"
        )
    with np.errstate(over="ignore"):
        length = np.linalg.norm(att.astype(np.float64), axis=1, keepdims=True)
    if not np.isfinite(length).all():
        raise ValueError(f"{source}: the attributes of class {class_names[int(np.argmax(length))]!r} are too large")
    if not length.all():
        zero = class_names[int(np.argmin(length))]
        raise ValueError(
            f"{source}: all attributes of class {zero!r} are zero (or almost): nothing tells what it looks like"
        )
    notes: tuple[str, ...] = ()
    if abs(length - 1).max() > 1e-3:
        notes = (f"{source}: rows of length {length.min():.3g} to {length.max():.3g} were scaled to unit length",)
    return torch.from_numpy((att / length).astype(np.float32)), notes


def require_distinct(Z: Tensor, class_names: tuple[str, ...], source: str) -> tuple[str, ...]:
    """A note on classes whose prototypes Z (c, a) are nearly the same.

    Raises:
        ValueError: for classes whose prototypes are the same, so that every picture scores the same for both.
    """
    cosine = (Z.double() @ Z.double().T).triu(1)

    def above(least: float) -> list[str]:
        return [f"{class_names[a]!r} and {class_names[b]!r}" for a, b in (cosine > least).nonzero().tolist()]

    if same := above(SAME):
        raise ValueError(
            f"{source}: nothing tells {listing(same)} apart: their attributes are the same, or differ only by a "
            "factor, which scaling to unit length removes; add an attribute in which they differ, or remove a class"
        )
    if alike := above(ALIKE):
        return (f"{source}: hardly anything tells {listing(alike)} apart (cosine of their attributes above {ALIKE})",)
    return ()
