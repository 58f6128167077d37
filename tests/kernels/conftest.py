"""Compiling every kernel for cards that are not here takes minutes, and so does interpreting them: side by side."""

import json
import os
import signal
import subprocess

import pytest
from compiling import REPOSITORY, program

from benchmarks.ahead_of_time import Compiled

COMPILING = pytest.StashKey()


def waits(item):
    """Whether a test is of what has been compiled."""
    return "compiled" in getattr(item, "fixturenames", ())


def pytest_collection_modifyitems(items):
    items.sort(key=waits)


def pytest_collection_finish(session):
    wanted = any(waits(item) and not item.get_closest_marker("skip") for item in session.items)
    if wanted and not session.config.option.collectonly:
        command = program(str(REPOSITORY / "benchmarks/ahead_of_time.py"), "--json")
        # Behind the tests: threads of PyTorch wait for each other, so one whose core a compiler has keeps all waiting.
        # And in no session of its own, to which Linux would give as much time as to the tests, however nice it is.
        command["args"] = ["nice", "-n", "19", *command["args"]]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        session.config.stash[COMPILING] = subprocess.Popen(**command, **pipes, process_group=0)


def pytest_unconfigure(config):
    process = config.stash.get(COMPILING, None)
    if process is not None and process.poll() is None:  # the tests were interrupted
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def compiled(request):
    """What benchmarks/ahead_of_time.py counts of every configuration."""
    process = request.config.stash[COMPILING]
    counted, errors = process.communicate()
    assert process.returncode == 0, errors
    return [Compiled(**json.loads(line)) for line in counted.splitlines()]
