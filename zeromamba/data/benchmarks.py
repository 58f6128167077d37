"""CUB, SUN and AWA2: one table, one loader. Split files are read by `proposed_split`."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from .base import ZSLData, choose_validation_classes
from .pixels import ImageFiles, require_files
from .proposed_split import SPLIT_FILES, ProposedSplit, read_mat, read_split, strings
from .sources import where_to_get
from .tables import read_text
from .word_vectors import read_pickled_array, word_vectors


@dataclass(frozen=True)
class Benchmark:
    """All in which the three data sets differ."""

    title: str  # also the folder of the split files, under xlsa17/data
    root: str  # folder of the photographs
    attribute_file: str  # attribute names, as the data set's own site distributes them
    images: int  # in the full data set, as are the next three
    attributes: int
    seen: int
    unseen: int

    @property
    def anchor(self) -> str:
        """The part of the paths in `image_files` after which they are ours."""
        return PurePosixPath(self.root).name

    @property
    def word_vectors(self) -> str:
        """Where the word vectors are."""
        return f"w2v/{self.title}_attribute.pkl"


# fmt: off
BENCHMARKS = {
    "cub": Benchmark("CUB", "CUB/CUB_200_2011", "attributes.txt", 11_788, 312, 150, 50),
    "sun": Benchmark("SUN", "SUN", "attributes.mat", 14_340, 102, 645, 72),
    "awa2": Benchmark("AWA2", "AWA2/Animals_with_Attributes2", "predicates.txt", 37_322, 85, 40, 10),
}
# fmt: on


def load_benchmark(name: str, data_root: Path, *, seed: int, repair_word_vectors: bool) -> ZSLData:
    """Read and check one of `BENCHMARKS`; arguments and errors as `load_dataset`."""
    row = BENCHMARKS[name]
    advice = where_to_get(name, data_root)
    split_dir, vectors = data_root / "xlsa17/data" / row.title, data_root / row.word_vectors
    missing = [p for p in (*(split_dir / file for file in SPLIT_FILES), vectors) if not p.is_file()]
    if missing:
        raise FileNotFoundError(f"missing: {', '.join(map(str, missing))}\n{advice}")
    split = read_split(split_dir, row.anchor)
    attribute_names = read_attribute_names(row, data_root, split.Z.shape[1])
    array = read_pickled_array(vectors)
    V, vector_notes = word_vectors(array, attribute_names, str(vectors), repair=repair_word_vectors)
    images = ImageFiles(data_root / row.root, split.image_paths)
    require_files(images, advice)
    val_classes, val_source = validation_classes(split, row, data_root, seed)
    return ZSLData(
        name=name,
        class_names=split.class_names,
        Z=split.Z,
        attribute_names=attribute_names,
        V=V,
        word_vectors_source=str(vectors),
        partial=missing_part(split, row),
        notes=(*split.notes, *vector_notes),
        images=images,
        labels=split.labels,
        trainval=split.trainval,
        test_seen=split.test_seen,
        test_unseen=split.test_unseen,
        val_classes=val_classes,
        val_source=val_source,
    )


def missing_part(split: ProposedSplit, row: Benchmark) -> str:
    """`ZSLData.partial`."""
    seen = len(split.seen)
    found = (len(split.labels), split.Z.shape[1], seen, len(split.class_names) - seen)
    if found == (row.images, row.attributes, row.seen, row.unseen):
        return ""
    return (
        f"not the whole of {row.title}: {found[0]:,} of {row.images:,} images, {found[1]} of {row.attributes} "
        f"attributes, {found[2]} of {row.seen} seen and {found[3]} of {row.unseen} unseen classes"
    )


def read_attribute_names(row: Benchmark, data_root: Path, attributes: int) -> tuple[str, ...]:
    """Attribute names from the data set's own file, where it is at hand.

    Raises:
        ValueError: if the file does not have `attributes` names.
    """
    found = listed_attribute_names(row, data_root)
    if found is None:
        return tuple(f"attribute {i + 1}" for i in range(attributes))
    path, names = found
    if len(names) != attributes:
        raise ValueError(f"{path}: {len(names)} attribute names, expected {attributes} as att_splits.mat has")
    return names


def listed_attribute_names(row: Benchmark, data_root: Path) -> tuple[Path, tuple[str, ...]] | None:
    """The data set's own file of attribute names in one of its usual places, and the names; None without it."""
    root = data_root / row.root
    paths = [f / row.attribute_file for f in (root, root.parent, data_root / "attributes" / row.title)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    if path.suffix == ".mat":
        return path, strings(read_mat(path, ["attributes"])["attributes"])
    lines = read_text(path).splitlines()
    return path, tuple(line.split(maxsplit=1)[-1].strip() for line in lines if line.strip())


def validation_classes(split: ProposedSplit, row: Benchmark, data_root: Path, seed: int) -> tuple[Tensor, str]:
    """The seen classes that model selection holds out, and where they come from.

    The published list valclasses1.txt, else the classes of val_loc, else a random fifth. Only classes are taken:
    the images of train_loc and val_loc include all of test_seen in the files of January 2018. A list counts if it
    leaves at least two seen classes on either side, which a list for the whole data set may not do for a part.
    """
    folders = (data_root / "xlsa17/data" / row.title, data_root / "proposed_split" / row.title)
    own, apart = ((str(folder / "valclasses1.txt"), _listed(folder, split)) for folder in folders)
    for source, ids in (own, ("the classes of val_loc in att_splits.mat", split.val_loc_classes), apart):
        if 2 <= len(ids) <= len(split.seen) - 2:
            return ids, source
    return choose_validation_classes(split.seen, seed, str(data_root / "xlsa17/data" / row.title))


def _listed(folder: Path, split: ProposedSplit) -> Tensor:
    """Ids of the seen classes that the folder's published list of validation classes names."""
    path = folder / "valclasses1.txt"
    lines = read_text(path).splitlines() if path.is_file() else []
    listed = {line.strip() for line in lines}
    return torch.tensor([c for c in split.seen.tolist() if split.class_names[c] in listed], dtype=torch.int64)
