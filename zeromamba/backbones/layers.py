"""Layers and initial values that several backbones share."""

import math

import torch
from torch import Tensor, nn

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 0.1, 1e-4  # range of softplus(dt_bias) at the start, as in Mamba


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


def channels_last(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution to a map (b, h, w, channels); permuted views, so torch computes channels last."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def init_linear(module: nn.Module) -> None:
    """Weights from a normal of deviation 0.02, cut at two, and biases zero, as all these backbones start."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def initial_dt_bias(k: int, d: int) -> Tensor:
    """Inverse softplus of dt drawn log-uniformly from [DT_MIN, DT_MAX] (Gu and Dao 2023, section 3.6): (k, d)."""
    dt = torch.empty(k, d).uniform_(math.log(DT_MIN), math.log(DT_MAX)).exp().clamp(min=DT_FLOOR)
    return dt + torch.log(-torch.expm1(-dt))
