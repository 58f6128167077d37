"""Where and how a model runs: the device, the precision of its forward, the implementation of its scan."""

from contextlib import AbstractContextManager
from typing import Any

import torch

from .kernels.inputs import Impl, Inputs
from .kernels.op import choose, triton_obstacle
from .settings import Settings


def pick_device(name: str) -> torch.device:
    """The device of a `Settings.device`.

    Raises:
        ValueError: if it cannot be used here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()  # "meta" makes one that cannot be read
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} cannot be used here: {error}") from error
    return device


def check_scan(impl: Impl, device: torch.device) -> None:
    """Check that the scan can run on a device, and print what a GPU's first step waits for, or lacks.

    Raises:
        ValueError: if an implementation that was asked for by name cannot serve there.
    """
    inputs = Inputs(*[torch.empty(1, device=device)] * len(Inputs._fields))
    try:
        chosen = choose(impl, inputs)
    except ValueError as error:
        raise ValueError(f"--scan {impl}: {error}, and --scan auto chooses what can be used") from error
    if device.type == "cuda" and chosen == "triton":
        print("note: the first step of a Mamba backbone waits minutes for Triton to compile the kernels, only once")
    elif device.type == "cuda" and impl == "auto":
        print(f"note: the scan runs without its Triton kernels: {triton_obstacle(inputs)}")


def autocast(settings: Settings, device: torch.device) -> AbstractContextManager[Any]:
    """The precision of the forward."""
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16")
