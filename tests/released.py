"""The released backbones and ZeroMamba, to run beside ours, and numbers that they gave once.

`ZEROMAMBA_VMAMBA_REPO`, `ZEROMAMBA_VIM_REPO`, `ZEROMAMBA_LOCALMAMBA_REPO` and `ZEROMAMBA_RELEASED_REPO` name clones of
github.com/MzeroMiko/VMamba, hustvl/Vim, hunto/LocalMamba and the released ZeroMamba. `released_outputs.json` holds what
they gave for weights and images that are formulas, so that the comparison needs no clone: names and shapes of the
released state dicts, and outputs. `python tests/released.py` writes it again, with all variables set.
"""

import ast
import contextlib
import importlib
import json
import os
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import stand_ins
import torch
from torch import nn
from torch.nn import functional as F

from zeromamba.backbones.vmamba import VMamba

OUTPUTS = Path(__file__).with_name("released_outputs.json")

# A model small enough to freeze: four widths that do not double, dt ranks from 1 to 4, maps of 18x10 to 3x2 tokens.
DIMS, DEPTHS, SSM_RATIO = [16, 32, 48, 64], [1, 1, 2, 1], 2.0
IMAGES, CLASSES, ATTRIBUTES = (2, 3, 72, 40), 1000, 7

# The same of Vim and LocalMamba: every direction, windows that fit the map and windows that do not, and of LocalVim an
# image of another size than its position tables. LocalMamba's code is right on square maps only.
VIM = {"embed_dim": 32, "depth": 3, "d_state": 4, "img_size": (64, 48)}
DIRECTIONS = [["h", "v", "w2", "w7"], ["h_flip", "v_flip", "w2_flip", "w7_flip"]]
LOCALVIM = {"embed_dim": 32, "depth": 2, "directions": DIRECTIONS, "ssm_cfg": {"d_state": 4}, "img_size": 80}
LOCALVMAMBA = {"dims": [16, 24], "depths": [1, 1], "directions": DIRECTIONS, "ssm_d_state": 3}
SMALL_IMAGES = {"vim": [(64, 48)], "localvim": [(80, 80), (100, 100)], "localvmamba": [(40, 40), (56, 56)]}


def small_vmamba(**options):
    """Our side of it."""
    return VMamba(DIMS, DEPTHS, ssm_ratio=SSM_RATIO, **options)


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
        if name.endswith("dt_projs_bias") or (".dt_proj" in name and name.endswith("bias")):
            state[name] = u - 1
        elif name.endswith(("W1", "W2")):
            state[name] = 10 * u
        elif re.search(r"\.(Ds|D|D_.)$|freqs_cos$", name) or (len(shape) == 1 and name.endswith("weight")):
            state[name] = 1 + 0.3 * u
        elif len(shape) == 1 or re.search(r"\.A_(b_)?log|freqs_sin$", name):
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


def frozen_backbone(name):
    """Of "vim", "localvim" or "localvmamba": shapes of the small released model, its class scores by image size."""
    stored = json.loads(OUTPUTS.read_text())[name]
    shapes = {key: [int(n) for n in shape.split()] for key, shape in stored["shapes"].items()}
    return shapes, dict(zip(SMALL_IMAGES[name], map(torch.tensor, stored["logits"]), strict=True))


