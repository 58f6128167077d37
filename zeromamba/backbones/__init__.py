"""Every backbone by its name: how it is built, and its released ImageNet-1K weights."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from ..weights import Released
from . import vmamba
from .interface import Backbone, Features, ImageNetClassifier

__all__ = ["REGISTRY", "Backbone", "BackboneName", "Entry", "Features", "ImageNetClassifier", "build_backbone"]

BackboneName = Literal["nano", "tiny", "small", "base"]


@dataclass(frozen=True)
class Entry:
    """One backbone."""

    title: str  # as the paper's tables print it
    build: Callable[..., Backbone]  # called with the keyword arguments of `build_backbone`
    released: Released | None = None  # reads its released weights as the state of an `ImageNetClassifier`
    url: str | None = None  # of the file with them, whose name ends it

    @property
    def weights_file(self) -> str | None:
        """The name of the released file."""
        return self.url and self.url.rsplit("/", 1)[1]


_VMAMBA = "https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/"

REGISTRY: dict[BackboneName, Entry] = {
    "nano": Entry("VMamba-Nano", partial(vmamba.build, "nano")),
    "tiny": Entry(
        "VMamba-Tiny",
        partial(vmamba.build, "tiny"),
        vmamba.RELEASED,
        _VMAMBA + "vssm1_tiny_0230s_ckpt_epoch_264.pth",
    ),
    "small": Entry(
        "VMamba-Small",
        partial(vmamba.build, "small"),
        vmamba.RELEASED,
        _VMAMBA + "vssm_small_0229_ckpt_epoch_222.pth",
    ),
    "base": Entry(
        "VMamba-Base",
        partial(vmamba.build, "base"),
        vmamba.RELEASED,
        _VMAMBA + "vssm_base_0229_ckpt_epoch_237.pth",
    ),
}


def build_backbone(
    name: BackboneName,
    *,
    discretization: str = "euler",
    drop_path: float | None = None,
    grad_checkpoint: bool = False,
    impl: str = "auto",
) -> Backbone:
    """A new backbone with random weights.

    Args:
        name: one of `REGISTRY`.
        discretization: of the scan, "euler" (Bbar = dt B, as every released checkpoint was trained) or "zoh", (2).
        drop_path: rate of stochastic depth at the last block; None takes the backbone's published one.
        grad_checkpoint: for the backward, keep only what goes into each block and compute the rest again.
        impl: which implementation of the scan runs, see `zeromamba.kernels.ss2d`.

    Raises:
        ValueError: the name is unknown, or an argument is not for this backbone.
    """
    if name not in REGISTRY:
        raise ValueError(f"backbone: expected one of {', '.join(REGISTRY)}, got {name!r}")
    return REGISTRY[name].build(
        discretization=discretization, drop_path=drop_path, grad_checkpoint=grad_checkpoint, impl=impl
    )
