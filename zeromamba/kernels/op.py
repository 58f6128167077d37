"""The public op: checks its arguments, then hands them to one implementation.

The optimised implementations are two operators of `torch.library`, forward and backward, so that `torch.compile`,
CUDA graphs, checkpointing and `opcheck` treat them like PyTorch's own. The reference is plain PyTorch and needs none.
"""

import importlib
import importlib.util
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from types import ModuleType
from typing import Any, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.flop_counter import register_flop_formula

from . import reference, vectorised
from .inputs import Discretization, Impl, Inputs
from .routes import CROSS_SCAN, Route

DISCRETIZATIONS: tuple[str, ...] = get_args(Discretization)
IMPLS: tuple[str, ...] = get_args(Impl)
HAS_TRITON = importlib.util.find_spec("triton") is not None  # looked up once: torch.compile of 2.11 cannot trace it
NAMESPACE = __name__.rpartition(".")[0].replace(".", "__")  # of the operators: a copy of this package has its own
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
AXES = {
    "x": "bhwd", "dt_low": "bhwkr", "dt_weight": "kdr", "dt_bias": "kd",
    "A": "kdn", "B": "bhwkn", "C": "bhwkn", "D": "kd",
}  # fmt: skip


def ss2d(
    x: Tensor,
    dt_low: Tensor,
    dt_weight: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    routes: Sequence[Route] = CROSS_SCAN,
    discretization: Discretization = "zoh",
    impl: Impl = "auto",
) -> Tensor:
    """Selective scan of a map along k routes, merged: SS2D of VMamba (Liu et al. 2024, arXiv:2401.10166).

    For every route, over its tokens t in order, with dt = softplus(dt_weight @ dt_low + dt_bias):

        h_t = exp(dt_t A) h_{t-1} + Bbar_t x_t,    y_t = C_t . h_t + D x_t,    h_0 = 0

    and y is the sum over routes, each put back at its own token. Axes: b batch, h w map, d channels, n state,
    k route, r low rank of dt. All maps are unpermuted: the projections that make dt_low, B and C act on each
    token alone and so commute with the order of the scan.

    Args:
        x: (b, h, w, d), the map, channels last; every axis at least 1.
        dt_low: (b, h, w, k, r), low-rank dt of each route.
        dt_weight: (k, d, r); None if dt_low is (b, h, w, k, d) and stands for dt_weight @ dt_low.
        dt_bias: (k, d).
        A: (k, d, n), the diagonals, finite and at most 0: -exp(A_log).
        B, C: (b, h, w, k, n).
        D: (k, d).
        routes: k of them, in the order of the parameters.
        discretization: "zoh", Bbar = (exp(dt A) - 1) / A B, exact (eq. (2)), dt B where A = 0; or "euler",
            Bbar = dt B, which Mamba, VMamba and every released checkpoint use.
        impl: "triton", the kernels (CUDA tensors, or any under TRITON_INTERPRET=1, set before Triton is imported; not
            float64); "torch", vectorised PyTorch; "reference", a plain loop over tokens. Only "auto" chooses: "triton"
            where x is on a CUDA device with Triton installed and no tensor is float64, "torch" elsewhere.
            `torch.export` keeps the choice made when it traced.

    Tensors are float64, float32, bfloat16 or float16, on one device, of any strides (the kernels copy x where its
    channels do not lie side by side); they may mix dtypes (as under autocast, which does not reach inside). All is
    computed in float32, or float64 where x is, except the gradients of dt_low and dt_weight: these are matrix products
    of maps in the wider dtype of x and dt_low, in float32 at the precision that torch is set to. Outside the
    kernels so is dt itself; in them it is right to 1e-5 of itself where neither x nor dt_low is float32.

    On a CPU, "torch" keeps the memory that it writes over: up to 144 MiB for each thread that calls it, twice that in
    float64, and more where a map has over 2^22 tokens.

    Returns:
        y: (b, h, w, d), of x's dtype. Each gradient has its own input's dtype. As with any operator of `torch.library`,
        there is no double backward, torch.func.grad, batched gradient or forward-mode differentiation: these raise
        errors (but a tangent of an outer one of nested torch.func.jvp, or given to a compiled function, is lost), and
        impl="reference" has them all.

    Raises:
        ValueError: an argument's shape, device or choice is wrong, or the number of routes; an implementation that was
            asked for by name cannot serve.
        TypeError: an argument is no dense tensor, or of a dtype not named above.
        NotImplementedError: a tensor has a tangent, of forward-mode differentiation.
    """
    y, _ = scan(Inputs(x, dt_low, dt_weight, dt_bias, A, B, C, D), routes, discretization, True, impl)
    return y


