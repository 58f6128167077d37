"""What an epoch does, and where the defaults avoid the released code's traps while `--protocol paper` does not."""

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import released
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, MultiStepLR

from zeromamba import training
from zeromamba.backbones import Features
from zeromamba.backbones.layers import DropPath
from zeromamba.backbones.ss2d import SS2D
from zeromamba.build import build_model
from zeromamba.checkpoint import RELEASED
from zeromamba.data import normalise
from zeromamba.losses import objective
from zeromamba.measuring import Split, loader, represent, score_split
from zeromamba.model import ZeroMamba
from zeromamba.protocol import final_split, search_split
from zeromamba.settings import PAPER_GAMMA, Settings, preset
from zeromamba.training import Fit, flip_half, make_optimizer, schedule
from zeromamba.weights import load_strict

CPU = torch.device("cpu")
DEMO = replace(preset("demo", "paper"), workers=0)


@pytest.fixture(scope="module")
def model(demo):
    return build_model(DEMO, demo.V)


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


def test_steps_of_the_paper_s_protocol_are_those_of_the_released_code_run_beside_ours():
    """Eleven epochs of one step, as its train.py takes them, each on images and labels of its own."""
    repo = released.repository("ZEROMAMBA_RELEASED_REPO")
    settings = replace(preset("sun", "paper"), protocol="paper")
    theirs = released.zeromamba_model(repo, torch.ones(released.ATTRIBUTES, 300), **released.small_vssm_options())
    theirs.load_state_dict(released.formula_state({name: p.shape for name, p in theirs.state_dict().items()}))
    ours = ZeroMamba(released.small_vmamba(), torch.ones(released.ATTRIBUTES, 300), sef_eps=settings.rules.sef_eps)
    load_strict(ours, RELEASED.rename(theirs.state_dict(), "released"), "released")
    rates = {"VisionMamba": 1e-3, "clf_head": 1e-3, "clf_head2": 1e-4}
    groups = [{"params": theirs[part].parameters(), "lr": lr} for part, lr in rates.items()]
    released_sgd = torch.optim.SGD(groups, momentum=0.9, weight_decay=0.001)
    sgd = make_optimizer(ours, settings)
    schedules = MultiStepLR(released_sgd, [10, 20, 30, 40], gamma=0.5), LambdaLR(sgd, schedule(settings, 1))
    Z = F.normalize(released.formula((5, released.ATTRIBUTES), seed=1).abs())
    for epoch in range(11):
        images, labels = 2 * released.formula(released.IMAGES, seed=epoch), torch.tensor([epoch % 5, 2])
        psi = released.zeromamba_psi(repo, theirs, images)
        loss = F.cross_entropy(psi @ Z.T, labels) + 0.2 * F.l1_loss(psi, Z[labels])
        psi = ours(images)
        for total, optimizer in (
            (loss, released_sgd),
            (objective(psi, ours.logits(psi, Z), labels, Z, settings.lambda_sc).total, sgd),
        ):
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        for after_epoch in schedules:
            after_epoch.step()
    for name, parameter in RELEASED.rename(theirs.state_dict(), "released").items():
        torch.testing.assert_close(ours.state_dict()[name], parameter, rtol=1e-5, atol=2e-6, msg=name)


def test_adamw_moves_by_the_rate_and_decays_apart_from_the_gradient(demo):
    model = patches(demo)
    optimizer = make_optimizer(model, replace(Settings(), optimizer="adamw", weight_decay=0.1))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.full_like(p, 7.0)
    optimizer.step()
    for name, p in model.named_parameters():
        lr, decay = 1e-4 if name.startswith("slp.mlp.") else 1e-3, 0 if name.endswith("bias") else 0.1
        torch.testing.assert_close(p.detach(), (1 - lr * decay) * before[name] - lr, rtol=0, atol=1e-6)


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


