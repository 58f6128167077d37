"""Host side of the Triton kernels: the selective scan of a map along its routes, forward and backward.

Plain functions on tensors, without autograd. How the work is cut:

    fill_order         the tokens of each order but the rows', whose tokens are where they are
    fill_weight        dt's weight in tiles
    segment_states     every segment of a route by itself, from a zero state: what leaves it
    carry_states       a walk over the segments of each route: what enters each segment
    segment_outputs    a walk over every segment of an order, for a route and its reverse: y
    segment_gradients  a walk against every segment of a route, after the first two of the adjoint

All cuts follow from shapes alone, and every sum that crosses programs is made of partial sums, added up in a fixed
order: the same bits on every run.

A map of a few hundred tokens leaves a card little to do, and then a call takes as long as its host code: so a route
and its reverse share their launches, and what follows from the routes alone is kept (benchmarks/host.py times it).
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import torch
from torch import Tensor

from .cut import Config, cdiv
from .inputs import Inputs
from .routes import Route
from .triton_gradients import PART, segment_gradients
from .triton_launch import launch
from .triton_math import BLOCK_L, DEEP_HALF, DEEP_PRECISE, WIDTH
from .triton_order import fill_order
from .triton_output import segment_outputs
from .triton_states import carry_states, segment_states
from .triton_weight import fill_weight
from .tuning import config_for

# A warp is a program: the tile of dt and the sums over channels move between its threads, no more. A product and a sum
# become one instruction, which from Triton 3.10 on they do only if asked to.
LAUNCH = {"num_warps": 1, "enable_fp_fusion": True}
BLOCK = 256  # numbers of a program that fills


@dataclass(frozen=True)
class Order:
    """One or two routes over the same positions: the second, if any, is the first one reversed."""

    along: Route
    first_reversed: bool
    k_first: int
    k_second: int | None

    @property
    def routes(self) -> tuple[int, int]:
        """Their k, of a single one twice."""
        return self.k_first, self.k_first if self.k_second is None else self.k_second

    @cached_property
    def steps(self) -> dict[int, int]:
        """The step along the order, 1 or -1, of each k."""
        step = -1 if self.first_reversed else 1
        return {self.k_first: step} if self.k_second is None else {self.k_first: step, self.k_second: -step}

    @cached_property
    def options(self) -> dict[str, bool | int]:
        """Compile-time arguments."""
        return {"FIRST_REVERSED": self.first_reversed, "ROUTES": len(self.steps)}


@cache
def pair_routes(routes: tuple[Route, ...]) -> tuple[Order, ...]:
    """Group routes that are each other's reverse; kernels take both at once."""
    orders: list[Order] = []
    for k, route in enumerate(routes):
        along = replace(route, reverse=False)
        for i, order in enumerate(orders):
            if order.along == along and order.k_second is None and order.first_reversed != route.reverse:
                orders[i] = replace(order, k_second=k)
                break
        else:
            orders.append(Order(along, route.reverse, k, None))
    return tuple(orders)


def order_table(along: Route, x: Tensor) -> Tensor | None:
    """The token at each position of an order, int32, filled up to whole chunks; None for that of memory.

    It is made anew for each call, which is a small launch: a kept one would outlive the memory pool of a CUDA graph,
    or be dropped under one.
    """
    if along == Route():
        return None
    _, h, w, _ = x.shape
    length = cdiv(h * w, BLOCK_L) * BLOCK_L
    table = x.new_empty(length, dtype=torch.int32)
    window = min(along.window, max(h, w))  # so large a one is the whole map, and fits int32
    launch(
        fill_order, cdiv(length, BLOCK), table, h * w, h, w, window, length,
        COLUMN=along.column, WINDOWED=along.window > 0, BLOCK=BLOCK, **LAUNCH,
    )  # fmt: skip
    return table


def side_by_side(maps: Tensor) -> Tensor:
    """Maps (..., d) whose channels lie side by side: themselves, or a copy where they do not.

    Threads read a channel each. Where these lie apart, as in Mamba's (b, d, l), each would take a transaction of its
    own, which is more work than the copy's.
    """
    return maps if maps.stride(-1) == 1 or maps.shape[-1] == 1 else maps.contiguous()


