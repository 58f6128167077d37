"""What some parts need beyond the package itself: the extras of `pyproject.toml`."""

from typing import Literal

Extra = Literal["vit", "figures", "words"]


def how_to_install(extra: Extra) -> str:
    """The command that installs an extra. The package is in no registry, so it is given from a clone."""
    return f"pip install -e '.[{extra}]' in your clone of zeromamba"
