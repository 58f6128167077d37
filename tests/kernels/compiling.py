"""Programs that compile kernels: in processes of their own, since kernels may be interpreted in that of the tests."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def start(*program, **options):
    """A Python program, in a group of processes of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join((str(REPOSITORY), str(Path(__file__).parent)))
    command = [sys.executable, "-W", "ignore", *program]
    return subprocess.Popen(command, text=True, env=environment, start_new_session=True, **options)
