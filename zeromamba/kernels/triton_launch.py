"""Launches of kernels, in about 0.4 of the time that Triton's own take of the host.

Triton finds what a kernel was compiled to by the type, the value and the alignment of each argument, and looks for
changes of every global that the kernel reads. Here, what served a launch before serves those with the same arguments
(`benchmarks/host.py` times it).
"""

from typing import Any

from triton.compiler import CompiledKernel
from triton.runtime import JITFunction
from triton.runtime import driver as drivers

MOST = 4096  # launches remembered; a network on images of one size has a few hundred
_compiled: dict[tuple[Any, ...], tuple[CompiledKernel, tuple[None, ...]]] = {}


def launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    """Launch `programs` programs of a kernel on the current device and stream, as `kernel[(programs,)]` does.

    Triton's knobs, and hooks of the kernel, count as they were at its first launch with such arguments; launch hooks
    count always.

    Args:
        kernel: made by `triton.jit`.
        arguments: the kernel's first ones: tensors, ints and None.
        constants: its others, known at compile time, and Triton's options.
    """
    if not isinstance(kernel, JITFunction):  # it is interpreted
        kernel[(programs,)](*arguments, **constants)
        return
    # No less than what Triton compiles a kernel anew for: of a tensor, its dtype and whether it begins at a multiple of
    # 16 bytes; of a number, what divides it, and how many bits it takes.
    key = (
        id(kernel),
        drivers.active.get_current_device(),
        *constants,
        *constants.values(),
        *[v if v is None or v.__class__ is int else (v.dtype, v.data_ptr() % 16) for v in arguments],
    )
    if (known := _compiled.get(key)) is not None:
        compiled, rest = known
        compiled[(programs, 1, 1)](*arguments, *rest)
        return
    compiled = kernel[(programs,)](*arguments, **constants)
    if isinstance(compiled, CompiledKernel):  # not one that another thread still compiles
        if len(_compiled) >= MOST:
            _compiled.clear()
        _compiled[key] = compiled, (None,) * (len(kernel.params) - len(arguments))  # constants' places
