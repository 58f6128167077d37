"""Every backbone by its name: how it is built, and its released ImageNet weights."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from ..data.sources import VMAMBA
from ..kernels import Discretization, Impl
from ..weights import Released
from . import local_vim, local_vmamba, timm_vit, vim, vmamba
from .interface import Backbone, Features, ImageNetClassifier
from .local_mamba import LOCAL_VIM, LOCAL_VMAMBA_SMALL
from .local_vim import LocalVim
from .local_vmamba import LocalVMamba
from .vim import Vim
from .vmamba import VMamba

__all__ = ["REGISTRY", "Backbone", "BackboneName", "Entry", "Features", "ImageNetClassifier", "build_backbone"]

BackboneName = Literal[
    "nano",
    "tiny",
    "small",
    "base",
    "vim-small",
    "localvim-tiny",
    "localvim-small",
    "localvmamba-small",
    "deit-small",
    "deit-base",
    "vit-base",
    "vim-nano",
    "localvim-nano",
    "localvmamba-nano",
    "deit-tiny",
]


@dataclass(frozen=True)
class Entry:
    """One backbone."""

    title: str  # as the paper's tables print it
    build: Callable[..., Backbone]  # called with the keyword arguments of `build_backbone`
    drop_path: float = 0.0  # the published rate of stochastic depth at the last block
    pretrained_on: str = "ImageNet-1K"  # what its released weights have seen
    released: Released | None = None  # reads its released weights as the state of an `ImageNetClassifier`
    url: str | None = None  # where they are
    saved_as: str | None = None  # the name under which they are looked for, where it is not the end of the address
    needs: Callable[[], object] = lambda: None  # raises ImportError where a package that it needs cannot be imported

    @property
    def file(self) -> str | None:
        """The name under which its weights are looked for; None where there are none to get."""
        return self.saved_as or (self.url and self.url.rpartition("/")[-1])


def _vmamba(size: vmamba.SizeName) -> Entry:
    shape = vmamba.SIZES[size]
    build, title = partial(VMamba, **vars(shape)), f"VMamba-{size.capitalize()}"
    return Entry(title, build, shape.drop_path, released=vmamba.RELEASED, url=VMAMBA[size].origin)


def _deit(size: str, file: str) -> Entry:
    return Entry(
        f"DeiT-{size.capitalize()}",
        partial(timm_vit.build, f"deit_{size}_patch16_224"),
        drop_path=0.1,
        released=timm_vit.DEIT,
        url=f"https://dl.fbaipublicfiles.com/deit/{file}",
        needs=timm_vit.import_timm,
    )


_VIM = "https://huggingface.co/hustvl/Vim-small-midclstok/resolve/main/vim_s_midclstok_80p5acc.pth"
_LOCAL_MAMBA = "https://github.com/hunto/LocalMamba/releases/download/v1.0.0/"
# The paper does not say which ViT-Base; this one was pretrained on ImageNet-21K, then trained on 1K as all others were.
_VIT = "vit_base_patch16_224.augreg2_in21k_ft_in1k"

REGISTRY: dict[BackboneName, Entry] = {
    "nano": Entry("VMamba-Nano", partial(VMamba, **vars(vmamba.SIZES["nano"]))),
    "tiny": _vmamba("tiny"),
    "small": _vmamba("small"),
    "base": _vmamba("base"),
    "vim-small": Entry("Vim-Small", partial(Vim, 384, 24), drop_path=0.05, released=vim.RELEASED, url=_VIM),
    "localvim-tiny": Entry(
        "LocalVim-Tiny",
        partial(LocalVim, 192),
        drop_path=0.1,
        released=local_vim.RELEASED,
        url=_LOCAL_MAMBA + "local_vim_tiny.ckpt",
    ),
    # The link to its weights leads to LocalVMamba-Small's (github.com/hunto/LocalMamba/issues/43).
    "localvim-small": Entry("LocalVim-Small", partial(LocalVim, 384), drop_path=0.1, released=local_vim.RELEASED),
    "localvmamba-small": Entry(
        "LocalVMamba-Small",
        partial(LocalVMamba, (96, 192, 384, 768), (2, 2, 27, 2), LOCAL_VMAMBA_SMALL),
        drop_path=0.2,
        released=local_vmamba.RELEASED,
        url=_LOCAL_MAMBA + "local_vssm_small.ckpt",
    ),
    "deit-small": _deit("small", "deit_small_patch16_224-cd65a155.pth"),
    "deit-base": _deit("base", "deit_base_patch16_224-b5f2ef4d.pth"),
    "vit-base": Entry(
        "ViT-Base",
        partial(timm_vit.build, "vit_base_patch16_224"),
        pretrained_on="ImageNet-21K",
        released=timm_vit.VIT,
        url=f"https://huggingface.co/timm/{_VIT}/resolve/main/model.safetensors",
        saved_as=f"{_VIT}.safetensors",
        needs=timm_vit.import_timm,
    ),
    # what stands in for the ones above where an experiment is run at a reduced size: four of the same blocks
    "vim-nano": Entry("Vim-Nano", partial(Vim, 128, 4, state=4)),
    "localvim-nano": Entry("LocalVim-Nano", partial(LocalVim, 64, LOCAL_VIM[:4], state=4)),
    "localvmamba-nano": Entry(
        "LocalVMamba-Nano",
        partial(LocalVMamba, (16, 32, 64, 128), (1, 1, 1, 1), LOCAL_VMAMBA_SMALL[:4], state=4),
    ),
    "deit-tiny": _deit("tiny", "deit_tiny_patch16_224-a1311bcf.pth"),
}


def build_backbone(
    name: BackboneName,
    *,
    discretization: Discretization = "euler",
    drop_path: float | None = None,
    grad_checkpoint: bool = False,
    impl: Impl = "auto",
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
        ImportError: it needs a package that cannot be imported; the message says what to install.
    """
    if name not in REGISTRY:
        raise ValueError(f"backbone: expected one of {', '.join(REGISTRY)}, got {name!r}")
    entry = REGISTRY[name]
    return entry.build(
        discretization=discretization,
        drop_path=entry.drop_path if drop_path is None else drop_path,
        grad_checkpoint=grad_checkpoint,
        impl=impl,
    )
