"""DeiT (Touvron et al. 2021) and ViT (Dosovitskiy et al. 2020), from timm: the optional extra `vit`."""

from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..data.pixels import IMAGENET_MEAN, IMAGENET_STD
from ..kernels import Discretization, Impl
from ..messages import how_to_install
from ..weights import Released
from .interface import Backbone, Features, check_images


class TimmViT(Backbone):
    """A plain vision transformer of timm behind the interface of a backbone.

    Args:
        model: timm's `VisionTransformer` without a classifier, for images of any size. Images come normalised by
            ImageNet's mean and deviation, as the data part gives them, and are turned to those of its
            `pretrained_cfg`: ViT's are 0.5 and 0.5.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model
        self.channels = model.num_features
        mean, deviation = (torch.tensor(model.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
        self.register_buffer("scale", torch.tensor(IMAGENET_STD)[:, None, None] / deviation, persistent=False)
        self.register_buffer("shift", (torch.tensor(IMAGENET_MEAN)[:, None, None] - mean) / deviation, persistent=False)

    def forward(self, images: Tensor) -> Features:
        """Features of images (b, 3, H, W): patches (b, h, w, C) and class token after the final norm.

        Raises:
            ValueError: images are not of that shape.
        """
        check_images(images)
        tokens = self.model.forward_features(images * self.scale + self.shift)
        h, w = self.model.patch_embed.dynamic_feat_size(tuple(images.shape[2:]))
        patches = tokens[:, self.model.num_prefix_tokens :].unflatten(1, (h, w))
        return Features(map=patches, pooled=self.model.forward_head(tokens, pre_logits=True))


def build(name: str, *, drop_path: float, discretization: Discretization, grad_checkpoint: bool, impl: Impl) -> TimmViT:
    """A transformer under timm's name for it. `impl` names a scan, which it does not have.

    Position embeddings are interpolated, and images padded to whole patches, by timm.

    Raises:
        ImportError: timm cannot be imported; the message says why and what to install.
        ValueError: a discretization is asked for other than the default.
    """
    if discretization != "euler":
        raise ValueError(f"--discretization {discretization}: {name} is a transformer, it has no scan to discretise")
    model = import_timm().create_model(
        name,
        pretrained=False,
        num_classes=0,
        drop_path_rate=drop_path,
        dynamic_img_size=True,
        dynamic_img_pad=True,
    )
    model.set_grad_checkpointing(grad_checkpoint)
    return TimmViT(model)


def import_timm() -> ModuleType:
    """timm, or an ImportError that says why not and what to install."""
    try:
        return import_module("timm")
    except Exception as error:  # beside a torchvision made for another torch, timm's import raises RuntimeError
        raise ImportError(
            f"DeiT and ViT come from timm, which cannot be imported here ({type(error).__name__}: {error}). "
            f"Install it with {how_to_install('vit')}, and a torchvision that belongs to this torch"
        ) from error


# Released name -> ours, in an `ImageNetClassifier`. DeiT's files and timm's own have the same names.
KEYS = {
    "cls_token": "backbone.model.cls_token",
    "pos_embed": "backbone.model.pos_embed",
    "patch_embed.proj.{p}": "backbone.model.patch_embed.proj.{p}",
    "blocks.{i}.norm{j}.{p}": "backbone.model.blocks.{i}.norm{j}.{p}",
    "blocks.{i}.attn.qkv.{p}": "backbone.model.blocks.{i}.attn.qkv.{p}",
    "blocks.{i}.attn.proj.{p}": "backbone.model.blocks.{i}.attn.proj.{p}",
    "blocks.{i}.mlp.fc{j}.{p}": "backbone.model.blocks.{i}.mlp.fc{j}.{p}",
    "norm.{p}": "backbone.model.norm.{p}",
    "head.{p}": "head.{p}",
}

DEIT = Released("DeiT", KEYS, under="model")
VIT = Released("ViT", KEYS)
