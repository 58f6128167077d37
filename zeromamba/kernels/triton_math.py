"""What every kernel of the scan shares: the step size dt, the discretisation, and the address of a token.

All of it is written for one [d] vector of channels at one token (tensors are `(BLOCK_D,)`, a channel or
two to a thread), so nothing here moves data between threads.

The logarithm of softplus is a polynomial, not `log2`: with e = exp(-|z|) in (0, 1],

    softplus(z) = max(z, 0) + log1p(e),    log1p(e) = e P(e),    P of degree 8 (float32) or 5 (half precision).

It is right relative to dt however small dt is, where log(1 + e) would round e away (at z = -10 by 1e-3, and
typical models start with dt near 1e-3) and `lg2.approx` is right only to 2^-22 absolutely. It costs one
multiply-add per degree and no special function: two of those are left an element, against three. The
polynomials minimise the relative error over their interval (Lawson's reweighted least squares in float64); the
tests hold them to the errors stated beside them.
"""

import os

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
SMALL = tl.constexpr(0.5)  # below this |dt A|, expm1(dt A) is a polynomial: exp(dt A) - 1 would cancel
BLOCK_L = 16  # tokens of a chunk: the least tile of a tensor core, and what a thread holds of each channel
WIDTH = tl.constexpr(64)  # dt's weight is filled up to a multiple of so many channels, whatever the block
# Triton's interpreter, whose tl.dot takes bfloat16 for integers, and which cannot broadcast a mask of one element.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
LEVELS = tl.constexpr(4)  # halvings of a chunk down to a token


@triton.jit
def log1p_unit(e, PRECISE: tl.constexpr):
    """log(1 + e) for e in [0, 1], to a relative error of 3e-8 (PRECISE) or 8.4e-6, before rounding."""
    if PRECISE:
        p = 0.00523262935 * e - 0.0295049869
        p = p * e + 0.0782255577
        p = p * e - 0.13663214
        p = p * e + 0.191059928
        p = p * e - 0.24842979
        p = p * e + 0.333190965
        p = p * e - 0.499994931
        p = p * e + 0.99999997
    else:
        p = -0.0238688788 * e + 0.101221636
        p = p * e - 0.210048162
        p = p * e + 0.325206514
        p = p * e - 0.49936135
        p = p * e + 0.999991598
    return p * e


@triton.jit
def softplus(z, PRECISE: tl.constexpr):
    """log(1 + exp(z))."""
    return tl.maximum(z, 0.0) + log1p_unit(tl.exp2(tl.abs(z) * -LOG2E), PRECISE)


@triton.jit
def phi(q):
    """expm1(q) / q for q in [-0.5, 0], relative error 1.4e-9 before rounding."""
    p = 0.00112163469 * q + 0.0081873858
    p = p * q + 0.0416290891
    p = p * q + 0.166662241
    p = p * q + 0.499999807
    return p * q + 0.999999999


@triton.jit
def phi_slope(q):
    """d/dq of expm1(q) / q for q in [-0.5, 0], relative error 2.5e-9 before rounding."""
    p = 0.000956307833 * q + 0.00681611176
    p = p * q + 0.0333001256
    p = p * q + 0.124996063
    p = p * q + 0.33333316
    return p * q + 0.499999999


@triton.jit
def decay(dt, a):
    """Abar = exp(dt A)."""
    return tl.exp2(dt * (a * LOG2E))


@triton.jit
def reciprocal(a):
    """1 / A, for the branch of `gain` that A = 0 never takes."""
    return 1.0 / tl.where(a < 0.0, a, -1.0)


@triton.jit
def gain(dt, a, inverse_a, abar, ZOH: tl.constexpr):
    """w = Bbar / B: expm1(dt A) / A under ZOH (dt in the limit A -> 0), or dt."""
    if ZOH:
        q = dt * a
        return tl.where(q > -SMALL, dt * phi(q), (abar - 1.0) * inverse_a)
    else:
        return dt


@triton.jit
def gain_slope_a(dt, a, inverse_a, abar, w, ZOH: tl.constexpr):
    """dw / dA: (dt exp(dt A) - w) / A under ZOH (dt^2 / 2 in the limit), or 0."""
    if ZOH:
        q = dt * a
        return tl.where(q > -SMALL, dt * dt * phi_slope(q), (dt * abar - w) * inverse_a)
    else:
        return tl.zeros_like(dt)


@triton.jit
def softplus_slope(dt):
    """d softplus(z) / dz = 1 - exp(-softplus(z)), without cancellation for small dt."""
    return tl.where(dt < SMALL, dt * phi(-dt), 1.0 - tl.exp2(dt * -LOG2E))


@triton.jit
def channels_if(inside, offs_d, d, FULL: tl.constexpr):
    """Mask of the channels of a token, none if it is not inside the map; a scalar if the blocks of d are FULL."""
    if FULL and not INTERPRETED:
        return inside
    else:
        return offs_d < tl.where(inside, d, 0)


@triton.jit
def token_at(p, h, w, window, COLUMN: tl.constexpr, WINDOWED: tl.constexpr):
    """The token (row-major index) at position p of an order; a column order is a row order of the transposed map."""
    if COLUMN:
        rows, cols = w, h
    else:
        rows, cols = h, w
    if WINDOWED:
        top = p // (window * cols) * window  # the band of windows, and its height at the border
        height = tl.maximum(tl.minimum(window, rows - top), 1)  # 1 beyond the map, where nothing is read
        q = p - top * cols
        left = q // (height * window) * window
        width = tl.maximum(tl.minimum(window, cols - left), 1)
        q -= left * height
        row = top + q // width
        col = left + q % width
    else:
        row = p // cols
        col = p % cols
    if COLUMN:
        return col * w + row
    elif WINDOWED:
        return row * w + col
    else:
        return p


