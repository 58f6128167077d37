"""Semantic Fusion (SeF), eq. (9): the global representation, steered by the direction of the local one."""

from torch import Tensor, nn
from torch.nn import functional as F


class SeF(nn.Module):
    """`psi = psi_g + psi_l / max(||psi_l||, eps)`.

    Args:
        eps: the least norm divided by. The released code has none (0): an all-zero psi_l then gives NaN.
    """

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, psi_g: Tensor, psi_l: Tensor) -> Tensor:
        """Fuse two (b, a) representations into psi (b, a)."""
        return psi_g + F.normalize(psi_l, dim=-1, eps=self.eps)
