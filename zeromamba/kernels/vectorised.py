"""The selective scan in vectorised PyTorch, with its adjoint written out: for CPUs, and for GPUs without Triton.

The l tokens of a route are cut into about sqrt(l) chunks of about sqrt(l) tokens. All chunks step through their
tokens side by side, first from a zero state; a walk over the chunks then gives the state that enters each, and a
second pass over the tokens starts from those: 3 sqrt(l) vector operations in place of l. Nothing is divided by a
product of decays, and no product of decays is kept: that of a chunk is exp(A sum dt), at most 1.

States n are taken one after another, since they meet only in the sums over n. For each of them, with phi = Bbar / B,

    h_t = Abar_t h_{t-1} + phi_t B_t u_t       y_t = C_t h_t
    g_t = C_t dy_t + Abar_{t+1} g_{t+1}        (the adjoint, against the route)
    dB_t = sum_d g_t phi_t u_t                 dC_t = sum_d dy_t h_t             du_t = g_t phi_t B_t
    ddt_t = A g_t Abar_t h_{t-1} + g_t B_t u_t dphi/ddt
    dA = sum_t dt_t g_t Abar_t h_{t-1} + g_t B_t u_t dphi/dA

D x acts on each token alone, so it is added to the map, and differentiated there. Axes: t token of a chunk, c chunk.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .inputs import Inputs
from .routes import Route

SMALL = 0.5  # below this |dt A|, phi and its slopes are series: their quotients would cancel
# Elements (b, l, d) that are worked on at once, by device: on a CPU, what its cache holds of the dozen buffers.
SLICE = {"cpu": 1 << 20, "cuda": 1 << 26}


class Order:
    """A route cut into chunks, the last one filled up with copies of a token that count for nothing."""

    def __init__(self, route: Route, h: int, w: int, device: torch.device) -> None:
        l = h * w
        self.t, self.c = cut(l)
        position = torch.arange(self.t * self.c, device=device).view(self.c, self.t).T.flatten()  # (t c,)
        self.tokens = route.tokens(h, w, device)[position.clamp(max=l - 1)]
        self.filling = self.t * self.c - l  # positions at the end of the last chunk
        self.places = position.argsort()[route.positions(h, w, device)]  # of each token, among (t c)

    def read(self, maps: Tensor, dtype: torch.dtype) -> Tensor:
        """Maps (b, h, w, ...) along the route: (b, t, c, ...)."""
        return maps.flatten(1, 2).index_select(1, self.tokens).to(dtype).unflatten(1, (self.t, self.c))

    def put_back(self, along: Tensor) -> Tensor:
        """What stands along the route (b, t, c, ...), at each token: (b, l, ...)."""
        return along.flatten(1, 2).index_select(1, self.places)

    def silence(self, along: Tensor) -> Tensor:
        """Zero (b, t, c, ...) at the filling, in place."""
        along[:, self.t - self.filling :, -1] = 0
        return along


def cut(l: int) -> tuple[int, int]:
    """Tokens of a chunk, and chunks."""
    t = math.isqrt(l - 1) + 1
    return t, -(-l // t)


def kept_shape(b: int, h: int, w: int, d: int, k: int, n: int) -> tuple[int, ...]:
    """Shape of what `forward` keeps for `backward`."""
    return k, n, b, cut(int(h * w))[1], d


class Steps:
    """What all states n of a route share: the step sizes dt and the inputs u, (b, t, c, d)."""

    def __init__(
        self, order: Order, x: Tensor, low: Tensor, weight: Tensor | None, bias: Tensor, zoh: bool, softplus: bool
    ) -> None:
        z = low + bias if weight is None else torch.addmm(bias, low.flatten(0, 2), weight.T).view(*low.shape[:3], -1)
        # the stock threshold of 20 would be short of float64
        self.dt = order.silence(F.softplus(z, threshold=40.0) if softplus else z)
        self.u = order.read(x, self.dt.dtype)
        self.zoh = zoh

    def decay(self, a: Tensor) -> Tensor:
        """Abar = exp(dt A) of the state with A (d,): (b, t, c, d)."""
        return (self.dt * a).exp_()

    def chunk_decay(self, a: Tensor) -> Tensor:
        """The product of Abar over each chunk, (b, c, d)."""
        return (self.dt.sum(1) * a).exp_()

    def phi(self, a: Tensor) -> Tensor:
        """Bbar / B, (b, t, c, d)."""
        return phi_1(self.dt * a).mul_(self.dt) if self.zoh else self.dt

    def inputs(self, a: Tensor, B: Tensor) -> Tensor:
        """Bbar u, for B (b, t, c): (b, t, c, d)."""
        return (self.phi(a) * self.u).mul_(B[..., None])


def forward(
    inputs: Inputs, routes: Sequence[Route], discretization: str, softplus: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y (b, h, w, d) of x's dtype, the last state of each route (b, k, d, n), and what `backward` wants kept."""
    x, dt_low, dt_weight, dt_bias, A, B, C, D = inputs
    b, h, w, d = x.shape
    dtype = torch.promote_types(x.dtype, torch.float32)
    dt_bias, A, D = (p.to(dtype) for p in (dt_bias, A, D))
    y = x.new_zeros((b, h * w, d), dtype=dtype)
    y += (x * D.sum(0)).flatten(1, 2)
    orders = [Order(route, h, w, x.device) for route in routes]
    kept = A.new_empty(kept_shape(b, h, w, d, len(routes), A.shape[-1]))
    last = A.new_empty(b, *A.shape)
    for k, order in enumerate(orders):
        for part in slices(x):
            low = order.read(dt_low[part, ..., k, :], dtype)
            weight = None if dt_weight is None else dt_weight[k].to(dtype)
            steps = Steps(order, x[part], low, weight, dt_bias[k], discretization == "zoh", softplus)
            B_k, C_k = (order.read(v[part, ..., k, :], dtype) for v in (B, C))
            along = torch.zeros_like(steps.u)
            for n, a in enumerate(A[k].unbind(-1)):
                Abar, h_n = steps.decay(a), steps.inputs(a, B_k[..., n])
                entering = carry(leaving_states(Abar, h_n), steps.chunk_decay(a))
                kept[k, n, part] = entering
                fill_states(Abar, h_n, entering)
                last[part, k, :, n] = h_n[:, -1, -1]  # the filling leaves the state as it is
                along.addcmul_(h_n, C_k[..., n, None])
            y[part] += order.put_back(along)
    return y.view(x.shape).to(x.dtype), last, kept


