"""Whole networks: VMamba T, S, B, inference and a training step, and a training step of ZeroMamba.

Before it is timed, a network's output is compared with that of our torch path with the same weights; the gradients of
a whole step are not, since those of the scan are (`gpu.py`).
"""

import gc
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.contenders import OFLEX, RELEASED, of_vmamba
from benchmarks.timing import first_line, median_ms, name_of, peak_bytes, wrong
from zeromamba.backbones import ImageNetClassifier, build_backbone
from zeromamba.backbones.vmamba import RELEASED as RELEASED_WEIGHTS
from zeromamba.backbones.vmamba import SIZES, SizeName
from zeromamba.kernels import Impl
from zeromamba.losses import objective
from zeromamba.model import ZeroMamba

IMAGE, BATCH = 224, 64
GATES = {torch.float32: 1e-3, torch.bfloat16: 0.1}  # relative difference above which a network's output is wrong
ZEROMAMBA_IMAGE, ZEROMAMBA_BATCH, ATTRIBUTES, WORD, CLASSES = 448, 16, 312, 300, 150  # the paper's, on CUB


@dataclass(frozen=True)
class ModelRow:
    """One network at one task; figures are None where it did not run: `note` says why."""

    network: str
    variant: str
    task: str
    dtype: str
    batch: int
    image: int
    ms: float | None = None
    peak_bytes: int | None = None
    note: str = ""


def measure_models(device: torch.device, repeats: int) -> Iterator[ModelRow]:
    """Every network, implementation and precision; half precision is autocast's.

    Those of VMamba-S come first: the goals are about it, and the kernels of the other sizes are compiled on the way.
    """
    others: tuple[SizeName, ...] = ("tiny", "base")
    dtypes = (torch.bfloat16, torch.float32)
    for dtype in dtypes:
        yield from _vmambas("small", dtype, device, repeats)
        for impl in ("triton", "torch"):
            row = ModelRow("ZeroMamba small", impl, "training", name_of(dtype), ZEROMAMBA_BATCH, ZEROMAMBA_IMAGE)
            yield _measured(row, partial(_zeromamba, impl), partial(_zeromamba, "torch"), dtype, device, repeats)
    for dtype in dtypes:
        for size in others:
            yield from _vmambas(size, dtype, device, repeats)


def _vmambas(size: SizeName, dtype: torch.dtype, device: torch.device, repeats: int) -> Iterator[ModelRow]:
    makers = {impl: partial(_ours, size, impl) for impl in ("triton", "torch")}
    for variant, make in (makers | {RELEASED: partial(_released, size)}).items():
        for task in ("inference", "training"):
            row = ModelRow(f"VMamba {size}", variant, task, name_of(dtype), BATCH, IMAGE)
            yield _measured(row, make, makers["torch"], dtype, device, repeats)


def _ours(size: SizeName, impl: Impl) -> nn.Module:
    return ImageNetClassifier(build_backbone(size, impl=impl))


def _zeromamba(impl: Impl) -> nn.Module:
    return ZeroMamba(build_backbone("small", impl=impl), torch.randn(ATTRIBUTES, WORD))


def _released(size: SizeName) -> nn.Module:
    """The released network of the same shape, in its fastest mode.

    Raises:
        ImportError: it, or what it needs, cannot be imported.
    """
    if "fvcore" not in sys.modules and importlib.util.find_spec("fvcore") is None:
        sys.modules |= {"fvcore": mock.MagicMock(), "fvcore.nn": mock.MagicMock()}  # counts operations, not asked for
    module, shape = of_vmamba("vmamba"), SIZES[size]
    importlib.import_module(OFLEX)  # without it the released code falls back on a loop, which would not be its speed
    return module.VSSM(
        dims=list(shape.dims), depths=list(shape.depths), drop_path_rate=shape.drop_path, ssm_d_state=1,
        ssm_ratio=shape.ssm_ratio, ssm_dt_rank="auto", ssm_conv=3, ssm_conv_bias=False, forward_type="v05_noz",
        mlp_ratio=4.0, norm_layer="ln2d", downsample_version="v3", patchembed_version="v2", num_classes=1000,
    )  # fmt: skip


def _measured(
    row: ModelRow,
    make: Callable[[], nn.Module],
    make_twin: Callable[[], nn.Module],
    dtype: torch.dtype,
    device: torch.device,
    repeats: int,
) -> ModelRow:
    try:
        torch.manual_seed(0)
        model = _built(make, device)
        difference = _difference(model, _built(make_twin, device), row, dtype, device)
        if note := wrong(difference, GATES[dtype]):
            return replace(row, note=note)
        run = (_step if row.task == "training" else _inference)(model, row, dtype, device)
        return replace(row, ms=median_ms(run, device, repeats), peak_bytes=peak_bytes(run, device))
    except Exception as error:  # whatever it is, the others go on
        return replace(row, note=f"not run: {first_line(error)}")
    finally:
        if device.type == "cuda":
            gc.collect()  # an optimiser is in a cycle, and what it holds would count among the next network's
            torch.cuda.empty_cache()


def _built(make: Callable[[], nn.Module], device: torch.device) -> nn.Module:
    """A network whose weights are drawn on the device: a CPU would take seconds over them, for every row."""
    with device:
        return make()


@torch.inference_mode()
def _difference(model: nn.Module, twin: nn.Module, row: ModelRow, dtype: torch.dtype, device: torch.device) -> float:
    """Of the model's output for two images, to that of our torch path in float32 with the same weights; relative."""
    state = model.state_dict()
    twin.load_state_dict(RELEASED_WEIGHTS.rename(state, row.network) if row.variant == RELEASED else state)
    twin, model = twin.eval(), model.eval()
    images = torch.randn(2, 3, row.image, row.image, device=device)
    expected = twin(images)
    with _autocast(dtype, device):
        found = model(images)
    return float((found.float() - expected).norm() / expected.norm())


def _autocast(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def _inference(model: nn.Module, row: ModelRow, dtype: torch.dtype, device: torch.device) -> Callable[[], Tensor]:
    images = torch.randn(row.batch, 3, row.image, row.image, device=device)
    model.eval()

    def run() -> Tensor:
        with torch.inference_mode(), _autocast(dtype, device):
            return model(images)

    return run


def _step(model: nn.Module, row: ModelRow, dtype: torch.dtype, device: torch.device) -> Callable[[], None]:
    """Forward, backward and an SGD step; drop path as the size has it."""
    images = torch.randn(row.batch, 3, row.image, row.image, device=device)
    labels = torch.randint(CLASSES, (row.batch,), device=device)
    Z = torch.rand(CLASSES, ATTRIBUTES, device=device)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    model.train()

    def run() -> None:
        with _autocast(dtype, device):
            output = model(images)
            if isinstance(model, ZeroMamba):
                loss = objective(output, model.logits(output, Z), labels, Z, lambda_sc=1.0).total
            else:
                loss = F.cross_entropy(output, labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return run


def model_table(rows: list[ModelRow]) -> str:
    """Rows as lines for a terminal."""
    lines = []
    for row in rows:
        figures = row.note if row.ms is None else f"{row.ms:9.1f} ms {1e3 * row.batch / row.ms:8.0f} images/s"
        peak = "" if row.peak_bytes is None else f" peak {row.peak_bytes / 1e6:8.0f} MB"
        lines.append(
            f"{row.network:16}{row.variant:16}{row.task:10}{row.dtype:9}{row.batch:4} x {row.image} {figures}{peak}"
        )
    return "\n".join(lines)
