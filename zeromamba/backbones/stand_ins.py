"""Vim, LocalVim and LocalVMamba at a size for CPUs and tests, as "nano" is of VMamba: the same blocks, no weights."""

from .local_mamba import LOCAL_VIM, LOCAL_VMAMBA_SMALL
from .local_vim import LocalVim
from .local_vmamba import LocalVMamba
from .vim import Vim

BLOCKS = 4
STATE = 4  # the released models' is 16


def vim_nano(*, drop_path: float | None = None, discretization: str, grad_checkpoint: bool, impl: str) -> Vim:
    """128 channels."""
    return Vim(
        128,
        BLOCKS,
        state=STATE,
        drop_path=drop_path or 0.0,
        discretization=discretization,
        grad_checkpoint=grad_checkpoint,
        impl=impl,
    )


def local_vim_nano(
    *, drop_path: float | None = None, discretization: str, grad_checkpoint: bool, impl: str
) -> LocalVim:
    """64 channels, and the directions of LocalVim's first layers."""
    return LocalVim(
        64,
        LOCAL_VIM[:BLOCKS],
        state=STATE,
        drop_path=drop_path or 0.0,
        discretization=discretization,
        grad_checkpoint=grad_checkpoint,
        impl=impl,
    )


def local_vmamba_nano(
    *, drop_path: float | None = None, discretization: str, grad_checkpoint: bool, impl: str
) -> LocalVMamba:
    """A block a stage, from 16 channels on, and the directions of LocalVMamba-Small's first blocks."""
    return LocalVMamba(
        (16, 32, 64, 128),
        (1,) * BLOCKS,
        LOCAL_VMAMBA_SMALL[:BLOCKS],
        state=STATE,
        drop_path=drop_path or 0.0,
        discretization=discretization,
        grad_checkpoint=grad_checkpoint,
        impl=impl,
    )
