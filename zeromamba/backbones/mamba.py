"""Mamba's scan along one route of a map, from which the mixers of Vim and LocalVim are built."""

from functools import partial

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import Discretization, Impl, Route, ss2d
from .layers import scan_parameters

KERNEL = 4  # tokens that the convolution sees: one and the three before it


class RouteScan(nn.Module):
    """Mamba (Gu and Dao 2023) along one route: `scan(silu(conv(x)))`, the convolution causal along the route too.

    Args:
        d: channels of the scan.
        r: low rank of dt.
        n: size of the hidden state of each channel.
        discretization, impl: see `zeromamba.kernels.ss2d`.
    """

    def __init__(self, d: int, r: int, n: int, discretization: Discretization, impl: Impl) -> None:
        super().__init__()
        self.sizes = [r, n, n]  # what x_proj gives to one token: low-rank dt, B, C
        self.scan = partial(ss2d, discretization=discretization, impl=impl)
        self.conv = nn.Conv1d(d, d, KERNEL, groups=d, padding=KERNEL - 1)
        self.x_proj = nn.Linear(d, sum(self.sizes), bias=False)
        self.dt_weight, self.dt_bias, self.A_log, self.D = scan_parameters(d, r=r, n=n)

    def forward(self, x: Tensor, route: Route) -> Tensor:
        """Map (b, h, w, d) to the same shape."""
        x = self._convolve(x, route)
        dt_low, B, C = self.x_proj(x)[..., None, :].split(self.sizes, dim=-1)  # (b, h, w, k=1, ...)
        dt_weight, dt_bias, A, D = (v[None] for v in (self.dt_weight, self.dt_bias, -self.A_log.exp(), self.D))
        return self.scan(x, dt_low, dt_weight, dt_bias, A, B, C, D, routes=(route,))

    def _convolve(self, x: Tensor, route: Route) -> Tensor:
        """silu(conv(x)) along the route, every token back at its place."""
        h, w = x.shape[1:3]
        along = x.flatten(1, 2).index_select(1, route.tokens(h, w, x.device))  # (b, l, d)
        along = self.conv(rearrange(along, "b l d -> b d l"))[..., : h * w]
        tokens = rearrange(F.silu(along), "b d l -> b l d").index_select(1, route.positions(h, w, x.device))
        return rearrange(tokens, "b (h w) d -> b h w d", h=h)
