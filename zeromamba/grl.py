"""Global Representation Learning (GRL), eq. (8): what the whole image says about the attributes."""

from torch import Tensor, nn


class GRL(nn.Module):
    """`psi_g = proj(head(g))` with the backbone's pooled feature g, VMamba's `AvgPool(LayerNorm(F))`.

    Args:
        channels: C, channels of the pooled feature.
        attributes: a.
        head_classes: width of the ImageNet classifier that the released code keeps between g and the attributes;
            0 projects the pooled feature g itself. Where the paper says MLP, this is one matrix, as that of (5).
    """

    def __init__(self, channels: int, attributes: int, head_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(channels, head_classes) if head_classes else nn.Identity()
        self.proj = nn.Linear(head_classes or channels, attributes, bias=False)

    def forward(self, pooled: Tensor) -> Tensor:
        """Map the global visual feature g (b, C) to the global semantic representation psi_g (b, a)."""
        return self.proj(self.head(pooled))
