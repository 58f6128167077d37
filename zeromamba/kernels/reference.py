"""The selective scan as the equations read: one plain loop over tokens, gradients by autograd.

Written for clarity, not for speed or memory: every other implementation is tested against this one, in float64.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .inputs import Inputs
from .routes import Route


def ss2d(inputs: Inputs, routes: Sequence[Route], discretization: str, softplus: bool) -> tuple[Tensor, Tensor]:
    """Eq. (3) along each route, summed over routes at each token, and the last state of each route, (b, k, d, n)."""
    x, dt_low, dt_weight, dt_bias, A, B, C, D = inputs
    b, h, w, d = x.shape
    tokens = torch.stack([route.tokens(h, w, x.device) for route in routes])  # (k, l)
    z = dt_low if dt_weight is None else torch.einsum("bhwkr,kdr->bhwkd", dt_low, dt_weight)
    z = z + dt_bias
    dt = F.softplus(z, threshold=40.0) if softplus else z  # the stock threshold of 20 would be short of float64
    u = x.flatten(1, 2)[:, tokens]  # (b, k, l, d)
    y, last = scan(u, _along(dt, tokens), A, _along(B, tokens), _along(C, tokens), D, discretization)
    merged = y.new_zeros(b, h * w, d).index_add(1, tokens.flatten(), y.flatten(1, 2))
    return merged.view(b, h, w, d), last


def scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, discretization: str
) -> tuple[Tensor, Tensor]:
    """h_t = Abar_t h_{t-1} + Bbar_t u_t,  y_t = C_t h_t + D u_t, eq. (3).

    Args:
        u, dt: (b, k, l, d).
        A: (k, d, n).
        B, C: (b, k, l, n).
        D: (k, d).
        discretization: "zoh", eq. (2), or "euler", Bbar = dt B.

    Returns:
        y (b, k, l, d) and the last state h (b, k, d, n).
    """
    Abar, phi = discretize(dt[..., None], A[:, None], discretization)  # (b, k, l, d, n)
    h = torch.zeros_like(Abar[:, :, 0])  # (b, k, d, n)
    y = []
    # unbind, since the backward of l separate selections would write l whole gradients
    for u_t, Abar_t, phi_t, B_t, C_t in zip(*(v.unbind(2) for v in (u, Abar, phi, B, C)), strict=True):
        h = Abar_t * h + phi_t * B_t[:, :, None] * u_t[..., None]
        y.append((C_t[:, :, None] * h).sum(-1) + D * u_t)
    return torch.stack(y, dim=2), h


def discretize(dt: Tensor, A: Tensor, discretization: str) -> tuple[Tensor, Tensor]:
    """Abar and phi = Bbar / B of eq. (2), (exp(dt A) - 1) / A, or dt for "euler"; dt and A broadcast."""
    dt_A = dt * A
    return dt_A.exp(), dt * _expm1_over_x(dt_A) if discretization == "zoh" else dt.expand_as(dt_A)


def _expm1_over_x(x: Tensor) -> Tensor:
    """(e^x - 1) / x and, through autograd, its derivative: 1 and 1/2 at x = 0.

    Below |x| = 1/2 the quotient's derivative cancels, so there it is the series sum_m x^m / (m + 1)!, whose
    15 terms leave out less than 2^-15 / 16! = 2e-18 of the value. Each branch sees only its own x, since an
    infinite derivative of the branch not taken would become NaN in the backward.
    """
    small = x.abs() < 0.5
    x_small, x_large = torch.where(small, x, 0.0), torch.where(small, 1.0, x)
    series = torch.zeros_like(x)
    for m in reversed(range(15)):
        series = series * x_small + 1 / math.factorial(m + 1)
    return torch.where(small, series, torch.expm1(x_large) / x_large)


def _along(maps: Tensor, tokens: Tensor) -> Tensor:
    """Read the maps (b, h, w, k, c) of each route along it: (b, k, l, c)."""
    index = tokens[None, :, :, None].expand(len(maps), -1, -1, maps.shape[-1])
    return maps.flatten(1, 2).transpose(1, 2).gather(2, index)