def backward(
    dy: Tensor,
    kept: Tensor,
    inputs: Inputs,
    routes: Sequence[Route],
    discretization: str,
    softplus: bool,
) -> tuple[Tensor | None, ...]:
    """The gradient of each input, of its shape and dtype."""
    x, dt_low, dt_weight, dt_bias, A, B, C, D = inputs
    dtype = torch.promote_types(x.dtype, torch.float32)
    dt_bias, A, D, dy = (p.to(dtype) for p in (dt_bias, A, D, dy))
    dx, dlow, dbias, dA, dB, dC, dD = (
        torch.zeros(v.shape, dtype=dtype, device=x.device) for v in (x, dt_low, dt_bias, A, B, C, D)
    )
    dweight = None if dt_weight is None else torch.zeros(dt_weight.shape, dtype=dtype, device=x.device)
    dx += dy * D.sum(0)
    dD += (dy * x).sum((0, 1, 2))
    for k, route in enumerate(routes):
        order = Order(route, x.shape[1], x.shape[2], x.device)
        for part in slices(x):
            low = order.read(dt_low[part, ..., k, :], dtype)
            weight = None if dt_weight is None else dt_weight[k].to(dtype)
            steps = Steps(order, x[part], low, weight, dt_bias[k], discretization == "zoh", softplus)
            B_k, C_k = (order.read(v[part, ..., k, :], dtype) for v in (B, C))
            dy_k = order.silence(order.read(dy[part], dtype))
            du, ddt = torch.zeros_like(steps.u), torch.zeros_like(steps.u)
            dB_k, dC_k = torch.empty_like(B_k), torch.empty_like(C_k)
            for n, a in enumerate(A[k].unbind(-1)):
                state = state_gradients(steps, dy_k, a, B_k[..., n, None], C_k[..., n, None], kept[k, n, part], du, ddt)
                dB_k[..., n], dC_k[..., n], dA_n = state
                dA[k, :, n] += dA_n
            dz = order.silence(ddt)
            if softplus:
                dz *= -torch.expm1(-steps.dt)  # softplus'(z) = 1 - exp(-softplus(z))
            dbias[k] += dz.sum((0, 1, 2))
            if weight is not None and dweight is not None:
                dweight[k] += dz.flatten(0, 2).T @ low.flatten(0, 2)
                dz = dz @ weight
            for gradient, along in (
                (dx[part], du),
                (dlow[part, ..., k, :], dz),
                (dB[part, ..., k, :], dB_k),
                (dC[part, ..., k, :], dC_k),
            ):
                gradient += order.put_back(along).view_as(gradient)
    gradients = (dx, dlow, dweight, dbias, dA, dB, dC, dD)
    return tuple(None if v is None or g is None else g.to(v.dtype) for g, v in zip(gradients, inputs, strict=True))


