"""What a reader of a figure may rely on, drawn from a run of a few seconds."""

import json
import shutil
import unicodedata
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from checkpoints import save_untrained
from PIL import Image
from shared import DATA
from torch import nn

import train
from zeromamba import build, figures
from zeromamba.build import load_data_sets
from zeromamba.checkpoint import load_checkpoint
from zeromamba.data import ImageDataset, normalise
from zeromamba.figures import run as run_module
from zeromamba.figures.__main__ import main
from zeromamba.measuring import loader, represent
from zeromamba.settings import Settings, preset

try:
    figures.require_packages()
except ModuleNotFoundError as error:
    pytest.skip(str(error), allow_module_level=True)

from zeromamba.figures.attention import Attention, attention_rows
from zeromamba.figures.erf import ERF, effective_receptive_field, share_of_pixels
from zeromamba.figures.gamma import Gamma, gamma_curve
from zeromamba.figures.run import load_run
from zeromamba.figures.tsne import TSNE, embed, features

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


def test_a_checkpoint_chosen_on_test_images_says_so(checkpoint, run):
    record = replace(run.checkpoint.record, chosen_by=Settings(protocol="paper").chosen_by)
    chosen_on_test = replace(run, checkpoint=replace(run.checkpoint, record=record))
    assert "best epochs on test images" in texts(Gamma(checkpoint).draw(chosen_on_test))


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


def error_of(*arguments):
    with pytest.raises(SystemExit) as end:
        main([*map(str, arguments)])
    assert isinstance(end.value.code, str), "a clear error, not a usage text"
    return end.value.code


def test_errors_name_what_is_wrong(checkpoint, tmp_path):
    assert "nowhere.safetensors" in error_of("gamma", tmp_path / "no folder" / "nowhere.safetensors")
    assert ".jpg" in error_of("gamma", checkpoint, "--out", tmp_path / "figure.jpg")
    folder = tmp_path / "folder.png"
    folder.mkdir()
    assert "folder.png is a folder" in error_of("gamma", checkpoint, "--out", folder)
    folder.rmdir()
    for dataset in ((), ("--dataset", "demo")):
        assert "give --dataset cub, sun or awa2" in error_of("gamma", tmp_path / "CUB_bestGZSL.pth", *dataset)
    assert "red" in error_of("gamma", checkpoint, "--dataset", "demo")
    assert "'no such class'" in error_of("attention", checkpoint, "--classes", "no such class")
    settings = replace(load_checkpoint(checkpoint).record.settings, image_size=32)
    with pytest.raises(ValueError, match=r"on 32 x 32 pixels VMamba-Nano sees a single region"):
        Attention(checkpoint).draw(replace(load_run(Gamma(checkpoint, device="cpu")), settings=settings))
    assert "--per-class" in error_of("tsne", checkpoint, "--classes", "class 0", "--per-class", "1")
    assert not list(tmp_path.iterdir())


def test_a_backbone_that_cannot_be_imported_ends_in_a_message(checkpoint, monkeypatch):
    def without_timm(*_):
        raise ImportError("DeiT and ViT come from timm")

    monkeypatch.setattr(build, "restore_model", without_timm)
    assert "timm" in error_of("gamma", checkpoint)


def test_what_ends_a_figure_is_told_in_one_line(checkpoint, monkeypatch):
    for error, told in (
        (KeyboardInterrupt(), "interrupted"),
        (torch.OutOfMemoryError("too large"), "error: too large\n--device cpu takes the machine's own memory"),
    ):
        monkeypatch.setattr(run_module, "load_run", Mock(side_effect=error))
        assert error_of("gamma", checkpoint) == told


def test_missing_packages_are_named_with_what_installs_them(checkpoint, monkeypatch):
    monkeypatch.setattr(figures, "find_spec", lambda name: None if name == "sklearn" else object())
    message = error_of("gamma", checkpoint)
    assert "scikit-learn" in message
    assert "matplotlib" not in message
    assert "pip install -e '.[figures]'" in message
