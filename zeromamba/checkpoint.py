"""A trained ZeroMamba on disk: one safetensors file that needs nothing beside it to name images.

Tensors: the model's state dict, and `Z`, the class prototypes. Metadata: `zeromamba`, a JSON object with the fields
of `Record`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_type_hints

from torch import Tensor

from .backbones import vmamba
from .checks import require_kinds
from .data import ZSLData, differences, fingerprints
from .files import tuples_for_lists
from .messages import listing
from .model import ZeroShotModel
from .settings import Settings
from .weights import Released, load_safetensors, save_safetensors

# Released name -> ours of what ZeroMamba adds.
ZEROMAMBA_KEYS = {
    "VisionMamba.classifier2.V": "slp.V",
    "VisionMamba.classifier2.W1": "slp.W1",
    "VisionMamba.classifier2.W2": "slp.W2",
    "clf_head2.0.weight": "slp.mlp.0.weight",
    "clf_head2.2.weight": "slp.mlp.2.weight",
    "clf_head.weight": "grl.proj.weight",
}

RELEASED_SUFFIX = ".pth"  # of the released code's files; ours are .safetensors
# What the epoch of a released file is the best in, by the end of its name; the published row is of both files.
RELEASED_BEST = {"_bestCZSL": "CZSL", "_bestGZSL": "U, S and H"}

# The parts of a data set (`fingerprints`) without which a checkpoint cannot be measured honestly.
TRAINED_ON = ("unseen classes", "attributes of the classes", "training images")


def in_zeromamba(name: str) -> str:
    """Where a parameter of an `ImageNetClassifier` stands in `ZeroMamba`: GRL keeps the head."""
    return name if name.startswith("backbone.") else f"grl.{name}"


# `VisionMamba.` stands before the names of VMamba's own parameters, of which GRL keeps the classifier.
RELEASED = Released(
    "ZeroMamba",
    {f"VisionMamba.{key}": in_zeromamba(ours) for key, ours in vmamba.KEYS.items()} | ZEROMAMBA_KEYS,
    layout=vmamba.released_layout,
)


@dataclass(frozen=True)
class Record:
    """What must be known to use the weights."""

    settings: Settings
    seed: int
    epoch: int
    gamma: float
    chosen_by: str  # Settings.chosen_by
    dataset: str
    class_names: tuple[str, ...]
    seen: tuple[int, ...]  # class indices trained on
    attribute_names: tuple[str, ...]
    data: dict[str, str]  # `fingerprints` of what it was trained on

    @classmethod
    def of(cls, data: ZSLData, *, settings: Settings, seed: int, epoch: int, gamma: float, chosen_by: str) -> "Record":
        """The record of a model for `data`."""
        return cls(
            settings=settings,
            seed=seed,
            epoch=epoch,
            gamma=gamma,
            chosen_by=chosen_by,
            dataset=data.name,
            class_names=data.class_names,
            seen=tuple(data.seen.tolist()),
            attribute_names=data.attribute_names,
            data=fingerprints(data),
        )

    @property
    def seen_names(self) -> frozenset[str]:
        return frozenset(self.class_names[c] for c in self.seen)


@dataclass(frozen=True)
class Checkpoint:
    """A record and its tensors; Z is (c, a)."""

    record: Record
    state: dict[str, Tensor]
    Z: Tensor
    source: Path

    def check_fits(self, data: ZSLData) -> None:
        """Raise ValueError unless `data` is what these weights were trained on; test images may be others."""
        record = self.record
        for what, ours, theirs in (
            ("classes", record.class_names, data.class_names),
            ("attributes", record.attribute_names, data.attribute_names),
        ):
            if tuple(ours) != tuple(theirs):
                raise ValueError(
                    f"{self.source} is a checkpoint of {record.dataset!r} with {len(ours)} {what}, but {data.name!r} "
                    f"has {len(theirs)}, {_unlike(ours, theirs)}: give the data set it was trained on"
                )
        now = fingerprints(data)
        if different := differences(record.data, {part: now[part] for part in TRAINED_ON}):
            raise ValueError(
                f"{self.source} was trained on {record.dataset!r} before it changed: {different} differ from what "
                f"{data.name!r} is now: restore the data set to measure what was trained"
            )


def _unlike(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    """How two different lists of names differ."""
    lacking, more = ([n for n in a if n not in b] for a, b in ((ours, theirs), (theirs, ours)))
    if not lacking and not more:
        return "the same in another order"
    parts = {"without": lacking, "with the unknown": more}
    return ", ".join(f"{how} {listing(map(repr, names))}" for how, names in parts.items() if names)


def save_checkpoint(path: Path, model: ZeroShotModel, data: ZSLData, record: Record) -> None:
    """Write a checkpoint atomically."""
    values = asdict(record) | {"settings": record.settings.to_json()}
    save_safetensors({**model.state_dict(), "Z": data.Z}, path, {"zeromamba": json.dumps(values)})


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of this project.

    Raises:
        FileNotFoundError, ValueError: if it is missing or not such a file; the message names the file.
    """
    if path.suffix == RELEASED_SUFFIX:
        raise ValueError(f"{path}: expected a model.safetensors of train.py; released files do not name their classes")
    state, metadata = load_safetensors(path)
    try:
        values = json.loads(metadata["zeromamba"])
        Z = state.pop("Z")
        settings = Settings.from_json(values["settings"], str(path))
        record = Record(**{**tuples_for_lists(values), "settings": settings})
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        cause = f"its metadata or tensors lack {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{path}: not a zeromamba checkpoint ({cause}): expected a model.safetensors written by train.py"
        ) from error
    require_kinds(vars(record), get_type_hints(Record), lambda name: f"{path}: {name} in its metadata")
    c, a = len(record.class_names), len(record.attribute_names)
    if Z.shape != (c, a) or not Z.isfinite().all() or not set(record.seen) <= set(range(c)):
        raise ValueError(
            f"{path}: Z of shape {tuple(Z.shape)} and the classes {listing(record.seen)} as seen, expected finite "
            f"numbers for the {c} class_names and {a} attribute_names in its metadata: copy the file again"
        )
    return Checkpoint(record, state, Z, path)