def test_images_are_visited_once_an_epoch_in_an_order_of_its_own(demo):
    indices = demo.trainval[:100]
    first, again, other = (order(loader(demo, indices, DEMO, shuffle=True, seed=s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first.sort().values, indices.sort().values)
    assert len(demo.labels[first[:16]].unique()) > 1, "no batch of a single class, where the files are sorted by class"


class Patches(nn.Module):
    """Stands in for a backbone: quarters of the image, and which modes it was called in."""

    channels = 8

    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, self.channels, 32, 32)
        self.modes = set()

    def forward(self, images):
        self.modes.add(self.training)
        feature_map = self.proj(images).permute(0, 2, 3, 1)
        return Features(map=feature_map, pooled=feature_map.mean(dim=(1, 2)))


def patches(demo):
    torch.manual_seed(0)
    return ZeroMamba(Patches(), demo.V)


def train_an_epoch(model, demo, settings, folder):
    """Of 20 images."""
    split = replace(final_split(demo), train=demo.trainval[:20])
    next(Fit(model, demo, split, settings, 0, folder, CPU).epochs(1))


def test_a_fit_is_sgd_on_the_objective_over_seen_classes(demo, monkeypatch, tmp_path):
    """Three epochs, step by step as the equations read: (10) to (13), momentum, decay, the halved rates."""
    monkeypatch.setattr(training, "MILESTONES", (1, 2))
    monkeypatch.setattr(training, "flip_half", lambda images: images.flip(-1))  # all of them, rather than at random
    split = replace(final_split(demo), train=demo.trainval[torch.arange(0, len(demo.trainval), 20)])
    settings = replace(Settings(), dataset="cub", protocol="paper", weights=None, image_size=64, workers=0)
    settings = replace(settings, epochs=3, lr=2e-3, lr_mlp=1e-3, lambda_sc=0.7)
    assert 2 * settings.batch_size < len(split.train)
    assert len(split.train) % settings.batch_size
    model, expected = patches(demo), patches(demo)
    records = [*Fit(model, demo, split, settings, 4, tmp_path, CPU).epochs(3)]

    images = normalise(
        torch.stack([image[0] for image, _ in loader(demo, split.train, replace(settings, batch_size=1))])
    )
    labels, Z = split.local(demo.labels[split.train]), demo.Z[split.seen]
    momenta = {name: torch.zeros_like(p) for name, p in expected.named_parameters()}
    for epoch in (1, 2, 3):
        sums = torch.zeros(3)
        for batch in torch.arange(len(images)).split(settings.batch_size):
            psi = expected(images[batch].flip(-1))
            L_CE = -torch.log_softmax(psi @ Z.T, dim=1)[torch.arange(len(batch)), labels[batch]].mean()
            L_SC = (psi - Z[labels[batch]]).abs().mean()
            expected.zero_grad()
            (L_CE + 0.7 * L_SC).backward()
            sums += len(batch) * torch.stack([L_CE + 0.7 * L_SC, L_CE, L_SC]).detach()
            for name, p in expected.named_parameters():
                momenta[name] = 0.9 * momenta[name] + p.grad + 1e-3 * p.detach()
                p.data -= (1e-3 if "slp.mlp" in name else 2e-3) / 2 ** (epoch - 1) * momenta[name]
        reported = [records[epoch - 1][name] for name in ("loss", "ce", "sc")]
        assert reported == pytest.approx((sums / len(images)).tolist(), rel=1e-4), "means over images, not over batches"
    start = dict(patches(demo).named_parameters())
    for name, p in model.named_parameters():
        moved = (p - start[name]).norm()
        assert moved > 0, name
        assert (p - expected.get_parameter(name)).norm() < 1e-3 * moved, name


@pytest.mark.parametrize(("optimizer", "schedule"), [("sgd", "step"), ("adamw", "cosine")])
def test_an_interrupted_fit_goes_on_to_the_same_bits(optimizer, schedule, demo, monkeypatch, tmp_path):
    monkeypatch.setattr(training, "MILESTONES", (1, 2))
    split = replace(final_split(demo), train=demo.trainval[::40])
    settings = replace(DEMO, optimizer=optimizer, schedule=schedule, epochs=4)

    def begin(folder):
        (tmp_path / folder).mkdir(exist_ok=True)
        return Fit(patches(demo), demo, split, settings, 3, tmp_path / folder, CPU)

    whole, interrupted = begin("whole"), begin("interrupted")
    records = [*whole.epochs(4)]
    for record in interrupted.epochs(4):
        if record["epoch"] == 3:
            break  # before it is saved
    torch.rand(5)
    goes_on = begin("interrupted")
    assert [record["epoch"] for record in goes_on.history] == [1, 2]
    assert [record["epoch"] for record in goes_on.epochs(4)] == [3, 4]
    assert [record["loss"] for record in goes_on.history] == [record["loss"] for record in records]
    again = goes_on.model.state_dict()
    assert [name for name, p in whole.model.state_dict().items() if not torch.equal(p, again[name])] == []


def test_stochastic_depth_acts_in_training_and_not_in_evaluation(demo, tmp_path):
    model = patches(demo).eval()  # as the epoch before left it, when it was measured
    train_an_epoch(model, demo, DEMO, tmp_path)
    assert model.backbone.modes == {True}
    model.backbone.modes.clear()
    represent(model, loader(demo, demo.trainval[:20], DEMO), DEMO, CPU)
    assert model.backbone.modes == {False}


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bf16", torch.bfloat16)])
def test_bf16_is_the_precision_of_every_forward_and_of_nothing_else(precision, dtype, demo, monkeypatch, tmp_path):
    model, settings = patches(demo), replace(DEMO, precision=precision)
    forwards, scored, objective = set(), set(), training.objective

    def watched(psi, logits, *rest):
        scored.update({psi.dtype, logits.dtype})
        return objective(psi, logits, *rest)

    monkeypatch.setattr(training, "objective", watched)
    model.backbone.proj.register_forward_hook(lambda module, _, out: forwards.add((module.training, out.dtype)))
    train_an_epoch(model, demo, settings, tmp_path)
    scores = score_split(model, demo, replace(final_split(demo), evaluated=torch.tensor([0, 1])), settings, CPU)
    assert forwards == {(True, dtype), (False, dtype)}
    assert scored == {p.dtype for p in model.parameters()} == {torch.float32}
    assert scores.logits.dtype == np.float64, "gamma may be all but 1"


def test_a_frozen_backbone_keeps_its_weights_and_has_no_stochastic_depth(demo, tmp_path):
    model = patches(demo)
    before = {name: p.clone() for name, p in model.named_parameters()}
    settings = replace(DEMO, freeze_backbone=True, weights="released", weight_decay=0.1)
    train_an_epoch(model, demo, settings, tmp_path)
    assert model.backbone.modes == {False}
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == name.startswith("backbone."), name
    with pytest.raises(ValueError, match="--freeze-backbone needs --weights"):
        replace(settings, weights=None)


def test_a_fit_learns_by_the_scores_that_it_is_measured_by(demo, monkeypatch, tmp_path):
    model = ZeroMamba(Patches(), demo.V, "paper", logit_scale=10.0)
    watched = Mock(side_effect=training.objective)
    monkeypatch.setattr(training, "objective", watched)
    train_an_epoch(model, demo, DEMO, tmp_path)
    psi, logits, _, Z, _ = watched.call_args.args
    torch.testing.assert_close(logits, model.logits(psi, Z))


def test_a_loss_that_is_no_number_ends_the_fit_before_anything_is_saved(demo, tmp_path):
    model = patches(demo)
    model.slp.V.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"the loss is nan in epoch 1 .* begin a new run with a lower --lr"):
        train_an_epoch(model, demo, DEMO, tmp_path)
    assert not any(tmp_path.iterdir())


