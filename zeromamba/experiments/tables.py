"""The result table of an experiment, as Markdown and as CSV: each measured number with the printed one beside it."""

import csv
import io
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from ..files import write_text
from ..paper import PRINTED_METRICS, PrintedRow, main_result, printed
from ..report import METRICS, OVER_SEEDS, choices, in_percent, mean_and_deviation, network, paper_choice, variant
from ..settings import preset
from .grids import REDUCED_NOTE, Experiment
from .run import Cell


def printed_row(cell: Cell) -> PrintedRow | None:
    """The paper's row that a cell repeats, on the same data set; of a sweep, where it is at the published setting."""
    if cell.row.printed is not None:
        source, method = cell.row.printed
        return printed(source, cell.settings.dataset).get(method)
    published = preset(cell.settings.dataset, "paper")
    unchanged = all(getattr(published, name) == value for name, value in cell.row.changes.items())
    return main_result(cell.settings.dataset) if unchanged else None


def write_tables(experiment: Experiment, cells: list[Cell], folder: Path) -> None:
    """Write `table.md` and `table.csv` of what is finished, atomically."""
    write_text(folder / "table.md", markdown(experiment, cells))
    write_text(folder / "table.csv", _csv(csv_rows(experiment, cells)))


def markdown(experiment: Experiment, cells: list[Cell]) -> str:
    """The table of each data set under a heading of its own, and how its numbers were made."""
    parts = [f"# {experiment.title}"]
    if experiment.reduced:
        parts.append(f"**{REDUCED_NOTE}**")
    parts.append(f"Mean per-class top-1 accuracies and AUSUC in percent; over seeds, {OVER_SEEDS}.")
    for group in by_dataset(cells):
        parts += _section(experiment, group)
    return "\n\n".join(parts) + "\n"


def by_dataset(cells: list[Cell]) -> list[list[Cell]]:
    """The cells of each data set, in their order."""
    return [list(group) for _, group in groupby(cells, key=lambda cell: cell.data.name)]


def _section(experiment: Experiment, cells: list[Cell]) -> list[str]:
    data = cells[0].data
    others = _other_methods(experiment, cells)
    beside = bool(others) or any(printed_row(cell) for cell in cells)
    header = [""]
    for m, title in METRICS.items():
        header += [title, "paper"] if beside and m in PRINTED_METRICS else [title]
    header += ["seeds", "params, M", "trained as"]
    lines = [_measured(cell, beside) for cell in cells] + [_printed_only(row, len(header)) for row in others]
    heading = f"## {data.name}: {len(data.seen)} seen + {len(data.unseen)} unseen classes"
    return [heading, _table(header, lines), " ".join(_notes(cells, beside))]


def _notes(cells: list[Cell], beside: bool) -> list[str]:
    data = cells[0].data
    settings = cells[0].settings  # no row changes variant or scale
    notes = [
        f"Measured: {how_chosen(cells) or 'nothing yet'}; {variant(settings)}. "
        f"Chance in CZSL: {100 / len(data.unseen):.1f}."
    ]
    if beside:
        notes.append(f'Columns "paper": as printed; ZeroMamba with {paper_choice(settings, data)}.')
    else:
        notes.append(f"The paper prints no number for this on {data.name}.")
    reasons = dict.fromkeys(cell.unavailable for cell in cells if cell.unavailable)
    for reason in reasons:
        names = ", ".join(cell.row.name for cell in cells if cell.unavailable == reason)
        notes.append(f"Not run: {names}. {reason}.")
    for cell in cells:
        notes += [f"Diverged: {cell.row.name}, seed {seed}. {reason}." for seed, reason in cell.diverged().items()]
    return notes


def how_chosen(cells: list[Cell]) -> str:
    """How epoch and gamma of every finished seed were chosen; of which row and seed, where that differs."""
    return choices(
        (f"{cell.row.name} (seed {result['seed']})", result["chosen_by"]) for cell in cells for result in cell.results()
    )


def _other_methods(experiment: Experiment, cells: list[Cell]) -> list[PrintedRow]:
    """Rows of the experiment's table of the paper that no cell repeats."""
    if experiment.source is None:
        return []
    repeated = {cell.row.printed[1] for cell in cells if cell.row.printed}
    return [
        row for method, row in printed(experiment.source, cells[0].settings.dataset).items() if method not in repeated
    ]


def _measured(cell: Cell, beside: bool) -> list[str]:
    results, paper = cell.results(), printed_row(cell)
    line = [cell.row.name]
    for m in METRICS:
        line.append(in_percent([r[m] for r in results]) if results else "")
        if beside and m in PRINTED_METRICS:
            line.append(_number(getattr(paper, m, None)))
    settings = cell.settings
    trained_as = f"{network(settings)}, {settings.image_size} px, up to {settings.epochs} epochs"
    if cell.params is None:
        return [*line, "", "", "not run, see below"]
    return [*line, f"{len(results)} of {len(settings.seeds)}", f"{cell.params / 1e6:.1f}", trained_as]


def _printed_only(row: PrintedRow, width: int) -> list[str]:
    name = f"{row.method} ({', '.join(filter(None, (row.backbone, row.venue)))})" if row.backbone else row.method
    line = [name]
    for m in METRICS:
        line += ["", _number(getattr(row, m))] if m in PRINTED_METRICS else [""]
    return line + [""] * (width - len(line))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _table(header: list[str], lines: list[list[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(header) - 2) + ["---"]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))


def of_seeds(values: Iterable[float]) -> str:
    """A number of each seed, in one cell."""
    return " ".join(map(str, values))


def csv_rows(experiment: Experiment, cells: list[Cell]) -> list[dict[str, Any]]:
    """A line a cell: accuracies as percent, printed ones too, and how they were made."""
    rows = []
    for cell in cells:
        results, paper, settings = cell.results(), printed_row(cell), cell.settings
        accuracies: dict[str, float | str | None] = {}
        for m in METRICS:
            measured = mean_and_deviation([100 * r[m] for r in results]) if results else (None, None)
            accuracies[m], accuracies[f"{m}_deviation"] = (None if v is None else round(v, 2) for v in measured)
            accuracies[f"{m}_of_seeds"] = of_seeds(round(100 * r[m], 2) for r in results)
        rows.append(
            {
                "row": cell.row.name,
                "dataset": cell.data.name,
                "protocol": settings.protocol,
                "variant": settings.variant,
                "logit_scale": settings.logit_scale,
                "batch_size": settings.batch_size,
                "components": settings.components,
                "lambda_sc": settings.lambda_sc,
                "reduced": experiment.reduced,
                "seeds": of_seeds(r["seed"] for r in results),
                "params": cell.params,
                "backbone": settings.backbone,
                "image_size": settings.image_size,
                "epochs": settings.epochs,
                "chosen_epochs": of_seeds(r["epoch"] for r in results),
                "chosen_epochs_czsl": of_seeds(r.get("epoch_czsl", r["epoch"]) for r in results),
                "gammas": of_seeds(r["gamma"] for r in results),
                "chosen_by": how_chosen([cell]),
                **accuracies,
                **{f"{m}_printed": getattr(paper, m, None) for m in PRINTED_METRICS},
                "printed_in": paper and paper.source,
                "unavailable": cell.unavailable,
                "run": cell.folder.name,
            }
        )
    return rows


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
