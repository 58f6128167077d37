"""VMamba (Liu et al. 2024, arXiv:2401.10166), the released v2 models."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from ..kernels import CROSS_SCAN, Discretization, Impl
from ..weights import Released
from .layers import DropPath, channels_last, drop_path_rates, init_linear
from .pyramid import Pyramid
from .ss2d import SS2D

SizeName = Literal["nano", "tiny", "small", "base"]
MLP_RATIO = 4


@dataclass(frozen=True)
class Size:
    """What tells one VMamba from another; state size 1 and MLP ratio 4 are common to all."""

    dims: tuple[int, ...]  # channels of each stage
    depths: tuple[int, ...]  # blocks of each stage
    ssm_ratio: float  # channels of the scan over those of the block
    drop_path: float  # stochastic depth of the last block


SIZES: dict[SizeName, Size] = {
    # our own, for small images, CPUs and tests
    "nano": Size((32, 64, 128, 256), (1, 1, 2, 1), ssm_ratio=1.0, drop_path=0.0),
    # VMamba-T[s1l8], S[s2l15] and B[s2l15]: vssm1_tiny_0230s, vssm_small_0229 and vssm_base_0229
    "tiny": Size((96, 192, 384, 768), (2, 2, 8, 2), ssm_ratio=1.0, drop_path=0.2),
    "small": Size((96, 192, 384, 768), (2, 2, 15, 2), ssm_ratio=2.0, drop_path=0.3),
    "base": Size((128, 256, 512, 1024), (2, 2, 15, 2), ssm_ratio=2.0, drop_path=0.6),
}


class VMamba(Pyramid):
    """Four stages of VSS blocks over maps of 1/4, 1/8, 1/16 and 1/32 of the image's size.

    Every convolution of stride 2 is padded and rounds up, so that any H, W >= 1 leave at least one token.

    Args:
        dims: channels of each stage.
        depths: blocks of each stage.
        ssm_ratio: channels of the scan over those of the block.
        drop_path: stochastic depth of the last block; the rates of the others rise to it linearly from 0.
        state: n, size of the hidden state of each channel.
        discretization: "euler" (Bbar = dt B, as every released checkpoint was trained) or "zoh", eq. (2).
        grad_checkpoint: for the backward, keep only what goes into each block and compute the rest again.
        impl: which implementation of the scan runs, see `zeromamba.kernels.ss2d`.
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        *,
        ssm_ratio: float = 2.0,
        drop_path: float = 0.0,
        state: int = 1,
        discretization: Discretization = "euler",
        grad_checkpoint: bool = False,
        impl: Impl = "auto",
    ) -> None:
        rates = drop_path_rates(drop_path, sum(depths))

        def block(dim: int) -> VSSBlock:
            mixer = SS2D(dim, ratio=ssm_ratio, state=state, discretization=discretization, impl=impl)
            return VSSBlock(dim, mixer, next(rates))

        # which of a seed's random numbers each gets is a matter of this order
        stem = Stem(dims[0])
        downsamples = [Downsample(dim, out) for dim, out in pairwise(dims)]
        stages = [[block(dim) for _ in range(depth)] for dim, depth in zip(dims, depths, strict=True)]
        super().__init__(stem, stages, downsamples, dims[-1], grad_checkpoint)
        self.apply(init_linear)