def test_class_scores_that_are_not_finite_are_no_measurement(demo):
    model = patches(demo)
    model.slp.V.data.fill_(torch.nan)
    split = replace(final_split(demo), evaluated=demo.test_seen[:2])
    with pytest.raises(FloatingPointError, match="begin a new run with a lower --lr"):
        score_split(model, demo, split, DEMO, CPU)


@pytest.mark.parametrize(
    ("protocol", "dataset", "kept"),
    [("validation", "cub", False), ("paper", "cub", True), ("paper", "demo", False)],
)
def test_every_epoch_has_draws_of_its_own_and_only_the_paper_s_protocol_keeps_the_order_of_a_published_file(
    demo, protocol, dataset, kept, monkeypatch, tmp_path
):
    orders, draws = [], []

    def watched_loader(*args, **kwargs):
        batches = loader(*args, **kwargs)
        orders.append(order(batches).tolist())
        return batches

    def draw(images):
        draws.append(torch.rand(4).tolist())  # from the generator that flips and drop path draw from
        return images

    monkeypatch.setattr(training, "loader", watched_loader)
    monkeypatch.setattr(training, "flip_half", draw)
    split = replace(final_split(demo), train=demo.trainval[::40])
    settings = replace(DEMO, protocol=protocol, dataset=dataset, batch_size=len(split.train))
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        fit = Fit(patches(demo), demo, split, settings, seed, tmp_path / str(seed), CPU)
        for _ in fit.epochs(2):
            pass
    in_file = split.train.tolist()
    assert all(sorted(order) == sorted(in_file) for order in orders)
    assert [order == in_file for order in orders] == [kept] * 4
    assert len(set(map(tuple, orders))) == (1 if kept else 4), "no epoch of a seed is another's"
    assert len(set(map(tuple, draws))) == 4


