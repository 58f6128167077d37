"""LocalVim (Huang et al. 2024, arXiv:2403.09338): Vim without a class token, four searched directions a layer.

For maps that are not square the released code puts the tokens of column-wise directions back at wrong places (it
transposes (h, w) twice); here they return to their own. Square images give the same numbers.
"""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import Discretization, Impl
from ..weights import Released
from .interface import Backbone, Features, check_images
from .layers import PreNorm, drop_path_rates, init_linear, resize_grid, run_block
from .local_mamba import LOCAL_VIM, ChannelGate, Directions, pad_to_windows
from .mamba import RouteScan

PATCH = 16  # side of a patch, pixels


class LocalVim(Backbone):
    """Patches of 16 x 16 pixels; every layer turns their channels by their position and scans along its directions.

    Args:
        channels: C, a multiple of 4.
        directions: of each layer.
        grid: (h, w) of the patches that the position tables are for; other sizes interpolate them, as released.
        state, drop_path, discretization, grad_checkpoint, impl: as in `Vim`.
    """

    def __init__(
        self,
        channels: int,
        directions: Sequence[Directions] = LOCAL_VIM,
        *,
        grid: tuple[int, int] = (14, 14),
        state: int = 16,
        drop_path: float = 0.0,
        discretization: Discretization = "euler",
        grad_checkpoint: bool = False,
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        self.channels, self.grad_checkpoint = channels, grad_checkpoint
        self.patch_embed = nn.Conv2d(3, channels, kernel_size=PATCH, stride=PATCH)
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(*grid, channels), std=0.02))
        self.rotation = Rotation(channels, grid)
        self.blocks = nn.ModuleList(
            PreNorm(nn.RMSNorm(channels, eps=1e-5), LocalScans(channels, layer, state, discretization, impl), rate)
            for layer, rate in zip(directions, drop_path_rates(drop_path, len(directions)), strict=True)
        )
        self.norm = nn.RMSNorm(channels, eps=1e-5)
        self.apply(init_linear)

    def forward(self, images: Tensor) -> Features:
        """Features of images (b, 3, H, W): the last block's patches, not normalised, and their normalised mean.

        The map is (b, ceil(H / 16), ceil(W / 16), C): the image is padded with zeros to whole patches.

        Raises:
            ValueError: images are not of that shape.
        """
        check_images(images)
        images = F.pad(images, (0, -images.shape[3] % PATCH, 0, -images.shape[2] % PATCH))
        x = rearrange(self.patch_embed(images), "b c h w -> b h w c")
        x = x + resize_grid(self.pos_embed, *x.shape[1:3])
        for block in self.blocks:
            x = run_block(block, self.rotation(x), self.grad_checkpoint)
        return Features(map=x, pooled=self.norm(x).mean(dim=(1, 2)))


class LocalScans(nn.Module):
    """`out_proj(sum_k gate(silu(z) * scan_k(x)))` with `x, z = in_proj(map)`, one gate for all directions k."""

    def __init__(
        self, channels: int, directions: Directions, state: int, discretization: Discretization, impl: Impl
    ) -> None:
        super().__init__()
        d = 2 * channels
        self.directions = directions
        self.in_proj = nn.Linear(channels, 2 * d, bias=False)
        self.scans = nn.ModuleList(
            RouteScan(d, math.ceil(channels / 16), state, discretization, impl) for _ in directions
        )
        self.gate = ChannelGate(d)
        self.out_proj = nn.Linear(d, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, h, w, C) to the same shape."""
        h, w = x.shape[1:3]
        x, z = self.in_proj(x).chunk(2, dim=-1)
        y, z = torch.zeros_like(x), F.silu(z)
        for scan, route in zip(self.scans, self.directions, strict=True):
            y = y + self.gate(z * scan(pad_to_windows(x, route.window), route)[:, :h, :w])
        return self.out_proj(y)


class Rotation(nn.Module):
    """Rotary embedding of two dimensions: pairs of channels turn with the row (first half) and column (second)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        half = channels // 2
        frequencies = 10000.0 ** (-torch.arange(0, half, 2) / half)
        rows, columns = (torch.arange(n)[:, None] * frequencies.repeat_interleave(2) for n in grid)
        angle = torch.cat([rows[:, None].expand(*grid, half), columns[None].expand(*grid, half)], dim=-1)  # (h, w, C)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, h, w, C) to the same shape."""
        cos, sin = (resize_grid(table, *x.shape[1:3]) for table in (self.cos, self.sin))
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        return x * cos + torch.stack([-odd, even], dim=-1).flatten(-2) * sin


# Released name -> ours, in an `ImageNetClassifier`.
KEYS = {
    "patch_embed.proj.{p}": "backbone.patch_embed.{p}",
    "pos_embed": "backbone.pos_embed",
    "rope.freqs_cos": "backbone.rotation.cos",
    "rope.freqs_sin": "backbone.rotation.sin",
    "layers.{i}.norm.weight": "backbone.blocks.{i}.norm.weight",
    "layers.{i}.mixer.in_proj.weight": "backbone.blocks.{i}.mixer.in_proj.weight",
    "layers.{i}.mixer.conv1d_{j}.{p}": "backbone.blocks.{i}.mixer.scans.{j}.conv.{p}",
    "layers.{i}.mixer.x_proj_{j}.weight": "backbone.blocks.{i}.mixer.scans.{j}.x_proj.weight",
    "layers.{i}.mixer.dt_proj_{j}.weight": "backbone.blocks.{i}.mixer.scans.{j}.dt_weight",
    "layers.{i}.mixer.dt_proj_{j}.bias": "backbone.blocks.{i}.mixer.scans.{j}.dt_bias",
    "layers.{i}.mixer.A_log_{j}": "backbone.blocks.{i}.mixer.scans.{j}.A_log",
    "layers.{i}.mixer.D_{j}": "backbone.blocks.{i}.mixer.scans.{j}.D",
    "layers.{i}.mixer.attn.norm.{p}": "backbone.blocks.{i}.mixer.gate.norm.{p}",
    "layers.{i}.mixer.attn.global_reduce.{p}": "backbone.blocks.{i}.mixer.gate.reduce.{p}",
    "layers.{i}.mixer.attn.channel_select.{p}": "backbone.blocks.{i}.mixer.gate.expand.{p}",
    "layers.{i}.mixer.out_proj.weight": "backbone.blocks.{i}.mixer.out_proj.weight",
    "norm_f.weight": "backbone.norm.weight",
    "head.{p}": "head.{p}",
}

TABLES = ("backbone.pos_embed", "backbone.rotation.cos", "backbone.rotation.sin")


def released_layout(name: str, tensor: Tensor) -> Tensor:
    """Position tables come as (1, h * w, C) or (h * w, C) of a square grid; ours are (h, w, C)."""
    if name not in TABLES:
        return tensor
    table = tensor.flatten(0, -2)
    side = math.isqrt(len(table))
    if side**2 != len(table):
        raise ValueError(f"expected positions of a square grid, got shape {tuple(tensor.shape)}")
    return table.unflatten(0, (side, side))


RELEASED = Released("LocalVim", KEYS, under="state_dict", layout=released_layout)
