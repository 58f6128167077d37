"""What a scan takes: the tensors under their names, and the choices."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Discretization = Literal["zoh", "euler"]
Impl = Literal["auto", "triton", "torch", "reference"]


class Inputs(NamedTuple):
    """The tensors of `zeromamba.kernels.ss2d`: b batch, h w map, d channels, n state, k route, r low rank of dt."""

    x: Tensor  # (b, h, w, d)
    dt_low: Tensor  # (b, h, w, k, r), or (b, h, w, k, d) without dt_weight
    dt_weight: Tensor | None  # (k, d, r)
    dt_bias: Tensor  # (k, d)
    A: Tensor  # (k, d, n)
    B: Tensor  # (b, h, w, k, n)
    C: Tensor  # (b, h, w, k, n)
    D: Tensor  # (k, d)

    def widened(self) -> "Inputs":
        """In the dtype of states, float32, or float64 if x is; and contiguous."""
        dtype = torch.promote_types(self.x.dtype, torch.float32)
        return Inputs._make(None if v is None else v.to(dtype).contiguous() for v in self)