def extent(v: Tensor) -> int:
    """Elements that one image of (b, ...) spans, at most."""
    return sum(map(operator.mul, v.shape[1:], v.stride()[1:]))


def even(v: Tensor, *axes: int) -> bool:
    """Whether all along these axes begins an even number of elements after the one before."""
    return all(v.stride(axis) % 2 == 0 for axis in axes)


@dataclass(frozen=True)
class _Scan:
    """The arguments of one call in the form that kernels take: maps as (b, l, ...), parameters in float32."""

    x: Tensor  # (b, l, d), channels side by side
    z: Tensor  # (b, l, k, r), or (b, l, k, d), channels side by side, where there is no weight
    weight: Tensor | None  # (k, terms, r, d), r and d filled up to whole tiles: see `load_dts`
    bias: Tensor  # (k, d)
    A: Tensor  # (k, d, n)
    B: Tensor  # (b, l, k, n)
    C: Tensor  # (b, l, k, n)
    D: Tensor  # (k, d)
    orders: tuple[tuple[Order, Tensor | None], ...]  # and the table of each
    zoh: bool
    softplus: bool
    precise: bool  # whether x or dt is float32
    config: Config

    @property
    def axes(self) -> tuple[int, int, int, int, int]:
        """b, l, d, k, n."""
        return *self.x.shape, *self.B.shape[2:]

    @cached_property
    def blocks_d(self) -> int:
        return self.config.blocks_d(self.x.shape[2])

    @cached_property
    def chunks(self) -> int:
        return cdiv(self.x.shape[1], BLOCK_L)

    @cached_property
    def segment_chunks(self) -> int:
        b, _, d, k, _ = self.axes
        return self.config.segment_chunks(b, k, d, self.chunks)

    @cached_property
    def segments(self) -> int:
        return cdiv(self.chunks, self.segment_chunks)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """l, d, rank, n, k, chunks, segments, chunks of a segment."""
        _, l, d, k, n = self.axes
        rank = 0 if self.weight is None else self.z.shape[-1]
        return l, d, rank, n, k, self.chunks, self.segments, self.segment_chunks

    @property
    def wide(self) -> bool:
        """Whether an offset within one image may pass 2^31 elements."""
        _, l, d, k, _ = self.axes
        return max(l * d * k, *map(extent, (self.x, self.z, self.B, self.C))) >= 2**31

    @cached_property
    def options(self) -> dict[str, bool | int]:
        """Compile-time arguments that all kernels have."""
        return {
            "ZOH": self.zoh,
            "RANK": 0 if self.weight is None else self.weight.shape[2],
            "SOFTPLUS": self.softplus,
            "PRECISE": self.precise,
            "WIDE": self.wide,
            "EVEN_Z": even(self.z, 0, 2),
            "FULL": self.x.shape[-1] % self.config.block_d == 0,
            "BLOCK_L": BLOCK_L,
            "BLOCK_D": self.config.block_d,
            **LAUNCH,
        }


def kept_shape(b: int, h: int, w: int, d: int, n: int, routes: Sequence[Route]) -> tuple[int, ...]:
    """Shape of what `forward` keeps for `backward`: the state (n, d) that enters each chunk.

    Chunks are no axis of their own: of one, PyTorch asks whether it is 1 long, and `torch.export` would hold maps of
    any other size to the answer.
    """
    return b, len(routes), cdiv(h * w, BLOCK_L) * n * d


