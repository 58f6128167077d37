"""Word vectors of attributes or classes, made from a word2vec or GloVe file by the field's recipe.

    python -m zeromamba.embeddings cub --vectors GoogleNews-vectors-negative300.bin.gz --data-root data
    python -m zeromamba.embeddings my_folder --vectors glove.6B.300d.txt

The recipe is that of DAZLE (hbdat/cvpr20_DAZLE, extract_feature/extract_attribute_w2v_*.py), whose files all later
methods share: the vectors of an attribute's words are added up, and words outside the vocabulary are left out. One
addition: a hyphenated word outside the vocabulary is split into its parts. SUN's "man-made", which is all zeros in the
shared file, becomes "man" + "made"; nothing else in the three data sets changes.
"""

import csv
import gzip
import io
import pickle
import re
import zlib
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tyro

from .data.benchmarks import BENCHMARKS, listed_attribute_names
from .data.imagenet import CLASS_VECTORS, FOLDER, read_class_names
from .data.sources import where_to_get
from .data.tables import read_table
from .entry import errors_in_one_line, expand_home
from .files import require_writable, write_bytes
from .messages import how_to_install, listing


class WordVectors(Container[str], Protocol):
    """Vectors by word, as gensim's KeyedVectors gives them."""

    vector_size: int

    def __getitem__(self, word: str) -> np.ndarray: ...


@dataclass(frozen=True)
class Recipe:
    """How a data set's attribute names become words."""

    separators: str  # characters between words
    prefix: str = ""  # left out
    cut: str = ""  # left out from here on
    renames: dict[str, str] = field(default_factory=dict)  # for words that word2vec's vocabulary lacks


RECIPES = {
    "cub": Recipe(
        "_-:", prefix="has_", cut="(", renames={"spatulate": "broad", "upperparts": "upper parts", "grey": "gray"}
    ),
    # "wood (not part of a tree)" stays as it is: "(not" and "tree)" are words of no vocabulary
    "sun": Recipe("/", renames={"semi-enclosed": "semi enclosed", "far-away": "faraway"}),
    "awa2": Recipe(
        "",
        renames={
            "newworld": "new world",
            "oldworld": "old world",
            "nestspot": "nest spot",
            "toughskin": "tough skin",
            "longleg": "long leg",
            "chewteeth": "chew teeth",
            "meatteeth": "meat teeth",
            "strainteeth": "strain teeth",
            "quadrapedal": "quadrupedal",
        },
    ),
}
OWN = Recipe("_/:;,.()[]+")


def words_of(name: str, recipe: Recipe) -> list[str]:
    """The words of an attribute's name."""
    text = name.removeprefix(recipe.prefix)
    if recipe.cut:
        text = text.partition(recipe.cut)[0]
    text = text.translate(dict.fromkeys(map(ord, recipe.separators), " "))
    for old, new in recipe.renames.items():
        text = text.replace(old, new)
    return text.split()


def look_up(word: str, vectors: WordVectors) -> np.ndarray | None:
    """The vector of a word as it is written, else in lower case; None where there is none."""
    return next((vectors[form] for form in (word, word.lower()) if form in vectors), None)


def add_up(words: Sequence[str], vectors: WordVectors) -> tuple[np.ndarray, list[str]]:
    """The sum of the words' vectors, (v,) float64, and the words that have none.

    A word with hyphens that has none itself is taken for the words between them, if one of these has one.
    """
    total, missing = np.zeros(vectors.vector_size), []
    for word in words:
        parts = [word] if look_up(word, vectors) is not None else [part for part in word.split("-") if part]
        lacking = []
        for part in parts:
            if (vector := look_up(part, vectors)) is None:
                lacking.append(part)
            else:
                total += vector
        missing += [word] if len(lacking) == len(parts) else lacking
    return total, missing


def class_vector(synonyms: Sequence[str], vectors: WordVectors) -> np.ndarray:
    """The vector of a class, (v,) float64: of its first name that has one, as a phrase or else summed word by word.

    word2vec's vocabulary has phrases, joined by underscores ("golden_retriever"). All zeros if no name has a vector.
    """
    for name in synonyms:
        phrase = look_up(name.replace(" ", "_"), vectors)
        total = add_up(words_of(name, OWN), vectors)[0] if phrase is None else phrase.astype(np.float64)
        if total.any():
            return total
    return np.zeros(vectors.vector_size)


def read_vectors(path: Path) -> WordVectors:
    """Read word2vec's binary or text format, or GloVe's text (which has no header); .gz or not.

    All of the file is held in memory: 4 GB for word2vec's Google News.

    Raises:
        ValueError: for a missing or broken file, naming it, and where gensim is not installed.
    """
    try:
        from gensim.models import KeyedVectors
    except ImportError as error:
        raise ValueError(f"reading {path} needs gensim: {how_to_install('words')}") from error
    try:
        binary, header = _format(path)
        vectors: Any = KeyedVectors.load_word2vec_format(str(path), binary=binary, no_header=not header)
        if vectors.vector_size < 2 or not len(vectors):
            raise ValueError(f"{len(vectors)} words of {vectors.vector_size} numbers")
    except FileNotFoundError:
        raise ValueError(f"--vectors {path}: there is no such file") from None
    except (ValueError, EOFError, OSError, IndexError, zlib.error) as error:
        raise ValueError(
            f"{path}: neither a word2vec nor a GloVe file that gensim reads ({error}); expected .bin, .txt, .vec, "
            "or one of these with .gz, complete and not inside a .zip; filter glove.840B, whose words may have "
            "spaces, with awk 'NF == 301'"
        ) from error
    return vectors


