"""An entry point in a process of its own that SIGKILL ends at a training step: what no handler can tidy up after."""

import os
import signal
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[1]

DIES_AT_STEP = """
import os, signal, sys
from {module} import main
from zeromamba import training
flip_half, steps = training.flip_half, 0
def dying(images):
    global steps
    steps += 1
    if steps == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
    return flip_half(images)
training.flip_half = dying
main(sys.argv[1:])
"""


def run_killed(module, *arguments, step):
    """Call `main` of a module with arguments until its training has come to a step; returns what it printed."""
    process = subprocess.run(
        [sys.executable, "-c", DIES_AT_STEP.format(module=module, step=step), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPO)},
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    return process.stdout
