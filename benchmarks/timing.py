"""How a time, a peak of memory, and what autograd keeps are measured; the same for everything that is compared."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

ENOUGH = 0.5  # seconds of repeats
FLUSH = 1 << 28  # bytes written between repeats, more than any card's L2 cache
AHEAD = 4_000_000  # clocks of a card that waits for the host: 2 ms at 2 GHz


def median_ms(run: Callable[[], Any], device: torch.device, repeats: int, *, host_ahead: bool = False) -> float:
    """Median time of at most `repeats` runs in ms, fewer (but 3) if those would take more than `ENOUGH`.

    Two runs before do not count, unless only one is asked for: they compile, and fill the allocator's pool. On a GPU
    by CUDA events, with the L2 cache overwritten before each run; launches from Python are part of it, as in use.

    Args:
        host_ahead: let a GPU wait before each run, so that of the host's part only what passes `AHEAD` is in the time.
    """
    if repeats > 1:
        run()
        _synchronize(device)
        start = time.perf_counter()
        run()
        _synchronize(device)
        repeats = min(repeats, max(3, int(ENOUGH / (time.perf_counter() - start))))
    if device.type == "cpu":
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times)
    cache = torch.empty(FLUSH, dtype=torch.int8, device=device)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start_event, end_event in events:
        cache.zero_()
        if host_ahead:
            torch.cuda._sleep(AHEAD)
        else:  # or the host would launch while the cache is overwritten, and that time would not count
            torch.cuda.synchronize(device)
        start_event.record()
        run()
        end_event.record()
    torch.cuda.synchronize(device)
    return statistics.median(start_event.elapsed_time(end_event) for start_event, end_event in events)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(run: Callable[[], Any], device: torch.device, *, beyond: bool = False) -> int | None:
    """Bytes that are allocated on a GPU at a run's peak; None on a CPU.

    Args:
        beyond: without what was there before.
    """
    if device.type == "cpu":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if beyond else 0
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def kept_bytes(forward: Callable[[], Tensor], parameters: Sequence[Tensor]) -> int:
    """Bytes of what autograd keeps from forward to backward, every storage once, without the parameters' own."""
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in parameters}

    def note(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        y = forward()
    del y
    return sum(kept.values())


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written, of a copy of 2 GiB on the device: the bandwidth of the memory floor."""
    source = torch.empty(1 << 31, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / (1e-3 * median_ms(lambda: target.copy_(source), device, repeats=20))


def first_line(error: Exception) -> str:
    """An error as a note in a table."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]


def wrong(difference: float, gate: float) -> str:
    """What a table says in place of a time where a result differs by more than the gate; empty where it is right."""
    if difference <= gate:
        return ""
    return f"WRONG by {difference:.0e}, so its time is not reported"  # NaN too


def name_of(dtype: torch.dtype) -> str:
    """A dtype as tables and files call it, "bfloat16"."""
    return str(dtype).removeprefix("torch.")
