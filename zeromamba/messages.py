"""Words that the messages of different files share."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

LISTED = 8  # the most names of one list in a message
Extra = Literal["vit", "figures", "words"]  # of `pyproject.toml`


def option(name: str) -> str:
    """A setting as the command line spells it: "--batch-size" of "batch_size"."""
    return f"--{name.replace('_', '-')}"


def how_to_install(extra: Extra) -> str:
    """The command that installs an extra. The package is in no registry, so it is given from a clone."""
    return f"pip install -e '.[{extra}]' in your clone of zeromamba"


def listing(items: Iterable[object], separator: str = ", ") -> str:
    """Items in their order for a message; of many the first, and how many more there are."""
    texts = [str(item) for item in items]
    more = [f"and {len(texts) - LISTED} more"] if len(texts) > LISTED else []
    return separator.join(texts[:LISTED] + more) or "nothing"


def repeated(names: Iterable[str]) -> str | None:
    """The first of the names that is there more than once; None if each is another one."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def with_near_matches(names: Sequence[str], known: Iterable[str]) -> str:
    """Names that are not known, for a message, each with the known one that it may be meant for."""
    near = near_matches(names, known)
    return listing(f"{name!r} (is it {near[name]!r}?)" if name in near else repr(name) for name in names)


def near_matches(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """The names that may be meant for known ones, each with that one.

    Two names match if they are equal but for case, and for spaces, "_" and "-", which count as the same.
    """
    near = {_plain(name): name for name in known}
    return {name: near[_plain(name)] for name in names if _plain(name) in near}


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
