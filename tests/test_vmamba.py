"""VMamba: agreement with the released model, image sizes, stochastic depth, initial values."""

import math

import pytest
import released
import torch
from torch.utils.flop_counter import FlopCounterMode

from zeromamba.backbones import ImageNetClassifier, build_backbone
from zeromamba.backbones.layers import DropPath
from zeromamba.backbones.vmamba import RELEASED, SIZES, VMamba
from zeromamba.weights import load_strict


def released_pair(size):
    """The released model and ours with the same random weights."""
    build = {"tiny": "vmamba_tiny_s1l8", "small": "vmamba_small_s2l15", "base": "vmamba_base_s2l15"}[size]
    theirs = getattr(released.vmamba_module(released.repository("ZEROMAMBA_VMAMBA_REPO")), build)().eval()
    state = released.formula_state({name: tensor.shape for name, tensor in theirs.state_dict().items()})
    theirs.load_state_dict(state)
    ours = ImageNetClassifier(build_backbone(size)).eval()
    load_strict(ours, RELEASED.rename(state, source=size), source=size)
    return theirs, ours


@pytest.mark.parametrize("image_size", [(224, 224), (160, 96)])
@pytest.mark.parametrize("size", ["tiny", "small", "base"])
@torch.no_grad()
def test_logits_are_those_of_the_released_code_run_beside_ours(size, image_size):
    theirs, ours = released_pair(size)
    images = 2 * released.formula((1, 3, *image_size), seed=0)
    difference = released.relative_difference(ours(images), released.on_cpu(theirs, images))
    print(f"{size} {image_size}: relative difference {difference:.1e}")
    assert difference < 1e-4


def test_gradients_are_those_of_the_released_code_run_beside_ours():
    module = released.vmamba_module(released.repository("ZEROMAMBA_VMAMBA_REPO"))
    theirs = module.VSSM(**released.small_vssm_options()).eval()
    state = released.formula_state(released.frozen().vmamba)
    theirs.load_state_dict(state)
    ours = ImageNetClassifier(released.small_vmamba()).eval()
    load_strict(ours, RELEASED.rename(state, "formula"), "formula")

    images, weight = released.frozen().images, released.formula((2, released.CLASSES), seed=1)
    (ours(images) * weight).sum().backward()
    (released.on_cpu(theirs, images) * weight).sum().backward()
    expected = RELEASED.rename({name: p.grad for name, p in theirs.named_parameters()}, "gradients")
    differences = {name: released.relative_difference(p.grad, expected[name]) for name, p in ours.named_parameters()}
    assert max(differences.values()) < 1e-4, differences


@torch.no_grad()
def test_logits_are_the_numbers_that_the_released_code_gave():
    frozen = released.frozen()
    model = ImageNetClassifier(released.small_vmamba()).eval()
    load_strict(model, RELEASED.rename(released.formula_state(frozen.vmamba), "formula"), "formula")
    assert released.relative_difference(model(frozen.images)[:, :8], frozen.logits) < 1e-4

    model.backbone = released.small_vmamba(discretization="zoh").eval()
    load_strict(model, RELEASED.rename(released.formula_state(frozen.vmamba), "formula"), "formula")
    difference = released.relative_difference(model(frozen.images)[:, :8], frozen.logits)
    assert difference > 1e-3, "the numbers do not depend on the scan: exact ZOH must differ from dt B"


def test_frozen_numbers_are_what_the_released_code_gives():
    outputs = released.compute_outputs()
    frozen = released.frozen()
    for name in ("logits", "psi"):
        assert released.relative_difference(torch.tensor(outputs[name]), getattr(frozen, name)) < 1e-5


@pytest.mark.parametrize(("size", "parameters"), [("tiny", 30_249_064), ("small", 50_147_752), ("base", 88_557_800)])
def test_parameters_are_as_many_as_published(size, parameters):
    """30M, 50M and 89M with the 1000-way head (VMamba's README); exactly, as its code counts them."""
    with torch.device("meta"):
        model = ImageNetClassifier(build_backbone(size))
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(("size", "published"), [("tiny", 4.9e9), ("small", 8.7e9), ("base", 15.4e9)])
@torch.no_grad()
def test_operations_are_as_many_as_published(size, published):
    """Of VMamba's README, which counts a product and its sum as one. The scan is 4 to 5 percent of all."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        ImageNetClassifier(build_backbone(size))(torch.empty(1, 3, 224, 224))
    assert counter.get_total_flops() / 2 == pytest.approx(published, rel=0.02)


def test_nano_has_fewer_than_two_million_parameters_with_a_1000_way_head():
    assert sum(p.numel() for p in ImageNetClassifier(build_backbone("nano")).parameters()) < 2_000_000


@pytest.mark.parametrize("image_size", [(1, 1), (1, 70), (31, 33), (64, 48), (97, 130)])
@torch.no_grad()
def test_any_image_size_gives_a_map_of_a_32nd_rounded_up(image_size):
    feature_map = build_backbone("nano").eval()(torch.randn(2, 3, *image_size)).map
    height, width = (math.ceil(n / 32) for n in image_size)
    assert feature_map.shape == (2, height, width, SIZES["nano"].dims[-1])
    assert feature_map.isfinite().all()


@pytest.mark.parametrize("shape", [(2, 3, 0, 32), (2, 32, 32, 3), (3, 32, 32), (1, 1, 32, 32)])
def test_what_is_no_batch_of_colour_images_is_refused(shape):
    with pytest.raises(ValueError, match=r"images: expected \(b, 3, H, W\)"):
        build_backbone("nano")(torch.zeros(shape))


def test_unknown_size_and_impossible_drop_path_are_refused():
    with pytest.raises(ValueError, match=r"nano, tiny, small, base.*, got 'huge'"):
        build_backbone("huge")
    with pytest.raises(ValueError, match=r"drop_path: expected a rate in \[0, 1\), got 1"):
        build_backbone("nano", drop_path=1.0)


def test_drop_path_leaves_out_whole_images_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 3)
    y = DropPath(0.25).train()(x)
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert (y == y[:, :1, :1]).all()
    assert y.mean().item() == pytest.approx(1, abs=0.03)
    assert DropPath(0.25).eval()(x) is x


def test_drop_path_rates_rise_linearly_and_default_to_the_published():
    rates = [m.rate for m in released.small_vmamba(drop_path=0.4).modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    with torch.device("meta"):
        last = {s: [m.rate for m in build_backbone(s).modules() if isinstance(m, DropPath)][-1] for s in SIZES}
    assert last == pytest.approx({"nano": 0.0, "tiny": 0.2, "small": 0.3, "base": 0.6})


def test_initial_values_are_those_of_the_method():
    torch.manual_seed(0)
    ss2d = VMamba([64], [1], ssm_ratio=2.0, state=3).stages[0].blocks[0].ss2d
    k, d, r = 4, 128, 4
    assert ss2d.dt_weight.shape == (k, d, r)
    assert ss2d.dt_weight.abs().max() <= r**-0.5
    torch.testing.assert_close(ss2d.A_log.exp(), torch.tensor([1.0, 2.0, 3.0]).expand(k, d, 3))
    assert ss2d.A_log.dtype == torch.float32
    assert (ss2d.D == 1).all()
    dt = torch.nn.functional.softplus(ss2d.dt_bias)
    assert dt.min() >= 1e-3 * (1 - 1e-3)
    assert dt.max() <= 0.1 * (1 + 1e-3)
    assert dt.log().mean().item() == pytest.approx(math.log(1e-2), abs=0.2)
    assert ss2d.in_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
