"""What every kernel of the scan shares: the step size dt, the discretisation, and how tokens are read.

Almost all of it is written for the channels of one token (tensors are `(BLOCK_D,)`, one or two channels to a thread),
L tokens being a tuple: no data moves between threads but in `rows` and `channel_sums`.

The logarithm of softplus is a polynomial, not `log2`: with e = exp(-|z|) in (0, 1],

    softplus(z) = max(z, 0) + log1p(e),    log1p(e) = e P(e),    P of degree 8 (float32) or 5 (half precision).

It is accurate relative to dt however small dt is, where log(1 + e) would round e away (at z = -10 by 1e-3, and
typical models start with dt near 1e-3) and `lg2.approx` is accurate only to 2^-22 absolutely. It costs one
multiply-add per degree and no special function: of those, two an element remain instead of three. The
polynomials minimise the relative error over their interval (Lawson's reweighted least squares in float64); the
tests hold them to the errors stated beside them.
"""

import os

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
# Below this |dt A|, expm1(dt A) is a polynomial (exp(dt A) - 1 would cancel), to 1e-7 (PRECISE) or 4e-6 of itself.
SMALL = tl.constexpr(0.5)
SMALL_HALF = tl.constexpr(0.0625)
BLOCK_L = 16  # tokens of a chunk: the least tile of a tensor core, and what a thread holds of each channel
WIDTH = tl.constexpr(64)  # dt's weight is filled up to a multiple of so many channels, which every block divides
# And to a multiple of so many ranks: the fewest that Triton multiplies on tensor cores, so that no more rows of it are
# held at once. In float32 that was 16 before Triton 3.8, and registers spill.
DEEP_HALF = tl.constexpr(16)
DEEP_PRECISE = tl.constexpr(8 if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 8) else 16)
# Triton's interpreter, whose tl.dot takes bfloat16 for integers, and which cannot broadcast a mask of one element.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
LEVELS = tl.constexpr(BLOCK_L.bit_length() - 1)  # halvings of a chunk down to a token


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
def is_small(q, PRECISE: tl.constexpr):
    """Whether q lies where `phi` and `phi_slope` are right."""
    return tl.abs(q) < (SMALL if PRECISE else SMALL_HALF)


@triton.jit
def phi(q, PRECISE: tl.constexpr):
    """expm1(q) / q for |q| <= 1/2, relative error 4e-9 before rounding (PRECISE), or for |q| <= 1/16, 2.6e-6."""
    if PRECISE:
        p = 0.000198411878 * q + 0.00139973244
        p = p * q + 0.00833363465
        p = p * q + 0.0416653182
        p = p * q + 0.166666629
        p = p * q + 0.500000042
        p = p * q + 1.0
    else:
        p = 0.166666666 * q + 0.500122068
        p = p * q + 1.00000005
    return p


@triton.jit
def phi_slope(q, PRECISE: tl.constexpr):
    """The derivative of expm1(q) / q, in the same intervals: relative error 6e-9 (PRECISE) or 4.1e-6."""
    if PRECISE:
        p = 0.000173169738 * q + 0.00120008802
        p = p * q + 0.00694487995
        p = p * q + 0.0333321432
        p = p * q + 0.124999951
        p = p * q + 0.33333337
        p = p * q + 0.500000001
    else:
        p = 0.124990506 * q + 0.333430979
        p = p * q + 0.500000058
    return p


@triton.jit
def decay(dt, a):
    """Abar = exp(dt A)."""
    return tl.exp2(dt * (a * LOG2E))


@triton.jit
def reciprocal(a):
    """1 / A, for the branch of `gain` that A = 0 never takes."""
    return 1.0 / tl.where(a != 0.0, a, 1.0)


@triton.jit
def gain(dt, a, abar, ZOH: tl.constexpr, PRECISE: tl.constexpr):
    """w = Bbar / B: expm1(dt A) / A under ZOH (dt in the limit A -> 0), or dt."""
    if ZOH:
        q = dt * a
        return tl.where(is_small(q, PRECISE), dt * phi(q, PRECISE), (abar - 1.0) * reciprocal(a))
    else:
        return dt


@triton.jit
def advance(state, dt, a, x, b, ZOH: tl.constexpr, PRECISE: tl.constexpr):
    """h_t = exp(dt A) h_{t-1} + w B x."""
    abar = decay(dt, a)
    return abar * state + gain(dt, a, abar, ZOH, PRECISE) * x.to(tl.float32) * b


