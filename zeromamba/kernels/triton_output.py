"""Second half of the forward: the outputs of one chunk of tokens, merged over the two directions of an order."""

import triton
import triton.language as tl

from zeromamba.kernels.triton_math import (
    advance,
    channels_if,
    chunk_tokens,
    in_time,
    load_dts,
    load_rows,
    load_scalars,
    widened,
)
from zeromamba.kernels.triton_states import entering_state


@triton.jit(
    do_not_specialize=[
        "x_stride_b",
        "z_stride_b",
        "b_stride_b",
        "c_stride_b",
        "l",
        "chunks",
        "segments",
        "segment_chunks",
        "k_first",
        "k_second",
    ]
)
def chunk_outputs(
    x_ptr, order_ptr, z_ptr, w_ptr, bias_ptr, a_ptr, b_ptr, c_ptr, d_ptr, y_ptr, out_ptr,
    chunk_h_ptr, chunk_s_ptr, segment_h_ptr,
    x_stride_b, x_stride_l: tl.constexpr, x_stride_d,
    z_stride_b, z_stride_l: tl.constexpr, z_stride_k, z_stride_c,
    b_stride_b, b_stride_l: tl.constexpr, b_stride_k, b_stride_n,
    c_stride_b, c_stride_l: tl.constexpr, c_stride_k, c_stride_n,
    l, d: tl.constexpr, rank: tl.constexpr, w_stride_k: tl.constexpr,
    n_states: tl.constexpr, n_routes: tl.constexpr, chunks, segments, segment_chunks, k_first, k_second,
    FIRST_REVERSED: tl.constexpr, ROUTES: tl.constexpr,
    ACCUMULATE: tl.constexpr, ZOH: tl.constexpr, RANK: tl.constexpr, SOFTPLUS: tl.constexpr, PRECISE: tl.constexpr,
    WIDE: tl.constexpr, FULL: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """y of one chunk of an order; one program per (channels, chunk, image), for the route and its reverse.

    h_t = exp(dt_t A) h_{t-1} + Bbar_t x_t        y_t = C_t h_t + D x_t        from the state that enters the chunk

    The tokens of the chunk are read once, both directions run over them in registers, and their sum is written
    once: to out, added to y (b, l, d), what earlier orders gave in float32, if ACCUMULATE. The state that enters
    the chunk replaces the local one in chunk_h: the checkpoints of the backward.
    """
    pid = tl.program_id(0)
    blocks_d = tl.cdiv(d, BLOCK_D)
    offs_d = widened(pid % blocks_d * BLOCK_D + tl.arange(0, BLOCK_D), WIDE)
    mask_d = offs_d < d
    pid = pid // blocks_d
    chunk = pid % chunks
    b = (pid // chunks).to(tl.int64)
    x_ptr += b * x_stride_b
    y_ptr += b * l * d
    out_ptr += b * l * d

    first = chunk * BLOCK_L
    origin, steps = chunk_tokens(order_ptr, first, 0, 1, WIDE, BLOCK_L)
    x_ptrs = x_ptr + origin * x_stride_l + offs_d * x_stride_d
    xs = load_rows(x_ptrs, x_stride_l, steps, first, l, offs_d, d, 1, FULL, BLOCK_L)
    skip = tl.load(d_ptr + k_first * d + offs_d, mask=mask_d, other=0.0)
    if ROUTES == 2:
        skip += tl.load(d_ptr + k_second * d + offs_d, mask=mask_d, other=0.0)
    ys = ()
    for t in tl.static_range(BLOCK_L):
        ys = ys + (skip * xs[t].to(tl.float32),)

    for route in tl.static_range(ROUTES):
        k = (k_second if route == 1 else k_first).to(tl.int64)
        bk = b * n_routes + k
        bias = tl.load(bias_ptr + k * d + offs_d, mask=mask_d, other=0.0)
        dts = load_dts(
            z_ptr + b * z_stride_b + k * z_stride_k, w_ptr, k * w_stride_k, bias, order_ptr, first, origin, steps,
            l, d, rank, offs_d, z_stride_l, z_stride_c, 1, WIDE, RANK, SOFTPLUS, PRECISE, FULL, BLOCK_L, BLOCK_D,
        )  # fmt: skip
        tl.debug_barrier()  # or what is read below would be read above, and take registers that dt's projection needs
        b_start = b_ptr + b * b_stride_b + k * b_stride_k + origin * b_stride_l
        c_start = c_ptr + b * c_stride_b + k * c_stride_k + origin * c_stride_l
        for n in range(n_states):
            ys = state_outputs(
                xs, ys, dts, order_ptr, first, l, n, bk, chunk, k * d * n_states, a_ptr,
                b_start + widened(n, WIDE) * b_stride_n, b_stride_l,
                c_start + widened(n, WIDE) * c_stride_n, c_stride_l,
                chunk_h_ptr, chunk_s_ptr, segment_h_ptr, d, n_states, chunks, segments, segment_chunks, offs_d, mask_d,
                (route == 1) != FIRST_REVERSED, ZOH, PRECISE, WIDE, BLOCK_L,
            )  # fmt: skip

    origin, steps = chunk_tokens(order_ptr, first, 0, 1, WIDE, BLOCK_L)
    at = origin * d + offs_d
    for t in tl.static_range(BLOCK_L):
        mask = channels_if(first + t < l, offs_d, d, FULL)
        y = ys[t]
        if ACCUMULATE:
            y += tl.load(y_ptr + at + steps[t] * d, mask=mask, other=0.0)
        tl.store(out_ptr + at + steps[t] * d, y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def state_outputs(
    xs, ys, dts, order_ptr, first, l, n, bk, chunk, a_start, a_ptr,
    b_ptr, b_stride_l: tl.constexpr, c_ptr, c_stride_l: tl.constexpr,
    chunk_h_ptr, chunk_s_ptr, segment_h_ptr, d, n_states, chunks, segments, segment_chunks, offs_d, mask_d,
    REVERSED: tl.constexpr, ZOH: tl.constexpr, PRECISE: tl.constexpr, WIDE: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """ys + C h of one state n over the L tokens of a chunk; keeps the state that enters the chunk in chunk_h."""
    _, steps = chunk_tokens(order_ptr, first, 0, 1, WIDE, L)  # read again, rather than held
    bs = in_time(load_scalars(b_ptr, b_stride_l, steps, first, l, 1, L), REVERSED, L)
    cs = in_time(load_scalars(c_ptr, c_stride_l, steps, first, l, 1, L), REVERSED, L)
    a = tl.load(a_ptr + a_start + offs_d * n_states + n, mask=mask_d, other=0.0)
    state = entering_state(
        chunk_h_ptr, chunk_s_ptr, segment_h_ptr, a, bk, chunk, chunks - 1 - chunk if REVERSED else chunk, n, d,
        n_states, chunks, segments, segment_chunks, offs_d, mask_d,
    )  # fmt: skip
    tl.store(chunk_h_ptr + ((bk * chunks + chunk) * n_states + n) * d + offs_d, state, mask=mask_d)
    us = in_time(xs, REVERSED, L)
    dts = in_time(dts, REVERSED, L)
    earlier = in_time(ys, REVERSED, L)
    out = ()
    for t in tl.static_range(L):
        state = advance(state, dts[t], a, us[t], bs[t], ZOH, PRECISE)
        out = out + (earlier[t] + cs[t] * state,)
    return in_time(out, REVERSED, L)
