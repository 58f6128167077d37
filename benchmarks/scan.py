"""Time the scan on this machine's GPU beside every other implementation that can be imported.

Without a GPU: count the instructions of the compiled kernels, and time the host code and the CPU paths. Every result is
checked before it is timed.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
import triton

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file: the folder above, not this one

from benchmarks import ahead_of_time, plot
from benchmarks.contenders import CONTENDERS
from benchmarks.cpu_paths import BATCH, STATES, CpuRow, cpu_table, time_paths
from benchmarks.floors import LEGEND, instructions_an_element
from benchmarks.goals import goals
from benchmarks.gpu import Row, card, kernel_times, measure, table
from benchmarks.host import host_table, host_times
from benchmarks.models import ModelRow, measure_models, model_table
from zeromamba.files import write_json

R = TypeVar("R", Row, ModelRow)
STARTED = time.perf_counter()
COUNTED_SM = (80, 90)  # what kernels are compiled for; a card's own count is that of the newest not above it


@dataclass(frozen=True)
class Options:
    """What the command line asks for; see `parse`."""

    model: bool = False
    json: Path | None = None
    plot: Path | None = None
    dtypes: Sequence[str] = ("bfloat16", "float32")
    repeats: int = 20
    limit_s: float | None = None
    compile: bool = True
    counted: Path | None = None
    cpu_sides: Sequence[int] = (28, 56)
    cpu_channels: int = 192


def parse() -> Options:
    """The command line, by what every Python has: machines with a GPU may lack tyro."""
    default, parser = Options(), argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", action="store_true", help="time whole networks instead (VMamba, ZeroMamba); needs a GPU")
    add("--json", type=Path, help="file to write all measurements to")
    add("--plot", type=Path, help="file to plot the scan's times to (.png, .pdf, .svg); needs the extra `figures`")
    add("--dtypes", nargs="+", default=default.dtypes, choices=["bfloat16", "float16", "float32"],
        help="dtypes of the maps on a GPU; the goals refer to bfloat16")  # fmt: skip
    add("--repeats", type=int, default=default.repeats,
        help="largest number of timed runs (the median is reported); slow cases are repeated less")  # fmt: skip
    add("--limit-s", type=float,
        help="stop after this many seconds and report what is measured by then")  # fmt: skip
    add("--no-compile", dest="compile", action="store_false",
        help="do not compile the kernels first: leaves out their instructions and, without a GPU, the host's time"
    )  # fmt: skip
    add("--counted", type=Path,
        help="read the instructions from this output of ahead_of_time.py --json for this GPU, instead of compiling"
    )  # fmt: skip
    add("--cpu-sides", type=int, nargs="+", default=default.cpu_sides, help="without a GPU: sides of the map in tokens")
    add("--cpu-channels", type=int, default=default.cpu_channels, help="without a GPU: number of channels d")
    return Options(**vars(parser.parse_args()))


def main(options: Options) -> None:
    """Measure, print, and write what was asked for."""
    if options.plot is not None:
        if options.model:
            raise SystemExit("--plot draws the scan's times, and --model measures whole networks: leave one out")
        plot.pyplot()  # that it can be drawn, before anything is measured
    if options.model and not torch.cuda.is_available():
        raise SystemExit("--model: PyTorch finds no CUDA device here, and whole networks are timed on one only")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 is float32 for everyone
    print("  ".join(f"{key}: {value}" for key, value in environment().items()))
    if not torch.cuda.is_available():
        result = without_gpu(options)
    elif options.model:
        result = networks(options)
    else:
        result = on_gpu(options)
    write(options, result)
    if torch.cuda.is_available() and not options.model:
        print("\n" + kernel_times(torch.device("cuda")))


@cache  # what git says takes processes, which would run between measurements
def environment() -> dict[str, Any]:
    """What the figures belong to."""
    return {
        "commit": os.environ.get("ZEROMAMBA_COMMIT") or _git("describe", "--always", "--dirty", "--abbrev=12"),
        "kernels": _git("rev-parse", "--short=12", "HEAD:zeromamba/kernels"),  # the tree: a rebase leaves it
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
    }


def _git(*arguments: str) -> str:
    """What git says of this checkout."""
    command = ["git", "-C", str(Path(__file__).resolve().parents[1]), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown: no git checkout"


def _processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def without_gpu(options: Options) -> dict[str, Any]:
    """The compile-time table of stage 1, the host's part of a call, and the CPU paths."""
    print("No CUDA device here: nothing is measured on a GPU. What a compiler and a CPU can show:\n")
    compiled = compile_time(options, stages=(1,), sms=(max(COUNTED_SM),))
    host = host_times() if options.compile else []
    if host:
        print("\n" + host_table(host))
    print(f"\nCPU paths: float32, b = {BATCH}, d = {options.cpu_channels}, n = {STATES}, four routes, Bbar = dt B:\n")
    rows: list[CpuRow] = time_paths(options.cpu_sides, d=options.cpu_channels, repeats=options.repeats)
    print(cpu_table(rows))
    met = goals([], [])
    print("\n" + "\n".join(met))
    if options.plot is not None:
        plot.plot_cpu(rows, f"{_processor()}, {torch.get_num_threads()} threads", options.plot)
    return {
        "compiled": [asdict(row) for row in compiled],
        "host": [asdict(row) for row in host],
        "cpu": [asdict(row) for row in rows],
        "goals": met,
    }


