"""ZeroMamba, Figure 2 of the paper: image -> backbone -> feature map -> SLP and GRL -> SeF -> class scores."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from .backbones import Backbone, Features
from .grl import GRL
from .sef import SeF
from .slp import SLP

VariantName = Literal["released", "paper"]


@dataclass(frozen=True)
class Variant:
    """Where the paper's text and the released code differ in the model itself."""

    cosine: bool  # (12): cosine similarity, or the plain dot product psi . z
    head_classes: int  # (8): width of the ImageNet classifier kept in GRL; 0 projects the pooled feature
    # (5): whether the baseline reads what the backbone's own classifier reads ("merely altering the classification
    # head"), which is normalised, or the mean of F as printed, without the LayerNorm that GRL is said to add.
    baseline_normalised: bool


VARIANTS: dict[VariantName, Variant] = {
    "released": Variant(cosine=False, head_classes=1000, baseline_normalised=True),
    "paper": Variant(cosine=True, head_classes=0, baseline_normalised=False),
}


class ZeroShotModel(nn.Module):
    """What ZeroMamba and its ablations (`ablations.py`) have in common: a backbone, and class scores of psi.

    A composition adds its parts, and `represent`, which makes psi of them.

    Args:
        backbone: gives the `Features` of images (b, 3, H, W).
        variant: "released" or "paper", see `VARIANTS`.
        logit_scale: factor on the class scores of (12); the paper prints none, that is 1.
    """

    def __init__(self, backbone: Backbone, variant: VariantName, logit_scale: float) -> None:
        super().__init__()
        self.variant = VARIANTS[variant]
        self.logit_scale = logit_scale
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        """Map images (b, 3, H, W) to their semantic representation psi (b, a)."""
        return self.represent(self.backbone(images))

    def represent(self, features: Features) -> Tensor:
        """The semantic representation psi (b, a) of b images."""
        raise NotImplementedError

    def logits(self, psi: Tensor, Z: Tensor) -> Tensor:
        """Class scores (b, c) of representations psi (b, a) against prototypes Z (c, a), before the softmax of (12)."""
        if self.variant.cosine:
            psi, Z = F.normalize(psi, dim=-1), F.normalize(Z, dim=-1)
        return self.logit_scale * psi @ Z.T

    def probabilities(self, psi: Tensor, Z: Tensor) -> Tensor:
        """Class probabilities (b, c) of (12), from what `logits` takes; float64, as gamma in (14) may be all but 1."""
        return self.logits(psi, Z).double().softmax(dim=-1)


class ZeroMamba(ZeroShotModel):
    """Zero-shot classifier of images by class attributes.

    Args:
        backbone, variant, logit_scale: see `ZeroShotModel`.
        V: (a, v) word vectors of the attributes.
        sef_eps: see `SeF`.
    """

    def __init__(
        self,
        backbone: Backbone,
        V: Tensor,
        variant: VariantName = "released",
        logit_scale: float = 1.0,
        sef_eps: float = 1e-6,
    ) -> None:
        super().__init__(backbone, variant, logit_scale)
        self.slp = SLP(V, backbone.channels)
        self.grl = GRL(backbone.channels, len(V), self.variant.head_classes)
        self.sef = SeF(sef_eps)

    def represent(self, features: Features) -> Tensor:
        """Fuse what the whole image and its regions say, (9), into psi (b, a)."""
        return self.sef(self.grl(features.pooled), self.slp(features.map))
