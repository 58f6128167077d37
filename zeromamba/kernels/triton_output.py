"""The outputs of the forward, merged over the two directions of an order."""

import triton
import triton.language as tl

from .triton_math import (
    advance,
    channels_if,
    chunk_tokens,
    decay,
    in_time,
    load_dts,
    load_rows,
    load_scalars,
    part_of,
    widened,
)


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
def segment_outputs(
    x_ptr, order_ptr, z_ptr, w_ptr, bias_ptr, a_ptr, b_ptr, c_ptr, d_ptr, y_ptr, out_ptr,
    chunk_h_ptr, chunk_s_ptr, segment_h_ptr,
    x_stride_b, x_stride_l: tl.constexpr,
    z_stride_b, z_stride_l: tl.constexpr, z_stride_k, z_stride_c,
    b_stride_b, b_stride_l: tl.constexpr, b_stride_k, b_stride_n,
    c_stride_b, c_stride_l: tl.constexpr, c_stride_k, c_stride_n,
    l, d: tl.constexpr, rank: tl.constexpr,
    n_states: tl.constexpr, n_routes: tl.constexpr, chunks, segments, segment_chunks, k_first, k_second,
    FIRST_REVERSED: tl.constexpr, ROUTES: tl.constexpr,
    ACCUMULATE: tl.constexpr, ZOH: tl.constexpr, RANK: tl.constexpr, SOFTPLUS: tl.constexpr, PRECISE: tl.constexpr,
    WIDE: tl.constexpr, FULL: tl.constexpr, EVEN: tl.constexpr, EVEN_Z: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """y of one segment of an order; one program per (channels, segment, image), for the route and its reverse.

    h_t = exp(dt_t A) h_{t-1} + Bbar_t x_t        y_t = C_t h_t + D x_t

    A walk along the first route, from the state that enters the segment, segment_h (b, k, segment, n, d), or from zero
    where there is but one; between chunks its state waits there, and there it is left. The tokens of a chunk are read
    once, both directions run over them in registers, and their sum is written once: to out, added to y (b, l, d), what
    earlier orders gave in float32, if ACCUMULATE. The states that enter the chunk go to chunk_h (b, k, chunk, n, d),
    the checkpoints of the backward; the second route's own were there before.
    """
    pid = tl.program_id(0)
    blocks_d = tl.cdiv(d, BLOCK_D)
    offs_d = widened(pid % blocks_d * BLOCK_D + tl.arange(0, BLOCK_D), WIDE)
    mask_d = offs_d < d
    pid = pid // blocks_d
    segment = pid % segments
    b = (pid // segments).to(tl.int64)
    first = segment * segment_chunks
    for i in tl.range(tl.minimum(segment_chunks, chunks - first), num_stages=1, disable_licm=True):
        chunk = chunks - 1 - (first + i) if FIRST_REVERSED else first + i
        start = chunk * BLOCK_L
        origin, steps = chunk_tokens(order_ptr, start, 0, 1, WIDE, BLOCK_L)
        x_ptrs = part_of(x_ptr, b, x_stride_b, EVEN) + origin * x_stride_l + offs_d
        xs = load_rows(x_ptrs, x_stride_l, steps, start, l, offs_d, d, 1, FULL, BLOCK_L)
        skip = tl.load(d_ptr + k_first * d + offs_d, mask=mask_d, other=0.0)
        if ROUTES == 2:
            skip += tl.load(d_ptr + k_second * d + offs_d, mask=mask_d, other=0.0)
        ys = ()
        for t in tl.static_range(BLOCK_L):
            ys = ys + (skip * xs[t].to(tl.float32),)

        for route in tl.static_range(ROUTES):
            k = (k_second if route == 1 else k_first).to(tl.int64)
            at_chunk = (b * n_routes + k) * chunks + chunk
            z_start = part_of(part_of(z_ptr, b, z_stride_b, EVEN_Z), k, z_stride_k, EVEN_Z)
            dts = load_dts(
                z_start, w_ptr, k, bias_ptr, order_ptr, start,
                origin, steps, l, d, rank, offs_d, z_stride_l, z_stride_c, 1, WIDE, RANK, SOFTPLUS, PRECISE, FULL,
                BLOCK_L, BLOCK_D,
            )  # fmt: skip
            tl.debug_barrier()  # or what is read below would be read above, and take registers dt's projection needs
            b_start = b_ptr + b * b_stride_b + k * b_stride_k + origin * b_stride_l
            c_start = c_ptr + b * c_stride_b + k * c_stride_k + origin * c_stride_l
            for n in tl.range(n_states, num_stages=1, disable_licm=True):
                _, steps_n = chunk_tokens(order_ptr, start, 0, 1, WIDE, BLOCK_L)  # read again, rather than held
                bs = load_scalars(b_start + widened(n, WIDE) * b_stride_n, b_stride_l, steps_n, start, l, 1, BLOCK_L)
                cs = load_scalars(c_start + widened(n, WIDE) * c_stride_n, c_stride_l, steps_n, start, l, 1, BLOCK_L)
                a = tl.load(a_ptr + (k * d + offs_d) * n_states + n, mask=mask_d, other=0.0)
                h_ptrs = chunk_h_ptr + (at_chunk * n_states + n) * d + offs_d
                at_segment = (chunks - 1 - (first + i)) // segment_chunks if route == 1 else segment
                at_segment += (b * n_routes + k) * segments
                segment_ptrs = segment_h_ptr + (at_segment * n_states + n) * d + offs_d
                if route == 0:
                    mask = channels_if((i > 0) | (segments > 1), offs_d, d, FULL)
                    state = tl.load(segment_ptrs, mask=mask, other=0.0)
                    tl.store(h_ptrs, state, mask=mask_d)
                    ys, state = state_outputs(xs, ys, dts, state, a, bs, cs, FIRST_REVERSED, ZOH, PRECISE, BLOCK_L)
                    tl.store(segment_ptrs, state, mask=mask_d)
                else:
                    carry = tl.load(segment_ptrs, mask=channels_if(segments > 1, offs_d, d, FULL), other=0.0)
                    s = tl.load(chunk_s_ptr + at_chunk * d + offs_d, mask=mask_d, other=0.0)
                    entering = decay(s, a) * carry + tl.load(h_ptrs, mask=mask_d, other=0.0)
                    tl.store(h_ptrs, entering, mask=mask_d)
                    ys, _ = state_outputs(xs, ys, dts, entering, a, bs, cs, not FIRST_REVERSED, ZOH, PRECISE, BLOCK_L)

        origin, steps = chunk_tokens(order_ptr, start, 0, 1, WIDE, BLOCK_L)
        at = b * l * d + origin * d + offs_d
        for t in tl.static_range(BLOCK_L):
            mask = channels_if(t < l - start, offs_d, d, FULL)  # not as for the loads: held since then, it could spill
            y = ys[t]
            if ACCUMULATE:
                y += tl.load(y_ptr + at + steps[t] * d, mask=mask, other=0.0)
            tl.store(out_ptr + at + steps[t] * d, y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def state_outputs(
    xs, ys, dts, state, a, bs, cs,
    REVERSED: tl.constexpr, ZOH: tl.constexpr, PRECISE: tl.constexpr, L: tl.constexpr
):  # fmt: skip
    """ys + C h of one state n over the L tokens of a chunk, which `state` enters; and the state that leaves it."""
    us = in_time(xs, REVERSED, L)
    dts = in_time(dts, REVERSED, L)
    bs = in_time(bs, REVERSED, L)
    cs = in_time(cs, REVERSED, L)
    earlier = in_time(ys, REVERSED, L)
    out = ()
    for t in tl.static_range(L):
        state = advance(state, dts[t], a, us[t], bs[t], ZOH, PRECISE)
        out = out + (earlier[t] + cs[t] * state,)
    return in_time(out, REVERSED, L), state
