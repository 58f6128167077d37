"""What a reader of a figure may rely on, drawn from a run of a few seconds."""

import json
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from checkpoints import save_untrained
from commands import error_of
from PIL import Image
from shared import DATA
from torch import nn

import train
from zeromamba import build, figures, measuring
from zeromamba.build import load_data_sets
from zeromamba.checkpoint import load_checkpoint
from zeromamba.data import ImageDataset, normalise
from zeromamba.evaluation import seen_unseen_curve
from zeromamba.figures import run as run_module
from zeromamba.figures.__main__ import main
from zeromamba.measuring import loader, represent
from zeromamba.settings import Settings, preset

try:
    figures.require_packages()
except ModuleNotFoundError as error:
    pytest.skip(str(error), allow_module_level=True)

from sklearn.metrics import silhouette_score

from zeromamba.figures import attention, erf, gamma, style, tsne
from zeromamba.figures.attention import Attention, Panel, Row, attention_rows
from zeromamba.figures.erf import ERF, effective_receptive_field, share_of_pixels
from zeromamba.figures.gamma import Gamma, gamma_curve
from zeromamba.figures.run import load_run
from zeromamba.figures.tsne import TSNE, ImageFeatures, embed, features

FIGURES = {"attention": Attention, "tsne": TSNE, "erf": ERF, "gamma": Gamma}


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """The folder of a run on 64 x 64 pixels, whose feature map has 2 x 2 regions."""
    out = tmp_path_factory.mktemp("runs") / "figures"
    small = ("--preset", "small", "--image-size", "64", "--epochs", "2", "--batch-size", "8")
    train.main(["--dataset", str(tiny), "--out", str(out), "--workers", "0", "--device", "cpu", *small])
    return out


@pytest.fixture(scope="module")
def checkpoint(folder):
    return folder / "seed-0" / "model.safetensors"


@pytest.fixture(scope="module")
def run(checkpoint):
    return load_run(Gamma(checkpoint, device="cpu"))


@pytest.fixture(scope="module")
def drawn(checkpoint, run):
    """Every figure, before it is written."""
    return {name: command(checkpoint, device="cpu").draw(run) for name, command in FIGURES.items()}


def texts(figure):
    return " ".join(" ".join(artist.get_text() for artist in figure.findobj(lambda a: hasattr(a, "get_text"))).split())


def assert_drawn(name, checkpoint, file, *options):
    main([name, str(checkpoint), "--out", str(file), "--device", "cpu", *options])
    with Image.open(file) as picture:
        grey = np.asarray(picture.convert("L"))
    assert min(grey.shape) > 300
    assert 0.02 < np.mean(grey < 230) < 0.98, "neither blank nor one colour"


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_is_one_command_that_writes_a_picture(name, checkpoint, tmp_path, capsys):
    file = tmp_path / "new folder" / f"{name}.png"
    assert_drawn(name, checkpoint, file)
    assert str(file) in capsys.readouterr().out
    assert [path.name for path in file.parent.iterdir()] == [file.name], "nothing half-written is left"


@pytest.mark.skipif(not (DATA / "AWA2").is_dir(), reason=f"no photographs in {DATA}")
def test_each_figure_is_drawn_of_photographs(tmp_path):
    settings = replace(preset("awa2", "small"), data_root=DATA, workers=0)
    (data,) = load_data_sets([replace(settings, check_images=False)])
    checkpoint = save_untrained(tmp_path / "model.safetensors", settings, data)
    few = {"tsne": ("--per-class", "5"), "erf": ("--images", "5")}
    for name in FIGURES:
        assert_drawn(name, checkpoint, tmp_path / f"{name}.png", *few.get(name, ()))


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_figures_for_print_have_their_format_s_signature(suffix, checkpoint, tmp_path):
    file = tmp_path / f"gamma.{suffix}"
    main(["gamma", str(checkpoint), "--out", str(file), "--device", "cpu"])
    assert {"pdf": b"%PDF", "svg": b"<?xml"}[suffix] == file.read_bytes()[: 4 if suffix == "pdf" else 5]


@pytest.mark.parametrize("name", FIGURES)
def test_captions_name_the_images_and_the_protocol(name, drawn):
    text = texts(drawn[name])
    assert Settings().chosen_by in text
    assert "no test image" in text if name == "erf" else "est images" in text and "chooses nothing" in text


