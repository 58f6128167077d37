"""The adapter for timm's transformers: with a small module in timm's place that has its interface (timm 1.0), and,
where timm can be imported, beside timm itself."""

import sys
from types import ModuleType

import pytest
import released
import torch
from torch import nn

from zeromamba.backbones import REGISTRY, ImageNetClassifier, build_backbone, timm_vit
from zeromamba.data.pixels import IMAGENET_MEAN, IMAGENET_STD
from zeromamba.weights import load_strict, save_safetensors


class VisionTransformer(nn.Module):
    """Of timm's: what it is made with, names of parameters, tokens with a class token first, the methods used."""

    num_features, num_prefix_tokens = 8, 1

    def __init__(self, mean, std, **options):
        super().__init__()
        self.options = options
        self.pretrained_cfg = {"mean": mean, "std": std}
        self.cls_token = nn.Parameter(torch.full((1, 1, 8), 7.0))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 8))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, 8, 16, 16)
        self.patch_embed.dynamic_feat_size = lambda size: (-(-size[0] // 16), -(-size[1] // 16))
        self.norm = nn.LayerNorm(8)

    def set_grad_checkpointing(self, enable=True):
        self.checkpointing = enable

    def forward_features(self, images):
        self.seen = images
        pad = [n for size in (images.shape[3], images.shape[2]) for n in (0, -size % 16)]
        patches = self.patch_embed.proj(nn.functional.pad(images, pad)).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1)

    def forward_head(self, tokens, pre_logits=False):
        assert pre_logits
        return tokens[:, 0]


@pytest.fixture
def timm(monkeypatch):
    def create_model(name, **options):
        half = (0.5, 0.5, 0.5)
        normalisation = (half, half) if name.startswith("vit") else (IMAGENET_MEAN, IMAGENET_STD)
        return VisionTransformer(*normalisation, name=name, **options)

    module = ModuleType("timm")
    module.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", module)


def test_map_and_pooled_feature_are_the_patches_and_the_class_token(timm):
    backbone = build_backbone("deit-small", drop_path=0.1, grad_checkpoint=True)
    images = torch.randn(2, 3, 32, 50)
    features = backbone(images)
    assert features.map.shape == (2, 2, 4, 8)
    assert (features.pooled == 7).all()
    expected = backbone.model.patch_embed.proj(images)[:, :, 1, 2]
    torch.testing.assert_close(features.map[:, 1, 2], expected)
    assert backbone.channels == 8
    assert backbone.model.checkpointing
    assert backbone.model.options == {
        "name": "deit_small_patch16_224",
        "pretrained": False,
        "num_classes": 0,
        "drop_path_rate": 0.1,
        "dynamic_img_size": True,
        "dynamic_img_pad": True,
    }


def test_images_are_normalised_as_the_weights_were_trained(timm):
    pixels = torch.rand(2, 3, 32, 32)
    images = (pixels - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    vit, deit = build_backbone("vit-base"), build_backbone("deit-base")
    vit(images), deit(images)
    torch.testing.assert_close(vit.model.seen, (pixels - 0.5) / 0.5)
    torch.testing.assert_close(deit.model.seen, images)


@pytest.mark.parametrize("name", ["deit-base", "vit-base"])
def test_released_weights_are_read_strictly(timm, tmp_path, name):
    classifier = ImageNetClassifier(build_backbone(name), classes=10)
    state = {
        key.removeprefix("backbone.model."): torch.randn_like(tensor) for key, tensor in classifier.state_dict().items()
    }
    if name == "deit-base":
        path, released = tmp_path / "deit.pth", timm_vit.DEIT
        torch.save({"model": state}, path)
    else:
        path, released = tmp_path / "vit.safetensors", timm_vit.VIT
        save_safetensors(state, path)
    load_strict(classifier, released.load(path), path)
    torch.testing.assert_close(classifier.backbone.model.pos_embed.data, state["pos_embed"])
    torch.testing.assert_close(classifier.head.weight.data, state["head.weight"])
    with pytest.raises(ValueError, match="no place for: dist_token"):
        released.rename(state | {"dist_token": torch.ones(1)}, path)
    del state["cls_token"]
    with pytest.raises(ValueError, match=r"missing: backbone\.model\.cls_token"):
        load_strict(classifier, released.rename(state, path), path)


def test_without_timm_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"DeiT and ViT come from timm, .* pip install -e '\.\[vit\]'"):
        build_backbone("deit-small")


def test_a_timm_that_breaks_while_it_is_imported_says_why(monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(timm_vit, "import_module", broken)
    with pytest.raises(ImportError, match=r"RuntimeError: operator torchvision::nms does not exist\)"):
        build_backbone("vit-base")


def test_a_transformer_has_no_scan_to_discretise(timm):
    with pytest.raises(ValueError, match="deit_small_patch16_224 is a transformer"):
        build_backbone("deit-small", discretization="zoh")


@pytest.mark.parametrize(
    ("name", "parameters"), [("deit-small", 22_050_664), ("deit-base", 86_567_656), ("vit-base", 86_567_656)]
)
@pytest.mark.parametrize("image_size", [(224, 224), (160, 96)])
@torch.no_grad()
def test_class_scores_are_those_of_timm_run_beside_ours(name, parameters, image_size):
    """At another size than 224 theirs is built for it, and takes the weights as timm does when it fine-tunes."""
    try:
        ours = ImageNetClassifier(build_backbone(name)).eval()
    except ImportError as error:
        pytest.skip(str(error))
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    assert sum(p.numel() for p in ours.parameters()) == parameters
    architecture = {"deit-small": "deit_small_patch16_224", "deit-base": "deit_base_patch16_224"}
    theirs = timm.create_model(architecture.get(name, "vit_base_patch16_224"), img_size=image_size).eval()
    shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    state = released.formula_state(shapes | {"pos_embed": (1, 1 + 14 * 14, ours.backbone.channels)})
    theirs.load_state_dict(checkpoint_filter_fn(dict(state), theirs))
    load_strict(ours, REGISTRY[name].released.rename(state, name), name)

    images = 2 * released.formula((1, 3, *image_size), seed=0)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = images * deviation + mean
    mean, deviation = (torch.tensor(theirs.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    expected = theirs((pixels - mean) / deviation)
    difference = released.relative_difference(ours(images), expected)
    print(f"{name} {image_size}: relative difference {difference:.1e}")
    assert difference < 1e-4
    pooled = theirs.forward_head(theirs.forward_features((pixels - mean) / deviation), pre_logits=True)
    assert released.relative_difference(ours.backbone(images).pooled, pooled) < 1e-4
