"""The backward: gradients of one chunk of tokens after another, from the checkpoints of the forward."""

import triton
import triton.language as tl

from zeromamba.kernels.triton_math import (
    channels_if,
    chunk_tokens,
    decay,
    gain,
    gain_slope_a,
    load_dts,
    reciprocal,
    softplus_slope,
)
from zeromamba.kernels.triton_states import entering_state


@triton.jit(
    do_not_specialize=[
        "dy_stride_b",
        "x_stride_b",
        "z_stride_b",
        "b_stride_b",
        "c_stride_b",
        "batch",
        "l",
        "h",
        "w",
        "window",
        "chunks",
        "segments",
        "segment_chunks",
        "k",
    ]
)
def chunk_gradients(
    dy_ptr, x_ptr, z_ptr, w_ptr, bias_ptr, a_ptr, b_ptr, c_ptr, d_ptr, sum_ptr,
    chunk_h_ptr, chunk_g_ptr, chunk_s_ptr, segment_g_ptr,
    dx_ptr, dz_ptr, dbias_ptr, da_ptr, db_ptr, dc_ptr, dd_ptr,
    dy_stride_b, dy_stride_l: tl.constexpr, dy_stride_d, x_stride_b, x_stride_l: tl.constexpr, x_stride_d,
    z_stride_b, z_stride_l: tl.constexpr, z_stride_k, z_stride_c,
    b_stride_b, b_stride_l: tl.constexpr, b_stride_k, b_stride_n,
    c_stride_b, c_stride_l: tl.constexpr, c_stride_k, c_stride_n,
    batch, l, h, w, window, d: tl.constexpr, rank: tl.constexpr, w_stride_k: tl.constexpr,
    n_states: tl.constexpr, n_routes: tl.constexpr, chunks, segments, segment_chunks, k,
    STEP: tl.constexpr, COLUMN: tl.constexpr, WINDOWED: tl.constexpr, ACCUMULATE: tl.constexpr, LAST: tl.constexpr,
    ZOH: tl.constexpr, RANK: tl.constexpr, SOFTPLUS: tl.constexpr, PRECISE: tl.constexpr,
    WIDE: tl.constexpr, FULL: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradients over the chunks of a segment of route k; one program per (channels, segment, image).

    h_t = exp(dt_t A) h_{t-1} + w_t B_t x_t        w_t = Bbar_t / B_t        (recomputed)
    g_t = C_t dy_t + exp(dt_{t+1} A) g_{t+1}       against the route, from the state that enters the chunk

    dx_t = sum_n w_t B_t g_t + D dy_t              dB_t = sum_d g_t w_t x_t        dC_t = sum_d dy_t h_t
    ddt_t = sum_n g_t (A exp(dt_t A) h_{t-1} + B_t x_t dw_t/ddt)                  dz_t = ddt_t softplus'(z_t)
    dA = sum_t g_t (dt_t exp(dt_t A) h_{t-1} + B_t x_t dw_t/dA)                   dw/ddt = exp(dt A) (ZOH), 1 (Euler)
    dbias = sum_t dz_t                             dD = sum_t dy_t x_t

    Partial sums leave: over channels db and dc, (blocks of d, b, l, k, n); over tokens da (b, segments, k, n, d),
    dbias (b, segments, k, d), and dd (b, segments, d), which is the same for all routes and left to the first. dx goes
    to sum (b, l, d) float32, to what earlier routes left there if ACCUMULATE, and from the LAST route to dx.

    A chunk is done in two halves, the later one first, because a thread has registers for the states of half of one.
    Between them g waits in chunk_g, where it stood for the chunk as a whole.
    """
    HALF: tl.constexpr = BLOCK_L // 2
    pid = tl.program_id(0)
    blocks_d = tl.cdiv(d, BLOCK_D)
    block_d = pid % blocks_d
    offs_d = block_d * BLOCK_D + tl.arange(0, BLOCK_D)
    mask_d = offs_d < d
    pid = pid // blocks_d
    segment = pid % segments
    b = (pid // segments).to(tl.int64)
    k = k.to(tl.int64)
    part = (b * segments + segment) * n_routes + k
    dy_ptr += b * dy_stride_b
    x_ptr += b * x_stride_b
    z_ptr += b * z_stride_b + k * z_stride_k
    b_ptr += b * b_stride_b + k * b_stride_k
    c_ptr += b * c_stride_b + k * c_stride_k
    a_ptr += k * d * n_states
    sum_ptr += b * l * d
    dx_ptr += b * l * d
    dz_ptr += (b * l * n_routes + k) * d
    da_ptr += part * n_states * d
    db_ptr += ((block_d.to(tl.int64) * batch + b) * l * n_routes + k) * n_states
    dc_ptr += ((block_d.to(tl.int64) * batch + b) * l * n_routes + k) * n_states
    bias = tl.load(bias_ptr + k * d + offs_d, mask=mask_d, other=0.0)
    skip = tl.load(d_ptr + k * d + offs_d, mask=mask_d, other=0.0)
    dbias = tl.zeros((BLOCK_D,), tl.float32)
    dskip = tl.zeros((BLOCK_D,), tl.float32)

    first = segment * segment_chunks
    for c in range(tl.minimum(segment_chunks, chunks - first)):
        chunk = first + c
        start = chunk * BLOCK_L if STEP > 0 else chunk * BLOCK_L + BLOCK_L - 1
        origin, steps = chunk_tokens(start, h, w, window, STEP, COLUMN, WINDOWED, WIDE, BLOCK_L)
        dts = load_dts(
            z_ptr, w_ptr, k * w_stride_k, bias, start, origin, steps, h, w, window, l, d, rank, offs_d,
            z_stride_l, z_stride_c, STEP, COLUMN, WINDOWED, WIDE, RANK, SOFTPLUS, PRECISE, FULL, BLOCK_L, BLOCK_D,
        )  # fmt: skip
        x_ptrs = x_ptr + origin * x_stride_l + offs_d * x_stride_d
        dy_ptrs = dy_ptr + origin * dy_stride_l + offs_d * dy_stride_d
        b_start = b_ptr + origin * b_stride_l
        c_start = c_ptr + origin * c_stride_l
        db_start = db_ptr + origin * (n_routes * n_states)
        dc_start = dc_ptr + origin * (n_routes * n_states)
        at_chunk = ((b * n_routes + k) * chunks + chunk) * n_states * d
        for half in tl.static_range(2):
            xs = ()
            dys = ()
            dxs = ()
            for i in tl.static_range(HALF):
                mask = channels_if(start + ((1 - half) * HALF + i) * STEP < l, offs_d, d, FULL)
                step = steps[(1 - half) * HALF + i]
                x = tl.load(x_ptrs + step * x_stride_l, mask=mask, other=0.0)
                dy = tl.load(dy_ptrs + step * dy_stride_l, mask=mask, other=0.0)
                if not ACCUMULATE:
                    dskip += dy.to(tl.float32) * x.to(tl.float32)
                xs = xs + (x,)
                dys = dys + (dy,)
                dxs = dxs + (skip * dy.to(tl.float32),)
            ddts = (tl.zeros((BLOCK_D,), tl.float32),) * HALF
            for n in range(n_states):
                a = tl.load(a_ptr + offs_d * n_states + n, mask=mask_d, other=0.0)
                inverse_a = reciprocal(a)
                state_h = tl.load(chunk_h_ptr + at_chunk + n * d + offs_d, mask=mask_d, other=0.0)
                if half == 0:
                    time = chunks - 1 - chunk if STEP > 0 else chunk  # of the adjoint
                    g = entering_state(
                        chunk_g_ptr, chunk_s_ptr, segment_g_ptr, a, b * n_routes + k, chunk, time, n, d, n_states,
                        chunks, segments, segment_chunks, offs_d, mask_d,
                    )  # fmt: skip
                    for i in tl.static_range(HALF):
                        inside = start + i * STEP < l
                        mask = channels_if(inside, offs_d, d, FULL)
                        x_t = tl.load(x_ptrs + steps[i] * x_stride_l, mask=mask, other=0.0)
                        b_t = tl.load(b_start + steps[i] * b_stride_l + n * b_stride_n, mask=inside, other=0.0)
                        abar = decay(dts[i], a)
                        bx = b_t.to(tl.float32) * x_t.to(tl.float32)
                        state_h = abar * state_h + gain(dts[i], a, inverse_a, abar, ZOH) * bx
                else:
                    g = tl.load(chunk_g_ptr + at_chunk + n * d + offs_d, mask=mask_d, other=0.0)
                later = (chunk > first) | (half == 1)
                da = tl.load(da_ptr + n * d + offs_d, mask=channels_if(later, offs_d, d, FULL), other=0.0)
                hs = ()
                for i in tl.static_range(HALF):  # along the route
                    inside = start + ((1 - half) * HALF + i) * STEP < l
                    step = steps[(1 - half) * HALF + i]
                    dt = dts[(1 - half) * HALF + i]
                    hs = hs + (state_h,)
                    b_t = tl.load(b_start + step * b_stride_l + n * b_stride_n, mask=inside, other=0.0)
                    abar = decay(dt, a)
                    bx = b_t.to(tl.float32) * xs[i].to(tl.float32)
                    state_h = abar * state_h + gain(dt, a, inverse_a, abar, ZOH) * bx
                    dc = tl.sum(dys[i].to(tl.float32) * state_h, 0)
                    tl.store(dc_start + step * (n_routes * n_states) + n, dc, mask=inside)
                new_dxs = ()
                new_ddts = ()
                for j in tl.static_range(HALF):  # against it
                    within = start + ((2 - half) * HALF - 1 - j) * STEP < l
                    step_t = steps[(2 - half) * HALF - 1 - j]
                    dt_t = dts[(2 - half) * HALF - 1 - j]
                    x_t = xs[HALF - 1 - j].to(tl.float32)
                    b_f = tl.load(b_start + step_t * b_stride_l + n * b_stride_n, mask=within, other=0.0).to(tl.float32)
                    c_t = tl.load(c_start + step_t * c_stride_l + n * c_stride_n, mask=within, other=0.0).to(tl.float32)
                    abar = decay(dt_t, a)
                    wbar = gain(dt_t, a, inverse_a, abar, ZOH)
                    g += c_t * dys[HALF - 1 - j].to(tl.float32)
                    db = tl.sum(g * x_t * wbar, 0)
                    tl.store(db_start + step_t * (n_routes * n_states) + n, db, mask=within)
                    new_dxs = (dxs[HALF - 1 - j] + g * (wbar * b_f),) + new_dxs
                    dw = g * x_t * b_f
                    g *= abar
                    gh = g * hs[HALF - 1 - j]
                    da += dt_t * gh + dw * gain_slope_a(dt_t, a, inverse_a, abar, wbar, ZOH)
                    new_ddts = (ddts[HALF - 1 - j] + a * gh + (dw * abar if ZOH else dw),) + new_ddts
                dxs = new_dxs
                ddts = new_ddts
                tl.store(da_ptr + n * d + offs_d, da, mask=mask_d)
                if half == 0:
                    tl.store(chunk_g_ptr + at_chunk + n * d + offs_d, g, mask=mask_d)
            for i in tl.static_range(HALF):
                mask = channels_if(start + ((1 - half) * HALF + i) * STEP < l, offs_d, d, FULL)
                step = steps[(1 - half) * HALF + i]
                dz = ddts[i]
                if SOFTPLUS:
                    dz *= softplus_slope(dts[(1 - half) * HALF + i])
                dz = tl.where(mask, dz, 0.0)
                dbias += dz
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

    tl.store(dbias_ptr + part * d + offs_d, dbias, mask=mask_d)
    if not ACCUMULATE:
        tl.store(dd_ptr + (b * segments + segment) * d + offs_d, dskip, mask=mask_d)
