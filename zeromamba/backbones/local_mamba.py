"""What LocalVim and LocalVMamba share: the searched directions, scans of windows, the gate on each direction.

LocalMamba (Huang et al. 2024, arXiv:2403.09338) scans every layer along four of eight directions, found by a search.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import Route

# The eight directions under the released names; `_` stands for `_flip`.
h, h_ = Route(), Route(reverse=True)
v, v_ = Route(column=True), Route(column=True, reverse=True)
w2, w2_ = Route(window=2), Route(window=2, reverse=True)
w7, w7_ = Route(window=7), Route(window=7, reverse=True)

Directions = tuple[Route, ...]  # of one layer

LOCAL_VIM: tuple[Directions, ...] = (
    (h, v_, w7, w7_),
    (h_, w2_, w7, w7_),
    (h, h_, v, w7),
    (h, h_, v, v_),
    (h, h_, v, v_),
    (h, h_, v, v_),
    (h_, v, v_, w7),
    (h_, v, v_, w2_),
    (h, h_, v, v_),
    (h, h_, v, v_),
    (h, v, v_, w2),
    (h, v, v_, w2_),
    (h, h_, v_, w7),
    (h_, v, v_, w2),
    (h, h_, v, v_),
    (h, v, w2, w2_),
    (v, v_, w2, w7),
    (h, h_, v, w2),
    (h, h_, w2_, w7),
    (v, v_, w2, w2_),
)

LOCAL_VMAMBA_SMALL: tuple[Directions, ...] = (
    (h, v, v_, w7_),
    (h, h_, v, w7),
    (h_, v, v_, w7),
    (h_, v, w2_, w7),
    (h_, v, w2_, w7),
    (h_, v_, w2, w7_),
    (h_, v, v_, w7),
    (h, v, v_, w7),
    (h, v, v_, w7),
    (h, v, v_, w7_),
    (h, h_, v, v_),
    (h, v, v_, w2),
    (v, v_, w2_, w7),
    (h, h_, v, w2),
    (h_, v, v_, w7_),
    (h, h_, v, v_),
    (h, v, v_, w7_),
    (h, v, v_, w7_),
    (h, h_, v_, w7),
    (h_, v_, w2_, w7),
    (h_, v, v_, w7_),
    (v, v_, w7, w7_),
    (h, v, v_, w7_),
    (h_, v, v_, w2),
    (h, v, v_, w2_),
    (h, h_, v, w7),
    (h, h_, w7, w7_),
    (h, v_, w2, w2_),
    (h, v_, w2, w7),
    (h, v, v_, w7_),
    (h_, v, w2_, w7),
    (h_, v_, w7, w7_),
    (h, v, w7, w7_),
)


def pad_to_windows(x: Tensor, window: int) -> Tensor:
    """Zeros at the right and lower border of a map (b, h, w, ...) up to whole windows, as the released scans read."""
    if window == 0:
        return x
    below, right = -x.shape[1] % window, -x.shape[2] % window
    return F.pad(x, (0, 0) * (x.ndim - 3) + (0, right, 0, below))


class ChannelGate(nn.Module):
    """BiAttn as released: each channel times what the mean over all tokens says of it, in (0, 1)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.reduce = nn.Linear(d, d // 8)
        self.expand = nn.Linear(d // 8, d)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, h, w, d) to the same shape."""
        mean = self.norm(x).mean(dim=(1, 2), keepdim=True)
        return x * torch.sigmoid(self.expand(F.gelu(self.reduce(mean))))
