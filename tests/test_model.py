"""SLP, GRL, SeF, losses and scores against the paper's equations written out index by index."""

import pytest
import torch
from torch import nn

from zeromamba.backbones import Features
from zeromamba.backbones.vmamba import VMamba
from zeromamba.grl import GRL
from zeromamba.losses import objective
from zeromamba.model import ZeroMamba
from zeromamba.sef import SeF
from zeromamba.slp import SLP

b, h, w, C, a, v = 2, 3, 5, 8, 4, 6


class MapBackbone(nn.Module):
    """Stands in for a backbone: the feature map is a linear function of the image."""

    channels = C

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(3, C)

    def forward(self, images):
        feature_map = self.proj(images.permute(0, 2, 3, 1))
        return Features(map=feature_map, pooled=feature_map.mean(dim=(1, 2)))


@pytest.fixture
def feature_map():
    torch.manual_seed(0)
    return torch.randn(b, h, w, C)


@pytest.fixture
def slp():
    torch.manual_seed(1)
    return SLP(torch.randn(a, v), C)


def unit(x):
    return x / x.norm()


def test_slp_is_equations_6_and_7(slp, feature_map):
    slp.V.data *= torch.tensor([[0.5], [1.0], [2.0], [3.0]])  # as training leaves them: no longer of unit length
    psi = torch.zeros(b, a)
    for image in range(b):
        f = [unit(feature_map[image, y, x]) for y in range(h) for x in range(w)]
        strength = torch.zeros(a)
        for i in range(a):
            v_i = unit(slp.V[i])
            M = torch.softmax(torch.stack([v_i @ slp.W1 @ f_r for f_r in f]), dim=0)
            torch.testing.assert_close(slp.attention(feature_map)[image, i].flatten(), M)
            fhat = sum(m * f_r for m, f_r in zip(M, f, strict=True))
            strength[i] = v_i @ slp.W2 @ fhat
        psi[image] = slp.mlp(strength)
    torch.testing.assert_close(slp(feature_map), psi)


def test_slp_starts_as_released():
    torch.manual_seed(0)
    V = torch.randn(40, 100)
    slp = SLP(V, 90)
    torch.testing.assert_close(slp.V.detach(), V / V.norm(dim=1, keepdim=True))
    for W in (slp.W1, slp.W2):  # 9000 numbers of N(0, 1): deviations of the mean are 0.011, of the deviation 0.007
        assert W.mean().item() == pytest.approx(0, abs=0.05)
        assert W.std().item() == pytest.approx(1, abs=0.04)


def test_attention_sums_to_one_over_the_regions_and_keeps_the_map_shape(slp, feature_map):
    M = slp.attention(feature_map)
    assert M.shape == (b, a, h, w)
    torch.testing.assert_close(M.sum(dim=(2, 3)), torch.ones(b, a))


def test_slp_does_not_depend_on_the_order_of_the_regions(slp, feature_map):
    order = torch.randperm(h * w)
    shuffled = feature_map.flatten(1, 2)[:, order].unflatten(1, (h, w))
    torch.testing.assert_close(slp(shuffled), slp(feature_map))


@pytest.mark.parametrize("head_classes", [0, 10])
def test_vmamba_and_grl_are_equation_8(head_classes):
    torch.manual_seed(0)
    backbone, grl = VMamba([8, 8], [1, 1]), GRL(8, a, head_classes)
    nn.init.normal_(backbone.norm.weight)
    feature_map, pooled = backbone(torch.randn(b, 3, 20, 33))
    normalised = nn.functional.layer_norm(feature_map, (8,), backbone.norm.weight, backbone.norm.bias)
    g = sum(normalised[:, y, x] for y in range(3) for x in range(5)) / 15
    torch.testing.assert_close(pooled, g)
    if head_classes:
        g = g @ grl.head.weight.T + grl.head.bias
    torch.testing.assert_close(grl(pooled), g @ grl.proj.weight.T)


def test_sef_adds_the_direction_of_the_local_representation():
    psi_g, psi_l = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(SeF()(psi_g, psi_l), torch.tensor([[0.6, 0.8]]))


def test_sef_without_eps_gives_nan_at_zero_as_released_and_with_it_does_not():
    zero = torch.zeros(1, 2)
    assert SeF(eps=0.0)(zero, zero).isnan().all()
    assert SeF()(zero, zero).eq(0).all()


def test_objective_is_equations_10_to_13_with_the_released_mean_over_attributes():
    torch.manual_seed(0)
    psi, Z, labels = torch.randn(5, a), torch.randn(3, a), torch.tensor([0, 2, 1, 1, 0])
    logits = psi @ Z.T
    losses = objective(psi, logits, labels, Z, lambda_sc=0.2)
    ce = -sum(torch.log_softmax(logits, 1)[i, y] for i, y in enumerate(labels)) / 5
    sc = sum((psi[i] - Z[y]).abs().mean() for i, y in enumerate(labels)) / 5
    torch.testing.assert_close(losses.ce, ce)
    torch.testing.assert_close(losses.sc, sc)
    torch.testing.assert_close(losses.total, ce + 0.2 * sc)


def make(variant, **options):
    torch.manual_seed(0)
    return ZeroMamba(MapBackbone(), torch.randn(a, v), variant, **options)


def test_variants_differ_in_scores_and_in_the_projection():
    psi, Z = torch.tensor([[3.0, 0, 0, 4]]), torch.eye(a) * 2
    torch.testing.assert_close(make("released").logits(psi, Z), torch.tensor([[6.0, 0, 0, 8]]))
    torch.testing.assert_close(make("paper").logits(psi, Z), torch.tensor([[0.6, 0, 0, 0.8]]))
    torch.testing.assert_close(make("paper", logit_scale=10.0).logits(psi, Z), torch.tensor([[6.0, 0, 0, 8]]))
    torch.testing.assert_close(make("released", logit_scale=10.0).logits(psi, Z), torch.tensor([[60.0, 0, 0, 80]]))
    assert make("released").grl.head.weight.shape == (1000, C)
    assert make("released").grl.proj.weight.shape == (a, 1000)
    assert make("paper").grl.proj.weight.shape == (a, C)