def scan(
    inputs: Inputs, routes: Sequence[Route], discretization: str, softplus: bool, impl: str
) -> tuple[Tensor, Tensor]:
    """y of `ss2d`, and the state of each route after its last token, (b, k, d, n), which has no gradient.

    Args:
        softplus: whether dt is softplus(z + dt_bias), or z + dt_bias itself, for z = dt_weight @ dt_low.
    """
    check(inputs, routes, discretization)
    impl = choose(impl, inputs)
    if impl == "reference":
        with without_autocast(inputs.x.device):
            y, last = reference.ss2d(inputs.widened(), routes, discretization, softplus)
        return y.to(inputs.x.dtype), last.detach().clone()  # the backward of y needs the loop's own
    # an operator's tangent would be lost without a word
    if any(v is not None and forward_ad.unpack_dual(v).tangent is not None for v in inputs):
        raise NotImplementedError(f"impl={impl!r} has no forward-mode differentiation; impl='reference' has")
    y, last, _ = _forward(*inputs, encode(routes), discretization, softplus, impl)
    return y, last


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast off, on devices that have it: "meta" has none."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def choose(impl: str, inputs: Inputs) -> str:
    """The implementation that serves, "auto" resolved.

    Raises:
        ValueError: it is unknown, or was asked for by name and cannot serve.
    """
    if impl not in IMPLS:
        raise ValueError(f"impl: expected one of {IMPLS}, got {impl!r}")
    obstacle = triton_obstacle(inputs)
    if impl == "auto":  # never the interpreter, which is for tests
        return "torch" if obstacle or inputs.x.device.type != "cuda" else "triton"
    if impl == "triton" and obstacle:
        raise ValueError(f"impl='triton' cannot be used: {obstacle}; impl='torch' can")
    return impl


def triton_obstacle(inputs: Inputs) -> str | None:
    """Why the kernels cannot run on these tensors."""
    device = inputs.x.device
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not interpreted:
        return f"the tensors are on {device}, expected a CUDA device (or TRITON_INTERPRET=1, set before the import)"
    if torch.version.hip is not None:
        return "this PyTorch is for AMD's cards, the kernels were written and compiled for NVIDIA's only"
    for name, tensor in inputs._asdict().items():
        if tensor is not None and tensor.dtype == torch.float64:
            return f"{name} is float64, the kernels compute in float32"
    if not HAS_TRITON:
        return "the package triton is not installed"
    return None


@cache
def implementation(impl: str) -> ModuleType:
    """The module of an optimised implementation: `forward`, `backward`, `kept_shape`."""
    return vectorised if impl == "torch" else importlib.import_module(".triton_ss2d", __package__)


def encode(routes: Sequence[Route]) -> list[int]:
    """Routes as numbers, which is what an operator's signature can hold."""
    return [int(value) for route in routes for value in (route.column, route.reverse, route.window)]


def decode(codes: Sequence[int]) -> tuple[Route, ...]:
    """The routes of `encode`."""
    return tuple(
        Route(bool(column), bool(reverse), window)
        for column, reverse, window in zip(codes[::3], codes[1::3], codes[2::3], strict=True)
    )


decoded = cache(decode)  # not for torch.compile's fake operators, whose numbers may be symbols


