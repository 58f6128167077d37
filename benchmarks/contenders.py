"""What is timed beside each other: our implementations, and each peer that can be imported.

Three cuts, in each of which all do the same work. Axes as in `zeromamba.kernels.ss2d`.

    ss2d   from the map behind the convolution: x_proj, dt_proj, scan, merge, LayerNorm. Each in the layout that its
           network gives it: ours (b, h, w, d), VMamba's (b, d, h, w).
    scan   of this, our op alone: dt_low, B and C given. No peer has it.
    1-d    the recurrence alone, on sequences (b, k d, l) that are there already: dt, B and C given.
"""

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.drawn import parameters
from benchmarks.floors import Size
from zeromamba.kernels import Impl, selective_scan, ss2d

VMAMBA_REPO = "ZEROMAMBA_VMAMBA_REPO"
OFLEX, MAMBA, CSM = "selective_scan_cuda_oflex", "selective_scan_cuda", "csm_triton"  # modules of peers
HOW_TO_GET = {
    OFLEX: "VMamba's scan: pip install --no-build-isolation in kernels/selective_scan of "
    "github.com/MzeroMiko/VMamba, on the machine with the GPU (benchmarks/on_gpu.sh builds it, for CUDA 13 too)",
    CSM: f"VMamba's Triton cross-scan: {VMAMBA_REPO}=/path/to/a/clone of github.com/MzeroMiko/VMamba",
    MAMBA: "Mamba's scan: pip install --no-build-isolation mamba-ssm, on the machine with the GPU",
}


@dataclass(frozen=True)
class Prepared:
    """A contender on one size's tensors, ready to run."""

    forward: Callable[[], Tensor]
    leaves: list[Tensor]  # what has gradients, in the same order for all contenders of a cut
    parameters: list[Tensor]  # those of the leaves that no image has of its own
    to_own: Callable[[Tensor], Tensor]  # from the layout of our op to its own
    to_ours: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Contender:
    """One implementation of a cut."""

    name: str
    cut: str
    prepare: Callable[[dict[str, Tensor]], Prepared]
    needs: tuple[str, ...] = ()  # modules of `HOW_TO_GET`

    def obstacle(self) -> str | None:
        """Why it cannot run here, with how to get what is missing."""
        missing = [name for name in self.needs if _module(name) is None]
        return "; ".join(f"{name} cannot be imported. {HOW_TO_GET[name]}" for name in missing) or None


def _module(name: str) -> ModuleType | None:
    """A peer's module; csm_triton is a file of VMamba's repository, not an installed one."""
    try:
        return of_vmamba(name) if name == CSM else importlib.import_module(name)
    except ImportError:
        return None


def of_vmamba(name: str) -> ModuleType:
    """A module of a clone of VMamba.

    Raises:
        ImportError: there is no clone, or the module or what it needs cannot be imported.
    """
    if VMAMBA_REPO not in os.environ:
        raise ImportError(HOW_TO_GET[CSM])
    folder = Path(os.environ[VMAMBA_REPO]) / "classification/models"
    with mock.patch.object(sys, "path", [str(folder), *sys.path]):
        return importlib.import_module(name)


