"""What a walk over the tokens starts from: the states that enter the segments of a route.

Tokens are cut into chunks of BLOCK_L, chunks into segments. `segment_states` runs every segment by itself from a zero
state; `carry_states` then walks over the segments, which takes no more than a product for each, since the decay over a
stretch of tokens is exp(A sum dt), for any number of states n.

The kernels that follow walk over the chunks of a segment and carry the state of one route with them. The second route
of an order runs against the walk: for that one, the state that enters each chunk is kept too,

    h_in(chunk) = h_local(chunk) + exp(A s(chunk)) carry(segment),   s = sum of dt from the segment's start.

The adjoint recurrence has the same form with time reversed, so the same two kernels serve the backward. Where there are
routes enough, each is one segment, entered by zero: only the states of second routes are needed.
"""

import triton
import triton.language as tl

from .triton_math import (
    advance,
    channels_if,
    chunk_tokens,
    decay,
    load_dts,
    load_rows,
    load_scalars,
    part_of,
    widened,
)


@triton.jit(
    do_not_specialize=[
        "u_stride_b",
        "z_stride_b",
        "v_stride_b",
        "l",
        "chunks",
        "segments",
        "segment_chunks",
        "k_first",
        "k_second",
        "skipped",
    ]
)
def segment_states(
    u_ptr, order_ptr, z_ptr, w_ptr, bias_ptr, a_ptr, v_ptr,
    chunk_h_ptr, chunk_s_ptr, segment_h_ptr, segment_s_ptr,
    u_stride_b, u_stride_l: tl.constexpr,
    z_stride_b, z_stride_l: tl.constexpr, z_stride_k, z_stride_c,
    v_stride_b, v_stride_l: tl.constexpr, v_stride_k, v_stride_n,
    l, d: tl.constexpr, rank: tl.constexpr,
    n_states: tl.constexpr, n_routes: tl.constexpr, chunks, segments, segment_chunks, k_first, k_second, skipped,
    FIRST_REVERSED: tl.constexpr, ROUTES: tl.constexpr, ADJOINT: tl.constexpr, ZOH: tl.constexpr,
    RANK: tl.constexpr, SOFTPLUS: tl.constexpr, PRECISE: tl.constexpr, WIDE: tl.constexpr, FULL: tl.constexpr,
    EVEN: tl.constexpr, EVEN_Z: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """States of one segment of a route; one program per (channels, route of the order, segment, image).

    forward, u = x, v = B:    h_t = exp(dt_t A) h_{t-1} + Bbar_t x_t                in the order of the route
    ADJOINT, u = dy, v = C:   g_t = exp(dt_t A) (g_{t+1} + C_t dy_t)                against it

    Written: segment_h (b, k, segment, n, d) and segment_s (b, k, segment, d), the state and the sum of dt with which
    the segment is left; and forward, of the second route, chunk_h (b, k, chunk, n, d) and chunk_s (b, k, chunk, d),
    those with which a chunk is entered. chunk counts along the order, segment along time. The first `skipped` routes
    of the order have no program.

    With N > 1 the states wait in segment_h between chunks, where only this program, and each channel's own thread,
    reads and writes; a single one stays in a register.
    """
    STEPS: tl.constexpr = (-1, 1) if FIRST_REVERSED != ADJOINT else (1, -1)  # of each route
    pid = tl.program_id(0)
    blocks_d = tl.cdiv(d, BLOCK_D)
    offs_d = widened(pid % blocks_d * BLOCK_D + tl.arange(0, BLOCK_D), WIDE)
    mask_d = offs_d < d
    pid = pid // blocks_d
    launched = ROUTES - skipped
    own = skipped + pid % launched
    place = pid // launched % segments
    b = (pid // launched // segments).to(tl.int64)

    for route in tl.static_range(ROUTES):
        if own == route:
            # along the order, so that programs side by side read the same tokens
            segment = place if STEPS[route] > 0 else segments - 1 - place
            first = segment * segment_chunks
            k = (k_second if route == 1 else k_first).to(tl.int64)
            bk = b * n_routes + k
            h_ptrs = segment_h_ptr + (bk * segments + segment) * n_states * d + offs_d
            s = tl.zeros((BLOCK_D,), tl.float32)
            state = tl.zeros((BLOCK_D,), tl.float32)
            for i in tl.range(tl.minimum(segment_chunks, chunks - first), num_stages=1, disable_licm=True):
                time = first + i
                chunk = time if STEPS[route] > 0 else chunks - 1 - time
                at_chunk = bk * chunks + chunk
                if route == 1 and not ADJOINT:
                    tl.store(chunk_s_ptr + at_chunk * d + offs_d, s, mask=mask_d)
                start = chunk * BLOCK_L if STEPS[route] > 0 else chunk * BLOCK_L + BLOCK_L - 1
                origin, steps = chunk_tokens(order_ptr, start, 0, STEPS[route], WIDE, BLOCK_L)
                z_start = part_of(part_of(z_ptr, b, z_stride_b, EVEN_Z), k, z_stride_k, EVEN_Z)
                dts = load_dts(
                    z_start, w_ptr, k, bias_ptr, order_ptr, start,
                    origin, steps, l, d, rank, offs_d, z_stride_l, z_stride_c, STEPS[route], WIDE, RANK, SOFTPLUS,
                    PRECISE, FULL, BLOCK_L, BLOCK_D,
                )  # fmt: skip
                u_ptrs = part_of(u_ptr, b, u_stride_b, EVEN) + origin * u_stride_l + offs_d
                us = load_rows(u_ptrs, u_stride_l, steps, start, l, offs_d, d, STEPS[route], FULL, BLOCK_L)
                for t in tl.static_range(BLOCK_L):
                    s += dts[t]
                v_start = v_ptr + b * v_stride_b + k * v_stride_k + origin * v_stride_l
                for n in range(n_states):
                    # before the state, which is stored: what is read after a store cannot be read early
                    v_ptrs = v_start + widened(n, WIDE) * v_stride_n
                    _, v_steps = chunk_tokens(order_ptr, start, 0, STEPS[route], WIDE, BLOCK_L)  # rather than held
                    vs = load_scalars(v_ptrs, v_stride_l, v_steps, start, l, STEPS[route], BLOCK_L)
                    a = tl.load(a_ptr + (k * d + offs_d) * n_states + n, mask=mask_d, other=0.0)
                    if n_states > 1:
                        state = tl.load(h_ptrs + n * d, mask=channels_if(i > 0, offs_d, d, FULL), other=0.0)
                    if route == 1 and not ADJOINT:
                        tl.store(chunk_h_ptr + (at_chunk * n_states + n) * d + offs_d, state, mask=mask_d)
                    for t in tl.static_range(BLOCK_L):
                        if ADJOINT:
                            state = decay(dts[t], a) * (state + vs[t] * us[t].to(tl.float32))
                        else:
                            state = advance(state, dts[t], a, us[t], vs[t], ZOH, PRECISE)
                    tl.store(h_ptrs + n * d, state, mask=mask_d)
            tl.store(segment_s_ptr + (bk * segments + segment) * d + offs_d, s, mask=mask_d)


@triton.jit(do_not_specialize=["segments"])
def carry_states(
    segment_h_ptr, segment_s_ptr, a_ptr, last_ptr, d, n_states, n_routes, segments,
    BLOCK_D: tl.constexpr
):  # fmt: skip
    """In place, from the state with which a segment is left to that with which it is entered; in order of time.

    carry_0 = 0,   carry_{j+1} = exp(A s_j) carry_j + h_local_j;   last (b, k, n, d) is the state after the last token.
    One program per (channels, state, route, image).
    """
    pid = tl.program_id(0)
    blocks_d = tl.cdiv(d, BLOCK_D)
    offs_d = pid % blocks_d * BLOCK_D + tl.arange(0, BLOCK_D)
    mask_d = offs_d < d
    pid = pid // blocks_d
    n = pid % n_states
    bk = (pid // n_states).to(tl.int64)
    a = tl.load(a_ptr + (bk % n_routes * d + offs_d) * n_states + n, mask=mask_d, other=0.0)
    segment_h_ptr += (bk * segments * n_states + n) * d
    segment_s_ptr += bk * segments * d
    carry = tl.zeros((BLOCK_D,), tl.float32)
    for _ in range(segments):
        local = tl.load(segment_h_ptr + offs_d, mask=mask_d, other=0.0)
        s = tl.load(segment_s_ptr + offs_d, mask=mask_d, other=0.0)
        tl.store(segment_h_ptr + offs_d, carry, mask=mask_d)
        carry = decay(s, a) * carry + local
        segment_h_ptr += n_states * d
        segment_s_ptr += d
    tl.store(last_ptr + (bk * n_states + n) * d + offs_d, carry, mask=mask_d)