def of_record(run, **changes):
    """The run, as if its checkpoint said otherwise."""
    return replace(run, checkpoint=replace(run.checkpoint, record=replace(run.checkpoint.record, **changes)))


def test_a_caption_has_the_checkpoint_s_own_seed_epoch_and_protocol(run):
    described = of_record(run, seed=7, epoch=9, chosen_by="somehow").described
    assert described == (
        f"data set {run.data.name}, VMamba-Nano, variant released, 64 px, seed 7, epoch 9; protocol: somehow"
    )
    assert "epoch" not in of_record(run, epoch=0, chosen_by="somehow").described, "which released ones do not tell"


@pytest.fixture
def without_data(monkeypatch):
    """A run is its checkpoint and settings."""
    monkeypatch.setattr(run_module, "load_trained", lambda path, checkpoint, _: (checkpoint, nn.Linear(1, 1), None))


def test_a_released_checkpoint_is_measured_by_the_paper_s_protocol_on_the_data_that_are_named(without_data, tmp_path):
    settings = load_run(Gamma(tmp_path / "CUB.pth", dataset="cub", data_root=tmp_path, device="cpu")).settings
    assert (settings.protocol, settings.fixed_gamma(), settings.data_root) == ("paper", 0.3, tmp_path)


def test_a_figure_of_a_run_from_another_machine_takes_what_this_one_has(without_data, run, monkeypatch):
    far = of_record(run, settings=replace(run.settings, device="cuda:7", scan="triton")).checkpoint
    monkeypatch.setattr(run_module, "load_checkpoint", lambda path: far)
    settings = load_run(Gamma(run.checkpoint.source, device="cpu")).settings
    assert (settings.device, settings.scan, settings.data_root) == ("auto", "auto", run.settings.data_root)


def test_figures_go_beside_the_checkpoint_each_under_its_own_name(checkpoint):
    names = {name: command(checkpoint).file for name, command in FIGURES.items()}
    assert names == {name: checkpoint.with_name(f"model_{name}.png") for name in FIGURES}


def test_a_caption_is_whole_and_as_wide_as_its_figure_and_names_are_no_formulas():
    words = " ".join(f"word{k}" for k in range(60))
    with style.new_figure(3.0, words, width=2.0) as narrow:
        text = narrow.text(0, 0, style.readable("has_bill::curved+$1"))
    with style.new_figure(3.0, words, width=4.0) as wide:
        pass
    assert (text.get_text(), text.get_parse_math()) == ("has bill: curved $1", False)
    lines = narrow.get_supxlabel().splitlines()
    assert " ".join(lines) == words
    assert max(map(len, lines)) * style.CHARACTER * style.CAPTION_SIZE / 72 <= 2.0
    assert narrow.get_figheight() > wide.get_figheight() > 3.0


def test_attention_drawn_is_the_model_s_and_sums_to_one(drawn, run):
    rows = attention_rows(run, run.data.test_unseen[:2], attributes=2)
    for row, i in zip(rows, run.data.test_unseen[:2], strict=True):
        image = normalise(ImageDataset(run.data.images, i[None], 64)[0][0][None])
        with torch.inference_mode():
            M, psi = run.model.slp.attention(run.model.backbone(image).map)[0], run.model(image)[0]
        z = run.data.Z[run.data.labels[i]]
        assert row.label == run.data.class_names[run.data.labels[i]]
        assert not row.seen
        assert [panel.z for panel in row.panels] == z[z > 0].sort(descending=True).values[:2].tolist()
        for panel in row.panels:
            a = run.data.attribute_names.index(panel.attribute)
            assert panel.M.shape == (2, 2)
            np.testing.assert_allclose(panel.M, M[a], rtol=1e-5)
            assert panel.psi == pytest.approx(float(psi[a]), rel=1e-4)
    maps = [picture.get_array() for axes in drawn["attention"].axes for picture in axes.images[1:]]
    assert len(maps) > 2
    for drawn_map in maps:
        assert drawn_map.sum() / drawn_map.size == pytest.approx(1, rel=1e-5)


def test_attributes_of_the_largest_weights_are_shown_below_zero_too_and_none_of_no_weight(run):
    Z, indices = run.data.Z.clone(), run.data.test_unseen[:1]
    Z[run.data.labels[indices]] = torch.tensor([0.3, -0.9, 0.0, 0.2])
    (row,) = attention_rows(replace(run, data=replace(run.data, Z=Z)), indices, attributes=4)
    assert [panel.attribute for panel in row.panels] == ["green", "red", "large"]


