"""The numbers that the paper prints, from `paper.csv`, which says what could not be read."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

PRINTED_METRICS = ("czsl", "U", "S", "H")


@dataclass(frozen=True)
class PrintedRow:
    """A method on a data set; accuracies in percent, None where the paper prints none."""

    source: str  # "Table 1"
    method: str  # unique within its table and data set
    backbone: str
    venue: str
    params: float | None  # millions
    dataset: str
    czsl: float | None
    U: float | None
    S: float | None
    H: float | None


@cache
def printed_rows() -> tuple[PrintedRow, ...]:
    """Every row, in the paper's order."""
    text = files(__package__).joinpath("paper.csv").read_text(encoding="utf-8")
    table = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return tuple(_row(values) for values in table)


def _row(values: dict[str, str]) -> PrintedRow:
    def number(name: str) -> float | None:
        return float(values[name]) if values[name] else None

    return PrintedRow(
        source=values["source"],
        method=values["method"],
        backbone=values["backbone"],
        venue=values["venue"],
        params=number("params"),
        dataset=values["dataset"],
        czsl=number("czsl"),
        U=number("U"),
        S=number("S"),
        H=number("H"),
    )


def printed(source: str, dataset: str) -> dict[str, PrintedRow]:
    """The rows of one table on one data set by method; empty where the paper has none."""
    return {row.method: row for row in printed_rows() if (row.source, row.dataset) == (source, dataset)}


def main_result(dataset: str) -> PrintedRow | None:
    """ZeroMamba's own row on a data set, Table 1 or, on ImageNet, Table 3."""
    return (printed("Table 1", dataset) | printed("Table 3", dataset)).get("ZeroMamba")
