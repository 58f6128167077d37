"""The directions in which a map is read, as pure index maps."""

from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor


@dataclass(frozen=True)
class Route:
    """One order of the l = h * w tokens of a map.

    By default the order is row-major: token = row * w + column.

    Args:
        column: column-major.
        reverse: the same order from its end; with windows, the whole windowed order from its end.
        window: side of LocalMamba's square windows (Huang et al. 2024, arXiv:2403.09338), in tokens; 0: none. A
            window larger than the map is the whole map.

    Raises:
        TypeError: column or reverse is neither True nor False, or window is no whole number.
        ValueError: window is negative.
    """

    column: bool = False
    reverse: bool = False
    window: int = 0

    def __post_init__(self) -> None:
        for name in ("column", "reverse"):
            if (given := getattr(self, name)) not in (True, False):
                raise TypeError(f"{name}: expected True or False, got {given!r}")
        if not isinstance(self.window, Integral | torch.SymInt):  # torch.compile's, where windows vary
            raise TypeError(f"window: expected a whole number of tokens, got {self.window!r}")
        if self.window < 0:
            raise ValueError(f"window: expected 0 (no windows) or a side in tokens, got {self.window}")

    def tokens(self, h: int, w: int, device: torch.device | str | None = None) -> Tensor:
        """The token at each position along the route: (l,) int64, a permutation of 0..l-1.

        Windows follow each other in row-major order (column-major with `column`), and so do the tokens inside
        each; windows are cut off at the right and lower border.
        """
        map_ = torch.arange(h * w, device=device).view(h, w)
        if self.column:
            map_ = map_.T
        order = map_.flatten()
        if self.window:
            sides = (torch.arange(side, device=device) for side in map_.shape)
            row, column = (i.flatten() for i in torch.meshgrid(*sides, indexing="ij"))
            across = -(-map_.shape[1] // self.window)
            of_window = row // self.window * across + column // self.window
            order = order[of_window.argsort(stable=True)]
        return order.flip(0) if self.reverse else order

    def positions(self, h: int, w: int, device: torch.device | str | None = None) -> Tensor:
        """The position along the route of each token, the inverse of `tokens`: (l,) int64."""
        tokens = self.tokens(h, w, device)
        return torch.empty_like(tokens).scatter_(0, tokens, torch.arange(h * w, device=device))


#: The four routes of SS2D, which VMamba calls its cross-scan: k = 0..3 in the order of its weights.
CROSS_SCAN = (Route(), Route(column=True), Route(reverse=True), Route(column=True, reverse=True))
