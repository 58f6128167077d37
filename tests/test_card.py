"""What a GPU's user may rely on: all that a network meets is where the network is. card.py stands for the GPU."""

import shlex
from importlib.util import find_spec

import pytest
import torch
from commands import REPO, run_python
from safetensors.torch import load_file

from zeromamba.figures import PACKAGES

if torch.cuda.is_available():
    pytest.skip("there is a GPU", allow_module_level=True)

BACKBONES = ("nano", "vim-nano", "localvim-nano", "localvmamba-nano")
FIGURES = ("attention", "erf") if all(map(find_spec, PACKAGES)) else ()


def run(*lines, path=REPO):
    """Commands, each (module, argument, ...), one after another in a process that has a card."""
    return run_python(REPO / "tests/card.py", *(shlex.join(map(str, line)) for line in lines), path=path)


def test_on_a_card_all_that_is_trained_measured_and_drawn_is_what_it_is_on_a_cpu(tiny, tmp_path):
    def trained(backbone, device):
        small = ("--preset", "small", "--image-size", "32", "--epochs", "1", "--workers", "0", "--drop-path", "0.2")
        where = ("--device", device, "--out", tmp_path / backbone / device)
        return ("train", "--dataset", tiny, "--backbone", backbone, *small, "--grad-checkpoint", *where)

    checkpoint = tmp_path / "nano/card/seed-0/model.safetensors"
    of_regions = tmp_path / "vim-nano/card/seed-0/model.safetensors"  # of so small an image, VMamba sees but one
    process = run(
        *(trained(backbone, device) for backbone in BACKBONES for device in ("card", "cpu")),
        ("train", "--eval", checkpoint, "--device", "card"),
        ("zeromamba.predict", checkpoint, tiny / "images/class 4/0.png", "--device", "card"),
        *(("zeromamba.figures.__main__", figure, of_regions, "--device", "card") for figure in FIGURES),
    )
    assert process.returncode == 0, process.stderr
    for backbone in BACKBONES:
        weights, expected = (load_file(tmp_path / backbone / d / "seed-0/model.safetensors") for d in ("card", "cpu"))
        for name in expected:  # PyTorch takes other operators for a device that it does not know
            torch.testing.assert_close(weights[name], expected[name], rtol=1e-3, atol=1e-5)


def test_a_tensor_that_was_left_on_the_cpu_is_noticed(tmp_path):
    (tmp_path / "forgetful.py").write_text(
        "import torch\n"
        "def main(_):\n"
        "    weight = 2.0 * torch.ones(3, device='card') * torch.tensor(2.0)\n"
        "    weight[torch.arange(2)] += weight.cpu().to('card')[:2]\n"
        "    weight.add(torch.ones(3))\n"
    )
    process = run(("forgetful",), path=tmp_path)
    assert "weight.add(torch.ones(3))" in process.stderr
    assert process.stderr.endswith("RuntimeError: add: one tensor is on the card, another on the CPU\n")
