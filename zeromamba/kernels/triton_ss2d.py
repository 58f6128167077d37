"""Host side of the Triton kernels: the selective scan of a map along its routes, forward and backward.

Plain functions on tensors, without autograd. How the work is cut:

    fill_order       the tokens of each order but the rows', whose tokens are where they are
    chunk_states     every segment of a route by itself, from a zero state: what enters each of its chunks
    carry_states     a walk over the segments of each route: what enters each segment
    chunk_outputs    every chunk of an order by itself, for a route and its reverse: y
    chunk_gradients  the same for the backward, after `chunk_states` and `carry_states` of the adjoint

All cuts follow from shapes alone, and every sum that crosses programs is made of partial sums, added up in a fixed
order: the same bits on every run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from zeromamba.kernels.inputs import Inputs
from zeromamba.kernels.routes import Route
from zeromamba.kernels.triton_gradients import PART, chunk_gradients
from zeromamba.kernels.triton_math import BLOCK_L, DEEP_HALF, DEEP_PRECISE, WIDTH
from zeromamba.kernels.triton_order import fill_order
from zeromamba.kernels.triton_output import chunk_outputs
from zeromamba.kernels.triton_states import carry_states, chunk_states
from zeromamba.kernels.tuning import Config, config_for

# A warp is a program: the tile of dt and the sums over channels move between its threads, no more. A product and a sum
# become one instruction, which from Triton 3.10 on they do only if asked to.
LAUNCH = {"num_warps": 1, "enable_fp_fusion": True}


@dataclass(frozen=True)
class Order:
    """One or two routes over the same positions: the second, if any, is the first one reversed."""

    along: Route
    first_reversed: bool
    k_first: int
    k_second: int | None

    @property
    def routes(self) -> int:
        return 1 if self.k_second is None else 2

    @property
    def options(self) -> dict[str, bool | int]:
        """Compile-time arguments."""
        return {"FIRST_REVERSED": self.first_reversed, "ROUTES": self.routes}


def pair_routes(routes: Sequence[Route]) -> list[Order]:
    """Group routes that are each other's reverse; one kernel reads the map once for both."""
    orders: list[Order] = []
    for k, route in enumerate(routes):
        along = forwards(route)
        for i, order in enumerate(orders):
            if order.along == along and order.k_second is None and order.first_reversed != route.reverse:
                orders[i] = replace(order, k_second=k)
                break
        else:
            orders.append(Order(along, route.reverse, k, None))
    return orders


def forwards(route: Route) -> Route:
    """The order of positions that a route shares with its reverse."""
    return replace(route, reverse=False)


def order_tables(routes: Sequence[Route], x: Tensor) -> dict[Route, Tensor | None]:
    """The token at each position of every order, int32, filled up to whole chunks; None for that of memory.

    They are made anew for each call, which is a small launch: kept ones would outlive the memory pool of a CUDA graph,
    or be dropped under one.
    """
    _, h, w, _ = x.shape
    length = triton.cdiv(h * w, BLOCK_L) * BLOCK_L
    tables: dict[Route, Tensor | None] = {Route(): None}
    for order in {forwards(route): None for route in routes}:
        if order not in tables:
            table = tables[order] = x.new_empty(length, dtype=torch.int32)
            fill_order[(triton.cdiv(length, 256),)](
                table, h * w, h, w, order.window, length,
                COLUMN=order.column, WINDOWED=order.window > 0, BLOCK=256, **LAUNCH,
            )  # fmt: skip
    return tables


def extent(v: Tensor) -> int:
    """Elements from the first to the last of one image of (b, ...)."""
    return sum((n - 1) * s for n, s in zip(v.shape[1:], v.stride()[1:], strict=True))