def draw(size: Size, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Inputs of every cut at one size, as a network at its start has them: maps in dtype, parameters float32."""
    generator = torch.Generator(device).manual_seed(0)
    b, side, d, r, n, k = size.b, size.side, size.d, size.r, size.n, size.k

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    return {
        "x": normal(b, side, side, d).to(dtype),
        "x_proj": normal(k, r + 2 * n, d) / d**0.5,
        **parameters(k, d, r, n, generator),
        "norm_weight": torch.ones(d, device=device),
        "norm_bias": torch.zeros(d, device=device),
    }


def _leaves(tensors: list[Tensor]) -> list[Tensor]:
    return [v.detach().clone().requires_grad_() for v in tensors]


def _same(v: Tensor) -> Tensor:
    return v


def _project(x: Tensor, x_proj: Tensor, r: int) -> tuple[Tensor, ...]:
    """dt_low, B, C of `ss2d`, for x_proj (k, r + 2n, d)."""
    n = (x_proj.shape[1] - r) // 2
    return F.linear(x, x_proj.flatten(0, 1)).unflatten(-1, x_proj.shape[:2]).split([r, n, n], dim=-1)


def ours(impl: Impl) -> Callable[[dict[str, Tensor]], Prepared]:
    """SS2D as `zeromamba.backbones.ss2d.SS2D` computes it."""

    def prepare(tensors: dict[str, Tensor]) -> Prepared:
        leaves = _leaves(list(tensors.values()))
        x, x_proj, dt_weight, dt_bias, A, D, gamma, beta = leaves

        def forward() -> Tensor:
            with torch.autocast(x.device.type, x.dtype, enabled=x.dtype != torch.float32):
                dt_low, B, C = _project(x, x_proj, dt_weight.shape[-1])
                y = ss2d(x, dt_low, dt_weight, dt_bias, A, B, C, D, discretization="euler", impl=impl)
                return F.layer_norm(y.float(), gamma.shape, gamma, beta).to(x.dtype)  # as CUDA's autocast does

        return Prepared(forward, leaves, leaves[1:], _same, _same)

    return prepare


def released(scan_module: str) -> Callable[[dict[str, Tensor]], Prepared]:
    """The same as VMamba's `SS2Dv2.forward_corev2` in the released models' mode v05_noz: no_einsum, oflex, ln2d."""

    def prepare(tensors: dict[str, Tensor]) -> Prepared:
        csm, cuda = _module(CSM), _module(scan_module)
        assert csm is not None
        assert cuda is not None
        first, *rest = tensors.values()
        leaves = _leaves([first.permute(0, 3, 1, 2).contiguous(), *rest])
        x, x_proj, dt_weight, dt_bias, A, D, gamma, beta = leaves
        b, d, h, w = x.shape
        k, c, _ = x_proj.shape
        r, n, l = dt_weight.shape[-1], A.shape[-1], h * w

        def forward() -> Tensor:
            with torch.autocast(x.device.type, x.dtype, enabled=x.dtype != torch.float32):
                xs = csm.cross_scan_fn(x, in_channel_first=True, out_channel_first=True, scans=0).view(b, -1, l)
                x_dbl = F.conv1d(xs, x_proj.reshape(-1, d, 1), groups=k)
                dts, Bs, Cs = x_dbl.view(b, k, c, l).split([r, n, n], dim=2)
                dts = F.conv1d(dts.contiguous().view(b, -1, l), dt_weight.reshape(k * d, r, 1), groups=k)
            ys = CudaScan.apply(
                cuda, xs, dts.contiguous().to(xs.dtype), A.view(-1, n), Bs.contiguous().to(xs.dtype),
                Cs.contiguous().to(xs.dtype), D.view(-1), dt_bias.view(-1),
            )  # fmt: skip
            y = csm.cross_merge_fn(ys.view(b, k, d, h, w), in_channel_first=True, out_channel_first=True, scans=0)
            y = F.layer_norm(y.view(b, d, h, w).permute(0, 2, 3, 1).float(), gamma.shape, gamma, beta)
            return y.permute(0, 3, 1, 2).to(x.dtype)

        return Prepared(
            forward,
            leaves,
            leaves[1:],
            lambda v: v.permute(0, 3, 1, 2).contiguous(),
            lambda v: v.permute(0, 2, 3, 1),
        )

    return prepare


def op_alone(impl: Impl) -> Callable[[dict[str, Tensor]], Prepared]:
    """Our op, with dt_low, B and C given as views of one map, as x_proj gives them."""

    def prepare(tensors: dict[str, Tensor]) -> Prepared:
        x, x_proj, dt_weight, dt_bias, A, D, *_ = tensors.values()
        k, c, _ = x_proj.shape
        r, n = dt_weight.shape[-1], A.shape[-1]
        x_dbl = F.linear(x.float(), x_proj.flatten(0, 1)).unflatten(-1, (k, c)).to(x.dtype)
        leaves = _leaves([x, x_dbl, dt_weight, dt_bias, A, D])

        def forward() -> Tensor:
            x, x_dbl, dt_weight, dt_bias, A, D = leaves
            dt_low, B, C = x_dbl.split([r, n, n], dim=-1)
            return ss2d(x, dt_low, dt_weight, dt_bias, A, B, C, D, discretization="euler", impl=impl)

        return Prepared(forward, leaves, leaves[2:], _same, _same)

    return prepare


def recurrence(run: Callable[..., Tensor]) -> Callable[[dict[str, Tensor]], Prepared]:
    """run(u, delta, A, B, C, D, delta_bias) on sequences (b, k d, l), as the CUDA scans take them."""

    def prepare(tensors: dict[str, Tensor]) -> Prepared:
        x, x_proj, dt_weight, dt_bias, A, D, *_ = tensors.values()
        k, r, n = len(x_proj), dt_weight.shape[-1], A.shape[-1]
        low, B, C = _project(x.float(), x_proj, r)
        z = torch.einsum("bhwkr,kdr->bkdhw", low, dt_weight).flatten(1, 2).flatten(2).to(x.dtype).contiguous()
        u = x.permute(0, 3, 1, 2).flatten(2).repeat(1, k, 1)
        B, C = (v.permute(0, 3, 4, 1, 2).flatten(3).to(x.dtype).contiguous() for v in (B, C))  # (b, k, n, l)
        leaves = _leaves([u, z, A.reshape(-1, n), B, C, D.reshape(-1), dt_bias.reshape(-1)])
        return Prepared(lambda: run(*leaves), leaves, [leaves[2], *leaves[5:]], _same, lambda v: v.mT)

    return prepare


def _our_recurrence(impl: Impl) -> Callable[..., Tensor]:
    def run(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
        y = selective_scan(u, delta, A, B, C, D, None, bias, delta_softplus=True, impl=impl)
        assert isinstance(y, Tensor)
        return y

    return run


def _their_recurrence(module: str) -> Callable[..., Tensor]:
    return lambda *tensors: CudaScan.apply(_module(module), *tensors)


class CudaScan(torch.autograd.Function):
    """A peer's compiled scan, delta through softplus: selective_scan_cuda_oflex (float32 y) or selective_scan_cuda."""

    @staticmethod
    def forward(
        ctx: Any, module: ModuleType, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
    ) -> Tensor:
        ctx.module, ctx.oflex = module, module.__name__ == OFLEX
        if ctx.oflex:
            y, states, *_ = module.fwd(u, delta, A, B, C, D, bias, True, 1, True)
        else:
            y, states, *_ = module.fwd(u, delta, A, B, C, D, None, bias, True)
        ctx.save_for_backward(u, delta, A, B, C, D, bias, states)
        return y

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, A, B, C, D, bias, states = ctx.saved_tensors
        dy = dys[0].contiguous()
        if ctx.oflex:
            gradients = ctx.module.bwd(u, delta, A, B, C, D, bias, dy, states, True, 1)
        else:
            gradients = ctx.module.bwd(u, delta, A, B, C, D, None, bias, dy, states, None, None, True, False)
        du, ddelta, dA, dB, dC, dD, dbias, *_ = gradients
        return None, du, ddelta, dA, dB, dC, dD, dbias


RELEASED = "VMamba released"
CONTENDERS = (
    Contender("torch", "ss2d", ours("torch")),
    Contender("triton", "ss2d", ours("triton")),
    Contender(RELEASED, "ss2d", released(OFLEX), (CSM, OFLEX)),
    Contender("VMamba with mamba-ssm's scan", "ss2d", released(MAMBA), (CSM, MAMBA)),
    Contender("torch", "scan", op_alone("torch")),
    Contender("triton", "scan", op_alone("triton")),
    Contender("torch", "1-d", recurrence(_our_recurrence("torch"))),
    Contender("triton", "1-d", recurrence(_our_recurrence("triton"))),
    Contender("VMamba's CUDA scan", "1-d", recurrence(_their_recurrence(OFLEX)), (OFLEX,)),
    Contender("mamba-ssm's CUDA scan", "1-d", recurrence(_their_recurrence(MAMBA)), (MAMBA,)),
)
