"""Run a grid: each run in a folder of its own, named after what it changes; what is finished is read, not repeated.

The folders are shared by all experiments under one output folder: ZeroMamba as published is a row of every experiment,
and is trained once on each data set.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from ..backbones import REGISTRY
from ..build import build_model, missing_weights
from ..data import ZSLData
from ..files import read_json, write_json
from ..protocol import SEED_ANEW, SeedRun, finished, seed_folder
from ..runs import MAY_CHANGE, open_run
from ..settings import Settings
from .grids import Experiment, Row


@dataclass(frozen=True)
class Cell:
    """One row on one data set: a run over seeds, or the reason why there is none."""

    row: Row
    data: ZSLData
    settings: Settings
    folder: Path  # of a run as train.py makes it: `train.py --resume` goes on with it
    params: int | None = None  # of the whole model
    unavailable: str | None = None

    def results(self) -> list[dict[str, Any]]:
        """The finished seeds of those asked for, as `SeedRun.result` gives them."""
        found = (finished(seed_folder(self.folder, seed)) for seed in self.settings.seeds)
        return [result for result in found if result is not None]

    def diverged(self) -> dict[int, str]:
        """Why seeds of those asked for ended without a result."""
        folders = {seed: seed_folder(self.folder, seed) for seed in self.settings.seeds}
        files = {seed: folder / "diverged.json" for seed, folder in folders.items() if finished(folder) is None}
        return {seed: read_json(file, SEED_ANEW, reason=str)["reason"] for seed, file in files.items() if file.exists()}


def plan(experiment: Experiment, data: ZSLData, common: dict[str, Any], out: Path) -> list[Cell]:
    """The cells of one data set, each checked by building its model once.

    Args:
        data: the data set; its name in `common["dataset"]`.
        common: settings that all runs share.
        out: the folder of all experiments.

    Raises:
        FileNotFoundError, ValueError: for whatever would stop a run hours later.
    """
    start, cells = experiment.base(common["dataset"]), []
    for row in experiment.rows:
        settings = row_settings(experiment, row, common)
        folder, reason = out / "runs" / data.name / run_name(settings, start), unavailable(settings)
        params = None if reason else sum(p.numel() for p in build_model(settings, data.V).parameters())
        cells.append(Cell(row, data, settings, folder, params, reason))
    return cells


def row_settings(experiment: Experiment, row: Row, common: dict[str, Any]) -> Settings:
    """The settings of a row's runs; arguments and errors as `plan`."""
    settings = replace(experiment.base(common["dataset"]), **common, **row.changes)
    settings.fixed_gamma()  # that there is one where the protocol fixes it
    return settings


def unavailable(settings: Settings) -> str | None:
    """Why a backbone cannot be run here, which stops no other row; None if it can."""
    backbone = REGISTRY[settings.backbone]
    if settings.weights == "released" and backbone.file is None:
        return f"no weights of {backbone.title} were released"
    try:
        backbone.needs()
    except ImportError as error:
        return str(error)
    return None


def missing_files(experiment: Experiment, common: dict[str, Any]) -> list[str]:
    """Where to get the weights that rows need and that are not here; arguments and errors as `plan`, without data."""
    rows = (row_settings(experiment, row, common) for row in experiment.rows)
    return [text for settings in rows if unavailable(settings) is None for text in missing_weights(settings)]


def run_name(settings: Settings, start: Settings) -> str:
    """What a run changes of the settings that it starts from, for instance "image_size=224"."""
    changes = (
        f"{f.name}={getattr(settings, f.name)}"
        for f in fields(Settings)
        if f.name not in MAY_CHANGE and getattr(settings, f.name) != getattr(start, f.name)
    )
    return ",".join(changes) or "unchanged"


def run_all(cells: list[Cell], device: torch.device) -> Iterator[Cell]:
    """Finish every cell, all of them for one seed before the next; yields each after a run of it has ended."""
    todo = [(cell, seed) for seed in cells[0].settings.seeds for cell in cells if cell.unavailable is None]
    for i, (cell, seed) in enumerate(todo, start=1):
        folder = seed_folder(cell.folder, seed)
        done = finished(folder) is not None
        what = f"{cell.row.name} on {cell.data.name}, seed {seed}"
        print(f"run {i}/{len(todo)}: {what}: {'finished before' if done else cell.folder}", flush=True)
        if done:
            continue
        try:
            SeedRun(cell.settings, cell.data, seed, cell.folder, device).result()
        except FloatingPointError as error:  # a setting that diverges takes no other run with it
            print(f"run {i}/{len(todo)}: {what}: {error}", flush=True)
            write_json(folder / "diverged.json", {"reason": str(error)})
        yield cell


def open_all(cells: list[Cell], device: torch.device) -> None:
    """Make the run folders, or check that they are these runs'.

    Raises:
        ValueError: as `open_run`.
    """
    for cell in cells:
        if cell.unavailable is None:
            open_run(cell.folder, cell.settings, cell.data, device)