@pytest.mark.parametrize("gamma", [2.0, -2.0])
def test_a_prediction_is_made_with_the_run_s_gamma(run, gamma):
    """Which subtracts more from a seen class than any probability, or adds it."""
    rows = attention_rows(of_record(run, gamma=gamma), run.data.test_unseen, attributes=1)
    classes = run.data.unseen if gamma > 0 else run.data.seen
    assert {row.predicted for row in rows} <= {run.data.class_names[c] for c in classes}


def test_what_cannot_be_shown_is_named(run, checkpoint):
    with pytest.raises(ValueError, match="'full' has no SLP, hence no attention map"):
        attention_rows(replace(run, model=nn.Linear(1, 1)), run.data.test_unseen, attributes=1)
    untested = replace(run, data=replace(run.data, test_seen=run.data.test_seen[:0]))
    for command in Attention, TSNE:
        with pytest.raises(ValueError, match=rf"'{run.data.name}' has no test image of class 0, class 1"):
            command(checkpoint, classes=("class 0", "class 1")).draw(untested)


def test_each_map_lies_over_its_image_all_on_one_scale_and_is_named():
    image, even = Image.new("RGB", (60, 40)), np.full((2, 3), 1 / 6)
    M = np.array([[0.5, 0.1, 0.1], [0.1, 0.1, 0.1]])
    seen = Row(image, "Jay", True, "Jay", (Panel("red", M, 1.5, 0.25), Panel("blue", even, -0.5, 0.75)))
    unseen = Row(image, "Emu", False, "Jay", (Panel("red", even, 1.0, 0.5),))
    figure = attention.draw([seen, unseen], "caption")
    assert [axes.get_title() for axes in figure.axes[:6]] == [
        "Jay\nseen class ✓", "red\nψ 1.50, z 0.25", "blue\nψ -0.50, z 0.75",
        "Emu\nunseen class ✗\nJay", "red\nψ 1.00, z 0.50", "",
    ]  # fmt: skip
    for axes, shown in (figure.axes[1], M), (figure.axes[2], even), (figure.axes[4], even):
        heat = axes.images[1]
        np.testing.assert_allclose(heat.get_array(), 6 * shown)
        assert heat.get_clim() == (0, pytest.approx(3))
        assert heat.get_extent() == [-0.5, 59.5, 39.5, -0.5]


@pytest.mark.parametrize(("classes", "labels"), [((), {4, 5}), (("class 0", "class 5"), {0, 5})])
def test_attention_is_drawn_of_test_images_of_unseen_classes_unless_named(
    run, checkpoint, classes, labels, monkeypatch
):
    given = []
    monkeypatch.setattr(attention, "attention_rows", lambda *a: given.extend(a[1].tolist()) or attention_rows(*a))
    Attention(checkpoint, classes=classes, per_class=9).draw(run)
    tested = torch.cat([run.data.test_seen, run.data.test_unseen]).tolist()
    assert sorted(given) == sorted(i for i in tested if int(run.data.labels[i]) in labels)


def test_the_class_named_beside_an_image_is_the_run_s_prediction(folder, run):
    """Counted over all unseen test images, it gives the U of the run's table."""
    rows = attention_rows(run, run.data.test_unseen, attributes=1)
    labels = [row.label for row in rows]
    right = [np.mean([row.predicted == row.label for row in rows if row.label == c]) for c in set(labels)]
    assert np.mean(right) == pytest.approx(result(folder)["U"])


def test_a_run_in_bf16_is_drawn_in_bf16_as_it_is_evaluated(run):
    half = replace(run, settings=replace(run.settings, precision="bf16", batch_size=1))
    indices = run.data.test_unseen[:2]
    psi, _ = represent(run.model, loader(run.data, indices, half.settings), half.settings, run.device)
    for row, i, psi_i in zip(attention_rows(half, indices, attributes=1), indices.tolist(), psi, strict=True):
        (panel,) = row.panels
        assert panel.psi == psi_i[run.data.attribute_names.index(panel.attribute)]
        assert panel.M.sum() == pytest.approx(1, abs=0.01)
        np.testing.assert_array_equal(np.asarray(row.image), np.asarray(run.data.images.load(i).resize((64, 64), 2)))


