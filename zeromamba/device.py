"""Where and how a model runs: the device, the precision of its forward, the implementation of its scan."""

from contextlib import AbstractContextManager
from typing import Any

import torch

from .kernels.inputs import Inputs
from .kernels.op import choose
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


def check_scan(settings: Settings, device: torch.device) -> None:
    """Raise ValueError if an implementation of the scan that was asked for by name cannot serve on the device."""
    inputs = Inputs(*[torch.empty(1, device=device)] * len(Inputs._fields))
    try:
        choose(settings.scan, inputs)
    except ValueError as error:
        raise ValueError(f"--scan {settings.scan}: {error}, and --scan auto takes what can") from error


def autocast(settings: Settings, device: torch.device) -> AbstractContextManager[Any]:
    """The precision of the forward."""
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16")