def adopt_released(path: Path, settings: Settings, data: ZSLData) -> Checkpoint:
    """Read a `{CUB,SUN,AWA2}_best{CZSL,GZSL}.pth` of the released code as a checkpoint on `data`.

    Raises:
        FileNotFoundError, ValueError: as `adoptable_gamma` and `Released.load`, if it lacks a part of ZeroMamba, or
            for another number of attributes.
    """
    gamma = adoptable_gamma(path, settings)
    state = RELEASED.load(path)
    if missing := [key for key, ours in ZEROMAMBA_KEYS.items() if ours not in state]:
        raise ValueError(f"{path}: expected a released ZeroMamba checkpoint, it lacks {listing(missing)}")
    if state["slp.V"].shape[0] != data.Z.shape[1]:
        raise ValueError(
            f"{path} has {state['slp.V'].shape[0]} attributes, but {data.name!r} has {data.Z.shape[1]}: "
            "give the data set it was trained on with --dataset"
        )
    chosen_by = "released checkpoint: best epoch on test images, gamma fixed by hand"
    chosen_by += "".join(f"; this is the epoch for {m}" for end, m in RELEASED_BEST.items() if path.stem.endswith(end))
    record = Record.of(data, settings=settings, seed=0, epoch=0, gamma=gamma, chosen_by=chosen_by)
    return Checkpoint(record, state, data.Z, path)


def adoptable_gamma(path: Path, settings: Settings) -> float:
    """The gamma to use a released checkpoint with.

    Raises:
        ValueError: if there is none, or the settings ask for the other variant.
    """
    gamma = settings.fixed_gamma()
    if gamma is None:
        raise ValueError(
            f"{path} does not name its data set or gamma: give --dataset cub, sun or awa2, and --protocol paper for "
            "the published gamma, or --gamma"
        )
    if settings.variant != "released":
        raise ValueError(f"{path} is a checkpoint of the released code: it needs --variant released")
    return gamma
