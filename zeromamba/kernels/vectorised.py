"""The selective scan in vectorised PyTorch, with its adjoint written out: for CPUs, and for GPUs without Triton.

A route is cut into c chunks of about a dozen tokens. All chunks advance in parallel, first from a zero state. Their
last states, combined by the same recurrence over chunks (and chunks of chunks), give the state that enters each; from
these, a second pass goes over the tokens. Nothing is divided by a product of decays, and no such product is above 1.

States n are taken one after another, since they meet only in the sums over n. For each of them, with phi = Bbar / B,

    h_t = Abar_t h_{t-1} + phi_t B_t u_t       y_t = C_t h_t
    g_t = C_t dy_t + Abar_{t+1} g_{t+1}        (the adjoint, against the route)
    dB_t = sum_d g_t phi_t u_t                 dC_t = sum_d dy_t h_t             du_t = g_t phi_t B_t
    ddt_t = A g_t Abar_t h_{t-1} + g_t B_t u_t dphi/ddt
    dA = sum_t dt_t g_t Abar_t h_{t-1} + g_t B_t u_t dphi/dA

D x acts on each token alone, so it is added to the map, and differentiated there. On a CPU nearly all time goes into
reading and writing maps: so they are read where they lie, and written to memory that is reused.
"""

import math
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .inputs import Inputs
from .routes import Route

SHORT = 12  # least tokens of a chunk: fewer would be many chunks, more are many steps of little work
LINEAR = 40.0  # softplus is the identity above this; above the stock threshold of 20 it would be short of float64
LN_2 = math.log(2)
LOG2_E = 1 / LN_2  # exp(q) is exp2(q log2(e)), which takes a CPU a quarter of the time
NO_OVERFLOW = 100.0  # float32 holds 2^z up to 2^128
SMALL = 0.5  # below this |dt A|, phi's slope is a series: its quotient would cancel
TERMS = {torch.float32: 9, torch.float64: 15}  # the first of its terms that is beyond the precision of the dtype
# Elements (b, l, d) that are worked on at once, by device. On a CPU that is 16 MiB of a float32 map, of which five
# (Euler) to nine (zero-order hold, several states) are kept; less was slower: smaller steps, channels that lie apart.
SLICE = {"cpu": 1 << 22, "cuda": 1 << 26}


