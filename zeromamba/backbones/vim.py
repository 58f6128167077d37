"""Vim (Zhu et al. 2024, arXiv:2401.09417), the released bidirectional models with a class token in the middle."""

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import Discretization, Impl, Route
from ..weights import Released
from .interface import Backbone, Features, check_images
from .layers import PreNorm, drop_path_rates, init_linear, resize_grid, run_block
from .mamba import RouteScan

PATCH = 16  # side of a patch, pixels
DIRECTIONS = (Route(), Route(reverse=True))


class Vim(Backbone):
    """Patches of 16 x 16 pixels and a class token as one sequence, read forwards and backwards in every block.

    Args:
        channels: C.
        depth: blocks.
        grid: (h, w) of the patches that `pos_embed` is for; other sizes interpolate it.
        state: n, size of the hidden state of each channel.
        drop_path: stochastic depth of the last block; the rates of the others rise to it linearly from 0.
        discretization: "euler" (Bbar = dt B, as every released checkpoint was trained) or "zoh", eq. (2).
        grad_checkpoint: for the backward, keep only what goes into each block and compute the rest again.
        impl: which implementation of the scan runs, see `zeromamba.kernels.ss2d`.
    """

    def __init__(
        self,
        channels: int,
        depth: int,
        *,
        grid: tuple[int, int] = (14, 14),
        state: int = 16,
        drop_path: float = 0.0,
        discretization: Discretization = "euler",
        grad_checkpoint: bool = False,
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        self.channels, self.grid, self.grad_checkpoint = channels, grid, grad_checkpoint
        self.patch_embed = nn.Conv2d(3, channels, kernel_size=PATCH, stride=PATCH)
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, channels), std=0.02))
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, math.prod(grid) + 1, channels), std=0.02))
        self.blocks = nn.ModuleList(
            PreNorm(nn.RMSNorm(channels, eps=1e-5), Bidirectional(channels, state, discretization, impl), rate)
            for rate in drop_path_rates(drop_path, depth)
        )
        self.norm = nn.RMSNorm(channels, eps=1e-5)
        self.apply(init_linear)

    def forward(self, images: Tensor) -> Features:
        """Features of images (b, 3, H, W): the last block's patches, not normalised, and the normalised class token.

        The map is (b, H // 16, W // 16, C); what is left of a whole patch at the border is not seen.

        Raises:
            ValueError: images are not of that shape, or smaller than a patch.
        """
        check_images(images, least=PATCH)
        patches = self.patch_embed(images)  # (b, C, h, w)
        h, w = patches.shape[2:]
        x = rearrange(patches, "b c h w -> b (h w) c")
        middle = h * w // 2
        x = insert(x, middle, self.cls_token) + self.positions(h, w)
        x = x[:, None]  # (b, 1, l, C), a map of one row
        for block in self.blocks:
            x = run_block(block, x, self.grad_checkpoint)
        x = x[:, 0]
        patches = torch.cat([x[:, :middle], x[:, middle + 1 :]], dim=1)
        return Features(map=rearrange(patches, "b (h w) c -> b h w c", h=h), pooled=self.norm(x[:, middle]))

    def positions(self, h: int, w: int) -> Tensor:
        """Position embeddings (1, h * w + 1, C), the class token's in the middle.

        The released fine-tuning code takes the first entry for the class token's, though it is that of a patch, and
        interpolates the rest with the class token's among it; here only the patches' are interpolated.
        """
        if (h, w) == self.grid:
            return self.pos_embed
        middle = math.prod(self.grid) // 2
        cls = self.pos_embed[:, middle : middle + 1]
        patches = torch.cat([self.pos_embed[:, :middle], self.pos_embed[:, middle + 1 :]], dim=1)
        resized = resize_grid(rearrange(patches, "1 (h w) c -> h w c", h=self.grid[0]), h, w)
        return insert(rearrange(resized, "h w c -> 1 (h w) c"), h * w // 2, cls)


class Bidirectional(nn.Module):
    """`out_proj(silu(z) * mean over both directions of scan(x))` with `x, z = in_proj(tokens)` ("bimamba v2")."""

    def __init__(self, channels: int, state: int, discretization: Discretization, impl: Impl) -> None:
        super().__init__()
        d = 2 * channels
        self.in_proj = nn.Linear(channels, 2 * d, bias=False)
        self.scans = nn.ModuleList(
            RouteScan(d, math.ceil(channels / 16), state, discretization, impl) for _ in DIRECTIONS
        )
        self.out_proj = nn.Linear(d, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, h, w, C) to the same shape."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        y = sum(scan(x, route) for scan, route in zip(self.scans, DIRECTIONS, strict=True))
        return self.out_proj(F.silu(z) * y / len(DIRECTIONS))


def insert(tokens: Tensor, position: int, token: Tensor) -> Tensor:
    """Put a token (1, 1, C) among tokens (b, l, C)."""
    token = token.expand(len(tokens), -1, -1)
    return torch.cat([tokens[:, :position], token, tokens[:, position:]], dim=1)


# Released name -> ours, in an `ImageNetClassifier`.
KEYS = {
    "patch_embed.proj.{p}": "backbone.patch_embed.{p}",
    "cls_token": "backbone.cls_token",
    "pos_embed": "backbone.pos_embed",
    "layers.{i}.norm.weight": "backbone.blocks.{i}.norm.weight",
    "layers.{i}.mixer.in_proj.weight": "backbone.blocks.{i}.mixer.in_proj.weight",
    "layers.{i}.mixer.conv1d.{p}": "backbone.blocks.{i}.mixer.scans.0.conv.{p}",
    "layers.{i}.mixer.conv1d_b.{p}": "backbone.blocks.{i}.mixer.scans.1.conv.{p}",
    "layers.{i}.mixer.x_proj.weight": "backbone.blocks.{i}.mixer.scans.0.x_proj.weight",
    "layers.{i}.mixer.x_proj_b.weight": "backbone.blocks.{i}.mixer.scans.1.x_proj.weight",
    "layers.{i}.mixer.dt_proj.weight": "backbone.blocks.{i}.mixer.scans.0.dt_weight",
    "layers.{i}.mixer.dt_proj_b.weight": "backbone.blocks.{i}.mixer.scans.1.dt_weight",
    "layers.{i}.mixer.dt_proj.bias": "backbone.blocks.{i}.mixer.scans.0.dt_bias",
    "layers.{i}.mixer.dt_proj_b.bias": "backbone.blocks.{i}.mixer.scans.1.dt_bias",
    "layers.{i}.mixer.A_log": "backbone.blocks.{i}.mixer.scans.0.A_log",
    "layers.{i}.mixer.A_b_log": "backbone.blocks.{i}.mixer.scans.1.A_log",
    "layers.{i}.mixer.D": "backbone.blocks.{i}.mixer.scans.0.D",
    "layers.{i}.mixer.D_b": "backbone.blocks.{i}.mixer.scans.1.D",
    "layers.{i}.mixer.out_proj.weight": "backbone.blocks.{i}.mixer.out_proj.weight",
    "norm_f.weight": "backbone.norm.weight",
    "head.{p}": "head.{p}",
}

RELEASED = Released("Vim", KEYS, under="model")