def result(folder):
    (seed,) = json.loads((folder / "results.json").read_text())["seeds"]
    return seed


def test_the_gamma_curve_passes_through_the_run_s_own_numbers(folder, drawn, run):
    reported = result(folder)
    curve, chosen = gamma_curve(run)
    assert chosen.gamma == reported["gamma"]
    assert curve.ausuc == pytest.approx(reported["ausuc"])
    lines = {line.get_label().split()[0]: line for line in drawn["gamma"].axes[0].lines}
    for name in ("U", "S", "H"):
        assert getattr(chosen, name) == pytest.approx(reported[name])
        x, y = lines[name].get_data()
        assert lines[name].get_drawstyle() == "steps-pre"
        assert y[np.searchsorted(x, chosen.gamma)] == pytest.approx(100 * reported[name])


def test_gamma_is_drawn_in_probabilities(run, monkeypatch):
    def score_split(*arguments):
        scores = measuring.score_split(*arguments)
        return replace(scores, logits=1000 * scores.logits)

    monkeypatch.setattr(gamma, "score_split", score_split)
    steps = gamma_curve(run)[0].steps
    assert len(steps) > 0
    assert np.abs(steps).max() <= 1


@pytest.mark.parametrize("own", [-0.3, 0.1, 2.0])
def test_the_gamma_of_the_run_is_on_the_curve_wherever_it_lies(own):
    rng = np.random.default_rng(0)
    p, labels = rng.dirichlet(np.ones(4), 40), np.arange(40) % 4
    curve = seen_unseen_curve(p, labels, np.array([True, True, False, False]))
    chosen = curve.at(own)
    (axes,) = gamma.draw(curve, chosen, "caption").axes
    low, high = axes.get_xlim()
    assert low < own < high
    assert max(high, 0.0) > curve.steps[-1]
    assert [line.get_xdata() for line in axes.lines if line.get_linestyle() == ":"] == [[own, own]]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [f"{name} {100 * getattr(chosen, name):.1f}" for name in ("U", "S", "H")]
    dots = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "o"]
    assert dots == [[[own, 100 * getattr(chosen, name)]] for name in ("U", "S", "H")]


def test_receptive_field_of_one_convolution_is_exactly_its_window():
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, kernel_size=3, padding=1, bias=False)
    nn.init.uniform_(convolution.weight, 0.1, 1)
    batches = [torch.rand(2, 3, 9, 11), torch.rand(1, 3, 9, 11)]
    field = effective_receptive_field(lambda x: convolution(x).permute(0, 2, 3, 1), batches)
    expected = np.zeros((9, 11))
    expected[3:6, 4:7] = convolution.weight.detach().sum(dim=(0, 1)).numpy()
    np.testing.assert_allclose(field, expected, rtol=1e-6)


def test_an_output_that_is_not_positive_or_a_pixel_that_lowers_it_contributes_nothing():
    """RepLKNet's rule: of two channels one is negative at every pixel; of the other, one weight is."""
    weight = torch.zeros(2, 3, 3, 3)
    weight[0], weight[1], weight[1, :, 0, 0] = -1, 1, -1
    field = effective_receptive_field(
        lambda x: nn.functional.conv2d(x, weight, padding=1).permute(0, 2, 3, 1), [torch.rand(1, 3, 5, 5)]
    )
    assert field[1:4, 1:4].tolist() == [[0, 3, 3], [3, 3, 3], [3, 3, 3]]


def test_a_map_that_no_pixel_moves_has_no_receptive_field():
    with pytest.raises(ValueError, match="zero or not finite"):
        effective_receptive_field(lambda x: -x.abs().permute(0, 2, 3, 1), [torch.rand(1, 3, 4, 4)])


def test_share_of_pixels_is_the_share_where_all_contribute_alike_and_one_pixel_where_one_has_all():
    even, one = np.ones((10, 10)), np.zeros((10, 10))
    one[3, 4] = 7
    for share in (0.2, 0.5, 0.99):
        assert share_of_pixels(even, share) == pytest.approx(share)
        assert share_of_pixels(one, share) == 0.01


