"""The scan's paths on a CPU: the reference loop, the loop as peers write it, and the vectorised one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import drawn
from benchmarks.timing import median_ms, wrong
from zeromamba.kernels import CROSS_SCAN, ss2d
from zeromamba.kernels.inputs import Inputs

BATCH, STATES = 2, 1
GATE = 1e-4  # relative difference of norms to the reference above which a time is not reported


@dataclass(frozen=True)
class CpuRow:
    """One path at one size; times are medians, in ms, None where the result was wrong."""

    path: str
    side: int  # of the map, in tokens
    b: int
    d: int
    n: int
    routes: int
    difference: float  # the largest relative difference to the reference, of y and each gradient
    forward_ms: float | None
    backward_ms: float | None
    note: str = ""


def indexing_loop(inputs: Inputs) -> Tensor:
    """The recurrence as public repositories write it, token t read by [:, :, t]; Bbar = dt B.

    The backward of each such selection writes a gradient of the whole tensor, so that all of them are quadratic in
    tokens; like VMamba's `selective_scan_torch` and Mamba's `selective_scan_ref`, whose lines these follow.
    """
    x, dt_low, dt_weight, dt_bias, A, B, C, D = inputs
    b, h, w, d = x.shape
    tokens = [route.tokens(h, w) for route in CROSS_SCAN]

    def along(maps: Tensor) -> Tensor:  # (b, h, w, k, c) to (b, k, l, c)
        return torch.stack([maps[..., k, :].flatten(1, 2)[:, order] for k, order in enumerate(tokens)], dim=1)

    dt = along(F.softplus(torch.einsum("bhwkr,kdr->bhwkd", dt_low, dt_weight) + dt_bias))
    u, B, C = along(x[..., None, :].expand(b, h, w, len(tokens), d)), along(B), along(C)
    Abar = (dt[..., None] * A[:, None]).exp()  # (b, k, l, d, n)
    Bu = dt[..., None] * B[..., None, :] * u[..., None]
    state, outputs = torch.zeros_like(Abar[:, :, 0]), []
    for t in range(h * w):
        state = Abar[:, :, t] * state + Bu[:, :, t]
        outputs.append(torch.einsum("bkdn,bkn->bkd", state, C[:, :, t]))
    y = torch.stack(outputs, dim=2) + D[:, None] * u
    return x.new_zeros(b, h * w, d).index_add(1, torch.cat(tokens), y.flatten(1, 2)).view(x.shape)


PATHS: dict[str, Callable[[Inputs], Tensor]] = {
    "reference loop": lambda inputs: ss2d(*inputs, discretization="euler", impl="reference"),
    "vectorised": lambda inputs: ss2d(*inputs, discretization="euler", impl="torch"),
    "loop that indexes tokens": indexing_loop,
}


def time_paths(sides: Sequence[int], d: int, repeats: int) -> list[CpuRow]:
    """Every path at every size of map, checked against the reference on the same inputs before its time counts."""
    rows = []
    for side in sides:
        inputs = drawn.inputs(BATCH, side, d, STATES, r=max(1, d // 32))
        dy = torch.randn(inputs.x.shape, generator=torch.Generator().manual_seed(1))
        expected = _outputs(PATHS["reference loop"], inputs, dy)
        for path, run in PATHS.items():
            size = (path, side, BATCH, d, STATES, len(CROSS_SCAN))
            found = expected if path == "reference loop" else _outputs(run, inputs, dy)
            differences = [float((f - e).norm() / e.norm()) for f, e in zip(found, expected, strict=True)]
            difference = float(np.max(differences))  # NaN too, which Python's max would pass by
            if note := wrong(difference, GATE):
                rows.append(CpuRow(*size, difference, None, None, note))
                continue
            times = _time(run, inputs, dy, 1 if run is indexing_loop else repeats)  # one of it can take a minute
            rows.append(CpuRow(*size, difference, *times))
    return rows


def _outputs(run: Callable[[Inputs], Tensor], inputs: Inputs, dy: Tensor) -> list[Tensor]:
    y = run(inputs)
    return [y.detach(), *torch.autograd.grad(y, list(inputs), dy)]  # type: ignore[arg-type]


def _time(run: Callable[[Inputs], Tensor], inputs: Inputs, dy: Tensor, repeats: int) -> tuple[float, float]:
    """Forward with what it keeps for a backward, and the backward alone."""
    device = dy.device
    y = run(inputs)
    forward = median_ms(lambda: run(inputs), device, repeats)
    backward = median_ms(
        lambda: torch.autograd.grad(y, list(inputs), dy, retain_graph=True),  # type: ignore[arg-type]
        device,
        repeats,
    )
    return forward, backward


def cpu_table(rows: list[CpuRow]) -> str:
    """The rows as a Markdown table, each time beside its ratio to the vectorised path at the same size."""
    fast = {row.side: row for row in rows if row.path == "vectorised"}
    lines = ["| map | path | forward, ms | times vectorised | backward, ms | times vectorised | difference |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        cells = [f"{row.side} x {row.side}", row.path]
        for own, best in ((row.forward_ms, fast[row.side].forward_ms), (row.backward_ms, fast[row.side].backward_ms)):
            cells += [row.note, ""] if own is None or best is None else [f"{own:.0f}", f"{own / best:.1f}"]
        cells.append(f"{row.difference:.0e}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
