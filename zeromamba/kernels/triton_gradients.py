"""The backward: gradients of one chunk of tokens after another, against the route, from the forward's checkpoints."""

import triton
import triton.language as tl

from .triton_math import (
    advance,
    channel_sums,
    channels_if,
    chunk_tokens,
    decay,
    gain,
    gain_slope_a,
    load_dts,
    load_rows,
    load_scalars,
    part_of,
    softplus_slope,
    widened,
)

# By ZOH: the tokens of a chunk whose gradients are worked on at once, what a thread has registers for.
PART = {False: 4, True: 2}


@triton.jit(
    do_not_specialize=[
        "x_stride_b",
        "z_stride_b",
        "b_stride_b",
        "c_stride_b",
        "batch",
        "l",
        "chunks",
        "segments",
        "segment_chunks",
        "k",
    ]
)
def segment_gradients(
    dy_ptr, x_ptr, order_ptr, z_ptr, w_ptr, bias_ptr, a_ptr, b_ptr, c_ptr, d_ptr, sum_ptr,
    chunk_h_ptr, segment_g_ptr, part_h_ptr,
    dx_ptr, dz_ptr, dbias_ptr, da_ptr, dbc_ptr, dd_ptr,
    x_stride_b, x_stride_l: tl.constexpr,
    z_stride_b, z_stride_l: tl.constexpr, z_stride_k, z_stride_c,
    b_stride_b, b_stride_l: tl.constexpr, b_stride_k, b_stride_n,
    c_stride_b, c_stride_l: tl.constexpr, c_stride_k, c_stride_n,
    batch, l, d: tl.constexpr, rank: tl.constexpr,
    n_states: tl.constexpr, n_routes: tl.constexpr, chunks, segments, segment_chunks, k,
    STEP: tl.constexpr, ACCUMULATE: tl.constexpr, LAST: tl.constexpr,
    ZOH: tl.constexpr, RANK: tl.constexpr, SOFTPLUS: tl.constexpr, PRECISE: tl.constexpr,
    WIDE: tl.constexpr, FULL: tl.constexpr, EVEN: tl.constexpr, EVEN_Z: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Gradients over one segment of route k, cut as the adjoint meets it; one program per (channels, segment, image).

    h_t = exp(dt_t A) h_{t-1} + w_t B_t x_t        w_t = Bbar_t / B_t        (recomputed)
    g_t = C_t dy_t + exp(dt_{t+1} A) g_{t+1}       against the route

    dx_t = sum_n w_t B_t g_t + D dy_t              dB_t = sum_d g_t w_t x_t        dC_t = sum_d dy_t h_t
    ddt_t = sum_n g_t (A exp(dt_t A) h_{t-1} + B_t x_t dw_t/ddt)                  dz_t = ddt_t softplus'(z_t)
    dA = sum_t g_t (dt_t exp(dt_t A) h_{t-1} + B_t x_t dw_t/dA)                   dw/ddt = exp(dt A) (ZOH), 1 (Euler)
    dbias = sum_t dz_t                             dD = sum_t dy_t x_t

    Partial sums leave: over channels those of dB and dC in dbc, (2, blocks of d, b, l, k, n); over tokens da (b,
    segments, k, n, d), dbias (b, segments, k, d), and dd (b, segments, d), which is the same for all routes and left to
    the first. dx goes to sum (b, l, d) float32, to what earlier routes left there if ACCUMULATE, and from the LAST
    route to dx.

    The segment is walked against the route, from segment_g (b, k, segment, n, d), or from zero where there is but one.
    A chunk is done in parts of PART tokens, the latest first. Before, a walk along the route leaves the state that
    enters each in part_h (b, segments, parts, n, d). Between parts g waits in segment_g.
    """
    PARTS: tl.constexpr = BLOCK_L // PART
    pid = tl.program_id(0)
    blocks_d = tl.cdiv(d, BLOCK_D)
    block_d = pid % blocks_d
    offs_d = widened(block_d * BLOCK_D + tl.arange(0, BLOCK_D), WIDE)
    mask_d = offs_d < d
    pid = pid // blocks_d
    segment = pid % segments
    b = (pid // segments).to(tl.int64)
    k = k.to(tl.int64)
    at_segment = (b * segments + segment) * n_routes + k
    dy_ptr = part_of(dy_ptr, b * l, d, EVEN)
    x_ptr = part_of(x_ptr, b, x_stride_b, EVEN)
    z_ptr = part_of(part_of(z_ptr, b, z_stride_b, EVEN_Z), k, z_stride_k, EVEN_Z)
    b_ptr += b * b_stride_b + k * b_stride_k
    c_ptr += b * c_stride_b + k * c_stride_k
    a_ptr += k * d * n_states
    sum_ptr += b * l * d
    dx_ptr += b * l * d
    dz_ptr += (b * l * n_routes + k) * d
    da_ptr += at_segment * n_states * d
    g_ptrs = segment_g_ptr + ((b * n_routes + k) * segments + segment) * n_states * d + offs_d
    part_h_ptr += (b * segments + segment) * PARTS * n_states * d
    dbc_ptr += ((block_d.to(tl.int64) * batch + b) * l * n_routes + k) * n_states
    size = (batch * blocks_d).to(tl.int64) * l * n_routes * n_states  # of db
    dbias = tl.zeros((BLOCK_D,), tl.float32)
    dskip = tl.zeros((BLOCK_D,), tl.float32)

    first = segment * segment_chunks
    for c in tl.range(tl.minimum(segment_chunks, chunks - first), num_stages=1, disable_licm=True):
        chunk = chunks - 1 - (first + c) if STEP > 0 else first + c
        start = chunk * BLOCK_L if STEP > 0 else chunk * BLOCK_L + BLOCK_L - 1
        origin, steps = chunk_tokens(order_ptr, start, 0, STEP, WIDE, BLOCK_L)
        dts = load_dts(
            z_ptr, w_ptr, k, bias_ptr, order_ptr, start, origin, steps, l, d, rank, offs_d,
            z_stride_l, z_stride_c, STEP, WIDE, RANK, SOFTPLUS, PRECISE, FULL, BLOCK_L, BLOCK_D,
        )  # fmt: skip
        x_ptrs = x_ptr + origin * x_stride_l + offs_d
        dy_ptrs = dy_ptr + origin * d + offs_d
        b_start = b_ptr + origin * b_stride_l
        c_start = c_ptr + origin * c_stride_l
        at_chunk = ((b * n_routes + k) * chunks + chunk) * n_states * d
        xs = load_rows(x_ptrs, x_stride_l, steps, start, l, offs_d, d, STEP, FULL, BLOCK_L - PART)
        for n in range(n_states):
            bs = load_scalars(
                b_start + widened(n, WIDE) * b_stride_n, b_stride_l, steps, start, l, STEP, BLOCK_L - PART
            )
            a = tl.load(a_ptr + offs_d * n_states + n, mask=mask_d, other=0.0)
            state = tl.load(chunk_h_ptr + at_chunk + n * d + offs_d, mask=mask_d, other=0.0)
            for i in tl.static_range(BLOCK_L - PART):
                if i % PART == 0:
                    tl.store(part_h_ptr + (i // PART * n_states + n) * d + offs_d, state, mask=mask_d)
                state = advance(state, dts[i], a, xs[i], bs[i], ZOH, PRECISE)
            tl.store(part_h_ptr + ((PARTS - 1) * n_states + n) * d + offs_d, state, mask=mask_d)
        for part in tl.static_range(PARTS - 1, -1, -1):
            part_start = start + part * PART * STEP
            _, steps = chunk_tokens(order_ptr, start, part * PART, STEP, WIDE, PART)
            xs = load_rows(x_ptrs, x_stride_l, steps, part_start, l, offs_d, d, STEP, FULL, PART)
            dys = load_rows(dy_ptrs, d, steps, part_start, l, offs_d, d, STEP, FULL, PART)
            skip = tl.load(d_ptr + k * d + offs_d, mask=mask_d, other=0.0)  # read again, rather than held
            part_dts = ()
            dxs = ()
            for i in tl.static_range(PART):
                dy = dys[i].to(tl.float32)
                if not ACCUMULATE:
                    dskip += dy * xs[i].to(tl.float32)
                dxs = dxs + (skip * dy,)
                part_dts = part_dts + (dts[part * PART + i],)
            ddts = (tl.zeros((BLOCK_D,), tl.float32),) * PART
            rows = tl.arange(0, 2 * PART)  # PART tokens, for dB and once more for dC
            positions = part_start + rows % PART * STEP
            tokens = positions if order_ptr is None else tl.load(order_ptr + positions)
            sums_ptrs = dbc_ptr + rows // PART * size + tokens.to(tl.int64) * (n_routes * n_states)
            for n in range(n_states):
                bs = load_scalars(b_start + widened(n, WIDE) * b_stride_n, b_stride_l, steps, part_start, l, STEP, PART)
                cs = load_scalars(c_start + widened(n, WIDE) * c_stride_n, c_stride_l, steps, part_start, l, STEP, PART)
                a = tl.load(a_ptr + offs_d * n_states + n, mask=mask_d, other=0.0)
                state = tl.load(part_h_ptr + (part * n_states + n) * d + offs_d, mask=mask_d, other=0.0)
                begun = (c > 0) | (part < PARTS - 1)
                g = tl.load(g_ptrs + n * d, mask=channels_if(begun | (segments > 1), offs_d, d, FULL), other=0.0)
                da = tl.load(da_ptr + n * d + offs_d, mask=channels_if(begun, offs_d, d, FULL), other=0.0)
                dxs, ddts, da, g, sums = state_gradients(
                    dxs, ddts, da, g, state, a, part_dts, xs, dys, bs, cs, ZOH, PRECISE, PART, BLOCK_D
                )
                tl.store(sums_ptrs + n, sums, mask=positions < l)
                tl.store(da_ptr + n * d + offs_d, da, mask=mask_d)
                tl.store(g_ptrs + n * d, g, mask=mask_d)
            for i in tl.static_range(PART):
                # not as for the loads: held since then, it could spill
                mask = channels_if((part * PART + i) * STEP < l - start, offs_d, d, FULL)
                step = steps[i]
                dz = ddts[i]
                if SOFTPLUS:
                    dz *= softplus_slope(dts[part * PART + i], PRECISE)
                dbias += dz  # 0 beyond the map, where x, dy, B and C are 0: there h, or g, has not begun
                tl.store(
                    dz_ptr + origin * (n_routes * d) + offs_d + step * (n_routes * d),
                    dz.to(dz_ptr.dtype.element_ty),
                    mask=mask,
                )
                dx = dxs[i]
                if ACCUMULATE:
                    dx += tl.load(sum_ptr + origin * d + offs_d + step * d, mask=mask, other=0.0)
                if LAST:
                    tl.store(dx_ptr + origin * d + offs_d + step * d, dx.to(dx_ptr.dtype.element_ty), mask=mask)
                else:
                    tl.store(sum_ptr + origin * d + offs_d + step * d, dx, mask=mask)

    tl.store(dbias_ptr + at_segment * d + offs_d, dbias, mask=mask_d)
    if not ACCUMULATE:
        tl.store(dd_ptr + (b * segments + segment) * d + offs_d, dskip, mask=mask_d)


@triton.jit
def state_gradients(
    dxs, ddts, da, g, state, a, dts, xs, dys, bs, cs,
    ZOH: tl.constexpr, PRECISE: tl.constexpr, L: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """What one state n adds, over L tokens, to their dxs and ddts and to da; the g that goes on; dB and dC, (2 L,).

    `state` enters along the route, g against it.
    """
    hs = ()
    dcs = ()
    for t in tl.static_range(L):
        hs = hs + (state,)
        state = advance(state, dts[t], a, xs[t], bs[t], ZOH, PRECISE)
        dcs = dcs + (dys[t].to(tl.float32) * state,)
    dbs = ()
    new_dxs = ()
    new_ddts = ()
    for t in tl.static_range(L - 1, -1, -1):
        abar = decay(dts[t], a)
        w = gain(dts[t], a, abar, ZOH, PRECISE)
        g += cs[t] * dys[t].to(tl.float32)
        dbs = (g * (w * xs[t].to(tl.float32)),) + dbs
        gb = g * bs[t]
        new_dxs = (dxs[t] + gb * w,) + new_dxs
        dw = gb * xs[t].to(tl.float32)
        g *= abar
        gh = g * hs[t]
        da += dts[t] * gh
        if ZOH:
            da += dw * gain_slope_a(dts[t], a, abar, w, PRECISE)
            dw *= abar  # dw / ddt
        new_ddts = (ddts[t] + dw + a * gh,) + new_ddts
    return new_dxs, new_ddts, da, g, channel_sums(dbs + dcs, 2 * L, D)