class Chunks:
    """A route cut into c chunks of t tokens.

    A route along rows or columns cuts these, and maps are worked on where they lie. For windows, and where the side, or
    the chunks, cannot be cut well, they are laid out along the route first, with zeros that fill up the last chunk.
    """

    def __init__(self, route: Route, h: int, w: int, device: torch.device | None = None) -> None:
        self.h, self.w, self.l, self.device = h, w, h * w, device
        self.column, self.reverse = route.column, route.reverse
        self.order = Route(route.column, window=route.window)
        self.t = chunk_length(h if route.column else w)
        self.laid_out = route.window > 0 or max(self.t, longest_walk(self.l // self.t)) ** 2 > 4 * self.l
        if self.laid_out:
            self.t, self.column = math.isqrt(self.l - 1) + 1, False
        self.c = -(-self.l // self.t)
        self.filling = self.c * self.t - self.l

    @cached_property
    def tokens(self) -> Tensor:
        """The token at each position of the order in which maps are laid out, (l,)."""
        return self.order.tokens(self.h, self.w, self.device)

    @cached_property
    def positions(self) -> Tensor:
        """The position of each token in it, (l,)."""
        return self.order.positions(self.h, self.w, self.device)

    def lay(self, maps: Tensor) -> Tensor:
        """Maps (b, h, w, ...): themselves, or a copy along the route, (b, c, t, ...)."""
        if not self.laid_out:
            return maps
        along = maps.new_zeros(len(maps), self.c * self.t, *maps.shape[3:])
        along[:, : self.l] = maps.flatten(1, 2).index_select(1, self.tokens)
        return along.unflatten(1, (self.c, self.t))

    def put_back(self, laid: Tensor, maps: Tensor) -> None:
        """Write what became of `lay(maps)` into the maps (b, h, w, ...)."""
        if self.laid_out:
            maps.copy_(laid.flatten(1, 2).index_select(1, self.positions).view(maps.shape))

    def view(self, laid: Tensor) -> Tensor:
        """The chunks of laid maps (b, h, w, d): (t, c1, c2, b, d), where c = c1 c2."""
        rows = laid.transpose(1, 2) if self.column else laid
        return rows.unflatten(2, (-1, self.t)).movedim((3, 0), (0, 3))

    def tokens_of(self, laid: Tensor) -> Sequence[Tensor]:
        """The first token of every chunk, the second, ..., along the route: t times (c1, c2, b, d)."""
        tokens = self.view(laid).unbind()
        return tokens[::-1] if self.reverse else tokens


def chunk_length(count: int) -> int:
    """The smallest divisor of `count` tokens, or chunks, that is at least SHORT; `count` itself if there is none."""
    return next((t for t in range(SHORT, count) if count % t == 0), count)


def longest_walk(count: int) -> int:
    """The most steps of one walk where `count` chunks are cut into chunks, and these again."""
    t = chunk_length(count)
    return t if t == count else max(t, longest_walk(count // t))


class Part(NamedTuple):
    """The images and channels that are worked on at once."""

    images: slice
    channels: slice

    def of(self, maps: Tensor) -> Tensor:
        """The part of maps (b, h, w, d)."""
        return maps[self.images, ..., self.channels]


class Maps(NamedTuple):
    """The part of the maps that a route reads, or of their gradients."""

    u: Tensor  # (b, h, w, d)
    low: Tensor  # (b, h, w, r), or (b, h, w, d) without dt's weight
    B: Tensor  # (b, h, w, n)
    C: Tensor  # (b, h, w, n)

    @classmethod
    def of(cls, inputs: Inputs, k: int, part: Part) -> "Maps":
        """Views of the inputs."""
        low, B, C = (v[part.images, ..., k, :] for v in (inputs.dt_low, inputs.B, inputs.C))
        return cls(part.of(inputs.x), low if inputs.dt_weight is not None else low[..., part.channels], B, C)


class Scratch(threading.local):
    """Maps that are written over all the time. A CPU's are kept: new memory would cost it as much as the arithmetic."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, torch.dtype], Tensor] = {}

    def __call__(self, name: str, like: Tensor) -> Tensor:
        """A contiguous map of that shape, with whatever the last of the name held."""
        if like.device.type != "cpu":  # whose allocator keeps memory itself
            return torch.empty_like(like, memory_format=torch.contiguous_format)
        kept = self.kept.get((name, like.dtype))
        if kept is None or len(kept) < like.numel():
            with torch.inference_mode(False):  # whose tensors could not be written outside of it
                kept = self.kept[name, like.dtype] = like.new_empty(like.numel())
        return kept[: like.numel()].view(like.shape)


SCRATCH = Scratch()


class Steps:
    """What all states of a route share: its maps, laid out, and the step sizes dt, (b, h, w, d)."""

    def __init__(self, inputs: Inputs, k: int, part: Part, chunks: Chunks, zoh: bool, softplus: bool) -> None:
        self.chunks, self.zoh, self.softplus = chunks, zoh, softplus
        self.u, self.low, self.B, self.C = (chunks.lay(v) for v in Maps.of(inputs, k, part))
        self.bias = inputs.dt_bias[k, part.channels]
        self.weight = None if inputs.dt_weight is None else inputs.dt_weight[k, part.channels]
        z = self.z("dt", LOG2_E if softplus else 1.0)
        self.dt = softplus_2(z) if softplus else z
        if chunks.filling:
            self.dt[:, -1, -chunks.filling :] = 0  # which leaves the state as it is

    def map(self, name: str) -> Tensor:
        """A scratch map like u."""
        return SCRATCH(name, self.u)

    def z(self, name: str, unit: float) -> Tensor:
        """dt before softplus, times that unit; in the scratch map of the name."""
        z = self.map(name)
        if self.weight is None:
            return torch.add(self.bias * unit, self.low, alpha=unit, out=z)
        torch.addmm(self.bias, self.low.flatten(0, 2), self.weight.T, beta=unit, alpha=unit, out=z.flatten(0, 2))
        return z

    def decay(self, a: Tensor) -> Tensor:
        """Abar = exp(dt A) of the state with A (d,)."""
        return torch.mul(self.dt, a * LOG2_E, out=self.map("Abar")).exp2_()

    @cached_property
    def chunk_dt(self) -> Tensor:
        """The sum of dt over each chunk, (c1, c2, b, d)."""
        return self.chunks.view(self.dt).sum(0)

    def phi(self, a: Tensor) -> Tensor:
        """Bbar / B: dt or, exactly, expm1(dt A) / A, which is dt where dt A = 0."""
        if not self.zoh:
            return self.dt
        q = torch.mul(self.dt, a, out=self.map("q"))
        return torch.expm1(q, out=self.map("phi")).div_(q).masked_fill_(q == 0, 1.0).mul_(self.dt)

    def phi_slope(self, a: Tensor, Abar: Tensor, phi: Tensor) -> Tensor:
        """dphi/dA: (dt Abar - phi) / A or, where that would cancel, dt^2 sum_m m (dt A)^(m-1) / (m+1)!."""
        q = torch.mul(self.dt, a, out=self.map("q"))
        large = torch.abs(q, out=self.map("series")) >= SMALL
        q.masked_fill_(large, 0.0)
        series = self.map("series").zero_()
        for m in reversed(range(1, TERMS[q.dtype])):
            series.mul_(q).add_(m / math.factorial(m + 1))
        quotient = torch.mul(self.dt, Abar, out=q).sub_(phi).div_(a)
        return torch.where(large, quotient, series.mul_(self.dt).mul_(self.dt), out=series)

    def z_gradient(self, ddt: Tensor) -> Tensor:
        """The gradient of z from that of dt, written over it: dt = softplus(z), or dt = z."""
        if not self.softplus:
            return ddt
        z = self.z("h", 1.0)  # computed again, since a map less leaves more of the others in the cache
        return torch.ops.aten.softplus_backward.grad_input(ddt, z, 1, LINEAR, grad_input=ddt)

    def low_gradient(self, dz: Tensor) -> Tensor:
        """What z's gradient gives to low's."""
        # of few ranks, a CPU takes a half to a third of the time for the weight so laid out
        return dz if self.weight is None else F.linear(dz, self.weight.T.contiguous())


def forward(
    inputs: Inputs, routes: Sequence[Route], discretization: str, softplus: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y (b, h, w, d) of x's dtype, the last state of each route (b, k, d, n), and what `backward` wants kept."""
    dtype, inputs = inputs.x.dtype, inputs.widened()
    x, A = inputs.x, inputs.A
    b, h, w, d = x.shape
    y = x * inputs.D.sum(0)
    kept = A.new_empty(kept_shape(b, h, w, d, A.shape[-1], routes))
    last = A.new_empty(b, *A.shape)
    for k, (chunks, kept_k) in enumerate(cut(routes, x, kept)):
        for part in parts(x):
            steps = Steps(inputs, k, part, chunks, discretization == "zoh", softplus)
            y_k = chunks.lay(part.of(y))
            for n, a in enumerate(A[k, part.channels].unbind(-1)):
                h_n = torch.mul(steps.phi(a), steps.u, out=steps.map("h")).mul_(steps.B[..., n, None])
                decays, states = chunks.tokens_of(steps.decay(a)), chunks.tokens_of(h_n)
                leaving = leave(states[0], decays[1:], states[1:])
                entering, decay = kept_k[n, ..., part.images, part.channels].unflatten(1, leaving.shape[:2])
                torch.mul(steps.chunk_dt, a * LOG2_E, out=decay).exp2_()
                enter(leaving, decay, chunks.reverse, out=entering)
                fill(entering, decays, states)
                last[part.images, k, part.channels, n] = states[-1].flatten(0, 1)[0 if chunks.reverse else -1]
                y_k.addcmul_(h_n, steps.C[..., n, None])
            chunks.put_back(y_k, part.of(y))
    return y.to(dtype), last, kept


def backward(
    dy: Tensor,
    kept: Tensor,
    inputs: Inputs,
    routes: Sequence[Route],
    discretization: str,
    softplus: bool,
) -> tuple[Tensor | None, ...]:
    """The gradient of each input, of its shape and dtype."""
    given, inputs = inputs, inputs.widened()
    x, dy = inputs.x, dy.to(inputs.x.dtype).contiguous()
    dx = dy * inputs.D.sum(0)
    sums = Inputs._make((dx, *(None if v is None else torch.zeros_like(v) for v in inputs[1:])))
    for part in parts(x):
        dy_x = torch.mul(part.of(dy), part.of(x), out=SCRATCH("h", part.of(x)))
        sums.D[:, part.channels] += dy_x.sum((0, 1, 2))
    for k, (chunks, kept_k) in enumerate(cut(routes, x, kept)):
        for part in parts(x):
            steps = Steps(inputs, k, part, chunks, discretization == "zoh", softplus)
            dy_k, ddt = chunks.lay(part.of(dy)), steps.map("ddt")
            gradients = Maps.of(sums, k, part)
            laid = Maps(*(chunks.lay(v) for v in gradients))
            for n, a in enumerate(inputs.A[k, part.channels].unbind(-1)):
                kept_n = kept_k[n, ..., part.images, part.channels]
                sums.A[k, part.channels, n] += state_gradients(steps, n, a, kept_n, dy_k, laid, ddt)
            dz = steps.z_gradient(ddt)
            sums.dt_bias[k, part.channels] += dz.sum((0, 1, 2))
            if sums.dt_weight is not None:
                sums.dt_weight[k, part.channels] += (steps.low.flatten(1, 2).mT @ dz.flatten(1, 2)).sum(0).T
            laid.low.add_(steps.low_gradient(dz))
            for gradient, along in zip(gradients, laid, strict=True):
                chunks.put_back(along, gradient)
    return tuple(None if v is None or g is None else g.to(v.dtype) for g, v in zip(sums, given, strict=True))


def state_gradients(steps: Steps, n: int, a: Tensor, kept: Tensor, dy: Tensor, gradients: Maps, ddt: Tensor) -> Tensor:
    """dA (d,) of state n; adds what it gives to the gradients of the route's maps, and to ddt, which the first writes.

    Args:
        a: A of the state, (d,).
        kept: the state that enters each chunk, and the chunk's decay, (2, c, b, d).
        dy, ddt: laid, (b, h, w, d).
    """
    chunks, dt, u = steps.chunks, steps.dt, steps.u
    B, C = steps.B[..., n, None], steps.C[..., n, None]
    Abar, g = steps.decay(a), torch.mul(dy, C, out=steps.map("g"))
    decays, adjoints = chunks.tokens_of(Abar), chunks.tokens_of(g)
    before, chunk_decay = kept.unflatten(1, adjoints[0].shape[:2])
    leaving = leave(adjoints[-1], decays[:0:-1], adjoints[-2::-1]).mul_(decays[0])
    entering = torch.empty_like(leaving, memory_format=torch.contiguous_format)
    adjoints[-1].add_(enter(leaving, chunk_decay, not chunks.reverse, out=entering))
    fill(adjoints[-1], decays[:0:-1], adjoints[-2::-1])

    phi, dA = steps.phi(a), torch.zeros_like(a)
    Bu = torch.mul(u, B, out=ddt if n == 0 else steps.map("Bu"))
    h = torch.mul(phi, Bu, out=steps.map("h"))
    if steps.zoh:  # phi depends on dt and A
        dA += steps.phi_slope(a, Abar, phi).mul_(g).mul_(Bu).sum((0, 1, 2))
        Bu.mul_(Abar)
    for decay, state in zip(decays, chunks.tokens_of(h), strict=True):
        before = state.add_(decay.mul_(before))  # which leaves Abar_t h_{t-1} where Abar_t was
    gradients.C[..., n] += h.mul_(dy).sum(-1)

    Bu.addcmul_(Abar, a)
    if n == 0:  # Bu is ddt
        ddt.mul_(g)
    else:
        ddt.addcmul_(Bu, g)
    g_dt = torch.mul(g, dt, out=h)
    dA += Abar.mul_(g_dt).sum((0, 1, 2))
    g_phi = g.mul_(phi) if steps.zoh else g_dt
    gradients.u.addcmul_(g_phi, B)
    gradients.B[..., n] += g_phi.mul_(u).sum(-1)
    return dA


def leave(state: Tensor, decays: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
    """The last of the states h_t = decay_t h_{t-1} + input_t, from this one on."""
    state = state.clone()
    for decay, input_ in zip(decays, inputs, strict=True):
        torch.addcmul(input_, decay, state, out=state)
    return state


def fill(state: Tensor, decays: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
    """All of these states, each written over its input."""
    for decay, input_ in zip(decays, inputs, strict=True):
        state = torch.addcmul(input_, decay, state, out=input_)


def enter(leaving: Tensor, decay: Tensor, reverse: bool, out: Tensor) -> Tensor:
    """The states (c1, c2, b, d) that enter the chunks, from those that leave them if zero enters, and their decays.

    By recursion: chunks are cut into chunks of chunks as tokens are into chunks, until there is one. The states are
    written to out, whose axes c1 and c2 must lie as one.
    """
    c = leaving.shape[:2].numel()
    t = chunk_length(c)
    cut_leaving, cut_decay, cut_out = (v.flatten(0, 1).unflatten(0, (-1, 1, t)) for v in (leaving, decay, out))
    inputs, decays, outputs = (v.unbind(2)[:: -1 if reverse else 1] for v in (cut_leaving, cut_decay, cut_out))
    if t == c:
        outputs[0].zero_()
    else:
        enter(leave(inputs[0], decays[1:], inputs[1:]), cut_decay.prod(2), reverse, out=outputs[0])
    for before, after, input_, decay_ in zip(outputs, outputs[1:], inputs, decays, strict=False):
        torch.addcmul(input_, decay_, before, out=after)
    return out


def softplus_2(z: Tensor) -> Tensor:
    """log(1 + 2^z), the softplus of z ln 2, written over z.

    Where no 2^z overflows, a CPU takes two thirds of the time for the formula as it stands. So the last bits of an
    image may depend on whether another one of its batch is beyond that.
    """
    if z.device.type == "cpu" and z.amax() < NO_OVERFLOW:
        return z.exp2_().log1p_()
    return torch.ops.aten.softplus.out(z, LN_2, LINEAR, out=z).mul_(LN_2)  # which gives it in units of ln 2


def kept_shape(b: int, h: int, w: int, d: int, n: int, routes: Sequence[Route]) -> tuple[int, ...]:
    """Shape of what `forward` keeps for `backward`: the state that enters each chunk, and the chunk's decay."""
    if isinstance(h, int) and isinstance(w, int):
        return n, 2, sum(Chunks(route, h, w).c for route in routes), b, d
    # symbols, while torch.compile traces: as many chunks as there will be, or it would compile for every size of map
    return n, 2, torch.library.get_ctx().new_dynamic_size(), b, d


def cut(routes: Sequence[Route], x: Tensor, kept: Tensor) -> Iterator[tuple[Chunks, Tensor]]:
    """The chunks of every route over x (b, h, w, d), and its own of what is kept, (n, 2, c, b, d)."""
    cuts = [Chunks(route, x.shape[1], x.shape[2], x.device) for route in routes]
    return zip(cuts, kept.split([chunks.c for chunks in cuts], dim=2), strict=True)


def parts(x: Tensor) -> Iterator[Part]:
    """All parts of x (b, h, w, d)."""
    size = SLICE.get(x.device.type, SLICE["cpu"])
    images = max(1, size // x[0].numel())
    channels = -(-x.shape[-1] // -(-x[0].numel() // size))
    for i in range(0, len(x), images):
        for j in range(0, x.shape[-1], channels):
            yield Part(slice(i, i + images), slice(j, j + channels))
