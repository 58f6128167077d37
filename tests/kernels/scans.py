"""Inputs of scans, the float64 reference of outputs and gradients, and error budgets that follow from it.

A budget is derived, not tuned. Against the reference in float64 on the very same inputs, a result may be off by

    twice what the reference itself is off when it computes in float32, and four roundings of float32 (of the absolute
        terms, for gradients that are sums over tokens or channels),
    twice what a relative change of dt by its documented error makes of the result: 1 + |z| times 2^-23 where x or
        dt_low is float32 (z, and its exponent to the base 2, are rounded), times 2^-16 for half precision (the
        polynomial of softplus, and the two terms of dt's weight),
    one rounding to the result's own dtype,
    and for the gradients of dt_low and dt_weight, which are products of maps rounded to the wider dtype of x and
        dt_low, two roundings of each product.

Errors are root mean squares over a tensor.
"""

from dataclasses import dataclass

import torch

from zeromamba.kernels import CROSS_SCAN, Route, reference, vectorised
from zeromamba.kernels.inputs import Inputs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
UNIT = {d: torch.finfo(d).eps / 2 for d in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}
ROUTE_SETS = {
    "ss2d": CROSS_SCAN,
    "rows": (Route(), Route(reverse=True)),
    "columns": (Route(column=True), Route(column=True, reverse=True)),
    "reversed first": (Route(reverse=True), Route()),
    "one": (Route(),),
    "one reversed": (Route(column=True, reverse=True),),
    "windows": (Route(window=2), Route(window=2, reverse=True), Route(window=3, column=True), Route(reverse=True)),
}


def make(b=2, h=3, w=5, d=4, n=1, r=2, k=4, dtype=torch.float32, seed=0):
    """Inputs as a model at its start would give them; maps of `dtype`, parameters in float32 (float64 for that).

    dt_low, B and C are views of one projection, as in the networks: kernels are compiled for strides.
    """
    g = torch.Generator().manual_seed(seed)
    parameter = torch.promote_types(dtype, torch.float32)

    def normal(*shape, of=dtype):
        return torch.randn(shape, generator=g, dtype=torch.float64).to(of).to(DEVICE)

    dt = torch.exp(normal(k, d, of=torch.float64) - 3)
    dt_low, B, C = normal(b, h, w, k, r + 2 * n).split([r, n, n], dim=-1)
    return Inputs(
        x=normal(b, h, w, d),
        dt_low=dt_low,
        dt_weight=normal(k, d, r, of=parameter) / r**0.5,
        dt_bias=(dt + torch.log(-torch.expm1(-dt))).to(parameter),
        A=-normal(k, d, n, of=parameter).exp() * torch.arange(1, n + 1, device=DEVICE),
        B=B,
        C=C,
        D=normal(k, d, of=parameter),
    )


def with_dt_given(inputs, seed=0):
    """These inputs with a dt for every channel, none negative, in place of the low-rank one and its weight."""
    b, h, w, d = inputs.x.shape
    dt = make(b, h, w, r=d, k=len(inputs.A), dtype=inputs.x.dtype, seed=seed).dt_low.abs() / 10
    return inputs._replace(dt_low=dt, dt_weight=None, dt_bias=inputs.dt_bias.abs() / 10)


def poison(monkeypatch):
    """What is allocated without being initialised holds NaN, so that nothing unwritten is ever read unnoticed."""

    def poisoned(allocate):
        def function(*args, **kwargs):
            tensor = allocate(*args, **kwargs)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        return function

    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))
    monkeypatch.setattr(vectorised.Scratch, "__call__", poisoned(vectorised.Scratch.__call__))


def with_gradients(function, inputs, dy):
    """{"y": ..., and the gradient of every input under its name} of function(inputs)."""
    leaves = Inputs(*(None if v is None else v.detach().requires_grad_() for v in inputs))  # of the same strides
    y = function(leaves)
    named = {name: v for name, v in leaves._asdict().items() if v is not None}
    gradients = torch.autograd.grad(y, list(named.values()), dy.to(y.dtype))
    return {"y": y.detach()} | dict(zip(named, gradients, strict=True))


