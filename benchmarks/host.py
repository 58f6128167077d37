"""How long the host takes for one call of the Triton kernels: no call, however few its tokens, takes less.

    python benchmarks/host.py

No GPU is needed: the driver that stands in for CUDA's lets Triton compile and find its kernels as always, and then
launches nothing. What is timed is Python's and PyTorch's part, all but CUDA's own share of a launch, on one thread;
PyTorch's few operators beside the kernels run on CPU tensors so small that their work does not show.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file: the folder above, not this one

from benchmarks import drawn
from benchmarks.timing import median_ms
from zeromamba.kernels import op, ss2d, triton_ss2d

SIDE, D, R = 7, 192, 6  # of the map in tokens, channels and dt's rank: VMamba-S's first stage, but for the map


@dataclass(frozen=True)
class HostRow:
    """The host's part of one call."""

    part: str
    launches: int  # of Triton kernels
    us: float  # median, in microseconds
    tritons_us: float  # the same, with every launch by Triton itself: see `zeromamba.kernels.triton_launch`


class StandIn:
    """What Triton asks of a driver, as a card of sm_`sm` would answer; launches are counted, and left at that."""

    def __init__(self, sm: int = 90) -> None:
        self.sm = sm
        self.launches = 0
        self.utils = self

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        def launch(*arguments: Any) -> None:
            self.launches += 1

        return launch

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[int, ...]:
        return 1, 1, 32, 0, 1024  # module, function, registers, spilled, threads

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 227 << 10, "max_num_regs": 1 << 16, "multiprocessor_count": 132, "warpSize": 32}

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.sm, 32)

    def get_current_device(self) -> int:
        return -self.sm  # of no card: Triton keeps loaded kernels by device

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def no_card(stand_in: StandIn | None = None) -> Iterator[StandIn]:
    """Within, the op takes tensors of the CPU for a card's, and nothing is launched on any."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("TRITON_INTERPRET=1: kernels are interpreted, so nothing is launched; unset it")
    stand_in, before = stand_in or StandIn(), driver._active
    driver.set_active(stand_in)
    try:
        with mock.patch.object(op, "triton_obstacle", return_value=None):
            yield stand_in
    finally:
        driver._active = before


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, PyTorch computes on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def host_times(repeats: int = 500) -> list[HostRow]:
    """A forward without gradients, one that keeps what the backward needs, and both, of maps in bfloat16."""
    inputs = drawn.inputs(1, SIDE, D, 1, R)
    projected = torch.cat([inputs.dt_low, inputs.B, inputs.C], dim=-1).bfloat16()
    dt_low, B, C = projected.split([R, 1, 1], dim=-1)  # views, as in the networks
    x, dt_low, B, C = (v.detach().requires_grad_() for v in (inputs.x.bfloat16(), dt_low, B, C))
    inputs = inputs._replace(x=x, dt_low=dt_low, B=B, C=C)
    dy = torch.zeros_like(inputs.x)

    def forward() -> torch.Tensor:
        return ss2d(*inputs, discretization="euler", impl="triton")

    def both() -> None:
        torch.autograd.grad(forward(), list(inputs), dy)  # type: ignore[arg-type]

    parts: dict[str, Callable[[], Any]] = {
        "forward, no gradients wanted": torch.no_grad()(forward),
        "forward": forward,
        "forward and backward": both,
    }
    rows = []
    with one_thread(), no_card() as card:
        for part, run in parts.items():
            run()
            before = card.launches
            run()
            launches = card.launches - before
            us = 1e3 * median_ms(run, torch.device("cpu"), repeats)
            with mock.patch.object(triton_ss2d, "launch", _tritons_launch):
                tritons_us = 1e3 * median_ms(run, torch.device("cpu"), repeats)
            rows.append(HostRow(part, launches, us, tritons_us))
    return rows


def _tritons_launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    kernel[(programs,)](*arguments, **constants)


def host_table(rows: list[HostRow]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| the host's part of a call | launches | us | with Triton's own launches |",
        "| --- | ---: | ---: | ---: |",
    ]
    return "\n".join(lines + [f"| {row.part} | {row.launches} | {row.us:.0f} | {row.tritons_us:.0f} |" for row in rows])


if __name__ == "__main__":
    print(host_table(host_times()))
