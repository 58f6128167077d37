"""A run's folder: its settings, the versions it ran with, and the check that it can be written."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from .data import ZSLData, differences, fingerprints
from .files import read_json, require_writable, write_json
from .machine import versions
from .messages import option
from .protocol import finished, seed_folder
from .settings import Settings

# What concerns the machine rather than the result: may change when a run goes on elsewhere.
MACHINE_SETTINGS = {"data_root", "device", "workers", "check_images", "scan", "grad_checkpoint"}
# Each seed has a folder of its own, so a run may gain some. The data set may be named by another path: what it holds is
# compared itself.
MAY_CHANGE = MACHINE_SETTINGS | {"seeds", "dataset"}


def new_folder(data: ZSLData) -> Path:
    """Make runs/DATASET/DATE_TIME, or with -2, -3, ... behind it if another run began in the same second.

    Raises:
        ValueError: if it cannot be written.
    """
    folder = usual = Path("runs", data.name, time.strftime("%F_%H-%M-%S"))
    with _writing_to(usual):
        usual.parent.mkdir(parents=True, exist_ok=True)
        for k in count(2):
            try:
                folder.mkdir()
                break
            except FileExistsError:
                folder = usual.with_name(f"{usual.name}-{k}")
    return folder


@contextmanager
def _writing_to(folder: Path, *, goes_on: bool = False) -> Iterator[None]:
    """Turn what the disk refuses into a ValueError that names the folder and what to do."""
    try:
        yield
    except OSError as error:
        # --resume takes no --out
        advice = "make this folder writable" if goes_on else "choose a folder you may write with --out"
        raise ValueError(f"{folder}: cannot write there ({error}): {advice}") from error


def make_output_folder(folder: Path, *names: str) -> None:
    """Make the folder that `--out` names, for files of these names.

    Raises:
        ValueError: if it, or one of them, cannot be written.
    """
    with _writing_to(folder):
        for name in names:
            require_writable(folder / name)


def open_run(folder: Path, settings: Settings, data: ZSLData, device: torch.device) -> Settings:
    """Make a run's folder, or check that it is this run's; returns its settings, with the seeds that it had before.

    Raises:
        ValueError: if it cannot be written, holds a run with other settings or on other data, or a broken result.
    """
    if goes_on := (folder / "settings.json").exists():
        kept = load_settings(folder)
        check_same_run(kept, settings, folder)
        check_same_data(folder, data)
        settings = replace(settings, seeds=tuple(dict.fromkeys(kept.seeds + settings.seeds)))
        for seed in settings.seeds:  # a broken result would end the run at its seed's turn
            finished(seed_folder(folder, seed))
    with _writing_to(folder, goes_on=goes_on):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "data.json", fingerprints(data))
        if not goes_on:  # every seed's result has those that it was made with
            write_json(folder / "versions.json", versions(device))
        write_json(folder / "settings.json", settings.to_json())  # last: where it is, so are the others
    return settings


def load_settings(folder: Path) -> Settings:
    """The settings of the run in `folder`.

    Raises:
        ValueError: if there is no run, or its settings cannot be read.
    """
    file = folder / "settings.json"
    return Settings.from_json(_read(file), str(file))


def _read(file: Path) -> dict[str, Any]:
    return read_json(file, "give a folder that this version of train.py made")


def check_same_run(kept: Settings, given: Settings, folder: Path) -> None:
    """Raise ValueError where settings that shape the result differ."""
    if change := first_change(kept, given, MAY_CHANGE):
        raise ValueError(
            f"{folder} holds a run with {change}: continue it by --resume {folder} without this setting, or begin a "
            "new run in another --out"
        )


def first_change(kept: Settings, given: Settings, allowed: set[str]) -> str | None:
    """The first setting that differs and is not allowed to, as "--epochs 2, not 5"; None if there is none."""
    old, new = kept.to_json(), given.to_json()
    changes = (name for name in old if old[name] != new[name] and name not in allowed)
    return next((f"{option(name)} {old[name]}, not {new[name]}" for name in changes), None)


def check_same_data(folder: Path, data: ZSLData) -> None:
    """Raise ValueError if the run in `folder` began on a data set that is not this one, or not as it is now."""
    if different := differences(_read(folder / "data.json"), fingerprints(data)):
        raise ValueError(
            f"{folder} holds a run on data that differ from {data.name!r} as it is now: {different}. Restore the data, "
            "or begin a new run in another --out"
        )