def state_gradients(
    steps: Steps, dy: Tensor, a: Tensor, B: Tensor, C: Tensor, entering: Tensor, du: Tensor, ddt: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """dB (b, t, c), dC (b, t, c) and dA (d,) of one state; adds its part of du and ddt, (b, t, c, d).

    Args:
        steps, dy: of the route, (b, t, c, d).
        a: A of the state, (d,).
        B, C: (b, t, c, 1).
        entering: the state that enters each chunk, (b, c, d).
    """
    dt, u = steps.dt, steps.u
    Abar = steps.decay(a)
    h = fill_states(Abar, steps.inputs(a, B[..., 0]), entering)
    dC = (dy * h).sum(-1)
    g = adjoint_states(Abar, dy * C, steps.chunk_decay(a))
    gh = Abar.clone() if steps.zoh else Abar  # g_t Abar_t h_{t-1}
    gh[:, 1:] *= h[:, :-1]
    gh[:, 0] *= entering
    gh *= g
    g_phi = g * steps.phi(a)
    dB = (g_phi * u).sum(-1)
    du.addcmul_(g_phi, B)
    dphi = g.mul_(u).mul_(B)
    ddt.addcmul_(gh, a)
    dA = gh.mul_(dt)
    if steps.zoh:
        ddt.addcmul_(dphi, Abar)
        dA.addcmul_(dphi, phi_1_slope(dt * a).mul_(dt).mul_(dt))
    else:
        ddt += dphi
    return dB, dC, dA.sum((0, 1, 2))


def leaving_states(Abar: Tensor, inputs: Tensor) -> Tensor:
    """The state (b, c, d) in which each chunk is left if it is entered with zero."""
    state = torch.zeros_like(inputs[:, 0])
    for Abar_t, inputs_t in zip(Abar.unbind(1), inputs.unbind(1), strict=True):
        torch.addcmul(inputs_t, Abar_t, state, out=state)
    return state


def carry(leaving: Tensor, chunk_decay: Tensor, reverse: bool = False) -> Tensor:
    """The state (b, c, d) in which each chunk is entered, for those in which it is left if entered with zero."""
    entering = torch.empty_like(leaving)
    chunks = list(zip(entering.unbind(1), leaving.unbind(1), chunk_decay.unbind(1), strict=True))
    state = torch.zeros_like(leaving[:, 0])
    for entering_c, leaving_c, decay_c in reversed(chunks) if reverse else chunks:
        entering_c.copy_(state)
        torch.addcmul(leaving_c, decay_c, state, out=state)
    return entering


def fill_states(Abar: Tensor, inputs: Tensor, entering: Tensor) -> Tensor:
    """h_t = Abar_t h_{t-1} + inputs_t, written over the inputs (b, t, c, d)."""
    state = entering
    for Abar_t, inputs_t in zip(Abar.unbind(1), inputs.unbind(1), strict=True):
        state = torch.addcmul(inputs_t, Abar_t, state, out=inputs_t)
    return inputs


def adjoint_states(Abar: Tensor, inputs: Tensor, chunk_decay: Tensor) -> Tensor:
    """g_t = inputs_t + Abar_{t+1} g_{t+1}, written over the inputs (b, t, c, d)."""
    Abars, gs = Abar.unbind(1), inputs.unbind(1)
    leaving = torch.zeros_like(gs[0])
    for Abar_t, inputs_t in zip(reversed(Abars), reversed(gs), strict=True):
        leaving.add_(inputs_t).mul_(Abar_t)
    g = gs[-1].add_(carry(leaving, chunk_decay, reverse=True))
    for Abar_t, inputs_t in zip(reversed(Abars[1:]), reversed(gs[:-1]), strict=True):
        g = torch.addcmul(inputs_t, Abar_t, g, out=inputs_t)
    return inputs


def phi_1(q: Tensor) -> Tensor:
    """expm1(q) / q, which is 1 at q = 0."""
    return torch.where(q == 0, 1.0, torch.expm1(q) / q)


def phi_1_slope(q: Tensor) -> Tensor:
    """The derivative of `phi_1`: (e^q - phi_1(q)) / q or, where that would cancel, sum_m m q^(m-1) / (m+1)!."""
    small = q.abs() < SMALL
    series = torch.zeros_like(q)
    for m in reversed(range(1, 16)):
        series = series * torch.where(small, q, 0.0) + m / math.factorial(m + 1)
    return torch.where(small, series, (q.exp() - phi_1(q)) / q)


def slices(x: Tensor) -> Iterator[slice]:
    """The images that are worked on at once, for x (b, h, w, d)."""
    images = max(1, SLICE.get(x.device.type, SLICE["cpu"]) // x[0].numel())
    return (slice(i, i + images) for i in range(0, len(x), images))
