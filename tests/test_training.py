"""Optimiser, schedule and order of images: where the defaults avoid the released code's traps, and `paper` does not."""

from dataclasses import replace

import pytest
import torch

from zeromamba import training
from zeromamba.build import build_model
from zeromamba.data import load_demo, validation_split
from zeromamba.protocol import final_split, search_split
from zeromamba.settings import PAPER_GAMMA, Settings, preset
from zeromamba.training import Fit, Split, flip_half, loader, make_optimizer, schedule

DEMO = replace(preset("demo", "paper"), workers=0)


@pytest.fixture(scope="module")
def data():
    return load_demo()


@pytest.fixture(scope="module")
def model(data):
    return build_model(DEMO, data.V)


def group_of(optimizer, parameter):
    return next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))


def test_weight_decay_spares_norms_biases_and_state_space_parameters(model):
    optimizer = make_optimizer(model, replace(Settings(), weights=None))
    for name, parameter in model.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        spared = "norm" in name or leaf in {"bias", "A_log", "D", "dt_bias"}
        assert group_of(optimizer, parameter)["weight_decay"] == (0 if spared else 1e-3), name


def test_the_paper_s_protocol_decays_everything(model):
    optimizer = make_optimizer(model, replace(Settings(), weights=None, protocol="paper"))
    assert {g["weight_decay"] for g in optimizer.param_groups} == {1e-3}


def test_only_the_mlp_of_equation_7_has_the_small_learning_rate(model):
    optimizer = make_optimizer(model, Settings())
    for name, parameter in model.named_parameters():
        assert group_of(optimizer, parameter)["lr"] == (1e-4 if name.startswith("slp.mlp.") else 1e-3), name


def test_the_step_schedule_halves_after_epochs_10_20_30_and_40():
    factor = schedule(Settings(), steps_per_epoch=7)
    rates = [factor(7 * epoch) for epoch in range(100)]  # during epoch + 1
    assert rates[:10] == [1.0] * 10
    assert rates[10:20] == [0.5] * 10
    assert rates[39:41] == [0.125, 0.0625]
    assert rates[-1] == 0.0625


def test_the_cosine_schedule_warms_up_for_an_epoch_and_ends_at_zero():
    factor = schedule(replace(Settings(), schedule="cosine", epochs=5), steps_per_epoch=4)
    rates = [factor(step) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert factor(20) == pytest.approx(0, abs=1e-12)


def order(batches):
    return torch.cat([index for _, index in batches])


def test_images_are_visited_once_an_epoch_in_an_order_of_its_own(data):
    indices = data.trainval[:100]
    first, again, other = (order(loader(data, indices, DEMO, shuffle=True, seed=s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first.sort().values, indices.sort().values)
    assert len(data.labels[first[:16]].unique()) > 1, "no batch of a single class, where the files are sorted by class"


class OrderSeenError(Exception):
    """Ends an epoch before it starts."""


@pytest.mark.parametrize("protocol", ["validation", "paper"])
def test_only_the_paper_s_protocol_keeps_the_order_of_the_file(data, model, protocol, monkeypatch, tmp_path):
    visited = []

    def record(images, indices, size):
        visited.extend(indices.tolist())
        raise OrderSeenError

    monkeypatch.setattr(training, "ImageDataset", record)
    fit = Fit(model, data, final_split(data), replace(DEMO, protocol=protocol), 0, tmp_path, torch.device("cpu"))
    with pytest.raises(OrderSeenError):
        next(fit.epochs(1))
    in_file = data.trainval.tolist()
    assert sorted(visited) == sorted(in_file)
    assert (visited == in_file) == (protocol == "paper")


def test_only_the_paper_s_protocol_divides_by_any_norm(data):
    assert build_model(DEMO, data.V).sef.eps > 0
    assert build_model(replace(DEMO, protocol="paper"), data.V).sef.eps == 0


def test_the_search_never_meets_a_test_image_nor_trains_on_a_validation_class(data):
    split = search_split(data, seed=0)
    used = torch.cat([split.train, split.evaluated])
    assert torch.isin(used, data.trainval).all()
    assert not torch.isin(data.labels[split.train], data.val_classes).any()
    assert not torch.isin(split.train, split.evaluated).any()
    assert set(split.candidates.tolist()) == set(data.seen.tolist()), "unseen classes are no candidates either"


def test_the_final_fit_trains_on_all_seen_classes_and_is_measured_on_the_test_images(data):
    split = final_split(data)
    assert torch.equal(split.train, data.trainval)
    assert set(split.evaluated.tolist()) == set(data.test_seen.tolist()) | set(data.test_unseen.tolist())


def test_validation_images_differ_by_seed(data):
    assert not torch.equal(validation_split(data, 0).val_seen, validation_split(data, 1).val_seen)


def test_local_labels_put_seen_classes_first():
    split = Split(torch.tensor([0]), torch.tensor([1]), seen=torch.tensor([5, 2]), unseen=torch.tensor([7]))
    assert split.local(torch.tensor([7, 2, 5])).tolist() == [2, 1, 0]
    assert split.candidates.tolist() == [5, 2, 7]


def test_flips_mirror_whole_images_about_half_the_time():
    torch.manual_seed(0)
    images = torch.arange(3 * 2 * 4.0).view(1, 3, 2, 4).repeat(200, 1, 1, 1)
    flipped = flip_half(images)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    same = (flipped == images).flatten(1).all(1)
    assert (mirrored ^ same).all()
    assert 60 < mirrored.sum() < 140


def test_published_gammas_serve_the_paper_s_protocol_only():
    for name, gamma in PAPER_GAMMA.items():
        assert replace(preset(name, "paper"), protocol="paper").fixed_gamma() == gamma
        assert preset(name, "paper").fixed_gamma() is None
    with pytest.raises(ValueError, match="--gamma"):
        replace(preset("demo", "paper"), protocol="paper").fixed_gamma()


def test_small_has_the_parameters_that_the_paper_states():
    """51.3M with CUB's 312 attributes (Table 4), the ImageNet classifier counted in."""
    model = build_model(replace(preset("cub", "paper"), weights=None), torch.randn(312, 300))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 51.3
