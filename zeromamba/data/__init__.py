"""Data sets: `load_dataset` reads and checks one, `ImageDataset` turns its images into tensors."""

from pathlib import Path

from ..messages import with_near_matches
from .base import ZSLData, validation_split
from .benchmarks import BENCHMARKS, load_benchmark
from .demo import load_demo
from .fingerprint import differences, fingerprints
from .folder import load_folder
from .imagenet import load_imagenet
from .pixels import ImageDataset, ImageFiles, normalise, require_decodable

__all__ = [
    "BENCHMARKS",
    "ImageDataset",
    "ImageFiles",
    "ZSLData",
    "differences",
    "fingerprints",
    "load_dataset",
    "load_demo",
    "normalise",
    "require_decodable",
    "validation_split",
]


def load_dataset(
    name_or_path: str,
    data_root: Path,
    *,
    seed: int,
    repair_word_vectors: bool = True,
) -> ZSLData:
    """Read a data set and check all of it but the pixels (`require_decodable`), before training starts.

    Args:
        name_or_path: demo, cub, sun, awa2, imagenet, or a folder of the user's own (see `folder`).
        data_root: where cub, sun, awa2 and imagenet are (see `benchmarks`, `imagenet`).
        seed: draws the split of ImageNet and of a folder of the user's own and, where none are published, the
            validation classes. The demo is the same for every seed.
        repair_word_vectors: replace all-zero word vectors (see `word_vectors`).

    Raises:
        FileNotFoundError: for files that are missing, with what to get, from whom, and where to put it.
        ValueError: for an unknown data set and for whatever is wrong in a file, naming file and field.
    """
    data = _load(name_or_path, data_root, seed, repair_word_vectors)
    validation_split(data, seed)  # how many images it has does not depend on a seed: now is the time to find too few
    return data


def _load(name_or_path: str, data_root: Path, seed: int, repair_word_vectors: bool) -> ZSLData:
    if name_or_path == "demo":
        return load_demo()
    if name_or_path in BENCHMARKS:
        return load_benchmark(name_or_path, data_root, seed=seed, repair_word_vectors=repair_word_vectors)
    if name_or_path == "imagenet":
        return load_imagenet(data_root, seed=seed)
    folder = Path(name_or_path)
    if not folder.is_dir():
        known = ("demo", *BENCHMARKS, "imagenet")
        raise ValueError(
            f"unknown data set {with_near_matches([name_or_path], known)}: expected {', '.join(known)}, or the path, "
            f"from {Path.cwd()}, of a folder with images/<class name>/*.jpg, attributes.csv and unseen.txt "
            "(if it was moved, --dataset names its new place)"
        )
    return load_folder(folder, seed=seed, repair_word_vectors=repair_word_vectors)
