"""Programs that compile kernels: in processes of their own, since kernels may be interpreted in that of the tests."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def program(*arguments):
    """What `subprocess.run` and `Popen` are told of a Python program: the command, and as `env` its environment."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join((str(REPOSITORY), str(Path(__file__).parent)))
    return {"args": [sys.executable, "-W", "ignore", *arguments], "env": environment, "text": True}


def run_compiled(call):
    """Run a call of a module of tests, as in "test_ptx.finds_races()", where kernels are compiled."""
    command = program("-c", f"import {call.partition('.')[0]}; {call}")
    command["env"] |= {"CUDA_VISIBLE_DEVICES": ""}  # tensors must lie in the CPU's memory
    process = subprocess.run(**command, stderr=subprocess.PIPE, check=False, timeout=600)
    assert process.returncode == 0, process.stderr
