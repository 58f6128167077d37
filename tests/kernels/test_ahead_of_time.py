"""Every kernel configuration that ships, compiled for cards that are not here, within stated budgets."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.ahead_of_time import Compiled, line

REPOSITORY = Path(__file__).resolve().parents[2]

# Per kernel, for what VMamba runs along rows in half precision and for whatever else ships (columns, windows, float32,
# exact zero-order hold, N = 16): instructions an element and direction, dt's projection and softplus among them, and
# bytes of registers spilled. A thread has 255 registers; beside those of the recurrence, `chunk_gradients` holds the
# addresses of a column or a window, and runs out.
BUDGETS = {
    "chunk_states": ((40, 0), (115, 32)),
    "chunk_outputs": ((38, 0), (70, 160)),
    "chunk_gradients": ((100, 0), (210, 640)),
    "carry_states": ((140, 0), (140, 0)),
}
PLAIN = re.compile(r"stage \d bfloat16 row( reverse)?( adjoint)?")  # the variants of the first kind


@pytest.fixture(scope="module")
def rows():
    """What benchmarks/ahead_of_time.py counts at stage 1, in a process of its own: here kernels may be interpreted."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": str(REPOSITORY)}
    program = [
        sys.executable,
        "-W",
        "ignore",
        str(REPOSITORY / "benchmarks/ahead_of_time.py"),
        "--json",
        "--stages",
        "1",
    ]
    process = subprocess.run(program, capture_output=True, text=True, env=environment, check=False)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_every_configuration_keeps_within_its_budget(rows, capsys):
    over = []
    with capsys.disabled():
        print()
        for row in rows:
            plain, other = BUDGETS[row["kernel"]]
            instructions, spilled = plain if PLAIN.fullmatch(row["variant"]) else other
            print(line(Compiled(**row)), f"of {instructions}")
            if row["per_element"] > instructions or row["spilled"] > spilled:
                over.append(row)
    assert over == []


def test_what_ships_is_there_for_both_architectures(rows):
    for sm in (80, 90):
        assert {row["kernel"] for row in rows if row["sm"] == sm} == set(BUDGETS)
