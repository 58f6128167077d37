"""What a result is made on: the cores, the packages, the code."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

#: Cores that this process may use: a scheduler may allow fewer than the machine has.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(device: torch.device) -> dict[str, str | None]:
    """What a reader needs to repeat a run on this device."""
    found: dict[str, str | None] = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("zeromamba", "triton", "numpy", "scipy", "pillow", "einops", "timm"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    found["torch"] = torch.__version__  # which names its CUDA, too
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    found["commit"] = commit_of(Path(__file__).parent)
    return found


def commit_of(package: Path) -> str | None:
    """The commit of the package, with "+changes" if it has been changed since; None where it lies in no clone."""

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not git("ls-files", Path(__file__).name):  # installed, in a repository of something else
            return None
        changes = "+changes" if git("status", "--porcelain", ".", ":/train.py") else ""
        return git("rev-parse", "HEAD") + changes
    except (OSError, subprocess.CalledProcessError):
        return None
