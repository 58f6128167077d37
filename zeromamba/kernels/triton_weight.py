"""dt's weight in the form in which the kernels of the scan multiply by it."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["d", "rank", "size", "width"])
def fill_weight(
    tiles_ptr, weight_ptr, stride_k, stride_d, stride_r, d, rank, size, width,
    TERMS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The weight (k, d, rank) as (k, TERMS, size // width, width), of any dtypes; zero beyond d and rank.

    The sum of the terms is the weight: its rounding to the dtype of the tiles, and what that leaves.
    """
    blocks = tl.cdiv(size, BLOCK)
    k = tl.program_id(0) // blocks
    i = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    r = i // width
    c = i % width
    ptrs = weight_ptr + k.to(tl.int64) * stride_k + c.to(tl.int64) * stride_d + r * stride_r
    rest = tl.load(ptrs, mask=(c < d) & (r < rank), other=0.0).to(tl.float32)
    tiles_ptr += k.to(tl.int64) * TERMS * size
    for term in tl.static_range(TERMS):
        rounded = rest.to(tiles_ptr.dtype.element_ty)
        tl.store(tiles_ptr + term * size + i, rounded, mask=i < size)
        rest -= rounded.to(tl.float32)
