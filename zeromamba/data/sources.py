"""Where every file of a data set, and of VMamba, comes from: the one table that messages, checks and downloads read.

Sizes and hashes are those that public code checks these files against, named beside each; where there is none, a
download is checked by its length alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Part:
    """One thing that a source provides."""

    path: str  # where loaders look for it, below the folder of its data; a folder ends in "/"
    member: str = ""  # the file or folder of the archive that it is; empty: the source is this one file
    images: int = 0  # photographs in the folder
    vectors: int = 0  # word vectors in the file, which serves whoever made it
    alternative: str = ""  # another path that serves as well


@dataclass(frozen=True)
class Source:
    """One file to download, or what only a person can get."""

    what: str
    origin: str  # the file's address, or how to get it, with {root} for the folder --data-root
    parts: tuple[Part, ...]
    size: int | None = None  # bytes, exactly
    roughly: str = ""  # size for people, where it is not known exactly
    digest: str = ""  # "md5:..." or "sha256:..."
    direct: bool = True  # origin is an address that a program may fetch
    optional: bool = False
    folder: Literal["data", "checkpoints"] = "data"  # below which parts are: --data-root, or --checkpoints

    @property
    def filename(self) -> str:
        return self.origin.rsplit("/", 1)[-1]

    @property
    def weight(self) -> str:
        """Size for people."""
        return human(self.size) if self.size is not None else self.roughly


def human(count: int) -> str:
    """Bytes for people, in powers of 1000 as in the sites' own figures."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def _split(name: str) -> Source:
    files = ("att_splits.mat", "res101.mat", "valclasses1.txt")
    return Source(
        "the proposed split: labels, class attributes, validation classes",
        "http://datasets.d2.mpi-inf.mpg.de/xian/xlsa17.zip",
        tuple(Part(f"xlsa17/data/{name}/{file}", f"xlsa17/data/{name}/{file}") for file in files),
        roughly="about 0.9 GB",
    )


def _vectors(name: str, attributes: int, size: int, sha256: str) -> Source:
    # The commit's own files, hashed; the field's methods all distribute these same bytes (DAZLE's repository too).
    commit = "7c10cdbe76d36ec209b59127a6b1bb02fbd93852"
    return Source(
        "word vectors of the attributes",
        f"https://raw.githubusercontent.com/shiming-chen/TransZero/{commit}/w2v/{name}_attribute.pkl",
        (Part(f"w2v/{name}_attribute.pkl", vectors=attributes),),
        size,
        digest=f"sha256:{sha256}",
    )


def _vmamba(file: str, roughly: str = "", *, size: int | None = None, digest: str = "") -> Source:
    return Source(
        "VMamba, pretrained on ImageNet-1K",
        f"https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/{file}",
        (Part(file),),
        size,
        roughly,
        digest,
        folder="checkpoints",
    )


# by the name of the backbone
VMAMBA: dict[str, Source] = {
    "tiny": _vmamba("vssm1_tiny_0230s_ckpt_epoch_264.pth", "about 0.12 GB"),
    # size and hash: dream_exe's model_assets manifest, entry "sinref6d-vmamba"
    "small": _vmamba(
        "vssm_small_0229_ckpt_epoch_222.pth",
        size=200_732_814,
        digest="sha256:c540366e366d81acf69251810e7ea7268e0ca8bcb6843f3b773c1f0105bd30cb",
    ),
    "base": _vmamba("vssm_base_0229_ckpt_epoch_237.pth", "about 0.36 GB"),
}

Name = Literal["cub", "sun", "awa2", "imagenet", "vmamba"]  # those of `SOURCES`, for the command line

