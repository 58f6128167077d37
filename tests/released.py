"""The released VMamba and ZeroMamba, to run beside ours, and numbers that they gave once.

`ZEROMAMBA_VMAMBA_REPO` and `ZEROMAMBA_RELEASED_REPO` name clones of github.com/MzeroMiko/VMamba and of the released
ZeroMamba. `released_outputs.json` holds what they gave for weights and images that are formulas, so that the
comparison needs no clone: names and shapes of the released state dicts, and outputs. `python tests/released.py`
writes it again, with both variables set.
"""

import ast
import contextlib
import importlib
import json
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

OUTPUTS = Path(__file__).with_name("released_outputs.json")

# A model small enough to freeze: four widths that do not double, dt ranks from 1 to 4, maps of 18x10 to 3x2 tokens.
DIMS, DEPTHS, SSM_RATIO = [16, 32, 48, 64], [1, 1, 2, 1], 2.0
IMAGES, CLASSES, ATTRIBUTES = (2, 3, 72, 40), 1000, 7


def formula(shape, seed):
    """Numbers in (-1, 1) that any machine computes alike: a quadratic congruence."""
    n = np.arange(np.prod(shape, dtype=np.int64)) + 1
    values = (n * n * 7919 + n * 104729 + (seed + 1) * 1299709) % 65537
    return torch.tensor(values / 32768.5 - 1, dtype=torch.float32).reshape(tuple(shape))


def formula_state(shapes):
    """A state dict under released names: every parameter away from its start, products of about unit size."""
    state = {}
    for seed, (name, shape) in enumerate(sorted(shapes.items())):
        u = formula(shape, seed)
        if name.endswith("dt_projs_bias"):
            state[name] = u - 1
        elif name.endswith(("W1", "W2")):
            state[name] = 10 * u
        elif name.endswith(("Ds", "norm.weight", "norm2.weight")) or (len(shape) == 1 and name.endswith("weight")):
            state[name] = 1 + 0.3 * u
        elif len(shape) == 1 or name.endswith("A_logs"):
            state[name] = 0.3 * u
        else:
            fan_in = shape[-1] if len(shape) == 3 else np.prod(shape[1:])
            state[name] = u * (3 / fan_in) ** 0.5
    return state


def frozen():
    """Shapes of both released state dicts, and what they gave for the formulas: logits of 8 classes, and psi."""
    stored = json.loads(OUTPUTS.read_text())
    zeromamba = {name: [int(n) for n in shape.split()] for name, shape in stored["shapes"].items()}
    vmamba = {
        name.removeprefix("VisionMamba."): shape
        for name, shape in zeromamba.items()
        if name.startswith("VisionMamba.") and "classifier2" not in name
    }
    return SimpleNamespace(
        vmamba=vmamba,
        zeromamba=zeromamba,
        logits=torch.tensor(stored["logits"]),
        psi=torch.tensor(stored["psi"]),
        images=2 * formula(IMAGES, seed=0),
    )