@triton.jit
def gain_slope_a(dt, a, abar, w, PRECISE: tl.constexpr):
    """dw / dA under ZOH: (dt exp(dt A) - w) / A, dt^2 / 2 in the limit A -> 0."""
    q = dt * a
    return tl.where(is_small(q, PRECISE), dt * dt * phi_slope(q, PRECISE), (dt * abar - w) * reciprocal(a))


@triton.jit
def softplus_slope(dt, PRECISE: tl.constexpr):
    """d softplus(z) / dz = 1 - exp(-softplus(z)), without cancellation for small dt."""
    return tl.where(is_small(dt, PRECISE), dt * phi(-dt, PRECISE), 1.0 - tl.exp2(dt * -LOG2E))


@triton.jit
def channels_if(inside, offs_d, d, FULL: tl.constexpr):
    """Mask of the channels of a token, none if it is not inside the map; a scalar if the blocks of d are FULL."""
    if FULL and not INTERPRETED:
        return inside
    else:
        return offs_d < tl.where(inside, d, 0)


@triton.jit
def widened(index, WIDE: tl.constexpr):
    """An index, of int64 if WIDE: its products with strides may pass 2^31."""
    if WIDE:
        return index + tl.full((), 0, tl.int64)  # the interpreter counts a loop in Python's integers
    else:
        return index


@triton.jit
def part_of(ptr, i, stride, EVEN: tl.constexpr):
    """Where image, or route, i of a map begins: if EVEN so many elements on that a thread may read two at once."""
    offset = i * stride
    if EVEN:
        offset = tl.multiple_of(offset, 2)
    return ptr + offset


@triton.jit
def chunk_tokens(order_ptr, first, SKIP: tl.constexpr, STEP: tl.constexpr, WIDE: tl.constexpr, L: tl.constexpr):
    """Tokens of an order, from the position first on in steps of STEP, after SKIP: an int64 origin, L steps from it.

    order_ptr holds the token at each position of the order, or is None where the order is that of memory: then the
    steps are constants, and cost no instruction. They are int64 if WIDE.
    """
    if order_ptr is None:
        origin = first.to(tl.int64)
        steps = ()
        for t in tl.static_range(L):
            steps = steps + ((SKIP + t) * STEP,)
    else:
        origin = tl.full((), 0, tl.int64)
        lowest = tl.multiple_of(first + SKIP if STEP > 0 else first - (SKIP + L - 1), L)
        tokens = tl.load(order_ptr + lowest + tl.arange(0, L))
        steps = in_time(scalars(widened(tokens, WIDE), L), STEP < 0, L)
    return origin, steps


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
        if L >> level > 1:
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
def scalars(vector, L: tl.constexpr):
    """A vector (L,) as a tuple of its elements."""
    column = rows(tl.reshape(vector, (L, 1)), L, 1)
    out = ()
    for i in tl.static_range(L):
        out = out + (tl.sum(column[i], 0),)  # of one element
    return out


@triton.jit
def channel_sums(values, L: tl.constexpr, D: tl.constexpr):
    """The sum over channels of each of L tensors (D,): (L,).

    L reductions would take five shuffles each. After one passage of all of them through shared memory a thread
    holds 16 channels of one of the L, and adds those by itself.
    """
    parts = values
    for level in tl.static_range(LEVELS):
        if L >> level > 1:
            joined = ()
            for i in tl.static_range(L >> (level + 1)):
                pair = tl.join(parts[i], parts[(L >> (level + 1)) + i])
                joined = joined + (tl.reshape(pair, (D, 2 << level)),)
            parts = joined
    parts = (tl.trans(parts[0]),)
    for level in tl.static_range(4):
        halves = ()
        for i in tl.static_range(1 << level):
            e, o = tl.split(tl.reshape(parts[i], (L, D >> (level + 1), 2)))
            halves = halves + (e, o)
        parts = halves
    total = parts[0]
    for i in tl.static_range(1, 16):
        total += parts[i]
    return tl.sum(total, 1)


@triton.jit
def load_rows(
    ptr, stride_l: tl.constexpr, steps, first, l, offs_d, d, STEP: tl.constexpr, FULL: tl.constexpr, L: tl.constexpr
):  # fmt: skip
    """The channels (D,) of the L tokens that lie steps from ptr, at positions first, first + STEP, ...; 0 beyond l."""
    out = ()
    for t in tl.static_range(L):
        mask = channels_if(first + t * STEP < l, offs_d, d, FULL)
        out = out + (tl.load(ptr + steps[t] * stride_l, mask=mask, other=0.0),)
    return out


