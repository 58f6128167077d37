"""Files that are always the old one or the whole new one, whenever the process ends."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, flush it to the disk, and put it in `path`'s place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # the disk is full
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(path: Path) -> None:
    """Raise OSError, naming `path`, where `atomic_write` could not put a file; one that is there stays as it is."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected a file to write")
    try:
        NamedTemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise OSError(f"{path}: cannot write there ({error.strerror})") from error


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """Read an object that `write_json` wrote.

    Raises:
        ValueError: if it cannot be read, with advice on what to do.
    """
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: cannot read this file of a run ({error}): {advice}") from error


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically."""
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON, atomically; ValueError for numbers that are not finite, which JSON has no word for."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
