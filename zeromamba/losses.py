"""The training objective, eq. (10) to (13)."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F


class Losses(NamedTuple):
    """The terms of (13), scalars."""

    total: Tensor
    ce: Tensor
    sc: Tensor


def objective(psi: Tensor, logits: Tensor, labels: Tensor, Z: Tensor, lambda_sc: float) -> Losses:
    """`L = L_CE + lambda_SC L_SC` over the training classes.

    Args:
        psi: (b, a) semantic representations.
        logits: (b, c) class scores of the c training classes.
        labels: (b,) indices into those classes.
        Z: (c, a) their prototypes.
        lambda_sc: weight of the semantic constraint. L_SC is the mean over batch and attributes, as in the released
            code: the published weights belong to that scale.
    """
    ce = F.cross_entropy(logits, labels)
    sc = F.l1_loss(psi, Z[labels])
    return Losses(ce + lambda_sc * sc, ce, sc)
