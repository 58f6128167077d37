"""What every backbone is, and what it gives: a feature map and a pooled feature of images."""

from typing import NamedTuple

from torch import Tensor, nn

from .layers import init_linear


class Features(NamedTuple):
    """Visual features of b images."""

    map: Tensor  # F (b, h, w, C), one vector a region: what SLP attends to, (6); not normalised but in DeiT and ViT
    pooled: Tensor  # g (b, C), normalised: what the backbone's own classifier reads, GRL's input, (8)


class Backbone(nn.Module):
    """Base of all backbones: a module that maps images (b, 3, H, W) to their `Features`."""

    channels: int  # C

    def forward(self, images: Tensor) -> Features:
        raise NotImplementedError


class ImageNetClassifier(nn.Module):
    """What released backbones' checkpoints hold: the backbone and a classifier `head(g)` for ImageNet-1K."""

    def __init__(self, backbone: Backbone, classes: int = 1000) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.channels, classes)
        init_linear(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (b, 3, H, W) to class scores (b, classes)."""
        return self.head(self.backbone(images).pooled)


def check_images(images: Tensor, least: int = 1) -> None:
    """Raise ValueError unless images are of shape (b, 3, H, W) with H and W at least `least`."""
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < least:
        raise ValueError(
            f"images: expected (b, 3, H, W), channels second and H, W >= {least}; got {tuple(images.shape)}"
        )