def _format(path: Path) -> tuple[bool, bool]:
    """Whether a file is binary, and whether its first line is a header of two counts."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        first, beginning = file.readline(1 << 16), file.read(1 << 12)
    if not first:
        raise ValueError("it is empty")
    header = re.fullmatch(rb"\s*\d+ \d+\s*", first) is not None
    return header and re.search(rb"[\x00-\x08\x0e-\x1f]", beginning) is not None, header


@dataclass(frozen=True)
class CommandLine:
    """Make the word vectors of a data set's attributes (for ImageNet, of its classes) from word2vec or GloVe."""

    dataset: tyro.conf.Positional[str]
    """cub, sun, awa2, imagenet, or a folder of your own with attributes.csv"""
    vectors: Path
    """word2vec's binary or text file, or GloVe's text file; may be compressed (.gz)"""
    data_root: Path = Path("data")
    """folder that holds the files of cub, sun, awa2 and imagenet"""
    out: Path | None = None
    """file to write (.pkl, .npy or .csv); by default the one that train.py reads"""
    overwrite: bool = False
    """replace an existing file, such as the one that zeromamba.data.get fetched"""


def names_of(command: CommandLine) -> tuple[tuple[str, ...], Path]:
    """The names to make vectors for, and the file that train.py reads the vectors from.

    Raises:
        FileNotFoundError, ValueError: if they are not there, or there is no such data set.
    """
    if command.dataset == "imagenet":
        train = command.data_root / FOLDER / "train"
        wnids = tuple(sorted(path.name for path in train.glob("n*") if path.is_dir()))
        if not wnids:
            raise FileNotFoundError(f"{train} has no class folders\n{where_to_get(command.dataset, command.data_root)}")
        return wnids, command.data_root / CLASS_VECTORS
    if command.dataset in BENCHMARKS:
        row = BENCHMARKS[command.dataset]
        found = listed_attribute_names(row, command.data_root)
        if found is None:
            raise FileNotFoundError(
                f"{command.data_root} has no {row.attribute_file} with the names of {row.title}'s attributes\n"
                f"{where_to_get(command.dataset, command.data_root)}"
            )
        return found[1], command.data_root / row.word_vectors
    folder = Path(command.dataset)
    if (other := folder / "word_vectors.npy").exists() and command.out is None:
        raise ValueError(f"{other} exists already: remove it, or give it as --out, since only one file is read")
    if not (folder / "attributes.csv").is_file():
        raise FileNotFoundError(
            f"{folder}: expected cub, sun, awa2, imagenet, or a folder with attributes.csv, whose first line names "
            "the attributes"
        )
    return read_table(folder / "attributes.csv", header=True)[0], folder / "word_vectors.csv"


def make(command: CommandLine, names: tuple[str, ...], vectors: WordVectors) -> np.ndarray:
    """The vectors of the names, (names, v) float64; prints the words that were not found.

    Raises:
        ValueError: for a class of ImageNet without a name or a vector: nothing else tells what it looks like; and where
            no attribute has a word in the file.
    """
    if command.dataset == "imagenet":
        synonyms = read_class_names(command.data_root)
        unnamed = [wnid for wnid in names if wnid not in synonyms]
        if unnamed:
            raise ValueError(f"{command.data_root / FOLDER}: no name for the classes {listing(unnamed)}")
        array = np.stack([class_vector(synonyms[wnid], vectors) for wnid in names])
        lacking = [f"{names[i]} ({', '.join(synonyms[names[i]])})" for i in np.flatnonzero(~array.any(1))]
        if lacking:
            raise ValueError(f"{command.vectors}: has no word of {len(lacking)} classes: {listing(lacking, '; ')}")
        return array
    recipe, rows = RECIPES.get(command.dataset, OWN), []
    for name in names:
        words = words_of(name, recipe)
        total, missing = add_up(words, vectors)
        rows.append(total)
        if missing:
            rest = "left out" if total.any() else "no word is left: an all-zero vector"
            print(f"not in the vocabulary: {', '.join(map(repr, missing))} of {name!r} ({rest})")
    array = np.stack(rows)
    if not array.any():
        raise ValueError(f"{command.vectors}: has no word of the {len(names)} attributes: is it in another language?")
    return array


def write(path: Path, names: Sequence[str], array: np.ndarray) -> None:
    """Write vectors in the form that the suffix names, atomically: .pkl and .npy the array, .csv with the names."""
    data, text = io.BytesIO(), io.StringIO()
    if path.suffix == ".pkl":
        pickle.dump(array, data, protocol=4)
    elif path.suffix == ".npy":
        np.save(data, array)
    else:
        csv.writer(text).writerows([name, *row] for name, row in zip(names, array.tolist(), strict=True))
        data.write(text.getvalue().encode())
    write_bytes(path, data.getbuffer())


def main(argv: list[str] | None = None) -> None:
    with errors_in_one_line():
        command = tyro.cli(CommandLine, args=expand_home(argv), prog="python -m zeromamba.embeddings")
        names, usual = names_of(command)
        out = command.out or usual
        if out.suffix not in (".pkl", ".npy", ".csv"):
            raise ValueError(f"--out {out}: expected a name that ends in .pkl, .npy or .csv")
        if out.exists() and not command.overwrite:
            raise ValueError(f"{out} exists already: give --overwrite to replace it, or another --out")
        require_writable(out)
        array = make(command, names, read_vectors(command.vectors))
        if unfit := [name for name, row in zip(names, array, strict=True) if not np.isfinite(row).all()]:
            raise ValueError(f"{command.vectors}: numbers that are not finite, in words of {listing(unfit)}")
        write(out, names, array)
    print(f"{len(names)} vectors of {array.shape[1]} numbers in {out}")


if __name__ == "__main__":
    main()
