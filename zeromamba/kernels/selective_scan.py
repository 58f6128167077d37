"""The 1-D selective scan under the name and with the arguments of Mamba's `selective_scan_fn`, on the same kernels."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .inputs import Discretization, Impl, Inputs
from .op import check_kinds, scan
from .routes import Route


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    discretization: Discretization = "euler",
    impl: Impl = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """h_t = exp(dt_t A) h_{t-1} + Bbar_t u_t,  out_t = (C_t h_t + D u_t) silu(z_t): Gu and Dao 2023, arXiv:2312.00752.

    Args:
        u, delta: (b, d, l), at least 1 of every axis; dt is delta, plus delta_bias, through softplus if delta_softplus.
        A: (d, n), at most 0.
        B, C: (b, n, l), or (b, g, n, l) for g groups of d / g channels. Each group is a scan of its own, one after
            another, so this suits few groups.
        D, delta_bias: (d,).
        z: (b, d, l). The product with silu(z) is PyTorch's, whose backward keeps 10 bytes an element in half precision.
        return_last_state: return the state after the last token too.
        discretization: "euler", Bbar = dt B as in Mamba, or "zoh".
        impl: as in `zeromamba.kernels.ss2d`.

    Returns:
        out (b, d, l) of u's dtype, not always contiguous: its channels may lie side by side in memory. If asked for,
        also the last state (b, d, n), float32 or float64, without gradient.

    Raises:
        ValueError: for shapes and devices that do not fit, and for B or C of shape (d, n), which Mamba takes to be
            constant over the tokens: a convolution serves better there.
        TypeError: for what is no dense tensor, and for a dtype that `ss2d` does not take, such as a complex A.
    """
    _check({"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias})
    B, C = (v[:, None] if v.ndim == 3 else v for v in (B, C))
    groups, d = B.shape[1], u.shape[1]
    D = torch.zeros_like(A[:, 0]) if D is None else D
    delta_bias = torch.zeros_like(A[:, 0]) if delta_bias is None else delta_bias

    outs, states = [], []
    for g in range(groups):
        part = slice(g * d // groups, (g + 1) * d // groups)
        inputs = Inputs(
            x=u[:, part].mT[:, None],  # a map of one row: (b, 1, l, d)
            dt_low=delta[:, part].mT[:, None, :, None],
            dt_weight=None,
            dt_bias=delta_bias[None, part],
            A=A[None, part],
            B=B[:, g].mT[:, None, :, None],
            C=C[:, g].mT[:, None, :, None],
            D=D[None, part],
        )
        y, last = scan(inputs, (Route(),), discretization, delta_softplus, impl)
        outs.append(y[:, 0].mT)
        states.append(last[:, 0])
    out = outs[0] if groups == 1 else torch.cat(outs, dim=1)
    if z is not None:
        out = (out * F.silu(z.to(states[0].dtype))).to(u.dtype)  # in float32, or float64
    last = states[0] if groups == 1 else torch.cat(states, dim=1)
    return (out, last) if return_last_state else out


def _check(given: Mapping[str, Any]) -> None:
    """Raise an error that names the first of the arguments, in their order, that does not fit u and A."""
    check_kinds(given, optional=("D", "z", "delta_bias"))
    for name, value in given.items():
        if value is not None and not value.numel():
            raise ValueError(f"{name}: expected at least 1 of every axis, got {tuple(value.shape)}")
    u, A, B = given["u"], given["A"], given["B"]
    if u.ndim != 3:
        raise ValueError(f"u: expected (b, d, l), got {tuple(u.shape)}")
    b, d, l = u.shape
    if A.ndim != 2 or len(A) != d:
        raise ValueError(f"A: expected (d, n) with d = {d}, got {tuple(A.shape)}")
    n, groups = A.shape[1], B.shape[1] if B.ndim == 4 else 1
    if d % groups:
        raise ValueError(f"B: expected groups that divide d = {d}, got {groups}")
    each_token: list[tuple[int, ...]] = [(b, n, l)] * (groups == 1) + [(b, groups, n, l)]
    expected: dict[str, list[tuple[int, ...]]] = {
        "delta": [(b, d, l)],
        "B": each_token,
        "C": each_token,
        "D": [(d,)],
        "z": [(b, d, l)],
        "delta_bias": [(d,)],
    }
    for name, shapes in expected.items():
        if (value := given[name]) is not None and value.shape not in shapes:
            raise ValueError(
                f"{name}: expected {' or '.join(map(str, shapes))}, got {tuple(value.shape)}; "
                "u, delta and z are (b, d, l), A is (d, n), B and C are (b, n, l) or (b, groups, n, l)"
            )