def forward(
    inputs: Inputs, routes: Sequence[Route], discretization: str, softplus: bool, config: Config | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """y (b, h, w, d) of x's dtype, the last state of each route (b, k, d, n), and what `backward` wants kept."""
    y = inputs.x.new_empty(inputs.x.shape)  # here, since a view made in an operator cannot be changed in place
    last, kept = scan(prepare(inputs, routes, discretization, softplus, config), y.flatten(1, 2))
    return y, last.mT.contiguous(), kept


def backward(
    dy: Tensor,
    kept: Tensor,
    inputs: Inputs,
    routes: Sequence[Route],
    discretization: str,
    softplus: bool,
    config: Config | None = None,
) -> tuple[Tensor | None, ...]:
    """The gradient of each input, of its shape and dtype.

    The gradient of dt (b, l, k, d) is a map in memory, of the wider dtype of x and dt_low: its products with dt_low
    and dt_weight are matrix products over all tokens and all channels, and their accumulators would not fit beside the
    scan's.
    """
    s = prepare(inputs, routes, discretization, softplus, config)
    # contiguous, as it nearly always is: kernels compiled for other strides would be used once or never
    dx, dz, *rest = scan_gradients(s, dy.contiguous().flatten(1, 2), kept)
    dlow, dweight = dz, None
    if inputs.dt_weight is not None:
        low = inputs.dt_low.flatten(0, 2).transpose(0, 1).to(dz.dtype)  # (k, bl, r)
        dz = dz.flatten(0, 1).transpose(0, 1)  # (k, bl, d)
        dlow = torch.bmm(dz, inputs.dt_weight.to(dz.dtype)).transpose(0, 1)
        dweight = torch.bmm(dz.mT, low)
    gradients = (dx, dlow, dweight, *rest)
    return tuple(
        None if v is None or g is None else g.reshape(v.shape).to(v.dtype).contiguous()
        for g, v in zip(gradients, inputs, strict=True)
    )


def prepare(
    inputs: Inputs, routes: Sequence[Route], discretization: str, softplus: bool, config: Config | None = None
) -> _Scan:
    """Maps flattened over tokens (views wherever one row continues the one before) and float32 parameters."""
    x, dt_low, dt_weight, dt_bias, A, B, C, D = inputs
    precise = torch.float32 in (x.dtype, dt_low.dtype)
    config = config or config_for(x.device)
    if x.shape[3] % 2:  # one channel to a thread: with two, Triton lets another thread read than the one that wrote
        config = replace(config, block_d=32)
    return _Scan(
        x=side_by_side(x.flatten(1, 2)),
        z=dt_low.flatten(1, 2) if dt_weight is not None else side_by_side(dt_low.flatten(1, 2)),
        weight=None if dt_weight is None else weight_tiles(dt_weight, torch.float32 if precise else dt_low.dtype),
        bias=dt_bias.float().contiguous(),
        A=A.float().contiguous(),
        B=B.flatten(1, 2),
        C=C.flatten(1, 2),
        D=D.float().contiguous(),
        orders=tuple((order, order_table(order.along, x)) for order in pair_routes(tuple(routes))),
        zoh=discretization == "zoh",
        softplus=softplus,
        precise=precise,
        config=config,
    )


def weight_tiles(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """dt's weight (k, d, r) as (k, terms, RANK, width), zero beyond r and d, so that tiles need no mask.

    The sum of the terms is the weight: one term if dtype is float32, else its rounding to dtype and what that leaves.
    """
    k, d, r = weight.shape
    terms, deep = (1, DEEP_PRECISE.value) if dtype == torch.float32 else (2, DEEP_HALF.value)
    rank, width = cdiv(r, deep) * deep, cdiv(d, WIDTH.value) * WIDTH.value
    tiles = weight.new_empty((k, terms, rank, width), dtype=dtype)
    launch(
        fill_weight, k * cdiv(rank * width, BLOCK), tiles, weight, *weight.stride(), d, r, rank * width, width,
        TERMS=terms, BLOCK=BLOCK, **LAUNCH,
    )  # fmt: skip
    return tiles


def scan(s: _Scan, y: Tensor) -> tuple[Tensor, Tensor]:
    """The last state of each route (b, k, n, d), and those that enter the chunks; fills y (b, l, d), of x's dtype."""
    b, l, d, k, n = s.axes
    chunk_h, chunk_s = (s.x.new_empty((b, k, s.chunks, m), dtype=torch.float32) for m in (n * d, d))
    segment_h, last = enter_segments(s, s.x, s.B, chunk_h, chunk_s)
    merged = y if len(s.orders) == 1 else s.x.new_empty((b, l, d), dtype=torch.float32)
    for i, (order, table) in enumerate(s.orders):
        launch(
            segment_outputs, s.blocks_d * s.segments * b,
            s.x, table, s.z, s.weight, s.bias, s.A, s.B, s.C, s.D,
            merged, y if i == len(s.orders) - 1 else merged, chunk_h, chunk_s, segment_h,
            *s.x.stride()[:2], *s.z.stride(), *s.B.stride(), *s.C.stride(), *s.sizes, *order.routes,
            ACCUMULATE=i > 0, EVEN=even(s.x, 0), **order.options, **s.options,
        )  # fmt: skip
    return last, chunk_h.flatten(2)


def enter_segments(
    s: _Scan, u: Tensor, v: Tensor, chunk_h: Tensor | None = None, chunk_s: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The state that enters each segment (b, k, segments, n, d), and that after the last token of each route.

    A route of one segment is entered by zero, which is not written; and its last state is there after the walk over it.

    Args:
        u, v: x and B; or dy and C, for the adjoint.
        chunk_h, chunk_s: those of `segment_states`; None for the adjoint, which has no use of them.
    """
    b, _, d, k, n = s.axes
    segment_h, segment_s = (
        s.x.new_empty(shape, dtype=torch.float32) for shape in ((b, k, s.segments, n, d), (b, k, s.segments, d))
    )
    for order, table in s.orders:
        options = order.options
        if s.segments > 1:
            skipped = 0
        else:  # entered by zero, but the chunks of a second route
            skipped = options["ROUTES"] if chunk_h is None else 1
        if (launched := options["ROUTES"] - skipped) == 0:
            continue
        launch(
            segment_states, s.blocks_d * launched * s.segments * b,
            u, table, s.z, s.weight, s.bias, s.A, v, chunk_h, chunk_s, segment_h, segment_s,
            *u.stride()[:2], *s.z.stride(), *v.stride(), *s.sizes, *order.routes, skipped,
            ADJOINT=chunk_h is None, EVEN=even(u, 0), **options, **s.options,
            maxnreg=255 if s.precise else None,  # or ptxas takes 128 registers in float32, for occupancy, and spills
        )  # fmt: skip
    if s.segments == 1:
        return segment_h, segment_h[:, :, 0]
    last = s.x.new_empty((b, k, n, d), dtype=torch.float32)
    launch(
        carry_states, s.blocks_d * n * k * b, segment_h, segment_s, s.A, last, d, n, k, s.segments,
        BLOCK_D=s.config.block_d, **LAUNCH,
    )  # fmt: skip
    return segment_h, last


def scan_gradients(s: _Scan, dy: Tensor, kept: Tensor) -> tuple[Tensor, ...]:
    """Gradients of x, z (before bias and softplus), dt_bias, A, B, C, D.

    dx is of x's dtype, dz of the wider one of x's and z's, the others float32.

    Args:
        dy: (b, l, d), contiguous.
        kept: the state that enters each chunk, from `scan`.
    """
    b, l, d, k, n = s.axes
    part = PART[s.zoh]
    segment_g, _ = enter_segments(s, dy, s.C)

    def empty(*shape: int) -> Tensor:
        return s.x.new_empty(shape, dtype=torch.float32)

    dx = s.x.new_empty(b, l, d)
    dz = s.x.new_empty((b, l, k, d), dtype=torch.promote_types(s.x.dtype, s.z.dtype))
    merged = dx if k == 1 else empty(b, l, d)
    dbias, dA, dD = empty(b, s.segments, k, d), empty(b, s.segments, k, n, d), empty(b, s.segments, d)
    part_h = empty(b, s.segments, BLOCK_L // part, n, d)
    dBC = empty(2, s.blocks_d, b, l, k, n)
    # by themselves: a kernel of two routes would take four times as long to compile
    alone = [(route, step, table) for order, table in s.orders for route, step in order.steps.items()]
    for i, (route, step, table) in enumerate(alone):
        launch(
            segment_gradients, s.blocks_d * s.segments * b,
            dy, s.x, table, s.z, s.weight, s.bias, s.A, s.B, s.C, s.D, merged,
            kept, segment_g, part_h, dx, dz, dbias, dA, dBC, dD,
            *s.x.stride()[:2], *s.z.stride(), *s.B.stride(), *s.C.stride(), b, *s.sizes, route,
            STEP=step, ACCUMULATE=i > 0, LAST=i == k - 1, PART=part,
            EVEN=even(dy, 0) and even(s.x, 0), **s.options,
            maxnreg=255 if s.zoh else None,  # or ptxas takes fewer, for occupancy, and spills on sm_80
        )  # fmt: skip
    return (
        dx,
        dz,
        dbias.sum((0, 1)),
        dA.sum((0, 1)).mT,
        dBC[0].sum(0),
        dBC[1].sum(0),
        dD.sum((0, 1)).expand(k, d),
    )
