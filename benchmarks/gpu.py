"""Every contender at every size on a GPU: checked first, then timed."""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.ahead_of_time import STAGES
from benchmarks.contenders import CONTENDERS, Prepared, draw
from benchmarks.floors import Card, Counts, Floors, Size, floors
from benchmarks.timing import copy_bandwidth, first_line, kept_bytes, median_ms, name_of, peak_bytes, wrong

# Difference to the torch path above which a result counts as wrong. Half precision rounds dt, B, C and the sums of
# gradients, each by 2^-9 (bfloat16), some of them in every layer of the pipeline.
GATES = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
ONE_TOKEN = 4  # the worst token of a map may differ by so many times as much, or one that is wrong would not be seen
# Image size and batch: the two of the published figures; one image; and as many tokens as the second, at 1024 x 1024.
SETTINGS = ((448, 16), (224, 128), (448, 1), (1024, 6))


@dataclass(frozen=True)
class Figures:
    """What a contender takes whose result is right."""

    forward_ms: float
    forward_backward_ms: float
    device_forward_ms: float | None  # the host's part left out
    device_forward_backward_ms: float | None
    floors_forward: Floors  # of our scan at this size, also where the contender does more or other work
    floors_forward_backward: Floors
    peak_bytes: int | None  # None on a CPU
    kept_an_element: float  # bytes


@dataclass(frozen=True)
class Row:
    """One contender at one size; without figures where it did not run, or its result was wrong: `note` says why."""

    contender: str
    cut: str
    dtype: str
    size: Size
    note: str = ""
    difference: float | None = None
    figures: Figures | None = None


def sizes() -> list[Size]:
    """The four stages of VMamba-S at every setting."""
    return [
        Size(stage, image, b, image // 2 ** (stage + 1), d, r)
        for image, b in SETTINGS
        for stage, (_, d, r) in STAGES.items()
    ]


def card(device: torch.device) -> Card:
    """The card, its copy bandwidth measured and the highest clock of its multiprocessors by nvidia-smi."""
    properties = torch.cuda.get_device_properties(device)
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits", "--id=0"]
    clock = float(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])
    return Card(properties.name, copy_bandwidth(device), properties.multi_processor_count, 1e6 * clock)


def measure(
    device: torch.device,
    card: Card,
    dtypes: tuple[torch.dtype, ...],
    counted: Counts,
    repeats: int,
) -> Iterator[Row]:
    """Rows in the order of sizes and `CONTENDERS`; a contender that cannot run is a row with a note.

    The 1-d cut comes last, at one setting: no goal is about it, its kernels are compiled on the way, and time on a GPU
    is short.
    """
    cuts = dict.fromkeys(contender.cut for contender in CONTENDERS)
    cases = [(cut, size, dtype) for dtype in dtypes for size in sizes() for cut in cuts]
    for cut, size, dtype in sorted(cases, key=lambda case: case[0] == "1-d"):
        if cut != "1-d" or (size.image, size.b) == SETTINGS[0]:
            yield from _measure_cut(cut, size, dtype, device, card, counted, repeats)


def _measure_cut(
    cut: str,
    size: Size,
    dtype: torch.dtype,
    device: torch.device,
    card: Card,
    counted: Counts,
    repeats: int,
) -> Iterator[Row]:
    contenders = [contender for contender in CONTENDERS if contender.cut == cut]
    name = name_of(dtype)
    try:  # the first contender of each cut is the torch path, here in float32
        tensors = draw(size, dtype, device)
        exact = contenders[0].prepare({key: v.float() for key, v in tensors.items()})
        shape = exact.forward().shape
        dy = torch.randn(shape, generator=torch.Generator(device).manual_seed(1), device=device).to(dtype)
        expected, _ = _results(exact, dy.float())
        del exact
    except Exception as error:  # then nothing says what is right
        for contender in contenders:
            yield Row(contender.name, cut, name, size, note=f"no result to compare with: {first_line(error)}")
        return
    least = floors(size, dtype, card, False, counted), floors(size, dtype, card, True, counted)
    for contender in contenders:
        row = Row(contender.name, cut, name, size)
        if (obstacle := contender.obstacle()) is not None:
            yield replace(row, note=obstacle)
            continue
        try:
            torch.cuda.empty_cache()
            yield _measure_one(row, contender.prepare(tensors), dy, expected, least, repeats)
        except Exception as error:  # a compiler's, out of memory, a peer's refusal: the others go on
            yield replace(row, note=f"failed: {first_line(error)}")