def test_a_model_is_built_with_what_the_settings_give(demo):
    given = {"drop_path": 0.25, "discretization": "zoh", "scan": "torch", "grad_checkpoint": True}
    model = build_model(replace(DEMO, **given), demo.V)
    assert [m.rate for m in model.modules() if isinstance(m, DropPath)][-1] == 0.25
    scans = [m.scan.keywords for m in model.modules() if isinstance(m, SS2D)]
    assert scans == [{"discretization": "zoh", "impl": "torch"}] * len(scans)
    assert all(stage.grad_checkpoint for stage in model.backbone.stages)
    assert model.logit_scale == DEMO.logit_scale == 10


@pytest.mark.parametrize("components", ["full", "without-grl"])
def test_only_the_paper_s_protocol_divides_by_any_norm(components, demo):
    assert build_model(replace(DEMO, components=components), demo.V).sef.eps > 0
    assert build_model(replace(DEMO, components=components, protocol="paper"), demo.V).sef.eps == 0


def test_the_search_never_meets_a_test_image_nor_trains_on_a_validation_class(demo):
    split = search_split(demo, seed=0)
    used = torch.cat([split.train, split.evaluated])
    assert torch.isin(used, demo.trainval).all()
    assert not torch.isin(demo.labels[split.train], demo.val_classes).any()
    assert not torch.isin(split.train, split.evaluated).any()
    assert set(split.candidates.tolist()) == set(demo.seen.tolist()), "unseen classes are no candidates either"
    assert set(split.evaluated.tolist()) != set(search_split(demo, seed=1).evaluated.tolist())


def test_the_final_fit_trains_on_all_seen_classes_and_is_measured_on_the_test_images(demo):
    split = final_split(demo)
    assert torch.equal(split.train, demo.trainval)
    assert set(split.evaluated.tolist()) == set(demo.test_seen.tolist()) | set(demo.test_unseen.tolist())


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
    assert PAPER_GAMMA == {"cub": 0.3, "sun": 0.35, "awa2": 0.98}
    for name, gamma in PAPER_GAMMA.items():
        assert replace(preset(name, "paper"), protocol="paper").fixed_gamma() == gamma
        assert preset(name, "paper").fixed_gamma() is None
    with pytest.raises(ValueError, match="--gamma"):
        replace(preset("demo", "paper"), protocol="paper").fixed_gamma()


@pytest.mark.parametrize("changes", [{"variant": "paper"}, {"logit_scale": 10.0}])
def test_published_gammas_are_refused_to_class_scores_that_they_do_not_belong_to(changes):
    """A softmax over cosines of 150 classes is below 0.05: less 0.3, no seen class would ever be named."""
    settings = replace(preset("cub", "paper"), protocol="paper", **changes)
    with pytest.raises(ValueError, match=r"belong to --variant released with --logit-scale 1.*Give --gamma"):
        settings.fixed_gamma()
    assert replace(settings, gamma=0.001).fixed_gamma() == 0.001


def test_small_has_the_parameters_that_the_paper_states():
    """51.3M with CUB's 312 attributes (Table 4), the ImageNet classifier counted in."""
    model = build_model(replace(preset("cub", "paper"), weights=None), torch.randn(312, 300))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 51.3
