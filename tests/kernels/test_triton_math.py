"""What the kernels are made of, one by one: polynomials to the error they state, moves of data, tables of a call."""

import pytest
import torch
import triton
import triton.language as tl
from scans import DEVICE, UNIT

from zeromamba.kernels import Route
from zeromamba.kernels.triton_math import (
    channel_sums,
    decay,
    gain,
    gain_slope_a,
    log1p_unit,
    phi,
    phi_slope,
    rows,
    scalars,
    softplus_slope,
)
from zeromamba.kernels.triton_ss2d import LAUNCH, order_table, weight_tiles

POINTS = 4096


@triton.jit
def polynomials(at_ptr, out_ptr, NAME: tl.constexpr, PRECISE: tl.constexpr, N: tl.constexpr):
    offsets = tl.arange(0, N)
    at = tl.load(at_ptr + offsets)
    if NAME == "log1p":
        value = log1p_unit(at, PRECISE)
    elif NAME == "phi":
        value = phi(at, PRECISE)
    else:
        value = phi_slope(at, PRECISE)
    tl.store(out_ptr + offsets, value)


def phi64(q):
    return torch.where(q == 0, 1.0, torch.expm1(q) / q)


def phi_slope64(q):
    """(e^q - phi) / q where it does not cancel, and its series elsewhere: 2^-12 to the sixth is no longer seen."""
    series = 1 / 2 + q / 3 + q**2 / 8 + q**3 / 30 + q**4 / 144 + q**5 / 840
    return torch.where(q.abs() < 2**-6, series, (q.exp() - phi64(q)) / q)


# the interval, the truth, and the relative errors stated beside the polynomials: of float32 and of half precision
STATED = {
    "log1p": ((0.0, 1.0), (0.0, 1.0), torch.log1p, 3e-8, 8.4e-6),
    "phi": ((-0.5, 0.5), (-0.0625, 0.0625), phi64, 4e-9, 2.6e-6),
    "slope": ((-0.5, 0.5), (-0.0625, 0.0625), phi_slope64, 6e-9, 4.1e-6),
}


@pytest.mark.parametrize("precise", [True, False])
@pytest.mark.parametrize("name", STATED)
def test_a_polynomial_is_right_to_the_error_it_states(name, precise):
    full, half, truth, stated_full, stated_half = STATED[name]
    at = torch.linspace(*(full if precise else half), POINTS, device=DEVICE)
    value = torch.full_like(at, float("nan"))
    polynomials[(1,)](at, value, NAME=name, PRECISE=precise, N=POINTS, **LAUNCH)
    exact = truth(at.double())
    # a step of Horner's rule rounds twice, and what it rounds is no more than the result, since |at| <= 1
    roundings = 2 * (9 if precise else 6) * UNIT[torch.float32]
    error = (value.double() - exact).abs()
    assert (error <= (stated_full if precise else stated_half) * exact + roundings * exact).all()


@triton.jit
def moves(tile_ptr, rows_ptr, scalars_ptr, sums_ptr, L: tl.constexpr, D: tl.constexpr):
    offs_l = tl.arange(0, L)
    offs_d = tl.arange(0, D)
    tile = tl.load(tile_ptr + offs_l[:, None] * D + offs_d[None, :])
    own = rows(tile, L, D)
    numbers = scalars(offs_l, L)
    for t in tl.static_range(L):
        tl.store(rows_ptr + t * D + offs_d, own[t])
        tl.store(scalars_ptr + t, numbers[t])
    tl.store(sums_ptr + offs_l, channel_sums(own, L, D))


@pytest.mark.parametrize("d", [32, 64])
@pytest.mark.parametrize("l", [4, 8, 16])
def test_tiles_come_apart_into_rows_and_together_into_sums(l, d):
    tile = torch.randint(-8, 8, (l, d), device=DEVICE).float()  # sums of small integers are exact
    own, sums = torch.full_like(tile, float("nan")), torch.full((l,), float("nan"), device=DEVICE)
    numbers = torch.full((l,), -1, dtype=torch.int32, device=DEVICE)
    moves[(1,)](tile, own, numbers, sums, L=l, D=d, **LAUNCH)
    assert torch.equal(own, tile)
    assert torch.equal(numbers.cpu(), torch.arange(l, dtype=torch.int32))
    assert torch.equal(sums, tile.sum(1))


@pytest.mark.parametrize("window", [0, 3, 2**30])
@pytest.mark.parametrize("column", [False, True])
def test_a_table_holds_the_tokens_of_its_order(column, window):
    h, w = 8, 5
    route = Route(column=column, window=window)
    table = order_table(route, torch.empty(1, h, w, 1, device=DEVICE))
    if route == Route():
        assert table is None  # the order of memory
    else:
        assert torch.equal(table[: h * w].cpu().long(), route.tokens(h, w))
        assert table[h * w :].tolist() == [0] * (48 - h * w)  # what is read beyond the map is a token of it


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("d", "r"), [(70, 3), (64, 17)])
def test_tiles_of_a_weight_add_up_to_it_and_are_0_beyond_it(d, r, dtype):
    weight = torch.randn(2, r, d, device=DEVICE).mT  # of any strides
    tiles = weight_tiles(weight, dtype)
    assert tiles.dtype == dtype
    assert tiles.shape[3] % 64 == 0
    total = tiles.float().sum(1).mT
    # the first term is right to its unit at least, the second to that of what is left, or of the smallest number
    error = (total[:, :d, :r] - weight).abs()
    rounding = 0.0 if dtype == torch.float32 else (2 * UNIT[dtype]) ** 2
    assert (error <= rounding * weight.abs() + torch.finfo(dtype).smallest_normal * UNIT[dtype]).all()
    assert total.count_nonzero() == weight.count_nonzero()


@triton.jit
def chosen(dt_ptr, gain_ptr, slope_ptr, softplus_ptr, PRECISE: tl.constexpr, N: tl.constexpr):
    """What is a polynomial below a threshold and a quotient above it, where A = -1."""
    offsets = tl.arange(0, N)
    dt = tl.load(dt_ptr + offsets)
    a = tl.full((N,), -1.0, tl.float32)
    abar = decay(dt, a)
    w = gain(dt, a, abar, True, PRECISE)
    tl.store(gain_ptr + offsets, w)
    tl.store(slope_ptr + offsets, gain_slope_a(dt, a, abar, w, PRECISE))
    tl.store(softplus_ptr + offsets, softplus_slope(dt, PRECISE))


@pytest.mark.parametrize(("precise", "limits"), [(True, (1e-6, 4e-6, 1e-6)), (False, (1e-5, 1e-4, 1e-5))])
def test_neither_side_of_a_threshold_cancels(precise, limits):
    dt = torch.linspace(-12, 2, POINTS, device=DEVICE).exp2()
    values = [torch.full_like(dt, float("nan")) for _ in limits]
    chosen[(1,)](dt, *values, PRECISE=precise, N=POINTS, **LAUNCH)
    q = -dt.double()
    truths = (phi64(q) * -q, phi_slope64(q) * q**2, -torch.expm1(q))
    for value, truth, limit in zip(values, truths, limits, strict=True):
        assert ((value.double() - truth).abs() <= limit * truth).all()