def _measure_one(
    row: Row, prepared: Prepared, dy: Tensor, expected: list[Tensor], least: tuple[Floors, Floors], repeats: int
) -> Row:
    found, own_dy = _results(prepared, dy)
    difference = _difference(found, expected)
    if note := wrong(difference, GATES[dy.dtype]):
        return replace(row, difference=difference, note=note)
    del found

    def forward() -> Tensor:
        with torch.no_grad():
            return prepared.forward()

    def both() -> tuple[Tensor, ...]:
        y = prepared.forward()
        return torch.autograd.grad(y, prepared.leaves, own_dy)

    device = dy.device

    def on_device(run: Callable[[], object]) -> float | None:
        if device.type == "cpu" or row.contender == "torch":  # see `LEGEND`
            return None
        return median_ms(run, device, repeats, host_ahead=True)

    figures = Figures(
        forward_ms=median_ms(forward, device, repeats),
        forward_backward_ms=median_ms(both, device, repeats),
        device_forward_ms=on_device(forward),
        device_forward_backward_ms=on_device(both),
        floors_forward=least[0],
        floors_forward_backward=least[1],
        peak_bytes=peak_bytes(both, device, beyond=True),
        kept_an_element=kept_bytes(prepared.forward, prepared.parameters) / row.size.elements,
    )
    return replace(row, difference=difference, figures=figures)


def _difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """As `LEGEND` has it; the first two results are maps, (b, ..., channels)."""
    of_all = [float((f - e).norm() / e.norm()) for f, e in zip(found, expected, strict=True)]
    of_tokens = [
        float((f - e).norm(dim=-1).amax() / e.norm(dim=-1).mean()) / ONE_TOKEN
        for f, e in zip(found[:2], expected[:2], strict=True)
    ]
    return float(np.max(of_all + of_tokens))  # NaN too, which Python's max would pass by


def _results(prepared: Prepared, dy: Tensor) -> tuple[list[Tensor], Tensor]:
    """y and every gradient, float32, maps in our layout; and dy as the contender takes it."""
    y = prepared.forward()
    own_dy = prepared.to_own(dy).to(y.dtype)
    dx, *rest = torch.autograd.grad(y, prepared.leaves, own_dy)
    return [prepared.to_ours(y.detach()).float(), prepared.to_ours(dx).float(), *(g.float() for g in rest)], own_dy


def kernel_times(device: torch.device) -> str:
    """Where our scan's time goes, kernel by kernel: forward and backward, at the first and the last stage of a network.

    To be asked for after all timing: a profiler may leave launches slower than they were.
    """
    scan = next(c for c in CONTENDERS if (c.name, c.cut) == ("triton", "scan"))
    tables = []
    for size in (sizes()[0], sizes()[3]):
        prepared = scan.prepare(draw(size, torch.bfloat16, device))
        dy = torch.randn_like(prepared.forward())
        torch.autograd.grad(prepared.forward(), prepared.leaves, dy)
        torch.cuda.synchronize(device)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            torch.autograd.grad(prepared.forward(), prepared.leaves, dy)
            torch.cuda.synchronize(device)
        times = profile.key_averages().table(sort_by="self_device_time_total", row_limit=15)
        tables.append(f"scan, bfloat16, stage {size.stage}, {size.image} px, batch {size.b}:\n{times}")
    return "\n".join(tables)


def table(rows: list[Row]) -> str:
    """Rows as lines for a terminal."""
    lines = [
        f"{'cut':5}{'contender':29}{'dtype':9}{'stage':>6}{'image':>6}{'batch':>6}{'fwd ms':>9}{'floor':>7}"
        f"{'f+b ms':>9}{'floor':>7}{'device fwd, f+b ms':>20}{'instr. fwd, f+b ms':>20}{'peak MB':>9}{'kept B':>7}"
        f"{'differ':>8}"
    ]
    for row in rows:
        s, f = row.size, row.figures
        start = f"{row.cut:5}{row.contender:29}{row.dtype:9}{s.stage:6}{s.image:6}{s.b:6}"
        if f is None:
            lines.append(f"{start}  {row.note.partition('. ')[0]}")
            continue
        cells, issue = "", []
        busy = [f"{ms:.3f}" for ms in (f.device_forward_ms, f.device_forward_backward_ms) if ms is not None]
        for ms, floor in ((f.forward_ms, f.floors_forward), (f.forward_backward_ms, f.floors_forward_backward)):
            cells += f"{ms:9.3f}" + (f"{floor.highest / ms:7.0%}" if row.cut == "scan" else f"{'':7}")
            if row.cut == "scan" and row.contender == "triton" and floor.instructions is not None:
                issue.append(f"{floor.instructions:.3f}")
        lines.append(
            f"{start}{cells}{', '.join(busy):>20}{', '.join(issue):>20}"
            f"{(f.peak_bytes or 0) / 1e6:9.0f}{f.kept_an_element:7.1f}{row.difference or 0:8.0e}"
        )
    return "\n".join(lines)
