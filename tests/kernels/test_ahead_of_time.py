"""Every kernel configuration that ships, compiled for cards that are not here, within stated budgets."""

import operator
from typing import NamedTuple

import pytest
import torch
import triton
from compiling import run_compiled
from scans import make

from benchmarks.ahead_of_time import Compiled, line, recorded_launches, specialise
from benchmarks.host import host_times
from zeromamba.kernels import CROSS_SCAN, triton_ss2d
from zeromamba.kernels.inputs import Inputs
from zeromamba.kernels.triton_math import DEEP_PRECISE


class Budget(NamedTuple):
    """What a kernel may take; instructions are those an element and direction, dt's projection and softplus among them.

    Of registers a thread has 255 at most, and a multiprocessor 65536: 256 threads of that many.
    """

    registers: int  # of a thread
    shared: int  # bytes of a program
    plain: float  # instructions of what VMamba's first two stages run along rows in half precision
    other: float  # of all else: higher ranks, tables, float32, float16, N = 16, windows, dt given, 96 channels
    zoh: float  # of exact zero-order hold

    def instructions(self, row: Compiled) -> float:
        if row.stage <= 2 and row.dtype == "bfloat16" and "row" in row.order and not row.special:
            return self.plain
        return self.zoh if row.special == "zoh" else self.other


BUDGETS = {
    "segment_states": Budget(168, 4096, 33, 45, 45),
    "segment_outputs": Budget(255, 4096, 35, 48, 48),
    "segment_gradients": Budget(255, 4096, 79, 103, 126),
    "carry_states": Budget(48, 0, 140, 140, 140),
    "fill_order": Budget(64, 0, 90, 90, 90),  # a token
    "fill_weight": Budget(64, 0, 50, 50, 50),  # a number of the tiles
}


@pytest.mark.skipif(DEEP_PRECISE.value > 8, reason="the budgets are of Triton 3.8 and later: see triton_math.py")
def test_no_configuration_spills_or_takes_more_than_its_budget(compiled, capsys):
    over = []
    with capsys.disabled():
        print()
        for row in compiled:
            budget = BUDGETS[row.kernel]
            within = (budget.registers, 0, budget.shared, budget.instructions(row))
            print(line(row), f"of {within[-1]}")
            taken = (row.registers, row.spilled, row.shared, row.per_element)
            if any(map(operator.gt, taken, within)):
                over.append((row, within))
    assert over == []


def test_what_ships_is_there_for_both_architectures(compiled):
    for sm in (80, 90):
        assert {row.kernel for row in compiled if row.sm == sm} == set(BUDGETS)


def a_call_finds_all_compiled():
    found = []
    triton.knobs.compilation.listener = lambda *, src, cache_hit, **_: found.append((src.fn.__name__, cache_hit))
    assert [row.launches for row in host_times(repeats=1)] == [7, 7, 16]
    assert {name for name, _ in found} == set(BUDGETS)
    assert all(cache_hit for _, cache_hit in found), found


def test_what_was_counted_is_what_a_call_launches(compiled):
    """Triton, asked to launch on a card that counts launches only, finds every kernel in its cache."""
    run_compiled("test_ahead_of_time.a_call_finds_all_compiled()")


def compiled_for(b, h, w, dtype):
    """Every kernel that a map (b, h, w) launches, with all that makes Triton compile it anew."""
    inputs = Inputs(*(v.to("meta") for v in make(b, h, w, d=64, dtype=dtype)))
    with recorded_launches() as noted:
        y, _, kept = triton_ss2d.forward(inputs, CROSS_SCAN, "euler", True)
        triton_ss2d.backward(y, kept, inputs, CROSS_SCAN, "euler", True)
    return [str((launch.kernel, specialise(launch, 90))) for launch in noted]


def all_sizes_compile_to_the_same():
    for dtype in (torch.float32, torch.bfloat16):
        cut = compiled_for(2, 7, 9, dtype)
        # there and back: an order, a weight, states of 2 orders, a carry; outputs of 2 orders; gradients of 4 routes
        assert len(cut) == 16
        assert compiled_for(16, 28, 28, dtype) == cut
        for size in ((1, 1, 1), (3000, 7, 7)):  # routes of one segment
            whole = compiled_for(*size, dtype)
            assert len(whole) == 12, "no carry, and no states of the adjoint"
            assert set(whole) < set(cut), size


def test_one_compiled_kernel_serves_every_size_of_map_and_batch():
    run_compiled("test_ahead_of_time.all_sizes_compile_to_the_same()")