class VSSBlock(nn.Module):
    """`x + drop_path(ss2d(norm1(x)))`, then `x + drop_path(mlp(norm2(x)))`."""

    def __init__(self, channels: int, ss2d: SS2D, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.ss2d = ss2d
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, MLP_RATIO * channels), nn.GELU(), nn.Linear(MLP_RATIO * channels, channels)
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, h, w, channels) to the same shape."""
        x = x + self.drop_path(self.ss2d(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stem(nn.Module):
    """Two convolutions of stride 2: image (b, H, W, 3) to map (b, ceil(H/4), ceil(W/4), channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels // 2, kernel_size=3, stride=2, padding=1)
        self.norm1 = nn.LayerNorm(channels // 2)
        self.conv2 = nn.Conv2d(channels // 2, channels, kernel_size=3, stride=2, padding=1)
        self.norm2 = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.gelu(self.norm1(channels_last(self.conv1, x)))
        return self.norm2(channels_last(self.conv2, x))


class Downsample(nn.Module):
    """A convolution of stride 2 and a LayerNorm between two stages."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel_size=3, stride=2, padding=1)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(channels_last(self.conv, x))


# Released name -> ours, in an `ImageNetClassifier`.
KEYS = {
    "patch_embed.0.{p}": "backbone.stem.conv1.{p}",
    "patch_embed.2.{p}": "backbone.stem.norm1.{p}",
    "patch_embed.5.{p}": "backbone.stem.conv2.{p}",
    "patch_embed.7.{p}": "backbone.stem.norm2.{p}",
    "layers.{i}.blocks.{j}.norm.{p}": "backbone.stages.{i}.blocks.{j}.norm1.{p}",
    "layers.{i}.blocks.{j}.op.in_proj.weight": "backbone.stages.{i}.blocks.{j}.ss2d.in_proj.weight",
    "layers.{i}.blocks.{j}.op.conv2d.weight": "backbone.stages.{i}.blocks.{j}.ss2d.conv.weight",
    "layers.{i}.blocks.{j}.op.x_proj_weight": "backbone.stages.{i}.blocks.{j}.ss2d.x_proj",
    "layers.{i}.blocks.{j}.op.dt_projs_weight": "backbone.stages.{i}.blocks.{j}.ss2d.dt_weight",
    "layers.{i}.blocks.{j}.op.dt_projs_bias": "backbone.stages.{i}.blocks.{j}.ss2d.dt_bias",
    "layers.{i}.blocks.{j}.op.A_logs": "backbone.stages.{i}.blocks.{j}.ss2d.A_log",
    "layers.{i}.blocks.{j}.op.Ds": "backbone.stages.{i}.blocks.{j}.ss2d.D",
    "layers.{i}.blocks.{j}.op.out_norm.{p}": "backbone.stages.{i}.blocks.{j}.ss2d.norm.{p}",
    "layers.{i}.blocks.{j}.op.out_proj.weight": "backbone.stages.{i}.blocks.{j}.ss2d.out_proj.weight",
    "layers.{i}.blocks.{j}.norm2.{p}": "backbone.stages.{i}.blocks.{j}.norm2.{p}",
    "layers.{i}.blocks.{j}.mlp.fc1.{p}": "backbone.stages.{i}.blocks.{j}.mlp.0.{p}",
    "layers.{i}.blocks.{j}.mlp.fc2.{p}": "backbone.stages.{i}.blocks.{j}.mlp.2.{p}",
    "layers.{i}.downsample.1.{p}": "backbone.stages.{i}.downsample.conv.{p}",
    "layers.{i}.downsample.3.{p}": "backbone.stages.{i}.downsample.norm.{p}",
    "classifier.norm.{p}": "backbone.norm.{p}",
    "classifier.head.{p}": "head.{p}",
    # the same under the names of VMamba's later files
    "layers.{i}.blocks.{j}.op.x_proj.weight": "backbone.stages.{i}.blocks.{j}.ss2d.x_proj",
    "layers.{i}.blocks.{j}.op.dt_projs.weight": "backbone.stages.{i}.blocks.{j}.ss2d.dt_weight",
}

# Parameters of SS2D that carry the route as their first dimension, and their number of dimensions with it.
PER_ROUTE = {"x_proj": 3, "dt_weight": 3, "dt_bias": 2, "A_log": 3, "D": 2}


def released_layout(name: str, tensor: Tensor) -> Tensor:
    """Undo the released layouts: linear weights as 1x1 convolutions, routes flattened into what follows."""
    if tensor.ndim == 4 and tensor.shape[2:] == (1, 1):  # VMamba has no 1x1 convolution of its own
        tensor = tensor.flatten(1)
    if tensor.ndim + 1 != PER_ROUTE.get(name.rpartition(".")[2]):
        return tensor
    if len(tensor) % len(CROSS_SCAN):
        raise ValueError(f"expected {len(CROSS_SCAN)} routes, got shape {tuple(tensor.shape)}")
    return tensor.unflatten(0, (len(CROSS_SCAN), -1))


RELEASED = Released("VMamba v2", KEYS, under="model", layout=released_layout)
