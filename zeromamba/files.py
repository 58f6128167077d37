"""Files that are always the old one or the whole new one, whenever the process ends."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from .checks import require_kinds


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write data to a file beside `path`, flush it to the disk, and put it in `path`'s place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(path: Path) -> None:
    """Make the folder of `path`; raise OSError, naming `path`, where `write_bytes` could not put a file in it.

    A file that is there stays as it is.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected a file to write")
    try:
        with suppress(FileExistsError):  # a file: told below, as no folder
            path.parent.mkdir(parents=True, exist_ok=True)
        NamedTemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise OSError(f"{path}: cannot write there ({error.strerror})") from error


def read_json(path: Path, advice: str, **kinds: Any) -> dict[str, Any]:
    """Read an object that `write_json` wrote, which has at least fields of these kinds.

    Raises:
        ValueError: if it cannot be read or lacks one of them, with advice on what to do.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"expected an object, got {values!r}")
        require_kinds(values, kinds)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot read this file of a run ({error}): {advice}") from error
    return values


def tuples_for_lists(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values from JSON as dataclasses hold them: JSON knows no tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically."""
    write_bytes(path, text.encode(errors="backslashreplace"))  # a file's name may be no text


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON, atomically; ValueError for numbers that are not finite, which JSON has no word for."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
