"""The order of a route's tokens as a table, so that the kernels of the scan know nothing of columns and windows."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["l", "h", "w", "window", "length"])
def fill_order(
    order_ptr, l, h, w, window, length, COLUMN: tl.constexpr, WINDOWED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The token (row-major index) at each position of an order, `Route.tokens`; 0 from l to length.

    A column order is a row order of the transposed map.
    """
    position = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if COLUMN:
        rows, cols = w, h
    else:
        rows, cols = h, w
    if WINDOWED:
        high = tl.minimum(window, rows)
        wide = tl.minimum(window, cols)
        top = position // (high * cols) * high  # the band of windows, and its height at the border
        height = tl.maximum(tl.minimum(high, rows - top), 1)  # 1 beyond the map
        q = position - top * cols
        left = q // (height * wide) * wide
        width = tl.maximum(tl.minimum(wide, cols - left), 1)
        q -= left * height
        row = top + q // width
        col = left + q % width
    else:
        row = position // cols
        col = position % cols
    token = col * w + row if COLUMN else row * w + col
    tl.store(order_ptr + position, tl.where(position < l, token, 0), mask=position < length)
