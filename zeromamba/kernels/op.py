"""The public op: checks its arguments, then hands them to one implementation."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import reference
from .routes import SS2D, Route

DISCRETIZATIONS = ("zoh", "euler")
IMPLS: dict[str, Callable[..., Tensor]] = {"reference": reference.ss2d, "torch": reference.ss2d}


def ss2d(
    x: Tensor,
    dt_low: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    routes: Sequence[Route] = SS2D,
    discretization: str = "zoh",
    impl: str = "auto",
) -> Tensor:
    """Selective scan of a map along k routes, merged: SS2D of VMamba (Liu et al. 2024, arXiv:2401.10166).

    For every route, over its tokens t in order, with dt = softplus(dt_weight @ dt_low + dt_bias):

        h_t = exp(dt_t A) h_{t-1} + Bbar_t x_t,    y_t = C_t . h_t + D x_t,    h_0 = 0

    and y is the sum over routes, each put back at its own token. Axes: b batch, h w map, d channels, n state,
    k route, r low rank of dt. All maps are unpermuted: the projections that make dt_low, B and C act on each
    token alone and so commute with the order of the scan.

    Args:
        x: (b, h, w, d), the map, channels last.
        dt_low: (b, h, w, k, r), low-rank dt of each route.
        dt_weight: (k, d, r).
        dt_bias: (k, d).
        A: (k, d, n), the diagonals, at most 0: -exp(A_log).
        B, C: (b, h, w, k, n).
        D: (k, d).
        routes: k of them, in the order of the parameters.
        discretization: "zoh", Bbar = (exp(dt A) - 1) / A B, exact and dt B where A = 0 (eq. (2)); or "euler",
            Bbar = dt B, which Mamba, VMamba and every released checkpoint use.
        impl: "torch", vectorised; "reference", a plain loop over tokens; "auto" chooses by device.

    Tensors are float64, float32, bfloat16 or float16, on one device, of any strides; they may mix dtypes (as
    under autocast, which does not reach inside: nothing here is ever computed in less than float32).
    States and sums are float32, or float64 where x is.

    Returns:
        y: (b, h, w, d), of x's dtype. Each gradient has its own input's dtype. There is no double backward.

    Raises:
        ValueError: an argument's shape, device or choice, or the number of routes.
        TypeError: an argument's dtype.
    """
    names = ("x", "dt_low", "dt_weight", "dt_bias", "A", "B", "C", "D")
    inputs = dict(zip(names, (x, dt_low, dt_weight, dt_bias, A, B, C, D), strict=True))
    _check(inputs, routes, discretization)
    if impl not in ("auto", *IMPLS):
        raise ValueError(f"impl: expected one of {('auto', *IMPLS)}, got {impl!r}")
    return IMPLS["torch" if impl == "auto" else impl](*inputs.values(), tuple(routes), discretization)


def _check(inputs: dict[str, Tensor], routes: Sequence[Route], discretization: str) -> None:
    """Raise an error that names the first argument that does not fit."""
    if discretization not in DISCRETIZATIONS:
        raise ValueError(f"discretization: expected one of {DISCRETIZATIONS}, got {discretization!r}")
    if not routes or not all(isinstance(route, Route) for route in routes):
        raise ValueError(f"routes: expected one Route or more, got {routes!r}")
    for name, axes in (("x", "b h w d"), ("dt_low", "b h w k r"), ("A", "k d n")):
        if inputs[name].ndim != len(axes.split()):
            raise ValueError(
                f"{name}: expected axes ({', '.join(axes.split())}), got shape {tuple(inputs[name].shape)}"
            )
    x, A = inputs["x"], inputs["A"]
    size = dict(zip("bhwd", x.shape, strict=True)) | {
        "k": len(routes),
        "r": inputs["dt_low"].shape[-1],
        "n": A.shape[-1],
    }
    for name, axes in AXES.items():
        expected = tuple(size[axis] for axis in axes.split())
        given = inputs[name]
        if tuple(given.shape) != expected:
            raise ValueError(
                f"{name}: expected shape ({', '.join(axes.split())}) = {expected}, got {tuple(given.shape)}; "
                f"b, h, w, d are x's, k is the number of routes, r is dt_low's, n is A's"
            )
        if given.dtype not in DTYPES:
            raise TypeError(f"{name}: expected one of {DTYPES}, got {given.dtype}")
        if given.device != x.device:
            raise ValueError(f"{name}: expected device {x.device}, where x is, got {given.device}")
    empty = [axis for axis, extent in size.items() if extent == 0]
    if empty:
        raise ValueError(f"sizes: expected at least 1 of every axis, got 0 for {', '.join(empty)}")


AXES = {
    "x": "b h w d",
    "dt_low": "b h w k r",
    "dt_weight": "k d r",
    "dt_bias": "k d",
    "A": "k d n",
    "B": "b h w k n",
    "C": "b h w k n",
    "D": "k d",
}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
