"""Attribute word vectors V: read without running code from the file, checked, all-zero rows repaired."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_RECONSTRUCT = np.empty(0).__reduce__()[0]  # how numpy itself says that an array is made again
_FROM_BUFFER = np.empty(0).__reduce_ex__(5)[0]
ADMITTED = {  # numpy called its inner package core before version 2 and _core since
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
}


class PickleRunsCodeError(ValueError):
    """A pickle asks for more than numpy arrays are made of."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The only way by which a pickle reaches a function or class."""
        if (module, name) not in ADMITTED:
            raise PickleRunsCodeError(f"{module}.{name}")
        return ADMITTED[module, name]


def read_pickled_array(path: Path) -> np.ndarray:
    """Read one pickled numpy array, admitting nothing else.

    Raises:
        PickleRunsCodeError: if the pickle names any other function or class; nothing of it has run.
        ValueError: if it is no readable pickle, or of something other than an array.
    """
    try:
        with path.open("rb") as file:
            array = _ArrayUnpickler(file, encoding="latin1").load()  # latin1: pickles of Python 2
    except PickleRunsCodeError as error:
        raise PickleRunsCodeError(
            f"{path}: reading this pickle would run code, it asks for {error}; expected a numpy array and nothing "
            "else. Do not use the file unless you know who made it; save the array with numpy.save or pickle alone."
        ) from None
    except Exception as error:  # a broken pickle may raise anything
        raise ValueError(f"{path}: not a readable pickle ({error}); copy or download it again") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path}: holds a {type(array).__name__}, expected a numpy array")
    return array


def word_vectors(
    array: np.ndarray, attribute_names: Sequence[str], source: str, *, repair: bool
) -> tuple[Tensor, tuple[str, ...]]:
    """Check word vectors against the attributes, and repair all-zero rows.

    An all-zero row (SUN's "man-made", which was not in the vocabulary) has no direction: normalising it divides by
    zero, and the first gradient of a trainable V is then of the order of 1 / epsilon. The repair is the mean of the
    other rows, the usual stand-in for a word without a vector: a direction that prefers no attribute, of a length
    like theirs, free to be trained. Nothing nearer can be had from the shared files: none of their other sums has the
    word "man" or "made". Where word2vec is at hand, `zeromamba.embeddings` makes the row from these two.

    Args:
        array: (a, v), any real dtype.
        attribute_names: (a,).
        source: the file that errors and notes name.
        repair: replace all-zero rows; otherwise they are kept, with a warning among the notes.

    Returns:
        V (a, v) float32 and notes for the user.

    Raises:
        ValueError: for another shape, a dtype that is not real, values that are not finite, only zeros.
    """
    if array.ndim != 2 or array.shape[0] != len(attribute_names) or array.shape[1] == 0:
        raise ValueError(
            f"{source}: word vectors of shape {array.shape}, expected ({len(attribute_names)}, v): one row for each "
            f"of the {len(attribute_names)} attributes. Is this the file of another data set?"
        )
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{source}: word vectors of dtype {array.dtype}, expected real numbers")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is found next
        V = array.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(V).all(1)).tolist()
    if len(bad):
        raise ValueError(f"{source}: row {bad[0]} ({attribute_names[bad[0]]!r}) is not finite; rows count from 0")
    zero = ~V.any(1)
    if zero.any() and repair:
        stand_in = V[~zero].sum(0) / max((~zero).sum(), 1)
        if not stand_in.any():
            raise ValueError(f"{source}: all-zero rows, and the mean of the others is zero too: cannot repair them")
        V[zero] = stand_in
    done = (
        "replaced by the mean of the other rows; python -m zeromamba.embeddings makes one from a file that has the "
        "word or its parts"
        if repair
        else "kept as released; without a direction, its first gradients are far larger than all others"
    )
    notes = tuple(
        f"the word vector of {attribute_names[i]!r} (row {i} of {source}, from 0) is all zeros: {done}"
        for i in np.flatnonzero(zero).tolist()
    )
    return torch.from_numpy(V), notes
