"""The compositions of Table 5 that lack a part of ZeroMamba. All score classes as ZeroMamba does.

The paper adds its parts "on our baseline model", for which every row of the table but the last has a tick: so a model
without GRL has the global representation of the baseline. "without L_SC" is no composition of its own: it is ZeroMamba
trained with lambda_SC = 0.
"""

from torch import Tensor, nn

from .backbones import Backbone, Features
from .grl import GRL
from .model import VariantName, ZeroShotModel
from .sef import SeF
from .slp import SLP


class Baseline(ZeroShotModel):
    """Eq. (5): `psi = MLP(pool(F))`, with which Tables 4 and 6 compare backbones too.

    The MLP is one matrix: the paper speaks of its "parameter matrix", and the released code has one for (8). What it
    reads is a matter of the variant, see `VARIANTS`.
    """

    def __init__(
        self, backbone: Backbone, attributes: int, variant: VariantName = "released", logit_scale: float = 1.0
    ) -> None:
        super().__init__(backbone, variant, logit_scale)
        self.mlp = nn.Linear(backbone.channels, attributes, bias=False)

    def represent(self, features: Features) -> Tensor:
        return self.mlp(features.pooled if self.variant.baseline_normalised else features.map.mean((1, 2)))


class WithoutSLP(ZeroShotModel):
    """The global representation alone: `psi = psi_g`."""

    def __init__(
        self, backbone: Backbone, attributes: int, variant: VariantName = "released", logit_scale: float = 1.0
    ) -> None:
        super().__init__(backbone, variant, logit_scale)
        self.grl = GRL(backbone.channels, attributes, self.variant.head_classes)

    def represent(self, features: Features) -> Tensor:
        return self.grl(features.pooled)


class WithoutGRL(Baseline):
    """The baseline's representation, steered by the local one as (9) steers psi_g."""

    def __init__(
        self,
        backbone: Backbone,
        V: Tensor,
        variant: VariantName = "released",
        logit_scale: float = 1.0,
        sef_eps: float = 1e-6,
    ) -> None:
        super().__init__(backbone, len(V), variant, logit_scale)
        self.slp = SLP(V, backbone.channels)
        self.sef = SeF(sef_eps)

    def represent(self, features: Features) -> Tensor:
        return self.sef(super().represent(features), self.slp(features.map))
