"""Checks of what a command line, a file or a caller gives; the errors name the setting or field."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from .messages import option


def require_kinds(values: Mapping[str, Any], kinds: Mapping[str, Any], spelled: Callable[[str], str] = str) -> None:
    """Raise ValueError for the first field whose value is not of its kind, or a number that is not finite.

    Args:
        values: by field; one that is missing counts as None.
        kinds: annotations by field. A whole number is of kind float too.
        spelled: how the error calls a field.
    """
    for name, kind in kinds.items():
        value = values.get(name)
        try:
            check_type(value, kind, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
        except TypeCheckError as error:
            raise ValueError(f"{spelled(name)} is {value!r}: {' '.join(str(error).split())}") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{spelled(name)} is {value!r}: expected a finite number")


def require(settings: object, names: Iterable[str], holds: Callable[[Any], bool], expected: str) -> None:
    """Raise ValueError, with what is expected, unless it holds of the settings of these names."""
    for name in names:
        if not holds(value := getattr(settings, name)):
            raise ValueError(f"{option(name)} is {value}: expected {expected}")


def require_at_least_one(settings: object, *names: str) -> None:
    """Raise ValueError unless settings of these names are 1 or more."""
    require(settings, names, lambda value: value >= 1, "at least 1")


def require_seeds(settings: object, *names: str) -> None:
    """Raise ValueError unless settings of these names, a number or several each, are seeds for NumPy and PyTorch."""

    def holds(value: int | tuple[int, ...]) -> bool:
        return all(0 <= seed < 2**32 for seed in (value if isinstance(value, tuple) else (value,)))

    require(settings, names, holds, f"0 to {2**32 - 1}")
