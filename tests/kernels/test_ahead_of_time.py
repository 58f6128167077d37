"""Every kernel configuration that ships, compiled for cards that are not here, within stated budgets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# Per kernel: instructions an element and direction in half precision and in float32 (dt's projection and softplus
# are among them), and bytes of registers spilled. A thread has 255 registers. Where `chunk_gradients` has the
# addresses of a column or window to hold beside everything else, a few registers do spill.
BUDGETS = {
    "chunk_states": (45, 60, 0),
    "chunk_outputs": (45, 60, 0),
    "chunk_gradients": (125, 190, 96),
    "carry_states": (140, 140, 0),
}


@pytest.fixture(scope="module")
def rows():
    """What benchmarks/ahead_of_time.py counts, in a process of its own: here kernels may be the interpreter's."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": str(REPOSITORY)}
    program = [sys.executable, "-W", "ignore", str(REPOSITORY / "benchmarks/ahead_of_time.py"), "--json", "--stages", "1", "4"]
    process = subprocess.run(program, capture_output=True, text=True, env=environment, check=False)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_every_configuration_keeps_within_its_budget(rows, capsys):
    over = []
    with capsys.disabled():
        print()
        for row in rows:
            half, single, spilled = BUDGETS[row["kernel"]]
            limit = single if "float32" in row["variant"] else half
            print(
                f"{row['kernel']:16} {row['variant']:40} sm_{row['sm']} registers {row['registers']:3} "
                f"spilled {row['spilled']:3} shared {row['shared']:5} an element {row['per_element']:6.1f} of {limit}"
            )
            if row["per_element"] > limit or row["spilled"] > spilled:
                over.append(row)
    assert over == []


def test_what_ships_is_there_for_both_architectures(rows):
    for sm in (80, 90):
        assert {row["kernel"] for row in rows if row["sm"] == sm} == set(BUDGETS)
