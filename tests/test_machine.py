"""What a run says of where its numbers come from."""

import os
import re
import runpy
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from zeromamba import machine
from zeromamba.machine import commit_of


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    """A scheduler may allow fewer than the machine has; not every system tells which."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 8}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert runpy.run_path(machine.__file__)["CORES"] == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert runpy.run_path(machine.__file__)["CORES"] == 64


def test_a_run_names_its_packages_its_device_and_its_commit(monkeypatch):
    def without_timm(package):
        if package == "timm":
            raise PackageNotFoundError
        return version(package)

    monkeypatch.setattr(machine, "version", without_timm)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    found = machine.versions(torch.device("cuda", 1))
    assert (found["numpy"], found["timm"], found["device"]) == (np.__version__, None, "card 1")
    assert found["commit"] == commit_of(Path(machine.__file__).parent)


def test_a_run_names_the_commit_and_whether_the_code_was_changed_since(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a", *arguments], check=True)

    package = tmp_path / "zeromamba"
    package.mkdir()
    (package / "machine.py").write_text("1")
    assert commit_of(package) is None, "no clone"
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
    monkeypatch.setenv("PATH", "")
    assert commit_of(package) is None, "no git"
