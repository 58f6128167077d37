"""Tables of names and numbers as spreadsheets write them (CSV), read and checked line by line."""

import csv
import io
import math
import unicodedata
from pathlib import Path

import numpy as np

from ..messages import repeated

SEPARATORS = {";": "semicolons", "\t": "tabs"}  # that spreadsheets write where commas are meant


def read_table(path: Path, *, header: bool) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Read lines of a name and numbers, all of the same length.

    Args:
        path: comma-separated, UTF-8; a first line "sep=,", which Excel may write, is skipped.
        header: the first line names the columns.

    Returns:
        Names of the columns of numbers (empty without a header), and the numbers, float64, by the lines' names.

    Raises:
        ValueError: for what is not UTF-8, a header without names, lines of another length or without a name, a name
            twice, or what is not a finite number, naming the line.
    """
    reader = csv.reader(io.StringIO(read_text(path)))
    try:
        stripped = ((reader.line_num, [cell.strip() for cell in line]) for line in reader)
        lines = [(number, cells) for number, cells in stripped if any(cells)]
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: {error}") from error
    if lines and lines[0][1][0].lower().startswith("sep="):  # Excel's own, of what separates the columns
        del lines[0]
    if len(lines) < 1 + header:
        quoted = any("\n" in cell for _, cells in lines for cell in cells)
        raise ValueError(
            f"{path} has {len(lines)} lines, expected {'a header and ' if header else ''}a line or more"
            + (": a quotation mark is not closed" if quoted else "")
        )
    width = len(lines[0][1])
    if width < 2:
        other = next((f"it has {name}, " for sign, name in SEPARATORS.items() if sign in lines[0][1][0]), "")
        raise ValueError(f"{path}: one column, {other}expected a name and numbers, separated by commas")
    columns = _titles(lines.pop(0)[1][1:], path) if header else ()
    rows: dict[str, np.ndarray] = {}
    for number, (name, *cells) in lines:
        if len(cells) + 1 != width:
            raise ValueError(f"{path}: line {number} ({name!r}) has {len(cells) + 1} columns, expected {width}")
        if not name:
            raise ValueError(f"{path}: line {number} has no name in its first column: name it, or remove the line")
        if name in rows:
            raise ValueError(f"{path}: line {number}: {name!r} is listed more than once")
        values = [_number(cell) for cell in cells]
        if None in values:
            c = values.index(None)
            first = "" if header or number > 1 else " (this file must not have a header line)"
            raise ValueError(
                f"{path}: line {number}, column {c + 2}: {cells[c]!r}, expected a finite number, as 0.78{first}"
            )
        rows[name] = np.array(values, np.float64)
    return columns, rows


def _titles(cells: list[str], path: Path) -> tuple[str, ...]:
    """The names of the columns of numbers, after checking that these are names, and each another one."""
    if all(_number(cell) is not None for cell in cells):
        raise ValueError(f"{path}: line 1 must name the attributes; it holds numbers: put a line of names before it")
    if "" in cells:
        raise ValueError(f"{path}: line 1, column {cells.index('') + 2} has no name: name it, or remove the column")
    if twice := repeated(cells):
        raise ValueError(f"{path}: line 1 has the column {twice!r} more than once")
    return tuple(cells)


def _number(cell: str) -> float | None:
    """The finite number that a cell holds, if it does."""
    try:
        value = float(cell.replace("_", "?"))  # Python takes 9_2 for 92
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def read_text(path: Path) -> str:
    """The `composed` text of a file; ValueError for what is not UTF-8, naming the byte."""
    try:
        text = path.read_text(encoding="utf-8")  # not utf-8-sig, which counts an error's bytes behind the mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start + 1} is not UTF-8; save it as UTF-8") from error
    return composed(text.removeprefix("\ufeff"))  # spreadsheets put a byte order mark in front


def composed(text: str) -> str:
    """Text with each accented letter as one character, by which names compare: macOS may write it as two."""
    return unicodedata.normalize("NFC", text)
