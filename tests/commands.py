"""Commands as users meet them: in processes of their own, killed, which no handler can tidy up after, or in error."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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


def run_python(*arguments, path=REPO):
    """A whole process of Python that imports from a path; its output is text."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def run_killed(module, *arguments, step):
    """Call `main` of a module with arguments until its training has come to a step; returns what it printed."""
    process = run_python("-c", DIES_AT_STEP.format(module=module, step=step), *arguments)
    assert process.returncode == -signal.SIGKILL, process.stderr
    return process.stdout


def error_of(main, *arguments):
    """The message that a command ends with."""
    with pytest.raises(SystemExit) as end:
        main([*map(str, arguments)])
    assert isinstance(end.value.code, str), "a clear error, not a usage text"
    return end.value.code
