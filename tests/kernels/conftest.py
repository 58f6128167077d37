"""Compiling every kernel for cards that are not here takes minutes, and so does interpreting them: side by side."""

import json
import os
import signal
import subprocess

import pytest
from compiling import REPOSITORY, start

COMPILING = pytest.StashKey()


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: "compiled" in getattr(item, "fixturenames", ()))  # last, as they wait the longest


def pytest_collection_finish(session):
    wanted = any("compiled" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly:
        program = str(REPOSITORY / "benchmarks/ahead_of_time.py")
        session.config.stash[COMPILING] = start(program, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def pytest_unconfigure(config):
    process = config.stash.get(COMPILING, None)
    if process is not None and process.poll() is None:  # the tests were interrupted
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def compiled(request):
    """What benchmarks/ahead_of_time.py counts of every configuration, as dictionaries."""
    process = request.config.stash[COMPILING]
    counted, errors = process.communicate()
    assert process.returncode == 0, errors
    return json.loads(counted)
