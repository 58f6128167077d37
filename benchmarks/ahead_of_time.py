"""Compile every kernel as it is launched, for cards that are not here, and count what came out.

    python benchmarks/ahead_of_time.py               a table for sm_80 and sm_90
    python benchmarks/ahead_of_time.py --json        the same for machines, an object a line
    python benchmarks/ahead_of_time.py --stages 1    of VMamba at some stages only; all take minutes

The launches are recorded from the host code itself, run on tensors without data, so that what is counted is what
ships. Instructions are counted as they stand in the machine code. Loops over tokens are unrolled and those over chunks
are not, so per element and direction means: of one chunk. The loop over states is not unrolled either, nor in
float32 that over dt's rank, so N = 16, and float32 at later stages, execute more.
"""

import argparse
import json
import multiprocessing
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from zeromamba.kernels import CROSS_SCAN, Route, triton_ss2d
from zeromamba.kernels.inputs import Inputs
from zeromamba.kernels.triton_math import BLOCK_L

ALIKE = ("fill_order", "fill_weight", "carry_states")  # small, and nearly alike wherever they run: compiled once
EXECUTABLE, NOP = 4, 0x918  # ELF's flag of a section of code, and the opcode
STAGES = {1: (56, 192, 6), 2: (28, 384, 12), 3: (14, 768, 24), 4: (7, 1536, 48)}  # map side, d, r: VMamba-S at 224


@dataclass(frozen=True)
class Compiled:
    """A kernel's machine code, counted."""

    kernel: str
    stage: int
    dtype: str  # without "torch."
    order: str  # how it meets the tokens: along rows or by a table, and in which direction
    special: str  # what sets it apart from what VMamba runs: "zoh", "N=16", ...; or nothing
    backward: bool  # the pass that it belongs to
    sm: int
    registers: int
    spilled: int  # bytes of stack a thread
    shared: int  # bytes a program
    instructions: int
    per_element: float  # instructions of all threads over elements and directions of a chunk, or over what ALIKE write


@dataclass(frozen=True)
class Launch:
    """What the host code launched a kernel with."""

    kernel: str
    arguments: dict[str, Any]
    options: dict[str, Any]  # the compiler's

    @property
    def order(self) -> str:
        """How the kernel meets the tokens."""
        a = self.arguments
        names = ["row" if a.get("order_ptr") is None else "table"]
        return " ".join(names + ["reverse"] * (a.get("STEP") == -1) + ["adjoint"] * bool(a.get("ADJOINT")))


@dataclass(frozen=True)
class Scan:
    """A scan of maps of a stage of VMamba-S."""

    stage: int = 1
    dtype: torch.dtype = torch.bfloat16
    discretization: str = "euler"
    n: int = 1
    routes: tuple[Route, ...] = CROSS_SCAN
    dt_given: bool = False  # without dt's weight and softplus
    channels: int | None = None  # other than the stage's


WINDOWS, BOTH_WAYS = (Route(window=7), Route(window=7, reverse=True)), (Route(), Route(reverse=True))
# What other models and eq. (2) run: LocalMamba's windows, Mamba's op, channels that fill no block (VMamba-T's stage 1).
SPECIAL = {
    "zoh": Scan(discretization="zoh"),
    "N=16": Scan(n=16),
    "windowed": Scan(routes=WINDOWS),
    "dt-given": Scan(routes=BOTH_WAYS, dt_given=True),
    "d=96": Scan(routes=BOTH_WAYS, channels=96),
}


@dataclass(frozen=True)
class Variant:
    """A launch to compile, and what it is of: see `Compiled`."""

    scan: Scan
    backward: bool
    launch: Launch
    special: str = ""


@contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """Within, kernels are not launched but noted."""
    launches: list[Launch] = []

    def note(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
        given = dict(zip(kernel.arg_names, arguments, strict=False)) | constants
        options = {name: given.pop(name) for name in constants if name not in kernel.arg_names}
        launches.append(Launch(kernel.fn.__name__, given, options))

    with mock.patch.object(triton_ss2d, "launch", note):
        yield launches


def launches(scan: Scan, backward: bool) -> list[Launch]:
    """All launches of a scan, each kind once."""
    side, d, r = STAGES[scan.stage]
    b, d, n, k = 2, scan.channels or d, scan.n, len(scan.routes)

    def empty(*shape: int, of: torch.dtype = scan.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=of, device="meta")

    # views of one projection, as in the networks: kernels are compiled for their strides
    dt_low, B, C = empty(b, side, side, k, r + 2 * n).split([r, n, n], dim=-1)
    inputs = Inputs(
        x=empty(b, side, side, d),
        dt_low=empty(b, side, side, k, d) if scan.dt_given else dt_low,
        dt_weight=None if scan.dt_given else empty(k, d, r, of=torch.float32),
        dt_bias=empty(k, d, of=torch.float32),
        A=empty(k, d, n, of=torch.float32),
        B=B,
        C=C,
        D=empty(k, d, of=torch.float32),
    )
    choices = (scan.routes, scan.discretization, not scan.dt_given)
    with recorded_launches() as noted:
        y, _, kept = triton_ss2d.forward(inputs, *choices)
        if backward:
            noted.clear()
            triton_ss2d.backward(y, kept, inputs, *choices)
    return noted


def specialise(launch: Launch, sm: int) -> dict[str, dict[Any, Any]]:
    """What Triton's launcher, by its own steps, compiles a kernel for at this launch: versions differ in them."""
    kernel = getattr(triton_ss2d, launch.kernel)
    backend = make_backend(GPUTarget("cuda", sm, 32))
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialisation, options = bind(**launch.arguments, **launch.options)
    _, signature, constants, attributes = kernel._pack_args(backend, options, bound, specialisation, options)
    return {"signature": signature, "constexprs": constants, "attrs": attributes}


def compile_launch(launch: Launch, sm: int) -> Any:
    """Compile as Triton would at this launch."""
    source = ASTSource(fn=getattr(triton_ss2d, launch.kernel), **specialise(launch, sm))
    return triton.compile(source, target=GPUTarget("cuda", sm, 32), options=launch.options)


def count_instructions(cubin: bytes) -> int:
    """All that are not NOP of a cubin: an ELF file of 64 bits, with 16 bytes an instruction from sm_70 on.

    Read as they lie, since `cuobjdump -sass` takes a tenth of the compiler's time to print them.
    """
    table, size, number = struct.unpack_from("<Q10xHH", cubin, 0x28)
    found = 0
    for section in range(table, table + size * number, size):
        flags, start, length = struct.unpack_from("<Q8xQQ", cubin, section + 8)
        if flags & EXECUTABLE:
            operations = np.frombuffer(cubin, "<u8", length // 8, start)[::2] & 0xFFF
            found += int(np.count_nonzero(operations != NOP))
    return found


def count(variant: Variant, sm: int) -> Compiled:
    """Registers, spills, shared memory and instructions of a launch's machine code."""
    launch = variant.launch
    compiled = compile_launch(launch, sm)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    resources = {name: int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", usage.stdout)}
    instructions = count_instructions(compiled.asm["cubin"])
    a = launch.arguments
    if launch.kernel in ALIKE:
        elements = a["BLOCK_D" if launch.kernel == "carry_states" else "BLOCK"]
    else:
        elements = BLOCK_L * a["BLOCK_D"] * a.get("ROUTES", 1)
    return Compiled(
        kernel=launch.kernel,
        stage=variant.scan.stage,
        dtype=str(variant.scan.dtype).removeprefix("torch."),
        order=launch.order,
        special=variant.special,
        backward=variant.backward,
        sm=sm,
        registers=resources["REG"],
        spilled=resources["STACK"],
        shared=compiled.metadata.shared,
        instructions=instructions,
        per_element=round(instructions * 32 * launch.options["num_warps"] / elements, 1),
    )


def variants(
    stages: Iterable[int], dtypes: Iterable[torch.dtype] = (torch.bfloat16, torch.float32)
) -> Iterator[Variant]:
    """Every configuration of VMamba, each kernel once.

    All of one dtype come before the next: where time is short, the first is done.
    """
    met = set()
    for dtype, stage, backward in product(dtypes, stages, (False, True)):
        scan = Scan(stage, dtype)
        for launch in launches(scan, backward):
            if launch.kernel not in ALIKE or launch.kernel not in met:
                yield Variant(scan, backward, launch)
            met.add(launch.kernel)


def other_variants() -> Iterator[Variant]:
    """Those of `SPECIAL`, and float16."""
    for backward, (special, scan) in product((False, True), SPECIAL.items()):
        for launch in launches(scan, backward):
            if launch.kernel not in ALIKE or (launch.arguments.get("WINDOWED") and not backward):
                yield Variant(scan, backward, launch, special)
    yield from (variant for variant in variants([1], [torch.float16]) if variant.launch.kernel not in ALIKE)


def count_all(chosen: Iterable[Variant], sms: Iterable[int]) -> Iterator[Compiled]:
    """`count` of each for each architecture, in their order, on all cores."""
    work = [(variant, sm) for variant in chosen for sm in sms]
    spawn = multiprocessing.get_context("spawn")  # a process that has used CUDA must not fork
    with ProcessPoolExecutor(mp_context=spawn) as pool:
        yield from pool.map(count, *zip(*work, strict=True))


def line(row: Compiled) -> str:
    """One line of the table."""
    name = f"stage {row.stage} {row.dtype} {row.order} {row.special}"
    return (
        f"{row.kernel:16} {name:36} sm_{row.sm} registers {row.registers:3} spilled {row.spilled:4} "
        f"shared {row.shared:6} instructions {row.instructions:5} an element {row.per_element:6.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sm", type=int, nargs="+", default=[80, 90])
    parser.add_argument("--stages", type=int, nargs="+", default=list(STAGES), choices=list(STAGES))
    arguments = parser.parse_args()
    for row in count_all([*variants(arguments.stages), *other_variants()], arguments.sm):
        print(json.dumps(asdict(row)) if arguments.json else line(row), flush=True)


if __name__ == "__main__":
    main()
