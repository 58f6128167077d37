"""The result table: this run beside the paper's row for the data set, each with how its numbers were chosen."""

import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

from .data import ZSLData
from .settings import PAPER_GAMMA, Settings

METRICS = ("czsl", "U", "S", "H", "ausuc")

# Table 1 of the paper, row "ZeroMamba (Ours)", VMamba-Small at 448 x 448; percent: CZSL accuracy, U, S, H.
PAPER_ROWS: dict[str, tuple[float, float, float, float]] = {
    "cub": (80.0, 72.1, 76.4, 74.2),
    "sun": (72.4, 56.5, 41.4, 47.7),
    "awa2": (71.9, 67.9, 87.6, 76.5),
}
PAPER_CLASSES = {"cub": 200, "sun": 717, "awa2": 50}
PAPER_CHOICE = "printed; gamma per data set by hand, epoch: best on test images in the released code"


def mean_and_deviation(values: list[float]) -> str:
    """Fractions as percent, with the standard deviation over seeds where there are several."""
    percent = [100 * v for v in values]
    mean = f"{statistics.mean(percent):.1f}"
    return f"{mean} ± {statistics.stdev(percent):.1f}" if len(percent) > 1 else mean


def aggregate(results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over seeds of each metric, as fractions."""
    return {
        m: {
            "mean": statistics.mean(r[m] for r in results),
            "deviation": statistics.stdev(r[m] for r in results) if len(results) > 1 else 0.0,
        }
        for m in METRICS
    }


def result_table(settings: Settings, data: ZSLData, results: list[dict[str, Any]]) -> Table:
    """The table that a run ends with."""
    unseen, classes = len(data.unseen), len(data.class_names)
    title = f"{data.name}: {len(data.seen)} seen + {unseen} unseen classes, top-1 per class, percent"
    table = Table(title=title)
    table.add_column("", overflow="fold")
    for name in ("CZSL", "U", "S", "H", "AUSUC"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("gamma", justify="right")
    table.add_column("how epoch and gamma were chosen", overflow="fold")

    seeds = f"{len(results)} seed" + ("s" if len(results) > 1 else "")
    table.add_row(
        f"this run: VMamba-{settings.backbone.capitalize()}, {settings.image_size} px, {seeds}",
        *(mean_and_deviation([r[m] for r in results]) for m in METRICS),
        ", ".join(f"{r['gamma']:.3g}" for r in results),
        "; ".join(dict.fromkeys(r["chosen_by"] for r in results)),
    )
    table.add_row("chance", f"{100 / unseen:.1f}", "", "", "", "", "", "a class drawn at random from the candidates")
    if data.name in PAPER_ROWS:
        czsl, U, S, H = PAPER_ROWS[data.name]
        note = PAPER_CHOICE
        if classes != PAPER_CLASSES[data.name]:
            note += f"; on all {PAPER_CLASSES[data.name]} classes, this run has {classes}: not comparable"
        row = [f"{v:.1f}" for v in (czsl, U, S, H)]
        table.add_row("paper: VMamba-Small, 448 px (Table 1)", *row, "not printed", f"{PAPER_GAMMA[data.name]:g}", note)
    return table


def show(table: Table) -> str:
    """Print a table, and return it as plain text."""
    Console().print(table)
    plain = Console(record=True, width=140, file=open("/dev/null", "w"))  # noqa: SIM115
    plain.print(table)
    return plain.export_text()
