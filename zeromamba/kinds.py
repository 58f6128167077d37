"""Whether values, as a file or a caller gives them, are of the kinds that their fields are annotated with."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    dict: "an object",
    Path: "a path",
    NoneType: "None",
}


def require_kinds(values: Mapping[str, Any], kinds: Mapping[str, Any], spelled: Callable[[str], str] = str) -> None:
    """Raise ValueError, with what is expected, for the first field whose value is not of its kind.

    Args:
        values: by field; one that is missing counts as None.
        kinds: annotations by field. A whole number is of kind float too, one that is not finite is of none.
        spelled: how the error calls a field.
    """
    for name, kind in kinds.items():
        if not _is_of(value := values.get(name), kind):
            raise ValueError(f"{spelled(name)} is {value!r}: expected {_described(kind)}")


def _is_of(value: Any, kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in arguments
    if origin in (Union, UnionType):
        return any(_is_of(value, one) for one in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_of(one, arguments[0]) for one in value)
    if isinstance(value, bool):  # which Python counts among the whole numbers
        return kind is bool
    if kind is float:
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, origin or kind)


def _described(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(arguments)}"
    if origin in (Union, UnionType):
        return " or ".join(map(_described, arguments))
    if origin is tuple:
        return f"a list, each of it {_described(arguments[0])}"
    return _WORDS.get(origin or kind, str(kind))
