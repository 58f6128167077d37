"""Table 5's compositions: each is the parts of ZeroMamba that it keeps, trains, and comes back from its checkpoint."""

from dataclasses import replace
from typing import get_args

import pytest
import torch

from zeromamba.backbones import Features
from zeromamba.build import build_model, restore_model
from zeromamba.checkpoint import Checkpoint, Record
from zeromamba.losses import objective
from zeromamba.settings import Components, preset

a, v = 5, 7
COMPONENTS = get_args(Components)


def make(components, **changes):
    torch.manual_seed(0)
    return build_model(replace(preset("demo", "small"), components=components, **changes), torch.randn(a, v))


@pytest.fixture
def features():
    torch.manual_seed(1)
    return Features(torch.randn(2, 3, 2, 256), torch.randn(2, 256))


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_each_composition_is_the_parts_that_it_keeps(features, variant):
    baseline, without_slp, without_grl = (make(c, variant=variant) for c in ("baseline", "without-slp", "without-grl"))
    pooled = features.pooled if variant == "released" else features.map.flatten(1, 2).mean(1)
    torch.testing.assert_close(baseline.represent(features), pooled @ baseline.mlp.weight.T)
    torch.testing.assert_close(without_slp.represent(features), without_slp.grl(features.pooled))
    psi_l = torch.nn.functional.normalize(without_grl.slp(features.map), dim=-1)
    torch.testing.assert_close(without_grl.represent(features), pooled @ without_grl.mlp.weight.T + psi_l)
    assert not any("slp" in name for model in (baseline, without_slp) for name in model.state_dict())
    assert not any("grl" in name for model in (baseline, without_grl) for name in model.state_dict())


@pytest.mark.parametrize("components", COMPONENTS)
@pytest.mark.parametrize("variant", ["released", "paper"])
def test_all_score_alike_and_what_they_add_to_the_backbone_learns(components, variant):
    model, full = make(components, variant=variant), make("full", variant=variant)
    Z = torch.nn.functional.normalize(torch.rand(3, a), dim=1)
    psi = model(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(model.logits(psi, Z), full.logits(psi, Z))
    objective(psi, model.logits(psi, Z), torch.tensor([0, 2]), Z, 1.0).total.backward()
    own = {name: p for name, p in model.named_parameters() if not name.startswith("backbone.")}
    assert own
    assert [name for name, p in own.items() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("components", COMPONENTS)
def test_a_checkpoint_of_any_composition_restores_it(components, tmp_path):
    model = make(components)
    settings = replace(preset("demo", "small"), components=components)
    record = Record(settings, 0, 1, 0.1, "", "demo", ("x",) * 3, (0,), ("y",) * a, {})
    checkpoint = Checkpoint(record, model.state_dict(), torch.rand(3, a), tmp_path)
    again = restore_model(checkpoint, settings)
    images = torch.randn(1, 3, 64, 64)
    assert not any(module.training for module in again.modules())
    torch.testing.assert_close(again(images), model.eval()(images), rtol=0, atol=0)
