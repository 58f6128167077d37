"""The shape of VMamba and LocalVMamba: stages of blocks over maps that halve from one to the next."""

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor, nn

from .interface import Backbone, Features, check_images
from .layers import run_block


class Pyramid(Backbone):
    """A stem, stages of blocks with a way down between two of them, and the last map normalised and pooled.

    Args:
        stem: image (b, H, W, 3) to map (b, h, w, C of the first stage).
        stages: blocks of each stage, each map to a map of the same shape.
        downsamples: one fewer; map of a stage to that of the next.
        channels: C of the last stage.
        grad_checkpoint: for the backward, keep only what goes into each block and compute the rest again.
        least: height and width that an image needs at least, pixels.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[Sequence[nn.Module]],
        downsamples: Sequence[nn.Module],
        channels: int,
        grad_checkpoint: bool,
        least: int = 1,
    ) -> None:
        super().__init__()
        self.channels, self.least = channels, least
        self.stem = stem
        ways_down = [*downsamples, nn.Identity()]
        self.stages = nn.ModuleList(
            Stage(blocks, way_down, grad_checkpoint) for blocks, way_down in zip(stages, ways_down, strict=True)
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, images: Tensor) -> Features:
        """Features of images (b, 3, H, W): the last stage's map, not normalised, and its normalised mean, (8).

        Raises:
            ValueError: images are not of that shape, or smaller than `least`.
        """
        check_images(images, self.least)
        x = self.stem(rearrange(images, "b c h w -> b h w c"))
        for stage in self.stages:
            x = stage(x)
        return Features(map=x, pooled=self.norm(x).mean(dim=(1, 2)))


class Stage(nn.Module):
    """Blocks of one width, and the way down to the next stage."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module, grad_checkpoint: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
        self.grad_checkpoint = grad_checkpoint

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = run_block(block, x, self.grad_checkpoint)
        return self.downsample(x)
