"""A data set of your own, from a plain folder:

    images/<class name>/*.jpg     also .jpeg .png .bmp .webp; at least three images a seen class, one an unseen one
    attributes.csv                first line: a title for the first column, then the attributes' names;
                                  every other line: a class name, then one number per attribute
    unseen.txt                    the classes never trained on, one a line
    word_vectors.csv or .npy      optional; .csv: lines of an attribute's name and its vector;
                                  .npy: (attributes, v), rows in the order of attributes.csv

A fifth of each seen class's images, drawn by --data-seed, is kept for testing. Notes name classes of attributes.csv
without a folder of images, which are left out, and count files below images/ that are not used; a folder without
attributes is an error.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..messages import listing, repeated, with_near_matches
from .base import ZSLData, check_parts, choose_validation_classes, stratified
from .image_folders import read_image_folders, require_images, unused_files_note
from .pixels import ImageFiles, require_decodable, require_files
from .prototypes import require_distinct, unit_prototypes
from .tables import read_table, read_text
from .word_vectors import word_vectors

TEST_SHARE = 0.2  # of each seen class's images
LEAST = 3  # images of a seen class: one to test with, and of the rest one to validate with and one to train on


def load_folder(folder: Path, *, seed: int, repair_word_vectors: bool) -> ZSLData:
    """Read and check a data set of the user's own; arguments and errors as `load_dataset`."""
    table, unseen_file = folder / "attributes.csv", folder / "unseen.txt"
    missing = [p.name for p in (folder / "images", table, unseen_file) if not p.exists()]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no {', '.join(missing)}; a data set of your own is a folder with images/<class name>/*.jpg, "
            "attributes.csv (one line per class: its name, then its attributes; the first line names them) and "
            "unseen.txt (one class per line)"
        )
    files = read_image_folders(folder / "images")
    attribute_names, rows = read_table(table, header=True)
    class_names = tuple(files)
    unknown = [name for name in class_names if name not in rows]
    if unknown:
        raise ValueError(
            f"{table} has no line for these folders of {folder / 'images'}: {with_near_matches(unknown, rows)}"
        )
    unseen_names = read_unseen(unseen_file, class_names)
    require_images(folder / "images", {name: files[name] for name in files if name not in unseen_names}, LEAST)
    Z, notes = _prototypes(table, rows, class_names, attribute_names)
    V, source, vector_notes = _word_vectors(folder, attribute_names, repair_word_vectors)

    images = ImageFiles(folder / "images", [path for name in class_names for path in files[name]])
    require_files(images, "")
    labels = torch.tensor([c for c, name in enumerate(class_names) for _ in files[name]])
    is_unseen = torch.tensor([name in unseen_names for name in class_names])[labels]
    of_seen, test_unseen = torch.where(~is_unseen)[0], torch.where(is_unseen)[0]
    if not len(of_seen):
        raise ValueError(f"{unseen_file} lists every class, expected at least 3 to be left to train on")
    same = copies(images)
    require_unseen_apart(images, same, is_unseen)
    trainval, test_seen = stratified(of_seen, labels, TEST_SHARE, torch.Generator().manual_seed(seed))
    parts = {"trainval": trainval, "test_seen": test_seen, "test_unseen": test_unseen}
    check_parts(labels, parts, class_names, str(folder))
    val_classes, val_source = choose_validation_classes(labels[trainval].unique(), seed, str(unseen_file))
    return ZSLData(
        name=folder.resolve().name,
        class_names=class_names,
        Z=Z,
        attribute_names=attribute_names,
        V=V,
        word_vectors_source=source,
        partial="",
        notes=(
            *notes,
            *unused_files_note(folder / "images", files),
            *vector_notes,
            *copies_notes(images, same, labels, trainval, test_seen),
        ),
        images=images,
        labels=labels,
        **parts,
        val_classes=val_classes,
        val_source=val_source,
    )


def copies(images: ImageFiles) -> list[list[int]]:
    """The images whose files hold the same bytes, in groups; only files of the same size are read."""

    def grouped(indices: Iterable[int], key: Callable[[Path], object]) -> list[list[int]]:
        groups = defaultdict(list)
        for i in indices:
            groups[key(Path(images.name(i)))].append(i)
        return [group for group in groups.values() if len(group) > 1]

    same_size = grouped(range(len(images)), lambda path: path.stat().st_size)
    return [same for group in same_size for same in grouped(group, lambda path: sha256(path.read_bytes()).digest())]


def require_unseen_apart(images: ImageFiles, same: Sequence[list[int]], is_unseen: Tensor) -> None:
    """Raise ValueError if a picture, of the groups of `copies`, is of an unseen class and of one that is trained on."""
    for group in same:
        if len(is_unseen[group].unique()) > 1:
            paths = [images.paths[i] for i in group]
            require_decodable(ImageFiles(images.root, paths))  # empty files, or what a server sent in a picture's place
            raise ValueError(
                f"{images.root}: {listing(paths, ' = ')} are the same picture, in a seen class and in an unseen one: "
                "remove the copy that is in the wrong folder"
            )


def copies_notes(
    images: ImageFiles, same: Sequence[list[int]], labels: Tensor, trainval: Tensor, test_seen: Tensor
) -> Iterator[str]:
    """Which pictures, of the groups of `copies`, are both trained on and tested with, or are in two classes."""

    def listed(groups: list[list[int]]) -> str:
        return listing(" = ".join(images.paths[i] for i in group) for group in groups)

    tested, trained = set(test_seen.tolist()), set(trainval.tolist())
    if both := [group for group in same if tested.intersection(group) and trained.intersection(group)]:
        count = sum(len(tested.intersection(group)) for group in both)
        yield f"{images.root}: {count} test pictures are also training pictures: {listed(both)}"
    if torn := [group for group in same if len(labels[group].unique()) > 1]:
        yield f"{images.root}: {len(torn)} pictures are in more than one class, so one label is wrong: {listed(torn)}"


def read_unseen(path: Path, class_names: Sequence[str]) -> set[str]:
    """The unseen classes, one a line.

    Raises:
        ValueError: for what is not UTF-8, none at all, one twice, or one without a folder of images.
    """
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{path} is empty, expected the names of classes never to train on, one per line")
    if twice := repeated(names):
        raise ValueError(f"{path}: {twice!r} is listed more than once")
    unknown = [name for name in names if name not in class_names]
    if unknown:
        raise ValueError(
            f"{path}: images/ has no folder for {with_near_matches(unknown, class_names)}; unseen classes are tested "
            "on images: add the folder, or remove the line (zeromamba.predict names classes that have none)"
        )
    return set(names)


def _prototypes(
    table: Path, rows: Mapping[str, np.ndarray], class_names: tuple[str, ...], attribute_names: tuple[str, ...]
) -> tuple[Tensor, tuple[str, ...]]:
    """Z of the classes that have images, and notes."""
    Z, notes = unit_prototypes(np.stack([rows[name] for name in class_names]), class_names, str(table))
    notes += require_distinct(Z, class_names, str(table))
    constant = [repr(attribute_names[i]) for i in np.flatnonzero(np.ptp(Z.numpy(), axis=0) < 1e-6)]
    if constant:
        notes += (
            f"{table}: scaled to unit length, all classes have the same number in {listing(constant)}, so it does not "
            "tell them apart",
        )
    if without := [repr(name) for name in rows if name not in class_names]:
        notes += (f"{table}: classes without a folder of images are left out: {listing(without)}",)
    return Z, notes


def _word_vectors(folder: Path, attribute_names: tuple[str, ...], repair: bool) -> tuple[Tensor, str, tuple[str, ...]]:
    """V, where it is from, and notes."""
    as_csv, as_npy = folder / "word_vectors.csv", folder / "word_vectors.npy"
    if as_csv.is_file() and as_npy.is_file():
        raise ValueError(f"{folder} has word_vectors.csv and word_vectors.npy: remove one")
    if as_csv.is_file():
        _, rows = read_table(as_csv, header=False)
        missing = [name for name in attribute_names if name not in rows]
        if missing:
            raise ValueError(f"{as_csv} has no line for the attributes {with_near_matches(missing, rows)}")
        array, source = np.stack([rows[name] for name in attribute_names]), str(as_csv)
    elif as_npy.is_file():
        try:
            with as_npy.open("rb") as file:
                array, source = np.load(file, allow_pickle=False), str(as_npy)
        except Exception as error:  # numpy raises many kinds for a broken file
            raise ValueError(f"{as_npy}: cannot be read as a plain numpy array ({error})") from error
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{as_npy} is an archive of arrays (.npz): save the one array with numpy.save")
    else:
        return torch.eye(len(attribute_names)), f"the identity, as there is no {as_csv}", ()
    V, notes = word_vectors(array, attribute_names, source, repair=repair)
    return V, source, notes
