"""A trained ZeroMamba on disk: one safetensors file that needs nothing beside it to name images.

Tensors: the model's state dict, and `Z`, the class prototypes. Metadata: `zeromamba`, a JSON object with the fields
of `Record`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .data import ZSLData
from .model import ZeroMamba
from .settings import Settings
from .weights import load_released_zeromamba, load_safetensors, save_safetensors


@dataclass(frozen=True)
class Record:
    """What must be known to use the weights."""

    settings: dict[str, Any]  # Settings.to_json
    seed: int
    epoch: int
    gamma: float
    chosen_by: str  # Settings.chosen_by
    dataset: str
    class_names: tuple[str, ...]
    seen: tuple[int, ...]  # class indices trained on
    attribute_names: tuple[str, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A record and its tensors; Z is (c, a)."""

    record: Record
    state: dict[str, Tensor]
    Z: Tensor
    source: Path

    @property
    def settings(self) -> Settings:
        return Settings.from_json(self.record.settings, str(self.source))

    def check_fits(self, data: ZSLData) -> None:
        """Raise ValueError unless `data` has the classes and attributes that these weights were trained on."""
        record = self.record
        for what, ours, theirs in (
            ("classes", record.class_names, data.class_names),
            ("attributes", record.attribute_names, data.attribute_names),
        ):
            if tuple(ours) != tuple(theirs):
                raise ValueError(
                    f"{self.source} is a checkpoint of {record.dataset!r} with {len(ours)} {what} ({_some(ours)}), "
                    f"but {data.name!r} has {len(theirs)} {what} ({_some(theirs)}): give the data set it was trained on"
                )


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def save_checkpoint(path: Path, model: ZeroMamba, data: ZSLData, record: Record) -> None:
    """Write a checkpoint atomically."""
    save_safetensors({**model.state_dict(), "Z": data.Z}, path, {"zeromamba": json.dumps(asdict(record))})


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of this project.

    Raises:
        FileNotFoundError, ValueError: if it is missing or not such a file; the message names the file.
    """
    state, metadata = load_safetensors(path)
    try:
        values = json.loads(metadata["zeromamba"])
        Z = state.pop("Z")
        lists = {k: tuple(values[k]) for k in ("class_names", "seen", "attribute_names")}
        record = Record(**{**values, **lists})
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path}: no zeromamba checkpoint (its metadata or tensors lack {error}): "
            "expected a model.safetensors written by train.py"
        ) from error
    return Checkpoint(record, state, Z, path)


def adopt_released(path: Path, settings: Settings, data: ZSLData, gamma: float | None) -> Checkpoint:
    """Read a `{CUB,SUN,AWA2}_best{CZSL,GZSL}.pth` of the released code as a checkpoint on `data`.

    Raises:
        ValueError: if the settings ask for the other variant, if there is no gamma, or as `load_released_zeromamba`.
    """
    if gamma is None:
        raise ValueError(f"{path} says nothing of gamma: give --gamma, or --protocol paper for the published one")
    if settings.variant != "released":
        raise ValueError(f"{path} is a checkpoint of the released code: it needs --variant released")
    state = load_released_zeromamba(path)
    if state["slp.V"].shape[0] != data.Z.shape[1]:
        raise ValueError(
            f"{path} has {state['slp.V'].shape[0]} attributes, but {data.name!r} has {data.Z.shape[1]}: "
            "give the data set it was trained on with --dataset"
        )
    record = Record(
        settings=settings.to_json(),
        seed=0,
        epoch=0,
        gamma=gamma,
        chosen_by="released checkpoint: best epoch on test images",
        dataset=data.name,
        class_names=data.class_names,
        seen=tuple(torch.sort(data.seen).values.tolist()),
        attribute_names=data.attribute_names,
    )
    return Checkpoint(record, state, data.Z, path)
