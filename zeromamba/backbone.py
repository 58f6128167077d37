"""The backbone: VMamba (Liu et al. 2024, arXiv:2401.10166), the released v2 models."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .ss2d import SS2D, channels_last

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


class VMamba(nn.Module):
    """Four stages of VSS blocks over maps of 1/4, 1/8, 1/16 and 1/32 of the image's size, each rounded up.

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
        discretization: str = "euler",
        grad_checkpoint: bool = False,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        self.channels = dims[-1]
        self.stem = Stem(dims[0])
        last = max(sum(depths) - 1, 1)
        rates = (drop_path * i / last for i in range(sum(depths)))

        def block(dim: int) -> VSSBlock:
            mixer = SS2D(dim, ratio=ssm_ratio, state=state, discretization=discretization, impl=impl)
            return VSSBlock(dim, mixer, next(rates))

        downsamples = [Downsample(dim, out) for dim, out in pairwise(dims)] + [nn.Identity()]
        self.stages = nn.ModuleList(
            Stage([block(dim) for _ in range(depth)], downsample, grad_checkpoint)
            for dim, depth, downsample in zip(dims, depths, downsamples, strict=True)
        )
        self.apply(_init_linear)

    def forward(self, images: Tensor) -> Tensor:
        """The last stage's map (b, ceil(H/32), ceil(W/32), C), not normalised, of images (b, 3, H, W).

        Every convolution of stride 2 is padded and rounds up, so that any H, W >= 1 leave at least one token.

        Raises:
            ValueError: images are not of shape (b, 3, H, W) with H, W >= 1.
        """
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
            raise ValueError(f"images: expected (b, 3, H, W), channels second and H, W >= 1; got {tuple(images.shape)}")
        x = self.stem(images.permute(0, 2, 3, 1))
        for stage in self.stages:
            x = stage(x)
        return x


class Stage(nn.Module):
    """VSS blocks of one width, and the way down to the next stage."""

    def __init__(self, blocks: Sequence["VSSBlock"], downsample: nn.Module, grad_checkpoint: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
        self.grad_checkpoint = grad_checkpoint

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.grad_checkpoint else block(x)
        return self.downsample(x)


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


class ImageNetClassifier(nn.Module):
    """What released VMamba checkpoints hold: the backbone and `head(pool(norm(F)))` for ImageNet-1K."""

    def __init__(self, backbone: VMamba, classes: int = 1000) -> None:
        super().__init__()
        self.backbone = backbone
        self.norm = nn.LayerNorm(backbone.channels)
        self.head = nn.Linear(backbone.channels, classes)
        _init_linear(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (b, 3, H, W) to class scores (b, classes)."""
        return self.head(self.norm(self.backbone(images)).mean(dim=(1, 2)))


def vmamba(
    size: SizeName,
    *,
    discretization: str = "euler",
    drop_path: float | None = None,
    grad_checkpoint: bool = False,
    impl: str = "auto",
) -> VMamba:
    """Build a VMamba of a named size; `drop_path=None` takes the size's own. The rest as in `VMamba`.

    Raises:
        ValueError: the size is unknown.
    """
    if size not in SIZES:
        raise ValueError(f"size: expected one of {', '.join(SIZES)}, got {size!r}")
    preset = SIZES[size]
    return VMamba(
        preset.dims,
        preset.depths,
        ssm_ratio=preset.ssm_ratio,
        drop_path=preset.drop_path if drop_path is None else drop_path,
        discretization=discretization,
        grad_checkpoint=grad_checkpoint,
        impl=impl,
    )


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