def reference_scan(routes, discretization, change=0.0, softplus=True):
    """The reference, in its inputs' dtype, every dt changed by that relative amount times 1 + |z|."""

    def function(i):
        z = i.dt_low if i.dt_weight is None else torch.einsum("bhwkr,kdr->bhwkd", i.dt_low, i.dt_weight)
        z = z + i.dt_bias
        dt = torch.nn.functional.softplus(z, threshold=40.0) if softplus else z
        dt = dt * (1 + change * (1 + z.detach().abs()))
        given = i._replace(dt_low=dt, dt_weight=None, dt_bias=torch.zeros_like(i.dt_bias))
        return reference.ss2d(given, routes, discretization, softplus=False)[0]

    return function


def rms(v):
    return v.double().square().mean().sqrt().item()


@dataclass
class Expected:
    """The float64 results and the budget of each, by name."""

    results: dict
    budgets: dict

    def check(self, got):
        for name, exact in self.results.items():
            assert got[name].shape == exact.shape, name
            error = rms(got[name].double() - exact)
            assert error <= self.budgets[name], f"{name}: error {error:.2e}, budget {self.budgets[name]:.2e}"


def expect(inputs, routes, discretization, dy, softplus=True, rounded=DEVICE != "cpu"):
    """Float64 results on these inputs, and budgets for an implementation that computes in float32 (see above).

    rounded: whether bfloat16 is; Triton's interpreter cuts it off instead.
    """

    def results(inputs, change=0.0):
        return with_gradients(reference_scan(routes, discretization, change, softplus), inputs, dy)

    wider = torch.promote_types(inputs.x.dtype, inputs.dt_low.dtype)
    half = torch.float32 not in (inputs.x.dtype, inputs.dt_low.dtype)
    exact = results(inputs64(inputs))
    single = results(inputs32(inputs))
    changed = results(inputs64(inputs), 2.0**-16 if half else 2.0**-23)
    budgets = {}
    for name, value in exact.items():
        unit = UNIT[getattr(inputs, "x" if name == "y" else name).dtype]
        if not rounded and unit == UNIT[torch.bfloat16]:
            unit *= 2
        budgets[name] = (
            2 * rms(single[name] - value)
            + 4 * UNIT[torch.float32] * rms(value)
            + 2 * rms(changed[name] - value)
            + unit * rms(value)
        )
    # What sums cancel: the same sums of absolute terms, which are products of the gradient of dt's argument z.
    i = inputs64(inputs)
    z = i.dt_low if i.dt_weight is None else torch.einsum("bhwkr,kdr->bhwkd", i.dt_low, i.dt_weight)
    given = i._replace(dt_low=z, dt_weight=None)
    dz = results(given)["dt_low"].abs()
    absolute = {"D": torch.einsum("bhwd,bhwd->d", dy.abs(), i.x.abs()), "dt_bias": dz.sum((0, 1, 2))}
    if i.dt_weight is not None:
        absolute["dt_low"] = torch.einsum("bhwkd,kdr->bhwkr", dz, i.dt_weight.abs())
        absolute["dt_weight"] = torch.einsum("bhwkd,bhwkr->kdr", dz, i.dt_low.abs())
    for name, terms in absolute.items():
        budgets[name] += 4 * UNIT[torch.float32] * rms(terms)
        if half and name in ("dt_low", "dt_weight"):
            budgets[name] += 2 * UNIT[wider] * rms(terms)
    return Expected(exact, budgets)


def inputs64(inputs):
    return Inputs(*(None if v is None else v.double() for v in inputs))


def inputs32(inputs):
    return Inputs(*(None if v is None else v.float() for v in inputs))