def test_receptive_fields_are_drawn_relative_to_their_largest_value_on_one_scale():
    few, even = np.array([[1.0, 0.1], [0.01, 0.0]]), np.full((2, 2), 3.0)
    figure = erf.draw([("few", 1000 * few), ("even", even)], "caption")
    first, second, _ = figure.axes
    np.testing.assert_allclose(first.images[0].get_array(), [[0, -1], [-2, erf.LOWEST]], atol=1e-12)
    np.testing.assert_allclose(second.images[0].get_array(), 0, atol=1e-12)
    assert first.images[0].get_clim() == second.images[0].get_clim() == (pytest.approx(-1.96), 0)
    assert first.get_xlabel() == "50% of it in 25.0% of the pixels, 99% in 50.0%"


def test_receptive_fields_are_of_training_images_drawn_with_the_seed(checkpoint, run, monkeypatch):
    measured = []

    def measure(model, batches, of):
        measured.append((model, [int(i) for _, index in batches for i in index], {x.shape for x, _ in batches}))
        return np.ones((2, 2))

    monkeypatch.setattr(erf, "_measure", measure)
    for seed in (0, 1):
        figure = ERF(checkpoint, images=5, image_size=32, seed=seed, device="cpu").draw(run)
    (before, first, shapes), (after, same, _), (_, other, _), _ = measured
    assert set(first) <= set(run.data.trainval.tolist())
    assert (len(set(first)), shapes) == (5, {(1, 3, 32, 32)})
    assert first == same != other
    assert after is run.model
    torch.testing.assert_close(before.state_dict(), ERF(checkpoint, device="cpu").untrained(run).state_dict())
    assert not torch.equal(next(before.parameters()), next(after.parameters()))
    assert "mean over training images (5 of them, at 32 px); no test image" in texts(figure)
    assert figure.axes[0].get_title() == "before training (random weights)"


def test_a_receptive_field_is_that_of_images_as_in_training(run):
    indices = run.data.trainval[:2]
    images = torch.stack([ImageDataset(run.data.images, indices, 64)[j][0] for j in range(2)])
    expected = effective_receptive_field(lambda x: run.model.backbone(x).map, [normalise(images)])
    found = erf._measure(run.model, loader(run.data, indices, replace(run.settings, batch_size=1)), run)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.max())


@pytest.mark.parametrize(
    ("before", "weights", "title"),
    [("start", "released", "pretrained"), ("start", None, "random weights"), ("random", "released", "random weights")],
)
def test_what_training_is_compared_with_is_named(before, weights, title, checkpoint, run):
    began = replace(run, settings=replace(run.settings, backbone="small", weights=weights))
    assert ERF(checkpoint, before=before)._before(began) == f"before training ({title})"


def test_before_training_are_the_weights_that_the_run_began_with(checkpoint, run, tiny, tmp_path):
    """A run that learns at a rate of next to nothing ends where it began."""
    small = ("--preset", "small", "--image-size", "32", "--epochs", "1", "--lr", "1e-12", "--lr-mlp", "1e-12")
    common = ("--workers", "0", "--device", "cpu", "--seeds", "3")
    train.main(["--dataset", str(tiny), "--out", str(tmp_path), *small, *common])
    command = ERF(tmp_path / "seed-3" / "model.safetensors", device="cpu")
    still = load_run(command)
    for began, ended in zip(command.untrained(still).parameters(), still.model.parameters(), strict=True):
        torch.testing.assert_close(began, ended, atol=1e-6, rtol=1e-6)
    frozen = replace(still, settings=replace(still.settings, weights="released", freeze_backbone=True))
    at_random = replace(command, before="random").untrained(frozen)
    torch.testing.assert_close(at_random.state_dict(), command.untrained(still).state_dict())


def test_backbones_of_other_runs_are_measured_on_the_same_images_and_described(checkpoint, run, tmp_path, capsys):
    def shown(command, run):
        figure = command.draw(run)
        return figure, [axes.images[0].get_array() for axes in figure.axes[:-1]]  # the last is the colour bar

    path = save_untrained(tmp_path / "other.safetensors", replace(run.settings, backbone="vim-nano"), run.data)
    _, (_, alone) = shown(ERF(checkpoint, images=5, device="cpu"), run)
    _, (_, other_alone) = shown(ERF(path, images=5, device="cpu"), load_run(Gamma(path, device="cpu")))
    figure, (_, this, other) = shown(ERF(checkpoint, beside=(path,), images=5, device="cpu"), run)
    np.testing.assert_array_equal(this, alone)
    np.testing.assert_array_equal(other, other_alone)
    assert [axes.get_title() for axes in figure.axes[1:3]] == [
        f"{n} after training" for n in ("VMamba-Nano", "Vim-Nano")
    ]
    assert "Beside it: data set" in texts(figure)
    assert "\nVim-Nano after training: contribution" in capsys.readouterr().out


