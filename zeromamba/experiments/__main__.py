"""The command line of the experiments.

python -m zeromamba.experiments table5 --data-root data --seeds 0 1 2    as in the paper, on its data sets
python -m zeromamba.experiments table5 --reduced                         the same on the demo, for two CPU cores
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from ..build import load_data_sets
from ..device import check_scan, pick_device
from ..entry import errors_in_one_line, expand_home
from ..figures import require_packages
from ..messages import repeated
from ..model import VariantName
from ..runs import make_output_folder
from ..settings import ProtocolName, Settings
from .grids import EXPERIMENTS, Experiment, ExperimentName, at_reduced_size
from .run import Cell, missing_files, open_all, plan, run_all
from .tables import write_tables


@dataclass(frozen=True)
class CommandLine:
    """Run an experiment of the paper. Run the same command again to finish what was interrupted."""

    name: tyro.conf.Positional[ExperimentName]
    """table or figure of the paper to reproduce"""
    datasets: tuple[str, ...] = ()
    """cub, sun, awa2, imagenet, demo, or folders of your own; by default the paper's, or the demo with --reduced"""
    seeds: tuple[int, ...] = (0,)
    """one run of each row for each seed; the table gives mean and standard deviation"""
    reduced: bool = False
    """use a small network and few epochs, for two CPU cores; the table says so"""
    out: Path | None = None
    """folder of all experiments, which share their runs; by default runs/experiments, or runs/reduced with --reduced"""
    protocol: ProtocolName = Settings.protocol
    """validation: choose epoch and gamma on held-out validation classes;
    paper: as the released code, fix gamma and choose the epoch on test images"""
    variant: VariantName | None = None
    """the model as in the released code or in the paper's text; by default as in the preset of each data set"""
    gamma: float | None = None
    """calibration in eq. (14), for all data sets;
    by default chosen on validation classes, or the published value with --protocol paper"""
    data_root: Path = Settings.data_root
    """folder that holds CUB/, SUN/, AWA2/, ImageNet/, xlsa17/ and w2v/"""
    device: str = Settings.device
    """cpu, cuda, cuda:1, ...; auto uses a CUDA device if there is one"""
    precision: Literal["float32", "bf16"] = Settings.precision
    """bf16: run the forward pass under autocast; parameters stay float32"""
    grad_checkpoint: bool = Settings.grad_checkpoint
    """recompute each block in the backward pass: less memory, more time"""
    workers: int | None = None
    """processes that read images; by default as in the preset of each data set"""

    def common(self) -> dict[str, Any]:
        """The settings that all runs share, except the data set; those that are None stay the preset's."""
        names = {f.name for f in fields(Settings)}
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name in names}
        return {name: value for name, value in given.items() if value is not None}


def plan_all(command: CommandLine, experiment: Experiment, out: Path) -> list[Cell]:
    """Every cell on every data set, all checked.

    Raises:
        FileNotFoundError: for all weights and data sets that are missing.
        ValueError: as `plan` and `load_data_sets`.
    """
    names = dict.fromkeys(command.datasets or experiment.datasets)
    commons = [{**command.common(), "dataset": name} for name in names]
    missing = [text for common in commons for text in missing_files(experiment, common)]
    data = load_data_sets([replace(Settings(), **common) for common in commons], missing)
    if repeated(own.name for own in data):
        raise ValueError(
            f"--datasets {' '.join(names)}: two have the same name, and so would their runs: rename a folder"
        )
    sets = zip(commons, data, strict=True)
    return [cell for common, own in sets for cell in plan(experiment, own, common, out)]


def write(experiment: Experiment, cells: list[Cell], folder: Path, device: torch.device) -> None:
    """Write tables and figures of what is finished."""
    write_tables(experiment, cells, folder)
    if experiment.chart:
        from ..figures.style import save
        from . import charts  # needs the packages that draw

        for suffix, figure in charts.draw(experiment, cells, device).items():
            save(figure, folder / f"{folder.name}{suffix}.png")


def main(argv: list[str] | None = None) -> None:
    with errors_in_one_line():  # whatever would stop a run is found before the first one
        command = tyro.cli(CommandLine, args=expand_home(argv), prog="python -m zeromamba.experiments")
        experiment = EXPERIMENTS[command.name]
        if command.reduced:
            experiment = at_reduced_size(experiment)
        out = command.out or Path("runs", "reduced" if command.reduced else "experiments")
        folder = out / command.name
        if experiment.chart:
            require_packages()
        device = pick_device(command.device)
        check_scan("auto", device)
        cells = plan_all(command, experiment, out)
        make_output_folder(folder, "table.md", "table.csv")
        open_all(cells, device)
    with errors_in_one_line("the same command continues", memory="--grad-checkpoint needs less memory"):
        for _ in run_all(cells, device):
            write_tables(experiment, cells, folder)
        write(experiment, cells, folder, device)
    print((folder / "table.md").read_text(encoding="utf-8"))
    print(f"tables and figures: {folder}")


if __name__ == "__main__":
    main()
