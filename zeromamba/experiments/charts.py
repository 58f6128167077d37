"""The figures of the paper that sum up runs: Figure 1 (parameters), 6 (sweeps) and 7 (gamma)."""

from collections.abc import Callable

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..build import restore_model
from ..checkpoint import load_checkpoint
from ..figures import gamma
from ..figures.run import Run
from ..figures.style import COLOURS, MARKERS, new_figure
from ..paper import PRINTED_METRICS
from ..protocol import RESULT, final_checkpoint, seed_folder
from ..report import METRICS, choices, mean_and_deviation, variant
from .grids import REDUCED_NOTE, ChartName, Experiment
from .run import Cell
from .tables import by_dataset, how_chosen, printed_row

Figures = dict[str, Figure]  # by what stands behind the experiment's name in the file's


def draw(experiment: Experiment, cells: list[Cell], device: torch.device) -> Figures:
    """The figures of what is finished of an experiment; none if nothing is, or the paper has none."""
    if experiment.chart is None or not any(cell.results() for cell in cells):
        return {}
    return CHARTS[experiment.chart](experiment, cells, device)


def parameters(experiment: Experiment, cells: list[Cell], device: torch.device) -> Figures:
    """CZSL accuracy and H of each row over the number of its parameters."""
    datasets = by_dataset(cells)
    shown = (
        "The backbones of Tables 4 and 6; the paper's figure is of published methods, whose parameters no table lists. "
        "Filled: measured, over the parameters of the model built. Hollow, where the paper prints one: its result, "
        "over the parameters printed or, where Table 6 prints none, of the model built. "
    )
    if experiment.reduced:
        shown += "Rows that one small network stands in for are one point. "
    with new_figure(2.8 * len(datasets) + 0.4, _caption(experiment, cells, shown)) as figure:
        grid = figure.subplots(len(datasets), 2, squeeze=False)
        for line, group in zip(grid, datasets, strict=True):
            for axes, metric in zip(line, ("czsl", "H"), strict=True):
                for i, cell in enumerate(group):
                    built = None if experiment.reduced else cell.params
                    _point(axes, cell, metric, built, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
                axes.set(xlabel="parameters, M", ylabel=f"{METRICS[metric]}, %", title=group[0].data.name)
            line[1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return {"": figure}


def _point(axes: Axes, cell: Cell, metric: str, built: int | None, colour: str, marker: str) -> None:
    results, paper = cell.results(), printed_row(cell)
    if results and cell.params:
        x = cell.params / 1e6
        y, error = _percent(cell, metric)
        axes.errorbar(x, y, error, color=colour, marker=marker, linestyle="none", label=cell.row.name)
    if paper is not None and (value := getattr(paper, metric)) is not None:
        at = paper.params or (built / 1e6 if built else None)
        label = None if results else f"{cell.row.name} (paper)"
        if at is not None:
            axes.plot(at, value, marker, markerfacecolor="none", markeredgecolor=colour, label=label, linestyle="")


def sweeps(experiment: Experiment, cells: list[Cell], device: torch.device) -> Figures:
    """Each metric over each swept setting."""
    datasets, settings = by_dataset(cells), dict.fromkeys(name for row in experiment.rows for name in row.changes)
    shown = (
        "The values are ours, around those that the paper's text names; nothing but the swept setting varies; bars: "
        "deviation over seeds. Hollow, where the paper prints one: its result, at its setting. "
    )
    with new_figure(2.4 * len(datasets) + 0.4, _caption(experiment, cells, shown)) as figure:
        grid = figure.subplots(len(datasets), len(settings), squeeze=False)
        for line, group in zip(grid, datasets, strict=True):
            for axes, setting in zip(line, settings, strict=True):
                swept = [cell for cell in group if setting in cell.row.changes and cell.results()]
                _lines(axes, swept)
                axes.set_xticks(range(len(swept)), [f"{getattr(cell.settings, setting):g}" for cell in swept])
                axes.set(xlabel=setting, ylabel="accuracy, %", title=group[0].data.name, ylim=(0, 100))
            line[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return {"": figure}


def _lines(axes: Axes, swept: list[Cell]) -> None:
    """Each metric of a sweep, evenly spaced: the values span orders of magnitude, and 0."""
    for metric, colour, marker in zip(PRINTED_METRICS, COLOURS, MARKERS, strict=False):
        points = [_percent(cell, metric) for cell in swept]
        values, errors = [p[0] for p in points], [p[1] for p in points]
        axes.errorbar(range(len(swept)), values, errors, color=colour, marker=marker, label=METRICS[metric])
        for tick, paper in enumerate(map(printed_row, swept)):
            if paper is not None:
                axes.plot(tick, getattr(paper, metric), marker, color=colour, markerfacecolor="none")


def gamma_curves(experiment: Experiment, cells: list[Cell], device: torch.device) -> Figures:
    """U, S and H over gamma of the first finished seed on each data set; nothing is trained for it."""
    figures = {}
    for cell in cells:
        for result in cell.results()[:1]:
            folder = seed_folder(cell.folder, result["seed"])
            file = final_checkpoint(folder, cell.settings.protocol)
            if not file.is_file():
                raise FileNotFoundError(f"{file} is missing: remove {folder / RESULT}, too, and the seed starts anew")
            checkpoint = load_checkpoint(file)
            model = restore_model(checkpoint, cell.settings).to(device)
            run = Run(checkpoint, cell.settings, cell.data, model, device)
            curve, chosen = gamma.gamma_curve(run)
            caption = run.caption(f"{experiment.title}. {_mark(experiment, [cell])}{gamma.SHOWN}")
            figures[f"-{cell.data.name}"] = gamma.draw(curve, chosen, caption)
    return figures


CHARTS: dict[ChartName, Callable[[Experiment, list[Cell], torch.device], Figures]] = {
    "parameters": parameters,
    "sweeps": sweeps,
    "gamma": gamma_curves,
}


def _percent(cell: Cell, metric: str) -> tuple[float, float]:
    mean, deviation = mean_and_deviation([100 * result[metric] for result in cell.results()])
    return mean, deviation or 0.0  # of one seed there is no bar


def _mark(experiment: Experiment, cells: list[Cell]) -> str:
    partial = {cell.data.name: cell.data.incomparable for cell in cells}
    notes = [REDUCED_NOTE] if experiment.reduced else []
    notes += [f"{name}: {note}." for name, note in partial.items() if note]
    return "".join(f"{note} " for note in notes)


def _caption(experiment: Experiment, cells: list[Cell], shown: str) -> str:
    seeds = ", ".join(map(str, sorted({result["seed"] for cell in cells for result in cell.results()})))
    cells_of_data = [group[0] for group in by_dataset(cells)]  # of which no row has a variant of its own
    variants = choices((cell.data.name, variant(cell.settings)) for cell in cells_of_data)
    made = f"Seeds {seeds}; {variants}; protocol: {how_chosen(cells)}."
    return f"{experiment.title}. {_mark(experiment, cells)}{shown}{made}"
