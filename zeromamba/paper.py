"""The numbers that the paper prints, from `paper.csv`, which says what could not be read."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

PRINTED_METRICS = ("czsl", "U", "S", "H")
_NUMBERS = {"params", *PRINTED_METRICS}  # columns of paper.csv; the others are text


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
    return tuple(PrintedRow(**{name: _value(name, text) for name, text in cells.items()}) for cells in table)


def _value(name: str, text: str) -> Any:
    if name not in _NUMBERS:
        return text
    return float(text) if text else None


def printed(source: str, dataset: str) -> dict[str, PrintedRow]:
    """The rows of one table on one data set by method; empty where the paper has none."""
    return {row.method: row for row in printed_rows() if (row.source, row.dataset) == (source, dataset)}


def main_result(dataset: str) -> PrintedRow | None:
    """ZeroMamba's own row on a data set, Table 1 or, on ImageNet, Table 3."""
    return (printed("Table 1", dataset) | printed("Table 3", dataset)).get("ZeroMamba")