def relative_difference(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


def repository(variable):
    """A clone named by an environment variable; the calling test is skipped where there is none."""
    if variable not in os.environ:
        pytest.skip(f"{variable} names no clone of the released code to compare with")
    return Path(os.environ[variable])


def vmamba_module(repo):
    return _import(repo / "classification" / "models", "released_vmamba")


def zeromamba_model(repo, w2v_att, attributes=ATTRIBUTES, **vssm):
    """The released ZeroMamba as its train.py puts it together, around a VSSM of any size.

    Its SLP knows two feature widths only; W1 and W2 are replaced by ones of the VSSM's.
    """
    backbone = _import(repo / "VisionMambaModels" / "VMamba" / "models", "released_zeromamba").VSSM(**vssm)
    args = SimpleNamespace(model_name="VMamba-S")
    backbone.classifier2 = _definition(repo / "train.py", "Classifier_custom", args=args)(w2v_att)
    for name in ("W1", "W2"):
        setattr(backbone.classifier2, name, nn.Parameter(torch.empty(w2v_att.shape[1], backbone.num_features)))
    local_mlp = nn.Sequential(nn.Linear(attributes, 512, bias=False), nn.ReLU(), nn.Linear(512, attributes, bias=False))
    clf_head = nn.Linear(CLASSES, attributes, bias=False)
    return nn.ModuleDict({"VisionMamba": backbone, "clf_head": clf_head, "clf_head2": local_mlp}).eval()


def zeromamba_psi(repo, model, images):
    unit = _definition(repo / "utils" / "helper_func.py", "l2_norm2")
    feature_map, scores = on_cpu(model["VisionMamba"], images)
    return model["clf_head"](scores) + unit(model["clf_head2"](model["VisionMamba"].classifier2(feature_map)))


def on_cpu(model, images):
    """Their scan enters `torch.cuda.device(...)` whatever the device; all else runs on a CPU."""
    with mock.patch("torch.cuda.device", return_value=contextlib.nullcontext()):
        return model(images)


def small_vssm_options():
    """Those of the model small enough to freeze."""
    return vssm_options() | {"dims": DIMS, "depths": DEPTHS, "ssm_ratio": SSM_RATIO}


def vssm_options():
    """The keyword arguments of their VSSM common to the released v2 models (configs/vssm/vmambav2*.yaml)."""
    return {
        "ssm_d_state": 1,
        "ssm_conv_bias": False,
        "forward_type": "v05_noz",
        "norm_layer": "ln2d",
        "downsample_version": "v3",
        "patchembed_version": "v2",
        "num_classes": CLASSES,
    }


def _import(folder, name):
    """Import `vmamba.py` of a folder under a name of its own, with the two packages it wants besides torch."""

    class DropPath(nn.Identity):
        def __init__(self, rate):
            super().__init__()
            self.drop_prob = rate

    stubs = {stub: ModuleType(stub) for stub in ("timm", "timm.models", "timm.models.layers", "fvcore", "fvcore.nn")}
    stubs["timm.models.layers"].DropPath = DropPath
    stubs["timm.models.layers"].trunc_normal_ = nn.init.trunc_normal_
    for flop_counter in ("FlopCountAnalysis", "flop_count_str", "flop_count", "parameter_count"):
        setattr(stubs["fvcore.nn"], flop_counter, None)
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules.setdefault(name, package)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for stub, module in stubs.items():
            patch.setitem(sys.modules, stub, module)
        return importlib.import_module(f"{name}.vmamba")


def _definition(path, name, **names):
    """One class or function of a script that cannot be imported because it trains when it is."""
    node = next(node for node in ast.parse(path.read_text()).body if getattr(node, "name", None) == name)
    namespace = {"torch": torch, "nn": nn, "F": F, **names}
    exec(compile(ast.Module([node], type_ignores=[]), str(path), "exec"), namespace)
    return namespace[name]


@torch.no_grad()
def compute_outputs():
    """What the released code gives for the formulas; see the module's docstring."""
    images = 2 * formula(IMAGES, seed=0)
    vssm = vmamba_module(repository("ZEROMAMBA_VMAMBA_REPO")).VSSM(**small_vssm_options()).eval()
    vssm.load_state_dict(formula_state({name: tensor.shape for name, tensor in vssm.state_dict().items()}))

    repo = repository("ZEROMAMBA_RELEASED_REPO")
    model = zeromamba_model(repo, w2v_att=torch.ones(ATTRIBUTES, 300), **small_vssm_options())
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    model.load_state_dict(formula_state(shapes))
    return {
        "logits": on_cpu(vssm, images)[:, :8].tolist(),
        "psi": zeromamba_psi(repo, model, images).tolist(),
        "shapes": {name: " ".join(map(str, shape)) for name, shape in shapes.items()},
    }


if __name__ == "__main__":
    OUTPUTS.write_text(json.dumps(compute_outputs(), indent=1) + "\n")
