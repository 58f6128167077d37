"""SS2D, the token mixer of VMamba (Liu et al. 2024, arXiv:2401.10166), as its released v2 models run it."""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import CROSS_SCAN, Discretization, Impl, ss2d
from .layers import channels_last, scan_parameters


class SS2D(nn.Module):
    """Selective scan along four routes k: `out_proj(norm(sum_k scan_k(silu(conv(in_proj(x))))))`, no gate.

    Args:
        channels: d_model, channels in and out.
        ratio: d / d_model, the widening of the scan.
        state: n, size of the hidden state of each channel.
        discretization: "euler" (Bbar = dt B, as every released checkpoint was trained) or "zoh", eq. (2).
        impl: which implementation of the scan runs, see `zeromamba.kernels.ss2d`.
    """

    def __init__(
        self,
        channels: int,
        *,
        ratio: float = 2.0,
        state: int = 1,
        discretization: Discretization = "euler",
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        d, k, r, n = int(ratio * channels), len(CROSS_SCAN), math.ceil(channels / 16), state
        self.sizes = [r, n, n]  # what x_proj gives to one route and token: low-rank dt, B, C
        self.scan = partial(ss2d, discretization=discretization, impl=impl)
        self.in_proj = nn.Linear(channels, d, bias=False)
        self.conv = nn.Conv2d(d, d, kernel_size=3, padding=1, groups=d, bias=False)
        self.x_proj = nn.Parameter(torch.empty(k, sum(self.sizes), d).uniform_(-(d**-0.5), d**-0.5))
        self.dt_weight, self.dt_bias, self.A_log, self.D = scan_parameters(k, d, r=r, n=n)
        self.norm = nn.LayerNorm(d)
        self.out_proj = nn.Linear(d, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of a map (b, h, w, channels) into one of the same shape."""
        x = F.silu(channels_last(self.conv, self.in_proj(x)))
        # The projections act on each token alone and need not follow the routes: one product serves all four.
        x_dbl = F.linear(x, self.x_proj.flatten(0, 1)).unflatten(-1, self.x_proj.shape[:2])
        dt_low, B, C = x_dbl.split(self.sizes, dim=-1)
        y = self.scan(x, dt_low, self.dt_weight, self.dt_bias, -self.A_log.exp(), B, C, self.D)
        return self.out_proj(self.norm(y))
