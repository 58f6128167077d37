"""Layers and initial values that several backbones share."""

import math
from collections.abc import Iterator

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

DT_MIN, DT_MAX = 1e-3, 0.1  # range of softplus(dt_bias) at the start, as in Mamba


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, images skip a residual branch, each by its own draw.

    What stays is divided by the chance of staying, so that the expectation is that of evaluation.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path: expected a rate in [0, 1), got {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, ...) to the same shape."""
        if not self.training or self.rate == 0:
            return x
        stays = torch.rand((len(x),) + (1,) * (x.ndim - 1), device=x.device) >= self.rate
        return x * (stays / (1 - self.rate)).to(x.dtype)


class PreNorm(nn.Module):
    """`x + drop_path(mixer(norm(x)))`, the block of Mamba: no MLP follows."""

    def __init__(self, norm: nn.Module, mixer: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.norm = norm
        self.mixer = mixer
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, h, w, C) to the same shape."""
        return x + self.drop_path(self.mixer(self.norm(x)))


def drop_path_rates(last: float, depth: int) -> Iterator[float]:
    """Stochastic depth of each of `depth` blocks: it rises linearly from 0 to `last`."""
    return (last * i / max(depth - 1, 1) for i in range(depth))


def run_block(block: nn.Module, x: Tensor, grad_checkpoint: bool) -> Tensor:
    """`block(x)`; with `grad_checkpoint`, only x is kept for the backward, and the rest computed again."""
    return checkpoint(block, x, use_reentrant=False) if grad_checkpoint else block(x)


def resize_grid(table: Tensor, h: int, w: int) -> Tensor:
    """A learned table of positions (h0, w0, C) for a map of another size (h, w, C): bicubic interpolation."""
    if table.shape[:2] == (h, w):
        return table
    resized = F.interpolate(rearrange(table, "h w c -> 1 c h w"), (h, w), mode="bicubic", align_corners=False)
    return rearrange(resized, "1 c h w -> h w c")


def channels_last(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution to a map (b, h, w, channels); permuted views, so torch computes channels last."""
    return rearrange(conv(rearrange(x, "b h w c -> b c h w")), "b c h w -> b h w c")


def init_linear(module: nn.Module) -> None:
    """Weights from a normal of deviation 0.02, cut at 2, and biases zero, as VMamba starts."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def scan_parameters(*kd: int, r: int, n: int) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter, nn.Parameter]:
    """dt_weight (k, d, r), dt_bias (k, d), A_log (k, d, n) and D (k, d) as Mamba starts; without k, of one route.

    The bias is the inverse softplus of dt drawn log-uniformly from [DT_MIN, DT_MAX] (Gu and Dao 2023, section 3.6).
    """
    dt_weight = torch.empty(*kd, r).uniform_(-(r**-0.5), r**-0.5)
    dt = torch.empty(kd).uniform_(math.log(DT_MIN), math.log(DT_MAX)).exp()
    dt_bias = dt + torch.log(-torch.expm1(-dt))
    A_log = torch.arange(1, n + 1, dtype=torch.float32).log().repeat(*kd, 1)
    return nn.Parameter(dt_weight), nn.Parameter(dt_bias), nn.Parameter(A_log), nn.Parameter(torch.ones(kd))