@triton.jit
def load_scalars(ptr, stride_l: tl.constexpr, steps, first, l, STEP: tl.constexpr, L: tl.constexpr):
    """The same of one number a token, in float32."""
    out = ()
    for t in tl.static_range(L):
        value = tl.load(ptr + steps[t] * stride_l, mask=first + t * STEP < l, other=0.0)
        out = out + (value.to(tl.float32),)
    return out


@triton.jit
def load_dts(
    z_ptr, w_ptr, k, bias_ptr, order_ptr, first, origin, steps, l, d, rank, offs_d, z_stride_l, z_stride_c,
    STEP: tl.constexpr, WIDE: tl.constexpr, RANK: tl.constexpr,
    SOFTPLUS: tl.constexpr, PRECISE: tl.constexpr, FULL: tl.constexpr, L: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """dt at the positions first, first + STEP, ... of a route, L tensors (D,); 0 beyond the map: Abar = 1, Bbar = 0.

    softplus(z + bias) if SOFTPLUS, else z + bias. z is read, (l, d), if RANK = 0; else it is the low-rank
    z_ptr (l, rank) times the weight of route k, a tensor-core product of a tile. w_ptr is (routes, terms, RANK,
    width), filled up with zeros: one float32 term if PRECISE, else two of z's dtype, whose sum has 16 bits or more
    of the weight. The biases (routes, d) are read when they are added, and again for each chunk, rather than held.
    """
    if RANK:
        # in the order of memory, whichever way the route goes: then all rows lie constants from the first
        lowest = first if STEP > 0 else first - (L - 1)
        offs_l = tl.arange(0, L)
        if order_ptr is None:
            z_ptr += lowest.to(tl.int64) * z_stride_l
            at = widened(offs_l, WIDE)[:, None] * z_stride_l
        else:
            at = widened(tl.load(order_ptr + lowest + offs_l), WIDE)[:, None] * z_stride_l
        width = tl.cdiv(d, WIDTH) * WIDTH
        w_ptr += k * ((1 if PRECISE else 2) * RANK * width)
        z = tl.zeros((L, D), tl.float32)
        DEEP: tl.constexpr = DEEP_PRECISE if PRECISE else DEEP_HALF
        # unrolled but in float32, whose products take so many registers that they would spill
        UNROLLED: tl.constexpr = 1 if PRECISE else RANK // DEEP
        for r in tl.range(0, RANK, DEEP, num_stages=1, loop_unroll_factor=UNROLLED):
            offs_r = widened(r + tl.arange(0, DEEP), WIDE)
            mask = (lowest + offs_l < l)[:, None] & (offs_r < rank)[None, :]
            low = tl.load(z_ptr + (at + offs_r[None, :] * z_stride_c), mask=mask, other=0.0)  # (L, DEEP)
            w_ptrs = w_ptr + offs_r[:, None] * width + offs_d[None, :]  # (DEEP, D)
            if PRECISE:
                z = tl.dot(low.to(tl.float32), tl.load(w_ptrs), z, input_precision="tf32x3")
            elif INTERPRETED:  # the same products and sums
                w = tl.load(w_ptrs + RANK * width).to(tl.float32) + tl.load(w_ptrs).to(tl.float32)
                z = tl.dot(low.to(tl.float32), w, z)
            else:
                z = tl.dot(low, tl.load(w_ptrs + RANK * width), z)
                z = tl.dot(low, tl.load(w_ptrs), z)
        zs = in_time(rows(z, L, D), STEP < 0, L)
    else:
        z_ptrs = z_ptr + origin * z_stride_l + offs_d * z_stride_c
        zs = load_rows(z_ptrs, z_stride_l, steps, first, l, offs_d, d, STEP, FULL, L)
    bias = tl.load(bias_ptr + k * d + offs_d, mask=offs_d < d, other=0.0)
    dts = ()
    for t in tl.static_range(L):
        dt = zs[t].to(tl.float32) + bias
        if SOFTPLUS:
            dt = softplus(dt, PRECISE)
        dts = dts + (tl.where(first + t * STEP < l, dt, 0.0),)
    return dts
