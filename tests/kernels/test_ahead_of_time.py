"""Every kernel configuration that ships, compiled for cards that are not here, within stated budgets."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scans import make

from benchmarks.ahead_of_time import Compiled, line, recorded_launches, specialise
from zeromamba.kernels import SS2D, triton_ss2d
from zeromamba.kernels.inputs import Inputs

REPOSITORY = Path(__file__).resolve().parents[2]

# Instructions an element and direction, dt's projection and softplus among them: of what VMamba runs along rows in half
# precision, and of whatever else ships (orders by a table, float32, exact zero-order hold, N = 16, windows, dt given).
INSTRUCTIONS = {
    "chunk_states": (36, 56),
    "chunk_outputs": (36, 56),
    "chunk_gradients": (84, 120),
    "carry_states": (140, 140),
    "fill_order": (90, 90),  # a token
}
PLAIN = re.compile(r"stage \d bfloat16 row( reverse)?( adjoint)?")
# Bytes of registers spilled: none in any configuration of VMamba; a few words with exact zero-order hold and N = 16.
VMAMBA = re.compile(r"stage \d \w+ (row|table)( reverse)?( adjoint)?")
SPILLED_BY_OTHERS = 40


def run_compiled(*program: str) -> str:
    """What a Python program prints in a process of its own: in this one kernels may be interpreted."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join((str(REPOSITORY), str(Path(__file__).parent)))
    command = [sys.executable, "-W", "ignore", *program]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def rows():
    return json.loads(run_compiled(str(REPOSITORY / "benchmarks/ahead_of_time.py"), "--json", "--stages", "1"))


def test_every_configuration_keeps_within_its_budget(rows, capsys):
    over = []
    with capsys.disabled():
        print()
        for row in rows:
            plain, other = INSTRUCTIONS[row["kernel"]]
            instructions = plain if PLAIN.fullmatch(row["variant"]) else other
            spilled = 0 if VMAMBA.fullmatch(row["variant"]) else SPILLED_BY_OTHERS
            print(line(Compiled(**row)), f"of {instructions}")
            if row["per_element"] > instructions or row["spilled"] > spilled:
                over.append(row)
    assert over == []


def test_what_ships_is_there_for_both_architectures(rows):
    for sm in (80, 90):
        assert {row["kernel"] for row in rows if row["sm"] == sm} == set(INSTRUCTIONS)


def compiled_for(b, h, w, dtype):
    """Every kernel that a map (b, h, w) launches, with all that makes Triton compile it anew."""
    inputs = Inputs(*(v.to("meta") for v in make(b, h, w, d=64, dtype=dtype)))
    with recorded_launches() as noted:
        y, _, kept = triton_ss2d.forward(inputs, SS2D, "euler", True)
        triton_ss2d.backward(y, kept, inputs, SS2D, "euler", True)
    return [(launch.kernel, specialise(launch)) for launch in noted]


def all_sizes_compile_to_the_same():
    for dtype in (torch.float32, torch.bfloat16):
        first = compiled_for(1, 1, 1, dtype)
        # an order, states of 4 routes and a carry, there and back; outputs of 2 orders; gradients of 4 routes
        assert len(first) == 18
        for size in ((2, 7, 9), (16, 28, 28), (300, 4, 4)):
            assert compiled_for(*size, dtype) == first, size


def test_one_compiled_kernel_serves_every_size_of_map_and_batch():
    run_compiled("-c", "import test_ahead_of_time; test_ahead_of_time.all_sizes_compile_to_the_same()")
