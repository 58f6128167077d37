"""What a run says of where its numbers come from."""

import os
import re
import runpy
import subprocess

from zeromamba import machine
from zeromamba.machine import commit_of


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    """A scheduler may allow fewer than the machine has; not every system tells which."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 8}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert runpy.run_path(machine.__file__)["CORES"] == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert runpy.run_path(machine.__file__)["CORES"] == 64


def test_a_run_names_the_commit_and_whether_the_code_was_changed_since(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a", *arguments], check=True)

    package = tmp_path / "zeromamba"
    package.mkdir()
    (package / "machine.py").write_text("1")
    git("init", "-q")
    assert commit_of(package) is None, "installed in a repository of something else"
    git("add", ".")
    git("commit", "-qm", "first")
    commit = commit_of(package)
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (tmp_path / "elsewhere").write_text("2")
    assert commit_of(package) == commit
    for file in (tmp_path / "train.py", package / "machine.py"):
        file.write_text("2")
        assert commit_of(package) == f"{commit}+changes"
        file.write_text("1")
        git("add", ".")
        git("commit", "-qm", "again", "--allow-empty")
        commit = commit_of(package)
        assert not commit.endswith("changes")
