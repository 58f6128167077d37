"""The result table: this run beside the paper's row for the data set, each with how its numbers were chosen."""

import io
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .backbones import REGISTRY
from .data import ZSLData
from .paper import PRINTED_METRICS, main_result
from .settings import PAPER_GAMMA, Settings

METRICS = {"czsl": "CZSL", "U": "U", "S": "S", "H": "H", "ausuc": "AUSUC"}  # of a result, and their titles
WIDTH = 80  # columns of a plain terminal
OVER_SEEDS = "mean ± sample standard deviation, of H too: it is not the harmonic mean of the U and S shown"


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1) over seeds; a single one has no deviation."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def in_percent(values: Sequence[float]) -> str:
    """Mean and deviation of fractions as tables show them."""
    mean, deviation = mean_and_deviation([100 * v for v in values])
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"


def aggregate(results: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation over seeds of each metric, as fractions."""
    both = {m: mean_and_deviation([r[m] for r in results]) for m in METRICS}
    return {m: {"mean": mean, "deviation": deviation} for m, (mean, deviation) in both.items()}


def paper_choice(settings: Settings, data: ZSLData) -> str:
    """How the paper chose epoch and gamma, and what keeps its numbers from standing beside ones on `data`."""
    if settings.dataset in PAPER_GAMMA:
        chosen = "gamma fixed by hand, epoch: best on test images in the released code"
    else:  # ImageNet, which the released code cannot train on
        chosen = "no statement of how its epoch was chosen"
    return "; ".join(filter(None, (chosen, data.incomparable)))


def network(settings: Settings) -> str:
    """The backbone; in brackets what differs from a whole ZeroMamba on ImageNet-1K weights of which all is trained."""
    entry = REGISTRY[settings.backbone]
    notes: list[str] = []
    if settings.components != "full":
        notes.append(settings.components)
    if settings.weights is None and entry.released:  # the others have no weights to start from
        notes.append("from scratch")
    if settings.weights is not None and entry.pretrained_on != "ImageNet-1K":
        notes.append(f"pretrained on {entry.pretrained_on}")
    if settings.discretization != "euler":  # as all released weights were trained
        notes.append("exact zero-order hold")
    if settings.freeze_backbone:
        notes.append("backbone frozen")
    return entry.title + (f" ({', '.join(notes)})" if notes else "")


def choices(chosen_by: Iterable[tuple[str, str]]) -> str:
    """How epochs and gammas were chosen, from pairs of a result's name and its `chosen_by`.

    Where the texts differ, the most frequent one comes first, and in brackets each other, after whom it holds for.
    """
    whose: dict[str, list[str]] = {}
    for name, text in chosen_by:
        whose.setdefault(text, []).append(name)
    most, *others = sorted(whose, key=lambda text: -len(whose[text])) or [""]
    return most + "".join(f" ({', '.join(whose[text])}: {text})" for text in others)


def variant(settings: Settings) -> str:
    """How class scores are made."""
    scale = "" if settings.logit_scale == 1 else f", class scores times {settings.logit_scale:g}"
    return f"variant {settings.variant}{scale}"


def result_table(settings: Settings, data: ZSLData, results: list[dict[str, Any]]) -> Table:
    """The table that a run ends with; its caption says of each row how epoch and gamma were chosen."""
    seeds = "1 seed" if len(results) == 1 else f"{len(results)} seeds ({OVER_SEEDS})"
    ours = choices((f"seed {r['seed']}", r["chosen_by"]) for r in results)
    notes = [f"[1] {network(settings)}, {variant(settings)}, {settings.image_size} px, {seeds}; {ours}"]
    title = f"{data.name}: {len(data.seen)} seen + {len(data.unseen)} unseen classes, mean per-class top-1, percent"
    table = Table(title=escape(title), caption_justify="left", min_width=72)
    for name in ("", *METRICS.values(), "gamma"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    # deviations, and each seed's gamma, go on lines of their own: a terminal of 80 columns holds the table
    measured = (in_percent([r[m] for r in results]).replace(" ±", "\n±") for m in METRICS)
    table.add_row("this run [1]", *measured, "\n".join(f"{r['gamma']:.3g}" for r in results))
    table.add_row("chance", f"{100 / len(data.unseen):.1f}")
    if printed := main_result(settings.dataset):  # not data.name: a folder of one's own may be called awa2
        values = (getattr(printed, m) for m in PRINTED_METRICS)
        gamma = f"{PAPER_GAMMA[settings.dataset]:g}" if settings.dataset in PAPER_GAMMA else ""
        table.add_row("paper [2]", *("" if v is None else f"{v:.1f}" for v in values), "", gamma)
        notes.append(f"[2] {printed.source}: VMamba-Small, 448 px; {paper_choice(settings, data)}")
    table.caption = escape("\n".join(notes))
    return table


def plain(table: Table) -> str:
    """A table as plain text."""
    text = io.StringIO()
    Console(file=text, width=WIDTH).print(table)
    return text.getvalue()
