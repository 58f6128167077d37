"""The result table: this run beside the paper's row for the data set, each with how its numbers were chosen."""

import io
import statistics
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .backbones import REGISTRY
from .data import ZSLData
from .experiments.paper import METRICS as PRINTED_METRICS
from .experiments.paper import main_result
from .settings import PAPER_GAMMA, Settings

METRICS = ("czsl", "U", "S", "H", "ausuc")
WIDTH = 80  # columns of a plain terminal

PAPER_CLASSES = {"cub": 200, "sun": 717, "awa2": 50, "imagenet": 1000}
PAPER_CHOICE = "gamma fixed by hand, epoch: best on test images in the released code"


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


def incomparable(settings: Settings, data: ZSLData) -> str:
    """What keeps a number on `data` from standing beside a printed one; empty where nothing does."""
    classes = PAPER_CLASSES.get(settings.dataset, len(data.class_names))
    if len(data.class_names) == classes:
        return ""
    return f"; all {classes} classes, this run has {len(data.class_names)}: not comparable"


def variant(settings: Settings) -> str:
    """How class scores are made."""
    scale = "" if settings.logit_scale == 1 else f", class scores times {settings.logit_scale:g}"
    return f"variant {settings.variant}{scale}"


def result_table(settings: Settings, data: ZSLData, results: list[dict[str, Any]]) -> Table:
    """The table that a run ends with; its caption says of each row how epoch and gamma were chosen."""
    seeds = f"{len(results)} seed" + ("s" if len(results) > 1 else "")
    ours = "; ".join(dict.fromkeys(r["chosen_by"] for r in results))
    parts = "" if settings.components == "full" else f" ({settings.components})"
    about = f"{parts}, {variant(settings)}, {settings.image_size} px, {seeds}"
    notes = [f"[1] {REGISTRY[settings.backbone].title}{about}; {ours}"]
    title = f"{data.name}: {len(data.seen)} seen + {len(data.unseen)} unseen classes, mean per-class top-1, percent"
    table = Table(title=title, caption_justify="left", min_width=72)
    for name in ("", "CZSL", "U", "S", "H", "AUSUC", "gamma"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    # deviations, and each seed's gamma, go on lines of their own: a terminal of 80 columns holds the table
    measured = (mean_and_deviation([r[m] for r in results]).replace(" ±", "\n±") for m in METRICS)
    table.add_row("this run \\[1]", *measured, "\n".join(f"{r['gamma']:.3g}" for r in results))
    table.add_row("chance", f"{100 / len(data.unseen):.1f}")
    if printed := main_result(settings.dataset):  # not data.name: a folder of one's own may be called awa2
        values = (getattr(printed, m) for m in PRINTED_METRICS)
        gamma = f"{PAPER_GAMMA[settings.dataset]:g}" if settings.dataset in PAPER_GAMMA else ""
        table.add_row("paper \\[2]", *("" if v is None else f"{v:.1f}" for v in values), "", gamma)
        notes.append(f"[2] {printed.source}: VMamba-Small, 448 px; {PAPER_CHOICE}{incomparable(settings, data)}")
    table.caption = escape("\n".join(notes))
    return table


def show(table: Table) -> str:
    """Print a table, and return it as plain text."""
    Console().print(table)
    plain = io.StringIO()
    Console(file=plain, width=WIDTH).print(table)
    return plain.getvalue()