SOURCES: dict[str, tuple[Source, ...]] = {
    "cub": (
        Source(
            "the photographs and attribute names (https://www.vision.caltech.edu/datasets/cub_200_2011/)",
            "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            (
                Part("CUB/CUB_200_2011/images/", "CUB_200_2011/images", 11_788),
                Part("CUB/attributes.txt", "attributes.txt"),
            ),
            1_150_585_339,
            digest="md5:97eceeb196236b17998738112f37df78",  # TDeVries/cub2011_dataset and many others
        ),
        _split("CUB"),
        _vectors("CUB", 312, 748_962, "35261deef657d26c0886d6f49842aefe237708fc7f5b4e4d76c790e47446fa88"),
        VMAMBA["small"],
    ),
    "sun": (
        Source(
            "the photographs (https://cs.brown.edu/~gmpatter/sunattributes.html)",
            "https://cs.brown.edu/~gmpatter/Attributes/SUNAttributeDB_Images.tar.gz",
            (Part("SUN/images/", "images", 14_340),),
            roughly="about 1.8 GB",
            digest="md5:5966725c7306df6e05cd3ada7f45a18b",  # google-deepmind/dm_nevis, handlers/sun_attributes.py
        ),
        Source(
            "attribute names",
            "https://cs.brown.edu/~gmpatter/Attributes/SUNAttributeDB.tar.gz",
            (Part("SUN/attributes.mat", "SUNAttributeDB/attributes.mat"),),
            roughly="about 0.5 MB",
            digest="md5:883293e5b645822f6ae0046c6df54183",  # the same
        ),
        _split("SUN"),
        _vectors("SUN", 102, 244_961, "cb90a74a9d3a43e2a7282861130760cb655e6d753b6cc4235a4c7136154b1fb3"),
        VMAMBA["small"],
    ),
    "awa2": (
        Source(
            "the photographs and attribute names (https://cvml.ista.ac.at/AwA2/)",
            "https://cvml.ista.ac.at/AwA2/AwA2-data.zip",
            (
                Part("AWA2/Animals_with_Attributes2/JPEGImages/", "Animals_with_Attributes2/JPEGImages", 37_322),
                Part("AWA2/Animals_with_Attributes2/predicates.txt", "Animals_with_Attributes2/predicates.txt"),
            ),
            roughly="about 13 GB",
            digest="md5:eaa27cf799d5cf55af372356d7281b5e",  # google-deepmind/dm_nevis, handlers/awa2.py
        ),
        _split("AWA2"),
        _vectors("AWA2", 85, 204_161, "675cd9fdc7a8dce6881c2681efe2ab4e27d2ee545ad0fad210e485f5414cb754"),
        VMAMBA["small"],
    ),
    "imagenet": (
        Source(
            "the training images, one folder per class",
            "ILSVRC2012_img_train.tar, with an account at https://www.image-net.org/download.php",
            (Part("ImageNet/train/", images=1_281_167),),
            roughly="138 GB",
            direct=False,
        ),
        Source(
            "the validation images, sorted into one folder per class; without them, test images come from train/",
            "ILSVRC2012_img_val.tar, from there too, sorted by valprep.sh of soumith/imagenetloader.torch",
            (Part("ImageNet/val/", images=50_000),),
            roughly="6.3 GB",
            direct=False,
            optional=True,
        ),
        Source(
            "names of the classes: this file, or WordNet's words.txt beside it",
            "LOC_synset_mapping.txt of https://www.kaggle.com/c/imagenet-object-localization-challenge/data",
            (Part("ImageNet/LOC_synset_mapping.txt", alternative="ImageNet/words.txt"),),
            roughly="32 kB",
            direct=False,
        ),
        Source(
            "word vectors of the class names",
            "python -m zeromamba.embeddings imagenet --data-root {root} --vectors "
            "{root}/w2v/word2vec-google-news-300.gz",
            (Part("w2v/ImageNet_class.csv"),),
            direct=False,
        ),
        Source(
            "word2vec (Google News, 300 numbers per word), from which that command makes them",
            # size and hash: gensim-data's list.json
            "https://github.com/RaRe-Technologies/gensim-data/releases/download/word2vec-google-news-300/"
            "word2vec-google-news-300.gz",
            (Part("w2v/word2vec-google-news-300.gz"),),
            1_743_563_840,
            digest="md5:a5e5354d40acb95f9ec66d5977d140ef",
            optional=True,
        ),
        VMAMBA["small"],
    ),
    "vmamba": tuple(VMAMBA.values()),
}


def where_to_get(name: str, data_root: Path) -> str:
    """What a user needs for a data set, from whom, where to put it, and the command that does so."""
    lines = [f"{name} needs in the folder --data-root {data_root}:"]
    for source in SOURCES[name]:
        if source.folder == "data":
            paths = ", ".join(part.path for part in source.parts)
            origin = source.origin.format(root=data_root)
            lines.append(f"  {paths}{' (optional)' * source.optional}\n      {source.what}, from {origin}")
    command = f"python -m zeromamba.data.get {name} --data-root {data_root}"
    return "\n".join([*lines, f"{command}  lists what is there and what is missing; --download fetches what it can"])
