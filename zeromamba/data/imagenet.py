"""ImageNet as in the paper's Table 3: 800 seen and 200 unseen classes; attributes are word vectors of their names.

    ImageNet/train/<wnid>/*.JPEG          a tenth of each class is used, drawn by the seed, as are the unseen classes
    ImageNet/val/<wnid>/*.JPEG            test images, in the usual class folders; optional
    ImageNet/LOC_synset_mapping.txt       names of the classes ("n01440764 tench, Tinca tinca"), or words.txt
    w2v/ImageNet_class.csv                a line a class: its wnid and its vector (python -m zeromamba.embeddings)

The paper says "randomly split the training/test set into 800/200" and "1/10 of the data for every class for
training", not which images it tests. Here those are the validation images, which the backbone's pretraining did not
train on either; where val/ is missing, the drawn tenth of the unseen classes, and another tenth of the seen ones.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..messages import listing
from .base import ZSLData, check_parts, choose_validation_classes, stratified
from .image_folders import read_image_folders
from .pixels import ImageFiles, require_files
from .prototypes import unit_prototypes
from .sources import where_to_get
from .tables import read_table, read_text

FOLDER = "ImageNet"
CLASS_VECTORS = "w2v/ImageNet_class.csv"
NAME_FILES = ("LOC_synset_mapping.txt", "words.txt")
CLASSES = 1000
SHARE = 0.1  # of each class's training images
UNSEEN_SHARE = 0.2  # of the classes

Images = list[tuple[str, int]]  # path below the folder, class id


def load_imagenet(data_root: Path, *, seed: int) -> ZSLData:
    """Read and check ImageNet, or a folder of its layout with fewer classes; arguments and errors as `load_dataset`."""
    root, table = data_root / FOLDER, data_root / CLASS_VECTORS
    missing = [path for path in (root / "train", table) if not path.exists()]
    if missing:
        raise FileNotFoundError(f"missing: {', '.join(map(str, missing))}\n{where_to_get('imagenet', data_root)}")
    names = read_class_names(data_root)
    files = read_image_folders(root / "train", least=2)  # one of them to train on, and one that is left
    wnids = tuple(files)
    _, vectors = read_table(table, header=False)
    for source, known in ((f"{root} ({' or '.join(NAME_FILES)})", names), (table, vectors)):
        lacking = [wnid for wnid in wnids if wnid not in known]
        if lacking:
            raise ValueError(f"{source}: nothing on {len(lacking)} of the classes in train/: {listing(lacking)}")
    class_names = tuple(f"{wnid} {names[wnid][0]}" for wnid in wnids)
    # a word's vector has no meaningful length: that it is scaled is no news
    Z, _ = unit_prototypes(np.stack([vectors[wnid] for wnid in wnids]), class_names, str(table))
    parts, tested = draw(root, files, seed)
    images = [image for part in parts.values() for image in part]
    labels = torch.tensor([c for _, c in images])
    indices = dict(zip(parts, torch.arange(len(images)).split([*map(len, parts.values())]), strict=True))
    sources = ImageFiles(root, [path for path, _ in images])
    require_files(sources, "")
    check_parts(labels, indices, class_names, str(root))
    seen = labels[indices["trainval"]].unique()
    val_classes, val_source = choose_validation_classes(seen, seed, str(root))
    return ZSLData(
        name="imagenet",
        class_names=class_names,
        Z=Z,
        attribute_names=tuple(f"word vector dimension {i + 1}" for i in range(Z.shape[1])),
        V=torch.eye(Z.shape[1]),
        word_vectors_source="the identity, as the attributes are dimensions of a word vector, which have no words",
        partial="" if len(wnids) == CLASSES else f"not the whole of ImageNet: {len(wnids)} of {CLASSES} classes",
        notes=(
            f"{len(seen)} seen and {len(wnids) - len(seen)} unseen classes and the tenth of the training images are "
            f"drawn with --data-seed {seed}; the paper does not publish its split. Test images: {tested}",
            *_same_vector_note(Z, class_names),
        ),
        images=sources,
        labels=labels,
        **indices,
        val_classes=val_classes,
        val_source=val_source,
    )


def read_class_names(data_root: Path) -> dict[str, tuple[str, ...]]:
    """The names of each class by its wnid, the usual one first.

    Raises:
        FileNotFoundError: if neither of `NAME_FILES` is there.
        ValueError: for a line without a name.
    """
    paths = [data_root / FOLDER / file for file in NAME_FILES]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"missing: {paths[0]}, or {paths[1].name} beside it\n{where_to_get('imagenet', data_root)}"
        )
    names = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        wnid, _, rest = line.replace("\t", " ").partition(" ")
        synonyms = tuple(name.strip() for name in rest.split(",") if name.strip())
        if not synonyms:
            raise ValueError(f"{path}: line {number} is {line!r}, expected a wnid and names, such as 'n01440764 tench'")
        names[wnid] = synonyms
    return names


def draw(root: Path, files: dict[str, list[str]], seed: int) -> tuple[dict[str, Images], str]:
    """Who may see what: the images of trainval, test_seen and test_unseen, and a word on the latter two.

    Args:
        root: the folder of train/ and val/.
        files: wnids to paths below train/.
        seed: draws the unseen classes and the images.

    Raises:
        ValueError: if val/ does not have the classes of train/.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(files), generator=generator)
    unseen = order[: max(round(UNSEEN_SHARE * len(files)), 1)].sort().values
    images = [(f"train/{path}", c) for c, paths in enumerate(files.values()) for path in paths]
    labels = torch.tensor([c for _, c in images])
    rest, tenth = stratified(torch.arange(len(images)), labels, SHARE, generator)
    is_unseen = torch.isin(labels, unseen)

    def chosen(indices: Tensor) -> Images:
        return [images[i] for i in indices.tolist()]

    trainval = chosen(tenth[~is_unseen[tenth]])
    if (root / "val").is_dir():
        held_out = read_image_folders(root / "val")
        differing = sorted(set(files) ^ set(held_out))
        if differing:
            raise ValueError(
                f"{root}: train/ and val/ differ in {len(differing)} class folders, such as {differing[0]}"
            )
        test = [(f"val/{path}", c) for c, wnid in enumerate(files) for path in held_out[wnid]]
        known = set(unseen.tolist())
        test_seen = [image for image in test if image[1] not in known]
        test_unseen = [image for image in test if image[1] in known]
        tested = "the validation images of val/"
    else:
        _, another = stratified(rest[~is_unseen[rest]], labels, SHARE / (1 - SHARE), generator)
        test_seen, test_unseen = chosen(another), chosen(tenth[is_unseen[tenth]])
        tested = "a tenth of train/ (there is no val/), which released backbones were trained on"
    return {"trainval": trainval, "test_seen": test_seen, "test_unseen": test_unseen}, tested


def _same_vector_note(Z: Tensor, class_names: tuple[str, ...]) -> tuple[str, ...]:
    """ImageNet has two cranes and two maillots: nothing can tell such classes apart by their attributes."""
    groups: dict[bytes, list[str]] = defaultdict(list)
    for name, row in zip(class_names, Z.numpy(), strict=True):
        groups[row.tobytes()].append(name)
    same = [" = ".join(group) for group in groups.values() if len(group) > 1]
    return (f"classes with the same word vector, which no method can tell apart: {'; '.join(same)}",) if same else ()