def test_a_backbone_of_another_data_set_is_not_set_beside(checkpoint, run, tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "other")
    (tmp_path / "other" / "unseen.txt").write_text("class 0\nclass 1\n")
    settings = replace(run.settings, dataset=str(tmp_path / "other"))
    (data,) = load_data_sets([settings])
    other = save_untrained(tmp_path / "model.safetensors", settings, data, run.model)
    with pytest.raises(ValueError, match=r"model.safetensors was trained on .*unseen classes"):
        ERF(checkpoint, beside=(other,), device="cpu").draw(run)


def test_tsne_leaves_out_a_kind_of_class_with_too_few_images_and_says_so(checkpoint, run, capsys):
    few = replace(run, data=replace(run.data, test_unseen=run.data.test_unseen[:3]))
    figure = TSNE(checkpoint, device="cpu").draw(few)
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["seen classes"]
    assert "note: 3 test images of unseen classes: left out, t-SNE needs 4\n" in capsys.readouterr().out


def test_tsne_is_the_same_for_the_same_seed_and_keeps_apart_what_is_apart():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, (20, 64)), rng.normal(9, 1, (20, 64))])
    points = embed(values, seed=1)
    np.testing.assert_array_equal(points, embed(values, seed=1))
    centres = points[:20].mean(0), points[20:].mean(0)
    spread = max(np.linalg.norm(half - half.mean(0), axis=1).max() for half in (points[:20], points[20:]))
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * spread


def test_tsne_draws_the_features_that_the_model_decides_by(run):
    indices = run.data.test_unseen[[3, 0, 2]]
    f = features(run, indices)
    psi, order = represent(run.model, loader(run.data, indices, run.settings), run.settings, run.device)
    assert order.tolist() == indices.tolist()
    np.testing.assert_array_equal(f.semantic, psi.double())
    images = normalise(torch.stack([ImageDataset(run.data.images, indices, 64)[j][0] for j in range(3)]))
    with torch.inference_mode():
        np.testing.assert_allclose(f.visual, run.model.backbone(images).pooled, rtol=1e-4, atol=1e-5)
    assert f.labels.tolist() == run.data.labels[indices].tolist()


def test_silhouettes_are_of_the_features_and_points_are_named_by_their_class():
    rng = np.random.default_rng(0)
    labels = np.array([5, 2] * 8)
    visual, semantic = rng.normal(size=(16, 3)) + 4 * (labels[:, None] == 5), rng.normal(size=(16, 3))
    names = tuple(f"class_{c}" for c in range(6))
    figure = tsne.draw({"unseen classes": ImageFeatures(visual, semantic, labels)}, names, 1, "caption")
    left, right = figure.axes
    assert left.get_ylabel() == "unseen classes"
    for axes, name, values in (left, "visual features g", visual), (right, "semantic features ψ", semantic):
        assert axes.get_title() == f"{name}: silhouette {silhouette_score(values, labels):z.2f}"
        points = embed(values, 1)
        for shown, c in zip(axes.collections, (2, 5), strict=True):
            np.testing.assert_array_equal(shown.get_offsets(), points[labels == c])
            assert shown.get_label() == f"class {c}"


def test_tsne_is_drawn_of_test_images_unseen_classes_first(run, checkpoint, monkeypatch):
    given = []
    monkeypatch.setattr(tsne, "features", lambda *a: given.append(a[1].tolist()) or features(*a))
    figure = TSNE(checkpoint).draw(run)
    assert [sorted(indices) for indices in given] == [run.data.test_unseen.tolist(), run.data.test_seen.tolist()]
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["unseen classes", "seen classes"]
    assert "Mean silhouettes are of the features before t-SNE" in texts(figure)


def test_which_images_of_a_class_are_drawn_depends_on_the_seed(checkpoint, run):
    few = [
        TSNE(checkpoint, classes=("class 0",), per_class=1, seed=s).pick(run.data, run.data.trainval) for s in range(9)
    ]
    assert {len(indices) for indices in few} == {1}
    assert len({int(indices) for indices in few}) > 1


