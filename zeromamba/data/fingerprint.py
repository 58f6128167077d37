"""Digests by which a run or a checkpoint recognises the data that it was made with."""

import hashlib
import json

from torch import Tensor

from .base import ZSLData


def fingerprints(data: ZSLData) -> dict[str, str]:
    """A digest of each part of a data set, under the name that errors call it by; not of the pixels.

    Images go by their paths within the data set, in any order, so that it may lie elsewhere.
    """
    names, labels = data.class_names, data.labels.tolist()

    def images(indices: Tensor) -> list[tuple[str, str]]:
        return sorted((data.images.relative_path(i), names[labels[i]]) for i in indices.tolist())

    return {
        "classes": _digest(names),
        "attributes": _digest(data.attribute_names),
        "unseen classes": _digest([names[c] for c in data.unseen.tolist()]),
        "attributes of the classes": _digest(data.Z.tolist()),
        "word vectors": _digest(data.V.tolist()),
        "training images": _digest(images(data.trainval)),
        "test images": _digest(images(data.test_seen) + images(data.test_unseen)),
        "validation classes": _digest([names[c] for c in data.val_classes.tolist()]),
    }


def differences(kept: dict[str, str], found: dict[str, str]) -> str:
    """The names of the parts that differ, as errors list them; empty if none does."""
    return ", ".join(name for name, digest in found.items() if kept.get(name) != digest)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
