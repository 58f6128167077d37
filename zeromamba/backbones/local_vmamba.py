"""LocalVMamba (Huang et al. 2024, arXiv:2403.09338): VMamba's first architecture with four searched directions a block.

For maps that are not square, see `local_vim` about the released code.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import Discretization, Impl, ss2d
from ..weights import Released
from .layers import PreNorm, channels_last, drop_path_rates, init_linear, scan_parameters
from .local_mamba import ChannelGate, Directions, pad_to_windows
from .pyramid import Pyramid
from .vmamba import released_layout

PATCH = 4  # side of a patch, pixels


class LocalVMamba(Pyramid):
    """Stages of blocks without an MLP, over maps of 1/4 (rounded down), 1/8, 1/16 and 1/32 (rounded up from there).

    Args:
        dims: channels of each stage.
        depths: blocks of each stage.
        directions: of each block, all stages in a row.
        state: n, size of the hidden state of each channel.
        drop_path, discretization, grad_checkpoint, impl: as in `VMamba`.
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        directions: Sequence[Directions],
        *,
        state: int = 16,
        drop_path: float = 0.0,
        discretization: Discretization = "euler",
        grad_checkpoint: bool = False,
        impl: Impl = "auto",
    ) -> None:
        if len(directions) != sum(depths):
            raise ValueError(f"directions: expected those of {sum(depths)} blocks, got {len(directions)}")
        layers = zip(directions, drop_path_rates(drop_path, sum(depths)), strict=True)

        def block(dim: int) -> PreNorm:
            routes, rate = next(layers)
            return PreNorm(nn.LayerNorm(dim), LocalSS2D(dim, routes, state, discretization, impl), rate)

        stages = [[block(dim) for _ in range(depth)] for dim, depth in zip(dims, depths, strict=True)]
        downsamples = [PatchMerging(dim, out) for dim, out in pairwise(dims)]
        super().__init__(PatchStem(dims[0]), stages, downsamples, dims[-1], grad_checkpoint, least=PATCH)
        self.apply(init_linear)


class LocalSS2D(nn.Module):
    """`out_proj(silu(z) * norm(sum_k gate(scan_k(silu(conv(x))))))` with `x, z = in_proj(map)`.

    One gate serves all directions k, but sees each of them alone, so that every direction is a scan of its own.
    """

    def __init__(
        self, channels: int, directions: Directions, state: int, discretization: Discretization, impl: Impl
    ) -> None:
        super().__init__()
        d, k, r, n = 2 * channels, len(directions), math.ceil(channels / 16), state
        self.sizes = [r, n, n]  # what x_proj gives to one route and token: low-rank dt, B, C
        self.directions, self.ss2d = directions, partial(ss2d, discretization=discretization, impl=impl)
        self.in_proj = nn.Linear(channels, 2 * d, bias=False)
        self.conv = nn.Conv2d(d, d, kernel_size=3, padding=1, groups=d)
        self.x_proj = nn.Parameter(torch.empty(k, sum(self.sizes), d).uniform_(-(d**-0.5), d**-0.5))
        self.dt_weight, self.dt_bias, self.A_log, self.D = scan_parameters(k, d, r=r, n=n)
        self.gate = ChannelGate(d)
        self.norm = nn.LayerNorm(d)
        self.out_proj = nn.Linear(d, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of a map (b, h, w, channels) into one of the same shape."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        x = F.silu(channels_last(self.conv, x))
        y = sum((self.gate(self.scan(x, k)) for k in range(len(self.directions))), torch.zeros_like(x))
        return self.out_proj(self.norm(y) * F.silu(z))

    def scan(self, x: Tensor, k: int) -> Tensor:
        """One direction: map (b, h, w, d) to the same shape."""
        h, w = x.shape[1:3]
        route = self.directions[k]
        x = pad_to_windows(x, route.window)
        dt_low, B, C = F.linear(x, self.x_proj[k])[..., None, :].split(self.sizes, dim=-1)
        parameters = (self.dt_weight, self.dt_bias, self.A_log, self.D)
        dt_weight, dt_bias, A_log, D = (v[k : k + 1] for v in parameters)
        return self.ss2d(x, dt_low, dt_weight, dt_bias, -A_log.exp(), B, C, D, routes=(route,))[:, :h, :w]


class PatchStem(nn.Module):
    """Patches of 4 x 4 pixels: image (b, H, W, 3) to map (b, H // 4, W // 4, channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, kernel_size=PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(channels_last(self.conv, x))


class PatchMerging(nn.Module):
    """Four neighbours to one token (Liu et al. 2021, Swin): map (b, h, w, C) to (b, ceil(h/2), ceil(w/2), out)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_to_windows(x, 2)
        neighbours = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(neighbours, dim=-1)))


ATTN, GATE = "layers.{i}.blocks.{j}.op.multi_scan.attn", "backbone.stages.{i}.blocks.{j}.mixer.gate"

# Released name -> ours, in an `ImageNetClassifier`.
KEYS = {
    "patch_embed.0.{p}": "backbone.stem.conv.{p}",
    "patch_embed.2.{p}": "backbone.stem.norm.{p}",
    "layers.{i}.blocks.{j}.norm.{p}": "backbone.stages.{i}.blocks.{j}.norm.{p}",
    "layers.{i}.blocks.{j}.op.in_proj.weight": "backbone.stages.{i}.blocks.{j}.mixer.in_proj.weight",
    "layers.{i}.blocks.{j}.op.conv2d.{p}": "backbone.stages.{i}.blocks.{j}.mixer.conv.{p}",
    "layers.{i}.blocks.{j}.op.x_proj_weight": "backbone.stages.{i}.blocks.{j}.mixer.x_proj",
    "layers.{i}.blocks.{j}.op.dt_projs_weight": "backbone.stages.{i}.blocks.{j}.mixer.dt_weight",
    "layers.{i}.blocks.{j}.op.dt_projs_bias": "backbone.stages.{i}.blocks.{j}.mixer.dt_bias",
    "layers.{i}.blocks.{j}.op.A_logs": "backbone.stages.{i}.blocks.{j}.mixer.A_log",
    "layers.{i}.blocks.{j}.op.Ds": "backbone.stages.{i}.blocks.{j}.mixer.D",
    ATTN + ".norm.{p}": GATE + ".norm.{p}",
    ATTN + ".global_reduce.{p}": GATE + ".reduce.{p}",
    ATTN + ".channel_select.{p}": GATE + ".expand.{p}",
    "layers.{i}.blocks.{j}.op.out_norm.{p}": "backbone.stages.{i}.blocks.{j}.mixer.norm.{p}",
    "layers.{i}.blocks.{j}.op.out_proj.weight": "backbone.stages.{i}.blocks.{j}.mixer.out_proj.weight",
    "layers.{i}.downsample.norm.{p}": "backbone.stages.{i}.downsample.norm.{p}",
    "layers.{i}.downsample.reduction.weight": "backbone.stages.{i}.downsample.reduction.weight",
    "classifier.norm.{p}": "backbone.norm.{p}",
    "classifier.head.{p}": "head.{p}",
}

RELEASED = Released("LocalVMamba", KEYS, under="state_dict", layout=released_layout)