def test_classes_drawn_at_random_are_the_same_for_the_same_seed(checkpoint, run):
    def picked(seed):
        return TSNE(checkpoint, count=3, per_class=1, seed=seed).pick(run.data, run.data.test_seen).tolist()

    assert picked(0) == picked(0)
    assert len({tuple(picked(seed)) for seed in range(8)}) > 1
    assert len(picked(0)) == len(set(run.data.labels[picked(0)].tolist())) == 3


def test_named_classes_are_drawn_and_no_other(checkpoint, run):
    figure = TSNE(checkpoint, classes=("class 5", "class 5")).draw(run)
    assert "class 5" in texts(figure)
    assert "class 4" not in texts(figure)
    assert len(figure.axes) == 2, "no row for seen classes, of which none is named"
    once, twice = (TSNE(checkpoint, classes=("class 5",) * n).pick(run.data, run.data.test_unseen) for n in (1, 2))
    assert torch.equal(once, twice)


def test_a_class_is_found_however_its_name_is_written(checkpoint, run):
    data = replace(run.data, class_names=("Käfer", *run.data.class_names[1:]))
    decomposed = TSNE(checkpoint, classes=(unicodedata.normalize("NFD", "Käfer"),))
    assert data.labels[decomposed.pick(data, data.trainval)].unique().tolist() == [0]


@pytest.mark.parametrize("seed", [-1, 2**32])
@pytest.mark.parametrize("figure", [TSNE, ERF])
def test_a_seed_that_no_figure_can_draw_with_is_named_before_anything_is_computed(figure, seed):
    with pytest.raises(ValueError, match=rf"^--seed is {seed}: expected 0 to 4294967295$"):
        figure(Path("model.safetensors"), seed=seed)


def test_errors_name_what_is_wrong(checkpoint, tmp_path):
    assert "nowhere.safetensors" in error_of(main, "gamma", tmp_path / "no folder" / "nowhere.safetensors")
    assert ".jpg" in error_of(main, "gamma", checkpoint, "--out", tmp_path / "figure.jpg")
    folder = tmp_path / "folder.png"
    folder.mkdir()
    assert "folder.png is a folder" in error_of(main, "gamma", checkpoint, "--out", folder)
    folder.rmdir()
    for dataset in ((), ("--dataset", "demo")):
        assert "give --dataset cub, sun or awa2" in error_of(main, "gamma", tmp_path / "CUB_bestGZSL.pth", *dataset)
    assert "red" in error_of(main, "gamma", checkpoint, "--dataset", "demo")
    assert "'no such class'" in error_of(main, "attention", checkpoint, "--classes", "no such class")
    settings = replace(load_checkpoint(checkpoint).record.settings, image_size=32)
    with pytest.raises(ValueError, match=r"on 32 x 32 pixels VMamba-Nano sees a single region"):
        Attention(checkpoint).draw(replace(load_run(Gamma(checkpoint, device="cpu")), settings=settings))
    assert "--per-class" in error_of(main, "tsne", checkpoint, "--classes", "class 0", "--per-class", "1")
    assert not list(tmp_path.iterdir())


def test_a_backbone_that_cannot_be_imported_ends_in_a_message(checkpoint, monkeypatch):
    def without_timm(*_):
        raise ImportError("DeiT and ViT come from timm")

    monkeypatch.setattr(build, "restore_model", without_timm)
    assert "timm" in error_of(main, "gamma", checkpoint)


def test_what_ends_a_figure_is_told_in_one_line(checkpoint, monkeypatch):
    for error, told in (
        (KeyboardInterrupt(), "interrupted"),
        (torch.OutOfMemoryError("too large"), "error: too large\n--device cpu uses the machine's main memory"),
    ):
        monkeypatch.setattr(run_module, "load_run", Mock(side_effect=error))
        assert error_of(main, "gamma", checkpoint) == told


def test_missing_packages_are_named_with_what_installs_them(checkpoint, monkeypatch):
    monkeypatch.setattr(figures, "find_spec", lambda name: None if name == "sklearn" else object())
    message = error_of(main, "gamma", checkpoint)
    assert "scikit-learn" in message
    assert "matplotlib" not in message
    assert "pip install -e '.[figures]'" in message
