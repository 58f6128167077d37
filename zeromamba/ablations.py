"""The compositions of Table 5 that lack a part of ZeroMamba. All score classes as ZeroMamba does.

"without L_SC" is no composition of its own: it is ZeroMamba trained with lambda_SC = 0.
"""

from torch import Tensor, nn

from .backbones import Backbone, Features
from .grl import GRL
from .model import VariantName, ZeroShotModel
from .slp import SLP


class Baseline(ZeroShotModel):
    """Eq. (5): `psi = MLP(pool(F))`, with which Tables 4 and 6 compare backbones too.

    The pooled feature is the one that the backbone's own classifier reads, since the paper describes the baseline as
    "merely altering the classification head to a semantic-mapping MLP"; and like the MLP of (8), which the paper
    describes in the same words, it is one matrix. Variant "released" then tells it from `WithoutSLP` by the ImageNet
    classifier that GRL keeps; under variant "paper" the two are the same function.
    """

    def __init__(
        self, backbone: Backbone, attributes: int, variant: VariantName = "released", logit_scale: float = 1.0
    ) -> None:
        super().__init__(backbone, variant, logit_scale)
        self.mlp = nn.Linear(backbone.channels, attributes, bias=False)

    def represent(self, features: Features) -> Tensor:
        return self.mlp(features.pooled)


class WithoutSLP(ZeroShotModel):
    """The global representation alone: `psi = psi_g`."""

    def __init__(
        self, backbone: Backbone, attributes: int, variant: VariantName = "released", logit_scale: float = 1.0
    ) -> None:
        super().__init__(backbone, variant, logit_scale)
        self.grl = GRL(backbone.channels, attributes, self.variant.head_classes)

    def represent(self, features: Features) -> Tensor:
        return self.grl(features.pooled)


class WithoutGRL(ZeroShotModel):
    """The local representation alone: `psi = psi_l`, not normalised, since (9) does that to steer psi_g."""

    def __init__(
        self, backbone: Backbone, V: Tensor, variant: VariantName = "released", logit_scale: float = 1.0
    ) -> None:
        super().__init__(backbone, variant, logit_scale)
        self.slp = SLP(V, backbone.channels)

    def represent(self, features: Features) -> Tensor:
        return self.slp(features.map)