@dataclass(frozen=True)
class _Scan:
    """The arguments of one call in the form that kernels take: maps as (b, l, ...), parameters in float32."""

    x: Tensor  # (b, l, d)
    z: Tensor  # (b, l, k, r), or (b, l, k, d) where there is no weight
    weight: Tensor | None  # (k, terms, r, d), r and d filled up to whole tiles: see `load_dts`
    bias: Tensor  # (k, d)
    A: Tensor  # (k, d, n)
    B: Tensor  # (b, l, k, n)
    C: Tensor  # (b, l, k, n)
    D: Tensor  # (k, d)
    routes: tuple[Route, ...]
    orders: dict[Route, Tensor | None]  # of `order_tables`
    zoh: bool
    softplus: bool
    precise: bool  # whether x or dt is float32
    config: Config

    @property
    def chunks(self) -> int:
        return triton.cdiv(self.x.shape[1], BLOCK_L)

    @property
    def segment_chunks(self) -> int:
        """Chunks of a segment. It follows from shapes alone, so that results do not depend on the device."""
        lanes = self.x.shape[0] * len(self.routes) * triton.cdiv(self.x.shape[2], self.config.block_d)
        segments = min(self.chunks, max(1, self.config.programs // lanes))
        return triton.cdiv(self.chunks, segments)

    @property
    def segments(self) -> int:
        return triton.cdiv(self.chunks, self.segment_chunks)

    @property
    def rank(self) -> int:
        """What the kernels are told of z and its weight: their inner size, 0 without a weight."""
        return 0 if self.weight is None else self.z.shape[-1]

    @property
    def weight_stride(self) -> int:
        """From one route to the next."""
        return 0 if self.weight is None else self.weight.stride(0)

    @property
    def wide(self) -> bool:
        """Whether an offset within one image may pass 2^31 elements."""
        maps = (self.x, self.z, self.B, self.C)
        return max(*map(extent, maps), self.x[0].numel() * len(self.routes)) >= 2**31

    @property
    def options(self) -> dict[str, bool | int]:
        """Compile-time arguments that all kernels have."""
        return {
            "ZOH": self.zoh,
            "RANK": 0 if self.weight is None else self.weight.shape[2],
            "SOFTPLUS": self.softplus,
            "PRECISE": self.precise,
            "WIDE": self.wide,
            "FULL": self.x.shape[-1] % self.config.block_d == 0,
            "BLOCK_L": BLOCK_L,
            "BLOCK_D": self.config.block_d,
            **LAUNCH,
        }


def kept_shape(b: int, h: int, w: int, d: int, n: int, routes: Sequence[Route]) -> tuple[int, ...]:
    """Shape of what `forward` keeps for `backward`: the state that enters each chunk."""
    return b, len(routes), (h * w + BLOCK_L - 1) // BLOCK_L, n, d


def forward(
    inputs: Inputs, routes: Sequence[Route], discretization: str, softplus: bool, config: Config | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """y (b, h, w, d) of x's dtype, the last state of each route (b, k, d, n), and what `backward` wants kept."""
    y, last, kept = scan(prepare(inputs, routes, discretization, softplus, config))
    return y.view(inputs.x.shape), last.mT.contiguous(), kept


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

    The gradient of dt (b, l, k, d) is a map in memory, of x's dtype: its products with dt_low and dt_weight are
    matrix products over all tokens and all channels, and their accumulators would not fit beside the scan's.
    """
    s = prepare(inputs, routes, discretization, softplus, config)
    dy = dy.flatten(1, 2)
    dx, dz, *rest = scan_gradients(s, dy.contiguous() if extent(dy) >= 2**31 else dy, kept)
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
    """Maps flattened over tokens (a view wherever one row continues the one before) and float32 parameters."""
    x, dt_low, dt_weight, dt_bias, A, B, C, D = inputs
    precise = torch.float32 in (x.dtype, dt_low.dtype)
    config = config or config_for(x.device)
    if x.shape[3] % 2:  # one channel to a thread: with two, Triton lets another thread read than the one that wrote
        config = replace(config, block_d=32)
    return _Scan(
        x=x.flatten(1, 2),
        z=dt_low.flatten(1, 2),
        weight=None if dt_weight is None else weight_tiles(dt_weight, torch.float32 if precise else dt_low.dtype),
        bias=dt_bias.float().contiguous(),
        A=A.float().contiguous(),
        B=B.flatten(1, 2),
        C=C.flatten(1, 2),
        D=D.float().contiguous(),
        routes=tuple(routes),
        orders=order_tables(routes, x),
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
    weight = weight.float()
    deep = (DEEP_PRECISE if dtype == torch.float32 else DEEP_HALF).value
    rank, width = triton.cdiv(r, deep) * deep, triton.cdiv(d, WIDTH.value) * WIDTH.value
    high = weight.to(dtype)
    terms = [high] if dtype == torch.float32 else [high, (weight - high.float()).to(dtype)]
    tiles = weight.new_zeros((k, len(terms), rank, width), dtype=dtype)
    tiles[:, :, :r, :d] = torch.stack([term.mT for term in terms], dim=1)
    return tiles


def scan(s: _Scan) -> tuple[Tensor, Tensor, Tensor]:
    """y (b, l, d) of x's dtype, the last state of each route (b, k, n, d), and those that enter the chunks."""
    b, l, d = s.x.shape
    k, n = len(s.routes), s.A.shape[-1]
    chunk_h, chunk_s, segment_h, last = enter_chunks(s, u=s.x, v=s.B, adjoint=False)
    orders = pair_routes(s.routes)
    y = s.x.new_empty(b, l, d)
    merged = y if len(orders) == 1 else s.x.new_empty((b, l, d), dtype=torch.float32)
    for i, order in enumerate(orders):
        chunk_outputs[(triton.cdiv(d, s.config.block_d) * s.chunks * b,)](
            s.x, s.orders[order.along], s.z, s.weight, s.bias, s.A, s.B, s.C, s.D,
            merged, y if order is orders[-1] else merged, chunk_h, chunk_s, segment_h,
            *s.x.stride(), *s.z.stride(), *s.B.stride(), *s.C.stride(),
            l, d, s.rank, s.weight_stride, n, k, s.chunks, s.segments, s.segment_chunks,
            order.k_first, order.k_first if order.k_second is None else order.k_second,
            ACCUMULATE=i > 0, **order.options, **s.options,
        )  # fmt: skip
    return y, last, chunk_h


def enter_chunks(s: _Scan, *, u: Tensor, v: Tensor, adjoint: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """chunk_h, chunk_s, segment_h of `chunk_states`, the segments' carried; and the last state of every route.

    Args:
        u, v: x and B, or dy and C for the adjoint.
    """
    b, l, d = s.x.shape
    k, n = len(s.routes), s.A.shape[-1]
    chunk_h, chunk_s, segment_h, segment_s, last = (
        s.x.new_empty(shape, dtype=torch.float32)
        for shape in ((b, k, s.chunks, n, d), (b, k, s.chunks, d), (b, k, s.segments, n, d), (b, k, s.segments, d),
                      (b, k, n, d))
    )  # fmt: skip
    blocks_d = triton.cdiv(d, s.config.block_d)
    for i, route in enumerate(s.routes):
        chunk_states[(blocks_d * s.segments * b,)](
            u, s.orders[forwards(route)], s.z, s.weight, s.bias, s.A, v, chunk_h, chunk_s, segment_h, segment_s,
            *u.stride(), *s.z.stride(), *v.stride(),
            l, d, s.rank, s.weight_stride, n, k, s.chunks, s.segments, s.segment_chunks, i,
            STEP=-1 if route.reverse != adjoint else 1, ADJOINT=adjoint, **s.options,
        )  # fmt: skip
    carry_states[(blocks_d * n * k * b,)](
        segment_h, segment_s, s.A, last, d, n, k, s.segments, BLOCK_D=s.config.block_d, **LAUNCH
    )
    return chunk_h, chunk_s, segment_h, last


def scan_gradients(s: _Scan, dy: Tensor, kept: Tensor) -> tuple[Tensor, ...]:
    """Gradients of x, z (before bias and softplus), dt_bias, A, B, C, D: dx and dz of x's dtype, the others float32.

    Args:
        dy: (b, l, d).
        kept: the state that enters each chunk, from `scan`.
    """
    b, l, d = s.x.shape
    k, n, part = len(s.routes), s.A.shape[-1], PART[s.zoh]
    chunk_g, chunk_s, segment_g, _ = enter_chunks(s, u=dy, v=s.C, adjoint=True)
    blocks_d = triton.cdiv(d, s.config.block_d)

    def empty(*shape: int) -> Tensor:
        return s.x.new_empty(shape, dtype=torch.float32)

    dx, dz = s.x.new_empty(b, l, d), s.x.new_empty(b, l, k, d)
    merged = dx if k == 1 else empty(b, l, d)
    dbias, dA, dD = empty(b, s.segments, k, d), empty(b, s.segments, k, n, d), empty(b, s.segments, d)
    part_h = empty(b, s.segments, BLOCK_L // part, n, d)
    dBC = empty(2, blocks_d, b, l, k, n)
    for i, route in enumerate(s.routes):
        chunk_gradients[(blocks_d * s.segments * b,)](
            dy, s.x, s.orders[forwards(route)], s.z, s.weight, s.bias, s.A, s.B, s.C, s.D, merged,
            kept, chunk_g, chunk_s, segment_g, part_h,
            dx, dz, dbias, dA, dBC, dD,
            *dy.stride(), *s.x.stride(), *s.z.stride(), *s.B.stride(), *s.C.stride(),
            b, l, d, s.rank, s.weight_stride, n, k, s.chunks, s.segments, s.segment_chunks,
            i, STEP=-1 if route.reverse else 1, ACCUMULATE=i > 0, LAST=i == k - 1, PART=part, **s.options,
        )  # fmt: skip
    return (
        dx,
        dz,
        dbias.sum((0, 1)),
        dA.sum((0, 1)).transpose(1, 2),
        dBC[0].sum(0),
        dBC[1].sum(0),
        dD.sum((0, 1)).expand(k, d),
    )
