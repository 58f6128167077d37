"""For packages that the released models import and a CPU does not need or cannot have: what a forward needs of them."""

import importlib
from types import ModuleType

import torch
from torch import nn
from torch.nn import functional as F


class DropPath(nn.Identity):
    def __init__(self, rate):
        super().__init__()
        self.drop_prob = rate


class PatchEmbed(nn.Module):
    """timm's, with the options that LocalVim sets: images are padded with zeros to whole patches."""

    def __init__(self, img_size, patch_size, in_chans, embed_dim, **options):
        super().__init__()
        assert options == {"strict_img_size": False, "dynamic_img_pad": True}
        self.patch_size = patch_size
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x):
        right, below = (-n % self.patch_size for n in (x.shape[3], x.shape[2]))
        return self.proj(F.pad(x, (0, right, 0, below))).flatten(2).transpose(1, 2)


def modules(mamba_repo=None):
    """Module names to stand-ins; with a clone of Vim or LocalMamba, its own mamba_ssm over CPU versions of kernels."""
    flop_counters = ("FlopCountAnalysis", "flop_count_str", "flop_count", "parameter_count")
    contents = {
        "timm": {},
        "timm.models": {},
        "timm.models.layers": {
            "DropPath": DropPath,
            "PatchEmbed": PatchEmbed,
            "trunc_normal_": nn.init.trunc_normal_,
            "lecun_normal_": nn.init.xavier_normal_,
            "to_2tuple": lambda n: n if isinstance(n, tuple) else (n, n),
        },
        "timm.models.registry": {"register_model": lambda build: build},
        "timm.models.vision_transformer": {"VisionTransformer": None, "_cfg": dict, "_load_weights": None},
        "fvcore": {},
        "fvcore.nn": dict.fromkeys(flop_counters),
    }
    if mamba_repo is not None:  # VMamba has a plain PyTorch scan of its own, which it uses where there is no kernel
        contents |= {
            "causal_conv1d": {"causal_conv1d_fn": None, "causal_conv1d_update": None},
            "causal_conv1d_cuda": {"causal_conv1d_fwd": _causal_conv1d},
            "selective_scan_cuda": {"fwd": _selective_scan},
            "mamba_ssm": {"__path__": [str(mamba_repo / "mamba-1p1p1" / "mamba_ssm")]},
            "mamba_ssm.utils": {},
            "mamba_ssm.utils.generation": {"GenerationMixin": object},
            "mamba_ssm.utils.hf": {"load_config_hf": None, "load_state_dict_hf": None},
        }
    return {name: _module(name, values) for name, values in contents.items()}


def use_reference_norm(name):
    """Their fused norm is a Triton kernel; their own reference stands beside it."""
    module = importlib.import_module(name)

    def rms_norm_fn(x, weight, bias, residual=None, prenorm=False, residual_in_fp32=False, eps=1e-6):
        return module.rms_norm_ref(x, weight, bias, residual=residual, eps=eps, prenorm=prenorm, upcast=True)

    module.rms_norm_fn = rms_norm_fn


def resize(table, size, align_corners, mode):
    """mmseg's, for which `local_vim.py` asks while it runs."""
    return F.interpolate(table, size=size, mode=mode, align_corners=align_corners)


def running():
    """What must stand in while a model runs."""
    contents = {"mmseg": {}, "mmseg.models": {}, "mmseg.models.utils": {"resize": resize}}
    return {name: _module(name, values) for name, values in contents.items()}


def _module(name, values):
    module = ModuleType(name)
    vars(module).update(values)
    return module


def _causal_conv1d(x, weight, bias, *_):
    y = F.conv1d(x, weight[:, None], bias, padding=weight.shape[1] - 1, groups=len(weight))
    return F.silu(y[..., : x.shape[2]])


def _selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """The recurrence of Mamba as its kernel computes it: y, something that only the backward reads, y * silu(z)."""
    delta = delta + delta_bias[:, None]
    delta = F.softplus(delta) if delta_softplus else delta
    B, C = (m.repeat_interleave(u.shape[1] // m.shape[1], dim=1) for m in (B, C))  # (b, d, n, l)
    delta_u, state, y = delta * u, torch.zeros(len(u), *A.shape), torch.empty_like(u)
    for t in range(u.shape[2]):
        state = torch.exp(delta[:, :, t, None] * A) * state + delta_u[:, :, t, None] * B[..., t]
        y[:, :, t] = (state * C[..., t]).sum(-1)
    y = y + D[:, None] * u
    return (y, None) if z is None else (y, None, y * F.silu(z))