def compile_time(options: Options, stages: Iterable[int], sms: Iterable[int]) -> list[ahead_of_time.Compiled]:
    """What the kernels compile to: counted before, or here, and printed as it comes."""
    if options.counted is not None:
        lines = options.counted.read_text().splitlines()
        objects = [line for line in lines if line.startswith("{") and line.endswith("}")]  # others: warnings
        rows = [ahead_of_time.Compiled(**json.loads(line)) for line in objects]
        return [row for row in rows if row.sm in sms]
    if not options.compile:
        return []
    print("Compiled ahead of time (computed, not measured; `benchmarks/ahead_of_time.py` has all stages and variants):")
    rows = []
    for row in ahead_of_time.count_all(ahead_of_time.variants(stages), sms):
        rows.append(row)
        print(ahead_of_time.line(row), flush=True)
    return rows


def on_gpu(options: Options) -> dict[str, Any]:
    """All contenders at all sizes, floors, goals."""
    device = torch.device("cuda")
    capability = 10 * torch.cuda.get_device_capability()[0] + torch.cuda.get_device_capability()[1]
    sm = max((sm for sm in COUNTED_SM if sm <= capability), default=min(COUNTED_SM))
    compiled = compile_time(options, ahead_of_time.STAGES, [sm])
    measured_card = card(device)
    print(
        f"\n{measured_card.name}: copy {measured_card.bandwidth / 1e12:.2f} TB/s measured, "
        f"{measured_card.multiprocessors} multiprocessors at {measured_card.clock / 1e9:.2f} GHz at most\n\n{LEGEND}\n"
    )
    for contender in CONTENDERS:
        if (obstacle := contender.obstacle()) is not None:
            print(f"not here: {contender.name} ({contender.cut}): {obstacle}")
    dtypes = tuple(getattr(torch, name) for name in options.dtypes)
    rows: list[Row] = []
    measured = measure(device, measured_card, dtypes, instructions_an_element(compiled), options.repeats)
    for row in in_time(measured, options):
        head, line = table([row]).splitlines()
        print(line if rows else f"\n{head}\n{line}", flush=True)
        rows.append(row)
        write_so_far(options, "rows", rows)
    met = goals(rows, [])
    print("\n" + "\n".join(met))
    if options.plot is not None:
        plot.plot_gpu(rows, f"{measured_card.name}, torch {torch.__version__}", options.plot)
    return {
        "card": asdict(measured_card),
        "compiled": [asdict(row) for row in compiled],
        "rows": [asdict(row) for row in rows],
        "goals": met,
    }


def networks(options: Options) -> dict[str, Any]:
    """Whole networks, and the goals about them."""
    rows: list[ModelRow] = []
    for row in in_time(measure_models(torch.device("cuda"), options.repeats), options):
        print(model_table([row]), flush=True)
        rows.append(row)
        write_so_far(options, "models", rows)
    met = [line for line in goals([], rows) if "VMamba-S" in line]
    print("\n" + "\n".join(met))
    return {"models": [asdict(row) for row in rows], "goals": met}


def in_time(rows: Iterator[R], options: Options) -> Iterator[R]:
    """The rows until the time limit, which is looked at between them."""
    for row in rows:
        yield row
        if options.limit_s is not None and time.perf_counter() - STARTED > options.limit_s:
            print(f"--limit-s {options.limit_s:g}: stopped here, what follows is not measured")
            return


def write_so_far(options: Options, name: str, rows: Sequence[R]) -> None:
    """Nothing measured is lost if the process is ended from outside."""
    write(options, {"unfinished": True, name: [asdict(row) for row in rows]})


def write(options: Options, result: dict[str, Any]) -> None:
    """The result and what it belongs to, if a file is asked for."""
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.json, environment() | result)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")  # of Triton 3.9, at peers' kernels
    main(parse())
