"""What is timed: maps and parameters as a network at its start has them, dt from 1e-3 to 0.1, |A| = 1..n."""

import torch
from torch import Tensor

from zeromamba.kernels import CROSS_SCAN
from zeromamba.kernels.inputs import Inputs


def parameters(k: int, d: int, r: int, n: int, generator: torch.Generator) -> dict[str, Tensor]:
    """dt_weight (k, d, r), dt_bias and D (k, d), A (k, d, n), float32, on the generator's device."""
    device = generator.device
    dt = torch.empty(k, d, device=device).uniform_(-6.9, -2.3, generator=generator).exp()
    return {
        "dt_weight": torch.randn(k, d, r, generator=generator, device=device) * (0.1 / r**0.5),
        "dt_bias": torch.expm1(dt).log(),
        "A": -torch.arange(1.0, n + 1, device=device).expand(k, d, n).contiguous(),
        "D": torch.ones(k, d, device=device),
    }


def inputs(b: int, side: int, d: int, n: int, r: int) -> Inputs:
    """Those of a scan of square maps along SS2D's four routes, float32, on the CPU; they want gradients."""
    k = len(CROSS_SCAN)
    generator = torch.Generator().manual_seed(0)

    def maps(*shape: int) -> Tensor:
        return torch.randn(b, side, side, *shape, generator=generator)

    drawn = Inputs(x=maps(d), dt_low=maps(k, r), B=maps(k, n), C=maps(k, n), **parameters(k, d, r, n, generator))
    for v in drawn:
        assert v is not None
        v.requires_grad_()
    return drawn