@triton.jit
def chunk_tokens(
    first, h, w, window, STEP: tl.constexpr, COLUMN: tl.constexpr, WINDOWED: tl.constexpr, WIDE: tl.constexpr,
    L: tl.constexpr,
):  # fmt: skip
    """The tokens at the positions first, first + STEP, ... of an order: that at first, int64, and L steps from it.

    Steps are constants where the order is that of memory, so that they cost no instruction; int64 if WIDE.
    """
    origin = token_at(first, h, w, window, COLUMN, WINDOWED)
    steps = ()
    if WINDOWED:
        for t in tl.static_range(L):
            token = token_at(first + t * STEP, h, w, window, COLUMN, WINDOWED)
            steps = steps + (_widened(token - origin, WIDE),)
    elif COLUMN:  # one division a chunk, not one a token
        row = first % h
        step = origin * 0
        for _ in tl.static_range(L):
            steps = steps + (_widened(step, WIDE),)
            row += STEP
            if STEP > 0:
                step = tl.where(row == h, step + (1 - (h - 1) * w), step + w)
                row = tl.where(row == h, 0, row)
            else:
                step = tl.where(row < 0, step - (1 - (h - 1) * w), step - w)
                row = tl.where(row < 0, h - 1, row)
    else:
        for t in tl.static_range(L):
            steps = steps + (t * STEP,)
    return origin.to(tl.int64), steps


@triton.jit
def _widened(token, WIDE: tl.constexpr):
    if WIDE:
        return token.to(tl.int64)
    else:
        return token


@triton.jit
def in_time(values, REVERSED: tl.constexpr, L: tl.constexpr):
    """A tuple of the L positions of a chunk in the order in which a route meets them, and back again."""
    if REVERSED:
        out = ()
        for i in tl.static_range(L):
            out = (values[i],) + out
        return out
    else:
        return values


@triton.jit
def rows(tile, L: tl.constexpr, D: tl.constexpr):
    """A tile (L, D) as a tuple of its L rows (D,).

    Halving along L, which Triton lays out within a thread, only renames registers: after one passage of the tile
    through shared memory each thread holds all L tokens of its channels.
    """
    parts = (tl.trans(tile),)  # (D, L); after m halvings part i holds the rows that leave i when divided by 2^m
    for level in tl.static_range(LEVELS):
        even = ()
        odd = ()
        for i in tl.static_range(1 << level):
            e, o = tl.split(tl.reshape(parts[i], (D, L >> (level + 1), 2)))
            even = even + (e,)
            odd = odd + (o,)
        parts = even + odd
    out = ()
    for i in tl.static_range(L):
        out = out + (tl.reshape(parts[i], (D,)),)
    return out


@triton.jit
def load_dts(
    z_ptr, w_ptr, w_start, bias, first, origin, steps, h, w, window, l, d, rank, offs_d, z_stride_l, z_stride_c,
    STEP: tl.constexpr, COLUMN: tl.constexpr, WINDOWED: tl.constexpr, WIDE: tl.constexpr, RANK: tl.constexpr,
    SOFTPLUS: tl.constexpr, PRECISE: tl.constexpr, FULL: tl.constexpr, L: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """dt at the positions first, first + STEP, ... of a route, L tensors (D,); 0 beyond the map: Abar = 1, Bbar = 0.

    softplus(z + bias) if SOFTPLUS, else z + bias. z is read, (l, d), if RANK = 0; else it is the low-rank
    z_ptr (l, rank) times what is at w_start of w_ptr, a tensor-core product of a tile. That is (terms, RANK,
    blocks of d), filled up with zeros: one float32 term if PRECISE, else two of z's dtype, whose sum has 16 bits
    or more of it.
    """
    if RANK:
        offs_l = first + STEP * tl.arange(0, L)
        token = _widened(token_at(offs_l, h, w, window, COLUMN, WINDOWED), WIDE)
        z_ptrs = z_ptr + token[:, None] * z_stride_l
        width = tl.cdiv(d, WIDTH) * WIDTH
        z = tl.zeros((L, D), tl.float32)
        for r in tl.range(0, RANK, 16, num_stages=1):  # a loop, so that 16 rows of the weight are held and not all
            offs_r = r + tl.arange(0, 16)
            mask = (offs_l < l)[:, None] & (offs_r < rank)[None, :]
            low = tl.load(z_ptrs + offs_r[None, :] * z_stride_c, mask=mask, other=0.0)  # (L, 16)
            w_ptrs = w_ptr + w_start + offs_r[:, None] * width + offs_d[None, :]  # (16, D)
            if PRECISE:
                z = tl.dot(low.to(tl.float32), tl.load(w_ptrs), z, input_precision="tf32x3")
            elif INTERPRETED:  # the same products and sums
                w = tl.load(w_ptrs + RANK * width).to(tl.float32) + tl.load(w_ptrs).to(tl.float32)
                z = tl.dot(low.to(tl.float32), w, z)
            else:
                z = tl.dot(low, tl.load(w_ptrs + RANK * width), z)
                z = tl.dot(low, tl.load(w_ptrs), z)
        zs = rows(z, L, D)
    else:
        zs = ()
        for t in tl.static_range(L):
            mask = channels_if(first + t * STEP < l, offs_d, d, FULL)
            z = tl.load(z_ptr + origin * z_stride_l + steps[t] * z_stride_l + offs_d * z_stride_c, mask=mask, other=0.0)
            zs = zs + (z.to(tl.float32),)
    dts = ()
    for t in tl.static_range(L):
        dt = zs[t] + bias
        if SOFTPLUS:
            dt = softplus(dt, PRECISE)
        dts = dts + (tl.where(first + t * STEP < l, dt, 0.0),)
    return dts
