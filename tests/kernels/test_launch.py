"""A launch that is remembered runs what Triton itself would find for it, with the same arguments."""

from itertools import product

import pytest
import torch
import triton
import triton.language as tl
from compiling import run_compiled

from benchmarks.host import StandIn, no_card
from zeromamba.kernels import triton_launch
from zeromamba.kernels.triton_launch import launch


@triton.jit(do_not_specialize=["free"])
def shifted(to_ptr, from_ptr, n, free, d: tl.constexpr, OFFSET: tl.constexpr, LENGTH: tl.constexpr = 32):
    """Whatever Triton may compile anew for: two tensors, of which one may be missing, and numbers of each kind."""
    offsets = tl.arange(0, LENGTH) * d
    value = tl.full((LENGTH,), 1, tl.float32)
    if from_ptr is not None:
        value += tl.load(from_ptr + offsets).to(tl.float32)
    tl.store(to_ptr + offsets, (value + n + free + OFFSET).to(to_ptr.dtype.element_ty))


@triton.jit(do_not_specialize=["free"])
def shifted_back(to_ptr, from_ptr, n, free, d: tl.constexpr, OFFSET: tl.constexpr, LENGTH: tl.constexpr = 32):
    """Another kernel of the same arguments."""
    shifted(to_ptr, from_ptr, -n, -free, d, OFFSET, LENGTH)


class Recorder(StandIn):
    """A card that notes which kernel is launched on it, and with what."""

    def __init__(self, device):
        super().__init__()
        self.device, self.noted = device, []

    def get_current_device(self):
        return self.device

    def launcher_cls(self, source, metadata):
        compiled_for = (metadata.name, source.signature, source.constants, source.attrs, metadata.num_warps)
        runtime = [name for name in source.fn.arg_names if source.signature[name] != "constexpr"]

        def run(x, y, z, stream, function, packed, launch_metadata, enter, leave, *arguments):
            given = dict(zip(source.fn.arg_names, arguments, strict=True))
            self.noted.append((compiled_for, (x, y, z), [(name, id(given[name])) for name in runtime]))

        return run


def a_launch_is_triton_s_own():
    memory = torch.zeros(256)
    off, halves = memory[1:], memory.bfloat16()[8:]  # which begin 4 and 16 bytes after a multiple of 16
    cases = list(product((memory, off, halves), (off, halves, None), (1, 16, 17), (1, 2**31), (1, 2), (0,), (1,)))
    cases += product((memory, off), (None,), (2**31,), (3,), (16,), (0, 1), (1, 2))
    cases = [(shifted, *case) for case in cases] + [(shifted_back, *case) for case in cases[:3]]
    theirs = Recorder(-1)
    with no_card(theirs):
        for kernel, *arguments, offset, warps in cases:
            kernel[(3,)](*arguments, OFFSET=offset, num_warps=warps)
    for ours in Recorder(-2), Recorder(-3):
        for again in range(2):
            with no_card(ours):
                for kernel, *arguments, offset, warps in cases:
                    launch(kernel, 3, *arguments, OFFSET=offset, num_warps=warps)
            assert ours.noted == theirs.noted * (again + 1)


def a_launch_is_looked_up_once():
    found = []
    run = triton.runtime.JITFunction.run
    with no_card(Recorder(-1)), pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton.runtime.JITFunction, "run", lambda *a, **k: found.append(k) or run(*a, **k))
        for _ in range(3):
            launch(shifted, 1, torch.zeros(256), None, 2, 3, 4, OFFSET=5)
    assert len(found) == 1


def little_is_remembered():
    with no_card(Recorder(-1)), pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_launch, "MOST", 4)
        for free in range(2, 12):
            launch(shifted, 1, torch.zeros(256), None, 2, free, 4, OFFSET=5)
            assert 1 <= len(triton_launch._compiled) <= 4


@pytest.mark.parametrize("what", ["a_launch_is_triton_s_own", "a_launch_is_looked_up_once", "little_is_remembered"])
def test_launches(what):
    run_compiled(f"test_launch.{what}()")
