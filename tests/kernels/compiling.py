"""Programs that compile kernels: in processes of their own, since kernels may be interpreted in that of the tests."""

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def program(*arguments):
    """What `subprocess.run` and `Popen` are told of a Python program: the command, and as `env` its environment."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join((str(REPOSITORY), str(Path(__file__).parent)))
    return {"args": [sys.executable, "-W", "ignore", *arguments], "env": environment, "text": True}