@torch.library.custom_op(f"{NAMESPACE}::ss2d", mutates_args=())
def _forward(
    x: Tensor,
    dt_low: Tensor,
    dt_weight: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    routes: Sequence[int],
    discretization: str,
    softplus: bool,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last states, and what the implementation keeps for its backward."""
    inputs = Inputs(x, dt_low, dt_weight, dt_bias, A, B, C, D)
    with without_autocast(x.device), torch.cuda.device_of(x):
        return implementation(impl).forward(inputs, decoded(tuple(routes)), discretization, softplus)


@_forward.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, _, _, _, A, _, _, _, routes, _, _, impl = arguments
    b, h, w, d = x.shape
    k, _, n = A.shape
    dtype = torch.promote_types(x.dtype, torch.float32)
    kept = implementation(impl).kept_shape(b, h, w, d, n, decode(routes))
    return x.new_empty(x.shape), x.new_empty((b, k, d, n), dtype=dtype), x.new_empty(kept, dtype=dtype)


@torch.library.custom_op(f"{NAMESPACE}::ss2d_backward", mutates_args=())
def _backward(
    dy: Tensor,
    kept: Tensor,
    x: Tensor,
    dt_low: Tensor,
    dt_weight: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    routes: Sequence[int],
    discretization: str,
    softplus: bool,
    impl: str,
) -> list[Tensor]:
    """The gradients of the tensors that there are, in their order."""
    inputs = Inputs(x, dt_low, dt_weight, dt_bias, A, B, C, D)
    with without_autocast(x.device), torch.cuda.device_of(x):
        module = implementation(impl)
        gradients = module.backward(dy, kept, inputs, decoded(tuple(routes)), discretization, softplus)
    return [gradient for gradient in gradients if gradient is not None]


@_backward.register_fake
def _(dy: Tensor, kept: Tensor, *inputs: Any) -> list[Tensor]:
    return [v.new_empty(v.shape) for v in inputs[: len(Inputs._fields)] if v is not None]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, last, kept = output
    tensors, ctx.choices = inputs[: len(Inputs._fields)], inputs[len(Inputs._fields) :]
    ctx.save_for_backward(kept, *tensors)
    ctx.mark_non_differentiable(last, kept)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dy: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    kept, *tensors = ctx.saved_tensors
    gradients: Iterator[Tensor | None] = iter(())
    if dy is not None:
        gradients = iter(_backward(dy, kept, *tensors, *ctx.choices))
    return *(None if v is None else next(gradients, None) for v in tensors), *(None for _ in ctx.choices)


_forward.register_autograd(_differentiate, setup_context=_keep)


@register_flop_formula(getattr(torch.ops, NAMESPACE).ss2d)
def _count(x: Sequence[int], dt_low: Sequence[int], dt_weight: Sequence[int] | None, *shapes: Any, **_: Any) -> int:
    """Operations, for `torch.utils.flop_counter`: those of dt's product, and 9 for each step of a state.

    The nine are Gu's, in state-spaces/mamba issue 110, by which published vision Mambas are counted.
    """
    b, h, w, d = x
    k, _, n = shapes[1]  # A's
    r = 0 if dt_weight is None else dt_low[-1]
    return b * h * w * k * d * (9 * n + 2 * r)


@register_flop_formula(getattr(torch.ops, NAMESPACE).ss2d_backward)
def _count_backward(dy: Sequence[int], kept: Sequence[int], *shapes: Any, **_: Any) -> int:
    """Twice the forward's, as of a matrix product; what is recomputed is not counted."""
    return 2 * _count(*shapes)


def check(inputs: Inputs, routes: Sequence[Route], discretization: str) -> None:
    """Raise an error that names the first argument that does not fit."""
    if discretization not in DISCRETIZATIONS:
        raise ValueError(f"discretization: expected one of {DISCRETIZATIONS}, got {discretization!r}")
    if not isinstance(routes, Sequence) or not routes or not all(isinstance(route, Route) for route in routes):
        raise ValueError(f"routes: expected one Route or more in a sequence, got {routes!r}")
    tensors = inputs._asdict()
    check_kinds(tensors, optional=("dt_weight",))
    all_axes = AXES if inputs.dt_weight is not None else AXES | {"dt_low": "bhwkd"}
    for name in ("x", "dt_low", "A"):
        given, axes = tensors[name], all_axes[name]
        if given.ndim != len(axes):
            raise ValueError(f"{name}: expected axes ({', '.join(axes)}), got shape {tuple(given.shape)}")
    size = dict(zip("bhwd", inputs.x.shape, strict=True)) | {
        "k": len(routes),
        "r": inputs.dt_low.shape[-1],
        "n": inputs.A.shape[-1],
    }
    for name, given in tensors.items():
        if given is None:
            continue
        expected = tuple([size[axis] for axis in all_axes[name]])
        if given.shape != expected:
            raise ValueError(
                f"{name}: expected shape ({', '.join(all_axes[name])}) = {expected}, got {tuple(given.shape)}; "
                f"b, h, w, d are x's, k is the number of routes, r is dt_low's, n is A's"
            )
    empty = [axis for axis, extent in size.items() if extent == 0]
    if empty:
        raise ValueError(f"sizes: expected at least 1 of every axis, got 0 for {', '.join(empty)}")


def check_kinds(tensors: Mapping[str, Any], optional: Container[str]) -> None:
    """Raise TypeError for no dense tensor, or one of a dtype that no scan takes; ValueError for another device."""
    first, like = next(iter(tensors.items()))
    for name, given in tensors.items():
        if given is None and name in optional:
            continue
        if not isinstance(given, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(given).__name__}")
        kind = "nested" if given.is_nested else given.layout
        if kind != torch.strided:
            raise TypeError(f"{name}: expected a dense tensor, got one that is {kind}")
        if given.dtype not in DTYPES:
            raise TypeError(f"{name}: expected one of {DTYPES}, got {given.dtype}")
        if given.device != like.device:
            raise ValueError(f"{name}: expected device {like.device}, where {first} is, got {given.device}")
