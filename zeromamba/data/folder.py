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

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..messages import listing, repeated, with_near_matches
from .base import ZSLData, check_parts, choose_validation_classes, stratified
from .pixels import ImageFiles, require_decodable, require_files
from .prototypes import require_distinct, unit_prototypes
from .tables import composed, read_table, read_text
from .word_vectors import word_vectors

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
TEST_SHARE = 0.2  # of each seen class's images
LEAST = 3  # images of a seen class: one to test with, and of the rest one to validate with and one to train on


def load_folder(folder: Path, *, seed: int, repair_word_vectors: bool) -> ZSLData:
    """Read and check a data set of the user's own; arguments and errors as `load_dataset`."""
    table, unseen_file = folder / "attributes.csv", folder / "unseen.txt"
    missing = [p.name for p in (folder / "images", table, unseen_file) if not p.exists()]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no {', '.join(missing)}; a data set of your own is a folder with images/<class name>/*.jpg, "
            "attributes.csv (a line a class: its name, then its attributes; the first line names them) and unseen.txt "
            "(a class a line)"
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
    without = [name for name in rows if name not in files]
    att = np.stack([rows[name] for name in class_names])
    Z, notes = unit_prototypes(att, class_names, str(table))
    notes += require_distinct(Z, class_names, str(table))
    constant = [repr(attribute_names[i]) for i in np.flatnonzero(np.ptp(Z.numpy(), axis=0) < 1e-6)]
    if constant:
        notes += (
            f"{table}: with lines of unit length, all classes have the same number in {listing(constant)}, so it tells "
            "none apart",
        )
    if without:
        notes += (f"{table}: classes without a folder of images are left out: {listing(map(repr, without))}",)
    notes += unused_files_note(folder / "images", files)
    V, source, vector_notes = _word_vectors(folder, attribute_names, repair_word_vectors)

    images = ImageFiles(folder / "images", [path for name in class_names for path in files[name]])
    require_files(images, "")
    labels = torch.tensor([c for c, name in enumerate(class_names) for _ in files[name]])
    is_unseen = torch.tensor([name in unseen_names for name in class_names])[labels]
    of_seen, test_unseen = torch.where(~is_unseen)[0], torch.where(is_unseen)[0]
    if not len(of_seen):
        raise ValueError(f"{unseen_file} lists every class, expected at least 3 to be left to train on")
    same = copies(images)
    for group in same:
        if len(is_unseen[group].unique()) > 1:
            paths = [images.paths[i] for i in group]
            require_decodable(ImageFiles(images.root, paths))  # empty files, or what a server sent in a picture's place
            raise ValueError(
                f"{images.root}: {listing(paths, ' = ')} is one picture, of a class that is trained on and of an "
                "unseen one: remove the copy that is in the wrong folder"
            )
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
        notes=(*notes, *vector_notes, *copies_notes(images, same, labels, trainval, test_seen)),
        images=images,
        labels=labels,
        **parts,
        val_classes=val_classes,
        val_source=val_source,
    )


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or the system's own (`__MACOSX`), so that it is skipped silently."""
    return name.startswith(".") or name == "__MACOSX"


def is_image(path: Path) -> bool:
    """Whether a file counts as an image, by its name; hidden ones do not, such as macOS leaves beside each."""
    return path.suffix.lower() in SUFFIXES and not is_hidden(path.name)


def class_folders(root: Path) -> list[Path]:
    """The folders directly in `root` without hidden ones, sorted, in the same order however their names are written."""
    folders = (path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))
    return sorted(folders, key=lambda path: composed(path.name))


def read_image_folders(root: Path, least: int = 1) -> dict[str, list[str]]:
    """Class names, sorted, to the paths of their images relative to `root`, sorted.

    Raises:
        ValueError: if there are no classes, one with two folders, or as `require_images`.
    """
    folders = class_folders(root)
    files = {
        composed(folder.name): sorted(f"{folder.name}/{path.name}" for path in folder.iterdir() if is_image(path))
        for folder in folders
    }
    if not files:
        raise ValueError(f"{root} has no folders, expected one for each class")
    if twice := repeated(composed(folder.name) for folder in folders):
        raise ValueError(f"{root} has two folders {twice!r}, whose names differ in their bytes alone: make them one")
    require_images(root, files, least)
    return files


def require_images(root: Path, files: Mapping[str, Sequence[str]], least: int) -> None:
    """Raise ValueError unless each class, of the images `files` in its folder under `root`, has at least so many."""
    few = [f"{name} ({len(paths)})" for name, paths in files.items() if len(paths) < least]
    if few:
        raise ValueError(
            f"{root}: fewer than {least} images ({' '.join(SUFFIXES)}) directly in {len(few)} of {len(files)} class "
            f"folders that need them: {listing(few)}; add images or remove the folder"
        )


def unused_files_note(root: Path, files: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Which files under `root` are none of the images `files`, but for hidden ones."""
    used = {root / path for paths in files.values() for path in paths}
    below = [path for folder in class_folders(root) for path in folder.rglob("*")]
    why: Counter[str] = Counter()
    for path in (*root.iterdir(), *below):
        parts = path.relative_to(root).parts
        if path in used or not path.is_file() or any(map(is_hidden, parts)):
            continue
        if len(parts) == 2:
            why[f"with endings other than {' '.join(SUFFIXES)}"] += 1
        else:
            why["in no class folder" if len(parts) == 1 else "in subfolders of a class"] += 1
    listed = ", ".join(f"{count} {reason}" for reason, count in why.items())
    return (f"{root}: {why.total()} files are not used: {listed}",) if why else ()


def copies(images: ImageFiles) -> list[list[int]]:
    """The images whose files hold the same bytes, in groups; only files of the same size are read."""

    def grouped(indices: Iterable[int], key: Callable[[Path], object]) -> list[list[int]]:
        groups = defaultdict(list)
        for i in indices:
            groups[key(Path(images.name(i)))].append(i)
        return [group for group in groups.values() if len(group) > 1]

    same_size = grouped(range(len(images)), lambda path: path.stat().st_size)
    return [same for group in same_size for same in grouped(group, lambda path: sha256(path.read_bytes()).digest())]


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
        raise ValueError(f"{path} is empty, expected the names of classes never to train on, one a line")
    if twice := repeated(names):
        raise ValueError(f"{path}: {twice!r} is there more than once")
    unknown = [name for name in names if name not in class_names]
    if unknown:
        raise ValueError(
            f"{path}: images/ has no folder for {with_near_matches(unknown, class_names)}; unseen classes are tested "
            "on images: add the folder, or remove the line (zeromamba.predict names classes that have none)"
        )
    return set(names)


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
            array, source = np.load(as_npy, allow_pickle=False), str(as_npy)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{as_npy}: cannot be read as a plain numpy array ({error})") from error
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{as_npy} is an archive of arrays (.npz): save the one array with numpy.save")
    else:
        return torch.eye(len(attribute_names)), f"the identity, as there is no {as_csv}", ()
    V, notes = word_vectors(array, attribute_names, source, repair=repair)
    return V, source, notes
