"""Where a model runs, and what is told of it before it does."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from zeromamba.device import check_scan
from zeromamba.kernels import op

CUDA = torch.device("cuda", 0)


@pytest.fixture
def _card():
    """Tensors on a GPU that need none: they have no data."""
    with FakeTensorMode():
        yield


@pytest.mark.usefixtures("_card")
def test_on_a_gpu_is_told_what_the_first_step_waits_for(capsys):
    for impl in ("auto", "triton"):
        check_scan(impl, CUDA)
        assert "waits minutes for Triton to compile the kernels" in capsys.readouterr().out


@pytest.mark.usefixtures("_card")
def test_on_a_gpu_without_triton_is_told_why_the_kernels_do_not_serve(capsys, monkeypatch):
    monkeypatch.setattr(op, "HAS_TRITON", False)
    check_scan("auto", CUDA)
    assert "without its Triton kernels: the package triton is not installed" in capsys.readouterr().out
    check_scan("torch", CUDA)
    assert not capsys.readouterr().out, "that is what was asked for"
    with pytest.raises(ValueError, match=r"^--scan triton: .* the package triton is not installed"):
        check_scan("triton", CUDA)


def test_on_a_cpu_there_is_nothing_to_tell(capsys):
    check_scan("auto", torch.device("cpu"))
    assert not capsys.readouterr().out
