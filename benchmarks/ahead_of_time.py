"""Compile every kernel as it is launched, for cards that are not here, and count what came out.

    python benchmarks/ahead_of_time.py            a table for sm_80 and sm_90
    python benchmarks/ahead_of_time.py --json     the same for machines

The launches are recorded from the host code itself, run on tensors without data, so that what is counted is what
ships. Instructions are those of the machine code, one for each time that it is written down; the loops over tokens
are unrolled and those over chunks are not, so per element and direction means: of one chunk.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from zeromamba.kernels import SS2D, triton_ss2d
from zeromamba.kernels.inputs import Inputs
from zeromamba.kernels.triton_math import BLOCK_L

KERNELS = ("chunk_states", "carry_states", "chunk_outputs", "chunk_gradients")
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
STAGES = {1: (56, 192, 6), 2: (28, 384, 12), 3: (14, 768, 24), 4: (7, 1536, 48)}  # map side, d, r: VMamba-S at 224


@dataclass(frozen=True)
class Compiled:
    """A kernel's machine code, counted."""

    kernel: str
    variant: str
    sm: int
    registers: int
    spilled: int  # bytes of stack a thread
    shared: int  # bytes a program
    instructions: int
    per_element: float  # instructions a warp over elements and directions of a chunk, 32 to a warp


@dataclass(frozen=True)
class Launch:
    """What the host code launched a kernel with."""

    kernel: str
    arguments: dict[str, Any]
    num_warps: int


@contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """Within, kernels are not launched but noted."""
    launches: list[Launch] = []

    class Recorder:
        def __init__(self, name: str, names: list[str]) -> None:
            self.name, self.names = name, names

        def __getitem__(self, grid: Any) -> "Recorder":
            return self

        def __call__(self, *args: Any, num_warps: int, **kwargs: Any) -> None:
            arguments = dict(zip(self.names, args, strict=False)) | kwargs
            launches.append(Launch(self.name, arguments, num_warps))

    recorders = {name: Recorder(name, getattr(triton_ss2d, name).arg_names) for name in KERNELS}
    with mock.patch.multiple(triton_ss2d, **recorders):  # type: ignore[call-overload]
        yield launches


def launches(stage: int, dtype: torch.dtype, discretization: str, n: int, backward: bool) -> list[Launch]:
    """All launches of one SS2D, each kind once."""
    side, d, r = STAGES[stage]
    b, k = 2, len(SS2D)

    def empty(*shape: int, of: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=of, device="meta")

    inputs = Inputs(
        x=empty(b, side, side, d),
        dt_low=empty(b, side, side, k, r),
        dt_weight=empty(k, d, r, of=torch.float32),
        dt_bias=empty(k, d, of=torch.float32),
        A=empty(k, d, n, of=torch.float32),
        B=empty(b, side, side, k, n),
        C=empty(b, side, side, k, n),
        D=empty(k, d, of=torch.float32),
    )
    with recorded_launches() as noted:
        y, _, kept = triton_ss2d.forward(inputs, SS2D, discretization, True)
        if backward:
            noted.clear()
            triton_ss2d.backward(y, kept, inputs, SS2D, discretization, True)
    return noted


def compile_launch(launch: Launch, sm: int) -> Any:
    """Compile as Triton would at this launch: it makes 1 a constant, and marks what 16 divides."""
    kernel = getattr(triton_ss2d, launch.kernel)
    signature, constants, attributes = {}, {}, {}
    for i, param in enumerate(kernel.params):
        value = launch.arguments[param.name]
        if isinstance(value, torch.Tensor):
            signature[param.name], divisible = TYPES[value.dtype], True
        elif param.is_constexpr or value is None or (value == 1 and not param.do_not_specialize):
            signature[param.name], constants[param.name], divisible = "constexpr", value, False
        else:
            signature[param.name], divisible = "i32", value % 16 == 0 and not param.do_not_specialize
        if divisible:
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", sm, 32), options={"num_warps": launch.num_warps})


def count(launch: Launch, variant: str, sm: int) -> Compiled:
    """Registers, spills, shared memory and instructions of a launch's machine code."""
    cubin = compile_launch(launch, sm).asm["cubin"]
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, sass = (
            subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("--dump-resource-usage", "-sass")
        )
    resources = {name: int(value) for name, value in re.findall(r"(REG|STACK|SHARED):(\d+)", usage)}
    operations = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)", sass)
    instructions = sum(operation != "NOP" for operation in operations)
    routes = launch.arguments.get("ROUTES", 1)
    elements = BLOCK_L * launch.arguments["BLOCK_D"] * routes / 32 / launch.num_warps
    if launch.kernel == "carry_states":
        elements /= BLOCK_L
    return Compiled(
        launch.kernel,
        variant,
        sm,
        resources["REG"],
        resources["STACK"],
        resources["SHARED"],
        instructions,
        round(instructions / elements, 1),
    )


def variants() -> Iterator[tuple[str, Launch]]:
    """Every configuration that ships, at the shapes of VMamba."""
    for stage in STAGES:
        for dtype in (torch.bfloat16, torch.float32):
            for backward in (False, True):
                for launch in launches(stage, dtype, "euler", 1, backward):
                    a = launch.arguments
                    if launch.kernel == "carry_states" and (stage > 1 or backward or dtype == torch.float32):
                        continue
                    names = [f"stage {stage}", str(dtype).removeprefix("torch.")]
                    names += ["column" if a.get("COLUMN") else "row"] + ["adjoint"] * bool(a.get("ADJOINT"))
                    yield " ".join(names), launch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sm", type=int, nargs="+", default=[80, 90])
    arguments = parser.parse_args()
    rows = []
    for name, launch in variants():
        for sm in arguments.sm:
            rows.append(count(launch, name, sm))
            if not arguments.json:
                r = rows[-1]
                print(
                    f"{r.kernel:16} {r.variant:28} sm_{r.sm} registers {r.registers:3} spilled {r.spilled:4} "
                    f"shared {r.shared:6} instructions {r.instructions:5} an element {r.per_element:6.1f}",
                    flush=True,
                )
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    main()