def relative_difference(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


def repository(variable):
    """A clone named by an environment variable; the calling test is skipped where there is none."""
    if variable not in os.environ:
        pytest.skip(f"{variable} names no clone of the released code to compare with")
    return Path(os.environ[variable])


def vmamba_module(repo):
    return _import(repo / "classification" / "models", "released_vmamba", "vmamba")


def vim_model(repo, **options):
    """The released Vim, as `vim_small_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2`."""
    module = _import(repo / "vim", "released_vim", "models_mamba", mamba_repo=repo, norm="layer_norm")
    midclstok_div2 = {"final_pool_type": "mean", "if_divide_out": True, "use_middle_cls_token": True}
    options = {"patch_size": 16, "rms_norm": True, "fused_add_norm": True, "residual_in_fp32": True} | options
    return module.VisionMamba(**options, **midclstok_div2, bimamba_type="v2").eval()


def localvim_model(repo, **options):
    """The released LocalVim, as `local_vim_tiny`."""
    options = {"patch_size": 16, "rms_norm": True, "fused_add_norm": True, "residual_in_fp32": True} | options
    positions = {"if_abs_pos_embed": True, "if_rope": True, "if_rope_residual": True}
    with contextlib.redirect_stdout(None):  # it prints the shape of its tables
        model = _localmamba(repo, "local_vim").VisionMamba(**options, **positions, final_pool_type="mean").eval()
    for p in model.parameters():  # the A_log of a layer's directions lie in one storage until moved to a GPU
        p.data = p.data.clone()
    return model


def localvmamba_model(repo, **options):
    return _localmamba(repo, "local_vmamba").VSSM(**options).eval()


def localmamba_directions(repo, name):
    """The directions of each layer of `local_vim_tiny` or `local_vssm_small`, under their names."""
    module = _localmamba(repo, "local_vim" if "vim" in name else "local_vmamba")
    with contextlib.redirect_stdout(None):
        model = getattr(module, name)()
    return [m.choices for m in model.modules() if hasattr(m, "choices")]


def _localmamba(repo, module):
    folder = repo / "classification" / "lib" / "models"
    return _import(folder, "released_localmamba", module, mamba_repo=repo, norm="layernorm")


def zeromamba_model(repo, w2v_att, attributes=ATTRIBUTES, **vssm):
    """The released ZeroMamba as its train.py puts it together, around a VSSM of any size.

    Its SLP knows two feature widths only; W1 and W2 are replaced by ones of the VSSM's.
    """
    backbone = _import(repo / "VisionMambaModels" / "VMamba" / "models", "released_zeromamba", "vmamba").VSSM(**vssm)
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
    """VMamba's scan enters `torch.cuda.device(...)` whatever the device; all else runs on a CPU."""
    no_device = mock.patch("torch.cuda.device", return_value=contextlib.nullcontext())
    with no_device, mock.patch.dict(sys.modules, stand_ins.running()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
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


def _import(folder, name, module, mamba_repo=None, norm=None):
    """Import a module of a folder as one of a package `name`, with what it wants besides torch."""
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules.setdefault(name, package)
    if f"{name}.{module}" in sys.modules:
        return sys.modules[f"{name}.{module}"]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for stand_in, content in stand_ins.modules(mamba_repo).items():
            patch.setitem(sys.modules, stand_in, content)
        patch.syspath_prepend(folder)  # Vim imports its neighbour `rope`
        if norm is not None:
            stand_ins.use_reference_norm(f"mamba_ssm.ops.triton.{norm}")
        imported = importlib.import_module(f"{name}.{module}")
        for other in [key for key in sys.modules if key.startswith("mamba_ssm.") or key == "rope"]:
            del sys.modules[other]  # Vim and LocalMamba each have a mamba_ssm of their own
        return imported


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
    return compute_backbones() | {
        "logits": on_cpu(vssm, images)[:, :8].tolist(),
        "psi": zeromamba_psi(repo, model, images).tolist(),
        "shapes": {name: " ".join(map(str, shape)) for name, shape in shapes.items()},
    }


@torch.no_grad()
def compute_backbones():
    """The same of the small Vim, LocalVim and LocalVMamba, with 8 classes."""
    localmamba = repository("ZEROMAMBA_LOCALMAMBA_REPO")
    models = {
        "vim": vim_model(repository("ZEROMAMBA_VIM_REPO"), num_classes=8, **VIM),
        "localvim": localvim_model(localmamba, num_classes=8, **LOCALVIM),
        "localvmamba": localvmamba_model(localmamba, num_classes=8, **LOCALVMAMBA),
    }
    outputs = {}
    for name, model in models.items():
        shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
        model.load_state_dict(formula_state(shapes))
        logits = [on_cpu(model, 2 * formula((2, 3, *size), seed=0)).tolist() for size in SMALL_IMAGES[name]]
        outputs[name] = {"logits": logits, "shapes": {key: " ".join(map(str, s)) for key, s in shapes.items()}}
    return outputs


if __name__ == "__main__":
    OUTPUTS.write_text(json.dumps(compute_outputs(), indent=1) + "\n")
