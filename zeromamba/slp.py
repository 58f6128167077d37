"""Semantic-aware Local Projection (SLP), eq. (6) and (7): what each attribute finds on the feature map."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 512  # width of the MLP in (7)


class SLP(nn.Module):
    """Let every attribute attend to the regions of the feature map, and read its own strength there.

    Following the released code, the word vectors are trainable and of unit length in every forward, a region's
    feature `f_r` is of unit length too, and W1, W2 start from N(0, 1).

    Args:
        V: (a, v) word vectors of the attributes.
        channels: C, channels of the feature map.
    """

    def __init__(self, V: Tensor, channels: int) -> None:
        super().__init__()
        attributes, embedding = V.shape
        self.V = nn.Parameter(F.normalize(V.detach().clone().float(), dim=1))
        self.W1 = nn.Parameter(torch.randn(embedding, channels))
        self.W2 = nn.Parameter(torch.randn(embedding, channels))
        self.mlp = nn.Sequential(
            nn.Linear(attributes, HIDDEN, bias=False), nn.ReLU(), nn.Linear(HIDDEN, attributes, bias=False)
        )

    def forward(self, feature_map: Tensor) -> Tensor:
        """Map (b, h, w, C) to the local semantic representation psi_l (b, a)."""
        return self.mlp(self.attribute_strength(feature_map))

    def attribute_strength(self, feature_map: Tensor) -> Tensor:
        """`v_i^T W2 fhat_i` of each attribute, (b, a), for a feature map (b, h, w, C).

        `fhat_i = sum_r M[i, r] f_r` is never formed: W2 is linear, so it acts on the regions and M weighs the result.
        """
        f = self._regions(feature_map)
        return (self._attention(f) * (self._queries(self.W2) @ f.mT)).sum(dim=-1)

    def attention(self, feature_map: Tensor) -> Tensor:
        """The attention map M (b, a, h, w) of (6); sums to one over the regions."""
        return self._attention(self._regions(feature_map)).unflatten(-1, feature_map.shape[1:3])

    def _attention(self, f: Tensor) -> Tensor:
        return torch.softmax(self._queries(self.W1) @ f.mT, dim=-1)

    def _queries(self, W: Tensor) -> Tensor:
        return F.normalize(self.V, dim=1) @ W  # (a, C)

    @staticmethod
    def _regions(feature_map: Tensor) -> Tensor:
        return F.normalize(feature_map.flatten(1, 2), dim=-1)  # (b, r, C)
